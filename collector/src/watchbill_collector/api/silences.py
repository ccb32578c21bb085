"""Watchbill's own API: silences, and how notices get out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from starlette.responses import Response

from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.ours import decoded
from watchbill_collector.api.params import read_fields
from watchbill_collector.api.ports import Alert, Caller, NoSuch
from watchbill_collector.api.routes import Call, Need, Parameter, Route, Within

BASE = "/api/watchbill/v1"
ID_CHARACTERS_MAX = 64
ALERTS_SHOWN_MAX = 200
"""Alerts that an answer lists as matched; their number is always there."""


# ---------------------------------------------------------------- what crosses


@dataclass(frozen=True, slots=True)
class SilenceView:
    """A silence. `state` is pending, active or expired; `firing` counts alerts that it silences, or would."""

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
    """The firing and pending alerts that some matchers match now, and their spelling as it is kept."""

    matchers: str
    matched: int
    alerts: Sequence[Alert]


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
    `oldest_s`."""

    name: str
    kind: str
    ok: bool
    failing_since: datetime | None
    last_error: str
    last_delivered: datetime | None
    queued: int
    oldest_s: float


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
    """Silences and the outbox. Raises NoSuch, UsageError, Refused, Busy, StorageError."""

    async def silences(self, *, expired: bool) -> Sequence[SilenceView]:
        """Those that have not ended, or all that are kept."""

    async def add(self, order: SilenceOrder, by: Caller) -> NewSilence:
        """Make one."""

    async def matched(self, matchers: str) -> Matched:
        """What a silence with these matchers would silence now."""

    async def expire(self, silence_id: str, by: Caller) -> SilenceView:
        """End one now."""

    async def dispatch(self) -> DispatchView:
        """How notices get out."""


class NoSilences:
    """The twin of a collector without notifications."""

    async def silences(self, *, expired: bool) -> Sequence[SilenceView]:  # noqa: ARG002 - The protocol's.
        """None."""
        return ()

    async def add(self, order: SilenceOrder, by: Caller) -> NewSilence:  # noqa: ARG002 - As above.
        """Not here."""
        raise NoSuch("this collector keeps no silences")

    async def matched(self, matchers: str) -> Matched:
        """Nothing."""
        return Matched(matchers, 0, ())

    async def expire(self, silence_id: str, by: Caller) -> SilenceView:  # noqa: ARG002 - As above.
        """There is none."""
        raise NoSuch(f"there is no silence {silence_id!r}")

    async def dispatch(self) -> DispatchView:
        """Nothing gets out."""
        return DispatchView((), (), (), 0, "")


# ---------------------------------------------------------------- handlers


async def _list(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"])
    expired = fields.one("expired") in ("1", "true")
    return json_answer(SilenceList(await call.house.services.silences.silences(expired=expired)))


async def _add(call: Call) -> Response:
    order = decoded(call.body, SilenceOrder)
    return json_answer(await call.house.services.silences.add(order, call.caller), 201)


async def _matched(call: Call) -> Response:
    matchers = decoded(call.body, MatchersToTry).matchers
    return json_answer(await call.house.services.silences.matched(matchers))


async def _expire(call: Call) -> Response:
    silence_id: str = call.request.path_params["id"]
    return json_answer(await call.house.services.silences.expire(silence_id[:ID_CHARACTERS_MAX], call.caller))


async def _dispatch(call: Call) -> Response:
    return json_answer(await call.house.services.silences.dispatch())


# Matchers reach over all hosts, so none of these is for callers who may see only a part of them.
SILENCE_ROUTES: tuple[Route, ...] = (
    Route(
        ("GET",),
        f"{BASE}/silences",
        Need.READ,
        _list,
        "Silences that have not ended.",
        (Parameter("expired", "1: those that have ended, too."),),
        gives=SilenceList,
        within=Within.WHOLE,
    ),
    Route(
        ("POST",),
        f"{BASE}/silences",
        Need.OPERATE,
        _add,
        "Silence alerts for a while.",
        takes=SilenceOrder,
        gives=NewSilence,
        within=Within.WHOLE,
    ),
    Route(
        ("POST",),
        f"{BASE}/silences/match",
        Need.OPERATE,
        _matched,
        "Which alerts a silence would match now; nothing is changed.",
        takes=MatchersToTry,
        gives=Matched,
        within=Within.WHOLE,
    ),
    Route(
        ("DELETE",),
        f"{BASE}/silences/{{id}}",
        Need.OPERATE,
        _expire,
        "End a silence now.",
        (Parameter("id", "The silence's id.", required=True),),
        gives=SilenceView,
        within=Within.WHOLE,
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
