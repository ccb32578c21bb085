"""Backups: what hosts say of them, how far each host is known, and what people say: pauses, reviews, exemptions."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_WRITTEN_ONCE_SQLITE = """
CREATE TRIGGER backup_records_no_update BEFORE UPDATE ON backup_records
BEGIN SELECT RAISE(ABORT, 'a backup''s record is never changed'); END
"""
_WRITTEN_ONCE_POSTGRESQL = (
    """
CREATE FUNCTION backup_records_written_once() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a backup''s record is never changed'; END $$
""",
    """
CREATE TRIGGER backup_records_no_update BEFORE UPDATE ON backup_records
FOR EACH STATEMENT EXECUTE FUNCTION backup_records_written_once()
""",
)


def upgrade() -> None:
    """Make the tables, and hold what is written once."""
    _make_what_hosts_say()
    _make_what_people_say()
    if op.get_bind().dialect.name == "sqlite":
        op.execute(_WRITTEN_ONCE_SQLITE)
    else:
        for statement in _WRITTEN_ONCE_POSTGRESQL:
            op.execute(statement)


def _make_what_hosts_say() -> None:
    op.create_table(
        "backup_definitions",
        _agent(),
        sa.Column("digest", sa.String(length=32), nullable=False),
        _text("site", 63),
        _text("job", 64),
        _number("received_ms"),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "digest", name=op.f("pk_backup_definitions")),
        _of_host("backup_definitions"),
    )
    op.create_table(
        "backup_jobs",
        _agent(),
        _text("job", 64),
        _text("site", 63),
        _text("digest", 32),
        _number("defined_ms"),
        _number("changed_ms"),
        _number("gone_ms"),
        sa.PrimaryKeyConstraint("agent_id", "job", name=op.f("pk_backup_jobs")),
        _of_host("backup_jobs"),
    )
    op.create_table(
        "backup_records",
        _place(),
        _text("site", 63),
        _agent(),
        _text("record_id", 32),
        _text("job", 64),
        _text("kind", 16),
        _text("outcome", 16),
        _text("copy", 256),
        _text("run_id", 32),
        _number("observed_ms"),
        _number("shift_ms"),
        _number("received_ms"),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("place", name=op.f("pk_backup_records")),
        sa.UniqueConstraint("agent_id", "record_id", name=op.f("uq_backup_records_agent_id_record_id")),
        _of_host("backup_records"),
        sqlite_autoincrement=True,
    )
    _index_by_job("backup_records")
    op.create_table(
        "backup_hosts",
        _agent(),
        _text("site", 63),
        _number("through_ms"),
        sa.PrimaryKeyConstraint("agent_id", name=op.f("pk_backup_hosts")),
        _of_host("backup_hosts"),
    )
    op.create_table(
        "backup_changes",
        _place(),
        _text("site", 63),
        _agent(),
        _text("job", 64),
        _number("at_ms"),
        _text("before", 16),
        _text("after", 16),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("place", name=op.f("pk_backup_changes")),
        _of_host("backup_changes"),
        sqlite_autoincrement=True,
    )
    _index_by_job("backup_changes")


def _make_what_people_say() -> None:
    op.create_table(
        "backup_pauses",
        _agent(),
        _text("job", 64),
        _text("site", 63),
        _number("until_ms"),
        _text("author", 128),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "job", name=op.f("pk_backup_pauses")),
        _of_host("backup_pauses"),
    )
    op.create_table(
        "backup_reviews",
        _place(),
        _text("site", 63),
        _agent(),
        _text("job", 64),
        _number("at_ms"),
        _text("author", 128),
        _text("word", 16),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("place", name=op.f("pk_backup_reviews")),
        _of_host("backup_reviews"),
        sqlite_autoincrement=True,
    )
    _index_by_job("backup_reviews")
    op.create_table(
        "backup_exemptions",
        _text("exemption_id", 12),
        _text("site", 63),
        _text("kind", 8),
        _text("name", 253),
        _text("owner", 128),
        sa.Column("reason", sa.Text(), nullable=False),
        _text("author", 128),
        _number("created_ms"),
        _number("expires_ms"),
        sa.PrimaryKeyConstraint("exemption_id", name=op.f("pk_backup_exemptions")),
        sa.UniqueConstraint("site", "kind", "name", name=op.f("uq_backup_exemptions_site_kind_name")),
    )


def _index_by_job(table: str) -> None:
    op.create_index(op.f(f"ix_{table}_agent_id_job_place"), table, ["agent_id", "job", "place"])


def _place() -> "sa.Column[int]":
    serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("place", serial, autoincrement=True, nullable=False)


def _agent() -> "sa.Column[str]":
    return _text("agent_id", 36)


def _of_host(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["agent_id"], ["hosts.agent_id"], name=op.f(f"fk_{table}_agent_id_hosts"))


def _text(name: str, characters: int) -> "sa.Column[str]":
    return sa.Column(name, sa.String(length=characters), nullable=False)


def _number(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), nullable=False)
