"""Watchbill's own API: the audit. Administrators and auditors read everything, others what they did themselves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from starlette.responses import Response

from watchbill.errors import UsageError
from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.audit_port import AuditQuery, AuditRow, AuditVerdict
from watchbill_collector.api.ours import BASE
from watchbill_collector.api.params import Fields, limit_field, read_fields, time_field
from watchbill_collector.api.ports import Role, at
from watchbill_collector.api.routes import Call, Need, Parameter, Route, Within

ROWS_DEFAULT = 100
ROWS_MAX = 10_000
WITNESSES_MAX = 1_000
ALL_OF_IT = frozenset({Role.ADMIN, Role.AUDITOR})
TEXT_CHARACTERS_MAX = 300


@dataclass(frozen=True, slots=True)
class AuditList:
    """Rows, newest first. `truncated`: there are older ones; ask with `before` the last one's number."""

    rows: Sequence[AuditRow]
    truncated: bool


def _fields(call: Call) -> Fields:
    return read_fields(call.request.scope["query_string"])


def _reads_everything(call: Call) -> bool:
    """Whether a grant without a scope lets the caller read other people's rows: rows name hosts of every scope."""
    return any(grant.role in ALL_OF_IT and not grant.scope for grant in call.caller.grants)


async def _audit(call: Call) -> Response:
    fields = _fields(call)
    since_ms, until_ms = time_field(fields, "since", None), time_field(fields, "until", None)
    before = fields.one("before")
    if before and not (before.isascii() and before.isdigit() and len(before) < 19):
        raise UsageError("`before` has to be the number of a row")
    wanted = AuditQuery(
        actor=fields.one("actor")[:TEXT_CHARACTERS_MAX],
        action=fields.one("action")[:TEXT_CHARACTERS_MAX],
        target=fields.one("target")[:TEXT_CHARACTERS_MAX],
        outcome=fields.one("outcome")[:TEXT_CHARACTERS_MAX],
        request=fields.one("request")[:TEXT_CHARACTERS_MAX],
        since=None if since_ms is None else at(since_ms),
        until=None if until_ms is None else at(until_ms),
        before=int(before) if before else None,
    )
    if not _reads_everything(call):
        if wanted.actor not in ("", call.caller.name):
            return json_answer(AuditList((), False))
        wanted = replace(wanted, actor=call.caller.name)
    limit = min(limit_field(fields) or ROWS_DEFAULT, ROWS_MAX)
    rows = await call.house.services.audit.rows(wanted, limit + 1)
    return json_answer(AuditList(rows[:limit], len(rows) > limit))


async def _export(call: Call) -> Response:
    fields = _fields(call)
    after = fields.one("after") or "0"
    if not (after.isascii() and after.isdigit() and len(after) < 19):
        raise UsageError("`after` has to be the number of a row")
    limit = min(limit_field(fields) or ROWS_MAX, ROWS_MAX)
    rows = await call.house.services.audit.export(int(after), limit + 1)
    return json_answer(AuditList(rows[:limit], len(rows) > limit))


async def _verify(call: Call) -> Response:
    said = _fields(call).all("witness")
    named = [name.strip() for text in said for name in text.split(",") if name.strip()]
    if said and not named:
        raise UsageError("`witness` names no host")
    if len(named) > WITNESSES_MAX:
        raise UsageError(f"{len(named)} witnesses, more than {WITNESSES_MAX}")
    return json_answer(await call.house.services.audit.verify(named or None))


AUDIT_ROUTES: tuple[Route, ...] = (
    Route(
        ("GET",),
        f"{BASE}/audit",
        Need.AUDIT,
        _audit,
        "What was done, refused or failed, newest first.",
        (
            Parameter("actor", "Who."),
            Parameter("action", "What, such as host.retire; host finds all that begin with it."),
            Parameter("target", "On what."),
            Parameter("outcome", "done, refused or failed."),
            Parameter("request", "The number of the request that caused it, from its X-Request-Id."),
            Parameter("since", "Unix seconds or RFC 3339."),
            Parameter("until", "Unix seconds or RFC 3339."),
            Parameter("before", "Rows older than the one with this number."),
            Parameter("limit", f"At most so many, {ROWS_DEFAULT} without it."),
        ),
        gives=AuditList,
        within=Within.FILTERED,
    ),
    Route(
        ("GET",),
        f"{BASE}/audit/export",
        Need.AUDITOR,
        _export,
        "The whole chain in its order, to be kept and checked elsewhere.",
        (
            Parameter("after", "Rows behind the one with this number."),
            Parameter("limit", f"At most so many, {ROWS_MAX} without it."),
        ),
        gives=AuditList,
        within=Within.WHOLE,
    ),
    Route(
        ("GET",),
        f"{BASE}/audit/verify",
        Need.AUDITOR,
        _verify,
        "Check the chain of hashes, and what hosts were told of it.",
        (
            Parameter(
                "witness",
                "Hosts that have to have shown a head; without it every host's word that has spoken.",
                many=True,
            ),
        ),
        gives=AuditVerdict,
        within=Within.WHOLE,
    ),
)
