# ruff: noqa: ARG002 - The twins take what the contracts give them, and need less of it.
"""In-memory twins of the services in `ports.py`: for tests of the HTTP side, and for trying a client out.

They keep what they are given, decide what the contract says, and refuse what it refuses; the query twin
answers from a table of expressions. `secrets` and times come from the real ones' sources, so that nothing
here is weaker.
"""

import dataclasses
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from watchbill.clock import Clock
from watchbill.errors import Refused
from watchbill_collector.api.backup_twin import BackupsTwin
from watchbill_collector.api.health import HealthTwin
from watchbill_collector.api.house import Services
from watchbill_collector.api.people_twins import AuditTwin, ChannelsTwin, PeopleTwin
from watchbill_collector.api.ports import (
    Alert,
    Caller,
    Enrolment,
    EnrolmentOrder,
    Gap,
    Host,
    HostState,
    Issued,
    LoginCode,
    MetricMetadata,
    NewSession,
    NoSuch,
    QueryAnswer,
    RuleGroup,
    RuleProblem,
    RuleVerdict,
    Span,
    at,
)
from watchbill_collector.api.runbook_twin import RunbooksTwin
from watchbill_collector.api.status_port import Status
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.errors import BadQuery
from watchbill_collector.scopes import View

LOGIN_TTL = timedelta(minutes=10)
SESSION_TTL = timedelta(hours=12)
ENROLMENT_TTL_S = 900.0


class UsersTwin:
    """Users by token."""

    def __init__(self, clock: Clock, tokens: Mapping[str, Caller]) -> None:
        self._clock = clock
        self.tokens = dict(tokens)
        self.sources: list[str] = []
        self._codes: dict[str, tuple[Caller, datetime]] = {}
        self._sessions: dict[str, tuple[Caller, NewSession]] = {}

    async def bearer(self, token: str, source: str) -> Caller:
        """The user of a token."""
        self.sources.append(source)
        if token not in self.tokens:
            raise Refused("the bearer token opens nothing")
        return self.tokens[token]

    async def session(self, cookie: str, source: str) -> Caller:
        """The user of a session."""
        caller, session = self._sessions.get(cookie, (None, None))
        if caller is None or session is None or session.expires <= self._now():
            raise Refused("no session: log in again")
        return caller

    def csrf_is_right(self, cookie: str, csrf: str) -> bool:
        """Whether it is that session's."""
        _, session = self._sessions.get(cookie, (None, None))
        return session is not None and secrets.compare_digest(session.csrf.encode(), csrf.encode())

    async def login_code(self, caller: Caller) -> LoginCode:
        """A one-time login."""
        made = LoginCode(secrets.token_urlsafe(20), self._now() + LOGIN_TTL)
        self._codes[made.code] = (caller, made.expires)
        return made

    async def redeem(self, code: str, source: str) -> NewSession:
        """Use a one-time login up."""
        caller, expires = self._codes.pop(code, (None, self._now()))
        if caller is None or expires <= self._now():
            raise Refused("the login code opens nothing")
        return await self.begin(caller, source)

    async def begin(self, caller: Caller, source: str) -> NewSession:
        """Begin a session."""
        made = NewSession(secrets.token_urlsafe(24), secrets.token_hex(32), self._now() + SESSION_TTL)
        self._sessions[made.cookie] = (dataclasses.replace(caller, via="session"), made)
        return made

    async def end(self, cookie: str, source: str) -> None:
        """Log out."""
        self._sessions.pop(cookie, None)

    def _now(self) -> datetime:
        return at(self._clock.wall_ms())


Computation = Callable[[Budget], QueryAnswer]


