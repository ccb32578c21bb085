"""What a reload changes is told rule by rule, with the text before and after."""

from watchbill_collector.rules import Source
from watchbill_collector.rules.diff import DIFFERENCES_MAX, Difference, difference
from watchbill_collector.rules.files import load
from watchbill_collector.rules.lint import warnings
from watchbill_collector.rules.model import RuleSet


def _rules(text: str) -> RuleSet:
    rules, problems = load([Source("r.yml", text.encode())])
    assert not problems, [str(problem) for problem in problems]
    return rules


GROUP = "groups:\n- name: g\n  rules:\n"


def test_the_same_rules_make_no_difference() -> None:
    text = GROUP + "  - {alert: A, expr: up == 0}\n  - {record: b, expr: up}\n"
    assert not difference(_rules(text), _rules("# a comment\n" + text))
    swapped = GROUP + "  - {record: b, expr: up}\n  - {alert: A, expr:  'up   == 0'}\n"
    assert not difference(_rules(text), _rules(swapped))


def test_added_removed_and_changed_rules_are_told_with_both_texts() -> None:
    before = _rules(
        GROUP
        + "  - {alert: A, expr: up == 0, for: 5m}\n  - {alert: Gone, expr: up}\n"
        + "thresholds:\n- {name: T, metric: x, above: 5, clear: 3, severity: major}\n"
    )
    after = _rules(
        "groups:\n- name: g\n  interval: 1m\n  rules:\n"
        "  - {alert: A, expr: up == 0, for: 10m}\n  - {record: new, expr: up}\n"
        "thresholds:\n- {name: T, metric: x, above: 6, clear: 3, severity: major}\n"
    )
    found = difference(before, after)
    assert [(each.what, each.group, each.rule) for each in found.rules] == [
        (Difference.CHANGED, "g", "A"),
        (Difference.ADDED, "g", "new"),
        (Difference.CHANGED, "thresholds", "T"),
        (Difference.REMOVED, "g", "Gone"),
    ]
    changed, added, threshold, gone = found.rules
    assert changed.before == "alert: A\nexpr: up == 0\ninterval: 15s\nfor: 5m"
    assert changed.after == "alert: A\nexpr: up == 0\ninterval: 1m\nfor: 10m"
    assert (added.before, gone.after) == ("", "")
    assert "threshold: x above 5, clears at 3" in threshold.before
    assert "expr: x > 6 or x > 3 and" in threshold.after


def test_many_differences_are_counted() -> None:
    many = _rules(GROUP + "".join(f"  - {{record: r{n}, expr: up}}\n" for n in range(DIFFERENCES_MAX + 5)))
    found = difference(RuleSet(), many)
    assert (len(found.rules), found.more) == (DIFFERENCES_MAX, 5)


def test_rules_that_are_there_twice_are_warned_of() -> None:
    rules = _rules(
        GROUP
        + "  - {alert: A, expr: up == 0}\n  - {alert: A, expr: up == 1}\n"
        + "  - {alert: A, expr: up == 2, labels: {severity: minor}}\n"
        + "thresholds:\n- {name: T, metric: x, above: 5, overrides: [{host: a, above: 9}]}\n"
    )
    assert [str(each) for each in warnings(rules)] == [
        (
            "r.yml:5: A: got alerting rule A with the same labels again, "
            "wanted labels that tell it from the one in line 4"
        )
    ]
