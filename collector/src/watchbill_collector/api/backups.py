"""`/api/watchbill/v1/backups`: what is backed up where, how that stands and why, and who looked at it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from starlette.responses import Response

from watchbill.backups.record import Kind
from watchbill.errors import UsageError
from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.backup_cover import Uncovered, uncovered
from watchbill_collector.api.backup_list import (
    JOBS_DEFAULT,
    JOBS_MAX,
    SEARCHED_MAX,
    BackupList,
    WantedJobs,
    listed,
    named,
)
from watchbill_collector.api.backup_port import (
    EXEMPTION_S_MAX,
    NOTE_CHARACTERS_MAX,
    PAUSE_S_MAX,
    WORDS,
    BackupEntry,
    BackupHistory,
    BackupJob,
    BackupReview,
    Exemption,
    ExemptKind,
    VerifyRequest,
    at_or_none,
    no_backup,
    no_exemption,
    shown,
)
from watchbill_collector.api.backup_report import ROWS_DEFAULT, ROWS_MAX, Asked, BackupReport, BackupRpo
from watchbill_collector.api.evidence import ARCHIVE_MEDIA, archive_answer
from watchbill_collector.api.evidence_port import WantedBackups
from watchbill_collector.api.guard import NotAdmitted
from watchbill_collector.api.ours import decoded, own_host
from watchbill_collector.api.params import Fields, limit_field, read_fields, time_field
from watchbill_collector.api.ports import NoSuch, at
from watchbill_collector.api.routes import ROLES, Call, Need, Parameter, Route, Within
from watchbill_collector.scopes import EVERYTHING, INSTANCE, View

BASE: Final = "/api/watchbill/v1"
ENTRIES_DEFAULT: Final = 100
ENTRIES_MAX: Final = 1_000
"""Entries of one answer; older ones come with `before`."""
NAME_CHARACTERS_MAX: Final = 2_048
"""HOST/JOB, of the longest names that either may have."""


# ---------------------------------------------------------------- what crosses


@dataclass(frozen=True, slots=True)
class BackupDetail:
    """One job: how it stands, what it is judged by, its newest runs, and everything that was told of it lately.
    `yours`: the caller may pause and review it. `rpo`: how its RPO was kept in the last 30 days.
    """

    backup: BackupJob
    history: BackupHistory
    runs: Sequence[BackupEntry]
    yours: bool
    rpo: BackupRpo | None


@dataclass(frozen=True, slots=True)
class ReviewOrder:
    """What somebody who looked at it has to say."""

    note: str


@dataclass(frozen=True, slots=True)
class VerifyOrder:
    """What to prove: structure, data or restore; empty: what is due first of what its host declares."""

    level: Literal["", "structure", "data", "restore"] = ""


@dataclass(frozen=True, slots=True)
class PauseOrder:
    """Not to be judged for so long, and why."""

    duration_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class ExemptionOrder:
    """A host or a service that needs no backup, for so long: who answers for that, and why."""

    kind: ExemptKind
    name: str
    owner: str
    reason: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class ExemptionList:
    """Exemptions that hold, the next to expire first."""

    exemptions: Sequence[Exemption]


# ---------------------------------------------------------------- reading


def _words(fields: Fields) -> frozenset[str]:
    said = [part.strip().upper() for text in fields.all("word") for part in text.split(",") if part.strip()]
    for word in said:
        if word not in WORDS:
            raise UsageError(f"`word` got {word[:40]!r}, wanted one of {', '.join(WORDS)}")
    return frozenset(said)


def _offset(fields: Fields) -> int:
    text = fields.one("offset") or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"`offset` got {text[:40]!r}, wanted a number of at most 9 digits")
    return int(text)


def _before(fields: Fields) -> datetime | None:
    before_ms = time_field(fields, "before", None)
    if before_ms is None:
        return None
    moment = at_or_none(before_ms)
    if moment is None:
        raise UsageError(f"`before` got {fields.one('before')[:40]!r}, wanted a time after the year 0")
    return moment


async def _list(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"])
    wanted = WantedJobs(
        words=_words(fields),
        host=fields.one("host"),
        service=fields.one("service"),
        job=fields.one("job"),
        said=tuple(fields.one("words").casefold().split()[:SEARCHED_MAX]),
    )
    limit, offset = min(limit_field(fields) or JOBS_DEFAULT, JOBS_MAX), _offset(fields)
    jobs = await call.house.services.backups.jobs()

    def work() -> BackupList:
        return listed(_visible(jobs, call.view), wanted, limit=limit, offset=offset)

    # A hundred thousand take up to a quarter of a second, in which the loop has other things to do.
    return json_answer(await asyncio.to_thread(work))


async def _one(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"])
    limit, before = min(limit_field(fields) or ENTRIES_DEFAULT, ENTRIES_MAX), _before(fields)
    job, backups = await _seen(call), call.house.services.backups
    history = await backups.history(job.id, limit, before)
    _, rows = await backups.report((job.id,), Asked())
    runs = [entry for entry in history.entries if entry.kind == Kind.RUN]
    operating = View.of(grant.scope for grant in call.caller.grants if grant.role in ROLES[Need.OPERATE])
    rpo = rows[0].rpo if rows else None
    return json_answer(BackupDetail(job, history, runs, operating.host(job.host, job.labels), rpo))


async def _report(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"])
    limit, offset = min(limit_field(fields) or ROWS_DEFAULT, ROWS_MAX), _offset(fields)
    asked, backups = _asked(fields), call.house.services.backups
    ids = await _reported(call, _wanted(fields))
    period, rows = await backups.report(ids[offset : offset + limit], asked)
    return json_answer(
        BackupReport(
            since=at(period.since_ms),
            until=at(period.until_ms),
            objective=period.objective,
            rows=rows,
            total=len(ids),
            truncated=offset + limit < len(ids),
        )
    )


async def _evidence(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"])
    only = {name: text for name in ("host", "service", "job") if (text := fields.one(name))}
    ids = await _reported(call, _wanted(fields))
    wanted = WantedBackups(ids, _asked(fields), only, call.view.text)
    return archive_answer(await call.house.services.evidence.backups(wanted, call.caller))


def _wanted(fields: Fields) -> WantedJobs:
    return WantedJobs(host=fields.one("host"), service=fields.one("service"), job=fields.one("job"))


def _asked(fields: Fields) -> Asked:
    return Asked(time_field(fields, "since", None), time_field(fields, "until", None), _objective(fields))


async def _reported(call: Call, wanted: WantedJobs) -> list[str]:
    """The ids of jobs that a report is about, by host and name."""
    jobs = _visible(await call.house.services.backups.jobs(), call.view)

    def work() -> list[str]:
        found = sorted((job.host, job.name, job.id) for job in jobs if wanted.takes(job))
        return [job_id for _, _, job_id in found]

    return await asyncio.to_thread(work)


def _objective(fields: Fields) -> float | None:
    text = fields.one("objective")
    try:
        return float(text) if text else None
    except ValueError:
        raise UsageError(f"`objective` got {text[:40]!r}, wanted a share such as 0.999") from None


async def _uncovered(call: Call) -> Response:
    services = call.house.services
    hosts = [host for host in await services.hosts.hosts() if call.view.host(host.name, host.labels)]
    described = await services.services.services(call.view)
    jobs, exemptions = await services.backups.jobs(), await _exempt_in(call, call.view)
    return json_answer(await asyncio.to_thread(uncovered, hosts, described, jobs, exemptions))


async def _exemptions(call: Call) -> Response:
    return json_answer(ExemptionList(await _exempt_in(call, call.view)))


async def _seen(call: Call) -> BackupJob:
    """The job that the path names, of those that the caller sees. Raises NoSuch, UsageError."""
    name: str = call.request.path_params["name"]
    if len(name) > NAME_CHARACTERS_MAX:
        raise no_backup(name)
    jobs = await call.house.services.backups.jobs()
    return await asyncio.to_thread(lambda: named(_visible(jobs, call.sees), name))


def _visible(jobs: Sequence[BackupJob], view: View) -> Sequence[BackupJob]:
    """Those of the hosts in a view; each host is judged once."""
    if view.whole:
        return jobs
    seen: dict[str, bool] = {}
    for job in jobs:
        if job.agent_id not in seen:
            seen[job.agent_id] = view.host(job.host, job.labels)
    return [job for job in jobs if seen[job.agent_id]]


async def _own(call: Call) -> BackupJob:
    """The same, where the caller may change it. Raises NotAdmitted, too."""
    job = await _seen(call)
    if not call.view.host(job.host, job.labels):
        raise _outside(call, f"{job.name} of {job.host}")
    return job


async def _exempt_in(call: Call, view: View) -> Sequence[Exemption]:
    """Those of hosts and services in a view."""
    found = await call.house.services.backups.exemptions()
    if view.whole:
        return found
    bindings = call.house.services.bindings
    services = {service.name for service in await call.house.services.services.services(view)}
    return [
        one
        for one in found
        if (one.name in services if one.kind == "service" else view.covers({INSTANCE: one.name}, bindings))
    ]


def _outside(call: Call, what: str) -> NotAdmitted:
    message = f"{call.caller.name} may do this to {call.view.text} alone, and {what} is not within it"
    return NotAdmitted(403, "forbidden", "scope", message, by=call.caller)


# ---------------------------------------------------------------- writing


def _text(text: str, field: str) -> str:
    """What somebody says, checked. Raises UsageError."""
    said = text.strip()
    if not said or len(said) > NOTE_CHARACTERS_MAX:
        raise UsageError(
            f"`{field}` got {len(said)} characters, wanted 1 to {NOTE_CHARACTERS_MAX}: others read it"
        )
    return said


def _duration(duration_s: float, longest_s: float) -> float:
    if not 1 <= duration_s <= longest_s:
        raise UsageError(
            f"`duration_s` got {duration_s:g}, wanted 1 to {longest_s:.0f} ({longest_s / 86_400:.0f} days)"
        )
    return duration_s


async def _review(call: Call) -> Response:
    note = _text(decoded(call.body, ReviewOrder).note, "note")
    job = await _own(call)
    return json_answer(await call.house.services.backups.review(job.id, note, call.caller), 201)


async def _pause(call: Call) -> Response:
    order = decoded(call.body, PauseOrder)
    duration_s, reason = _duration(order.duration_s, PAUSE_S_MAX), _text(order.reason, "reason")
    job = await _own(call)
    return json_answer(await call.house.services.backups.pause(job.id, duration_s, reason, call.caller))


async def _resume(call: Call) -> Response:
    job = await _own(call)
    return json_answer(await call.house.services.backups.resume(job.id, call.caller))


async def _verify(call: Call) -> Response:
    level = decoded(call.body, VerifyOrder).level
    job = await _own(call)
    return json_answer(await call.house.services.backups.verify(job.id, level, call.caller))


async def _exempt(call: Call) -> Response:
    order = decoded(call.body, ExemptionOrder)
    owner, reason = _text(order.owner, "owner"), _text(order.reason, "reason")
    duration_s = _duration(order.duration_s, EXEMPTION_S_MAX)
    name = await _own_name(call, order.kind, order.name)
    backups = call.house.services.backups
    made = await backups.exempt(order.kind, name, owner, reason, duration_s, call.caller)
    return json_answer(made, 201)


async def _withdraw(call: Call) -> Response:
    exemption_id: str = call.request.path_params["name"][:NAME_CHARACTERS_MAX]
    found = next((one for one in await _exempt_in(call, call.sees) if one.id == exemption_id), None)
    if found is None:
        raise no_exemption(exemption_id)
    if not call.view.whole:
        await _own_name(call, found.kind, found.name)
    return json_answer(await call.house.services.backups.withdraw(found.id, call.caller))


async def _own_name(call: Call, kind: str, name: str) -> str:
    """The name of a host or a service that exists and is the caller's. Raises NoSuch, NotAdmitted: a service is his
    where all of its hosts are.
    """
    if kind == "host":
        return (await own_host(call, name)).name
    served = call.house.services.services
    if all(service.name != name for service in await served.services(call.sees)):
        raise NoSuch(f"no service is called {shown(name)!r}: watchbill services lists them")
    if call.view.whole:
        return name
    hosts = {
        mine: {
            host.name
            for service in await served.services(view)
            if service.name == name
            for host in service.hosts
        }
        for mine, view in ((False, EVERYTHING), (True, call.view))
    }
    if hosts[True] != hosts[False] or not hosts[True]:
        raise _outside(call, f"the service {name}")
    return name


_NAME = Parameter("name", "The job's id, HOST/JOB, or its name where one host alone has it.", required=True)

BACKUP_ROUTES: tuple[Route, ...] = (
    Route(
        ("GET",),
        f"{BASE}/backups",
        Need.READ,
        _list,
        "Backups, the worst first, and how many there are of each word.",
        (
            Parameter("word", f"Of these words alone: {', '.join(WORDS)}.", many=True),
            Parameter("host", "Of this host."),
            Parameter("service", "Of this service."),
            Parameter("job", "With this name."),
            Parameter("words", "Each of these words is somewhere in its name, host, service, labels or why."),
            Parameter("limit", f"At most so many, {JOBS_DEFAULT} without it."),
            Parameter("offset", "After so many."),
        ),
        gives=BackupList,
        within=Within.FILTERED,
    ),
    Route(
        ("GET",),
        f"{BASE}/backups/report",
        Need.READ,
        _report,
        "Backups over a time, one row a job by host and name: runs, proofs, restores, how the RPO was kept, reviews.",
        (
            Parameter("since", "From this time, 30 days before `until` without it; 400 days at most."),
            Parameter("until", "To this time, now without it."),
            Parameter("objective", "The share of the time in which the RPO is to be kept, 0.999 without it."),
            Parameter("host", "Of this host."),
            Parameter("service", "Of this service."),
            Parameter("job", "With this name."),
            Parameter("limit", f"At most so many, {ROWS_DEFAULT} without it, {ROWS_MAX} at most."),
            Parameter("offset", "After so many."),
        ),
        gives=BackupReport,
        within=Within.FILTERED,
    ),
    Route(
        ("GET",),
        f"{BASE}/backups/evidence",
        Need.AUDITOR,
        _evidence,
        "The same rows as an archive that the collector signs.",
        (
            Parameter("since", "From this time, 30 days before `until` without it; 400 days at most."),
            Parameter("until", "To this time, now without it."),
            Parameter("objective", "The share of the time in which the RPO is to be kept, 0.999 without it."),
            Parameter("host", "Of this host."),
            Parameter("service", "Of this service."),
            Parameter("job", "With this name."),
        ),
        media=ARCHIVE_MEDIA,
        within=Within.FILTERED,
    ),
    Route(
        ("GET",),
        f"{BASE}/backups/uncovered",
        Need.READ,
        _uncovered,
        "Hosts and services with neither a backup nor an exemption.",
        gives=Uncovered,
        within=Within.FILTERED,
    ),
    Route(
        ("GET",),
        f"{BASE}/backups/exemptions",
        Need.READ,
        _exemptions,
        "Hosts and services that need no backup, until when, and who says so.",
        gives=ExemptionList,
        within=Within.FILTERED,
    ),
    Route(
        ("POST",),
        f"{BASE}/backups/exemptions",
        Need.OPERATE,
        _exempt,
        "Say that a host or a service needs no backup for a while; a new exemption takes the old one's place.",
        takes=ExemptionOrder,
        gives=Exemption,
        within=Within.FILTERED,
    ),
    Route(
        ("DELETE",),
        f"{BASE}/backups/exemptions/{{name}}",
        Need.OPERATE,
        _withdraw,
        "End an exemption now.",
        (Parameter("name", "The exemption's id.", required=True),),
        gives=Exemption,
        within=Within.OBJECT,
    ),
    Route(
        ("POST",),
        f"{BASE}/backups/{{name:path}}/review",
        Need.OPERATE,
        _review,
        "Sign that somebody looked at it.",
        (_NAME,),
        takes=ReviewOrder,
        gives=BackupReview,
        within=Within.OBJECT,
    ),
    Route(
        ("POST",),
        f"{BASE}/backups/{{name:path}}/verify",
        Need.OPERATE,
        _verify,
        "Ask its host to verify it now, as far as the host's own files declare it; what the host answers comes within "
        "seconds, what it finds as an entry whose `run_id` is the request's id. 503: the host is not connected.",
        (_NAME,),
        takes=VerifyOrder,
        gives=VerifyRequest,
        within=Within.OBJECT,
    ),
    Route(
        ("POST",),
        f"{BASE}/backups/{{name:path}}/pause",
        Need.OPERATE,
        _pause,
        "Do not judge it for a while.",
        (_NAME,),
        takes=PauseOrder,
        gives=BackupJob,
        within=Within.OBJECT,
    ),
    Route(
        ("DELETE",),
        f"{BASE}/backups/{{name:path}}/pause",
        Need.OPERATE,
        _resume,
        "Judge it again now.",
        (_NAME,),
        gives=BackupJob,
        within=Within.OBJECT,
    ),
    Route(
        ("GET",),
        f"{BASE}/backups/{{name:path}}",
        Need.READ,
        _one,
        "One backup: its state with the reasons, what it is judged by, and what was told of it, the newest first.",
        (
            _NAME,
            Parameter("limit", f"At most so many runs and observations, {ENTRIES_DEFAULT} without it."),
            Parameter("before", "Older ones than this time."),
        ),
        gives=BackupDetail,
        within=Within.OBJECT,
    ),
)
