"""What is not known is not judged: windows that are not covered, hosts that are silent, data that comes late."""

from typing import Any

import numpy as np
import pytest

from watchbill_collector.head import Hearing
from watchbill_collector.rules import MemoryAlertState, RuleMetrics
from watchbill_collector.series import Ticks

LOAD = ("node_load1", ())
ERRORS = ("errors_total", ())
UP = ("up", ())


def _up(it: Any, hosts: dict[str, float], at_ms: int | None = None) -> None:
    """`up` as the collector says it: one tick for all hosts."""
    ids = np.concatenate(
        [
            it.table.series(it.table.source({"instance": h, "job": "node"}), [it.table.key("up", {})])
            for h in hosts
        ]
    )
    at = it.now_ms if at_ms is None else at_ms
    it.head.append([Ticks(ids, np.array([at]), np.array([list(hosts.values())]))])


def _warming(it: Any, rule: int = 0) -> tuple[int, int] | None:
    warming = it.book.groups()[0].runs[rule].health.warming
    return None if warming is None else (warming.hosts, warming.of)


def _counting(it: Any, **per_step: float) -> Any:
    """Counters that grow by so much a step."""

    def count(_: Any) -> None:
        for host, step in per_step.items():
            if host in it.hosts:
                it.hosts[host][ERRORS] = it.hosts[host].get(ERRORS, 0.0) + step

    return count


RATE = ["{alert: Errors, expr: 'rate(errors_total[5m]) > 1'}", "{alert: High, expr: node_load1 > 5}"]


