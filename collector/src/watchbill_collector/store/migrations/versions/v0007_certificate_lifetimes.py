"""How long a host's certificates last and may be renewed late: what its token said. NULL: as collector.toml says."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Two more columns, for tokens and for hosts."""
    for table in ("enrolments", "hosts"):
        op.add_column(table, sa.Column("certificate_lifetime_ms", sa.BigInteger(), nullable=True))
        op.add_column(table, sa.Column("expired_grace_ms", sa.BigInteger(), nullable=True))
