"""Watchbill's own API, `/api/watchbill/v1/...`: hosts, enrolments, gaps, events, status.

The documents are the values of `ports.py`. Lists come under their plural name, so that keys can be added
beside them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp

from watchbill.errors import Busy, UsageError
from watchbill_collector.api.alert_list import ALERTS_DEFAULT, Wanted, listed
from watchbill_collector.api.answers import error_answer, json_answer
from watchbill_collector.api.doctor import Finding, judge
from watchbill_collector.api.events import Event, EventStream
from watchbill_collector.api.guard import NotAdmitted, admit, views
from watchbill_collector.api.health import CheckStanding, HostEvents
from watchbill_collector.api.params import Fields, limit_field, read_fields, time_field
from watchbill_collector.api.ports import (
    Alert,
    Enrolment,
    EnrolmentOrder,
    Gap,
    Host,
    HostState,
    Issued,
    LoginCode,
    NoSuch,
    RuleVerdict,
    at,
)
from watchbill_collector.api.routes import Call, Need, Parameter, Route, Within
from watchbill_collector.api.status_port import Status

T = TypeVar("T")

BASE = "/api/watchbill/v1"

GAPS_DEFAULT = 1_000
GAPS_MAX = 100_000
TIMELINE_DEFAULT = 100
TIMELINE_MAX = 1_000
LIVE = frozenset(HostState) - {HostState.RETIRED, HostState.REVOKED}
"""States of hosts whose name is taken."""
NAMES_MAX = 10_000
USES_MAX = 100_000
TTL_S_MAX = 366 * 86_400
TEXT_CHARACTERS_MAX = 1_024


# ---------------------------------------------------------------- bodies


@dataclass(frozen=True, slots=True)
class HostList:
    """Every host."""

    hosts: Sequence[Host]


@dataclass(frozen=True, slots=True)
class HostDetail:
    """One host, its worst alerts (`GET alerts` tells all), its newest gaps and its checks."""

    host: Host
    alerts: Sequence[Alert]
    gaps: Sequence[Gap]
    checks: Sequence[CheckStanding] = ()


@dataclass(frozen=True, slots=True)
class NewName:
    """The instance name that a host is to have."""

    to: str


@dataclass(frozen=True, slots=True)
class Reason:
    """Why, for the record."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class EnrolmentList:
    """Every token, without secrets."""

    enrolments: Sequence[Enrolment]


@dataclass(frozen=True, slots=True)
class IssuedList:
    """The tokens that were just made; their secrets are shown this once."""

    issued: Sequence[Issued]


@dataclass(frozen=True, slots=True)
class GapList:
    """Missing ranges, newest first. `truncated`: there are more."""

    gaps: Sequence[Gap]
    truncated: bool


@dataclass(frozen=True, slots=True)
class StatusDocument:
    """How the collector does, and what that means."""

    status: Status
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class Granted:
    """A role, and the selector of hosts it holds for; empty: all of them."""

    role: str
    scope: str


@dataclass(frozen=True, slots=True)
class Me:
    """Who the caller is to this collector."""

    name: str
    via: str
    roles: Sequence[str]
    anonymous_read: bool
    version: str
    grants: Sequence[Granted] = ()


@dataclass(frozen=True, slots=True)
class RuleFile:
    """A rule file to be judged. `name` is for the messages."""

    text: str
    name: str = "rules.yml"


@dataclass(frozen=True, slots=True)
class Empty:
    """Nothing."""


