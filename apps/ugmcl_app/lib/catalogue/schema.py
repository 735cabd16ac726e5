"""schema: the tables of the catalogue as typed models; `migrations/` holds the steps that lead there.

Times are seconds since 1970, UTC. Nothing here is specific to SQLite or PostgreSQL.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Ids are ordered byte by byte in both databases; PostgreSQL's default would be that of a language.
Name = Text().with_variant(Text(collation="C"), "postgresql")
# SQLite counts rows up by itself in an INTEGER key only.
RowId = BigInteger().with_variant(Integer, "sqlite")

PRESENT, SET_ASIDE, GONE = "present", "set_aside", "gone"
"""States of a case: served; its file is unusable; it has no file."""
ACTIVE, ABSENT, REPLACED, REMOVED = "active", "absent", "replaced", "removed"
"""States of a label: in effect; its file (or its scan) is not there for now; superseded; removed on
purpose."""
READING = "reading"
"""State of a label that one of several readers of a case gave, before they were compared."""
UNRANKED = -1.0
"""`Case.rank_score` before any model has scored the case: after every score in [0, 1]."""


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: JSON, float: Float(53)}  # noqa: RUF012 - SQLAlchemy's own form


class Fact(Base):
    """One named value of the project: its name, its description, what was imported."""

    __tablename__ = "facts"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[dict[str, Any]]


class Counter(Base):
    """A number that only grows; taking the next one makes writers of the same kind wait for each other."""

    __tablename__ = "counters"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


class FolderFile(Base):
    """What reading a file of the studies folder found; the file is read again when it changes."""

    __tablename__ = "folder_files"
    name: Mapped[str] = mapped_column(Name, primary_key=True)
    """Relative to the folder."""
    kind: Mapped[str] = mapped_column(String(16))
    """`image`, or the label's tag."""
    case_id: Mapped[str | None] = mapped_column(Name, index=True)
    """None for a name that no case can have."""
    size: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    depth: Mapped[int]
    """0 not opened yet, 1 header and size read, 2 every voxel read."""
    finding: Mapped[str | None] = mapped_column(Text)
    """Why the content cannot be used; None as far as it was read."""
    reason: Mapped[str | None] = mapped_column(Text)
    """Why the file is set aside: its content, its name, or another file; None: it is in use."""
    context: Mapped[str] = mapped_column(Text)
    """What else the finding depends on: of a label, its image's signature and the project's classes."""
    sha256: Mapped[str] = mapped_column(String(64))
    """Of a label file's bytes."""
    __table_args__ = (
        Index(
            "ix_folder_files_set_aside",
            "name",
            sqlite_where=text("reason IS NOT NULL"),
            postgresql_where=text("reason IS NOT NULL"),
        ),
        Index("ix_folder_files_kind_depth", "kind", "depth", "name"),
    )


class PacsSeries(Base):
    """A series that a PACS has or had, and what fetching it gave."""

    __tablename__ = "pacs_series"
    uid: Mapped[str] = mapped_column(Name, primary_key=True)
    """SeriesInstanceUID; of an image series also the id of its case."""
    study_uid: Mapped[str] = mapped_column(Name, index=True)
    modality: Mapped[str] = mapped_column(String(16))
    instances: Mapped[int]
    """How many the PACS says it has; 0 where it does not say."""
    listed: Mapped[bool]
    """Whether the PACS lists it now."""
    made_of: Mapped[int]
    """`instances` when it was last read; -1: not yet, and it is read again when the two differ."""
    size: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    """Signature of the volume made of an image series, the same each time it is made; 0: none yet."""
    reason: Mapped[str | None] = mapped_column(Text)
    """Why a segmentation is not taken as a label; None: it is, or is not one."""


