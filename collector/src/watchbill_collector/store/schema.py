"""The tables of the control state, as both databases have them.

Times are UTC milliseconds. Every row carries its `site`. Text that holds JSON is canonical (sorted keys,
no spaces). Secrets are never here: tokens, codes and cookies are kept as SHA-256 of 160 random bits or
more, which needs no slow hash. `audit` is append-only, held by triggers, and a hash chain (`store/audit.py`); a row of
`crit_records` or of `backup_records` is never changed, held by triggers likewise. Each run's `run_journal` is a chain
of its own, only added to, and goes with its run as a whole (`store/runs.py`).
"""

from typing import Final

import sqlalchemy as sa

REVISION: Final = "0011"
"""What `alembic_version` says in a store this code can use."""

LIVE_STATES: Final = ("pending", "active")
"""The states of hosts whose instance name is taken."""

METADATA: Final = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts up INTEGER keys alone.


def _site() -> "sa.Column[str]":
    return sa.Column("site", sa.String(63), nullable=False)


def _agent(**more: bool) -> "sa.Column[str]":
    return sa.Column("agent_id", sa.String(36), sa.ForeignKey("hosts.agent_id"), nullable=False, **more)  # type: ignore[arg-type]


def _user() -> "sa.Column[str]":
    return sa.Column("user_id", sa.String(36), sa.ForeignKey("users.user_id"), nullable=False)


def _lifetimes() -> "tuple[sa.Column[int], sa.Column[int]]":
    """What a token says of certificates; NULL: as collector.toml says."""
    return (
        sa.Column("certificate_lifetime_ms", sa.BigInteger, nullable=True),
        sa.Column("expired_grace_ms", sa.BigInteger, nullable=True),
    )


FACTS = sa.Table(
    "facts",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    _site(),
    sa.Column("value", sa.Text, nullable=False),
)