def decoded(body: bytes, kind: type[T]) -> T:
    """A JSON body as its type; an empty one is an empty object. Raises UsageError that says where it is
    wrong.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise UsageError(f"the body is not what this takes: {exc}") from exc
    except RecursionError as exc:
        raise UsageError("the body is not what this takes: it is nested too deeply") from exc


def _name(call: Call) -> str:
    name: str = call.request.path_params["name"]
    if not name or len(name) > TEXT_CHARACTERS_MAX or not name.isprintable():
        raise UsageError("the name in the path is empty, too long or not printable")
    return name


def _fields(call: Call) -> Fields:
    return read_fields(call.request.scope["query_string"])


# ---------------------------------------------------------------- hosts


async def _hosts(call: Call) -> Response:
    hosts = await call.house.services.hosts.hosts()
    return json_answer(HostList([host for host in hosts if call.view.host(host.name, host.labels)]))


async def own_host(call: Call, name: str) -> Host:
    """The host of that name or id, where the caller may do what he asks for. A host that he does not even see is not
    there (NoSuch, in the words for one that never was); one that he sees and may not change is refused.
    """
    try:
        host = await call.house.services.hosts.host(name)
    except NoSuch:
        if call.sees.whole:
            raise
        raise NoSuch(_no_host(name)) from None
    if not call.sees.host(host.name, host.labels):
        raise NoSuch(_no_host(name))
    if not call.view.host(host.name, host.labels):
        message = (
            f"{call.caller.name} may do this to {call.view.text} alone, and {host.name} is not among them"
        )
        raise NotAdmitted(403, "forbidden", "scope", message, by=call.caller)
    return host


def _no_host(name: str) -> str:
    return f"no host is called {name!r}: watchbill hosts lists them"


async def _host(call: Call) -> Response:
    services = call.house.services
    host = await own_host(call, _name(call))
    alerts = listed(await services.rules.alerts(), Wanted(host=host.name), limit=ALERTS_DEFAULT).alerts
    gaps = await services.gaps.gaps(host.agent_id, None, 100)
    return json_answer(HostDetail(host, alerts, gaps, await services.health.checks(host.agent_id)))


async def _host_events(call: Call) -> Response:
    fields = _fields(call)
    limit = min(limit_field(fields) or TIMELINE_DEFAULT, TIMELINE_MAX)
    host = await own_host(call, _name(call))
    before = fields.one("before")
    return json_answer(await call.house.services.health.timeline(host.agent_id, limit, before))


async def _rename(call: Call) -> Response:
    to = decoded(call.body, NewName).to
    if not to or len(to) > TEXT_CHARACTERS_MAX or not to.isprintable():
        raise UsageError("`to` has to be a printable name")
    host = await own_host(call, _name(call))
    return json_answer(await call.house.services.hosts.rename(host.agent_id, to, call.caller))


async def _retire(call: Call) -> Response:
    host = await own_host(call, _name(call))
    return json_answer(await call.house.services.hosts.retire(host.agent_id, call.caller))


async def _revoke(call: Call) -> Response:
    reason = decoded(call.body, Reason).reason[:TEXT_CHARACTERS_MAX]
    host = await own_host(call, _name(call))
    return json_answer(await call.house.services.hosts.revoke(host.agent_id, reason, call.caller))


async def _approve(call: Call) -> Response:
    host = await own_host(call, _name(call))
    return json_answer(await call.house.services.hosts.approve(host.agent_id, call.caller))


async def _forget(call: Call) -> Response:
    host = await own_host(call, _name(call))
    await call.house.services.hosts.forget(host.agent_id, call.caller)
    return json_answer(Empty())


# ---------------------------------------------------------------- enrolments


async def _enrolments(call: Call) -> Response:
    every = await call.house.services.enrolments.enrolments()
    return json_answer(EnrolmentList([one for one in every if call.view.host(one.name, one.labels)]))


async def _enroll(call: Call) -> Response:
    order = decoded(call.body, EnrolmentOrder)
    if bool(order.names) == bool(order.match):
        raise UsageError("give either `names` or `match`")
    if len(order.names) > NAMES_MAX:
        raise UsageError(f"{len(order.names)} names at once, more than {NAMES_MAX}")
    if not 0 < order.uses <= USES_MAX or (order.ttl_s is not None and not 0 < order.ttl_s <= TTL_S_MAX):
        raise UsageError(
            f"wanted 1 to {USES_MAX} `uses`, and a `ttl_s` of more than 0 and at most {TTL_S_MAX}"
        )
    await _check_order(call, order)
    return json_answer(IssuedList(await call.house.services.enrolments.create(order, call.caller)), 201)


async def _check_order(call: Call, order: EnrolmentOrder) -> None:
    """Who has a scope lets hosts into it alone, and replaces none outside of it. Raises NotAdmitted."""
    if call.view.whole:
        return
    inside = all(call.view.host(name, order.labels) for name in order.names or ("",))
    if inside and order.replace:
        taken = {
            host.name.lower(): host for host in await call.house.services.hosts.hosts() if host.state in LIVE
        }
        replaced = [taken[name.lower()] for name in order.names if name.lower() in taken]
        inside = not order.match and all(call.view.host(one.name, one.labels) for one in replaced)
    if not inside:
        message = f"{call.caller.name} may let hosts into {call.view.text} alone: bind labels that say so"
        raise NotAdmitted(
            403, "forbidden", "scope", message, "watchbill enroll create --labels ...", by=call.caller
        )


async def _withdraw(call: Call) -> Response:
    if not call.view.whole:
        every = await call.house.services.enrolments.enrolments()
        mine = {one.id for one in every if call.view.host(one.name, one.labels)}
        if _name(call) not in mine:
            raise NoSuch("there is no such token: watchbill enroll list")
    return json_answer(await call.house.services.enrolments.revoke(_name(call), call.caller))


# ---------------------------------------------------------------- gaps, rules, status


async def _gaps(call: Call) -> Response:
    fields = _fields(call)
    limit = min(limit_field(fields) or GAPS_DEFAULT, GAPS_MAX)
    since_ms = time_field(fields, "since", None)
    host = fields.one("host") or None
    if host is not None:
        host = (await own_host(call, host)).agent_id
    since = None if since_ms is None else _moment(since_ms)
    if call.view.whole or host is not None:
        gaps = await call.house.services.gaps.gaps(host, since, limit + 1)
    else:
        # Those of others are left out after reading: as many as are kept at all have to be read for it.
        mine = {
            one.agent_id
            for one in await call.house.services.hosts.hosts()
            if call.view.host(one.name, one.labels)
        }
        every = await call.house.services.gaps.gaps(None, since, GAPS_MAX)
        gaps = [gap for gap in every if gap.agent_id in mine][: limit + 1]
    return json_answer(GapList(gaps[:limit], len(gaps) > limit))


def _moment(wall_ms: int) -> datetime:
    try:
        return at(wall_ms)
    except (ValueError, OverflowError, OSError):
        return datetime.min.replace(tzinfo=UTC)


async def _check_rules(call: Call) -> Response:
    file = decoded(call.body, RuleFile)
    return json_answer(await call.house.services.rules.check(file.name[:TEXT_CHARACTERS_MAX], file.text))


async def _status(call: Call) -> Response:
    status = await call.house.services.status.status()
    if not call.view.whole:
        # How the collector does is everybody's to know; how large the fleet is, and who is refused, is not.
        status = replace(status, sessions=0, series=0, refused={})
    return json_answer(StatusDocument(status, judge(status)))


async def _events(call: Call) -> ASGIApp:
    house = call.house
    if house.bus.full or house.stopping.is_set():
        house.counters.refused.labels("followers").inc()
        raise Busy("too many clients follow the events already", retry_after_s=10.0)
    last_id = call.request.headers.get("last-event-id", "") or _fields(call).one("last_event_id")

    async def still_welcome() -> bool:
        if call.caller.via == "anonymous":
            return True
        try:
            caller = await admit(call.request, _EVENTS_ROUTE, house)
        except NotAdmitted:
            return False
        # Whose grants have changed has to come again, and is judged anew.
        return views(caller, _EVENTS_ROUTE) == (call.view, call.sees)

    def wanted(event: Event) -> bool:
        return call.view.whole or (event.subject is not None and call.covers(event.subject))

    return EventStream(house.bus, last_id[:64], house.stopping, still_welcome, wanted=wanted)


# ---------------------------------------------------------------- who am I, one-time logins


async def _me(call: Call) -> Response:
    caller = call.caller
    roles = sorted({grant.role.value for grant in caller.grants})
    options = call.house.options
    grants = tuple(Granted(grant.role.value, grant.scope) for grant in caller.grants)
    return json_answer(Me(caller.name, caller.via, roles, options.anonymous_read, options.version, grants))


async def _logins(call: Call) -> Response:
    return json_answer(await call.house.services.users.login_code(call.caller), 201)


async def _openapi(call: Call) -> Response:
    from watchbill_collector.api.openapi import document
    from watchbill_collector.api.table import ROUTES

    made = await asyncio.to_thread(document, ROUTES, call.house.options.version)
    return json_answer(made)


async def _later(call: Call) -> Response:
    thing = call.request.url.path.removeprefix(BASE).strip("/").split("/")[0]
    return error_answer(404, "not_found", f"{thing} are not built yet", "watchbill --help")


LATER = ("incidents",)
"""What the surface promises and later versions bring: its paths say so."""

_HOST = Parameter("name", "Instance name, or agent id.", required=True)

_EVENTS_ROUTE = Route(
    ("GET",),
    f"{BASE}/events",
    Need.READ,
    _events,
    "Changes as they happen: events `alert`, `host`, `backup` and `run`; `resync`: read everything again.",
    (Parameter("last_event_id", "Like the Last-Event-ID header: go on after this event."),),
    media="text/event-stream",
    within=Within.FILTERED,
)

OUR_ROUTES: tuple[Route, ...] = (
    Route(
        ("GET",), f"{BASE}/hosts", Need.READ, _hosts, "Every host.", gives=HostList, within=Within.FILTERED
    ),
    Route(
        ("POST",),
        f"{BASE}/hosts/{{name:path}}/rename",
        Need.ADMIN,
        _rename,
        "Give a host another instance name.",
        takes=NewName,
        gives=Host,
        within=Within.OBJECT,
    ),
    Route(
        ("POST",),
        f"{BASE}/hosts/{{name:path}}/retire",
        Need.ADMIN,
        _retire,
        "A host is gone for good: its series end, its certificate is worth nothing, its history stays.",
        gives=Host,
        within=Within.OBJECT,
    ),
    Route(
        ("POST",),
        f"{BASE}/hosts/{{name:path}}/revoke",
        Need.ADMIN,
        _revoke,
        "Make a host's certificate worthless; a live session ends.",
        takes=Reason,
        gives=Host,
        within=Within.OBJECT,
    ),
    Route(
        ("POST",),
        f"{BASE}/hosts/{{name:path}}/approve",
        Need.ADMIN,
        _approve,
        "Let in a host that waits for an administrator.",
        gives=Host,
        within=Within.OBJECT,
    ),
    Route(
        ("GET",),
        f"{BASE}/hosts/{{name:path}}/events",
        Need.READ,
        _host_events,
        "What a host told, newest first: its agent's starts and stops, changes of its checks, logins.",
        (
            Parameter("limit", f"At most so many, {TIMELINE_DEFAULT} without it."),
            Parameter("before", "The `more` of an earlier answer: go on after it."),
        ),
        gives=HostEvents,
        within=Within.OBJECT,
    ),
    Route(
        ("GET",),
        f"{BASE}/hosts/{{name:path}}",
        Need.READ,
        _host,
        "One host, its alerts, its newest gaps, its applications and checks.",
        gives=HostDetail,
        within=Within.OBJECT,
    ),
    Route(
        ("DELETE",),
        f"{BASE}/hosts/{{name:path}}",
        Need.ADMIN,
        _forget,
        "Remove a retired or revoked host from the lists.",
        gives=Empty,
        within=Within.OBJECT,
    ),
    Route(
        ("GET",),
        f"{BASE}/enrolments",
        Need.ADMIN,
        _enrolments,
        "Every token.",
        gives=EnrolmentList,
        within=Within.FILTERED,
    ),
    Route(
        ("POST",),
        f"{BASE}/enrolments",
        Need.ADMIN,
        _enroll,
        "Make tokens that let hosts in, with the line to paste on each host.",
        takes=EnrolmentOrder,
        gives=IssuedList,
        within=Within.FILTERED,
    ),
    Route(
        ("DELETE",),
        f"{BASE}/enrolments/{{name}}",
        Need.ADMIN,
        _withdraw,
        "Make a token worthless.",
        gives=Enrolment,
        within=Within.OBJECT,
    ),
    Route(
        ("GET",),
        f"{BASE}/gaps",
        Need.READ,
        _gaps,
        "Which data are known to be missing, and why.",
        (
            Parameter("host", "Instance name or agent id; all hosts without it."),
            Parameter("since", "Recorded since; unix seconds or RFC 3339."),
            Parameter("limit", f"At most so many, {GAPS_DEFAULT} without it."),
        ),
        gives=GapList,
        within=Within.FILTERED,
    ),
    Route(
        ("POST",),
        f"{BASE}/rules/check",
        Need.KNOWN,
        _check_rules,
        "Judge a rule file without loading it.",
        takes=RuleFile,
        gives=RuleVerdict,
        within=Within.NO_HOSTS,
    ),
    Route(
        ("GET",),
        f"{BASE}/status",
        Need.READ,
        _status,
        "How the collector does, and what to do about it.",
        gives=StatusDocument,
        within=Within.FILTERED,
    ),
    _EVENTS_ROUTE,
    Route(("GET",), f"{BASE}/me", Need.READ, _me, "Who the caller is.", gives=Me, within=Within.NO_HOSTS),
    Route(
        ("POST",),
        f"{BASE}/logins",
        Need.KNOWN,
        _logins,
        "Make a one-time login for oneself: open `/login?code=CODE` in a browser.",
        gives=LoginCode,
        within=Within.NO_HOSTS,
    ),
    Route(
        ("GET",),
        f"{BASE}/openapi.json",
        Need.READ,
        _openapi,
        "This description.",
        media="application/json",
        within=Within.NO_HOSTS,
    ),
    *(
        Route(
            ("GET", "POST", "PUT", "PATCH", "DELETE"),
            f"{BASE}/{thing}{rest}",
            Need.READ,
            _later,
            f"Not built yet: {thing}.",
            within=Within.NO_HOSTS,
        )
        for thing in LATER
        for rest in ("", "/{rest:path}")
    ),
)
