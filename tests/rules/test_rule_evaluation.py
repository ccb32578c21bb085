"""Rules over real hosts' values: alerts through their life, recordings in order, the series they write."""

import itertools
import math
from typing import Any

import pytest

from watchbill_collector.promql.engine import Engine
from watchbill_collector.promql.memory import MemoryStorage
from watchbill_collector.rules import MemoryAlertState, RuleMetrics, Source, Surroundings
from watchbill_collector.rules.alerts import nothing_held
from watchbill_collector.rules.files import load
from watchbill_collector.rules.model import RuleSet
from watchbill_collector.rules.run import evaluated, run_of
from watchbill_collector.series import SeriesTable

LOAD = ("node_load1", ())


def test_an_alert_is_pending_then_firing_then_resolved(house: Any, rules_text: Any) -> None:
    it = house()
    labels, summary = "labels: {severity: minor}", '"{{ $labels.instance }} at {{ $value }}"'
    rule = f"{{alert: High, expr: node_load1 > 5, for: 30s, {labels}, annotations: {{summary: {summary}}}}}"
    it.load(rules_text([rule]))
    it.hosts = {"a": {LOAD: 1.0}, "b": {LOAD: 1.0}}
    it.run(2)
    assert it.states() == {}
    it.hosts["a"][LOAD] = 9.0
    it.run(1)
    assert it.states() == {("High", "a"): "pending"}
    began = it.now_ms
    it.run(1)
    assert it.states() == {("High", "a"): "pending"}
    it.run(1)
    alert = it.book.alerts()[0]
    assert alert.state.value == "firing"
    assert alert.active_ms == began
    assert alert.labels == {"alertname": "High", "instance": "a", "job": "node", "severity": "minor"}
    assert alert.annotations == {"summary": "a at 9"}
    it.hosts["a"][LOAD] = 1.0
    it.run(1)
    assert it.states() == {}
    assert it.told("High") == ["pending", "firing", "inactive"]
    assert [each.state.value for each in it.book.alerts(resolved=True)] == ["inactive"]
    it.run(70)
    assert it.book.alerts(resolved=True) == []


def test_an_alert_without_for_fires_at_once_and_one_that_goes_early_never_fires(
    house: Any, rules_text: Any
) -> None:
    it = house()
    it.load(
        rules_text(["{alert: Now, expr: node_load1 > 5}", "{alert: Later, expr: node_load1 > 5, for: 1m}"])
    )
    it.hosts = {"a": {LOAD: 9.0}}
    it.run(2)
    it.hosts["a"][LOAD] = 1.0
    it.run(1)
    assert it.told("Now") == ["pending", "firing", "inactive"]
    assert it.told("Later") == ["pending", "inactive"]


