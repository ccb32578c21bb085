"""`up`: from which facts, when, and for whom."""

import numpy as np

from watchbill.backoff import Backoff, return_cap_s
from watchbill_collector.ingest.liveness import GRACE_MIN_S, Liveness, return_grace_s
from watchbill_collector.series import SeriesTable, Ticks, is_stale

LABELS = {"instance": "web01", "job": "node"}


class Highest:
    """Jitter that always takes the ceiling."""

    def uniform(self, _: float, b: float) -> float:
        return b


class Watch:
    """A liveness and everything it said, as (instance, value), None for a stale marker."""

    def __init__(self) -> None:
        self.table = SeriesTable()
        self.said: list[tuple[str, float | None]] = []
        self.liveness = Liveness(self.table, self.take)

    def take(self, found: list[Ticks]) -> None:
        for ticks in found:
            stale = is_stale(ticks.values)[0]
            for column, series in enumerate(ticks.series.tolist()):
                labels = self.table.labels(series)
                assert labels["__name__"] == "up"
                value = None if stale[column] else float(ticks.values[0, column])
                self.said.append((labels["instance"], value))

    def heard(self) -> list[tuple[str, float | None]]:
        said, self.said = self.said, []
        return said


def test_a_host_is_up_at_once_when_its_session_begins() -> None:
    watch = Watch()
    watch.liveness.look(0, 0)
    assert watch.heard() == []
    watch.liveness.begin("a", LABELS, 10_000, 1, 1000)
    assert watch.heard() == [("web01", 1.0)]


def test_a_silent_host_is_down_after_three_beats_and_up_again_when_heard() -> None:
    watch = Watch()
    watch.liveness.look(0, 0)
    pulse = watch.liveness.begin("a", LABELS, 10_000, 1, 1000)
    watch.heard()
    watch.liveness.look(14, 14_000)
    assert watch.heard() == []
    watch.liveness.look(31.5, 31_500)
    assert watch.heard() == [("web01", 0.0), ("web01", 0.0)], "at once, and in the sample of all"
    pulse.heard_s = 33
    watch.liveness.look(33, 33_000)
    assert watch.heard() == [("web01", 1.0)]


def test_the_grace_is_never_shorter_than_fifteen_seconds() -> None:
    watch = Watch()
    watch.liveness.begin("a", LABELS, 1000, 0, 0)
    watch.liveness.look(14.9, 14_900)
    assert ("web01", 0.0) not in watch.heard()
    watch.liveness.look(15.1, 15_100)
    assert ("web01", 0.0) in watch.heard()


def test_all_hosts_are_said_together_every_fifteen_seconds() -> None:
    watch = Watch()
    for name in "abc":
        watch.liveness.begin(name, {"instance": name, "job": "node"}, 10_000, 0, 0)
    watch.heard()
    watch.liveness.look(0, 0)
    watch.liveness.look(10, 10_000)
    assert watch.heard() == [("a", 1.0), ("b", 1.0), ("c", 1.0)]
    watch.liveness.look(15, 15_000)
    assert len(watch.heard()) == 3


def test_an_announced_stop_ends_the_series() -> None:
    watch = Watch()
    watch.liveness.begin("a", LABELS, 10_000, 0, 0)
    watch.heard()
    watch.liveness.end("a", 1000)
    assert watch.heard() == [("web01", None)]
    watch.liveness.look(60, 60_000)
    assert watch.heard() == []


def test_a_host_that_does_not_come_back_when_it_said_is_down_from_then_on() -> None:
    watch = Watch()
    watch.liveness.begin("a", LABELS, 10_000, 0, 0)
    watch.liveness.end("a", 1000)
    watch.liveness.promised("a", LABELS, 901_000)
    watch.heard()
    watch.liveness.look(900, 900_999)
    assert watch.heard() == []
    watch.liveness.look(901, 901_000)
    assert watch.heard()[0] == ("web01", 0.0)
    assert watch.liveness.pulse("a").since_ms == 901_000  # type: ignore[union-attr]
    watch.liveness.begin("a", LABELS, 10_000, 950, 950_000)
    assert watch.heard()[-1] == ("web01", 1.0)
    watch.liveness.look(951, 951_000)
    assert ("web01", 0.0) not in watch.heard()


