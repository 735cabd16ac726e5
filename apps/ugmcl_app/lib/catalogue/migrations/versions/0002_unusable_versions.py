"""Why a model version cannot be used, where its files are gone or damaged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("model_versions", sa.Column("unusable", sa.Text(), nullable=True))
