"""Watchbill's own API: silences, and how notices get out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from starlette.responses import Response

from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.guard import NotAdmitted
from watchbill_collector.api.ours import decoded
from watchbill_collector.api.params import read_fields
from watchbill_collector.api.ports import Alert, Caller, NoSuch
from watchbill_collector.api.routes import Call, Need, Parameter, Route, Within
from watchbill_collector.scopes import View

BASE = "/api/watchbill/v1"
ID_CHARACTERS_MAX = 64
ALERTS_SHOWN_MAX = 200
"""Alerts that an answer lists as matched; their number is always there."""


# ---------------------------------------------------------------- what crosses


@dataclass(frozen=True, slots=True)
class SilenceView:
    """A silence. `state` is pending, active or expired; `firing` counts alerts that it silences, or would, of those
    that the caller sees. `scope` is what it keeps to, whatever its matchers say, empty where it reaches everything;
    `yours`: the caller may end it.
    """

    id: str
    matchers: str
    reason: str
    author: str
    state: str
    created: datetime
    starts: datetime
    ends: datetime
    firing: int
    expired_by: str = ""
    scope: str = ""
    yours: bool = True


@dataclass(frozen=True, slots=True)
class SilenceOrder:
    """A silence that somebody wants: `matchers` as PromQL writes them, `duration_s` from its start."""

    matchers: str
    duration_s: float
    reason: str
    starts_in_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MatchersToTry:
    """Matchers, to see what they match now."""

    matchers: str


@dataclass(frozen=True, slots=True)
class NewSilence:
    """A silence that was just made, and the firing and pending alerts that it matches now."""

    silence: SilenceView
    matched: int
    alerts: Sequence[Alert]


@dataclass(frozen=True, slots=True)
class Matched:
    """The firing and pending alerts that some matchers match now, and their spelling as it is kept. `scope` is what a
    silence of the caller would keep to.
    """

    matchers: str
    matched: int
    alerts: Sequence[Alert]
    scope: str = ""


@dataclass(frozen=True, slots=True)
class SilenceList:
    """Silences, the newest first."""

    silences: Sequence[SilenceView]


@dataclass(frozen=True, slots=True)
class WindowView:
    """A maintenance window. `until` is set while it is open, `opens` is when it opens next, within a week."""

    name: str
    matchers: str | None
    cron: str
    zone: str
    duration_s: float
    until: datetime | None
    opens: datetime | None


@dataclass(frozen=True, slots=True)
class ChannelState:
    """How a channel does. `failing_since` is None while it works; `queued` notices wait, the oldest for
    `oldest_s`. `held`: its peer refuses us, and what waits goes when its configuration or secret is mended.
    """

    name: str
    kind: str
    ok: bool
    failing_since: datetime | None
    last_error: str
    last_delivered: datetime | None
    queued: int
    oldest_s: float
    held: bool = False


@dataclass(frozen=True, slots=True)
class NoticeView:
    """A notice and what came of it: queued, delivered, refused, given_up, overtaken."""

    key: str
    channel: str
    kind: str
    outcome: str
    attempts: int
    created: datetime
    changed: datetime
    detail: str


@dataclass(frozen=True, slots=True)
class DispatchView:
    """How notices get out. `unwritten` says why the outbox cannot be written, empty as a rule."""

    channels: Sequence[ChannelState]
    windows: Sequence[WindowView]
    notices: Sequence[NoticeView]
    hushed: int
    unwritten: str


class SilencesService(Protocol):
    """Silences and the outbox; `view` is what somebody may see, or silence. Raises NoSuch, UsageError, Refused, Busy,
    StorageError.
    """

    async def silences(self, view: View, *, expired: bool) -> Sequence[SilenceView]:
        """Those that have not ended, or all that are kept, of what could hush something that he sees."""

    async def silence(self, silence_id: str, view: View, sees: View) -> SilenceView:
        """One of those that he sees, and whether `view` takes in all that it reaches."""

    async def add(self, order: SilenceOrder, by: Caller, view: View) -> NewSilence:
        """Make one that keeps to what he may silence."""

    async def matched(self, matchers: str, view: View) -> Matched:
        """What a silence of his with these matchers would silence now."""

    async def expire(self, silence_id: str, by: Caller, view: View) -> SilenceView:
        """End one now that is his to end."""

    async def dispatch(self) -> DispatchView:
        """How notices get out."""


class NoSilences:
    """The twin of a collector without notifications."""

    async def silences(self, view: View, *, expired: bool) -> Sequence[SilenceView]:  # noqa: ARG002 - The protocol's.
        """None."""
        return ()

    async def silence(self, silence_id: str, view: View, sees: View) -> SilenceView:  # noqa: ARG002 - As above.
        """There is none."""
        raise no_silence(silence_id)

    async def add(self, order: SilenceOrder, by: Caller, view: View) -> NewSilence:  # noqa: ARG002 - As above.
        """Not here."""
        raise NoSuch("this collector keeps no silences")

    async def matched(self, matchers: str, view: View) -> Matched:  # noqa: ARG002 - As above.
        """Nothing."""
        return Matched(matchers, 0, ())

    async def expire(self, silence_id: str, by: Caller, view: View) -> SilenceView:  # noqa: ARG002 - As above.
        """There is none."""
        raise no_silence(silence_id)

    async def dispatch(self) -> DispatchView:
        """Nothing gets out."""
        return DispatchView((), (), (), 0, "")


def no_silence(silence_id: str) -> NoSuch:
    """In the words for one that never was."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in silence_id[:40])
    return NoSuch(f"there is no silence {shown!r}: watchbill silences list")


