"""Alembic's entry: run the migrations on the connection that `database.upgrade` holds."""

from __future__ import annotations

from alembic import context

from anon_tune.ledger.tables import METADATA

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
context.run_migrations()
