"""What the HTTP side needs from the rest of the collector: one small Protocol per thing, and the values that
cross.

`app.py` fits the real parts to these; `twins.py` holds in-memory ones. The values are also the JSON of the
answers and the schemas of the OpenAPI page, so a field added here is documented and served at once.

Times are aware UTC datetimes (written as RFC 3339), durations are seconds and end in `_s`.

Services raise the house's errors, and the HTTP side maps them once: `NoSuch` is 404, `UsageError` and
`ConfigError` 400, `Refused` 409, `Busy` 503 with `Retry-After`, `StorageError` 500, a `PromqlError` what
Prometheus answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from watchbill.errors import Refused
from watchbill_collector.api.health import AppStanding
from watchbill_collector.promql.budget import Budget
from watchbill_collector.scopes import View


def at(wall_ms: int) -> datetime:
    """UTC milliseconds as the datetime that these values use."""
    return datetime.fromtimestamp(wall_ms / 1000, UTC)


class NoSuch(Refused):
    """There is no such host, enrolment or rule; the message says which was asked for."""


# ---------------------------------------------------------------- who asks


class Role(Enum):
    """What a user may do, in the words of the surface page."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    AUTHOR = "author"
    ADMIN = "admin"
    AUDITOR = "auditor"


@dataclass(frozen=True, slots=True)
class Grant:
    """A role, and the label selector it holds for; an empty scope is everything."""

    role: Role
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Without grants it is nobody in particular, who may read where anonymous reading is on.

    `via` is anonymous, token or session; `user_id` means something to the UsersService alone.
    """

    name: str
    grants: tuple[Grant, ...] = ()
    via: str = "token"
    user_id: str = ""


ANONYMOUS = Caller("anonymous", (), "anonymous")


@dataclass(frozen=True, slots=True)
class LoginCode:
    """A one-time login: whoever opens `/login?code=CODE` before it expires is this user."""

    code: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session that was just begun: what goes into the cookies, known to nobody else afterwards."""

    cookie: str
    csrf: str
    expires: datetime


class UsersService(Protocol):
    """Who holds a token or a session. Asked at every request, so answers should be quick.

    What opens nothing is Refused, the same for every kind of wrong; `source`, the client's address, may be
    told to wait after too many of those (Busy), which must not touch who is right.
    """

    async def bearer(self, token: str, source: str) -> Caller:
        """The user of a bearer token. Raises Refused, Busy."""

    async def session(self, cookie: str, source: str) -> Caller:
        """The user of a session, noting that it was used. Raises Refused, Busy."""

    def csrf_is_right(self, cookie: str, csrf: str) -> bool:
        """Whether a writing request carries the token of its own session."""

    async def login_code(self, caller: Caller) -> LoginCode:
        """Make a one-time login for this user."""

    async def redeem(self, code: str, source: str) -> NewSession:
        """Use up a one-time login and begin its user's session. Raises Refused, Busy."""

    async def begin(self, caller: Caller, source: str) -> NewSession:
        """Begin a session for somebody who has just shown his token."""

    async def end(self, cookie: str, source: str) -> None:
        """Log out; a cookie that opens nothing is no error."""


# ---------------------------------------------------------------- queries


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """A query's result, rendered where it was computed.

    `result_type` is vector, matrix, scalar or string; `result` the JSON of the `result` key, as Prometheus
    writes it.
    """

    result_type: str
    result: bytes
    warnings: tuple[str, ...] = ()
    infos: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time in UTC milliseconds, both ends included; None is open."""

    start_ms: int | None = None
    end_ms: int | None = None


@dataclass(frozen=True, slots=True)
class MetricMetadata:
    """What is known about a metric name. `type` is counter, gauge, histogram, summary or unknown."""

    type: str
    help: str
    unit: str = ""


class QueryService(Protocol):
    """The query engine over history and head. Ask for it as `Call.query`, which is `within` the caller's view.

    Every method blocks and is called in a query thread, several at once. `budget` carries the deadline and
    the cancellation: implementations ask it often. `limit` is the number of series (or names) wanted, 0 for
    all; a truncated answer of `instant` and `range_` says so in its warnings. `matches` are selectors as
    text, any of which may match; none means every series. They raise PromqlError.
    """

    def within(self, view: View) -> "QueryService":
        """The same for who sees a part of the hosts alone: what is outside does not exist for it."""

    def instant(
        self, query: str, time_ms: int, budget: Budget, *, limit: int = 0, lookback_ms: int | None = None
    ) -> QueryAnswer:
        """Evaluate at one moment."""

    def range_(
        self,
        query: str,
        start_ms: int,
        end_ms: int,
        step_ms: int,
        budget: Budget,
        *,
        limit: int = 0,
        lookback_ms: int | None = None,
    ) -> QueryAnswer:
        """Evaluate at every step."""

    def series(
        self, matches: Sequence[str], span: Span, limit: int, budget: Budget
    ) -> Sequence[Mapping[str, str]]:
        """The label sets that match, each once."""

    def label_names(self, matches: Sequence[str], span: Span, limit: int, budget: Budget) -> Sequence[str]:
        """Label names in use, sorted."""

    def label_values(
        self, name: str, matches: Sequence[str], span: Span, limit: int, budget: Budget
    ) -> Sequence[str]:
        """Values of one label, sorted."""

    def metadata(self, metric: str, limit: int) -> Mapping[str, Sequence[MetricMetadata]]:
        """Type and help by metric name; all metrics when `metric` is empty."""

    def format(self, query: str) -> str:
        """The query, parsed and printed prettily."""


# ---------------------------------------------------------------- rules and alerts


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert: a rule's condition, held by one label set.

    `state` is pending, firing or resolved. `active_at` is when the condition began to hold, `since` when the
    present state began, `resolved_at` set only when resolved. `incomplete` says what is missing of the data that it
    was judged on, empty when nothing is. `service` is what it belongs to, `owner` whose that
    is; both are empty where no service was described for it. One that fires tells nobody anew while `silences` (ids)
    or `windows` (names) mean it, or because its host is known to be down (`inhibited`).
    """

    name: str
    state: str
    since: datetime
    active_at: datetime
    value: float
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    resolved_at: datetime | None = None
    incomplete: str = ""
    service: str = ""
    owner: str = ""
    silences: tuple[str, ...] = ()
    windows: tuple[str, ...] = ()
    inhibited: bool = False
    fingerprint: str = ""
    """16 hexadecimal digits of its labels: by them the page and notices name it."""