class QueryTwin:
    """Answers expressions from a table of computations; `up` is there. Anything else is a parse error."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.series_rows: list[dict[str, str]] = [{"__name__": "up", "instance": "web1", "job": "node"}]
        self.metadata_rows: dict[str, tuple[MetricMetadata, ...]] = {
            "up": (MetricMetadata("gauge", "1 heard and fresh, 0 silent."),)
        }
        self.answers: dict[str, Computation] = {}
        self.lock = threading.Lock()
        self.asked: list[tuple[object, ...]] = []
        self.views: list[View] = []

    def within(self, view: View) -> "QueryTwin":
        """Who sees a part sees nothing of this twin's."""
        self.views.append(view)
        return self if view.whole else QueryTwin.empty(self._clock)

    @classmethod
    def empty(cls, clock: Clock) -> "QueryTwin":
        """One without any series."""
        twin = cls(clock)
        twin.series_rows, twin.metadata_rows = [], {}
        twin.answers["up"] = lambda _: QueryAnswer("vector", b"[]")
        return twin

    def instant(
        self, query: str, time_ms: int, budget: Budget, *, limit: int = 0, lookback_ms: int | None = None
    ) -> QueryAnswer:
        """From the table, or `up`."""
        with self.lock:
            self.asked.append(("instant", query, time_ms, limit, lookback_ms))
        if query in self.answers:
            return self.answers[query](budget)
        if query == "up":
            metric = b'{"__name__":"up","instance":"web1","job":"node"}'
            value = b'[{"metric":%s,"value":[%s,"1"]}]' % (metric, _seconds(time_ms))
            return QueryAnswer("vector", value)
        if query == "1+1":
            return QueryAnswer("scalar", b'[%s,"2"]' % _seconds(time_ms))
        raise BadQuery(
            "parse error: no expression that this twin knows" if query else "parse error: no expression"
        )

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
        """From the table, or `up` at every step."""
        with self.lock:
            self.asked.append(("range", query, start_ms, end_ms, step_ms, limit, lookback_ms))
        if query in self.answers:
            return self.answers[query](budget)
        if query != "up":
            raise BadQuery("parse error: no expression that this twin knows")
        values = b",".join(b'[%s,"1"]' % _seconds(moment) for moment in range(start_ms, end_ms + 1, step_ms))
        metric = b'{"__name__":"up","instance":"web1","job":"node"}'
        return QueryAnswer("matrix", b'[{"metric":%s,"values":[%s]}]' % (metric, values))

    def series(
        self, matches: Sequence[str], span: Span, limit: int, budget: Budget
    ) -> Sequence[Mapping[str, str]]:
        """Every row whose name is among the selectors."""
        self._check(matches)
        rows = [row for row in self.series_rows if row["__name__"] in matches]
        return rows[:limit] if limit else rows

    def label_names(self, matches: Sequence[str], span: Span, limit: int, budget: Budget) -> Sequence[str]:
        """The names in the rows."""
        self._check(matches)
        names = sorted({name for row in self.series_rows for name in row})
        return names[:limit] if limit else names

    def label_values(
        self, name: str, matches: Sequence[str], span: Span, limit: int, budget: Budget
    ) -> Sequence[str]:
        """The values in the rows."""
        self._check(matches)
        values = sorted({row[name] for row in self.series_rows if name in row})
        return values[:limit] if limit else values

    def metadata(self, metric: str, limit: int) -> Mapping[str, Sequence[MetricMetadata]]:
        """The rows of one metric, or of all."""
        rows = {name: found for name, found in self.metadata_rows.items() if metric in ("", name)}
        return dict(list(rows.items())[:limit]) if limit else rows

    def format(self, query: str) -> str:
        """The text, trimmed."""
        if not query.strip():
            raise BadQuery("parse error: no expression")
        return query.strip()

    def _check(self, matches: Sequence[str]) -> None:
        for match in matches:
            if not match.isidentifier():
                raise BadQuery(f"parse error in {match!r}")


def _seconds(time_ms: int) -> bytes:
    return b"%d.%03d" % divmod(time_ms, 1000)


