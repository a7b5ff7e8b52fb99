"""What Alembic runs to change the tables: on the connection, and inside the transaction, that `database` opened."""

from __future__ import annotations

from alembic import context

from lensmount_server.registry.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