@dataclass(frozen=True, slots=True)
class RuleWarming:
    """A rule that cannot be judged yet for `hosts` of the `of` hosts that it reads, and until when at the latest."""

    hosts: int
    of: int
    until: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule and how its last evaluation went.

    `short` is the short form that it was written in, in words, empty where it was PromQL; `warming` None: every host
    can be judged; `series` is how many its last evaluation gave: alerts, or samples recorded.

    `type` is alerting or recording; `state` (alerting only) inactive, pending or firing; `health` ok, err or
    unknown.
    """

    type: str
    name: str
    query: str
    labels: Mapping[str, str]
    health: str
    last_error: str
    evaluation_time_s: float
    last_evaluation: datetime | None
    state: str = ""
    duration_s: float = 0.0
    keep_firing_for_s: float = 0.0
    annotations: Mapping[str, str] = field(default_factory=dict)
    alerts: tuple[Alert, ...] = ()
    short: str = ""
    warming: RuleWarming | None = None
    series: int = 0


@dataclass(frozen=True, slots=True)
class RuleGroup:
    """A group of rules, evaluated together."""

    name: str
    file: str
    interval_s: float
    rules: tuple[Rule, ...]
    evaluation_time_s: float
    last_evaluation: datetime | None
    limit: int = 0


@dataclass(frozen=True, slots=True)
class RuleProblem:
    """One thing wrong in a rule file; `line` 0 where none can be named."""

    line: int
    rule: str
    message: str


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What the collector makes of a rule file: its rules with their PromQL, or what is wrong."""

    groups: tuple[RuleGroup, ...]
    problems: tuple[RuleProblem, ...]
    warnings: tuple[RuleProblem, ...] = ()


class RulesService(Protocol):
    """The rules and what they say now. The answers are snapshots; asking costs no evaluation."""

    async def groups(self) -> Sequence[RuleGroup]:
        """Every group, in the order of files and groups."""

    async def alerts(self) -> Sequence[Alert]:
        """What is pending or firing."""

    async def resolved(self) -> Sequence[Alert]:
        """What resolved lately, newest first; bounded by the rules' own ring."""

    async def check(self, name: str, text: str) -> RuleVerdict:
        """Judge a rule file without loading it."""


# ---------------------------------------------------------------- hosts, enrolment, gaps


class HostState(Enum):
    """How a host stands. UNKNOWN: it was there before the collector started, and may be yet; STOPPED: its
    agent announced its end; NEVER: enrolled, and not heard of since.
    """

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"
    STOPPED = "stopped"
    NEVER = "never"
    PENDING = "pending"
    RETIRED = "retired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class GapSummary:
    """How much of a host's data is known to be missing, over the time that history keeps. Of `unknown` of the
    ranges nobody can say how many samples are missing: `samples` are the others'.
    """

    ranges: int = 0
    records: int = 0
    samples: int = 0
    last: datetime | None = None
    unknown: int = 0


class AbsenceKind(Enum):
    """ANNOUNCED: the host said that it goes. OVERDUE: it did, and should be back. UNEXPECTED: it said nothing."""

    ANNOUNCED = "announced"
    OVERDUE = "overdue"
    UNEXPECTED = "unexpected"


