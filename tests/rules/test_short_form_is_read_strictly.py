"""The short form: what it compiles to, and every mistake in it with its line and key."""

import random

import pytest

from watchbill_collector.promql.engine import Engine
from watchbill_collector.promql.memory import MemoryStorage
from watchbill_collector.rules import Source, check
from watchbill_collector.rules.files import load
from watchbill_collector.rules.model import AlertingRule


def _compiled(text: str) -> list[AlertingRule]:
    rules, problems = load([Source("r.yml", text.encode())])
    assert not problems, [str(problem) for problem in problems]
    return [rule for rule in rules.rules if isinstance(rule, AlertingRule)]


ENGINE = Engine()
T = "thresholds:\n- "
FIRING = 'and ignoring (alertname, alertstate) ALERTS{alertname="T",alertstate="firing"}'


@pytest.mark.parametrize(
    ("written", "promql"),
    [
        ("{name: T, metric: x, above: 5}", ["x > 5"]),
        ("{name: T, metric: x, below: 14d}", ["x < 1209600"]),
        ("{name: T, metric: x, below: 5GiB, clear: 6GiB}", [f"x < 5368709120 or x < 6442450944 {FIRING}"]),
        ("{name: T, metric: x, above: 0.9, clear: 0.85}", [f"x > 0.9 or x > 0.85 {FIRING}"]),
        ("{name: T, metric: x, above: 9, below: 1}", ["x > 9 or x < 1"]),
        ("{name: T, metric: 'x{a=\"b\"}', where: 'c!=\"d\"', above: 5}", ['x{a="b",c!="d"} > 5']),
        ("{name: T, expr: a / b, above: 5}", ["(a / b) > 5"]),
        ("{name: T, expr: 'rate(a[5m])', above: 5}", ["rate(a[5m]) > 5"]),
        (
            "{name: T, metric: x, above: 5, overrides: [{host: h, above: 9}, {mount: [/a, /b.c], off: true}]}",
            ['x{instance="h"} > 9', 'x{instance!="h",mountpoint!~"/a|/b\\\\.c"} > 5'],
        ),
        (
            "{name: T, metric: x, above: 5, overrides: [{host: h, device: d, above: 9}]}",
            ['x{device="d",instance="h"} > 9', '(x > 5) unless on (instance, device) x{device="d",instance="h"}'],
        ),
        (
            "{name: T, expr: a / b, where: 'c=\"d\"', above: 5, overrides: [{host: h, above: 9}]}",
            [
                '((a / b) > 9) and on (c) a{c="d"} and on (instance) a{instance="h"}',
                '((a / b) > 5) and on (c) a{c="d"} unless on (instance) a{instance="h"}',
            ],
        ),
    ],
)  # fmt: skip
def test_what_it_compiles_to(written: str, promql: list[str]) -> None:
    assert [rule.expr for rule in _compiled(T + written + "\n")] == promql


