"""What checks.d/*.toml may say: what to look at, how often, and what belongs to which application.

    [[check]]
    name = "shop"
    kind = "http"
    url = "https://shop.example/health"
    app = "shop"
    behind = ["postgres"]

The keys of `CheckTable` are the same for all; the others belong to the kind, whose `Options` judge them. Reading
imports the kinds that are named, so the daemon lets a child do it.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from watchbill.config import Duration, Table, Wrong, load, option
from watchbill.config.convert import show_value
from watchbill.config.spec import key_of
from watchbill.errors import ConfigError, Problem, UsageError
from watchbill.limits import LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX
from watchbill_agent.checks import kinds
from watchbill_agent.checks.check import About, Check, Pinged
from watchbill_agent.checks.present import DIRECTORY, FILE
from watchbill_agent.checks.trees import Trees
from watchbill_agent.names import WrongOption

CHECKS_MAX: Final = 1_000
NAME_CHARACTERS_MAX: Final = 64
BEHIND_MAX: Final = 16
LABELS_MAX: Final = 8
INTERVAL_MIN: Final = Duration(1)
INTERVAL_MAX: Final = Duration(86_400)
TIMEOUT_MIN: Final = Duration(0.1)
TIMEOUT_MAX: Final = Duration(600)
RETRIES_MAX: Final = 10
RETRY_EVERY_DEFAULT: Final = Duration(1)
RESERVED_LABELS: Final = ("check", "app", "instance", "job")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_NAME_WANTED: Final = f"1 to {NAME_CHARACTERS_MAX} letters, digits, dots, hyphens and underscores"
_BEHIND = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.:_@-]*/)?(?:[A-Za-z0-9][A-Za-z0-9._-]*)?", re.ASCII)
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)


def _name(value: str) -> str | None:
    return None if len(value) <= NAME_CHARACTERS_MAX and _NAME.fullmatch(value) else _NAME_WANTED


def _app(value: str) -> str | None:
    return _name(value) if value else None


def _behind(values: Sequence[str]) -> Iterator[Wrong]:
    for number, value in enumerate(values):
        if not value or not _BEHIND.fullmatch(value):
            yield Wrong(
                (number,), show_value(value), '"CHECK" of this host, "HOST/CHECK", or "HOST/" for the host'
            )


def _labels(pairs: Mapping[str, str]) -> Iterator[Wrong]:
    for name, value in pairs.items():
        if not _LABEL.fullmatch(name) or name.startswith("__") or len(name) > LABEL_NAME_BYTES_MAX:
            yield Wrong(
                (name,), show_value(name), "a label name: letters, digits and _, no digit or __ first"
            )
        elif name in RESERVED_LABELS:
            yield Wrong((name,), show_value(value), f"no such label: {name} is put on by itself")
        elif not value or len(value.encode("utf-8", "surrogatepass")) > LABEL_VALUE_BYTES_MAX:
            yield Wrong((name,), show_value(value), f"1 to {LABEL_VALUE_BYTES_MAX} bytes of text")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckTable:
    """What every check may say."""

    name: str = option(
        check=_name, help="Unique on this host; label `check` of its series.", example='"shop"'
    )
    kind: str = option(help="What sort of check it is.", example='"http"')
    interval: Duration | None = option(
        None, help="How often to look; as the kind says.", at_least=INTERVAL_MIN, at_most=INTERVAL_MAX
    )
    timeout: Duration | None = option(
        None, help="How long a look may take; as the kind says.", at_least=TIMEOUT_MIN, at_most=TIMEOUT_MAX
    )
    retries: int | None = option(
        None,
        help="Looks in quick succession before what was well is called failed.",
        at_least=0,
        at_most=RETRIES_MAX,
    )
    retry_every: Duration = option(
        RETRY_EVERY_DEFAULT, help="The time between those.", at_least=TIMEOUT_MIN, at_most=TIMEOUT_MAX
    )
    app: str = option("", check=_app, help="The application that it belongs to; label `app` of its series.")
    essential: bool = option(
        True, help="Whether the application is down when this fails; otherwise it is degraded."
    )
    behind: list[str] = option(
        [],
        length_max=BEHIND_MAX,
        check=_behind,
        help="What it depends on: when that is down, this raises no alert of its own.",
        example='["postgres", "db1/postgres", "db1/"]',
    )
    labels: dict[str, str] = option(
        {}, length_max=LABELS_MAX, check=_labels, help="More labels for all series of this check."
    )

    def check(self) -> Iterator[Wrong]:
        """A look ends before the next is due."""
        if self.interval is not None and self.timeout is not None and self.timeout > self.interval:
            yield Wrong(
                "timeout",
                show_value(self.timeout.to_config()),
                f"at most the interval, {self.interval.to_config()}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    checks: list[Table] = option([], name="check", help="A check.")


COMMON: Final = frozenset(key_of(one) for one in dataclasses.fields(CheckTable))


@dataclass(frozen=True, slots=True)
class Spec:
    """One check as it runs: made, judged, not yet opened. Times in seconds."""

    name: str
    kind: str
    interval_s: float
    timeout_s: float
    retries: int
    retry_every_s: float
    app: str
    essential: bool
    behind: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    check: Check
    values: Mapping[str, Any]
    """The kind's own keys as written: a check whose table did not change is kept over a reload, and a process that
    runs it makes it from these."""


@dataclass(frozen=True, slots=True)
class Door:
    """What there is to know of the agent's door for pings: whether it is open, and the names of backup jobs there."""

    listens: bool
    jobs: frozenset[str]


