"""The audit: what was recorded so far as a hash chain, from now on the only table of its kind. Tokens get a name and
the time of their last use.
"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_DOMAIN = b"watchbill/audit/v1\x00"
_ROWS_AT_ONCE = 1_000

_APPEND_ONLY_SQLITE = """
CREATE TRIGGER audit_no_{word} BEFORE {word} ON audit
BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END
"""
_APPEND_ONLY_POSTGRESQL = (
    """
CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$
""",
    """
CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()
""",
)


def upgrade() -> None:
    """Make the table, move what there is into it, let nobody change it."""
    audit = op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("site", sa.String(length=63), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("boottime_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("target", sa.String(length=300), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("request", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("prev_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
    )
    assert audit is not None
    _move(op.get_bind(), audit)
    op.drop_table("events")
    if op.get_bind().dialect.name == "sqlite":
        for word in ("UPDATE", "DELETE"):
            op.execute(_APPEND_ONLY_SQLITE.format(word=word))
    else:
        op.execute("DROP FUNCTION IF EXISTS events_append_only()")
        for statement in _APPEND_ONLY_POSTGRESQL:
            op.execute(statement)
    op.add_column("bearer_tokens", sa.Column("name", sa.String(128), nullable=False, server_default=""))
    op.add_column("bearer_tokens", sa.Column("used_ms", sa.BigInteger(), nullable=True))


def _move(connection: sa.Connection, audit: sa.Table) -> None:
    """Chain the rows that version 0001 kept, in their order."""
    names = ("seq", "site", "at_ms", "boottime_ms", "actor", "source", "verb", "object", "outcome", "detail")
    events = sa.table("events", *(sa.column(name) for name in names))
    seq, last, prev_hash = 0, 0, b""
    while True:
        query = sa.select(events).where(events.c.seq > last).order_by(events.c.seq).limit(_ROWS_AT_ONCE)
        found = connection.execute(query).mappings().all()
        if not found:
            return
        for row in found:
            seq, last = seq + 1, row["seq"]
            prev_hash = prev_hash or hashlib.sha256(_DOMAIN + row["site"].encode()).digest()
            done = row["outcome"] == "ok"
            detail = json.loads(row["detail"]) | ({} if done else {"reason": row["outcome"]})
            content = {
                "seq": seq,
                "site": row["site"],
                "at_ms": row["at_ms"],
                "boottime_ms": row["boottime_ms"],
                "actor": row["actor"],
                "source": row["source"],
                "action": row["verb"],
                "target": row["object"],
                "outcome": "done" if done else "refused",
                "request": "",
                "detail": json.dumps(detail, sort_keys=True, separators=(",", ":"), ensure_ascii=True),
            }
            text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
            digest = hashlib.sha256(_DOMAIN + prev_hash + text.encode()).digest()
            connection.execute(audit.insert().values(**content, prev_hash=prev_hash, hash=digest))
            prev_hash = digest
