"""What is allowed and most likely a mistake: warnings for who checks a file. A file with warnings is loaded."""

from collections.abc import Iterator

from watchbill.errors import Problem
from watchbill_collector.rules.model import AlertingRule, Rule, RuleSet


def warnings(rules: RuleSet) -> list[Problem]:
    """Everything odd, file by file, in the order of the rules."""
    return [*_twice(rules)]


def _twice(rules: RuleSet) -> Iterator[Problem]:
    """Rules of one kind, name and labels in one file: their alerts or samples collide where their series do.

    The rules of one threshold share name and labels, and never a series.
    """
    seen: dict[tuple[object, ...], Rule] = {}
    for group in rules.groups:
        for rule in group.rules:
            if isinstance(rule, AlertingRule) and rule.short:
                continue
            labels = tuple((name, getattr(value, "text", value)) for name, value in rule.labels)
            known = seen.setdefault((group.file, rule.kind, rule.name, labels), rule)
            if known is not rule:
                got = f"{rule.kind.value} rule {rule.name} with the same labels again"
                wanted = f"labels that tell it from the one in line {known.place.line}"
                yield Problem(group.file, rule.place.line, rule.name, got, wanted)
