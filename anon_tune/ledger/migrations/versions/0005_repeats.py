"""Which of its arm's searches a trial belongs to.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_UNIQUE = (("phase", "number"), ("phase", "configuration", "seed"))
"""Columns of the constraints besides job and arm."""


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _make_anew(repeat=True)
        return
    op.add_column("trials", _repeat())
    _constrain(("job_id", "arm"), ("job_id", "arm", "repeat"))


def downgrade() -> None:
    of_others = "SELECT id FROM trials WHERE repeat > 0"  # which an earlier version has no place for
    for table, key in (("reports", "trial_id"), ("attempts", "trial_id"), ("projections", "subject")):
        op.execute(f"DELETE FROM {table} WHERE {key} IN ({of_others})")
    op.execute("DELETE FROM trials WHERE repeat > 0")
    if op.get_bind().dialect.name == "sqlite":
        _make_anew(repeat=False)
        return
    _constrain(("job_id", "arm", "repeat"), ("job_id", "arm"))
    op.drop_column("trials", "repeat")


def _repeat() -> sa.Column[int]:
    return sa.Column("repeat", sa.Integer(), nullable=False, server_default="0")


def _constrain(before: Sequence[str], after: Sequence[str]) -> None:
    """Make the constraints of PostgreSQL anew, under the names that it gives them."""
    for rest in _UNIQUE:
        op.drop_constraint(f"trials_{'_'.join((*before, *rest))}_key", "trials")
        op.create_unique_constraint(None, "trials", [*after, *rest])


def _make_anew(repeat: bool) -> None:
    """Make sqlite's table anew, in which constraints cannot be changed.

    Attempts and reports refer to trials, which are gone for a moment: sqlite checks that when the transaction ends.
    """
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM trials")
    op.drop_table("trials")
    key = ("job_id", "arm", "repeat") if repeat else ("job_id", "arm")
    columns = _columns()
    op.create_table(
        "trials",
        *columns,
        *([_repeat()] if repeat else []),
        *(sa.UniqueConstraint(*key, *rest) for rest in _UNIQUE),
    )
    op.create_index("ix_trials_in_order", "trials", ["job_id", "created", "id"])
    names = ", ".join(column.name for column in columns)
    op.execute(f"INSERT INTO trials ({names}) SELECT {names} FROM kept")
    op.execute("DROP TABLE kept")


def _columns() -> list[sa.Column[object]]:
    """As of 0004."""
    return [
        sa.Column("id", sa.String(96), primary_key=True),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), nullable=False),
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
        sa.Column("steps", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("seconds", sa.Float(), nullable=False, server_default="0"),
        sa.Column("created", sa.DateTime(), nullable=False),
        sa.Column("started", sa.DateTime()),
        sa.Column("finished", sa.DateTime()),
    ]
