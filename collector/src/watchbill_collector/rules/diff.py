"""What a reload changes, for the audit: rules added, removed and changed, with what they were and what they are.

Pure: two rule sets in, differences out, in the order of the new set and then of what is gone. A rule is the same rule
when file, group, kind, name and labels are the same; of several such, they are paired in their order. Moving a rule
within its group is a change of nothing but order and is not told.
"""

from collections import defaultdict
from dataclasses import dataclass
from enum import Enum

from watchbill.config import Duration
from watchbill_collector.rules.model import AlertingRule, Group, Rule, RuleSet

TEXT_CHARS_MAX = 4_096
"""What is kept of one rule's text; the rest is cut, visibly."""
DIFFERENCES_MAX = 1_000
"""Differences that are told one by one; the rest is counted."""
_CUT = " [cut]"


class Difference(Enum):
    """What became of a rule."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class RuleDifference:
    """One rule. `before` and `after` are its text as it is judged, one line a field; empty where there is none."""

    what: Difference
    file: str
    group: str
    rule: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class RulesDifference:
    """All of it; `more` differences are beyond the bound and not in `rules`."""

    rules: tuple[RuleDifference, ...]
    more: int = 0

    def __bool__(self) -> bool:
        return bool(self.rules)


def difference(before: RuleSet, after: RuleSet) -> RulesDifference:
    """What changes when `after` takes the place of `before`."""
    old: dict[tuple[object, ...], list[tuple[Group, Rule]]] = defaultdict(list)
    for group in before.groups:
        for rule in group.rules:
            old[_key(group, rule)].append((group, rule))
    found: list[RuleDifference] = []
    for group in after.groups:
        for rule in group.rules:
            known = old.get(_key(group, rule))
            text = rule_text(group, rule)
            if not known:
                found.append(RuleDifference(Difference.ADDED, group.file, group.name, rule.name, "", text))
                continue
            was = rule_text(*known.pop(0))
            if was != text:
                found.append(RuleDifference(Difference.CHANGED, group.file, group.name, rule.name, was, text))
    for gone in old.values():
        found += [
            RuleDifference(Difference.REMOVED, group.file, group.name, rule.name, rule_text(group, rule), "")
            for group, rule in gone
        ]
    return RulesDifference(tuple(found[:DIFFERENCES_MAX]), max(0, len(found) - DIFFERENCES_MAX))


def rule_text(group: Group, rule: Rule) -> str:
    """A rule as it is judged, with what its group gives it: for reading, not for loading."""
    alerting = isinstance(rule, AlertingRule)
    lines = [f"{'alert' if alerting else 'record'}: {rule.name}"]
    if isinstance(rule, AlertingRule) and rule.short:
        lines.append(f"threshold: {rule.short}")
    lines.append(f"expr: {' '.join(rule.expr.split())}")
    lines.append(f"interval: {_duration(group.interval_ms)}")
    if group.query_offset_ms:
        lines.append(f"query_offset: {_duration(group.query_offset_ms)}")
    if group.limit:
        lines.append(f"limit: {group.limit}")
    if isinstance(rule, AlertingRule):
        if rule.for_ms:
            lines.append(f"for: {_duration(rule.for_ms)}")
        if rule.keep_firing_for_ms:
            lines.append(f"keep_firing_for: {_duration(rule.keep_firing_for_ms)}")
        lines += [f"labels.{name}: {template.text}" for name, template in rule.labels]
        lines += [f"annotations.{name}: {template.text}" for name, template in rule.annotations]
    else:
        lines += [f"labels.{name}: {text}" for name, text in rule.labels]
    text = "\n".join(lines)
    return text if len(text) <= TEXT_CHARS_MAX else text[: TEXT_CHARS_MAX - len(_CUT)] + _CUT


def _key(group: Group, rule: Rule) -> tuple[object, ...]:
    labels = tuple((name, getattr(value, "text", value)) for name, value in rule.labels)
    return (group.file, group.name, rule.kind, rule.name, labels)


def _duration(ms: int) -> str:
    return Duration(ms / 1000).to_config()
