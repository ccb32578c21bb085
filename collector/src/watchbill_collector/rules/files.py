"""Rule files, read strictly: Prometheus' format, every mistake of every file at once.

Each mistake says the file, the line, the rule, what was found and what is wanted. Nothing of a set of files
is used unless all of it is right.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from watchbill.errors import Problem
from watchbill.files import UnreadableFile, read_bounded
from watchbill.limits import LABELS_MAX, METRIC_NAME_BYTES_MAX
from watchbill_collector.promql.plan import Made, Plan
from watchbill_collector.rules.common import nodes_of
from watchbill_collector.rules.model import (
    INTERVAL_MS_DEFAULT,
    AlertingRule,
    Group,
    Place,
    RecordingRule,
    Rule,
    RuleSet,
)
from watchbill_collector.rules.needs import asks_absence, judges_absence
from watchbill_collector.rules.reading import Reading
from watchbill_collector.rules.short_form import ShortForm
from watchbill_collector.yamlreading import Found
from watchbill_collector.yamltree import (
    FILE_BYTES_MAX,
    BadDocument,
    Mapping,
    Scalar,
    Tree,
    kind,
    parse,
    shown,
)

RULES_MAX = 10_000
"""Rules of all files together."""
GROUPS_MAX = 2_000
"""Groups of all files together."""
FILES_MAX = 1_000
"""Files in a directory of rules."""
PROBLEMS_MAX = 200
"""Mistakes that are reported at once; the rest is summed up in one."""
INTERVAL_MS_MIN = 1_000
INTERVAL_MS_MAX = 86_400_000
EXPR_CHARS_MAX = 65_536

_RECORD_NAME = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_GROUP_KEYS = ("name", "interval", "query_offset", "limit", "labels", "rules")
_RULE_KEYS = ("record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations")


@dataclass(frozen=True, slots=True)
class Source:
    """A rule file's name and content."""

    file: str
    content: bytes


def read(paths: Iterable[Path]) -> tuple[list[Source], list[Problem]]:
    """The content of files, and of the `*.yml` and `*.yaml` in directories, in lexical order; and what
    failed."""
    sources: list[Source] = []
    found = Found()
    for path in paths:
        for file in _files(path, found):
            try:
                sources.append(Source(str(file), read_bounded(file, FILE_BYTES_MAX)))
            except UnreadableFile as error:
                found.add(str(file), 0, "", error.got, "a readable rule file")
    return sources, found.all()


def _files(path: Path, found: Found) -> list[Path]:
    try:
        if not path.is_dir():
            return [path]
        names = sorted(
            file
            for file in path.iterdir()
            if file.suffix in (".yml", ".yaml") and not file.name.startswith(".")
        )
    except OSError as error:
        found.add(str(path), 0, "", error.strerror or "an error", "a readable directory")
        return []
    if len(names) > FILES_MAX:
        found.add(str(path), 0, "", f"{len(names)} files", f"at most {FILES_MAX}")
    return names[:FILES_MAX]


def load(
    sources: Sequence[Source], known: RuleSet | None = None, interval_ms: int = INTERVAL_MS_DEFAULT
) -> tuple[RuleSet, list[Problem]]:
    """The rules of all files, and every mistake in them; the rules are complete only if there is none.

    Expressions that `known` has already are not planned again. `interval_ms` is for groups that name none.
    """
    found = Found()
    known = known or RuleSet()
    plans = {rule.expr: rule.plan for rule in known.rules}
    made = dict(known.made)
    groups: list[Group] = []
    seen_files: set[str] = set()
    for source in sources:
        if source.file in seen_files:
            found.add(source.file, 0, "", "the same file twice", "each file once")
            continue
        seen_files.add(source.file)
        try:
            tree = parse(source.file, source.content)
        except BadDocument as error:
            problem = error.problem
            found.add(problem.file, problem.line, problem.key, problem.got, problem.wanted)
            continue
        if tree is not None:
            groups.extend(_Reader(source.file, found, plans, made, interval_ms).file(tree))
    if len(groups) > GROUPS_MAX:
        found.add(
            groups[-1].file, groups[-1].place.line, "groups", f"{len(groups)} groups", f"at most {GROUPS_MAX}"
        )
    if sum(len(group.rules) for group in groups) > RULES_MAX:
        found.add(groups[-1].file, groups[-1].place.line, "rules", "more rules", f"at most {RULES_MAX}")
    rules = RuleSet(tuple(groups))
    return RuleSet(rules.groups, nodes_of(rules, made)), found.all()


def check(sources: Sequence[Source]) -> list[Problem]:
    """Every mistake in some files."""
    return load(sources)[1]