HOSTS = sa.Table(
    "hosts",
    METADATA,
    sa.Column("agent_id", sa.String(36), primary_key=True),
    _site(),
    sa.Column("instance", sa.String(253), nullable=False),
    sa.Column("instance_key", sa.String(253), nullable=False),  # Lower case: Web01 and web01 are one name.
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("ephemeral", sa.Boolean, nullable=False),
    sa.Column("public_key", sa.LargeBinary, nullable=False),  # SubjectPublicKeyInfo of the enrolled key.
    sa.Column("envelope_key", sa.LargeBinary, nullable=False),
    sa.Column("hostname", sa.String(253), nullable=False),
    sa.Column("agent_version", sa.String(64), nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("enrolled_ms", sa.BigInteger, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    *_lifetimes(),
)
sa.Index(
    "uq_hosts_live_instance",
    HOSTS.c.site,
    HOSTS.c.instance_key,
    unique=True,
    sqlite_where=sa.text("state IN ('pending', 'active')"),
    postgresql_where=sa.text("state IN ('pending', 'active')"),
)

PRESENCE = sa.Table(
    "presence",
    METADATA,
    _agent(primary_key=True),
    _site(),
    sa.Column("labels", sa.Text, nullable=False),  # What its series carry.
    sa.Column("since_ms", sa.BigInteger, nullable=False),
    sa.Column("left_reason", sa.Text, nullable=False, server_default=""),  # Empty: it is there.
    sa.Column("back_by_ms", sa.BigInteger, nullable=False, server_default="0"),  # 0: it promised nothing.
    sa.Column("beat_interval_ms", sa.BigInteger, nullable=False, server_default="0"),  # 0: not known.
)

CERTIFICATES = sa.Table(
    "certificates",
    METADATA,
    sa.Column("serial", sa.String(40), primary_key=True),  # Hexadecimal.
    _site(),
    _agent(index=True),
    sa.Column("public_key", sa.LargeBinary, nullable=False),
    sa.Column("key_sha256", sa.LargeBinary, nullable=False, index=True),
    sa.Column("csr_sha256", sa.LargeBinary, nullable=False),
    sa.Column("how", sa.String(16), nullable=False),
    sa.Column("issued_ms", sa.BigInteger, nullable=False),
    sa.Column("not_before_ms", sa.BigInteger, nullable=False),
    sa.Column("not_after_ms", sa.BigInteger, nullable=False, index=True),
    sa.Column("der", sa.LargeBinary, nullable=False),
)

ENROLMENTS = sa.Table(
    "enrolments",
    METADATA,
    sa.Column("enrolment_id", sa.String(12), primary_key=True),
    _site(),
    sa.Column("kind", sa.String(8), nullable=False),  # name, match
    sa.Column("pattern", sa.String(253), nullable=False),
    sa.Column("secret_sha256", sa.LargeBinary, nullable=False),
    sa.Column("uses_max", sa.Integer, nullable=False),
    sa.Column("uses", sa.Integer, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("cidr", sa.String(64), nullable=False),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("ephemeral", sa.Boolean, nullable=False),
    sa.Column("approve", sa.Boolean, nullable=False),
    sa.Column("replace", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # open, dead, withdrawn
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    *_lifetimes(),
)

ENROLMENT_USES = sa.Table(
    "enrolment_uses",
    METADATA,
    sa.Column("enrolment_id", sa.String(12), sa.ForeignKey("enrolments.enrolment_id"), primary_key=True),
    sa.Column("key_sha256", sa.LargeBinary, primary_key=True),
    _site(),
    _agent(index=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)

USERS = sa.Table(
    "users",
    METADATA,
    sa.Column("user_id", sa.String(36), primary_key=True),
    _site(),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("name_key", sa.String(128), nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("site", "name_key"),
)

GRANTS = sa.Table(
    "grants",
    METADATA,
    sa.Column("user_id", sa.String(36), sa.ForeignKey("users.user_id"), primary_key=True),
    sa.Column("role", sa.String(16), primary_key=True),
    sa.Column("scope", sa.String(512), primary_key=True),  # A label selector; empty: everything.
    _site(),
)

BEARER_TOKENS = sa.Table(
    "bearer_tokens",
    METADATA,
    sa.Column("token_id", sa.String(12), primary_key=True),
    _site(),
    _user(),
    sa.Column("secret_sha256", sa.LargeBinary, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=True),
    sa.Column("revoked_ms", sa.BigInteger, nullable=True),
    sa.Column("name", sa.String(128), nullable=False, server_default=""),
    sa.Column("used_ms", sa.BigInteger, nullable=True),  # Written now and then, for people.
)

LOGINS = sa.Table(
    "logins",
    METADATA,
    sa.Column("login_id", sa.String(12), primary_key=True),
    _site(),
    _user(),
    sa.Column("secret_sha256", sa.LargeBinary, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
)

SESSIONS = sa.Table(
    "sessions",
    METADATA,
    sa.Column("session_id", sa.String(12), primary_key=True),
    _site(),
    _user(),
    sa.Column("secret_sha256", sa.LargeBinary, nullable=False),
    sa.Column("csrf_sha256", sa.LargeBinary, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("seen_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
)

AUDIT = sa.Table(
    "audit",
    METADATA,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),  # From 1, without holes.
    _site(),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("boottime_ms", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("target", sa.String(300), nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),  # done, refused, failed
    sa.Column("request", sa.String(32), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("prev_hash", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)

AUDIT_CHECKPOINTS = sa.Table(
    "audit_checkpoints",
    METADATA,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),  # The row it is put under.
    _site(),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("before", sa.LargeBinary, nullable=False),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)

CRIT_RECORDS = sa.Table(
    "crit_records",
    METADATA,
    sa.Column("agent_id", sa.String(36), sa.ForeignKey("hosts.agent_id"), primary_key=True),
    sa.Column("spool_id", sa.LargeBinary, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    _site(),
    sa.Column("event_id", sa.LargeBinary, nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("boottime_ms", sa.BigInteger, nullable=False),
    sa.Column("wall_ms", sa.BigInteger, nullable=False),
    sa.Column("received_ms", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint(
        "agent_id", "event_id"
    ),  # After a spool fork the same event comes under a new number.
)

CRIT_MARKS = sa.Table(
    "crit_marks",
    METADATA,
    sa.Column("agent_id", sa.String(36), sa.ForeignKey("hosts.agent_id"), primary_key=True),
    sa.Column("spool_id", sa.LargeBinary, primary_key=True),
    _site(),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),  # Eight bytes, big endian.
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
)

CHECK_CHANGES = sa.Table(
    "check_changes",
    METADATA,
    sa.Column("agent_id", sa.String(36), sa.ForeignKey("hosts.agent_id"), primary_key=True),
    sa.Column("check_name", sa.String(64), primary_key=True),
    _site(),
    sa.Column("app", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column(
        "before", sa.String(16), nullable=False
    ),  # Verdicts by their words; empty: none was told before.
    sa.Column("after", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(64), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("since_ms", sa.BigInteger, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)

SILENCES = sa.Table(
    "silences",
    METADATA,
    sa.Column("silence_id", sa.String(12), primary_key=True),
    _site(),
    sa.Column("matchers", sa.Text, nullable=False),  # As PromQL writes a selector.
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("author", sa.String(128), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("starts_ms", sa.BigInteger, nullable=False),
    sa.Column("ends_ms", sa.BigInteger, nullable=False, index=True),
    sa.Column("expired_by", sa.String(128), nullable=False),  # Empty: it ended, or will, by itself.
    # The scopes that its author had, one a line, any of which holds; empty: everything.
    sa.Column("scope", sa.Text, nullable=False, server_default=""),
)

NOTICE_THREADS = sa.Table(
    "notice_threads",
    METADATA,
    sa.Column("thread_key", sa.String(32), primary_key=True),
    _site(),
    sa.Column("channel", sa.String(63), nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=False),  # JSON through zlib: what the channel was told.
)

NOTICES = sa.Table(
    "notices",
    METADATA,
    sa.Column("seq", _SERIAL, primary_key=True, autoincrement=True),
    sa.Column("notice_key", sa.String(40), nullable=False, unique=True),
    _site(),
    sa.Column("channel", sa.String(63), nullable=False),
    sa.Column("thread_key", sa.String(32), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False, index=True),  # queued, or how it ended.
    sa.Column("attempts", sa.Integer, nullable=False),  # Written before each attempt.
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),  # JSON through zlib: the notice.
    sqlite_autoincrement=True,
)


def _job() -> "sa.Column[str]":
    return sa.Column("job", sa.String(64), nullable=False)


BACKUP_DEFINITIONS = sa.Table(
    "backup_definitions",
    METADATA,
    _agent(primary_key=True),
    sa.Column("digest", sa.String(32), primary_key=True),  # As its host said it: each host's are its own.
    _site(),
    _job(),
    sa.Column("received_ms", sa.BigInteger, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)

BACKUP_JOBS = sa.Table(
    "backup_jobs",
    METADATA,
    _agent(primary_key=True),
    sa.Column("job", sa.String(64), primary_key=True),
    _site(),
    sa.Column("digest", sa.String(32), nullable=False),  # Of its definition, which may not be here yet.
    sa.Column("defined_ms", sa.BigInteger, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    sa.Column("gone_ms", sa.BigInteger, nullable=False),  # Since when its host has it no more; 0: it has.
)

BACKUP_RECORDS = sa.Table(
    "backup_records",
    METADATA,
    sa.Column("place", _SERIAL, primary_key=True, autoincrement=True),  # The order in which they arrived.
    _site(),
    _agent(),
    sa.Column("record_id", sa.String(32), nullable=False),
    _job(),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("copy", sa.String(256), nullable=False),
    sa.Column("run_id", sa.String(32), nullable=False),
    sa.Column("observed_ms", sa.BigInteger, nullable=False),  # By the host's clock, as all times of a record.
    sa.Column("shift_ms", sa.BigInteger, nullable=False),  # What is added to them.
    sa.Column("received_ms", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),  # JSON through zstd: the record.
    sa.UniqueConstraint("agent_id", "record_id"),
    sqlite_autoincrement=True,
)
sa.Index(
    "ix_backup_records_agent_id_job_place",
    BACKUP_RECORDS.c.agent_id,
    BACKUP_RECORDS.c.job,
    BACKUP_RECORDS.c.place,
)

BACKUP_HOSTS = sa.Table(
    "backup_hosts",
    METADATA,
    _agent(primary_key=True),
    _site(),
    sa.Column("through_ms", sa.BigInteger, nullable=False),  # Until then everything it had to say is here.
)

BACKUP_CHANGES = sa.Table(
    "backup_changes",
    METADATA,
    sa.Column("place", _SERIAL, primary_key=True, autoincrement=True),
    _site(),
    _agent(),
    _job(),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("before", sa.String(16), nullable=False),
    sa.Column("after", sa.String(16), nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
sa.Index(
    "ix_backup_changes_agent_id_job_place",
    BACKUP_CHANGES.c.agent_id,
    BACKUP_CHANGES.c.job,
    BACKUP_CHANGES.c.place,
)

BACKUP_PAUSES = sa.Table(
    "backup_pauses",
    METADATA,
    _agent(primary_key=True),
    sa.Column("job", sa.String(64), primary_key=True),
    _site(),
    sa.Column("until_ms", sa.BigInteger, nullable=False),
    sa.Column("author", sa.String(128), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

BACKUP_REVIEWS = sa.Table(
    "backup_reviews",
    METADATA,
    sa.Column("place", _SERIAL, primary_key=True, autoincrement=True),
    _site(),
    _agent(),
    _job(),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("author", sa.String(128), nullable=False),
    sa.Column("word", sa.String(16), nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
sa.Index(
    "ix_backup_reviews_agent_id_job_place",
    BACKUP_REVIEWS.c.agent_id,
    BACKUP_REVIEWS.c.job,
    BACKUP_REVIEWS.c.place,
)

BACKUP_EXEMPTIONS = sa.Table(
    "backup_exemptions",
    METADATA,
    sa.Column("exemption_id", sa.String(12), primary_key=True),
    _site(),
    sa.Column("kind", sa.String(8), nullable=False),  # host, service
    sa.Column("name", sa.String(253), nullable=False),
    sa.Column("owner", sa.String(128), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("author", sa.String(128), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("site", "kind", "name"),
)

RUNS = sa.Table(
    "runs",  # What lists show of each; all of it follows from its journal.
    METADATA,
    sa.Column("run_id", sa.String(32), primary_key=True),
    _site(),
    sa.Column("runbook", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("state_detail", sa.Text, nullable=False),
    sa.Column("drill", sa.BigInteger, nullable=False),  # 1: a rehearsal.
    sa.Column("requester", sa.String(128), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("trigger", sa.String(128), nullable=False),
    sa.Column("parameters", sa.Text, nullable=False),  # JSON.
    sa.Column("lock_name", sa.String(256), nullable=False),
    sa.Column("hosts", sa.Text, nullable=False),  # JSON: the agent ids it may touch.
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("started_ms", sa.BigInteger, nullable=False),  # 0: not yet, as of all these moments.
    sa.Column("ended_ms", sa.BigInteger, nullable=False),
    sa.Column("recovered_ms", sa.BigInteger, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    sa.Column("rows_written", sa.BigInteger, nullable=False),
)
sa.Index("ix_runs_site_state", RUNS.c.site, RUNS.c.state)
sa.Index("ix_runs_runbook_created_ms", RUNS.c.runbook, RUNS.c.created_ms)
sa.Index("ix_runs_created_ms", RUNS.c.created_ms)

RUN_JOURNAL = sa.Table(
    "run_journal",
    METADATA,
    sa.Column("run_id", sa.String(32), primary_key=True),
    sa.Column("n", sa.BigInteger, primary_key=True, autoincrement=False),
    _site(),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # JSON.
    sa.Column("prev_hash", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)

RUN_VOTES = sa.Table(
    "run_votes",
    METADATA,
    sa.Column("place", _SERIAL, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.String(32), nullable=False),
    _site(),
    sa.Column("step", sa.String(128), nullable=False),
    sa.Column("manifest_digest", sa.String(64), nullable=False),
    sa.Column("person", sa.String(128), nullable=False, index=True),
    sa.Column("approve", sa.BigInteger, nullable=False),  # 1: yes, 0: no.
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("signed", sa.LargeBinary, nullable=False),  # Empty: by who was logged in, on the page.
    sa.Column("voided_ms", sa.BigInteger, nullable=False),  # 0: it holds.
    sa.Column("voided_why", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
sa.Index("ix_run_votes_run_id_step", RUN_VOTES.c.run_id, RUN_VOTES.c.step)

DRILLS = sa.Table(
    "drills",
    METADATA,
    sa.Column("run_id", sa.String(32), primary_key=True),
    _site(),
    sa.Column("runbook", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("due_ms", sa.BigInteger, nullable=False),  # 0: nobody had waited for it.
    sa.Column("started_ms", sa.BigInteger, nullable=False),
    sa.Column("ended_ms", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("recovery_ms", sa.BigInteger, nullable=True),  # NULL: its clock never stopped.
    sa.Column("detail", sa.Text, nullable=False),
)
sa.Index("ix_drills_runbook_started_ms", DRILLS.c.runbook, DRILLS.c.started_ms)

RUNBOOK_TEXTS = sa.Table(
    "runbook_texts",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),  # SHA-256 of the content.
    _site(),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("author", sa.String(128), nullable=False),  # Empty: a file, whose author nobody told.
    sa.Column("seen_ms", sa.BigInteger, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
)
sa.Index("ix_runbook_texts_name_seen_ms", RUNBOOK_TEXTS.c.name, RUNBOOK_TEXTS.c.seen_ms)

RUNBOOK_ACCEPTANCES = sa.Table(
    "runbook_acceptances",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("person", sa.String(128), primary_key=True),
    _site(),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)

RUNBOOK_PREFLIGHTS = sa.Table(
    "runbook_preflights",
    METADATA,
    sa.Column("place", _SERIAL, primary_key=True, autoincrement=True),
    _site(),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("ready", sa.BigInteger, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),  # JSON: why not.
    sqlite_autoincrement=True,
)
sa.Index("ix_runbook_preflights_name_place", RUNBOOK_PREFLIGHTS.c.name, RUNBOOK_PREFLIGHTS.c.place)

ACTION_INVENTORIES = sa.Table(
    "action_inventories",
    METADATA,
    _agent(primary_key=True),
    _site(),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("received_ms", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),  # JSON through zlib: the whole inventory.
)

ROSTERS = sa.Table(
    "rosters",
    METADATA,
    sa.Column("serial", sa.BigInteger, primary_key=True, autoincrement=False),
    _site(),
    sa.Column("digest", sa.String(64), nullable=False),  # SHA-256 of what was signed.
    sa.Column("author", sa.String(128), nullable=False),  # Who published it; its signer is in it.
    sa.Column("published_ms", sa.BigInteger, nullable=False),
    sa.Column("signed", sa.LargeBinary, nullable=False),
)

ROSTER_HEARD = sa.Table(
    "roster_heard",
    METADATA,
    _agent(primary_key=True),
    _site(),
    sa.Column("serial", sa.BigInteger, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)

AUTOMATION = sa.Table(
    "automation",
    METADATA,
    sa.Column("name", sa.String(128), primary_key=True),
    _site(),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    sa.Column("person", sa.String(128), nullable=False),
    sa.Column("value", sa.Text, nullable=False),  # JSON.
)