class Case(Base):
    """A scan of the project, under the id that is its file name without extension."""

    __tablename__ = "cases"
    id: Mapped[str] = mapped_column(Name, primary_key=True)
    file: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    info: Mapped[dict[str, Any]]
    """What MONAI Label calls the image's info."""
    added_at: Mapped[float]
    labeled: Mapped[bool]
    """Whether a final label is in effect."""
    rank_score: Mapped[float]
    """The newest score; `UNRANKED` before the first."""
    priority: Mapped[int]
    """Set by hand; higher is offered earlier."""
    assigned_to: Mapped[str | None] = mapped_column(Text)
    readers_wanted: Mapped[int]
    """How many readers must label the case."""
    leased_at: Mapped[float]
    """When the case was last given to anyone; 0: never."""
    __table_args__ = (
        Index("ix_cases_by_rank", "state", "labeled", text("priority DESC"), text("rank_score DESC"), "id"),
        Index("ix_cases_by_id", "state", "labeled", "id"),
        Index("ix_cases_by_lease", "state", "labeled", "leased_at", "id"),
        Index(
            "ix_cases_by_lease_and_rank",
            "state",
            "labeled",
            "leased_at",
            text("priority DESC"),
            text("rank_score DESC"),
            "id",
        ),
        Index(
            "ix_cases_assigned",
            "assigned_to",
            sqlite_where=text("assigned_to IS NOT NULL"),
            postgresql_where=text("assigned_to IS NOT NULL"),
        ),
    )


class Label(Base):
    """One version of a label. Rows are never deleted: together they are the history."""

    __tablename__ = "labels"
    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    uid: Mapped[str] = mapped_column(String(32), unique=True)
    """Given before the first byte is written, so that a label is not entered twice."""
    case_id: Mapped[str] = mapped_column(Name, ForeignKey("cases.id"))
    tag: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    revision: Mapped[int] = mapped_column(BigInteger, index=True)
    """The counter `labels` when this row last changed."""
    sha256: Mapped[str] = mapped_column(String(64))
    """Of the file's bytes; empty where an import did not say."""
    extension: Mapped[str] = mapped_column(String(16))
    source: Mapped[str] = mapped_column(String(16))
    """`submitted`, `found` in the folder, or `imported`."""
    reader: Mapped[str] = mapped_column(Text)
    """Who gave it; empty: nobody said."""
    tool: Mapped[str] = mapped_column(Text)
    model_version: Mapped[str] = mapped_column(Text)
    """The model whose proposal it started from; empty: none, or unknown."""
    comment: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float]
    ended_at: Mapped[float | None]
    info: Mapped[dict[str, Any]]
    """What MONAI Label calls the label's info."""
    __table_args__ = (
        Index("ix_labels_history", "case_id", "tag", "id"),
        Index(
            "uq_labels_current",
            "case_id",
            "tag",
            unique=True,
            sqlite_where=text("state IN ('active', 'absent')"),
            postgresql_where=text("state IN ('active', 'absent')"),
        ),
        Index("ix_labels_tag_state", "tag", "state"),
    )


class CaseScore(Base):
    """How unsure one model version is of one case."""

    __tablename__ = "scores"
    case_id: Mapped[str] = mapped_column(Name, primary_key=True)
    model_version: Mapped[str] = mapped_column(Text, primary_key=True)
    score: Mapped[float]
    scan: Mapped[str] = mapped_column(Text)
    """The `pool.scan_version` of the scan that was scored."""
    scored_at: Mapped[float] = mapped_column(Float(53), index=True)


class CaseFeatures(Base):
    """What the newest model that scored a case sees in it."""

    __tablename__ = "features"
    case_id: Mapped[str] = mapped_column(Name, primary_key=True)
    model_version: Mapped[str] = mapped_column(Text, index=True)
    scan: Mapped[str] = mapped_column(Text)
    """The `pool.scan_version` of the scan."""
    vector: Mapped[bytes] = mapped_column(LargeBinary)
    """Little-endian float32."""


class BatchPlace(Base):
    """A case chosen for a diverse batch of the model version that last chose one."""

    __tablename__ = "batch_places"
    case_id: Mapped[str] = mapped_column(Name, primary_key=True)
    model_version: Mapped[str] = mapped_column(Text)
    place: Mapped[int] = mapped_column(unique=True)
    """In the order in which the cases were chosen."""