def test_a_rule_with_a_window_waits_until_it_is_covered(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(rules_text(RATE))
    it.hosts = {"a": {ERRORS: 0.0, LOAD: 9.0}}
    count = _counting(it, a=150.0)
    it.run(4, count)
    assert it.states() == {("Errors", "a"): "pending", ("High", "a"): "firing"}, (
        "without a window nothing waits"
    )
    assert _warming(it) == (1, 1)
    assert _warming(it, 1) is None
    metrics = {
        sample.name: sample.value
        for family in RuleMetrics(it.book, it.head).collect()
        for sample in family.samples
    }
    assert metrics["watchbill_collector_rules_warming"] == 1
    assert metrics["watchbill_collector_alerts_held"] == 1
    it.run(16, count)
    assert it.states()["Errors", "a"] == "firing"
    assert _warming(it) is None


def test_a_pace_that_is_not_known_yet_covers_no_window(house: Any, rules_text: Any) -> None:
    """Nobody knows how often a host ticks before it has ticked a few times: a guess must not page."""
    it = house(step_ms=1_000)
    it.load(
        "groups:\n- {name: g, interval: 1s, rules: [{alert: A, expr: 'max_over_time(node_load1[1m]) > 5'}]}\n"
    )
    it.hosts = {"a": {LOAD: 9.0}}
    it.run(50)
    assert it.states() == {("A", "a"): "pending"}
    it.run(6)
    assert it.states() == {("A", "a"): "firing"}


def test_a_new_host_warms_alone(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(rules_text(RATE))
    it.hosts = {"a": {ERRORS: 0.0}}
    count = _counting(it, a=150.0, b=150.0)
    it.run(22, count)
    it.hosts["b"] = {ERRORS: 0.0}
    it.run(6, count)
    assert it.states() == {("Errors", "a"): "firing", ("Errors", "b"): "pending"}
    assert _warming(it) == (1, 2)
    it.run(16, count)
    assert it.states() == {("Errors", "a"): "firing", ("Errors", "b"): "firing"}


def test_a_new_series_of_a_host_that_was_heard_is_judged_at_once(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(rules_text(RATE))
    it.hosts = {"a": {LOAD: 1.0}}
    it.run(30)
    it.hosts["a"][ERRORS] = 0.0
    it.run(2, _counting(it, a=900.0))
    assert it.states() == {("Errors", "a"): "firing"}


def test_a_firing_alert_does_not_resolve_over_a_hole(house: Any, rules_text: Any) -> None:
    """The collector was away for ten minutes, and its history has nothing of them."""
    state = MemoryAlertState()
    it = house(state=state)
    it.load(rules_text(RATE))
    it.hosts = {"a": {ERRORS: 0.0}}
    it.run(24, _counting(it, a=150.0))
    assert it.states() == {("Errors", "a"): "firing"}
    it.book.close(it.now_ms)
    again = house(state=state, now_ms=it.now_ms + 600_000)
    again.load(rules_text(RATE))
    again.book.resume(again.now_ms)
    again.hosts = {"a": {ERRORS: 7e6}}
    again.run(12, _counting(again, a=1.0))
    assert again.states() == {("Errors", "a"): "firing"}, "three minutes are not five"
    assert "are missing" in again.book.alerts()[0].incomplete
    again.run(8, _counting(again, a=1.0))
    assert again.states() == {}


def test_many_hosts_together_warm_while_most_of_them_do(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(rules_text(["{alert: Sum, expr: 'sum(rate(errors_total[5m])) > 1'}"]))
    it.hosts = {name: {ERRORS: 0.0} for name in "abc"}
    count = _counting(it, a=150.0, b=150.0, c=150.0, d=150.0)
    it.run(5, count)
    assert it.states() == {("Sum", ""): "pending"}
    it.run(16, count)
    assert it.states() == {("Sum", ""): "firing"}
    it.hosts["d"] = {ERRORS: 0.0}
    it.run(2, count)
    assert it.states() == {("Sum", ""): "firing"}
    assert _warming(it) == (1, 4)
    assert it.book.alerts()[0].incomplete == "of 1 of 4 hosts parts of the last 5m are missing"


def test_what_is_recorded_warms_as_long_as_what_it_was_recorded_from(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(
        rules_text(
            [
                "{record: 'errors:rate5m', expr: 'rate(errors_total[5m])'}",
                "{record: 'errors:double', expr: '2 * errors:rate5m'}",
                "{alert: Errors, expr: 'errors:double > 1'}",
            ]
        )
    )
    it.hosts = {"a": {ERRORS: 0.0}}
    it.run(5, _counting(it, a=150.0))
    assert it.series_written("errors:double"), "recording goes on, as in Prometheus"
    assert it.states() == {("Errors", "a"): "pending"}
    it.run(16, _counting(it, a=150.0))
    assert it.states() == {("Errors", "a"): "firing"}


@pytest.mark.parametrize(
    "rule",
    [
        "{alert: X, expr: absent(node_load9)}",
        "{alert: X, expr: 'absent_over_time(node_load9[5m])'}",
        "{alert: X, expr: 'node_load1 unless on (instance) node_load9'}",
        "{alert: X, expr: up == 0}",
        "{alert: X, expr: 'avg_over_time(up[5m]) < 0.9'}",
        "{alert: X, expr: 'time() - timestamp(node_load1) > 60'}",
    ],
)
def test_a_rule_that_asks_for_absence_takes_silence_for_an_answer(
    house: Any, rules_text: Any, rule: str
) -> None:
    it = house()
    it.load(rules_text([rule]))
    it.hosts = {"a": {LOAD: 1.0}}
    it.run(2, lambda it: _up(it, {"a": 1.0}))
    it.hosts = {}
    it.run(8, lambda it: _up(it, {"a": 0.0}))
    assert [state for (name, _), state in it.states().items() if name == "X"] == ["firing"]


def test_a_silent_host_neither_begins_nor_ends_an_alert(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(rules_text(["{alert: High, expr: node_load1 > 5, for: 2m}"]))
    it.hosts = {"a": {LOAD: 9.0}, "b": {LOAD: 1.0}, "c": {LOAD: 1.0}}
    it.run(10, lambda it: _up(it, {"a": 1.0, "b": 1.0, "c": 1.0}))
    it.hosts["b"][LOAD] = 9.0
    it.run(1, lambda it: _up(it, {"a": 1.0, "b": 1.0, "c": 1.0}))
    assert it.states() == {("High", "a"): "firing", ("High", "b"): "pending"}
    it.hosts = {"c": {LOAD: 1.0}}
    it.run(40, lambda it: _up(it, {"a": 0.0, "b": 0.0, "c": 1.0}))
    assert it.states() == {("High", "a"): "firing", ("High", "b"): "pending"}
    remarks = {alert.labels["instance"]: alert.incomplete for alert in it.book.alerts()}
    assert remarks["a"].startswith("nothing from the host for 10m")
    it.hosts = {"a": {LOAD: 1.0}, "b": {LOAD: 9.0}, "c": {LOAD: 1.0}}
    it.run(1, lambda it: _up(it, {"a": 1.0, "b": 1.0, "c": 1.0}))
    assert it.states() == {("High", "b"): "pending"}, "heard again: judged; what nobody saw did not count"
    it.run(8, lambda it: _up(it, {"a": 1.0, "b": 1.0, "c": 1.0}))
    assert it.states() == {("High", "b"): "firing"}


def test_a_host_that_said_goodbye_is_not_waited_for(house: Any, rules_text: Any) -> None:
    it = house()
    it.load(rules_text(["{alert: High, expr: node_load1 > 5}"]))
    it.hosts = {"a": {LOAD: 9.0}}
    it.run(4, lambda it: _up(it, {"a": 1.0}))
    it.hosts = {"a": {LOAD: float("nan")}}
    it.run(1, lambda it: _up(it, {"a": np.uint64(0x7FF0000000000002).view(np.float64)}))
    it.hosts = {}
    it.run(8)
    assert it.states() == {}


def test_a_backlog_neither_fires_nor_resolves_anything_now(house: Any, rules_text: Any) -> None:
    """Three minutes were kept by the agent while the link was down. They come in order, before what is of now."""
    it = house()
    it.load(rules_text(["{alert: High, expr: node_load1 > 5}"]))
    both = {"a": 1.0, "b": 1.0}
    it.hosts = {"a": {LOAD: 1.0}, "b": {LOAD: 9.0}}
    it.run(6, lambda it: _up(it, both))
    assert it.states() == {("High", "b"): "firing"}
    it.hosts = {}
    left_ms = it.now_ms
    it.run(12, lambda it: _up(it, {"a": 0.0, "b": 0.0}))

    replayed = [left_ms]

    def replay(it: Any) -> None:
        _up(it, both)
        for _ in range(2):
            replayed[0] += 15_000
            late = it.now_ms - replayed[0] > 60_000
            it.send("a", {LOAD: 9.0 if late else 1.0}, replayed[0])
            it.send("b", {LOAD: 1.0 if late else 9.0}, replayed[0])

    changes = len(it.changes)
    it.run(11, replay)
    assert replayed[0] > it.now_ms - 60_000
    assert it.states() == {("High", "b"): "firing"}
    assert len(it.changes) == changes, "what was high for two minutes, and is no more, is history"


def test_a_backlog_behind_what_is_of_now_changes_no_verdict_and_no_record(
    house: Any, rules_text: Any
) -> None:
    """Beats bring what is of now first; the backlog is for history alone."""
    it = house()
    it.load(rules_text(["{alert: High, expr: node_load1 > 5}", "{record: 'load', expr: node_load1}"]))
    it.hosts = {"a": {LOAD: 1.0}}
    it.run(6, lambda it: _up(it, {"a": 1.0}))
    left_ms = it.now_ms
    it.now_ms += 3_600_000
    it.run(2, lambda it: _up(it, {"a": 1.0}))
    written = it.series_written("load")
    for number in range(60):
        it.send("a", {LOAD: 99.0}, left_ms + 1_000 + 60_000 * number)
    it.run(2, lambda it: _up(it, {"a": 1.0}))
    assert it.told("High") == []
    after = it.series_written("load")
    for labels, samples in written.items():
        assert after[labels][: len(samples)] == samples
        assert {value for _, value in after[labels]} == {1.0}


def test_an_annotation_may_say_what_is_missing(house: Any, rules_text: Any) -> None:
    it = house()
    note = "{{ if $incomplete }}({{ $incomplete }}){{ end }}"
    it.load(rules_text([f"{{alert: High, expr: node_load1 > 5, annotations: {{note: '{note}'}}}}"]))
    it.hosts = {"a": {LOAD: 9.0}}
    it.run(6, lambda it: _up(it, {"a": 1.0}))
    assert it.book.alerts()[0].annotations == {"note": ""}
    it.hosts = {}
    it.run(9, lambda it: _up(it, {"a": 0.0}))
    assert it.book.alerts()[0].annotations == {"note": "(nothing from the host for 2m15s)"}


def test_hearing_knows_gaps_and_what_filled_them(house: Any) -> None:
    it = house()
    it.load("groups:\n- {name: g, rules: [{record: x, expr: 'sum_over_time(node_load1[1h])'}]}\n")
    it.hosts = {"a": {LOAD: 1.0}, "b": {LOAD: 1.0}}
    hearing = Hearing(it.head)

    def look(it: Any) -> None:
        hearing.look(it.now_ms)

    it.run(10, look)
    it.hosts = {"a": {LOAD: 1.0}}
    gone_ms = it.now_ms
    it.run(10, look)
    for step in range(1, 11):
        it.send("b", {LOAD: 1.0}, gone_ms - 100 + 15_000 * step)
    it.hosts = {"a": {LOAD: 1.0}, "b": {LOAD: 1.0}}
    it.run(3, look)
    it.hosts = {"b": {LOAD: 1.0}}
    it.run(10, look)
    it.hosts["a"] = {LOAD: 1.0}
    it.run(3, look)
    (a,) = [hearing.heard(number) for number in hearing.numbers((("instance", "a"),))]
    (b,) = [hearing.heard(number) for number in hearing.numbers((("instance", "b"), ("job", "node")))]
    assert hearing.numbers((("instance", "b"), ("job", "other"))) == []
    assert [end - start for start, end in a.gaps] == [165_000]
    assert b.gaps == (), "what came late, in order, has filled it"
    assert a.missing_ms(it.now_ms, 600_000) == 165_000 + b.missing_ms(it.now_ms, 600_000)
