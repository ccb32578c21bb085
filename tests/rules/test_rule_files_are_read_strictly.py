"""Every mistake in a rule file is found, all at once, with its line and what would be right."""
# Tables read best with a line for each case.

from pathlib import Path

import pytest

from watchbill_collector import yamltree
from watchbill_collector.rules import Source, check, read
from watchbill_collector.rules.files import load

GROUP = "groups:\n- name: g\n  rules:\n"


def _problems(text: str | bytes) -> list[str]:
    content = text if isinstance(text, bytes) else text.encode()
    return [str(problem) for problem in check([Source("r.yml", content)])]


def test_a_file_of_prometheus_is_read_as_it_is() -> None:
    rules, problems = load(
        [
            Source(
                "r.yml",
                b"""
groups:
  - name: example
    interval: 1m
    limit: 10
    query_offset: 30s
    labels: {team: infra}
    rules:
      - record: job:up:sum
        expr: sum by (job) (up)
        labels: {on: yes, number: 1}
      - alert: Down
        expr: |
          up == 0
        for: 1h30m
        keep_firing_for: 5m
        labels: &severity
          severity: page
        annotations:
          summary: "{{ $labels.instance }} is down"
      - alert: Odd
        expr: vector(1)
        labels: {<<: *severity, odd: ~}
""",
            )
        ]
    )
    assert problems == []
    (group,) = rules.groups
    assert (group.name, group.interval_ms, group.limit, group.query_offset_ms) == (
        "example",
        60_000,
        10,
        30_000,
    )
    record, down, odd = group.rules
    assert record.labels == (("number", "1"), ("on", "yes"), ("team", "infra"))
    assert (down.expr, down.for_ms, down.keep_firing_for_ms) == ("up == 0", 5_400_000, 300_000)
    assert [(name, template.text) for name, template in odd.labels] == [
        ("odd", ""),
        ("severity", "page"),
        ("team", "infra"),
    ]
    assert down.place.line == 12


