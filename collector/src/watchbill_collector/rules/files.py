"""Rule files, read strictly: Prometheus' format, every mistake of every file at once.

Each mistake says the file, the line, the rule, what was found and what is wanted. Nothing of a set of files
is used unless all of it is right.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from watchbill.config import Duration, NotWanted
from watchbill.errors import Problem, Unreadable
from watchbill.files import read_bounded
from watchbill.limits import LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX, METRIC_NAME_BYTES_MAX
from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.matching import InvalidRegex
from watchbill_collector.promql import ast
from watchbill_collector.promql.errors import BadQuery
from watchbill_collector.promql.plan import Plan, plan
from watchbill_collector.promql.text import valid_label_name
from watchbill_collector.rules.document import (
    FILE_BYTES_MAX,
    NODES_MAX,
    BadDocument,
    Listing,
    Mapping,
    Scalar,
    Tree,
    kind,
    parse,
    shown,
)
from watchbill_collector.rules.model import (
    INTERVAL_MS_DEFAULT,
    AlertingRule,
    Group,
    Place,
    RecordingRule,
    Rule,
    RuleSet,
)
from watchbill_collector.rules.needs import WINDOW_MS_MAX, judges_absence, pinned, watches
from watchbill_collector.rules.template import BadTemplate, Template

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

_GROUP_KEYS = ("name", "interval", "query_offset", "limit", "labels", "rules")
_RULE_KEYS = ("record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations")


@dataclass(frozen=True, slots=True)
class Source:
    """A rule file's name and content."""

    file: str
    content: bytes


class Found:
    """The mistakes found so far, bounded."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.more = 0

    def add(self, file: str, line: int, key: str, got: str, wanted: str) -> None:
        """One more mistake."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(file, line, key, got, wanted))
        else:
            self.more += 1

    def all(self) -> list[Problem]:
        """All of them, file by file, from the top of each to its end."""
        order = {
            file: number
            for number, file in enumerate(dict.fromkeys(problem.file for problem in self.problems))
        }
        self.problems.sort(key=lambda problem: (order[problem.file], problem.line))
        if not self.more:
            return self.problems
        last = Problem(self.problems[-1].file, 0, "", f"{self.more} more mistakes", "none")
        return [*self.problems, last]


def read(paths: Iterable[Path]) -> tuple[list[Source], list[Problem]]:
    """The content of files, and of the `*.yml` and `*.yaml` in directories, in lexical order; and what
    failed."""
    sources: list[Source] = []
    found = Found()
    for path in paths:
        for file in _files(path, found):
            try:
                sources.append(Source(str(file), read_bounded(file, FILE_BYTES_MAX)))
            except Unreadable as error:
                found.add(str(file), 0, "", str(error), "a readable rule file")
    return sources, found.all()


def _files(path: Path, found: Found) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
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


def load(sources: Sequence[Source], known: RuleSet | None = None) -> tuple[RuleSet, list[Problem]]:
    """The rules of all files, and every mistake in them; the rules are complete only if there is none.

    Expressions that `known` has already are not planned again.
    """
    found = Found()
    plans = {rule.expr: rule.plan for rule in known.rules} if known is not None else {}
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
            groups.extend(_Reader(source.file, found, plans).file(tree))
    if len(groups) > GROUPS_MAX:
        found.add(
            groups[-1].file, groups[-1].place.line, "groups", f"{len(groups)} groups", f"at most {GROUPS_MAX}"
        )
    if sum(len(group.rules) for group in groups) > RULES_MAX:
        found.add(groups[-1].file, groups[-1].place.line, "rules", "more rules", f"at most {RULES_MAX}")
    return RuleSet(tuple(groups)), found.all()


def check(sources: Sequence[Source]) -> list[Problem]:
    """Every mistake in some files."""
    return load(sources)[1]


