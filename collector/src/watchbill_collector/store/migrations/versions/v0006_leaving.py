"""A host that said goodbye keeps its row: why it left, and by when it means to be back."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Two more columns."""
    op.add_column("presence", sa.Column("left_reason", sa.Text(), nullable=False, server_default=""))
    op.add_column("presence", sa.Column("back_by_ms", sa.BigInteger(), nullable=False, server_default="0"))