class SplitRole(Base):
    """Whether a labeled case trains or validates, decided once."""

    __tablename__ = "split_roles"
    case_id: Mapped[str] = mapped_column(Name, primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    position: Mapped[int] = mapped_column(unique=True)
    """1 for the first case that got a role."""


class UncertaintyMap(Base):
    """The kept map of a case, and what made it."""

    __tablename__ = "uncertainty_maps"
    case_id: Mapped[str] = mapped_column(Name, primary_key=True)
    file: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    model_version: Mapped[str] = mapped_column(Text)
    scan: Mapped[str] = mapped_column(Text)
    mc_samples: Mapped[int]
    seed: Mapped[int] = mapped_column(BigInteger)
    summary: Mapped[dict[str, Any]]
    made_at: Mapped[float]


class TrainingRound(Base):
    """A training round, waiting and running ones included."""

    __tablename__ = "rounds"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)
    status: Mapped[str] = mapped_column(String(16), index=True)
    record: Mapped[dict[str, Any]]
    """`round_record.Round.to_dict()`."""


class ModelVersion(Base):
    """A kept version of the model."""

    __tablename__ = "model_versions"
    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)
    round: Mapped[str] = mapped_column(String(32))
    sha256: Mapped[str] = mapped_column(String(64))
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[str] = mapped_column(String(40))
    published_at: Mapped[float | None]
    """When it last went live; the greatest is the live one."""
    unusable: Mapped[str | None] = mapped_column(Text)
    """Why it cannot be used: its files are gone or damaged. None: it can."""


class Lease(Base):
    """A case given to a reader, until it is saved, released, skipped, or has expired."""

    __tablename__ = "leases"
    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    case_id: Mapped[str] = mapped_column(Name, ForeignKey("cases.id"))
    slot: Mapped[int]
    """0 up to `Case.readers_wanted` - 1: no two open leases share one."""
    reader: Mapped[str] = mapped_column(Text)
    strategy: Mapped[str] = mapped_column(String(64))
    granted_at: Mapped[float]
    heartbeat_at: Mapped[float]
    expires_at: Mapped[float]
    ended_at: Mapped[float | None]
    end: Mapped[str | None] = mapped_column(String(16))
    """`saved`, `released`, `skipped`, `expired`."""
    reason: Mapped[str] = mapped_column(Text)
    """Why a case was skipped."""
    __table_args__ = (
        Index(
            "uq_leases_open_slot",
            "case_id",
            "slot",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index(
            "uq_leases_open_reader",
            "reader",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index("ix_leases_reader_case", "reader", "case_id"),
        Index("ix_leases_case", "case_id"),
    )


class Agreement(Base):
    """How far two readers of one case agree; an open one waits for adjudication."""

    __tablename__ = "agreements"
    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    case_id: Mapped[str] = mapped_column(Name, ForeignKey("cases.id"), index=True)
    first_label: Mapped[int] = mapped_column(ForeignKey("labels.id"))
    second_label: Mapped[int] = mapped_column(ForeignKey("labels.id"))
    dice: Mapped[dict[str, Any]]
    """Dice by class name."""
    compared_at: Mapped[float]
    settled_at: Mapped[float | None]
    settled_by: Mapped[str] = mapped_column(Text)


class Job(Base):
    """Work that outlives the server: train, score, export."""

    __tablename__ = "jobs"
    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    """`queued`, `running`, `paused`, `done`, `failed`, `cancelled`."""
    priority: Mapped[int]
    dedupe_key: Mapped[str | None] = mapped_column(String(64))
    """At most one unfinished job has it."""
    request: Mapped[dict[str, Any]]
    progress: Mapped[dict[str, Any]]
    reason: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int]
    owner: Mapped[str | None] = mapped_column(Text)
    """The process that runs it, as `process_identity.this_process` names it."""
    heartbeat_at: Mapped[float | None]
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    __table_args__ = (
        Index("ix_jobs_next", "status", text("priority DESC"), "id"),
        Index(
            "uq_jobs_unfinished",
            "dedupe_key",
            unique=True,
            sqlite_where=text("status IN ('queued', 'running', 'paused')"),
            postgresql_where=text("status IN ('queued', 'running', 'paused')"),
        ),
    )