class _Reader:
    """One file."""

    def __init__(self, file: str, found: Found, plans: dict[str, Plan]) -> None:
        self._file = file
        self._found = found
        self._plans = plans
        self._visited = 0
        self._too_many = False

    def file(self, tree: Tree) -> list[Group]:
        """The groups of the file."""
        top = self._mapping(tree, "", ("groups",))
        if top is None:
            return []
        groups = []
        names: dict[str, int] = {}
        for number, item in enumerate(self._items(top.get("groups"), "groups")):
            group = self._group(item, f"groups[{number}]")
            if group is None:
                continue
            if group.name in names:
                self._bad(
                    item,
                    f"group {group.name}",
                    "the same name again",
                    f"a name of its own (line {names[group.name]} has it)",
                )
                continue
            names[group.name] = group.place.line
            groups.append(group)
        return groups

    def _group(self, tree: Tree, at: str) -> Group | None:
        keys = self._mapping(tree, at, _GROUP_KEYS)
        if keys is None:
            return None
        name = self._text(keys["name"], f"{at}.name") if "name" in keys else None
        if not name:
            if "name" not in keys or name == "":
                self._bad(
                    keys.get("name", tree), f"{at}.name", "no name" if "name" not in keys else '""', "a name"
                )
            name = ""
        at = f"group {name}" if name else at
        interval = self._duration(keys.get("interval"), f"{at}: interval", INTERVAL_MS_DEFAULT)
        if "interval" in keys and not INTERVAL_MS_MIN <= interval <= INTERVAL_MS_MAX:
            self._bad(keys["interval"], f"{at}: interval", kind(keys["interval"]), "1s to 1d")
            interval = INTERVAL_MS_DEFAULT
        offset = self._duration(keys.get("query_offset"), f"{at}: query_offset", 0)
        limit = self._whole(keys.get("limit"), f"{at}: limit")
        labels = self._pairs(keys.get("labels"), f"{at}: labels", labels=True)
        rules: list[Rule] = []
        for number, item in enumerate(self._items(keys.get("rules"), f"{at}: rules")):
            rule = self._rule(item, f"{at}: rules[{number}]", labels)
            if rule is not None:
                rules.append(rule)
        place = Place(self._file, tree.line)
        return Group(name, self._file, interval, offset, limit, tuple(rules), place) if name else None

    def _rule(self, tree: Tree, at: str, group_labels: list[tuple[str, str, Tree]]) -> Rule | None:
        keys = self._mapping(tree, at, _RULE_KEYS)
        if keys is None:
            return None
        both = "record" in keys and "alert" in keys
        if both or not ("record" in keys or "alert" in keys):
            self._bad(
                tree, at, "both record and alert" if both else "neither record nor alert", "one of them"
            )
            return None
        which = "alert" if "alert" in keys else "record"
        name = self._text(keys[which], f"{at}.{which}")
        if name is None:
            return None
        if (
            not name
            or len(name.encode()) > METRIC_NAME_BYTES_MAX
            or (which == "record" and set(name) & set("{}\n"))
        ):
            self._bad(
                keys[which], f"{at}.{which}", shown(name), f"a name of 1 to {METRIC_NAME_BYTES_MAX} bytes"
            )
            return None
        before = len(self._found.problems) + self._found.more
        planned = self._expr(keys.get("expr"), tree, f"{name}.expr")
        own = self._pairs(keys.get("labels"), f"{name}.labels", labels=True)
        labels = {label: (text, node) for label, text, node in (*group_labels, *own)}
        if len(labels) > LABELS_MAX:
            self._bad(
                keys.get("labels", tree), f"{name}.labels", f"{len(labels)} labels", f"at most {LABELS_MAX}"
            )
        place = Place(self._file, tree.line)
        if which == "record":
            for key in ("for", "keep_firing_for", "annotations"):
                if key in keys:
                    self._bad(
                        keys[key], f"{name}.{key}", f"{key} in a recording rule", "it in alerting rules only"
                    )
            plain = tuple(sorted((label, text) for label, (text, _) in labels.items()))
            if planned is None or len(self._found.problems) + self._found.more > before:
                return None
            return RecordingRule(name, planned.text, planned, plain, place, judges_absence(planned.expr))
        for_ms = self._duration(keys.get("for"), f"{name}.for", 0)
        keep_ms = self._duration(keys.get("keep_firing_for"), f"{name}.keep_firing_for", 0)
        made = self._templates(
            ((label, text, node) for label, (text, node) in labels.items()), f"{name}.labels"
        )
        notes = self._templates(
            self._pairs(keys.get("annotations"), f"{name}.annotations"), f"{name}.annotations"
        )
        if planned is None or len(self._found.problems) + self._found.more > before:
            return None
        return AlertingRule(
            name, planned.text, planned, for_ms, keep_ms, made, notes, place, judges_absence(planned.expr)
        )

    # Values.

    def _expr(self, node: Tree | None, rule: Tree, at: str) -> Plan | None:
        if node is None:
            self._bad(rule, at, "no expression", "PromQL")
            return None
        text = self._text(node, at)
        if text is None:
            return None
        text = text.strip()
        if not text or len(text) > EXPR_CHARS_MAX:
            self._bad(node, at, f"{len(text)} characters", f"PromQL of 1 to {EXPR_CHARS_MAX} characters")
            return None
        known = self._plans.get(text)
        if known is not None:
            return known
        try:
            made = plan(text)
        except BadQuery as error:
            message = str(error)
            named = error.expression and error.expression not in message and error.expression != text
            where = f" in {shown(error.expression)}" if named else ""
            self._bad(node, at, f"{shown(text)}: {message}{where}", "PromQL that can be evaluated")
            return None
        if not self._usable(node, at, made):
            return None
        self._plans[text] = made
        return made

    def _usable(self, node: Tree, at: str, made: Plan) -> bool:
        if made.kind not in (ast.Kind.VECTOR, ast.Kind.SCALAR):
            self._bad(node, at, f"{shown(made.text)}, a {made.kind.value}", "an instant vector or a scalar")
            return False
        fixed = pinned(made.expr)
        if fixed is not None:
            self._bad(
                node,
                at,
                f"{shown(str(fixed))}, a fixed time",
                "rules that look at the present, without @ and a time",
            )
            return False
        for watch in watches(made.expr):
            if watch.window_ms > WINDOW_MS_MAX:
                self._bad(
                    node,
                    at,
                    f"a window of {watch.window_ms // 86_400_000} days in {shown(made.text)}",
                    "at most 31d",
                )
                return False
            try:
                for matcher in watch.matchers:
                    matcher.check()
            except InvalidRegex as error:
                self._bad(node, at, str(error), "a regular expression in RE2 syntax")
                return False
        return True

    def _templates(self, pairs: Iterable[tuple[str, str, Tree]], at: str) -> tuple[tuple[str, Template], ...]:
        made: dict[str, Template] = {}
        for name, text, node in pairs:
            try:
                made[name] = Template.parse(text)
            except BadTemplate as error:
                self._bad(node, f"{at}.{name}", str(error), "a template that can be filled in")
        return tuple(sorted(made.items(), key=lambda pair: pair[0]))

    def _pairs(self, node: Tree | None, at: str, *, labels: bool = False) -> list[tuple[str, str, Tree]]:
        """Names and texts; names are checked, and values too where they are labels."""
        if node is None or (isinstance(node, Scalar) and node.null):
            return []
        pairs = self._mapping(node, at, None)
        made: list[tuple[str, str, Tree]] = []
        for name, value in (pairs or {}).items():
            text = self._text(value, f"{at}.{name}")
            if text is None:
                continue
            if not valid_label_name(name) or name == METRIC_NAME or len(name.encode()) > LABEL_NAME_BYTES_MAX:
                self._bad(value, at, shown(name), "a label name")
            elif labels and "{{" not in text and len(text.encode()) > LABEL_VALUE_BYTES_MAX:
                self._bad(
                    value, f"{at}.{name}", f"{len(text.encode())} bytes", f"at most {LABEL_VALUE_BYTES_MAX}"
                )
            else:
                made.append((name, text, value))
        return made

    def _duration(self, node: Tree | None, at: str, default: int) -> int:
        text = None if node is None else self._text(node, at)
        if node is None or text is None:
            return default
        if text == "0":
            return 0
        try:
            return Duration.from_config(text).ms
        except (NotWanted, OverflowError):
            self._bad(node, at, shown(text), 'a duration such as "30s", "5m" or "1h30m"')
            return default

    def _whole(self, node: Tree | None, at: str) -> int:
        text = None if node is None else self._text(node, at)
        if node is None or text is None:
            return 0
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            self._bad(node, at, shown(text), "a whole number, 0 for no limit")
            return 0
        return int(text)

    def _text(self, node: Tree, at: str) -> str | None:
        if not isinstance(node, Scalar):
            self._bad(node, at, kind(node), "text")
            return None
        return "" if node.null else node.text

    # The tree.

    def _items(self, node: Tree | None, at: str) -> Iterator[Tree]:
        if node is None or (isinstance(node, Scalar) and node.null):
            return
        if not isinstance(node, Listing):
            self._bad(node, at, kind(node), "a list")
            return
        for item in node.items:
            if self._visit(item):
                yield item

    def _mapping(self, node: Tree, at: str, allowed: Sequence[str] | None) -> dict[str, Tree] | None:
        """A mapping's pairs, merge keys filled in; complaints about what is not allowed and what is there
        twice."""
        if not isinstance(node, Mapping):
            self._bad(node, at, kind(node), "a mapping")
            return None
        merged: dict[str, Tree] = {}
        own: dict[str, Tree] = {}
        for key, value in node.pairs:
            if not self._visit(value):
                return None
            if not isinstance(key, Scalar):
                self._bad(key, at, kind(key), "a key that is text")
            elif key.text == "<<" and key.plain:
                for base in value.items if isinstance(value, Listing) else [value]:
                    for name, inner in (self._mapping(base, f"{at}.<<", allowed) or {}).items():
                        merged.setdefault(name, inner)
            elif key.text in own:
                self._bad(key, f"{at}.{key.text}" if at else key.text, "the same key again", "each key once")
            elif allowed is not None and key.text not in allowed:
                close = get_close_matches(key.text, allowed, 1)
                wanted = f'"{close[0]}"?' if close else "one of " + ", ".join(allowed)
                self._bad(key, at, f"the unknown key {shown(key.text)}", wanted)
            else:
                own[key.text] = value
        return merged | own

    def _visit(self, node: Tree) -> bool:
        """Count what is looked at, aliases as often as they are used."""
        self._visited += 1
        if self._visited <= NODES_MAX:
            return True
        if not self._too_many:
            self._too_many = True
            self._bad(node, "", f"more than {NODES_MAX} nodes with all aliases filled in", "a smaller file")
        return False

    def _bad(self, node: Tree, key: str, got: str, wanted: str) -> None:
        self._found.add(self._file, node.line, key, got, wanted)
