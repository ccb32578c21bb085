"""After a start verdicts come as soon as their data is there: nobody waits for a host that the rule does not read."""

from typing import Any

import numpy as np
import pytest

from watchbill_collector.promql.plan import plan
from watchbill_collector.rules import MemoryAlertState
from watchbill_collector.rules.certainty import SETTLE_MS
from watchbill_collector.rules.locality import judges_each_alone, reads_nothing

LOAD = ("node_load1", ())
PER_HOST = "{alert: High, expr: 'sum by (instance) (node_load1) > 5'}"
TOGETHER = "{alert: All, expr: 'sum(node_load1) > 5'}"
FEW = "{alert: Few, expr: 'count(node_load1) < 2'}"


@pytest.mark.parametrize(
    ("expr", "alone"),
    [
        ("node_load1 > 5", True),
        ("sum by (instance) (rate(x[5m])) > 0.1", True),
        ("avg without (cpu, mode) (x) > 1", True),
        ("max by (instance, device) (x) / on (instance, device) y > 1", True),
        ("x > 90 or x > 85 and ignoring (alertname) ALERTS{alertname='A'}", True),
        ("x unless on (instance) y", True),
        ("x * on (instance) group_left (nodename) node_uname_info", True),
        ("quantile by (instance) (0.9, x)", True),
        ("label_replace(x, 'host', '$1', 'instance', '(.*)')", True),
        ("absent(x{instance='a'})", True),
        ("max_over_time(sum by (instance) (x)[5m:1m])", True),
        ("time() - x > 60", True),
        ("sum(x) > 5", False),
        ("avg by (job) (x) > 5", False),
        ("sum without (instance) (x)", False),
        ("topk(3, x)", False),
        ("x > on (job) group_left avg by (job) (x)", False),
        ("x > on (job) group_left (instance) y", False),
        ("x > ignoring (instance) group_left sum by (job) (x)", False),
        ("x > scalar(sum(x))", False),
        ("quantile by (instance) (scalar(y), x)", False),
        ("x unless on (job) y", False),
        ("label_replace(x, 'instance', '$1', 'host', '(.*)')", False),
        ("count_values by (job) ('instance', x)", False),
        ("max_over_time(sum(x)[5m:1m])", False),
    ],
)
def test_what_judges_every_host_by_its_own_data_is_told_from_what_does_not(expr: str, alone: bool) -> None:
    assert judges_each_alone(plan(expr).expr) is alone


def test_what_reads_no_series_waits_for_nobody() -> None:
    assert reads_nothing(plan("vector(time()) > 5 + pi()").expr)
    assert not reads_nothing(plan("vector(scalar(up))").expr)


class Past:
    """History that has what a house was sent."""

    def __init__(self, it: Any) -> None:
        self.it = it
        self.times, self.values, self.offsets = np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)

    def know(self, start_ms: int, end_ms: int) -> None:
        """The table is the same."""

    def select(self, ids: Any, start_ms: int, end_ms: int, samples_max: int) -> "Past":
        found: list[list[tuple[int, float]]] = [[] for _ in ids]
        place = {series: row for row, series in enumerate(ids.tolist())}
        for ticks in self.it.sent:
            for column, series in enumerate(ticks.series.tolist()):
                at = int(ticks.times_ms[0])
                if series in place and start_ms < at <= end_ms:
                    found[place[series]].append((at, float(ticks.values[0, column])))
        flat = [pair for pairs in found for pair in pairs]
        made = Past(self.it)
        made.times = np.array([at for at, _ in flat], np.int64)
        made.values = np.array([value for _, value in flat], np.float64)
        made.offsets = np.concatenate(([0], np.cumsum([len(pairs) for pairs in found]))).astype(np.int64)
        return made


def _restarted(house: Any, text: str, hosts: dict[str, float], down_s: int = 30, before: Any = None) -> Any:
    """A house that ran with these hosts, was killed, and begins again with what history has."""
    state = MemoryAlertState()
    it = house(state=state)
    it.load(text)
    it.hosts = {name: {LOAD: value} for name, value in hosts.items()}
    it.run(8)
    if before is not None:
        before(it)
    it.book.keep(it.now_ms)
    again = house(state=state, past=Past(it), table=it.table, now_ms=it.now_ms + down_s * 1000, ids=it.ids)
    again.load(text)
    again.book.resume(again.now_ms)
    return again


def _firing(it: Any) -> set[tuple[str, str]]:
    return {key for key, state in it.states().items() if state == "firing"}