def test_an_override_keeps_what_it_does_not_change() -> None:
    override, base = _compiled(
        T + "{name: T, metric: x, above: 5, clear: 4, for: 10m, keep_firing_for: 1m, severity: minor,"
        " overrides: [{host: h, severity: critical, for: 1m}]}\n"
    )
    assert (override.for_ms, override.keep_firing_for_ms, dict(override.labels)["severity"].text) == (
        60_000,
        60_000,
        "critical",
    )
    assert (base.for_ms, dict(base.labels)["severity"].text) == (600_000, "minor")
    assert override.short == 'x above 5, clears at 4, for 1m, keeps firing for 1m, where instance="h"'
    assert base.short == "x above 5, clears at 4, for 10m, keeps firing for 1m"
    assert 'severity="critical"' in override.expr


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("{name: T, metric: x, above: 5, clear: 6}", ["threshold T: clear", "6", "less than above (5)"]),
        ("{name: T, metric: x, below: 5, clear: 4}", ["threshold T: clear", "more than below (5)"]),
        ("{name: T, metric: x, above: 5, clear: 5}", ["less than above"]),
        ("{name: T, metric: x, above: 5, below: 6}", ["a band"]),
        ("{name: T, metric: x, above: 6, below: 5, clear: 5}", ["two thresholds, each with its own clear"]),
        ("{name: T, metric: x}", ["neither above nor below"]),
        ("{name: T, above: 5}", ["neither metric nor expr"]),
        ("{name: T, metric: x, expr: y, above: 5}", ["both metric and expr"]),
        ("{name: T, metric: 'rate(x[5m])', above: 5}", ["anything more is expr"]),
        ("{name: T, metric: 'x offset 5m', above: 5}", ["anything more is expr"]),
        ("{name: T, metric: 'x y', above: 5}", ["a metric such as"]),
        ("{name: T, expr: x > 5, above: 5}", ["a comparison with >"]),
        ("{name: T, expr: 'x[5m]', above: 5}", ["an instant vector"]),
        ("{name: T, expr: '1 + 1', above: 5}", ["one number for all"]),
        ("{name: T, expr: 'x +', above: 5}", ["PromQL"]),
        ("{name: T, metric: x, above: 90%}", ["0.9 where the metric is a ratio"]),
        ("{name: T, metric: x, above: [5]}", ["threshold T: above", "a list"]),
        ("{name: T, metric: x, above: high}", ["a number"]),
        ("{name: T, metric: x, above: nan}", ["a number"]),
        ("{name: T, metric: x, above: 1e309}", ["a number"]),
        ("{name: T, metric: x, above: 5, where: a=b}", ["matchers such as"]),
        ("{name: T, metric: x, above: 5, where: 'a=\"b\"} or y{c=\"d\"'}", ["matchers such as"]),
        ("{name: T, metric: x, above: 5, where: 'a=~\"(\"'}", ["threshold T: where"]),
        ("{name: T, expr: sum by (a) (x), above: 5, where: 'b=\"c\"'}", ["no result has the label b"]),
        ("{name: T, expr: sum(x), above: 5, overrides: [{host: h, above: 6}]}", ["label instance"]),
        ("{name: T, expr: vector(1), above: 5, where: 'b=\"c\"'}", ["reads no metric"]),
        ("{name: T, metric: x, above: 5, severity: bad}", ["critical, major, minor, info"]),
        ("{name: T, metric: x, above: 5, for: 5}", ["threshold T: for", "a duration"]),
        ("{name: T, metric: x, above: 5, fro: 5m}", ['unknown key "fro"', '"for"?']),
        ("{name: T, metric: x, above: 5, labels: {severity: x}}", ["severity beside name"]),
        ("{name: T, metric: x, above: 5, labels: {alertname: x}}", ["not the alert's own"]),
        ("{name: T, metric: x, above: 5, summary: '{{ nope }}'}", ["annotations.summary", "no function 'nope'"]),
        ("{name: T, metric: x, above: 5, summary: a, annotations: {summary: b}}", ["one of the two"]),
        ("{name: T, metric: x, above: 5, overrides: [{mount: /}]}", ["overrides[0]", "nothing that is different"]),
        ("{name: T, metric: x, above: 5, overrides: [{above: 6}]}", ["overrides[0]", "no matcher"]),
        ("{name: T, metric: x, above: 5, overrides: [{host: h, off: true, above: 6}]}", ["off, and above"]),
        ("{name: T, metric: x, above: 5, overrides: [{host: h, off: yes}]}", ["true or false"]),
        ("{name: T, metric: x, above: 5, overrides: [{host: h, below: 6}]}", ["overrides[0]: below"]),
        ("{name: T, metric: x, above: 5, overrides: [{host: '', above: 6}]}", ["overrides[0]: host"]),
        ("{name: T, metric: x, above: 5, overrides: [{host: h, above: 6}, {host: h, above: 7}]}", ["again"]),
        ("{name: T, metric: x, above: 5, clear: 4, overrides: [{host: h, above: 3}]}", ["the threshold itself has"]),
        ("{metric: x, above: 5}", ["no name"]),
        ("{name: 'a\"b', metric: x, above: 5}", ["a name of letters"]),
        ("[x]", ["a list", "a mapping"]),
        ("{name: T, metric: x, above: 5}\n- {name: T, metric: y, above: 5}", ['"T" without a severity again']),
        ("{name: T, metric: x, above: 5}\ngroups:\n- name: thresholds", ['a group named "thresholds"']),
    ],
)  # fmt: skip
def test_a_mistake_is_named(written: str, words: list[str]) -> None:
    problems = check([Source("r.yml", (T + written + "\n").encode())])
    assert len(problems) == 1, [str(problem) for problem in problems]
    assert problems[0].line >= 1
    for word in words:
        assert word in str(problems[0])


