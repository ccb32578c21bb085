"""What alembic runs: the connection comes from `watchbill_collector.store.migrate`, never from a file."""

import sqlalchemy as sa
from alembic import context

from watchbill_collector.store.schema import METADATA

connection: sa.Connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite cannot alter a column; alembic then copies the table.
    transactional_ddl=True,
)
context.run_migrations()