class RulesTwin:
    """Rules and alerts as they were put in."""

    def __init__(self) -> None:
        self.rule_groups: list[RuleGroup] = []
        self.active: list[Alert] = []
        self.past: list[Alert] = []

    async def groups(self) -> Sequence[RuleGroup]:
        """What was put in."""
        return self.rule_groups

    async def alerts(self) -> Sequence[Alert]:
        """What was put in."""
        return self.active

    async def resolved(self) -> Sequence[Alert]:
        """What was put in."""
        return self.past

    async def check(self, name: str, text: str) -> RuleVerdict:
        """Good when it has groups."""
        if "groups:" in text:
            return RuleVerdict(tuple(self.rule_groups), ())
        return RuleVerdict((), (RuleProblem(1, "", f"{name}: no groups"),))


class HostsTwin:
    """Hosts by agent id."""

    def __init__(self, clock: Clock, hosts: Sequence[Host] = ()) -> None:
        self._clock = clock
        self._hosts = {host.agent_id: host for host in hosts}
        self.journal: list[tuple[str, ...]] = []

    async def hosts(self) -> Sequence[Host]:
        """All, by name."""
        return sorted(self._hosts.values(), key=lambda host: host.name)

    async def host(self, name: str) -> Host:
        """One."""
        if name in self._hosts:
            return self._hosts[name]
        for host in self._hosts.values():
            if host.name == name:
                return host
        raise NoSuch(f"there is no host {name}")

    async def rename(self, name: str, to: str, by: Caller) -> Host:
        """Another name."""
        host = await self.host(name)
        if any(other.name == to for other in self._hosts.values()):
            raise Refused(f"{to} is the name of a live host")
        return self._put(dataclasses.replace(host, name=to), "rename", to, by.name)

    async def retire(self, name: str, by: Caller) -> Host:
        """Gone for good."""
        return self._change(await self.host(name), HostState.RETIRED, "retire", by.name)

    async def revoke(self, name: str, reason: str, by: Caller) -> Host:
        """Thrown out."""
        return self._change(await self.host(name), HostState.REVOKED, "revoke", reason, by.name)

    async def approve(self, name: str, by: Caller) -> Host:
        """Let in."""
        host = await self.host(name)
        if host.state is not HostState.PENDING:
            raise Refused(f"{host.name} does not wait for anybody")
        return self._change(host, HostState.NEVER, "approve", by.name)

    async def forget(self, name: str, by: Caller) -> None:
        """Off the list."""
        host = await self.host(name)
        if host.state not in (HostState.RETIRED, HostState.REVOKED):
            raise Refused(f"{host.name} is live; retire it first")
        del self._hosts[host.agent_id]

    def present(self) -> Sequence[Host]:
        """All, as they are now."""
        return list(self._hosts.values())

    def _change(self, host: Host, state: HostState, *entry: str) -> Host:
        return self._put(dataclasses.replace(host, state=state, since=at(self._clock.wall_ms())), *entry)

    def _put(self, host: Host, *entry: str) -> Host:
        self._hosts[host.agent_id] = host
        self.journal.append(entry)
        return host