def test_keep_firing_for_bridges_a_gap(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(rules_text(["{alert: K, expr: node_load1 > 5, keep_firing_for: 45s}"]))
    it.hosts = {"a": {LOAD: 9.0}}
    it.run(1)
    it.hosts["a"][LOAD] = 1.0
    it.run(2)
    assert it.states() == {("K", "a"): "firing"}
    it.hosts["a"][LOAD] = 9.0
    it.run(1)
    it.hosts["a"][LOAD] = 1.0
    it.run(3)
    assert it.states() == {("K", "a"): "firing"}
    it.run(1)
    assert it.states() == {}


def test_alert_series_are_written_and_end(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(rules_text(["{alert: High, expr: node_load1 > 5, for: 15s}"]))
    it.hosts = {"a": {LOAD: 9.0}}
    it.run(3)
    it.hosts["a"][LOAD] = 1.0
    it.run(2)
    own = (("alertname", "High"), ("instance", "a"), ("job", "node"))
    pending = (("alertname", "High"), ("alertstate", "pending"), *own[1:])
    firing = (("alertname", "High"), ("alertstate", "firing"), *own[1:])
    alerts = it.series_written("ALERTS")
    assert [value for _, value in alerts[pending]][:1] == [1.0]
    assert math.isnan(alerts[pending][1][1])
    assert [value for _, value in alerts[firing]][:2] == [1.0, 1.0]
    assert math.isnan(alerts[firing][2][1])
    began = alerts[pending][0][0] // 1000
    assert [value for _, value in it.series_written("ALERTS_FOR_STATE")[own]][:3] == [began] * 3


def test_a_recording_is_seen_by_the_rules_behind_it_at_once(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(
        rules_text(
            [
                "{record: 'job:load:sum', expr: sum by (job) (node_load1), labels: {kind: total}}",
                "{record: 'job:load:double', expr: 'job:load:sum * 2'}",
                "{alert: Sum, expr: 'job:load:double > 20'}",
            ]
        )
    )
    it.hosts = {"a": {LOAD: 4.0}, "b": {LOAD: 7.0}}
    it.run(1)
    assert it.states() == {("Sum", ""): "firing"}
    written = it.series_written("job:load:double")[(("job", "node"), ("kind", "total"))]
    assert written == [(it.now_ms, 22.0)]
    assert it.book.alerts()[0].labels == {"alertname": "Sum", "job": "node", "kind": "total"}


def test_a_recording_that_loses_a_series_ends_it(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(rules_text(["{record: 'load:high', expr: node_load1 > 5}"]))
    it.hosts = {"a": {LOAD: 9.0}, "b": {LOAD: 9.0}}
    it.run(2)
    it.hosts["b"][LOAD] = 1.0
    it.run(2)
    of_b = it.series_written("load:high")[(("instance", "b"), ("job", "node"))]
    assert [value for _, value in of_b[:2]] == [9.0, 9.0]
    assert len(of_b) == 3
    assert math.isnan(of_b[2][1])


def test_a_rule_that_fails_says_so_and_hurts_no_other(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(
        rules_text(
            [
                "{alert: Bad, expr: node_load1 * on (job) node_load5 > 0}",
                "{alert: Good, expr: node_load1 > 5}",
                '{alert: Twice, expr: \'label_replace(node_load1, "instance", "x", "", "") > 5\'}',
            ]
        )
    )
    five = ("node_load5", ())
    it.hosts = {"a": {LOAD: 9.0, five: 1.0}, "b": {LOAD: 9.0, five: 1.0}}
    it.run(1)
    bad, good, twice = (run.health for run in it.book.groups()[0].runs)
    assert (bad.health, bad.failures) == ("err", 1)
    assert "many" in bad.last_error
    assert good.health == "ok"
    assert twice.health == "err"
    assert it.states() == {("Good", "a"): "firing", ("Good", "b"): "firing"}
    assert it.book.stats.failures == 2


def test_a_limit_turns_too_many_alerts_into_an_error(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(rules_text(["{alert: High, expr: node_load1 > 5}"], "  limit: 2\n"))
    it.hosts = {name: {LOAD: 9.0} for name in "abc"}
    it.run(1)
    assert it.book.groups()[0].runs[0].health.last_error == "exceeded limit of 2 with 3 alerts"
    assert it.states() == {}


def test_a_label_made_from_the_value_tells_alerts_apart(house: Any, rules_text: Any) -> None:
    it = house()
    level = '"{{ if gt $value 20.0 }}hot{{ else }}warm{{ end }}"'
    it.load(rules_text([f"{{alert: L, expr: node_load1 > 5, labels: {{level: {level}}}}}"]))
    it.hosts = {"a": {LOAD: 9.0}}
    it.run(1)
    assert it.book.alerts()[0].labels["level"] == "warm"
    it.hosts["a"][LOAD] = 30.0
    it.run(1)
    assert [alert.labels["level"] for alert in it.book.alerts()] == ["hot"]


def test_query_offset_looks_at_what_was(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(rules_text(["{record: 'then', expr: node_load1}"], "  query_offset: 30s\n"))
    it.hosts = {"a": {LOAD: 0.0}}

    def count(_: Any) -> None:
        it.hosts["a"][LOAD] += 1.0

    it.run(6, count)
    assert [value for _, value in it.series_written("then")[(("instance", "a"), ("job", "node"))]] == [
        1,
        2,
        3,
        4,
    ]


def test_groups_are_judged_on_one_grid_and_missed_moments_are_counted(house: Any) -> None:
    it = house(now_ms=1_700_000_003_000, step_ms=1_000)
    it.load(
        "groups:\n- {name: a, interval: 10s, rules: [{record: x, expr: vector(1)}]}\n"
        "- {name: b, interval: 20s, rules: [{record: y, expr: vector(1)}]}\n"
    )
    it.run(30)
    times = [moment for moment, _ in it.series_written("x")[()]]
    assert times == [1_700_000_000_000, 1_700_000_010_000, 1_700_000_020_000, 1_700_000_030_000]
    assert [moment for moment, _ in it.series_written("y")[()]] == [1_700_000_000_000, 1_700_000_020_000]
    it.now_ms += 35_000
    assert it.book.evaluate_due(it.now_ms) == 1_700_000_070_000
    assert it.book.stats.missed == 2 + 1


def test_a_reload_keeps_the_alerts_of_rules_that_are_the_same(house: Any, rules_text: Any) -> None:
    it = house()
    first = "{alert: High, expr: node_load1 > 5, for: 1m}"
    it.load(rules_text([first, "{alert: Gone, expr: node_load1 > 4}"]))
    it.hosts = {"a": {LOAD: 9.0}}
    it.run(3)
    began = it.book.alerts()[0].active_ms
    it.load(rules_text(["{alert: New, expr: node_load1 > 7}", first.replace("1m", "2m")]))
    assert it.states() == {("High", "a"): "pending"}
    it.run(2)
    high = next(alert for alert in it.book.alerts() if alert.rule == "High")
    assert (high.active_ms, high.state.value) == (began, "pending")
    it.run(5)
    assert it.states() == {("High", "a"): "firing", ("New", "a"): "firing"}
    gone = it.series_written("ALERTS")[
        (("alertname", "Gone"), ("alertstate", "firing"), ("instance", "a"), ("job", "node"))
    ]
    assert math.isnan(gone[-1][1])


def test_a_reload_with_a_mistake_changes_nothing(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(rules_text(["{alert: High, expr: node_load1 > 5}"]))
    before = it.book.rules
    problems = it.book.reload(
        [Source("new.yml", rules_text(["{alert: A, expr: 'rat(x[1m])'}"]).encode())], it.now_ms
    )
    assert [problem.file for problem in problems] == ["new.yml"]
    assert "rat" in problems[0].got
    assert it.book.rules is before
    it.hosts = {"a": {LOAD: 9.0}}
    it.run(1)
    assert it.states() == {("High", "a"): "firing"}


def test_what_rules_read_is_said_for_beats(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(rules_text(["{alert: A, expr: 'rate(b_total[5m]) > a{x!=\"\"}'}"]))
    assert it.book.metric_names() == ["a", "b_total"]


@pytest.mark.parametrize("gap", [20, 400])
def test_a_restart_keeps_alerts_and_judges_nobody_who_has_not_been_heard(
    house: Any, rules_text: Any, gap: int
) -> None:
    state = MemoryAlertState()
    text = rules_text(
        [
            "{alert: High, expr: node_load1 > 5, for: 1m}",
            "{alert: Few, expr: count(node_load1) < 2}",
            "{alert: None, expr: absent(node_load1)}",
        ]
    )
    it = house(state=state)
    it.load(text)
    it.hosts = {"a": {LOAD: 9.0}, "b": {LOAD: 9.0}, "c": {LOAD: 1.0}}
    it.run(10)
    it.book.close(it.now_ms)
    again = house(state=state, now_ms=it.now_ms + gap * 1000 // 15_000 * 15_000)
    again.load(text)
    again.book.resume(again.now_ms)
    firing = {("High", "a"), ("High", "b")}
    assert _firing(again) == firing
    again.run(2)
    assert _firing(again) == firing, "nobody has been heard: nothing fires, nothing resolves"
    again.hosts = {"a": {LOAD: 1.0}}
    again.run(1)
    assert _firing(again) == {("High", "b")}, "the host that was heard is judged"
    again.run(12)
    assert again.states() == {("Few", ""): "firing"}, (
        "after the hosts' time to come back everything is judged"
    )


def _firing(it: Any) -> set[tuple[str, str]]:
    return {key for key, state in it.states().items() if state == "firing"}


def test_time_without_evaluations_does_not_count_for_a_pending_alert(house: Any, rules_text: Any) -> None:
    state = MemoryAlertState()
    text = rules_text(["{alert: High, expr: node_load1 > 5, for: 2m}"])
    it = house(state=state)
    it.load(text)
    it.hosts = {"a": {LOAD: 9.0}}
    it.run(4)
    it.book.close(it.now_ms)
    again = house(state=state, now_ms=it.now_ms + 600_000)
    again.load(text)
    again.book.resume(again.now_ms)
    again.hosts = {"a": {LOAD: 9.0}}
    again.run(4)
    assert again.states() == {("High", "a"): "pending"}
    again.run(2)
    assert again.states() == {("High", "a"): "firing"}


def test_what_a_commit_appends_again_changes_nothing(house: Any, rules_text: Any) -> None:
    """Rules see their own samples at once; the commit hands the same ones to the head a little later."""
    it = house()
    it.load(
        rules_text(
            [
                "{record: 'load:high', expr: node_load1 > 5}",
                "{record: 'load:sum', expr: 'sum_over_time(load:high[1m])'}",
                "{alert: High, expr: 'load:high > 0'}",
                '{alert: Two, expr: \'count(ALERTS{alertname="High",alertstate="firing"}) > 1\'}',
            ]
        )
    )
    it.hosts = {"a": {LOAD: 9.0}, "b": {LOAD: 9.0}}
    for _ in range(6):
        it.run(1)
        it.head.append(list(it.written[-8:]))
    sums = it.series_written("load:sum")[(("instance", "a"), ("job", "node"))]
    assert [value for _, value in sums] == [9, 18, 27, 36, 36, 36]
    assert it.states()["Two", ""] == "firing"
    it.hosts["b"][LOAD] = 1.0
    for _ in range(2):
        it.run(1)
        it.head.append(list(it.written[-8:]))
    assert ("Two", "") not in it.states()


def test_the_numbers_of_rules_and_head_are_there(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(rules_text(["{alert: High, expr: node_load1 > 5}"]))
    it.hosts = {"a": {LOAD: 9.0}}
    it.run(2)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in RuleMetrics(it.book, it.head).collect()
        for sample in family.samples
    }
    assert found["watchbill_collector_rules_evaluations_total",] == 2
    assert found["watchbill_collector_alerts", "firing"] == 1
    assert found["watchbill_collector_head_ticks_total",] == 2
    assert found["watchbill_collector_head_series",] == 1


def test_a_rule_that_takes_too_long_fails_and_the_next_one_is_judged(rules_text: Any) -> None:
    # A clock that goes on by a second whenever somebody looks.
    clock, table = itertools.count(), SeriesTable()
    around = Surroundings(table, Engine(), monotonic=lambda: next(clock))
    long = " + ".join(["vector(1)"] * 20)
    text = rules_text([f"{{alert: Long, expr: '{long}'}}", "{alert: Short, expr: vector(1)}"])
    rules, problems = load([Source("t.yml", text.encode())], RuleSet())
    assert not problems
    runs = [run_of(rule, around) for rule in rules.rules]
    for run in runs:
        evaluated(run, 60_000, 60_000, MemoryStorage(), 0, nothing_held, lambda: 0.0)
    assert [(run.health.health, run.series) for run in runs] == [("err", 0), ("ok", 1)]
    assert "timed out" in runs[0].health.last_error
