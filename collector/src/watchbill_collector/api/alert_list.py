"""`/api/watchbill/v1/alerts`: what is pending, firing or ended, the worst first, and never more than was asked for.

Fifty thousand alerts of one rule are one thing to know and not fifty thousand. So the answer counts all of them by
rule, severity and state (*crowds*), and lists the alerts themselves in pages; with `each` no crowd fills a page alone.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from starlette.responses import Response

from watchbill.errors import UsageError
from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.params import Fields, limit_field, read_fields
from watchbill_collector.api.ports import Alert
from watchbill_collector.api.routes import Call, Need, Parameter, Route, Within
from watchbill_collector.scopes import INSTANCE

BASE: Final = "/api/watchbill/v1"
ALERTS_DEFAULT: Final = 500
ALERTS_MAX: Final = 5_000
"""Alerts of one page; the rest is counted, and comes with `offset`."""
CROWDS_MAX: Final = 1_000
"""Crowds told; more are counted."""
WORDS_MAX: Final = 16
STATES: Final = ("firing", "pending", "resolved")
_SEVERITIES: Final = {"critical": 0, "page": 0, "major": 1, "minor": 2, "warning": 2, "info": 3, "none": 3}
_MINOR: Final = 2


@dataclass(frozen=True, slots=True)
class AlertCrowd:
    """The alerts of one rule that stand alike: how many, and on how many hosts. `hushed`: they tell nobody anew."""

    name: str
    severity: str
    state: str
    hushed: bool
    count: int
    hosts: int


@dataclass(frozen=True, slots=True)
class AlertList:
    """Alerts, the worst first: firing before pending before ended, told before hushed, then by severity, then the
    newest.

    `total` is how many there are of what was asked for; `truncated`: some are not in `alerts`. `crowds` counts
    all that were asked for, in the same order; `crowds_left_out` of them are not told.
    """

    alerts: Sequence[Alert]
    total: int
    truncated: bool
    crowds: Sequence[AlertCrowd]
    crowds_left_out: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which alerts; what is empty does not narrow. `words` have to be there, each somewhere in what an alert says."""

    states: frozenset[str] = frozenset({"firing", "pending"})
    name: str = ""
    host: str = ""
    service: str = ""
    severity: str | None = None
    hushed: bool | None = None
    words: tuple[str, ...] = ()

    def takes(self, alert: Alert) -> bool:
        """Whether an alert is among them."""
        return (
            alert.state in self.states
            and self.name in ("", alert.name)
            and self.host in ("", alert.labels.get(INSTANCE))
            and self.service in ("", alert.service)
            and self.severity in (None, alert.labels.get("severity", ""))
            and self.hushed in (None, is_hushed(alert))
            and (not self.words or _says_all(alert, self.words))
        )


@dataclass(slots=True)
class _Crowd:
    count: int = 0
    hosts: set[str] = field(default_factory=set)


def is_hushed(alert: Alert) -> bool:
    """Whether it tells nobody anew."""
    return bool(alert.silences or alert.windows or alert.inhibited)


def _says_all(alert: Alert, words: Iterable[str]) -> bool:
    said = " ".join(
        (alert.name, alert.service, alert.owner, alert.annotations.get("summary", ""), *alert.labels.values())
    ).casefold()
    return all(word in said for word in words)


def _order(alert: Alert) -> tuple[int, bool, int, float, str]:
    newest = alert.resolved_at or alert.active_at
    severity = _SEVERITIES.get(alert.labels.get("severity", ""), _MINOR)
    return STATES.index(alert.state), is_hushed(alert), severity, -newest.timestamp(), alert.fingerprint


def listed(
    alerts: Iterable[Alert], wanted: Wanted, *, limit: int, offset: int = 0, each: int = 0
) -> AlertList:
    """The page: `limit` alerts after the first `offset` ones, at most `each` of a crowd unless that is 0."""
    found = sorted((alert for alert in alerts if wanted.takes(alert)), key=_order)
    crowds: dict[tuple[str, str, str, bool], _Crowd] = {}
    shown: list[Alert] = []
    for alert in found:
        key = (alert.name, alert.labels.get("severity", ""), alert.state, is_hushed(alert))
        crowd = crowds.setdefault(key, _Crowd())
        crowd.count += 1
        crowd.hosts.add(alert.labels.get(INSTANCE, ""))
        if not each or crowd.count <= each:
            shown.append(alert)
    page = shown[offset : offset + limit]
    told = [
        AlertCrowd(*key, crowd.count, len(crowd.hosts - {""}))
        for key, crowd in list(crowds.items())[:CROWDS_MAX]
    ]
    return AlertList(page, len(found), len(page) < len(found), told, len(crowds) - len(told))


# ---------------------------------------------------------------- the handler


def _states(fields: Fields) -> frozenset[str]:
    said = [part.strip() for text in fields.all("state") for part in text.split(",") if part.strip()]
    for word in said:
        if word not in STATES:
            raise UsageError(f"`state` got {word[:40]!r}, wanted firing, pending or resolved")
    if said:
        return frozenset(said)
    ended = fields.one("resolved") in ("1", "true")
    return frozenset(STATES) if ended else frozenset({"firing", "pending"})


def _number(fields: Fields, name: str, most: int) -> int:
    text = fields.one(name) or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"`{name}` got {text[:40]!r}, wanted a number from 0 to {most}")
    return min(int(text), most)


def _wanted(fields: Fields) -> Wanted:
    hushed = fields.one("hushed")
    return Wanted(
        states=_states(fields),
        name=fields.one("rule"),
        host=fields.one("host"),
        service=fields.one("service"),
        severity=fields.one("severity") if fields.all("severity") else None,
        hushed=None if not hushed else hushed in ("1", "true"),
        words=tuple(fields.one("words").casefold().split()[:WORDS_MAX]),
    )


async def _alerts(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"])
    wanted = _wanted(fields)
    limit = min(limit_field(fields) or ALERTS_DEFAULT, ALERTS_MAX)
    offset, each = _number(fields, "offset", 10**9), _number(fields, "each", ALERTS_MAX)
    rules = call.house.services.rules
    alerts = list(await rules.alerts()) if wanted.states & {"firing", "pending"} else []
    if "resolved" in wanted.states:
        alerts += await rules.resolved()

    def work() -> AlertList:
        mine = (alert for alert in alerts if call.covers(alert.labels))
        return listed(mine, wanted, limit=limit, offset=offset, each=each)

    # Fifty thousand take a third of a second, in which the loop has other things to do.
    return json_answer(await asyncio.to_thread(work))


ALERT_LIST_ROUTES: tuple[Route, ...] = (
    Route(
        ("GET",),
        f"{BASE}/alerts",
        Need.READ,
        _alerts,
        "Alerts with the times of their changes, the worst first, and how many there are of each rule.",
        (
            Parameter("state", "firing, pending, resolved; firing and pending without it.", many=True),
            Parameter("resolved", "1: what resolved lately, too."),
            Parameter("rule", "Of the rule with this name."),
            Parameter("host", "Whose `instance` is this."),
            Parameter("service", "Of this service."),
            Parameter("severity", "Whose label `severity` is this."),
            Parameter("hushed", "1: those that tell nobody anew; 0: the others."),
            Parameter(
                "words", "Each of these words is somewhere in its name, summary, labels, service or owner."
            ),
            Parameter("each", "At most so many of one rule, severity and state; `crowds` counts the others."),
            Parameter("limit", f"At most so many, {ALERTS_DEFAULT} without it."),
            Parameter("offset", "After so many."),
        ),
        gives=AlertList,
        within=Within.FILTERED,
    ),
)