class _Reader:
    """One file."""

    def __init__(self, file: str, found: Found, plans: dict[str, Plan], made: Made, interval_ms: int) -> None:
        self._reading = Reading(file, found, plans, made)
        self._file = file
        self._interval_ms = interval_ms

    def file(self, tree: Tree) -> list[Group]:
        """The groups of the file."""
        top = self._reading.mapping(tree, "", ("groups", "thresholds"))
        if top is None:
            return []
        groups = []
        names: dict[str, int] = {}
        for number, item in enumerate(self._reading.items(top.get("groups"), "groups")):
            group = self._group(item, f"groups[{number}]")
            if group is None:
                continue
            if group.name in names:
                self._reading.bad(
                    item,
                    f"group {group.name}",
                    "the same name again",
                    f"a name of its own (line {names[group.name]} has it)",
                )
                continue
            names[group.name] = group.place.line
            groups.append(group)
        return [*groups, *ShortForm(self._reading, names, self._interval_ms).groups(top.get("thresholds"))]

    def _group(self, tree: Tree, at: str) -> Group | None:
        keys = self._reading.mapping(tree, at, _GROUP_KEYS)
        if keys is None:
            return None
        keys = _said(keys)
        name = self._reading.text(keys["name"], f"{at}.name") if "name" in keys else None
        if not name:
            if "name" not in keys or name == "":
                self._reading.bad(
                    keys.get("name", tree), f"{at}.name", "no name" if "name" not in keys else '""', "a name"
                )
            name = ""
        at = f"group {name}" if name else at
        interval = self._reading.duration(keys.get("interval"), f"{at}: interval", self._interval_ms)
        interval = interval or self._interval_ms  # As in Prometheus, 0 is the default.
        if "interval" in keys and not INTERVAL_MS_MIN <= interval <= INTERVAL_MS_MAX:
            self._reading.bad(keys["interval"], f"{at}: interval", kind(keys["interval"]), "1s to 1d")
            interval = self._interval_ms
        offset = self._reading.duration(keys.get("query_offset"), f"{at}: query_offset", 0)
        limit = self._reading.whole(keys.get("limit"), f"{at}: limit")
        labels = self._reading.pairs(keys.get("labels"), f"{at}: labels", labels=True)
        rules: list[Rule] = []
        for number, item in enumerate(self._reading.items(keys.get("rules"), f"{at}: rules")):
            rule = self._rule(item, f"{at}: {_called(item) or f'rules[{number}]'}", labels)
            if rule is not None:
                rules.append(rule)
        place = Place(self._file, tree.line)
        return Group(name, self._file, interval, offset, limit, tuple(rules), place) if name else None

    def _rule(self, tree: Tree, at: str, group_labels: list[tuple[str, str, Tree]]) -> Rule | None:
        begun = self._reading.complaints
        keys = self._reading.mapping(tree, at, _RULE_KEYS)
        if keys is None:
            return None
        keys = _said(keys)
        both = "record" in keys and "alert" in keys
        if not both and not ("record" in keys or "alert" in keys) and self._reading.complaints > begun:
            return None  # A misspelt key has been named already.
        if both or not ("record" in keys or "alert" in keys):
            self._reading.bad(
                tree, at, "both record and alert" if both else "neither record nor alert", "one of them"
            )
            return None
        which = "alert" if "alert" in keys else "record"
        name = self._reading.text(keys[which], f"{at}.{which}")
        if name is None:
            return None
        if (
            not name
            or len(name.encode()) > METRIC_NAME_BYTES_MAX
            or (which == "record" and not _RECORD_NAME.fullmatch(name))
        ):
            wanted = f"a name of 1 to {METRIC_NAME_BYTES_MAX} bytes"
            if which == "record":
                wanted += ": letters, digits, _ and :, no digit first"
            self._reading.bad(keys[which], f"{at}.{which}", shown(name), wanted)
            return None
        before = self._reading.complaints
        planned = self._reading.expr(keys.get("expr"), tree, f"{name}.expr")
        own = self._reading.pairs(keys.get("labels"), f"{name}.labels", labels=True)
        labels = {label: (text, node) for label, text, node in (*group_labels, *own)}
        if len(labels) > LABELS_MAX:
            self._reading.bad(
                keys.get("labels", tree), f"{name}.labels", f"{len(labels)} labels", f"at most {LABELS_MAX}"
            )
        place = Place(self._file, tree.line)
        if which == "record":
            for key in ("for", "keep_firing_for", "annotations"):
                if key in keys:
                    self._reading.bad(
                        keys[key], f"{name}.{key}", f"{key} in a recording rule", "it in alerting rules only"
                    )
            plain = tuple(sorted((label, text) for label, (text, _) in labels.items()))
            if planned is None or self._reading.complaints > before:
                return None
            return RecordingRule(name, planned.text, planned, plain, place, judges_absence(planned.expr))
        for_ms = self._reading.duration(keys.get("for"), f"{name}.for", 0)
        keep_ms = self._reading.duration(keys.get("keep_firing_for"), f"{name}.keep_firing_for", 0)
        made = self._reading.templates(
            ((label, text, node) for label, (text, node) in labels.items()), f"{name}.labels"
        )
        notes = self._reading.templates(
            self._reading.pairs(keys.get("annotations"), f"{name}.annotations"),
            f"{name}.annotations",
            queries=True,
        )
        if planned is None or self._reading.complaints > before:
            return None
        return AlertingRule(
            name,
            planned.text,
            planned,
            for_ms,
            keep_ms,
            made,
            notes,
            place,
            judges_absence(planned.expr),
            asks_absence=asks_absence(planned.expr),
        )


def _said(keys: dict[str, Tree]) -> dict[str, Tree]:
    """The pairs without those that say nothing, which are as if they were not there."""
    return {key: node for key, node in keys.items() if not (isinstance(node, Scalar) and node.null)}


def _called(tree: Tree) -> str:
    """What a rule is called, as far as it can be seen before its keys are judged: `alert "Down"`; else empty."""
    for key, value in tree.pairs if isinstance(tree, Mapping) else ():
        if (
            isinstance(key, Scalar)
            and key.text in ("alert", "record")
            and isinstance(value, Scalar)
            and value.text
        ):
            return f"{key.text} {shown(value.text)}"
    return ""
