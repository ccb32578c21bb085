"""Unit-test files, read strictly: promtool's format, every mistake at once, the rule files they name resolved.

rule_files: [rules.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - { series: 'up{instance="a"}', values: "1 0x10" }
    alert_rule_test:
      - { eval_time: 5m, alertname: Down, exp_alerts: [{ exp_labels: { instance: a } }] }
    promql_expr_test:
      - { expr: up, eval_time: 5m, exp_samples: [{ labels: 'up{instance="a"}', value: 0 }] }
"""

import re
from collections.abc import Callable
from datetime import datetime

from watchbill.errors import Problem
from watchbill_collector.rules import Source
from watchbill_collector.rules.run import ALERT_NAME
from watchbill_collector.rulestest.model import (
    INTERVAL_MS_DEFAULT,
    AlertTest,
    ExprTest,
    InputSeries,
    TestFile,
    TestGroup,
    WantedAlert,
    WantedSample,
)
from watchbill_collector.rulestest.notation import BadNotation, parse_series, parse_values
from watchbill_collector.rulestest.tree import TreeReader
from watchbill_collector.yamlreading import Found
from watchbill_collector.yamltree import BadDocument, Tree, parse, shown

RuleFiles = Callable[[str], tuple[list[Source], list[Problem]]]
"""The rule files that a pattern of `rule_files` names; none is a warning, what cannot be read a problem."""

_FILE_KEYS = ("rule_files", "evaluation_interval", "group_eval_order", "tests", "fuzzy_compare")
_GROUP_KEYS = (
    "name",
    "interval",
    "input_series",
    "alert_rule_test",
    "promql_expr_test",
    "external_labels",
    "external_url",
    "start_timestamp",
)
_UNIX = re.compile(r"\d{1,11}(\.\d{1,3})?", re.ASCII)


def read_tests(source: Source, rule_files: RuleFiles) -> tuple[TestFile | None, list[Problem]]:
    """The file, or every mistake in it. The rule files are found, and judged only later."""
    found = Found()
    try:
        tree = parse(source.file, source.content)
    except BadDocument as error:
        return None, [error.problem]
    made = _Reader(TreeReader(source.file, found), rule_files).file(tree)
    return (None, found.all()) if found.problems else (made, [])


