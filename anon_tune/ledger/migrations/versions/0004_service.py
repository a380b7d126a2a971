"""Owners, tokens, idempotent submissions and code of jobs; how many steps a trial has taken, and how long they took.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "code",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("created", sa.DateTime(), nullable=False),
    )
    op.add_column("jobs", sa.Column("code", sa.String(64)))
    op.add_column("jobs", sa.Column("owner", sa.String(64)))
    op.add_column("trials", sa.Column("steps", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("trials", sa.Column("seconds", sa.Float(), nullable=False, server_default="0"))
    trials = sa.table("trials", sa.column("id"), sa.column("steps"), sa.column("seconds"))
    reports = sa.table("reports", sa.column("trial_id"), sa.column("metrics", sa.JSON()))
    of_trial = reports.c.trial_id == trials.c.id
    taken = sa.func.coalesce(sa.func.sum(reports.c.metrics["epoch_seconds"].as_float()), 0.0)
    op.execute(
        sa.update(trials).values(
            steps=sa.select(sa.func.count()).select_from(reports).where(of_trial).scalar_subquery(),
            seconds=sa.select(taken).where(of_trial).scalar_subquery(),
        )
    )
    op.create_index("ix_trials_in_order", "trials", ["job_id", "created", "id"])
    op.drop_index("ix_trials_job_id", "trials")
    op.create_table(
        "submissions",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("may_send_code", sa.Boolean(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("revoked", sa.DateTime()),
    )


def downgrade() -> None:
    op.drop_table("tokens")
    op.drop_table("submissions")
    op.create_index("ix_trials_job_id", "trials", ["job_id"])
    op.drop_index("ix_trials_in_order", "trials")
    op.drop_column("trials", "seconds")
    op.drop_column("trials", "steps")
    op.drop_column("jobs", "code")
    op.drop_column("jobs", "owner")
    op.drop_table("code")
