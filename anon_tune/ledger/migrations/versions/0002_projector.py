"""Who writes a job to MLflow at the moment.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("projector", sa.String(255)))
    op.add_column("jobs", sa.Column("projector_expires", sa.DateTime()))


def downgrade() -> None:
    op.drop_column("jobs", "projector_expires")
    op.drop_column("jobs", "projector")
