"""database: the connection to the catalogue: SQLite beside the project's files, or PostgreSQL by its URL.

Several processes may use one catalogue. A write runs as one short transaction that can be repeated: on SQLite
it takes the write lock at its start (a read that turns into a write could fail half-way), on PostgreSQL the
rows it changes are locked.
"""

from __future__ import annotations

import contextlib
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.orm import Session

from .schema import Base, Counter
from .upgrade import upgrade

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

BUSY_TIMEOUT_S = 20.0
"""How long SQLite waits for another process's write; ours take milliseconds."""
WRITE_PATIENCE_S = 40.0
"""How long a write is tried again when the database is busy, restarting, or chose it to end a deadlock."""
BATCH = 500
"""Ids in one statement; PostgreSQL takes 65,535 parameters, SQLite fewer or more."""
_DRIVERS = {"sqlite", "postgresql"}
# SQLSTATE: 40 rolled back (deadlock, serialization), 57P the server restarts, 08 connection, 55P03 lock.
_PASSING_STATES = ("40", "57P", "08", "55P03")
_PASSING_WORDS = ("database is locked", "database table is locked", "database is busy")


class Database:
    """One catalogue. Thread-safe.

    Attributes:
        repairs: Sentences on what opening it had to set aside.
    """

    def __init__(self, url: str) -> None:
        parsed = _parsed(url)
        if parsed.get_backend_name() not in _DRIVERS:
            raise ValueError(
                f"The database {parsed.render_as_string()} is of the kind {parsed.get_backend_name()!r}; "
                "allowed are postgresql://user@host/name, or nothing for a file in the workspace."
            )
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.repairs: list[str] = []
        # SQLite has one writer at a time, and those that wait look again now and then: the threads of this
        # process queue up here instead, and each is next when its turn comes.
        self._turn = threading.Lock()
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self.repairs += _set_aside_if_broken(Path(parsed.database))
        self._engine = _engine(parsed)
        self._writer = self._engine.execution_options(writes=True)
        try:
            upgrade(self._writer)
        except OperationalError as error:
            self.close()
            why = str(error.orig).strip().splitlines()[0]
            raise ValueError(
                f"The catalogue's database {parsed.render_as_string()} cannot be used ({why}). Start it, "
                "correct --conf database, or leave that out to use a file in the workspace."
            ) from error
        except BaseException:
            self.close()
            raise

    @classmethod
    def in_file(cls, path: Path) -> Database:
        """The catalogue in a SQLite file, made if it is not there."""
        return cls(f"sqlite:///{path}")

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the catalogue; what it changes is not kept."""
        with Session(self._engine) as session:
            yield session

    def write(self, work: Callable[[Session], Result]) -> Result:
        """Do `work` in one transaction and commit; repeated from its start when the database was busy.

        Args:
            work: May run several times, each time on a fresh session; whatever it does outside the database
                must bear that. It must not call `write`.
        """
        deadline = time.monotonic() + WRITE_PATIENCE_S
        pause_s = 0.01
        while True:
            turn = self._turn if self.is_sqlite else contextlib.nullcontext()
            try:
                with turn, Session(self._writer, expire_on_commit=False) as session, session.begin():
                    return work(session)
            except (OperationalError, DBAPIError) as error:
                if not _passes(error) or time.monotonic() > deadline:
                    raise
            time.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, 1.0)

    def close(self) -> None:
        """Close the connections; they open again when they are needed."""
        self._engine.dispose()


def next_number(session: Session, name: str) -> int:
    """The next value of a counter; until the transaction ends, nobody else gets one of the same counter."""
    found = session.scalar(
        update(Counter)
        .where(Counter.name == name)
        .values(value=Counter.value + 1)
        .returning(Counter.value)
        .execution_options(synchronize_session=False)
    )
    if found is None:
        insert_new(session, Counter, [{"name": name, "value": 0}])
        return next_number(session, name)
    return int(found)


def number(session: Session, name: str) -> int:
    """The present value of a counter; 0 before the first."""
    return int(session.scalar(select(Counter.value).where(Counter.name == name)) or 0)


def raise_number(session: Session, name: str, least: int) -> None:
    """See to it that the next value of a counter is greater than `least`."""
    insert_new(session, Counter, [{"name": name, "value": 0}])
    session.execute(
        update(Counter)
        .where(Counter.name == name, Counter.value < least)
        .values(value=least)
        .execution_options(synchronize_session=False)
    )


def upsert(session: Session, table: type[Base], rows: list[dict[str, Any]], keys: list[str]) -> None:
    """Insert rows, all with the same columns, or replace those with the same `keys`."""
    if not rows:
        return
    statement = _insert(session)(table)
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    session.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), rows)


def insert_new(session: Session, table: type[Base], rows: list[dict[str, Any]]) -> None:
    """Insert rows, all with the same columns; those that would break a uniqueness are left out."""
    if rows:
        session.execute(_insert(session)(table).on_conflict_do_nothing(), rows)


def _insert(session: Session) -> Any:
    return sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError:
        raise ValueError(
            "--conf database is not a URL; allowed is postgresql://user@host/name, or nothing for a file in "
            "the workspace."
        ) from None


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        arguments = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
        engine = create_engine(url, connect_args=arguments, pool_size=8, max_overflow=40)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if find_spec("psycopg") is None:
        raise ValueError(
            "A PostgreSQL database needs its driver; install it with: pip install 'ugmcl-assist[postgresql]'."
        )
    # pre_ping: the database may have restarted since the connection was last used.
    # 100 connections, its default, are enough for four servers.
    return create_engine(url, pool_size=5, max_overflow=15, pool_pre_ping=True)


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so, not where the driver guesses
    for pragma in (
        # Readers and the one writer do not wait for each other. Where the file system cannot do it, SQLite
        # keeps its older mode, in which they do.
        "journal_mode=WAL",
        "synchronous=FULL",  # an acknowledged label outlives a power cut
        "foreign_keys=ON",
        "cache_size=-32000",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _passes(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed when it is tried again."""
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_PASSING_STATES)
    return any(word in str(error.orig) for word in _PASSING_WORDS)


def _set_aside_if_broken(path: Path) -> list[str]:
    """Rename a damaged SQLite file, so that the server starts; files and records tell its content again."""
    if not path.exists() or _is_sound(path):
        return []
    suffix = f".corrupt-{time.strftime('%Y%m%d-%H%M%S')}"
    kept = path.with_name(path.name + suffix)
    for ending in ("", "-wal", "-shm"):
        file = path.with_name(path.name + ending)
        if file.exists():
            file.replace(kept.with_name(kept.name + ending))
    sentence = (
        f"The catalogue {path.name} was damaged. It was kept as {kept.name}, and scans, labels and their "
        "history were read anew from their files and records."
    )
    logger.error(sentence)
    return [sentence]


def _is_sound(path: Path) -> bool:
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)
        try:
            [found] = connection.execute("PRAGMA quick_check(1)").fetchone()
            return bool(found == "ok")
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        # "unable to open", "locked": in the way of reading, not damage.
        logger.warning("The catalogue could not be checked (%s).", error)
        return True
    except sqlite3.DatabaseError:
        return False
