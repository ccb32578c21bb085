"""A critical event is written once and never changed. How seldom a host beats is remembered with its presence."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_WRITTEN_ONCE_SQLITE = """
CREATE TRIGGER crit_records_no_update BEFORE UPDATE ON crit_records
BEGIN SELECT RAISE(ABORT, 'a critical event is never changed'); END
"""
_WRITTEN_ONCE_POSTGRESQL = (
    """
CREATE FUNCTION crit_records_written_once() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a critical event is never changed'; END $$
""",
    """
CREATE TRIGGER crit_records_no_update BEFORE UPDATE ON crit_records
FOR EACH STATEMENT EXECUTE FUNCTION crit_records_written_once()
""",
)


def upgrade() -> None:
    """One more column, and a trigger."""
    op.add_column(
        "presence", sa.Column("beat_interval_ms", sa.BigInteger(), nullable=False, server_default="0")
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(_WRITTEN_ONCE_SQLITE)
    else:
        for statement in _WRITTEN_ONCE_POSTGRESQL:
            op.execute(statement)
