"""Where an alert goes: routes in the order of the file, the group it belongs to, and its way.

Without `group_by` alerts are grouped by the service they belong to, else by their name. When a service depends
on another whose own alerts fire, its alerts go into that one's group: a thousand hosts behind one dead database
are one notice about the database.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from watchbill.cron import Cron, read_cron
from watchbill_collector.dispatch.matchers import Match
from watchbill_collector.dispatch.values import Labels, Service, Severity, Standing, Way, fingerprint_of
from watchbill_collector.dispatch.windows import Window

WAIT_MS = 30_000
"""How long a new group waits for more alerts; not at all when one of them is critical."""
INTERVAL_MS = 300_000
REPEAT_MS = 4 * 3_600_000
ALERTS_LISTED = 100
"""Alerts that a notice lists; the rest is a number."""
DEPENDENCIES_DEEP_MAX = 32
"""How far dependencies are followed."""

SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `group_by` None is by service, else by alert name; `wait_ms` None depends on severity; `way`
    None is what the rule says, else what the severity says.
    """

    name: str
    match: Match
    channels: tuple[str, ...]
    group_by: tuple[str, ...] | None = None
    wait_ms: int | None = None
    interval_ms: int = INTERVAL_MS
    repeat_ms: int = REPEAT_MS
    way: Way | None = None
    go_on: bool = False
    mute: frozenset[str] = frozenset()
    alerts_max: int = ALERTS_LISTED

    def wait_for(self, worst: Severity) -> int:
        """How long a group whose worst alert is that bad waits, in milliseconds."""
        if self.wait_ms is not None:
            return self.wait_ms
        return 0 if worst is Severity.CRITICAL else WAIT_MS


@dataclass(frozen=True, slots=True)
class Routing:
    """Everything that the configuration says about who is told. `digest` is the cron line of the digest."""

    routes: tuple[Route, ...] = ()
    windows: tuple[Window, ...] = ()
    digest: Cron = field(default_factory=lambda: read_cron("0 8 * * *"))
    digest_zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    without_digest: Mapping[str, Way] = field(default_factory=dict)
    """Channels that take no digest, and how they are told what would be in one."""

    def routes_of(self, labels: Mapping[str, str]) -> list[Route]:
        """The routes that an alert takes."""
        found = []
        for route in self.routes:
            if route.match.matches(labels):
                found.append(route)
                if not route.go_on:
                    break
        return found


@dataclass(frozen=True, slots=True)
class Destination:
    """One place where an alert goes: the thread of notices, named by `key`."""

    key: str
    route: Route
    channel: str
    way: Way
    group: Labels


def way_of(alert: Standing, route: Route) -> Way:
    """The route's word, else the rule's, else the severity's. What judges the past never pages."""
    way = route.way or alert.way or alert.severity.way
    return Way.DIGEST if way is Way.PAGE and alert.quiet else way


def destinations(alert: Standing, routing: Routing, root: str, also: str = "") -> list[Destination]:
    """Where an alert goes, each channel once. `root` is the service that it is grouped under, "" without; `also`
    the channel that its service names beside those of the routes.
    """
    found: dict[str, Destination] = {}
    for route in routing.routes_of(alert.labels):
        way = way_of(alert, route)
        if way is Way.NONE:
            continue
        for channel in (*route.channels, also):
            told = _told_how(way, alert, routing.without_digest.get(channel))
            if channel and channel not in found and told is not Way.NONE:
                group = () if told is Way.DIGEST else group_of(alert.labels, route, root)
                key = thread_key(route, channel, told, group)
                found[channel] = Destination(key, route, channel, told, group)
    return list(found.values())


def _told_how(way: Way, alert: Standing, instead: Way | None) -> Way:
    """The way to one channel; `instead` is what a channel gets that takes no digest. The past never pages."""
    if way is not Way.DIGEST or instead is None:
        return way
    return Way.NONE if alert.quiet else instead


def group_of(labels: Mapping[str, str], route: Route, root: str) -> Labels:
    """The labels that name an alert's group."""
    names = route.group_by
    if names is None:
        names = (SERVICE,) if root or labels.get(SERVICE) else ("alertname",)
    return tuple(
        (name, text)
        for name in sorted(names)
        if (text := (root or labels.get(SERVICE, "")) if name == SERVICE else labels.get(name, ""))
    )


def thread_key(route: Route, channel: str, way: Way, group: Labels) -> str:
    """A name for a thread of notices that stays the same through restarts and through changes elsewhere.

    A digest is one of a channel, whatever routes its lines came by.
    """
    if way is Way.DIGEST:
        return "d" + fingerprint_of((("channel", channel),))
    return "p" + fingerprint_of((("channel", channel), ("route", route.name), *group))


class Roots:
    """Which service's group an alert of a service goes to, given the services that fail themselves."""

    def __init__(self, failing: frozenset[str], find: Callable[[str], Service | None]) -> None:
        self._failing = failing
        self._find = find
        self._known: dict[str, str] = {}

    def of(self, service: Service) -> str:
        """The deepest failing service that it depends on, by name where there are several; else itself."""
        known = self._known.get(service.name)
        if known is None:
            known = self._known[service.name] = self._deepest(service, {service.name}) or service.name
        return known

    def _deepest(self, service: Service, seen: set[str]) -> str:
        if len(seen) > DEPENDENCIES_DEEP_MAX:
            return ""
        for name in sorted(service.depends):
            below = self._find(name)
            if name in seen or below is None:
                continue
            seen.add(name)
            deeper = self._deepest(below, seen)
            if deeper:
                return deeper
            if name in self._failing:
                return name
        return ""
