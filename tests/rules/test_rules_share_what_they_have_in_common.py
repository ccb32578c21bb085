"""Equal parts of rules are worked out once a moment, unless a rule writes what they read."""

import json
from typing import Any

import numpy as np
import pytest

from watchbill_collector.promql import shared
from watchbill_collector.promql.values import UNLABELLED, Vector
from watchbill_collector.rules import Source
from watchbill_collector.rules.common import shared_nodes
from watchbill_collector.rules.files import load
from watchbill_collector.rules.model import RuleSet

LOAD, FREE = ("node_load1", ()), ("free_bytes", (("mountpoint", "/"),))
SIZE = ("size_bytes", (("mountpoint", "/"),))


def _text(*rules: tuple[str, str]) -> str:
    made = [{"record": name, "expr": expr} for name, expr in rules]
    return json.dumps({"groups": [{"name": "g", "rules": made}]})


def _parts(*rules: tuple[str, str], known: RuleSet | None = None) -> tuple[RuleSet, list[str]]:
    rule_set, problems = load([Source("t.yml", _text(*rules).encode())], known)
    assert not problems, [str(problem) for problem in problems]
    return rule_set, sorted(str(node.expr) for node in shared_nodes(rule_set))


def test_parts_of_several_expressions_are_shared_and_those_that_rules_write_are_not() -> None:
    _, parts = _parts(
        ("low", "100 * (free / size) < 10"),
        ("least", "(100 * (free / size)) < 3"),
        ("x", "sum by (instance) (rate(req_total[5m]))"),
        ("y", "x > 1"),
        ("z", "x > 1 or sum by (instance) (rate(req_total[5m]))"),
        ("w", '{__name__=~"r.*"} > 1 unless {__name__=~"r.*"} > 2'),
        ("v", "count(ALERTS) + count(ALERTS)"),
    )
    assert parts == ["100 * (free / size)", "sum by (instance) (rate(req_total[5m]))"]


def test_a_reload_shares_with_the_rules_that_were_there_and_forgets_those_that_are_gone() -> None:
    first, parts = _parts(("a", "sum(foo) > 1"), ("b", "sum(bar) > 1"))
    assert parts == []
    second, parts = _parts(("a", "sum(foo) > 1"), ("c", "sum(foo) > 2"), known=first)
    assert parts == ["sum(foo)"]
    assert "bar" not in " ".join(map(str, second.made))


def test_every_rule_gets_the_same_answer_as_alone(house: Any) -> None:
    rules = (
        ("low", "100 * (free_bytes / size_bytes) < 50"),
        ("least", "100 * (free_bytes / size_bytes) < 20"),
        ("share", "100 * (free_bytes / size_bytes)"),
        ("negative", "-(100 * (free_bytes / size_bytes))"),
    )
    together, hosts = house(), {"a": {FREE: 30.0, SIZE: 100.0}, "b": {FREE: 10.0, SIZE: 100.0}}
    together.load(_text(*rules))
    together.hosts = hosts
    together.run(3)
    for name, expr in rules:
        alone = house()
        alone.load(_text((name, expr)))
        alone.hosts = hosts
        alone.run(3)
        assert together.series_written(name) == alone.series_written(name)
        assert alone.series_written(name)


def test_what_a_rule_records_is_seen_anew_by_the_next_with_the_same_part(house: Any) -> None:
    it = house()
    it.load(_text(("before", "sum(x) + 1"), ("x", "node_load1 * 1"), ("after", "sum(x) + 2")))
    it.hosts = {"a": {LOAD: 5.0}}
    it.run(1)
    it.hosts["a"][LOAD] = 7.0
    it.run(1)
    values = {name: [value for _, value in it.series_written(name)[()]] for name in ("before", "after")}
    assert values == {"before": [6.0], "after": [7.0, 9.0]}


def test_what_is_kept_is_bounded_and_ends_with_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    value = Vector(UNLABELLED, np.ones((1, 1)), np.ones((1, 1), np.bool_))
    monkeypatch.setattr(shared, "BYTES_MAX", 20)
    values = shared.SharedValues()
    values.begin(frozenset(["node"]))
    for time in (1, 2, 3):
        values.keep(("node", time), value)
    values.keep(("other", 1), value)
    assert [values.known(("node", time)) for time in (1, 2, 3)] == [value, value, None]
    assert values.known(("other", 1)) is None
    assert values.hits == 2
    values.end()
    assert values.known(("node", 1)) is None
