"""Runs of runbooks: their journals, what people said of them, the texts they follow, and what hosts allow."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_JOURNAL_SQLITE = (
    """
CREATE TRIGGER run_journal_no_update BEFORE UPDATE ON run_journal
BEGIN SELECT RAISE(ABORT, 'a run''s journal is only ever added to'); END
""",
    """
CREATE TRIGGER run_journal_no_delete BEFORE DELETE ON run_journal
WHEN EXISTS (SELECT 1 FROM runs WHERE runs.run_id = OLD.run_id)
BEGIN SELECT RAISE(ABORT, 'a run''s journal goes with its run and not before'); END
""",
)
_JOURNAL_POSTGRESQL = (
    """
CREATE FUNCTION run_journal_only_added_to() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a run''s journal is only ever added to'; END $$
""",
    """
CREATE TRIGGER run_journal_no_update BEFORE UPDATE OR TRUNCATE ON run_journal
FOR EACH STATEMENT EXECUTE FUNCTION run_journal_only_added_to()
""",
    """
CREATE FUNCTION run_journal_goes_with_its_run() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
  IF EXISTS (SELECT 1 FROM runs WHERE runs.run_id = OLD.run_id) THEN
    RAISE EXCEPTION 'a run''s journal goes with its run and not before';
  END IF;
  RETURN OLD;
END $$
""",
    """
CREATE TRIGGER run_journal_no_delete BEFORE DELETE ON run_journal
FOR EACH ROW EXECUTE FUNCTION run_journal_goes_with_its_run()
""",
)


def upgrade() -> None:
    """Make the tables, and hold what is only added to."""
    _make_runs()
    _make_runbooks()
    _make_what_hosts_say()
    _make_automation()
    dialect = op.get_bind().dialect.name
    for statement in _JOURNAL_SQLITE if dialect == "sqlite" else _JOURNAL_POSTGRESQL:
        op.execute(statement)


def _make_runs() -> None:
    op.create_table(
        "runs",
        _text("run_id", 32),
        _text("site", 63),
        _text("runbook", 64),
        _text("digest", 64),
        _text("state", 16),
        _prose("state_detail"),
        _number("drill"),
        _text("requester", 128),
        _prose("reason"),
        _text("trigger", 128),
        _prose("parameters"),
        _text("lock_name", 256),
        _prose("hosts"),
        _number("created_ms"),
        _number("started_ms"),
        _number("ended_ms"),
        _number("recovered_ms"),
        _number("changed_ms"),
        _number("rows_written"),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_runs")),
    )
    op.create_index(op.f("ix_runs_site_state"), "runs", ["site", "state"])
    op.create_index(op.f("ix_runs_runbook_created_ms"), "runs", ["runbook", "created_ms"])
    op.create_index(op.f("ix_runs_created_ms"), "runs", ["created_ms"])
    op.create_table(
        "run_journal",
        _text("run_id", 32),
        sa.Column("n", sa.BigInteger(), autoincrement=False, nullable=False),
        _text("site", 63),
        _number("at_ms"),
        _text("kind", 32),
        _prose("body"),
        sa.Column("prev_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "n", name=op.f("pk_run_journal")),
    )
    op.create_table(
        "run_votes",
        _place(),
        _text("run_id", 32),
        _text("site", 63),
        _text("step", 128),
        _text("manifest_digest", 64),
        _text("person", 128),
        _number("approve"),
        _number("at_ms"),
        _prose("comment"),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        _number("voided_ms"),
        _prose("voided_why"),
        sa.PrimaryKeyConstraint("place", name=op.f("pk_run_votes")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_run_votes_run_id_step"), "run_votes", ["run_id", "step"])
    op.create_index(op.f("ix_run_votes_person"), "run_votes", ["person"])
    op.create_table(
        "drills",
        _text("run_id", 32),
        _text("site", 63),
        _text("runbook", 64),
        _text("digest", 64),
        _number("due_ms"),
        _number("started_ms"),
        _number("ended_ms"),
        _text("state", 16),
        sa.Column("recovery_ms", sa.BigInteger(), nullable=True),
        _prose("detail"),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_drills")),
    )
    op.create_index(op.f("ix_drills_runbook_started_ms"), "drills", ["runbook", "started_ms"])


def _make_runbooks() -> None:
    op.create_table(
        "runbook_texts",
        _text("digest", 64),
        _text("site", 63),
        _text("name", 64),
        _text("author", 128),
        _number("seen_ms"),
        _prose("content"),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_runbook_texts")),
    )
    op.create_index(op.f("ix_runbook_texts_name_seen_ms"), "runbook_texts", ["name", "seen_ms"])
    op.create_table(
        "runbook_acceptances",
        _text("digest", 64),
        _text("person", 128),
        _text("site", 63),
        _text("name", 64),
        _number("at_ms"),
        sa.PrimaryKeyConstraint("digest", "person", name=op.f("pk_runbook_acceptances")),
    )
    op.create_table(
        "runbook_preflights",
        _place(),
        _text("site", 63),
        _text("name", 64),
        _text("digest", 64),
        _number("at_ms"),
        _number("ready"),
        _prose("detail"),
        sa.PrimaryKeyConstraint("place", name=op.f("pk_runbook_preflights")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_runbook_preflights_name_place"), "runbook_preflights", ["name", "place"])


def _make_what_hosts_say() -> None:
    op.create_table(
        "action_inventories",
        _text("agent_id", 36),
        _text("site", 63),
        _text("version", 64),
        _number("received_ms"),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("agent_id", name=op.f("pk_action_inventories")),
        _of_host("action_inventories"),
    )
    op.create_table(
        "rosters",
        sa.Column("serial", sa.BigInteger(), autoincrement=False, nullable=False),
        _text("site", 63),
        _text("digest", 64),
        _text("author", 128),
        _number("published_ms"),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_rosters")),
    )
    op.create_table(
        "roster_heard",
        _text("agent_id", 36),
        _text("site", 63),
        _number("serial"),
        _number("at_ms"),
        sa.PrimaryKeyConstraint("agent_id", name=op.f("pk_roster_heard")),
        _of_host("roster_heard"),
    )


def _make_automation() -> None:
    op.create_table(
        "automation",
        _text("name", 128),
        _text("site", 63),
        _number("changed_ms"),
        _text("person", 128),
        _prose("value"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_automation")),
    )


def _place() -> "sa.Column[int]":
    serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("place", serial, autoincrement=True, nullable=False)


def _of_host(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["agent_id"], ["hosts.agent_id"], name=op.f(f"fk_{table}_agent_id_hosts"))


def _text(name: str, characters: int) -> "sa.Column[str]":
    return sa.Column(name, sa.String(length=characters), nullable=False)


def _prose(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.Text(), nullable=False)


def _number(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), nullable=False)
