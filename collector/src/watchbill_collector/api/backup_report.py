"""The report on backups over a time, one row a job: what ran, what was proven, how the RPO was kept, who looked at it.

The values that cross, see `backup_port.py`; each row stands for itself, as evidence does that is handed on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from watchbill.errors import UsageError
from watchbill_collector.api.ports import at

DAY_MS: Final = 86_400_000
PERIOD_DEFAULT_MS: Final = 30 * DAY_MS
PERIOD_MS_MAX: Final = 400 * DAY_MS
"""Records are kept for so long."""
ROWS_DEFAULT: Final = 100
ROWS_MAX: Final = 200
"""Rows of one answer: each reads its job's records. The rest comes with `offset`."""
REVIEWS_TOLD: Final = 20
"""Reviews of a row, the newest."""
DIGESTS_TOLD: Final = 20
"""Versions of a definition of a row, the newest."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which time, and which share of it the RPO is to be kept; None for what nobody said."""

    since_ms: int | None = None
    until_ms: int | None = None
    objective: float | None = None


@dataclass(frozen=True, slots=True)
class Period:
    """The time of a report, and its objective."""

    since_ms: int
    until_ms: int
    objective: float


@dataclass(frozen=True, slots=True)
class BackupSpan:
    """A stretch of time in which the newest point was older than the RPO."""

    began: datetime
    ended: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRpo:
    """How the RPO was kept from `since` to `until`; of `unknown_s` after that nothing is known.

    `kept` is the share of the time, None when nothing is known of any. `over_s` of it were beyond, in `times`
    stretches, of which `spans` are the newest. `budget_s` may be beyond so that `objective` is met, `left_s` of that
    are left: negative once it is not met. `worst_s` is how old the newest point became, at least.
    """

    rpo_s: float
    objective: float
    since: datetime
    until: datetime
    unknown_s: float
    kept: float | None
    over_s: float
    times: int
    spans: Sequence[BackupSpan]
    worst_s: float
    budget_s: float
    left_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportReview:
    """Somebody looked at it."""

    at: datetime
    by: str
    word: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReportRow:
    """One job over the time. `digest` names what it is judged by, `digests` the versions that came in that time, too.

    Runs and looks are counted by how they ended, `runs_unended` never told. Proofs are verifications of any level but
    restores, which are counted apart. `words` says how often it became each word. `rpo` is None for a job without one.
    `truncated`: there were more records than are read, and the oldest are not in.
    """

    id: str
    name: str
    host: str
    agent_id: str
    labels: Mapping[str, str]
    service: str
    tool: str
    word: str
    digest: str
    digests: Sequence[str]
    runs_ok: int = 0
    runs_partial: int = 0
    runs_failed: int = 0
    runs_unknown: int = 0
    runs_unended: int = 0
    last_ok: datetime | None = None
    looks: int = 0
    looks_unread: int = 0
    proofs_ok: int = 0
    proofs_failed: int = 0
    last_proof: datetime | None = None
    restores_ok: int = 0
    restores_failed: int = 0
    last_restore: datetime | None = None
    words: Mapping[str, int]
    rpo: BackupRpo | None
    reviews: Sequence[ReportReview]
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """Rows by host and name. `total` is how many jobs there are of what was asked for; `truncated`: some are not in
    `rows`, and come with `offset`.
    """

    since: datetime
    until: datetime
    objective: float
    rows: Sequence[BackupReportRow]
    total: int
    truncated: bool


def period_of(asked: Asked, now_ms: int, objective_default: float) -> Period:
    """What is meant, checked. Raises UsageError."""
    until_ms = now_ms if asked.until_ms is None else min(asked.until_ms, now_ms)
    since_ms = until_ms - PERIOD_DEFAULT_MS if asked.since_ms is None else asked.since_ms
    if not 0 < until_ms - since_ms <= PERIOD_MS_MAX or since_ms < 0:
        raise UsageError(
            f"`since` got {_shown(since_ms)}, wanted a time before {_shown(until_ms)}, "
            f"{PERIOD_MS_MAX // DAY_MS} days at most"
        )
    objective = objective_default if asked.objective is None else asked.objective
    if not 0 < objective < 1:
        raise UsageError(f"`objective` got {objective:g}, wanted a share between 0 and 1, such as 0.999")
    return Period(since_ms, until_ms, objective)


def _shown(wall_ms: int) -> str:
    try:
        return at(wall_ms).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{wall_ms / 1000:g}"
