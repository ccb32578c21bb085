"""Which series of a page are kept and how they are called: Prometheus' `metric_relabel_configs`, five actions of it.

    [[check.metric_relabel_configs]]
    source_labels = ["__name__"]
    regex = "go_.*"
    action = "drop"

Expressions are RE2's, matched against the whole, and see at most what a label may hold: the time they take is bounded.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from watchbill.config import Wrong, option
from watchbill.config.convert import show_value
from watchbill_agent.names import WrongOption

RULES_MAX: Final = 50
SOURCES_MAX: Final = 10
PATTERN_CHARACTERS_MAX: Final = 1_024
MEMORY_BYTES_MAX: Final = 1 << 20
"""Of one expression."""
TEXT_CHARACTERS_MAX: Final = 8_192
"""Of source labels joined; what is beyond is not looked at, and is too long for a label anyway."""
NAME: Final = "__name__"

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_REFERENCE = re.compile(r"\$(?:(\$)|\{([0-9A-Za-z_]+)\}|([0-9A-Za-z_]+))", re.ASCII)


def _sources(names: list[str]) -> Iterator[Wrong]:
    for number, name in enumerate(names):
        if not _LABEL.fullmatch(name):
            yield Wrong((number,), show_value(name), "the name of a label")


@dataclass(frozen=True, slots=True, kw_only=True)
class RelabelTable:
    """One step; all are taken in their order."""

    source_labels: list[str] = option(
        [],
        length_max=SOURCES_MAX,
        check=_sources,
        help="Labels whose values are joined and matched; __name__ is the metric's name.",
    )
    separator: str = option(";", length_max=16, help="What joins them.")
    regex: str = option("(.*)", length_max=PATTERN_CHARACTERS_MAX, help="What the whole of it has to match.")
    action: Literal["replace", "keep", "drop", "labeldrop", "labelkeep"] = option(
        "replace", help="What to do where it does."
    )
    target_label: str = option("", length_max=128, help="With replace: the label that is set.")
    replacement: str = option("$1", length_max=1_024, help="With replace: its value; empty takes it away.")

    def check(self) -> Iterator[Wrong]:
        """What an action needs, and what it cannot use."""
        if self.action == "replace" and not self.target_label:
            yield Wrong("target_label", "nothing", "the label that is set")
        if self.action in ("keep", "drop") and not self.source_labels:
            yield Wrong("source_labels", "nothing", f"what to match for {self.action}")
        if self.action in ("labeldrop", "labelkeep") and self.source_labels:
            got = show_value(str(self.source_labels))
            yield Wrong("source_labels", got, f"none: {self.action} matches the names of labels")


Step = Callable[[dict[str, str]], bool]
"""Changes labels, and says whether the series is kept."""


@dataclass(frozen=True, slots=True)
class Relabel:
    """All steps of a check. `missing`: RE2 is not installed, of which a look says so."""

    steps: tuple[Step, ...] = ()
    missing: bool = False

    def keeps(self, labels: dict[str, str]) -> bool:
        """Change `labels`, and say whether the series is kept."""
        return all(step(labels) for step in self.steps)


def compiled(tables: Sequence[RelabelTable], check: str) -> Relabel:
    """The steps. Raises WrongOption for an expression that is none."""
    if not tables:
        return Relabel()
    try:
        import re2
    except ImportError:
        return Relabel(missing=True)
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MEMORY_BYTES_MAX
    steps = []
    for number, table in enumerate(tables):
        try:
            pattern = re2.compile(table.regex, options)
        except re2.error as exc:
            field = f"metric_relabel_configs[{number}].regex"
            why = exc.args[0] if exc.args else ""
            why = why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)
            got = f"{show_value(table.regex)}, which is none ({why})"
            raise WrongOption(check, field, got, "a regular expression in RE2's syntax") from exc
        steps.append(_step(table, pattern))
    return Relabel(tuple(steps))


def _step(table: RelabelTable, pattern: Any) -> Step:
    def text(labels: dict[str, str]) -> str:
        found = table.separator.join([labels.get(name, "") for name in table.source_labels])
        return found[:TEXT_CHARACTERS_MAX]

    def keep(labels: dict[str, str]) -> bool:
        return pattern.fullmatch(text(labels)) is not None

    def drop(labels: dict[str, str]) -> bool:
        return pattern.fullmatch(text(labels)) is None

    def labeldrop(labels: dict[str, str]) -> bool:
        for name in [name for name in labels if pattern.fullmatch(name) is not None]:
            del labels[name]
        return True

    def labelkeep(labels: dict[str, str]) -> bool:
        for name in [name for name in labels if pattern.fullmatch(name) is None]:
            del labels[name]
        return True

    def replace(labels: dict[str, str]) -> bool:
        match = pattern.fullmatch(text(labels))
        if match is None:
            return True
        target = _expanded(table.target_label, match)
        if not _LABEL.fullmatch(target):
            return True  # As Prometheus does: the label is left as it is.
        value = _expanded(table.replacement, match)
        if value:
            labels[target] = value
        else:
            labels.pop(target, None)
        return True

    made: dict[str, Step] = {
        "keep": keep,
        "drop": drop,
        "labeldrop": labeldrop,
        "labelkeep": labelkeep,
        "replace": replace,
    }
    return made[table.action]


def _expanded(template: str, match: Any) -> str:
    """`$1`, `${1}` and `${name}` are groups, a group that is none is nothing, `$$` is a dollar."""
    if "$" not in template:
        return template
    named = match.groupdict()
    groups = (match.group(0), *match.groups())

    def one(reference: "re.Match[str]") -> str:
        if reference[1]:
            return "$"
        name = reference[2] or reference[3]
        if name.isdigit():
            return (groups[int(name)] or "") if int(name) < len(groups) else ""
        return named.get(name) or ""

    return _REFERENCE.sub(one, template)
