"""What the HTTP side needs from the backups, and the values that cross; see `ports.py`.

A job is named by `backup_id`, because its own name comes from its host and several hosts may use one. Nothing here
depends on the moment at which it is asked for, but for what a change brings: an answer may be kept until the next
change, and ages are worked out by whoever shows them.

When a job's word changes, the bus is told `backup` with `event_of` the change.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol

from watchbill.backups.definition import Definition
from watchbill.backups.record import Proof, Record, Snapshots, Usage
from watchbill_collector.api.backup_report import Asked, BackupReportRow, Period
from watchbill_collector.api.ports import Caller, NoSuch, at

ID_CHARACTERS: Final = 16
WORDS: Final = (
    "STALE",
    "MISSED",
    "FAILED",
    "SUSPECT",
    "UNVERIFIED",
    "UNKNOWN",
    "PARTIAL",
    "LATE",
    "RUNNING",
    "NEW",
    "OK",
    "PAUSED",
    "RETIRED",
)
"""What is said of a job, the worst first."""
NOTE_CHARACTERS_MAX: Final = 2_000
"""Of a review, and of the reason of a pause or an exemption; more is refused."""
PAUSE_S_MAX: Final = 90 * 86_400.0
"""The longest pause: what is not backed up for longer is no pause."""
EXEMPTION_S_MAX: Final = 366 * 86_400.0
"""The longest exemption: once a year somebody says again that it is meant."""


def backup_id(agent_id: str, job: str) -> str:
    """The name of one job of one host that fits a path and a line."""
    return hashlib.sha256(f"{agent_id}\0{job}".encode("utf-8", "replace")).hexdigest()[:ID_CHARACTERS]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupEntry:
    """One run or one look at the repository. `at` is when that was by the collector's time: of a run its end, or the
    newest sign of life; `received` when the collector got it. `point` is the time that the data stands for.
    """

    id: str
    kind: str
    source: str
    outcome: str
    at: datetime
    received: datetime
    run_id: str = ""
    copy: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    duration_s: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    tool: str = ""
    tool_version: str = ""
    point: datetime | None = None
    snapshot_id: str = ""
    bytes_source: int | None = None
    bytes_added: int | None = None
    bytes_stored: int | None = None
    files: int | None = None
    files_failed: int | None = None
    log_from: str = ""
    log_to: str = ""
    reason: str = ""
    errors: Sequence[str] = ()
    tail: str = ""
    manifest_digest: str = ""
    verify: Proof | None = None
    snapshots: int | None = None
    oldest_snapshot: datetime | None = None
    newest_snapshot: datetime | None = None
    repo_locked: bool | None = None
    repo_id: str = ""
    usage: Usage | None = None


def entry_of(record: Record, received_ms: int, shift_ms: int) -> BackupEntry:
    """A record as it is shown; `shift_ms` is what is added to its host's times."""

    def moment(host_ms: int) -> datetime | None:
        return at_or_none(host_ms + shift_ms) if host_ms else None

    started, finished = moment(record.started_ms), moment(record.finished_ms)
    snapshots: Snapshots | None = record.snapshots
    return BackupEntry(
        id=record.record_id,
        kind=record.kind.value,
        source=record.source.value,
        outcome=record.outcome.value,
        at=finished or moment(record.observed_ms) or at(received_ms),
        received=at(received_ms),
        run_id=record.run_id,
        copy=record.copy,
        started=started,
        finished=finished,
        duration_s=max(0.0, (finished - started).total_seconds()) if started and finished else None,
        exit_code=record.exit_code,
        signal=record.signal,
        tool=record.tool,
        tool_version=record.tool_version,
        point=moment(record.point_ms),
        snapshot_id=record.snapshot_id,
        bytes_source=record.bytes_source,
        bytes_added=record.bytes_added,
        bytes_stored=record.bytes_stored,
        files=record.files,
        files_failed=record.files_failed,
        log_from=record.log_from,
        log_to=record.log_to,
        reason=record.reason,
        errors=record.errors,
        tail=record.tail,
        manifest_digest=record.manifest_digest,
        verify=record.verify,
        snapshots=None if snapshots is None else snapshots.count,
        oldest_snapshot=None if snapshots is None else moment(snapshots.oldest_ms),
        newest_snapshot=None if snapshots is None else moment(snapshots.newest_ms),
        repo_locked=record.repo_locked,
        repo_id=record.repo_id,
        usage=record.usage,
    )


def at_or_none(wall_ms: int) -> datetime | None:
    """A moment that a host named; None where no calendar has it."""
    try:
        return at(wall_ms)
    except (ValueError, OverflowError, OSError):
        return None


