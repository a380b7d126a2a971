"""Ids of deleted jobs, and an index of the jobs that use an archive of code.

Revision ID: 0009
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deleted_jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("deleted", sa.DateTime(), nullable=False),
    )
    op.create_index("ix_jobs_code", "jobs", ["code"])


def downgrade() -> None:
    op.drop_index("ix_jobs_code", "jobs")
    op.drop_table("deleted_jobs")