def read_checks(trees: Trees, door: Door | None = None) -> tuple[Spec, ...]:
    """Every check of this host, in the order of files and lines. Raises ConfigError with every problem; with `door`
    those of checks that take pings are among them."""
    tables = load(_Files, trees.etc / FILE, trees.etc / DIRECTORY, main_required=False).checks
    problems: list[Problem] = []
    seen: dict[str, Table] = {}
    specs: list[Spec] = []
    for table in tables:
        try:
            said = table.read(CheckTable, skip=table.values.keys() - COMMON)
        except ConfigError as error:
            problems += error.problems
            problems += _problems_of_kind(table, trees)
            continue
        if said.name in seen:
            first = seen[said.name].problem("name", "", "")
            wanted = f"a name of its own ({first.file}:{first.line} has it)"
            problems.append(table.problem("name", f"{show_value(said.name)} again", wanted))
        seen.setdefault(said.name, table)
        made = _spec(table, said, trees)
        if isinstance(made, Spec):
            specs.append(made)
        else:
            problems += made
    if len(tables) > CHECKS_MAX:
        problems.append(tables[CHECKS_MAX].problem("", f"{len(tables)} checks", f"at most {CHECKS_MAX}"))
    problems += _strangers(specs, seen)
    if door is not None:
        problems += _pinged(specs, seen, door)
    if problems:
        raise ConfigError(problems)
    return tuple(specs)


def _spec(table: Table, said: CheckTable, trees: Trees) -> Spec | Sequence[Problem]:
    kind = kinds.find(said.kind)
    if kind is None:
        return [_no_kind(table, said.kind)]
    interval_s = kind.interval_s if said.interval is None else float(said.interval)
    timeout_s = min(kind.timeout_s, interval_s) if said.timeout is None else float(said.timeout)
    problems: list[Problem] = []
    if timeout_s > interval_s:
        wanted = f"at most the interval, {Duration(interval_s).to_config()}"
        problems.append(table.problem("timeout", show_value(Duration(timeout_s).to_config()), wanted))
    about = About(said.name, interval_s, timeout_s, trees.procfs, trees.sysfs, trees.rootfs, trees.etc)
    made = make(kind, table, about)
    if not isinstance(made, Check):
        problems += made
    if problems or not isinstance(made, Check):
        return problems
    return Spec(
        said.name,
        said.kind,
        interval_s,
        timeout_s,
        kind.retries if said.retries is None else said.retries,
        float(said.retry_every),
        said.app,
        said.essential,
        tuple(said.behind),
        tuple(sorted(said.labels.items())),
        made,
        {key: value for key, value in table.values.items() if key not in COMMON},
    )


def _no_kind(table: Table, named: str) -> Problem:
    return table.problem("kind", show_value(named), f"one of: {', '.join(kinds.names())}")


def _problems_of_kind(table: Table, trees: Trees) -> Sequence[Problem]:
    """What is wrong with the kind's own keys, where those of every check are wrong: all is told at once."""
    named = table.values.get("kind")
    if not isinstance(named, str):
        return []
    kind = kinds.find(named)
    if kind is None:
        return [_no_kind(table, named)]
    about = About("", kind.interval_s, kind.timeout_s, trees.procfs, trees.sysfs, trees.rootfs, trees.etc)
    made = make(kind, table, about)
    return [] if isinstance(made, Check) else made


def make(kind: type[Check], table: Table, about: About) -> Check | Sequence[Problem]:
    """The check, or what is wrong with its options."""
    try:
        # Making a check opens nothing; it judges what types cannot.
        return kind(table.read(kind.options_type, skip=COMMON), about)
    except ConfigError as exc:
        return exc.problems
    except WrongOption as exc:
        return [table.problem(exc.field, exc.got, exc.wanted)]
    except UsageError as exc:
        return [table.problem("", show_value(str(exc)), "options that the check can use")]


def _pinged(specs: Sequence[Spec], seen: Mapping[str, Table], door: Door) -> Iterator[Problem]:
    """Checks that could not be pinged, and names that would mean two."""
    for spec in specs:
        if isinstance(spec.check, Pinged):
            table = seen[spec.name]
            if not door.listens:
                wanted = "[heartbeat] listen in agent.toml, where pings are taken"
                yield table.problem("kind", show_value(spec.kind), wanted)
            if spec.name in door.jobs:
                wanted = "a name that no backup job has: /ping/NAME would mean both"
                yield table.problem("name", show_value(spec.name), wanted)


def _strangers(specs: Sequence[Spec], seen: Mapping[str, Table]) -> Iterator[Problem]:
    """Names in `behind` that no check of this host has; those of other hosts are for the collector to know."""
    for spec in specs:
        for name in spec.behind:
            if "/" not in name and (name not in seen or name == spec.name):
                wanted = "the name of another check of this host, or HOST/CHECK"
                yield seen[spec.name].problem("behind", show_value(name), wanted)