@dataclass(frozen=True, slots=True)
class BackupFacet:
    """One side of a job's state: run, fresh, size, verify, copies or ledger. `level` is ok, warn, bad or unknown."""

    name: str
    level: str
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class BackupPause:
    """A job is not judged until then."""

    until: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class BackupReview:
    """Somebody looked at it, and signs for what he says. `word` is the job's at that time. Snapshots that vanished
    before are no longer asked about.
    """

    at: datetime
    by: str
    word: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """Somebody asked a host to verify a backup. `answer` is empty until the host answers, then begun, with the level
    and copy that it verifies, or refused, with `reason` in a word and `why`. What a verification that began finds is an
    entry whose `run_id` is this `id`.
    """

    id: str
    name: str
    host: str
    level: str
    by: str
    at: datetime
    answer: str = ""
    answered: datetime | None = None
    copy: str = ""
    reason: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class BackupChange:
    """A job's word became another."""

    id: str
    name: str
    host: str
    at: datetime
    before: str
    after: str
    why: str = ""


def event_of(change: BackupChange) -> dict[str, object]:
    """A change as followers get it; by its `host` it is seen or not."""
    return {
        "id": change.id,
        "name": change.name,
        "host": change.host,
        "at": change.at,
        "before": change.before,
        "after": change.after,
        "why": change.why,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupJob:
    """One job of one host. `labels` are those that its host was bound to at enrolment.

    `word` is one of `WORDS`, `level` the worst of its facets, `severity` how bad that is by the job's own word;
    `why` and `advice` say it to a person. `since` is when the word began. `point` is the newest time to which
    everything can be brought back, as far as the tool says; `verified_point` as far as somebody proved it; `rpo_s` how
    old `point` may be, 0: nobody said. `reviewed` is the newest review.
    """

    id: str
    name: str
    host: str
    agent_id: str
    labels: Mapping[str, str]
    service: str
    tool: str
    word: str
    level: str
    severity: str
    why: str
    advice: str
    facets: Sequence[BackupFacet] = ()
    since: datetime | None = None
    point: datetime | None = None
    verified_point: datetime | None = None
    rpo_s: float = 0.0
    last_run: BackupEntry | None = None
    snapshots: int | None = None
    size_bytes: int | None = None
    paused: BackupPause | None = None
    reviewed: BackupReview | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupHistory:
    """What is known of one job beyond its state.

    `entries` are the newest first; of a run there is one, which says how it ended, or how it stands. `due` is when it
    is to run next, which is in the past while `every` waits for a run that does not begin; None without a schedule.
    `asked` are the newest requests to verify it, of those since the collector began.
    """

    definition: Definition
    digest: str
    defined: datetime
    due: datetime | None
    entries: Sequence[BackupEntry]
    truncated: bool
    changes: Sequence[BackupChange] = ()
    reviews: Sequence[BackupReview] = ()
    asked: Sequence[VerifyRequest] = ()


ExemptKind = Literal["host", "service"]


@dataclass(frozen=True, slots=True)
class Exemption:
    """Somebody decided that a host or a service needs no backup, until then. `owner` answers for that."""

    id: str
    kind: ExemptKind
    name: str
    owner: str
    reason: str
    created: datetime
    expires: datetime
    by: str


class BackupsService(Protocol):
    """The backups of all hosts. What is asked for has been checked: texts have their length, durations their bounds.

    `by` is the user, for the audit trail: a write records itself with it. Raises NoSuch, Refused, Busy, StorageError.
    """

    async def jobs(self) -> Sequence[BackupJob]:
        """All of them, also those of hosts that are gone; in no order."""

    async def history(self, job_id: str, limit: int, before: datetime | None = None) -> BackupHistory:
        """Of one job, at most `limit` entries, older ones than `before` where that is given. NoSuch without it."""

    async def report(self, job_ids: Sequence[str], asked: Asked) -> tuple[Period, Sequence[BackupReportRow]]:
        """These jobs over a time, in this order, but for those that there are not; UsageError for a time that cannot
        be."""

    async def review(self, job_id: str, note: str, by: Caller) -> BackupReview:
        """Note that somebody looked at it."""

    async def pause(self, job_id: str, duration_s: float, reason: str, by: Caller) -> BackupJob:
        """Do not judge it for so long; one that is paused already is paused anew. The job as it stands then."""

    async def resume(self, job_id: str, by: Caller) -> BackupJob:
        """Judge it again now; Refused when it is not paused."""

    async def verify(self, job_id: str, level: str, by: Caller) -> VerifyRequest:
        """Ask its host to verify it, `level` or what is due first (""); as it stands a few seconds later. Unreachable
        when the host is not connected, Refused when it cannot be asked; whether it does it, the host decides.
        """

    async def exemptions(self) -> Sequence[Exemption]:
        """Those that have not expired, the next to expire first."""

    async def exempt(
        self, kind: ExemptKind, name: str, owner: str, reason: str, duration_s: float, by: Caller
    ) -> Exemption:
        """Note that this host or service needs no backup; a new one takes the place of the old."""

    async def withdraw(self, exemption_id: str, by: Caller) -> Exemption:
        """It does need one. NoSuch when there is none."""


def no_backup(name: str) -> NoSuch:
    """In the words for one that never was."""
    return NoSuch(f"there is no backup {shown(name)!r}: watchbill backups lists them")


def no_exemption(name: str) -> NoSuch:
    """The same for an exemption."""
    return NoSuch(f"there is no exemption {shown(name)!r}: watchbill backups exemptions lists them")


def shown(name: str) -> str:
    """A name as it was asked for, fit for a message."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:200])
