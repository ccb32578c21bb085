"""The services that hosts serve: who owns each, which hosts and checks belong to it, what it depends on.

    # services.d/shop.toml
    [[service]]
    name = "shop"
    owner = "team-web"
    hosts = 'role="web",site=~"b.*"'
    depends = ["database"]
    objectives = { availability = "99.9%", rto = "1h", rpo = "15m" }

A `ServiceBook` is read as a whole or not at all, and is pure afterwards. Which service something belongs to is
decided by names first (a check or a backup that a service lists), then by the first service whose selector its labels
satisfy, in the order of files and lines. For what a host sends, only the labels that were bound at its enrolment
count, never those that it chose itself: `Belonging` sees to that.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from watchbill.config import ConfigError, Duration, NotWanted, Problem, Selector, Table, load, option
from watchbill_collector.matching import InvalidRegex, Matcher, MatchOp
from watchbill_collector.scopes import INSTANCE, Bindings

SERVICES_MAX = 2_000
"""Services of all files together."""
NAMES_MAX = 1_000
"""Elements of one list of a service."""
NAME_CHARACTERS_MAX = 128
CIRCLES_TOLD_MAX = 20
"""Circles of dependencies that are told at once."""
FILE, DIRECTORY = "services.toml", "services.d"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%", re.ASCII)


@dataclass(frozen=True, slots=True)
class Availability:
    """How much of the time a service is to be there: a fraction of 1."""

    fraction: float

    @classmethod
    def from_config(cls, value: object) -> "Availability":
        """Read "99.9%". Raises NotWanted."""
        match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        if match is None or not 0 < float(match[1]) <= 100:
            raise NotWanted('a share of the time such as "99.9%"')
        return cls(round(float(match[1]) / 100, 10))

    def to_config(self) -> str:
        """As it is written."""
        return f"{self.fraction * 100:g}%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What has been promised of a service."""

    availability: Availability | None = option(None, help="Share of the time that it is to be there.")
    rto: Duration | None = option(None, help="Within which time it is to be back after a disaster.")
    rpo: Duration | None = option(None, help="How much of the newest data may be lost in one.")


def _name(value: str) -> str | None:
    if len(value) <= NAME_CHARACTERS_MAX and _NAME.fullmatch(value):
        return None
    return f"1 to {NAME_CHARACTERS_MAX} letters, digits, dots, hyphens and underscores"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service, as its file says it."""

    name: str = option(check=_name, help="Unique among the services.")
    owner: str = option("", length_max=NAME_CHARACTERS_MAX, help="Who looks after it: a person or a team.")
    hosts: Selector | None = option(None, help="Which hosts serve it, by labels bound at enrolment.")
    checks: list[str] = option([], length_max=NAMES_MAX, help="Names of checks that belong to it.")
    backups: list[str] = option([], length_max=NAMES_MAX, help="Names of backups that belong to it.")
    runbooks: list[str] = option([], length_max=NAMES_MAX, help="Names of runbooks that bring it back.")
    depends: list[str] = option([], length_max=NAMES_MAX, help="Names of services that it cannot do without.")
    objectives: Objectives = option(Objectives())
    channel: str = option("", length_max=NAME_CHARACTERS_MAX, help="Where notices about it go, too.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    service: list[Table] = option([])


@dataclass(frozen=True, slots=True)
class ServiceBook:
    """All services, in the order of files and lines; what they are to one another is worked out once."""

    services: tuple[Service, ...] = ()
    _by_name: Mapping[str, Service] = field(default_factory=dict, repr=False)
    _by_check: Mapping[str, Service] = field(default_factory=dict, repr=False)
    _by_backup: Mapping[str, Service] = field(default_factory=dict, repr=False)
    _matchers: tuple[tuple[tuple[Matcher, ...], Service], ...] = field(default=(), repr=False)

    @staticmethod
    def of_services(services: Sequence[Service]) -> "ServiceBook":
        """A book of services that are known to be right: names unique, dependencies there and without cycles."""
        by_check: dict[str, Service] = {}
        by_backup: dict[str, Service] = {}
        for service in services:
            for check in service.checks:
                by_check.setdefault(check, service)
            for backup in service.backups:
                by_backup.setdefault(backup, service)
        matchers = tuple((matchers_of(each.hosts), each) for each in services if each.hosts is not None)
        by_name = {service.name: service for service in services}
        return ServiceBook(tuple(services), by_name, by_check, by_backup, matchers)

    def named(self, name: str) -> Service | None:
        """The service of this name."""
        return self._by_name.get(name)

    def of(self, labels: Mapping[str, str], host: Mapping[str, str] | None = None) -> Service | None:
        """The service that something with these labels belongs to; None if to none.

        `host` are the labels bound to the host it is about, if it is about one: selectors look at those alone.
        """
        return next(self._touched(labels, labels if host is None else host), None)

    def touched(
        self, labels: Mapping[str, str], host: Mapping[str, str] | None = None
    ) -> tuple[Service, ...]:
        """Every service that it touches: a host may serve several, though an alert names the first alone."""
        found = {service.name: service for service in self._touched(labels, labels if host is None else host)}
        return tuple(found.values())

    def _touched(self, labels: Mapping[str, str], host: Mapping[str, str]) -> Iterator[Service]:
        for by_name, label in ((self._by_check, "check"), (self._by_backup, "backup")):
            found = by_name.get(labels.get(label, ""))
            if found is not None:
                yield found
        yield from self.serving(host)

    def serving(self, bound: Mapping[str, str]) -> Iterator[Service]:
        """The services whose selectors take a host with these labels, in their order."""
        return (service for matchers, service in self._matchers if _all(matchers, bound))

    def dependencies(self, name: str) -> tuple[str, ...]:
        """What it depends on, directly or through others, the nearest first."""
        return _reach(name, lambda each: self._by_name[each].depends)

    def dependants(self, name: str) -> tuple[str, ...]:
        """What depends on it, directly or through others, the nearest first."""
        above: dict[str, list[str]] = {}
        for service in self.services:
            for below in service.depends:
                above.setdefault(below, []).append(service.name)
        return _reach(name, lambda each: above.get(each, []))


@dataclass(frozen=True, slots=True)
class Belonging:
    """Finds the service of an alert: the book that is loaded now, and what is bound to the hosts now."""

    book: Callable[[], ServiceBook]
    bindings: Bindings

    def of(self, labels: Mapping[str, str]) -> Service | None:
        """The service that something with these labels belongs to."""
        return self.book().of(labels, self._host(labels))

    def touched(self, labels: Mapping[str, str]) -> tuple[Service, ...]:
        """Every service that something with these labels touches."""
        return self.book().touched(labels, self._host(labels))

    def _host(self, labels: Mapping[str, str]) -> Mapping[str, str] | None:
        """What is bound to the host that it is about; what names no host of ours speaks for itself."""
        instance = labels.get(INSTANCE, "")
        bound = self.bindings.bound(instance) if instance else None
        return None if bound is None else {**bound, INSTANCE: instance}


def read_services(etc: Path, channels: Collection[str] | None = None) -> ServiceBook:
    """Read `services.toml` and `services.d/*.toml` under `etc`; `channels` are the names of those there are, None where
    nobody knows. Raises ConfigError with every problem.
    """
    tables = load(_Files, etc / FILE, etc / DIRECTORY, main_required=False).service
    problems: list[Problem] = []
    read: list[tuple[Table, Service]] = []
    for table in tables:
        try:
            read.append((table, table.read(Service)))
        except ConfigError as error:
            problems += error.problems
    problems += _too_many(tables)
    problems += _judged(read, complete=not problems)
    if channels is not None:
        problems += _strange_channels(read, channels)
    if problems:
        raise ConfigError(problems)
    return ServiceBook.of_services([service for _, service in read])


def matchers_of(selector: Selector) -> tuple[Matcher, ...]:
    """A selector's matchers."""
    return tuple(Matcher(each.name, MatchOp(each.op), each.value) for each in selector.conditions)


