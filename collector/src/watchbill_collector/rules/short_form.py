"""Reading `thresholds:`, the short form, into the same groups and rules as Prometheus' format.

`thresholds.py` says what each means.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from watchbill.config import ByteSize, Duration, NotWanted
from watchbill_collector.matching import InvalidRegex
from watchbill_collector.promql import ast
from watchbill_collector.promql.errors import BadQuery
from watchbill_collector.promql.parse import parse
from watchbill_collector.promql.plan import plan
from watchbill_collector.rules.model import INTERVAL_MS_DEFAULT, AlertingRule, Group, Place
from watchbill_collector.rules.needs import asks_absence, judges_absence
from watchbill_collector.rules.reading import Reading
from watchbill_collector.rules.result_labels import possible_labels
from watchbill_collector.rules.thresholds import (
    ALERT_LABELS,
    Limits,
    Subject,
    compiled,
    matchers_text,
    number_text,
)
from watchbill_collector.series import Matcher, MatchOp
from watchbill_collector.yamltree import Listing, Scalar, Tree, kind, shown

GROUP = "thresholds"
"""The group that the thresholds of a file make, one a file."""
THRESHOLDS_MAX = 2_000
"""Thresholds of one file."""
OVERRIDES_MAX = 64
"""Overrides of one threshold. Each takes those before it out of its series, so the work grows with their square."""
NAME_BYTES_MAX = 128
NOTE_CHARS_MAX = 4_096
SEVERITIES = ("critical", "major", "minor", "info")

_LIMIT_KEYS = ("above", "below", "clear", "for", "keep_firing_for", "severity")
_KEYS = (
    "name",
    "metric",
    "expr",
    "where",
    *_LIMIT_KEYS,
    "runbook",
    "article",
    "summary",
    "labels",
    "annotations",
    "overrides",
)
_PLACES = {"host": "instance", "mount": "mountpoint", "device": "device"}
"""Short words for the labels that overrides are mostly about."""
_OVERRIDE_KEYS = (*_PLACES, "match", *_LIMIT_KEYS, "off")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ .:/-]*")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")


@dataclass(frozen=True, slots=True)
class _Terms:
    """What an override may change."""

    limits: Limits
    for_ms: int
    keep_ms: int
    severity: str


@dataclass(frozen=True, slots=True)
class _Override:
    matchers: tuple[Matcher, ...]
    terms: _Terms | None  # None: off.
    line: int


class ShortForm:
    """The thresholds of one file. `groups` are the names that its groups have already, with their lines."""

    def __init__(
        self, reading: Reading, groups: Mapping[str, int], interval_ms: int = INTERVAL_MS_DEFAULT
    ) -> None:
        self._read = reading
        self._groups = groups
        self._interval_ms = interval_ms
        self._names: dict[tuple[str, str], int] = {}

    def groups(self, node: Tree | None) -> list[Group]:
        """The group of all thresholds; none where there are none."""
        if node is None:
            return []
        rules: list[AlertingRule] = []
        items = list(self._read.items(node, "thresholds"))
        if len(items) > THRESHOLDS_MAX:
            self._read.bad(node, "thresholds", f"{len(items)} thresholds", f"at most {THRESHOLDS_MAX} a file")
            return []
        for number, item in enumerate(items):
            rules += self._threshold(item, f"thresholds[{number}]")
        if items and GROUP in self._groups:
            self._read.bad(
                node,
                "thresholds",
                f'a group named "{GROUP}" (line {self._groups[GROUP]})',
                "another name for it: the thresholds of a file are the group of that name",
            )
        if not rules:
            return []
        place = Place(self._read.file, node.line)
        return [Group(GROUP, self._read.file, self._interval_ms, 0, 0, tuple(rules), place)]

    def _threshold(self, tree: Tree, at: str) -> list[AlertingRule]:
        read, before = self._read, self._read.complaints
        keys = read.mapping(tree, at, _KEYS)
        if keys is None:
            return []
        name = self._name(keys, tree, at)
        at = f"threshold {name}" if name else at
        expr = self._subject(keys, tree, at)
        terms = self._terms(keys, tree, at)
        where = self._matchers(keys["where"], f"{at}: where") if "where" in keys else ()
        labels = [(label, text, node) for label, text, node in self._labels(keys, at)]
        notes = self._notes(keys, at)
        overrides = self._overrides(keys.get("overrides"), at, terms)
        if expr is not None:
            self._can_match(expr, where, keys.get("where", tree), f"{at}: where")
            for override in overrides:
                self._can_match(expr, override.matchers, Scalar(override.line, "", False), f"{at}: overrides")
        if name and terms is not None:
            self._unique(name, terms.severity, tree, at)
        if expr is None or not name or terms is None or read.complaints > before:
            return []
        place = Place(read.file, tree.line)
        made: list[AlertingRule] = []
        taken: list[tuple[Matcher, ...]] = []
        for override in [*overrides, _Override((), terms, tree.line)]:
            if override.terms is not None:
                rule = self._rule(name, expr, override, tuple(taken), where, labels, notes, place, at)
                if rule is not None:
                    made.append(rule)
            taken.append(override.matchers)
        return made

    def _rule(
        self,
        name: str,
        expr: ast.Expr,
        override: _Override,
        but: tuple[tuple[Matcher, ...], ...],
        where: tuple[Matcher, ...],
        labels: list[tuple[str, str, Tree]],
        notes: list[tuple[str, str, Tree]],
        place: Place,
        at: str,
    ) -> AlertingRule | None:
        read, terms = self._read, override.terms
        assert terms is not None
        nowhere = Scalar(override.line, "", False)
        every_label = list(labels)
        if terms.severity:
            every_label.append(("severity", terms.severity, nowhere))
        subject = Subject.of(expr)
        pairs = [(label, text) for label, text, _ in every_label]
        text = compiled(subject, terms.limits, name, pairs, where=where, only=override.matchers, but=but)
        planned = read.plans.get(text)
        if planned is None:
            try:
                planned = read.plans[text] = plan(text, read.made)
            except BadQuery as error:
                read.bad(
                    nowhere,
                    at,
                    f"an expression that is too long with its overrides: {error}",
                    "fewer overrides",
                )
                return None
        all_notes = list(notes)
        if not any(note == "summary" for note, _, _ in notes):
            all_notes.append(("summary", _summary(name, terms.limits), nowhere))
        return AlertingRule(
            name,
            text,
            planned,
            terms.for_ms,
            terms.keep_ms,
            read.templates(every_label, f"{at}: labels"),
            read.templates(all_notes, f"{at}: annotations", queries=True),
            replace(place, line=override.line),
            judges_absence(expr),
            _in_words(subject, terms, where, override.matchers),
            asks_absence(expr),
        )

    # The parts.

    def _name(self, keys: Mapping[str, Tree], tree: Tree, at: str) -> str:
        if "name" not in keys:
            self._read.bad(tree, f"{at}.name", "no name", "a name")
            return ""
        name = self._read.text(keys["name"], f"{at}.name")
        if name is None:
            return ""
        if not _NAME.fullmatch(name) or len(name) > NAME_BYTES_MAX:
            wanted = f"a name of letters, digits and _ .:/-, at most {NAME_BYTES_MAX}"
            self._read.bad(keys["name"], f"{at}.name", shown(name), wanted)
            return ""
        return name

    def _unique(self, name: str, severity: str, tree: Tree, at: str) -> None:
        known = self._names.setdefault((name, severity), tree.line)
        if known != tree.line:
            what = f'"{name}" with severity {severity}' if severity else f'"{name}" without a severity'
            self._read.bad(
                tree, at, f"{what} again", f"a name or a severity of its own (line {known} has this)"
            )

    def _subject(self, keys: Mapping[str, Tree], tree: Tree, at: str) -> ast.Expr | None:
        read = self._read
        if ("metric" in keys) == ("expr" in keys):
            both = "metric" in keys
            read.bad(tree, at, "both metric and expr" if both else "neither metric nor expr", "one of them")
            return None
        if "expr" in keys:
            planned = read.expr(keys["expr"], tree, f"{at}: expr")
            if planned is None:
                return None
            if planned.kind is ast.Kind.SCALAR:
                read.bad(keys["expr"], f"{at}: expr", "one number for all", "series, such as vector(...)")
                return None
            bare = ast.bare(planned.expr)
            if isinstance(bare, ast.Binary) and bare.op in _COMPARISONS and not bare.returns_bool:
                got = f"a comparison with {bare.op}"
                read.bad(
                    keys["expr"], f"{at}: expr", got, "the value alone; above and below are the comparison"
                )
                return None
            return planned.expr
        text = read.text(keys["metric"], f"{at}: metric")
        if text is None:
            return None
        wanted = 'a metric such as node_load1, or node_load1{job="node"}; anything more is expr'
        try:
            expr = parse(text.strip())
        except BadQuery:
            read.bad(keys["metric"], f"{at}: metric", shown(text), wanted)
            return None
        if not isinstance(expr, ast.Selector) or not expr.name or expr.offset_ms or expr.at is not None:
            read.bad(keys["metric"], f"{at}: metric", shown(text), wanted)
            return None
        read.expr(keys["metric"], tree, f"{at}: metric")
        return expr

    def _terms(
        self, keys: Mapping[str, Tree], tree: Tree, at: str, base: _Terms | None = None
    ) -> _Terms | None:
        read, before = self._read, self._read.complaints
        numbers = {key: self._number(keys[key], f"{at}: {key}") for key in _LIMITS if key in keys}
        if read.complaints > before:
            return None
        limits = self._limits(numbers, keys, tree, at, base)
        for_ms = read.duration(keys.get("for"), f"{at}: for", base.for_ms if base else 0)
        keep = read.duration(
            keys.get("keep_firing_for"), f"{at}: keep_firing_for", base.keep_ms if base else 0
        )
        severity = base.severity if base else ""
        if "severity" in keys:
            text = read.text(keys["severity"], f"{at}: severity")
            if text is not None and text not in SEVERITIES:
                read.bad(keys["severity"], f"{at}: severity", shown(text), "one of " + ", ".join(SEVERITIES))
            severity = text or ""
        return None if limits is None else _Terms(limits, for_ms, keep, severity)

    def _limits(
        self,
        numbers: Mapping[str, float | None],
        keys: Mapping[str, Tree],
        tree: Tree,
        at: str,
        base: _Terms | None,
    ) -> Limits | None:
        read = self._read
        above, below, clear = (numbers.get(key) for key in _LIMITS)
        if base is not None:
            for side, mine, others in (
                ("above", above, base.limits.above),
                ("below", below, base.limits.below),
            ):
                if mine is not None and others is None:
                    read.bad(
                        keys[side],
                        f"{at}: {side}",
                        side,
                        f"what the threshold itself has: {base.limits.text()}",
                    )
                    return None
            above = base.limits.above if above is None else above
            below = base.limits.below if below is None else below
            clear = base.limits.clear if clear is None else clear
        if above is None and below is None:
            read.bad(tree, at, "neither above nor below", "one of them")
            return None
        if above is not None and below is not None:
            if below >= above:
                got = f"above {number_text(above)} and below {number_text(below)}"
                read.bad(
                    keys.get("below", tree),
                    at,
                    got,
                    "below less than above: a band that is left on both sides",
                )
                return None
            if clear is not None:
                read.bad(
                    keys.get("clear", tree),
                    f"{at}: clear",
                    "clear with above and below",
                    "two thresholds, each with its own clear",
                )
                return None
        elif clear is not None:
            wrong = clear >= above if above is not None else below is not None and clear <= below
            if wrong:
                side = (
                    f"less than above ({number_text(above)})"
                    if above is not None
                    else (f"more than below ({number_text(below or 0.0)})")
                )
                inherited = "" if "clear" in keys or base is None else ", which the threshold itself has"
                read.bad(keys.get("clear", tree), f"{at}: clear", number_text(clear) + inherited, side)
                return None
        return Limits(above, below, clear)

    def _number(self, node: Tree, at: str) -> float | None:
        text = self._read.text(node, at)
        if text is None:
            return None
        text = text.strip()
        if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
        for unit in (Duration, ByteSize):
            try:
                return float(unit.from_config(text))
            except (NotWanted, OverflowError):
                continue
        percent = text.removesuffix("%").strip()
        if percent != text and _NUMBER.fullmatch(percent):
            hint = f"{float(percent) / 100:g} where the metric is a ratio, {percent} where it is in percent"
            self._read.bad(node, at, shown(text), hint)
            return None
        self._read.bad(
            node,
            at,
            shown(text),
            'a number, or one with a unit such as "5GiB" or "14d" (as bytes and seconds)',
        )
        return None

    def _labels(self, keys: Mapping[str, Tree], at: str) -> list[tuple[str, str, Tree]]:
        pairs = self._read.pairs(keys.get("labels"), f"{at}: labels", labels=True)
        for name, text, node in pairs:
            if name == "severity":
                self._read.bad(
                    node, f"{at}: labels.severity", shown(text), "severity beside name, not a label"
                )
            elif name in ALERT_LABELS:
                self._read.bad(
                    node, f"{at}: labels.{name}", shown(text), "a label that is not the alert's own"
                )
        return pairs

    def _notes(self, keys: Mapping[str, Tree], at: str) -> list[tuple[str, str, Tree]]:
        notes = self._read.pairs(keys.get("annotations"), f"{at}: annotations")
        taken = {name for name, _, _ in notes}
        for key in ("runbook", "article", "summary"):
            if key not in keys:
                continue
            text = self._read.text(keys[key], f"{at}: {key}")
            if text is None:
                continue
            if not text.strip() or len(text) > NOTE_CHARS_MAX:
                self._read.bad(keys[key], f"{at}: {key}", shown(text), f"1 to {NOTE_CHARS_MAX} characters")
            elif key in taken:
                self._read.bad(keys[key], f"{at}: {key}", "it among the annotations too", "one of the two")
            else:
                notes.append((key, text, keys[key]))
        return notes

    # Matchers.

    def _matchers(self, node: Tree, at: str) -> tuple[Matcher, ...]:
        text = self._read.text(node, at)
        if text is None:
            return ()
        wanted = 'matchers such as instance="db1",mountpoint=~"/var.*"'
        inner = text.strip().removeprefix("{").removesuffix("}").strip()
        try:
            expr = parse(f"x{{{inner}}}") if inner else None
        except BadQuery:
            expr = None
        if not isinstance(expr, ast.Selector) or expr.at is not None or expr.offset_ms:
            self._read.bad(node, at, shown(text), wanted)
            return ()
        made = tuple(matcher for matcher in expr.matchers if matcher.name != "__name__")
        if not made or len(made) + 1 != len(expr.matchers):
            self._read.bad(node, at, shown(text), wanted)
            return ()
        return made

    def _overrides(self, node: Tree | None, at: str, base: _Terms | None) -> list[_Override]:
        made: list[_Override] = []
        items = list(self._read.items(node, f"{at}: overrides"))
        if node is not None and len(items) > OVERRIDES_MAX:
            self._read.bad(node, f"{at}: overrides", f"{len(items)} overrides", f"at most {OVERRIDES_MAX}")
            return []
        seen: dict[frozenset[Matcher], int] = {}
        for number, item in enumerate(items):
            override = self._override(item, f"{at}: overrides[{number}]", base)
            if override is None:
                continue
            which = frozenset(override.matchers)
            if which in seen:
                got, wanted = (
                    f"{matchers_text(override.matchers)} again",
                    f"each once (line {seen[which]} decides)",
                )
                self._read.bad(item, f"{at}: overrides[{number}]", got, wanted)
                continue
            seen[which] = override.line
            made.append(override)
        return made

    def _override(self, tree: Tree, at: str, base: _Terms | None) -> _Override | None:
        read, before = self._read, self._read.complaints
        keys = read.mapping(tree, at, _OVERRIDE_KEYS)
        if keys is None:
            return None
        matchers: list[Matcher] = []
        for key, label in _PLACES.items():
            if key in keys:
                matchers += self._one_of(keys[key], f"{at}: {key}", label)
        if "match" in keys:
            matchers += self._matchers(keys["match"], f"{at}: match")
        if read.complaints > before:
            return None
        if not matchers:
            read.bad(tree, at, "no matcher", "one of " + ", ".join((*_PLACES, "match")))
            return None
        off = self._off(keys.get("off"), f"{at}: off")
        if read.complaints > before:
            return None
        changed = [key for key in _LIMIT_KEYS if key in keys]
        if off and changed:
            read.bad(tree, at, f"off, and {changed[0]}", "one of the two")
            return None
        if not off and not changed:
            read.bad(tree, at, "nothing that is different", "one of " + ", ".join((*_LIMIT_KEYS, "off")))
            return None
        terms = None if off or base is None else self._terms(keys, tree, at, base)
        if read.complaints > before or (terms is None and not off):
            return None
        return _Override(tuple(dict.fromkeys(matchers)), terms, tree.line)

    def _one_of(self, node: Tree, at: str, label: str) -> list[Matcher]:
        """A name, or several in a list."""
        nodes = node.items if isinstance(node, Listing) else [node]
        texts = [self._read.text(each, at) for each in nodes]
        if None in texts:
            return []
        if not texts or not all(texts):
            self._read.bad(node, at, kind(node) if texts else "an empty list", "a name, or a list of names")
            return []
        if len(texts) == 1:
            return [Matcher(label, MatchOp.EQUAL, texts[0] or "")]
        return [Matcher(label, MatchOp.REGEX, "|".join(re.escape(text or "") for text in texts))]

    def _off(self, node: Tree | None, at: str) -> bool:
        if node is None:
            return False
        text = self._read.text(node, at)
        if text not in ("true", "false"):
            self._read.bad(node, at, kind(node), "true or false")
        return text == "true"

    def _can_match(self, expr: ast.Expr, matchers: Sequence[Matcher], node: Tree, at: str) -> None:
        if matchers and Subject.of(expr).selector is None:
            self._read.bad(node, at, matchers_text(matchers), "no matchers: the expression reads no metric")
            return
        possible = possible_labels(expr)
        for matcher in matchers:
            try:
                matcher.check()
            except InvalidRegex as error:
                self._read.bad(node, at, str(error), "a regular expression in RE2 syntax")
                continue
            if matcher.name not in possible and not matcher.matches(""):
                self._read.bad(
                    node,
                    at,
                    f"{matchers_text([matcher])}, and no result has the label {matcher.name}",
                    "a label that the expression keeps; or the matcher inside expr",
                )


_LIMITS = ("above", "below", "clear")
_COMPARISONS = frozenset(["==", "!=", ">", "<", ">=", "<="])


def _summary(name: str, limits: Limits) -> str:
    where = "{{ if $labels.instance }}{{ $labels.instance }}: {{ end }}"
    return f"{where}{name}, {{{{ humanize $value }}}} ({limits.text()})"


def _in_words(subject: Subject, terms: _Terms, where: Sequence[Matcher], only: Sequence[Matcher]) -> str:
    matchers = matchers_text([*where, *only])
    words = f"{subject.text} {terms.limits.text()}"
    if terms.for_ms:
        words += f", for {Duration(terms.for_ms / 1000).to_config()}"
    if terms.keep_ms:
        words += f", keeps firing for {Duration(terms.keep_ms / 1000).to_config()}"
    return f"{words}, where {matchers}" if matchers else words
