"""All running queries share one sum of bytes, and what they made is gone with them."""

import asyncio
import gc
import threading
import time
import weakref

import numpy as np
import pytest

from watchbill_collector.api.pool import QueryPool
from watchbill_collector.labels import PASSING, STRINGS
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import Engine
from watchbill_collector.promql.errors import TooMany
from watchbill_collector.promql.memory import MemoryStorage
from watchbill_collector.promql.querymemory import (
    READ_BYTES,
    SAMPLE_BYTES,
    SMALL_READ_SAMPLES,
    WORK_BYTES,
    NoMemory,
    QueryMemory,
)

MIB = 1024 * 1024


class MoreThanMay(Exception):
    """What a storage raises."""


def _storage(series: int = 50) -> MemoryStorage:
    out = MemoryStorage()
    for number in range(series):
        labels = {"__name__": "m", "i": str(number)}
        out.add(labels, [(second * 1000, number + second / 7) for second in range(0, 600, 10)])
    return out


def test_what_a_query_held_is_free_when_it_is_closed() -> None:
    memory = QueryMemory()
    budget = Budget(memory=memory)
    Engine().range("sum(rate(m[1m])) + count(m)", 60_000, 500_000, 10_000, _storage(), budget)
    assert memory.peak > 0
    budget.close()
    budget.close()
    assert memory.in_use == 0


def test_an_operator_gives_its_operands_back() -> None:
    """A hundred sums one after the other take no more than a few."""
    memory = QueryMemory()
    storage, peaks = _storage(), []
    for terms in (5, 100):
        memory.peak = 0
        budget = Budget(memory=memory)
        Engine().range("+".join(["abs(m)"] * terms), 60_000, 500_000, 1_000, storage, budget)
        budget.close()
        peaks.append(memory.peak)
    assert peaks[1] < 2 * peaks[0]


def test_a_query_that_would_not_fit_alone_is_refused() -> None:
    budget = Budget(memory=QueryMemory(MIB))
    with pytest.raises(TooMany, match="would need more than the 1 MiB of memory that queries may have"):
        budget.room(MIB // WORK_BYTES + 1)
    budget.close()


def test_a_query_waits_for_the_memory_of_another() -> None:
    memory = QueryMemory(100)
    memory.enter()
    memory.enter()
    memory.take(80, 0, lambda: None)
    waiting = threading.Event()
    thread = threading.Thread(target=lambda: memory.take(50, 0, waiting.set))
    thread.start()
    assert waiting.wait(20.0)
    memory.leave(80)
    thread.join(20.0)
    assert (memory.in_use, memory.waited) == (50, 1)


def test_of_two_that_wait_for_each_other_one_is_refused() -> None:
    memory = QueryMemory(100)
    memory.enter()
    memory.enter()
    memory.take(40, 0, lambda: None)
    memory.take(40, 0, lambda: None)
    waiting = threading.Event()
    thread = threading.Thread(target=lambda: memory.take(50, 40, waiting.set))
    thread.start()
    assert waiting.wait(20.0)
    with pytest.raises(NoMemory) as refused:
        # Meanwhile the other may be looking around instead of waiting; it will wait again.
        memory.take(50, 40, lambda: None)
    assert not refused.value.alone
    memory.leave(40)
    thread.join(20.0)
    assert memory.in_use == 90


def test_a_large_read_is_told_how_much_it_may_and_small_ones_need_no_turn() -> None:
    memory = QueryMemory(256 * MIB)
    budget, asked = Budget(memory=memory), []

    def load(room: int) -> int:
        asked.append(room)
        if room < 600_000:
            raise MoreThanMay
        return room

    most = budget.read(load, MoreThanMay)
    assert asked == [SMALL_READ_SAMPLES, most]
    assert most == 192 * MIB // READ_BYTES
    assert memory.in_use == 0
    budget.spend(1_000)
    assert memory.in_use == 1_000 * SAMPLE_BYTES
    budget.close()


def test_without_shared_memory_a_read_may_have_what_the_budget_has() -> None:
    budget = Budget(1_000)
    budget.spend(400)
    assert budget.read(lambda room: room, MoreThanMay) == 600


@pytest.mark.parametrize(
    "query",
    [
        'count_values("seen", m)',
        'label_replace(m, "x", "made-for-this-$1", "i", "(.*)")',
        'label_join(m, "x", "-joined-", "i", "__name__")',
    ],
)
def test_label_values_that_a_query_made_are_forgotten_with_it(query: str) -> None:
    storage, engine, memory = _storage(), Engine(), QueryMemory()
    kept = engine.instant(query, 595_000, storage)
    wanted = sorted(str(labels) for labels, _ in kept.vector())
    for _ in range(3):
        before = len(STRINGS)
        budget = Budget(memory=memory)
        found = engine.instant(query.replace("made-for", "lent-for"), 593_000, storage, budget)
        made = sorted(str(labels) for labels, _ in found.vector())
        assert len(made) == len(wanted)
        assert len(STRINGS) == before
        codes = found.vector().labels.codes
        budget.close()
        for code in codes[codes >= PASSING].tolist():
            with pytest.raises(KeyError):
                STRINGS.text(code)
    assert memory.in_use == 0


def test_lent_label_values_group_and_match_as_kept_ones_do() -> None:
    query = (
        'sum by (x) (label_replace(m, "x", "group-$1", "i", ".*(.)")) '
        '+ on(x) max by (x) (label_replace(m, "x", "group-$1", "i", ".*(.)"))'
    )
    storage, engine = _storage(), Engine()
    budget = Budget(memory=QueryMemory())
    lent = sorted(
        (labels["x"], value) for labels, value in engine.instant(query, 595_000, storage, budget).vector()
    )
    budget.close()
    kept = sorted((labels["x"], value) for labels, value in engine.instant(query, 595_000, storage).vector())
    assert lent == kept
    assert len(lent) == 10


async def test_a_query_that_failed_leaves_nothing_behind() -> None:
    """Its error outlives it, in a cycle with the future that brings it; its arrays must not."""
    pool = QueryPool(timeout_s=20.0)
    held: list[weakref.ref[np.ndarray]] = []

    def work(budget: Budget) -> None:
        samples = np.zeros(1_000)
        held.append(weakref.ref(samples))
        budget.room(10**15)

    gc.disable()
    try:
        with pytest.raises(TooMany):
            await pool.run(work)
        deadline = time.monotonic() + 20.0
        while held[0]() is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    finally:
        gc.enable()
        pool.close()
    assert pool.memory.in_use == 0
