"""A silence keeps to the scopes of who made it. Those there were came from people without one."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One more column."""
    op.add_column("silences", sa.Column("scope", sa.Text(), nullable=False, server_default=""))