# ---------------------------------------------------------------- handlers


async def _list(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"])
    expired = fields.one("expired") in ("1", "true")
    return json_answer(SilenceList(await call.house.services.silences.silences(call.sees, expired=expired)))


async def _add(call: Call) -> Response:
    order = decoded(call.body, SilenceOrder)
    return json_answer(await call.house.services.silences.add(order, call.caller, call.view), 201)


async def _matched(call: Call) -> Response:
    matchers = decoded(call.body, MatchersToTry).matchers
    return json_answer(await call.house.services.silences.matched(matchers, call.view))


async def _expire(call: Call) -> Response:
    silence_id: str = call.request.path_params["id"][:ID_CHARACTERS_MAX]
    silences = call.house.services.silences
    found = await silences.silence(silence_id, call.view, call.sees)
    if not found.yours:
        message = (
            f"{call.caller.name} may end what is within {call.view.text} alone: {found.id} reaches further"
        )
        raise NotAdmitted(403, "forbidden", "scope", message, by=call.caller)
    return json_answer(await silences.expire(silence_id, call.caller, call.view))


async def _dispatch(call: Call) -> Response:
    return json_answer(await call.house.services.silences.dispatch())


# The outbox tells of everybody's alerts: it alone is not for callers who may see only a part of them.
SILENCE_ROUTES: tuple[Route, ...] = (
    Route(
        ("GET",),
        f"{BASE}/silences",
        Need.READ,
        _list,
        "Silences that have not ended.",
        (Parameter("expired", "1: those that have ended, too."),),
        gives=SilenceList,
        within=Within.FILTERED,
    ),
    Route(
        ("POST",),
        f"{BASE}/silences",
        Need.OPERATE,
        _add,
        "Silence alerts for a while.",
        takes=SilenceOrder,
        gives=NewSilence,
        within=Within.FILTERED,
    ),
    Route(
        ("POST",),
        f"{BASE}/silences/match",
        Need.OPERATE,
        _matched,
        "Which alerts a silence would match now; nothing is changed.",
        takes=MatchersToTry,
        gives=Matched,
        within=Within.FILTERED,
    ),
    Route(
        ("DELETE",),
        f"{BASE}/silences/{{id}}",
        Need.OPERATE,
        _expire,
        "End a silence now.",
        (Parameter("id", "The silence's id.", required=True),),
        gives=SilenceView,
        within=Within.OBJECT,
    ),
    Route(
        ("GET",),
        f"{BASE}/dispatch",
        Need.READ,
        _dispatch,
        "How notices get out: channels, maintenance windows, the newest notices.",
        gives=DispatchView,
        within=Within.WHOLE,
    ),
)
