"""The seam to storage: budgets, notes, hints, and what is remembered between evaluations."""

import numpy as np
import pytest

from watchbill.clock import ManualClock
from watchbill_collector.labels import LabelFrame
from watchbill_collector.matching import Matcher
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import Engine
from watchbill_collector.promql.errors import Cancelled, TimedOut, TooMany
from watchbill_collector.promql.memory import MemoryStorage
from watchbill_collector.promql.render import ANNOTATIONS_MAX, error_json, success_json
from watchbill_collector.promql.storage import Hints, SeriesSet, series_set


class Recording:
    """A storage that remembers what it was asked."""

    def __init__(self, inner: MemoryStorage) -> None:
        self._inner = inner
        self.asked: list[tuple[int, int, Hints]] = []

    def select(
        self, matchers: tuple[Matcher, ...], start_ms: int, end_ms: int, budget: Budget, hints: Hints
    ) -> SeriesSet:
        self.asked.append((start_ms, end_ms, hints))
        return self._inner.select(matchers, start_ms, end_ms, budget, hints)


@pytest.fixture
def storage() -> MemoryStorage:
    out = MemoryStorage()
    for number in range(20):
        labels = {"__name__": "m_total", "i": str(number), "host": str(number % 4)}
        out.add(labels, [(second * 1000, float(second)) for second in range(0, 600, 10)])
    return out


def test_a_selector_is_read_for_just_the_time_that_it_looks_at(storage: MemoryStorage) -> None:
    asked = Recording(storage)
    engine = Engine()
    engine.instant("m_total", 500_000, asked)
    engine.instant("rate(m_total[1m] offset 30s)", 500_000, asked)
    engine.range("max_over_time(m_total[1m])", 300_000, 400_000, 20_000, asked)
    engine.instant("avg_over_time(m_total[2m:30s] @ 100)", 500_000, asked)
    assert asked.asked == [
        (200_000, 500_000, Hints()),
        (410_000, 470_000, Hints(range_ms=60_000, function="rate")),
        (240_000, 400_000, Hints(step_ms=20_000, range_ms=60_000, function="max_over_time")),
        (-300_000, 90_000, Hints(step_ms=30_000)),
    ]


def test_a_selector_that_is_written_twice_is_read_once(storage: MemoryStorage) -> None:
    asked = Recording(storage)
    Engine().instant("m_total / (m_total + m_total)", 500_000, asked)
    assert len(asked.asked) == 1


def test_what_labels_decide_is_worked_out_once_for_an_unchanged_selection(storage: MemoryStorage) -> None:
    engine, made = Engine(), []
    real = LabelFrame.derived

    def counted(frame: LabelFrame, key: object, make: object) -> object:
        return real(frame, key, lambda: (made.append(key), make())[1])

    query = "sum by (host) (rate(m_total[1m])) / on(host) count by (host) (m_total) > 0.01 or absent(m_total)"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabelFrame, "derived", counted)
        first = engine.instant(query, 400_000, storage).vector()
        assert made
        made.clear()
        again = engine.instant(query, 500_000, storage).vector()
        assert made == []
        storage.add({"__name__": "m_total", "i": "new", "host": "9"}, [(500_000, 1.0)])
        engine.instant(query, 500_000, storage)
        assert made
    assert first.values.tolist() == again.values.tolist()


def test_a_query_over_its_samples_fails_and_says_so(storage: MemoryStorage) -> None:
    with pytest.raises(TooMany, match="too many samples"):
        Engine().instant("rate(m_total[10m])", 600_000, storage, Budget(samples_max=1000))
    with pytest.raises(TooMany, match="too many samples"):
        Engine().range("m_total", 0, 600_000, 1_000, storage, Budget(samples_max=10_000))
    with pytest.raises(TooMany, match="the subquery has"):
        Engine().instant("max_over_time(m_total[1y:1ms])", 600_000, storage)
    answer = Engine().instant("rate(m_total[10m])", 600_000, storage)
    assert answer.samples == 20 * 59