def _too_many(tables: Sequence[Table]) -> Iterator[Problem]:
    if len(tables) > SERVICES_MAX:
        yield tables[SERVICES_MAX].problem("", f"{len(tables)} services", f"at most {SERVICES_MAX}")


def _judged(read: Sequence[tuple[Table, Service]], *, complete: bool) -> Iterator[Problem]:
    """What is wrong with services that are right by themselves. Unknown names say little while files are broken."""
    seen: dict[str, Table] = {}
    for table, service in read:
        if service.name in seen:
            first = seen[service.name].problem("name", "", "")
            wanted = f"a name of its own ({first.file}:{first.line} has it)"
            yield table.problem("name", f'"{service.name}" again', wanted)
        seen.setdefault(service.name, table)
        yield from _bad_selector(table, service)
    if not complete:
        return
    unknown = False
    for table, service in read:
        for name in service.depends:
            if name == service.name:
                yield table.problem("depends", f'"{name}", the service itself', "other services")
            elif name not in seen:
                unknown = True
                yield table.problem("depends", f'"{name}"', "the name of a service")
    if not unknown:
        yield from _cycles({service.name: (table, service) for table, service in read})


def _strange_channels(read: Sequence[tuple[Table, Service]], channels: Collection[str]) -> Iterator[Problem]:
    there = ", ".join(sorted(channels)) or "there is none"
    for table, service in read:
        if service.channel and service.channel not in channels:
            yield table.problem("channel", f'"{service.channel}"', f"the name of a channel: {there}")


def _bad_selector(table: Table, service: Service) -> Iterator[Problem]:
    if service.hosts is None:
        return
    if not service.hosts.conditions:
        yield table.problem("hosts", "no matcher", "matchers such as 'role=\"db\"'")
    try:
        for matcher in matchers_of(service.hosts):
            matcher.check()
    except InvalidRegex as error:
        yield table.problem("hosts", str(error), "a regular expression in RE2 syntax")


def _cycles(services: Mapping[str, tuple[Table, Service]]) -> Iterator[Problem]:
    """Circles of dependencies, each named from the service of it that stands first in the files."""
    below = {
        name: [each for each in dict.fromkeys(service.depends) if each != name]
        for name, (_, service) in services.items()
    }
    order = {name: number for number, name in enumerate(services)}
    for _ in range(CIRCLES_TOLD_MAX):
        try:
            TopologicalSorter(below).prepare()
        except CycleError as error:
            circle = error.args[1][
                :0:-1
            ]  # Each before what it depends on, without the repetition at the end.
            first = circle.index(min(circle, key=order.__getitem__))
            circle = circle[first:] + circle[:first]
            shown = " -> ".join([*circle, circle[0]])
            yield services[circle[0]][0].problem("depends", f"a circle: {shown}", "no circle")
            below[circle[0]].remove(circle[1 % len(circle)])
        else:
            return


def _reach(name: str, neighbours: Callable[[str], Sequence[str]]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    waiting = [name]
    while waiting:
        for each in neighbours(waiting.pop(0)):
            if each not in found and each != name:
                found[each] = None
                waiting.append(each)
    return tuple(found)


def _all(matchers: tuple[Matcher, ...], labels: Mapping[str, str]) -> bool:
    return all(matcher.matches(labels.get(matcher.name, "")) for matcher in matchers)