@dataclass(frozen=True, slots=True)
class Absence:
    """Why a host is not there. `reason` is the word it left with, empty when it left without one; `back_by` when it
    means to be back, if it said so.
    """

    kind: AbsenceKind
    reason: str
    since: datetime | None
    back_by: datetime | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """One host as the collector knows it. `name` is its `instance` label.

    `since` is when the state began. `clock_skew_s` is the host's wall clock minus the collector's.
    `outdated`: its agent is older than the collector. `transport` is how it came last: "grpc" or "mqtt".
    `absence` is there while the host is not, or has lost its link. Its next certificate will last
    `certificate_lifetime_s`, and one that has expired may be renewed for `expired_grace_s`. `apps` are the applications
    that its checks speak of.
    """

    name: str
    agent_id: str
    site: str
    state: HostState
    since: datetime | None
    last_seen: datetime | None
    agent_version: str
    interval_s: float | None
    series: int
    clock_skew_s: float | None
    labels: Mapping[str, str]
    gaps: GapSummary
    certificate_expires: datetime | None
    outdated: bool = False
    transport: str = ""
    absence: Absence | None = None
    certificate_lifetime_s: float | None = None
    expired_grace_s: float | None = None
    apps: Sequence[AppStanding] = ()


class HostsService(Protocol):
    """The hosts. `name` may be the instance or the agent's id; NoSuch when it is neither.

    `by` is the user, for the audit trail.
    """

    async def hosts(self) -> Sequence[Host]:
        """All of them, retired and revoked ones too, sorted by name."""

    async def host(self, name: str) -> Host:
        """One of them."""

    async def rename(self, name: str, to: str, by: Caller) -> Host:
        """Give a host another instance name; Refused when it is taken."""

    async def retire(self, name: str, by: Caller) -> Host:
        """The host is gone for good: its series end, its certificate is worth nothing, its history stays."""

    async def revoke(self, name: str, reason: str, by: Caller) -> Host:
        """Its certificate is worth nothing from now; a live session ends."""

    async def approve(self, name: str, by: Caller) -> Host:
        """Let a host in that waits for an administrator."""

    async def forget(self, name: str, by: Caller) -> None:
        """Remove a retired or revoked host from the lists; Refused while it is live."""


@dataclass(frozen=True, slots=True)
class EnrolmentOrder:
    """What an administrator asks for. Exactly one of `names` and `match` is given.

    `names`: one single-use token for each. `match`: one token for up to `uses` hosts whose names match the
    pattern. `ttl_s` None is the collector's default. `cidr` limits where from. `labels` are bound to the
    identity. With `mqtt` the hosts ask through the broker. The hosts' certificates last `certificate_lifetime_s` and
    may be renewed for `expired_grace_s` after their end; None: as the collector is configured.
    """

    names: tuple[str, ...] = ()
    match: str = ""
    uses: int = 1
    ttl_s: float | None = None
    cidr: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ephemeral: bool = False
    approve: bool = False
    replace: bool = False
    mqtt: bool = False
    certificate_lifetime_s: float | None = None
    expired_grace_s: float | None = None


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A token as the collector keeps it: everything but the secret. `state` is open, used, expired, dead or
    withdrawn. The last two are None where the hosts follow the collector's configuration.
    """

    id: str
    name: str
    match: str
    uses: int
    used: int
    state: str
    created: datetime
    created_by: str
    expires: datetime
    cidr: str
    labels: Mapping[str, str]
    ephemeral: bool
    approve: bool
    certificate_lifetime_s: float | None = None
    expired_grace_s: float | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """A token that was just made, shown this once, and the line to paste on the host."""

    enrolment: Enrolment
    token: str
    command: str


class EnrolmentService(Protocol):
    """Tokens that let hosts in."""

    async def create(self, order: EnrolmentOrder, by: Caller) -> Sequence[Issued]:
        """Make the tokens; UsageError when the order contradicts itself."""

    async def enrolments(self) -> Sequence[Enrolment]:
        """All of them, newest first."""

    async def revoke(self, enrolment_id: str, by: Caller) -> Enrolment:
        """Make a token worthless; NoSuch when there is none."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A range of records that is known to be missing, and why. Sequence numbers include both ends; `samples` is
    None where nobody can say how many there were; `duration_s` is from the first to the last of it, None where that is
    not known.
    """

    host: str
    agent_id: str
    stream: str
    from_seq: int
    to_seq: int
    count: int
    samples: int | None
    first: datetime | None
    last: datetime | None
    reason: str
    recorded: datetime
    duration_s: float | None = None


class GapsService(Protocol):
    """What is known to be missing."""

    async def gaps(self, host: str | None, since: datetime | None, limit: int) -> Sequence[Gap]:
        """Missing ranges, newest first, at most `limit`; of one host (name or agent id) when given."""
