"""Alembic's entry: migrates on the connection that engine/database.py hands over; there is no offline mode."""

from alembic import context

from engine.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True
)
with context.begin_transaction():
    context.run_migrations()
