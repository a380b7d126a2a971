"""Jobs with lease and fencing token, trials, attempts, reports, and the MLflow cursor.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("spaces", sa.JSON(), nullable=False),
        sa.Column("probe", sa.JSON()),
        sa.Column("architecture", sa.JSON()),
        sa.Column("result", sa.JSON()),
        sa.Column("reason", sa.Text()),
        sa.Column("created", sa.DateTime(), nullable=False, index=True),
        sa.Column("started", sa.DateTime()),
        sa.Column("finished", sa.DateTime()),
        sa.Column("lease_token", sa.Integer(), nullable=False),
        sa.Column("lease_holder", sa.String(255)),
        sa.Column("lease_heartbeat", sa.DateTime()),
        sa.Column("lease_expires", sa.DateTime()),
    )
    op.create_table(
        "trials",
        sa.Column("id", sa.String(96), primary_key=True),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), nullable=False, index=True),
        sa.Column("arm", sa.String(64), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("configuration", sa.String(64), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("hyperparameters", sa.JSON(), nullable=False),
        sa.Column("source", sa.String(96)),
        sa.Column("value", sa.Float()),
        sa.Column("reason", sa.Text()),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("started", sa.DateTime()),
        sa.Column("finished", sa.DateTime()),
        sa.UniqueConstraint("job_id", "arm", "phase", "number"),
        sa.UniqueConstraint("job_id", "arm", "phase", "configuration", "seed"),
    )
    op.create_table(
        "attempts",
        sa.Column("trial_id", sa.String(96), sa.ForeignKey("trials.id"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("started", sa.DateTime(), nullable=False),
        sa.Column("finished", sa.DateTime()),
        sa.Column("outcome", sa.String(16)),
        sa.Column("reason", sa.Text()),
        sa.Column("checkpoint", sa.Text()),
    )
    op.create_table(
        "reports",
        sa.Column("trial_id", sa.String(96), sa.ForeignKey("trials.id"), primary_key=True),
        sa.Column("step", sa.Integer(), primary_key=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("value", sa.Float()),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("time", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "projections",
        sa.Column("subject", sa.String(96), primary_key=True),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), nullable=False, index=True),
        sa.Column("run", sa.String(64), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16)),
    )


def downgrade() -> None:
    for table in ("projections", "reports", "attempts", "trials", "jobs"):
        op.drop_table(table)
