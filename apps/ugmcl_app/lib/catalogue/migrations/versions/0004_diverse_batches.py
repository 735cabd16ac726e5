"""What models see in cases, and the batches chosen by it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "features",
        sa.Column("case_id", NAME, nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("scan", sa.Text(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("case_id", name=op.f("pk_features")),
    )
    op.create_index(op.f("ix_features_model_version"), "features", ["model_version"])
    op.create_table(
        "batch_places",
        sa.Column("case_id", NAME, nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("case_id", name=op.f("pk_batch_places")),
        sa.UniqueConstraint("place", name=op.f("uq_batch_places_place")),
    )


def downgrade() -> None:
    op.drop_table("batch_places")
    op.drop_table("features")
