"""What collector.toml says of routes and maintenance windows.

Routes and windows are tables that this file reads itself, so that a mistake in them is named with its file and
line, and a channel that nobody defined with its name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo

from watchbill.config import Duration, Selector, Table, Wrong, option
from watchbill.cron import BadCron, read_cron
from watchbill.errors import ConfigError, Problem
from watchbill_collector.dispatch.matchers import BadMatchers, Match, compiled
from watchbill_collector.dispatch.routing import ALERTS_LISTED, REPEAT_MS, Route, Routing
from watchbill_collector.dispatch.settings import Digest, zone_known
from watchbill_collector.dispatch.values import Way
from watchbill_collector.dispatch.windows import Window

DAY_S = 86_400
ROUTES_MAX = 500
WINDOWS_MAX = 500
WINDOW_S_MAX = 7 * DAY_S
GROUP_LABELS_MAX = 16
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)


def _label_names(names: list[str]) -> str | None:
    if all(_LABEL.fullmatch(name) for name in names):
        return None
    return "label names"


def _word(text: str) -> str | None:
    return None if _WORD.fullmatch(text) else "1 to 63 letters, digits, dots, hyphens and underscores"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOptions:
    """One `[[route]]`: which alerts go where. The first that matches counts, unless it says `continue`."""

    name: str = option("", help="For notices and logs; its place in the file without one.")
    match: Selector = option(
        Selector("", ()),
        help="PromQL matchers on the alert's labels; every alert without.",
        example="'team=\"db\"'",
    )
    channel: str = option("", help="The channel it goes to.", example='"ops"')
    channels: list[str] = option([], help="The channels, where there are several.", length_max=16)
    group_by: list[str] | None = option(
        None,
        help="Labels whose values make one group; by service, else by alert name, without it.",
        check=_label_names,
        length_max=GROUP_LABELS_MAX,
    )
    wait: Duration | None = option(
        None,
        at_most=DAY_S,
        help="How long a new group waits for more; 0s when something is critical, else 30s.",
    )
    interval: Duration = option(
        Duration(300), at_least=1, at_most=DAY_S, help="Between two notices of one group at least."
    )
    repeat: Duration = option(
        Duration(REPEAT_MS / 1000), at_least=60, at_most=30 * DAY_S, help="After this it is said again."
    )
    way: Literal["page", "digest", "none"] | None = option(
        None, help="How; by the rule's annotation `notify`, else by severity, without it."
    )
    go_on: bool = option(default=False, name="continue", help="Look at the routes after this one too.")
    mute: list[str] = option([], help="Maintenance windows in which this route tells nobody.", length_max=64)
    alerts_max: int = option(
        ALERTS_LISTED, at_least=1, at_most=10_000, help="Alerts that one notice lists; the rest is a number."
    )

    def check(self) -> Iterator[Wrong]:
        """One of `channel` and `channels`; a route to nowhere is one whose way is none."""
        if self.channel and self.channels:
            yield Wrong("channels", "channel too", "one of them")
        if not (self.channel or self.channels) and self.way != "none":
            yield Wrong("channel", "nothing", 'a channel, or way = "none"')


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceOptions:
    """One `[[maintenance]]`: a window that comes round."""

    name: str = option(check=_word, help="What routes and the page call it.", example='"patch night"')
    match: Selector | None = option(
        None, help="The alerts it mutes; without it, those of routes that name it.", example="'role=\"db\"'"
    )
    cron: str = option(
        help="When it opens: minute hour day-of-month month day-of-week.", example='"0 3 * * sun"'
    )
    zone: str = option("UTC", check=zone_known, help="The time zone of that.")
    duration: Duration = option(
        at_least=60, at_most=WINDOW_S_MAX, help="How long it stays open.", example='"2h"'
    )


def read_routing(
    routes: Sequence[Table],
    maintenance: Sequence[Table],
    channels: Sequence[str],
    digest: Digest,
    without_digest: Mapping[str, str] | None = None,
) -> tuple[Routing, list[Problem]]:
    """The routes and windows, and everything that is wrong with them. `channels` are the names that exist, in
    order: without any route, all alerts go to the first. `without_digest` are those of them that take no digest, with
    the way by which they are told instead.
    """
    instead = {name: Way(way) for name, way in (without_digest or {}).items()}
    problems: list[Problem] = []
    windows = [window for table in maintenance for window in _window(table, problems)]
    names = [window.name for window in windows]
    for table, name in zip(maintenance, names, strict=False):
        if names.count(name) > 1:
            problems.append(table.problem("name", f'"{name}" twice', "one window of a name"))
    read = [
        route
        for number, table in enumerate(routes)
        for route in _route(number, table, frozenset(channels), frozenset(names), problems)
    ]
    for kind, tables, bound in (("route", routes, ROUTES_MAX), ("maintenance", maintenance, WINDOWS_MAX)):
        if len(tables) > bound:
            problems.append(tables[bound].problem("", f"{len(tables)} of [[{kind}]]", f"at most {bound}"))
    for table, route in zip(routes, read, strict=False) if len(read) == len(routes) else ():
        problems += _no_digest(table, route, instead)
    if not routes and channels:
        read = [Route(name="default", match=Match(), channels=(channels[0],))]
    hour, minute = digest.at.split(":")
    daily = read_cron(f"{int(minute)} {int(hour)} * * *")
    return Routing(tuple(read), tuple(windows), daily, ZoneInfo(digest.zone), instead), problems


def _no_digest(table: Table, route: Route, instead: Mapping[str, Way]) -> Iterator[Problem]:
    """A digest to a channel that takes none: it would be refused every morning."""
    for name in route.channels:
        if route.way is Way.DIGEST and name in instead:
            wanted = "a channel that takes a digest, or another way"
            yield table.problem("way", f'"digest" to "{name}"', wanted)


def _window(table: Table, problems: list[Problem]) -> Iterator[Window]:
    try:
        said = table.read(MaintenanceOptions)
        cron = read_cron(said.cron)
        match = compiled(said.match) if said.match is not None else None
    except ConfigError as exc:
        problems += exc.problems
    except BadCron as exc:
        problems.append(table.problem("cron", str(exc), 'a cron line, such as "0 3 * * sun"'))
    except BadMatchers as exc:
        problems.append(table.problem("match", str(exc), "PromQL matchers"))
    else:
        yield Window(said.name, cron, ZoneInfo(said.zone), said.duration.ms, match)


def _route(
    number: int,
    table: Table,
    channels: frozenset[str],
    windows: frozenset[str],
    problems: list[Problem],
) -> Iterator[Route]:
    try:
        said = table.read(RouteOptions)
        match = compiled(said.match)
    except ConfigError as exc:
        problems += exc.problems
        return
    except BadMatchers as exc:
        problems.append(table.problem("match", str(exc), "PromQL matchers"))
        return
    key = "channel" if said.channel else "channels"
    wanted = tuple(dict.fromkeys([said.channel] if said.channel else said.channels))
    problems += _strangers(table, key, wanted, channels, "channel")
    problems += _strangers(table, "mute", said.mute, windows, "window of [[maintenance]]")
    yield Route(
        name=said.name or f"route {number + 1}",
        match=match,
        channels=wanted,
        group_by=tuple(said.group_by) if said.group_by is not None else None,
        wait_ms=said.wait.ms if said.wait is not None else None,
        interval_ms=said.interval.ms,
        repeat_ms=said.repeat.ms,
        way=Way(said.way) if said.way else None,
        go_on=said.go_on,
        mute=frozenset(said.mute),
        alerts_max=said.alerts_max,
    )


def _strangers(
    table: Table, key: str, named: Iterable[str], known: frozenset[str], what: str
) -> Iterator[Problem]:
    for name in named:
        if name not in known:
            there = ", ".join(sorted(known)) or "there is none"
            yield table.problem(key, f'"{name}"', f"the name of a {what}: {there}")


__all__ = ["MaintenanceOptions", "RouteOptions", "read_routing"]
