"""What the HTTP side puts into the audit: who was turned away, what failed, and what was done that nobody recorded.

A change of the store records itself in its own transaction, with this request's number; then there is nothing to
add. What leaves no such row (a test message, say) gets one here when it is done. A handler that raises is recorded
as refused or failed. Reading is not recorded, being refused to read is.

While the audit cannot be written nothing is changed: a write is refused before its handler runs.
"""

import re
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp

from watchbill.errors import Busy, Refused, StorageError, Transient, UsageError
from watchbill_collector.api.guard import NotAdmitted, source_of
from watchbill_collector.api.house import House
from watchbill_collector.api.ports import Caller
from watchbill_collector.api.routes import Call, Need, Route
from watchbill_collector.audit import Outcome, origin

ACCESS: Final = "access"
"""The action of those who were turned away before anybody knew who they are."""
TARGET_CHARACTERS_MAX: Final = 200
_PLACE: Final = re.compile(r"\{\w+(?::\w+)?\}")
_OWN: Final = re.compile(r"^/api/(?:watchbill/)?v1/?")
_UNRECORDED: Final = frozenset({Need.NOTHING, Need.READ, Need.KNOWN})
"""Needs of routes that change nothing but what records itself: logins, sessions."""


async def recorded(call: Call, route: Route) -> ASGIApp:
    """Run the handler of an admitted call; a write leaves a row. Raises what the handler raises, and StorageError
    when what was done, or is asked for, cannot be recorded.
    """
    if not _recorded(route, call.request):
        return await route.handler(call)
    audit = call.house.services.audit
    await audit.ready()
    answer = await route.handler(call)
    if origin().rows == 0:
        await audit.record(
            call.caller.name, action_of(route, call.request), target_of(call.request), Outcome.DONE, {}
        )
    return answer


def turned_away(request: Request, route: Route, why: NotAdmitted, house: House) -> None:
    """Somebody was not let in, or not let do this."""
    known = why.by.via != "anonymous"
    house.services.audit.refused(
        why.by.name if known else "",
        source_of(request),
        action_of(route, request) if known else ACCESS,
        target_of(request),
        why.reason,
    )


def failed(request: Request, route: Route, caller: Caller, error: Exception, house: House) -> None:
    """A write was refused by what it was asked of, or failed; where that was recorded already, nothing is added."""
    if not _recorded(route, request) or origin().rows or isinstance(error, UsageError):
        return
    refused = isinstance(error, Refused) and not isinstance(error, (Transient, Busy, StorageError))
    house.services.audit.refused(
        caller.name,
        source_of(request),
        action_of(route, request),
        target_of(request),
        "conflict" if refused else "failed",
    )


def _recorded(route: Route, request: Request) -> bool:
    return request.method not in ("GET", "HEAD") and not route.form and route.need not in _UNRECORDED


def action_of(route: Route, request: Request) -> str:
    """A route in one word: `POST /api/watchbill/v1/hosts/{name}/retire` is `hosts.retire`."""
    words = _PLACE.sub("", _OWN.sub("", route.path)).strip("/").split("/")
    word = ".".join(part for part in words if part) or "page"
    return word if request.method in ("GET", "HEAD", "POST") else f"{word}.{request.method.lower()}"


def target_of(request: Request) -> str:
    """What the request is about: the name in its path, or the path."""
    name = request.path_params.get("name")
    return str(name if name is not None else request.url.path)[:TARGET_CHARACTERS_MAX]
