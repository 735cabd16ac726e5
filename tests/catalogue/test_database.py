"""The database itself: its schema, its transactions, and what happens when it is busy, new, or broken."""

from __future__ import annotations

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from lib.catalogue import facts
from lib.catalogue.database import Database, next_number, number
from lib.catalogue.schema import Base
from lib.catalogue.upgrade import HEAD
from lib.workspace import Workspace

DESCENDING = {"ix_cases_by_rank", "ix_cases_by_lease_and_rank", "ix_jobs_next"}
"""Alembic cannot compare these indexes; that they are there is asked of the database itself."""


def test_the_migrations_lead_to_the_schema_of_the_models(database: Database) -> None:
    with database._engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == HEAD
        options = {"include_object": lambda _object, name, *_rest: name not in DESCENDING}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
        tables = inspect(connection)
        for table in Base.metadata.tables.values():
            made = {index["name"] for index in tables.get_indexes(table.name)}
            assert {index.name for index in table.indexes} <= made, table.name


def test_processes_that_start_at_once_migrate_once(new_url: str) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            Database(new_url).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_catalogue_of_a_newer_version_is_refused_with_what_to_do(database: Database) -> None:
    with database._writer.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(RuntimeError, match=r"'9999'.*newer version of this program; this one knows 0001,"):
        Database(database._engine.url.render_as_string(hide_password=False))


def test_another_kind_of_database_is_refused_naming_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="postgresql://user@host/name, or nothing"):
        Database("mysql://host/name")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("heart", "--conf database is not a URL; allowed is postgresql://user@host/name"),
        (
            "postgresql://ann:secret@127.0.0.1:1/heart",
            r"ann:\*\*\*@127.0.0.1:1/heart cannot be used .* Start it",
        ),
    ],
)
def test_a_database_that_cannot_be_used_is_a_sentence_without_the_password(url: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        Database(url)
    assert "secret" not in str(refused.value)


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    def fail(session: object) -> None:
        facts.put(session, "project", {"name": "half"})  # type: ignore[arg-type]
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        database.write(fail)
    with database.read() as session:
        assert facts.get(session, "project") == {}


def test_a_counter_gives_no_number_twice(database: Database) -> None:
    taken: list[int] = []

    def take() -> None:
        for _ in range(10):
            taken.append(database.write(lambda session: next_number(session, "x")))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 41))
    with database.read() as session:
        assert number(session, "x") == 40


@pytest.mark.parametrize("damage", [b"this is no database" * 500, b""], ids=["junk", "empty"])
def test_a_damaged_file_is_kept_aside_and_a_new_catalogue_made(project: Workspace, damage: bytes) -> None:
    project.database.write(lambda session: facts.put(session, "project", {"name": "x"}))
    project.database.close()
    for ending in ("-wal", "-shm"):
        project.catalogue_file.with_name(f"catalogue.db{ending}").unlink(missing_ok=True)
    project.catalogue_file.write_bytes(damage)
    again = Database.in_file(project.catalogue_file)
    with again.read() as session:
        assert facts.get(session, "project") == {}
    kept = list(project.root.glob("catalogue.db.corrupt-*"))
    if damage:
        assert [path.read_bytes() for path in kept] == [damage]
        assert "was damaged" in again.repairs[0]
        assert kept[0].name in again.repairs[0]
    again.close()