def test_an_alert_that_sums_up_one_host_ends_as_soon_as_the_host_is_heard(
    house: Any, rules_text: Any
) -> None:
    again = _restarted(house, rules_text([PER_HOST]), {"a": 9.0, "b": 9.0})
    again.run(1)
    assert _firing(again) == {("High", "a"), ("High", "b")}, "what history says is not of now"
    again.hosts = {"a": {LOAD: 1.0}}
    again.run(1)
    assert _firing(again) == {("High", "b")}
    again.hosts["b"] = {LOAD: 1.0}
    again.run(1)
    assert _firing(again) == set()


def test_a_clock_that_was_set_back_meanwhile_makes_no_pending_alert_wait_for_its_old_time(
    house: Any, rules_text: Any
) -> None:
    slow = "{alert: Slow, expr: 'node_load1 > 5', for: 5m}"
    again = _restarted(house, rules_text([PER_HOST, slow]), {"a": 9.0}, down_s=-3600)
    again.hosts = {"a": {LOAD: 9.0}}
    again.run(1)
    assert again.states() == {("High", "a"): "firing", ("Slow", "a"): "pending"}
    again.run(24)
    assert _firing(again) == {("High", "a"), ("Slow", "a")}


def test_an_alert_over_all_hosts_waits_for_all_that_were_there_and_no_longer(
    house: Any, rules_text: Any
) -> None:
    again = _restarted(house, rules_text([TOGETHER, FEW]), {"a": 9.0, "b": 9.0})
    again.hosts = {"a": {LOAD: 1.0}}
    again.run(2)
    assert _firing(again) == {("All", "")}
    warming = again.book.groups()[0].runs[0].health.warming
    assert (warming.hosts, warming.of, warming.why) == (1, 2, "hosts have not come back after a restart")
    again.hosts["b"] = {LOAD: 1.0}
    again.run(1)
    assert _firing(again) == set()
    assert again.book.groups()[0].runs[0].health.warming is None


def test_a_host_that_was_gone_before_the_restart_is_not_waited_for(house: Any, rules_text: Any) -> None:
    def b_goes(it: Any) -> None:
        it.hosts = {"a": {LOAD: 9.0}}
        it.run(8)

    again = _restarted(house, rules_text([TOGETHER]), {"a": 9.0, "b": 9.0}, before=b_goes)
    again.hosts = {"a": {LOAD: 1.0}}
    again.run(1)
    assert again.book.groups()[0].runs[0].health.warming is None


def test_a_slow_agent_makes_nothing_fire_and_nothing_resolve(house: Any, rules_text: Any) -> None:
    absent = "{alert: Gone, expr: 'absent(node_load1)'}"
    again = _restarted(house, rules_text([PER_HOST, TOGETHER, FEW, absent]), {"a": 9.0, "b": 1.0}, 400)
    before = _firing(again)
    assert before == {("High", "a"), ("All", "")}
    again.run(SETTLE_MS // again.step_ms - 3)
    assert _firing(again) == before, "nobody has been heard"
    again.hosts = {"a": {LOAD: 1.0}}
    again.run(1)
    assert ("Gone", "") not in _firing(again), "the moment that is judged is before the host was heard"
    again.run(2)
    assert ("Few", "") in _firing(again), "after their time everything is judged"


def test_without_history_a_rule_over_all_hosts_waits_for_the_whole_time(house: Any, rules_text: Any) -> None:
    state = MemoryAlertState()
    it = house(state=state)
    it.load(rules_text([FEW]))
    it.hosts = {"a": {LOAD: 1.0}, "b": {LOAD: 1.0}}
    it.run(4)
    it.book.close(it.now_ms)
    again = house(state=state, now_ms=it.now_ms + 30_000)
    again.load(rules_text([FEW]))
    again.book.resume(again.now_ms)
    again.hosts = {"a": {LOAD: 1.0}}
    again.run(4)
    assert _firing(again) == set(), "whether there are others nobody knows"


def test_what_is_recorded_of_many_hosts_waits_for_them(house: Any, rules_text: Any) -> None:
    text = rules_text(
        [
            "{record: 'job:load', expr: 'avg by (job) (node_load1)'}",
            "{alert: Above, expr: 'node_load1 * 0 + on (job) group_left job:load > 5'}",
            "{alert: Recorded, expr: 'job:load * on (job) group_right node_load1 * 0 + 9 > 5'}",
        ]
    )
    again = _restarted(house, text, {"a": 9.0, "b": 9.0})
    again.hosts = {"a": {LOAD: 1.0}}
    again.run(2)
    assert ("Above", "a") in _firing(again)