@pytest.mark.parametrize("empty", ["", "groups:\n", "# nothing\n", "groups: []\n"])
def test_an_empty_file_has_no_rules(empty: str) -> None:
    assert _problems(empty) == []


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("group: []\n", 1, ['unknown key "group"', '"groups"?']),
        ("- a\n", 1, ["a list", "a mapping"]),
        ("groups: 3\n", 1, ['"3"', "a list"]),
        ("groups:\n- rules: []\n", 2, ["no name"]),
        ("groups:\n- name: ''\n", 2, ["a name"]),
        ("groups:\n- name: a\n- name: b\n- name: a\n", 4, ["the same name again", "line 2"]),
        ("groups:\n- name: a\n  name: b\n", 3, ["the same key again"]),
        ("groups:\n- name: a\n  interval: 15\n", 3, ['"15"', "a duration"]),
        ("groups:\n- name: a\n  interval: 10ms\n", 3, ["1s to 1d"]),
        ("groups:\n- name: a\n  interval: yes\n", 3, ['"yes"', "a duration"]),
        ("groups:\n- name: a\n  limit: -1\n", 3, ['"-1"', "a whole number"]),
        ("groups:\n- name: a\n  source_tenants: [x]\n", 3, ['unknown key "source_tenants"']),
        (
            "groups:\n- name: a\n  rules:\n  - alert: Down\n    expr: up\n    fro: 1m\n",
            6,
            ['group a: alert "Down"', 'unknown key "fro"', '"for"?'],
        ),
        (
            "groups:\n- name: a\n  rules:\n  - {lables: {}, record: a:b, expr: up}\n",
            4,
            ['group a: record "a:b"', 'unknown key "lables"'],
        ),
        ("groups:\n- name: a\n  rules:\n  - {expr: up}\n", 4, ["rules[0]", "neither record nor alert"]),
        (GROUP + "  - alert: A\n", 4, ["A.expr", "no expression"]),
        (GROUP + "  - expr: up\n", 4, ["neither record nor alert"]),
        (GROUP + "  - {alert: A, record: b, expr: up}\n", 4, ["both record and alert"]),
        (GROUP + "  - {alert: '', expr: up}\n", 4, ["a name of 1 to"]),
        (GROUP + "  - {alert: A, expr: [up]}\n", 4, ["a list", "text"]),
        (GROUP + "  - {alert: A, expr: up, for: 5}\n", 4, ["A.for", '"5"']),
        (GROUP + "  - {alert: A, expr: up, for: 1h1h}\n", 4, ["A.for"]),
        (GROUP + "  - {record: a, expr: up, for: 5m}\n", 4, ["alerting rules only"]),
        (GROUP + "  - {record: 'a{}', expr: up}\n", 4, ["a{}"]),
        (GROUP + "  - {alert: A, expr: up, labels: {__name__: x}}\n", 4, ["__name__", "a label name"]),
        (GROUP + "  - {alert: A, expr: up, labels: {a: [b]}}\n", 4, ["A.labels.a", "text"]),
        (GROUP + "  - alert: A\n    expr: |\n      sum(\n        rat(x[5m]))\n", 5, ["rat", "unknown function"]),
        (GROUP + "  - {alert: A, expr: 'up ==='}\n", 4, ["A.expr", "up ==="]),
        (GROUP + "  - {alert: A, expr: 'up[5m]'}\n", 4, ["range vector", "an instant vector"]),
        (GROUP + "  - {alert: A, expr: '\"text\"'}\n", 4, ["string"]),
        (GROUP + "  - {alert: A, expr: 'up{a=~\"(\"}'}\n", 4, ["A.expr"]),
        (
            GROUP + "  - alert: A\n    expr: label_replace(up, \"a\", \"$1\", \"b\", \"(\")\n",
            5,
            ["A.expr", "label_replace", "invalid regular expression"],
        ),
        (GROUP + "  - {alert: A, expr: 'up @ 1700000000'}\n", 4, ["a fixed time", "up @"]),
        (GROUP + "  - {alert: A, expr: 'rate(up[1y])'}\n", 4, ["365 days", "31d"]),
        (GROUP + "  - {alert: A, expr: up, annotations: {s: '{{ $labels.x '}}\n", 4, ["A.annotations.s", "unclosed"]),
        (GROUP + "  - {alert: A, expr: up, annotations: {s: '{{ define `up` }}'}}\n", 4, ["'define' is not supported"]),
        (GROUP + "  - {alert: A, expr: up, annotations: {s: '{{ query $labels.q }}'}}\n", 4, ["'query' needs PromQL"]),
        (GROUP + "  - {alert: A, expr: up, labels: {s: '{{ nope }}'}}\n", 4, ["no function 'nope'"]),
        ("groups: [\n", 2, ["YAML"]),
        ("groups: *nothing\n", 1, ["alias *nothing"]),
        ("groups: []\n---\ngroups: []\n", 2, ["a second document"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(text: str, line: int, words: list[str]) -> None:
    problems = _problems(text)
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"r.yml:{line}:")
    for word in words:
        assert word in problems[0]


def test_all_mistakes_of_all_files_come_at_once_in_order() -> None:
    first = (
        GROUP
        + "  - {alert: A, expr: 'rat(x)', for: x, fro: 5m}\n  - {alert: B, expr: up, labels: {__name__: c}}\n"
    )
    second = "groups:\n- nam: x\n"
    problems = check([Source("a.yml", first.encode()), Source("b.yml", second.encode())])
    assert [(problem.file, problem.line) for problem in problems] == [
        ("a.yml", 4), ("a.yml", 4), ("a.yml", 4), ("a.yml", 5), ("b.yml", 2), ("b.yml", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        b"groups: " + b"[" * 10_000,
        b"groups: &a [*a, *a]\n",
        b"groups: \xff\xfe",
        b"\x00\x01\x02",
        b"groups:\n" + b"- &a x\n" * 10 + b"\x85",
        b"{" * 2_000,
        b"a: !!python/object:os.system x\n",
        b"%YAML 9.9\n---\n",
        b"groups: !!binary aGk=\n",
    ],
)
def test_hostile_files_are_refused_in_words(content: bytes) -> None:
    assert _problems(content)


def test_an_alias_bomb_is_counted_as_it_is_walked() -> None:
    rules = "rules: &r [" + ", ".join(["{alert: A, expr: up}"] * 100) + "]"
    groups = "\n".join(f"- {{name: g{number}, rules: *r}}" for number in range(3_000))
    problems = _problems(f"groups:\n- name: first\n  {rules}\n{groups}\n")
    assert any("nodes with all aliases filled in" in problem for problem in problems)


def test_a_file_that_is_too_large_is_not_parsed() -> None:
    (problem,) = _problems(b"#" * (yamltree.FILE_BYTES_MAX + 1))
    assert str(yamltree.FILE_BYTES_MAX) in problem


def test_many_mistakes_are_summed_up() -> None:
    problems = _problems(GROUP + "  - {alert: A, expr: 'x('}\n" * 500)
    assert len(problems) == 201
    assert "300 more mistakes" in problems[-1]


def test_a_directory_is_read_in_order_and_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text("groups: []\n")
    (tmp_path / "a.yaml").write_text("groups: []\n")
    (tmp_path / "notes.txt").write_text("no rules\n")
    (tmp_path / "c.yml").mkdir()
    sources, problems = read([tmp_path, tmp_path / "missing.yml"])
    assert [Path(source.file).name for source in sources] == ["a.yaml", "b.yml"]
    assert [Path(problem.file).name for problem in problems] == ["c.yml", "missing.yml"]


def test_expressions_that_are_loaded_are_not_planned_again() -> None:
    source = Source("r.yml", (GROUP + "  - {alert: A, expr: up == 0}\n").encode())
    rules, _ = load([source])
    again, _ = load([source], rules)
    assert again.rules[0].plan is rules.rules[0].plan


def test_what_names_no_interval_has_the_one_that_is_given() -> None:
    text = """
groups:
  - {name: own, interval: 9s, rules: [{alert: A, expr: up == 0}]}
  - {name: none, rules: [{alert: A, expr: up == 0}]}
  - {name: zero, interval: 0s, rules: [{alert: A, expr: up == 0}]}
thresholds:
  - {name: B, metric: node_load1, above: 4}
"""
    rules, problems = load([Source("r.yml", text.encode())], interval_ms=5_000)
    assert problems == []
    found = {group.name: group.interval_ms for group in rules.groups}
    assert found == {"own": 9_000, "none": 5_000, "zero": 5_000, "thresholds": 5_000}