class _Reader:
    def __init__(self, tree: TreeReader, rule_files: RuleFiles) -> None:
        self._tree = tree
        self._rule_files = rule_files

    def file(self, top: Tree | None) -> TestFile:
        tree = self._tree
        keys = {} if top is None else tree.keys(top, "", _FILE_KEYS)
        interval_ms = tree.duration_ms(keys.get("evaluation_interval"), "evaluation_interval")
        interval_ms = interval_ms or INTERVAL_MS_DEFAULT
        rules, warnings = self._rules(keys.get("rule_files"))
        groups = [self._group(node, at, interval_ms) for at, node in tree.items(keys.get("tests"), "tests")]
        return TestFile(
            tree.file,
            interval_ms,
            self._order(keys.get("group_eval_order")),
            tree.yes(keys.get("fuzzy_compare"), "fuzzy_compare"),
            rules,
            tuple(groups),
            warnings,
        )

    def _order(self, node: Tree | None) -> tuple[str, ...]:
        order: list[str] = []
        for at, item in self._tree.items(node, "group_eval_order"):
            name = self._tree.text(item, at)
            if name in order:
                self._tree.bad(item, at, f"the group {shown(name)} again", "each group once")
            order.append(name)
        return tuple(order)

    def _rules(self, node: Tree | None) -> tuple[tuple[Source, ...], tuple[str, ...]]:
        sources: dict[str, Source] = {}
        warnings: list[str] = []
        for at, item in self._tree.items(node, "rule_files"):
            pattern = self._tree.text(item, at)
            if not pattern:
                continue
            found, problems = self._rule_files(pattern)
            for problem in problems:
                self._tree.bad(item, at, f"{problem.file}: {problem.got}", problem.wanted)
            if not found and not problems:
                warnings.append(f"{self._tree.file}:{item.line}: no rule file matches {shown(pattern)}")
            sources |= {source.file: source for source in found}
        return tuple(sources.values()), tuple(warnings)

    def _group(self, node: Tree, at: str, interval_ms: int) -> TestGroup:
        tree = self._tree
        keys = tree.keys(node, at, _GROUP_KEYS)
        name = tree.text(keys.get("name"), f"{at}.name")
        at = f"{at} ({name})" if name else at
        own_ms = tree.duration_ms(keys.get("interval"), f"{at}.interval")
        alerts, exprs = f"{at}.alert_rule_test", f"{at}.promql_expr_test"
        return TestGroup(
            node.line,
            name,
            own_ms or interval_ms,
            self._start_ms(keys.get("start_timestamp"), f"{at}.start_timestamp"),
            self._input(keys.get("input_series"), f"{at}.input_series"),
            tuple(self._alert(item, path) for path, item in tree.items(keys.get("alert_rule_test"), alerts)),
            tuple(self._expr(item, path) for path, item in tree.items(keys.get("promql_expr_test"), exprs)),
            tree.texts(keys.get("external_labels"), f"{at}.external_labels"),
            tree.text(keys.get("external_url"), f"{at}.external_url"),
        )

    def _start_ms(self, node: Tree | None, at: str) -> int:
        text = self._tree.text(node, at)
        if node is None or not text:
            return 0
        if _UNIX.fullmatch(text):
            return round(float(text) * 1000)
        try:
            return round(datetime.fromisoformat(text).timestamp() * 1000)
        except (ValueError, OverflowError):
            self._tree.bad(node, at, shown(text), "RFC 3339 or unix seconds")
            return 0

    def _input(self, node: Tree | None, at: str) -> tuple[InputSeries, ...]:
        made: dict[tuple[tuple[str, str], ...], InputSeries] = {}
        for path, item in self._tree.items(node, at):
            keys = self._tree.keys(item, path, ("series", "values"))
            labels = self._labels(keys.get("series"), item, f"{path}.series")
            text = self._tree.text(keys.get("values"), f"{path}.values")
            try:
                series = InputSeries(labels, tuple(parse_values(text)))
            except BadNotation as error:
                self._tree.bad(keys.get("values", item), f"{path}.values", str(error), "series notation")
                continue
            # Of a series that is written twice the last one counts, as with promtool.
            made[tuple(sorted(labels.items()))] = series
        return tuple(made.values())

    def _alert(self, node: Tree, at: str) -> AlertTest:
        tree = self._tree
        keys = tree.keys(node, at, ("eval_time", "alertname", "exp_alerts"))
        name = tree.text(keys.get("alertname"), f"{at}.alertname")
        if not name:
            tree.bad(keys.get("alertname", node), f"{at}.alertname", "nothing", "the name of an alert")
        wanted = []
        for path, item in tree.items(keys.get("exp_alerts"), f"{at}.exp_alerts"):
            parts = tree.keys(item, path, ("exp_labels", "exp_annotations"))
            labels = tree.texts(parts.get("exp_labels"), f"{path}.exp_labels")
            labels = {key: text for key, text in labels.items() if text}
            notes = tree.texts(parts.get("exp_annotations"), f"{path}.exp_annotations")
            wanted.append(WantedAlert(labels | {ALERT_NAME: name}, notes))
        time_ms = tree.duration_ms(keys.get("eval_time"), f"{at}.eval_time")
        return AlertTest(node.line, time_ms, name, tuple(wanted))

    def _expr(self, node: Tree, at: str) -> ExprTest:
        tree = self._tree
        keys = tree.keys(node, at, ("expr", "eval_time", "exp_samples"))
        wanted = []
        for path, item in tree.items(keys.get("exp_samples"), f"{at}.exp_samples"):
            parts = tree.keys(item, path, ("labels", "value", "histogram"))
            if tree.text(parts.get("histogram"), f"{path}.histogram"):
                got = "a native histogram"
                tree.bad(parts["histogram"], f"{path}.histogram", got, "a value: they are not supported")
            labels = self._labels(parts.get("labels"), item, f"{path}.labels")
            wanted.append(WantedSample(labels, tree.number(parts.get("value"), f"{path}.value")))
        time_ms = tree.duration_ms(keys.get("eval_time"), f"{at}.eval_time")
        return ExprTest(node.line, time_ms, tree.text(keys.get("expr"), f"{at}.expr"), tuple(wanted))

    def _labels(self, node: Tree | None, beside: Tree, at: str) -> dict[str, str]:
        text = self._tree.text(node, at)
        try:
            return parse_series(text)
        except BadNotation as error:
            self._tree.bad(node or beside, at, f"{shown(text)}: {error}", 'a series such as up{job="node"}')
            return {}