class EnrolmentTwin:
    """Tokens in a list."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._enrolments: dict[str, Enrolment] = {}

    async def create(self, order: EnrolmentOrder, by: Caller) -> Sequence[Issued]:
        """One token a name, or one for a pattern."""
        return [self._issue(order, name, by) for name in order.names or ("",)]

    async def enrolments(self) -> Sequence[Enrolment]:
        """Newest first."""
        return list(reversed(self._enrolments.values()))

    async def revoke(self, enrolment_id: str, by: Caller) -> Enrolment:
        """Worthless from now."""
        if enrolment_id not in self._enrolments:
            raise NoSuch(f"there is no enrolment {enrolment_id}")
        gone = dataclasses.replace(self._enrolments[enrolment_id], state="withdrawn")
        self._enrolments[enrolment_id] = gone
        return gone

    def _issue(self, order: EnrolmentOrder, name: str, by: Caller) -> Issued:
        now = at(self._clock.wall_ms())
        enrolment = Enrolment(
            id=secrets.token_hex(6),
            name=name,
            match=order.match,
            uses=order.uses if order.match else 1,
            used=0,
            state="open",
            created=now,
            created_by=by.name,
            expires=now + timedelta(seconds=order.ttl_s or ENROLMENT_TTL_S),
            cidr=order.cidr,
            labels=order.labels,
            ephemeral=order.ephemeral,
            approve=order.approve,
            certificate_lifetime_s=order.certificate_lifetime_s,
            expired_grace_s=order.expired_grace_s,
        )
        self._enrolments[enrolment.id] = enrolment
        token = f"wb1.{enrolment.id}.{secrets.token_urlsafe(20)}"
        return Issued(enrolment, token, f"printf %s '{token}' | sudo watchbill-agent enroll --token-file -")


class GapsTwin:
    """Gaps as they were put in."""

    def __init__(self) -> None:
        self.rows: list[Gap] = []

    async def gaps(self, host: str | None, since: datetime | None, limit: int) -> Sequence[Gap]:
        """Those of a host, since a moment."""
        oldest = since or datetime.min.replace(tzinfo=UTC)
        found = [
            row for row in self.rows if row.recorded >= oldest and host in (None, row.host, row.agent_id)
        ]
        return found[:limit]


class StatusTwin:
    """A status as it was put in."""

    def __init__(self, clock: Clock) -> None:
        now = at(clock.wall_ms())
        self.present = Status(
            version="0.1.0",
            started=now,
            now=now,
            site="main",
            stores=(),
            disks=(),
            certificates=(),
            ports=(),
            sessions=0,
            series=0,
            commit_pending=0,
            commit_oldest_s=0.0,
            clock_synchronised=True,
            rules_failing=0,
            rules_late_s=0.0,
        )
        self.not_ready = ""

    async def status(self) -> Status:
        """What was put in."""
        return self.present

    async def ready(self) -> str:
        """What was put in."""
        return self.not_ready


class BindingsTwin:
    """The labels that hosts have, as bound."""

    generation = 0

    def __init__(self, hosts: "HostsTwin") -> None:
        self._of = hosts

    def bound(self, instance: str) -> Mapping[str, str] | None:
        """Those of one host."""
        return dict(self.hosts()).get(instance)

    def hosts(self) -> Sequence[tuple[str, Mapping[str, str]]]:
        """Those of all."""
        return [(host.name, host.labels) for host in self._of.present()]


@dataclasses.dataclass(frozen=True, slots=True)
class Twins:
    """All of them; `services` is what the HTTP side takes."""

    users: UsersTwin
    query: QueryTwin
    rules: RulesTwin
    hosts: HostsTwin
    enrolments: EnrolmentTwin
    gaps: GapsTwin
    status: StatusTwin
    audit: AuditTwin
    people: PeopleTwin
    channels: ChannelsTwin
    backups: BackupsTwin
    runbooks: RunbooksTwin
    health: HealthTwin

    @staticmethod
    def make(clock: Clock, tokens: Mapping[str, Caller], hosts: Sequence[Host] = ()) -> "Twins":
        """A whole set."""
        kept = HostsTwin(clock, hosts)
        return Twins(
            users=UsersTwin(clock, tokens),
            query=QueryTwin(clock),
            rules=RulesTwin(),
            hosts=kept,
            enrolments=EnrolmentTwin(clock),
            gaps=GapsTwin(),
            status=StatusTwin(clock),
            audit=AuditTwin(clock),
            people=PeopleTwin(clock),
            channels=ChannelsTwin(),
            backups=BackupsTwin(clock),
            runbooks=RunbooksTwin(clock, BindingsTwin(kept)),
            health=HealthTwin(),
        )

    def services(self) -> Services:
        """As the HTTP side takes them."""
        return Services(
            query=self.query,
            rules=self.rules,
            hosts=self.hosts,
            enrolments=self.enrolments,
            gaps=self.gaps,
            users=self.users,
            status=self.status,
            audit=self.audit,
            people=self.people,
            bindings=BindingsTwin(self.hosts),
            channels=self.channels,
            backups=self.backups,
            runbooks=self.runbooks,
            health=self.health,
        )