def test_a_host_that_comes_back_in_time_or_is_retired_is_not_missed() -> None:
    watch = Watch()
    watch.liveness.promised("a", LABELS, 60_000)
    watch.liveness.begin("a", LABELS, 1_000_000, 30, 30_000)
    watch.liveness.promised("b", {"instance": "web02"}, 60_000)
    watch.liveness.end("b", 40_000)
    watch.liveness.look(100, 100_000)
    assert {value for _, value in watch.heard()} == {1.0}


def test_a_promise_that_ran_out_while_no_collector_ran_leaves_the_time_to_connect() -> None:
    watch = Watch()
    watch.liveness.promised("a", LABELS, 1000, not_before_s=100.0)
    watch.liveness.look(99, 1_000_000)
    assert watch.heard() == []
    watch.liveness.look(100, 1_001_000)
    assert watch.heard()[0] == ("web01", 0.0)


def test_a_host_that_was_there_before_a_restart_is_down_after_the_grace_and_not_before() -> None:
    watch = Watch()
    watch.liveness.expect([("a", LABELS, 30.0)], 0)
    watch.liveness.look(1, 1000)
    watch.liveness.look(29, 29_000)
    assert watch.heard() == []
    watch.liveness.look(31, 31_000)
    assert watch.heard()[0] == ("web01", 0.0)


def test_a_host_that_beats_seldom_has_three_of_its_beats_after_a_restart_of_the_collector() -> None:
    assert return_grace_s(0.0) == return_grace_s(0.0, 10_000), (
        "who beats often waits for no longer than before"
    )
    watch = Watch()
    edge = {"instance": "edge01", "job": "node"}
    hosts = [("a", LABELS, return_grace_s(0.0, 10_000)), ("e", edge, return_grace_s(0.0, 60_000))]
    watch.liveness.expect(hosts, 0)
    watch.liveness.look(100, 100_000)
    assert set(watch.heard()) == {("web01", 0.0)}, "the other one is silent, and may be"
    pulse = watch.liveness.begin("e", edge, 60_000, 121, 121_000)
    assert watch.heard() == [("edge01", 1.0)], "it was never called down"
    assert pulse.grace_s == 180.0


def test_a_host_that_beats_seldom_and_does_not_come_is_down_in_the_end() -> None:
    watch = Watch()
    watch.liveness.expect([("e", LABELS, return_grace_s(0.0, 60_000))], 0)
    watch.liveness.look(180, 180_000)
    assert watch.heard() == []
    watch.liveness.look(181, 181_000)
    assert watch.heard()[0] == ("web01", 0.0)


def test_a_collector_that_starts_waits_for_every_agent_to_have_tried() -> None:
    for spread_s in (0.0, 5.0, 50.0, 120.0):
        backoff = Backoff(cap_s=return_cap_s(spread_s), jitter=Highest())
        longest_s = max(backoff.next_s() for _ in range(12))
        assert longest_s + GRACE_MIN_S <= return_grace_s(spread_s)


def test_other_labels_end_the_old_series_and_begin_new_ones() -> None:
    watch = Watch()
    watch.liveness.begin("a", LABELS, 10_000, 0, 0)
    watch.heard()
    watch.liveness.begin("a", {"instance": "web02", "job": "node"}, 10_000, 1, 1000)
    assert watch.heard() == [("web01", None), ("web02", 1.0)]


def test_the_series_array_is_the_same_object_while_the_hosts_are_the_same() -> None:
    table = SeriesTable()
    seen: list[Ticks] = []
    liveness = Liveness(table, seen.extend)
    liveness.begin("a", LABELS, 10_000, 0, 0)
    liveness.look(0, 0)
    liveness.look(15, 15_000)
    first, second = [ticks.series for ticks in seen[-2:]]
    assert first is second
    assert first.dtype == np.uint32