def test_every_mistake_is_named_at_once_with_its_own_line() -> None:
    text = "thresholds:\n- name: A\n  metric: x\n  above: 5\n  clear: 6\n"
    text += "- name: B\n  metric: x\n  abvoe: 5\n  above: 1\n"
    assert [problem.line for problem in check([Source("r.yml", text.encode())])] == [5, 8]


FILE = """\
thresholds:
- name: DiskFull
  expr: 100 * (1 - node_filesystem_avail_bytes / node_filesystem_size_bytes)
  where: fstype!="tmpfs"
  above: 90
  clear: 85
  for: 10m
  severity: major
  runbook: free-disk
  labels: {a: b}
  annotations: {x: '{{ $value }}'}
  overrides:
  - { mount: /backup, above: 98, clear: 97 }
  - { host: [db1, db2], severity: critical, for: 1m }
  - { match: 'role="scratch"', off: true }
- name: MemLow
  metric: node_memory_MemAvailable_bytes
  below: 5GiB
  keep_firing_for: 5m
"""
VALUES = (
    *(
        "",
        "null",
        "1",
        "-1",
        "1e309",
        "nan",
        "inf",
        "5GiB",
        "14d",
        "[]",
        "{}",
        "[a, b]",
        "{a: b}",
        "x",
        "'{{'",
        "up",
    ),
    *(
        "sum(x)",
        "rate(x[5m])",
        "up[5m]",
        'a="b"',
        'a=~"("',
        "a=b",
        "1,2",
        "true",
        "\u00e9",
        "9" * 30,
        "0x10",
        "90%",
    ),
    *(
        "-5m",
        '{__name__="x"}',
        "x offset 5m",
        "vector(1)",
        "time()",
        "ALERTS",
        "topk(1, x)",
        "'a\\nb'",
        '"\\u0000"',
    ),
)
KEYS = (
    "name",
    "expr",
    "metric",
    "where",
    "above",
    "below",
    "clear",
    "for",
    "severity",
    "labels",
    "overrides",
    "foo",
)


@pytest.mark.parametrize("seed", [1, 2])
def test_random_mistakes_are_named_and_nothing_breaks(seed: int) -> None:
    rng, refused = random.Random(seed), 0
    for _ in range(250):
        lines = FILE.rstrip("\n").split("\n")
        for _ in range(rng.choice((1, 1, 2, 3))):
            at = rng.randrange(len(lines))
            key, colon, value = lines[at].partition(":")
            indent = key[: len(key) - len(key.lstrip(" -"))]
            chosen = rng.random()
            if chosen < 0.1 and len(lines) > 1:
                lines.pop(at)
            elif chosen < 0.6 and colon:
                lines[at] = f"{key}: {rng.choice(VALUES)}"
            elif chosen < 0.8 and colon:
                lines[at] = f"{indent}{rng.choice(KEYS)}:{value}"
            else:
                lines.insert(at, f"{indent.replace('-', ' ')}{rng.choice(KEYS)}: {rng.choice(VALUES)}")
        rules, problems = load([Source("r.yml", "\n".join(lines).encode())])
        for problem in problems:
            assert problem.line
            assert problem.got
            assert problem.wanted
        if not problems:
            # What is taken is PromQL, and can be asked.
            for rule in rules.rules:
                ENGINE.instant(rule.plan, 0, MemoryStorage())
        refused += bool(problems)
    assert 100 < refused < 250
