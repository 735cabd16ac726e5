"""upgrade: bring a catalogue to this program's schema, by Alembic's migrations, once however many start."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

HEAD = "0004"
"""The newest migration in `migrations/versions`; a test compares the two."""
_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 7_314_220_041
"""PostgreSQL's advisory lock of this program's migrations; any number that nobody else uses."""


def upgrade(engine: Engine) -> None:
    """Run the missing migrations in one transaction.

    Raises:
        RuntimeError: If a newer version of this program has made the catalogue.
    """
    with engine.connect() as connection:
        if _revision(connection) == HEAD:
            return
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        found = _revision(connection)  # another process may have been faster
        if found != HEAD:
            _migrate(connection, found)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(text("SELECT version_num FROM alembic_version"))


def _migrate(connection: Connection, found: str | None) -> None:
    from alembic import command  # takes long to import, and a start seldom needs it
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise RuntimeError(
            f"The catalogue has the schema {found!r}, made by a newer version of this program; this "
            f"one knows {', '.join(sorted(known))}. Start the newer version, or give another workspace or "
            "database."
        )
    command.upgrade(config, "head")
