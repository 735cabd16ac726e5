"""The series of a PACS."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "pacs_series",
        sa.Column("uid", NAME, nullable=False),
        sa.Column("study_uid", NAME, nullable=False),
        sa.Column("modality", sa.String(16), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("listed", sa.Boolean(), nullable=False),
        sa.Column("made_of", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_pacs_series")),
    )
    op.create_index(op.f("ix_pacs_series_study_uid"), "pacs_series", ["study_uid"])


def downgrade() -> None:
    op.drop_table("pacs_series")
