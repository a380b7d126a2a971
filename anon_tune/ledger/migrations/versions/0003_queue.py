"""A queue with priorities, requests to a job's holder, the time spent on a job, and the logs of attempts.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("requested", sa.String(16)))
    op.add_column("jobs", sa.Column("spent", sa.Float(), nullable=False, server_default="0"))
    op.add_column("attempts", sa.Column("log", sa.Text()))


def downgrade() -> None:
    op.drop_column("attempts", "log")
    for column in ("spent", "requested", "priority"):
        op.drop_column("jobs", column)