def test_a_query_past_its_deadline_fails(storage: MemoryStorage) -> None:
    clock = ManualClock()
    budget = Budget(deadline_s=clock.monotonic_s() + 1, monotonic=clock.monotonic_s)
    engine = Engine()
    engine.instant("sum(m_total)", 500_000, storage, budget)
    clock.advance(2)
    with pytest.raises(TimedOut, match="timed out") as failure:
        engine.instant("sum(m_total)", 500_000, storage, budget)
    assert error_json(failure.value)["errorType"] == "timeout"


def test_a_cancelled_query_stops(storage: MemoryStorage) -> None:
    asked: list[None] = []

    def cancelled() -> bool:
        asked.append(None)
        return len(asked) > 3

    with pytest.raises(Cancelled) as failure:
        Engine().instant(
            "sum(m_total) + sum(m_total) + sum(m_total)", 500_000, storage, Budget(cancelled=cancelled)
        )
    assert error_json(failure.value) == {
        "status": "error",
        "errorType": "canceled",
        "error": "query was canceled in expression evaluation",
    }


def test_notes_of_the_storage_reach_the_answer() -> None:
    class Tiered:
        def select(
            self, matchers: object, start_ms: int, end_ms: int, budget: Budget, hints: Hints
        ) -> SeriesSet:
            found = series_set(LabelFrame.of([{"a": "1"}]), [([end_ms], [1.0])])
            return SeriesSet(found.labels, found.ragged(), notes=("read from the 1 m tier",))

    answer = success_json(Engine().instant("m + m", 0, Tiered()))
    assert answer["infos"] == ["PromQL info: read from the 1 m tier"]


def test_the_answer_has_the_shape_of_prometheus_api() -> None:
    storage = MemoryStorage()
    storage.add({"__name__": "m", "a": "b"}, [(1_500, 1.0), (2_500, 2e22)])
    engine = Engine()
    assert success_json(engine.instant("m", 1_500, storage)) == {
        "status": "success",
        "data": {
            "resultType": "vector",
            "result": [{"metric": {"__name__": "m", "a": "b"}, "value": [1.5, "1"]}],
        },
    }
    assert success_json(engine.range("m", 1_500, 3_000, 1_000, storage))["data"] == {
        "resultType": "matrix",
        "result": [{"metric": {"__name__": "m", "a": "b"}, "values": [[1.5, "1"], [2.5, "2e+22"]]}],
    }
    assert success_json(engine.instant("1", 2_000, storage))["data"] == {
        "resultType": "scalar",
        "result": [2, "1"],
    }
    assert success_json(engine.instant("'x'", 2_000, storage))["data"] == {
        "resultType": "string",
        "result": [2, "x"],
    }


def test_annotations_are_limited_and_the_rest_counted() -> None:
    storage = MemoryStorage()
    for number in range(ANNOTATIONS_MAX + 5):
        storage.add({"__name__": f"gauge_{number}"}, [(0, 1.0), (1000, 2.0)])
    answer = success_json(Engine().instant("sum(rate({__name__=~'gauge_.*'}[1m]))", 2_000, storage))
    assert len(answer["infos"]) == ANNOTATIONS_MAX + 1
    assert answer["infos"][-1] == "5 more info annotations omitted"


def test_a_new_selection_has_a_new_frame_and_an_old_one_the_same(storage: MemoryStorage) -> None:
    matchers = Engine().plan("m_total").root.selector.matchers
    first = storage.select(matchers, 0, 100_000, Budget(), Hints())
    assert storage.select(matchers, 0, 200_000, Budget(), Hints()).labels is first.labels
    storage.add({"__name__": "other"}, [(0, 1.0)])
    again = storage.select(matchers, 0, 100_000, Budget(), Hints())
    assert again.labels is not first.labels
    assert np.array_equal(again.labels.codes, first.labels.codes)
