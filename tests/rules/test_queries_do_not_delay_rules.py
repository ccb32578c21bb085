"""Whatever people ask, rules are judged: they go first, and queries have budgets of their own."""

import asyncio
import threading
import time
from typing import Any

import pytest

from watchbill.clock import SystemClock
from watchbill.errors import Busy
from watchbill_collector.api.pool import QueryPool
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import Engine
from watchbill_collector.promql.errors import Cancelled, PromqlError, TimedOut
from watchbill_collector.promql.precedence import Precedence
from watchbill_collector.rules import RuleThread
from watchbill_collector.rules.head_storage import HeadStorage

LOAD = ("node_load1", ())


def test_a_query_waits_where_it_asks_while_an_evaluation_runs() -> None:
    precedence, order = Precedence(), []
    waiting = threading.Event()
    precedence_wait = precedence.give_way

    def give_way() -> None:
        waiting.set()
        precedence_wait()

    def query() -> None:
        Budget(give_way=give_way).check()
        order.append("query")

    thread = threading.Thread(target=query)
    with precedence.first():
        thread.start()
        assert waiting.wait(20.0)
        order.append("evaluation")
    thread.join(20.0)
    assert order == ["evaluation", "query"]
    Budget(give_way=precedence.give_way).check()


async def test_rules_are_judged_while_every_query_thread_is_busy(house: Any) -> None:
    """64 queries that never end: both threads are taken, the rest waits; evaluations go on one after the other."""
    it = house()
    it.load("groups:\n- {name: g, interval: 1s, rules: [{alert: A, expr: vector(1)}]}\n")
    precedence = Precedence()
    pool = QueryPool(precedence=precedence)
    thread = RuleThread(it.book, it.head, SystemClock(), precedence=precedence)
    busy = threading.Barrier(3)

    def endless(budget: Budget) -> None:
        busy.wait(20.0)
        while True:
            budget.check()

    queries = [asyncio.create_task(pool.run(endless)) for _ in range(64)]
    try:
        await asyncio.to_thread(busy.wait, 20.0)
        thread.start()
        deadline = time.monotonic() + 20.0
        while it.book.stats.evaluations < 3:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert not any(query.done() for query in queries)
    finally:
        thread.close()
        for query in queries:
            query.cancel()
        await asyncio.gather(*queries, return_exceptions=True)
        pool.close()
    assert it.states() == {("A", ""): "firing"}


async def test_a_full_queue_says_so_at_once() -> None:
    pool = QueryPool(threads=1, waiting_max=1, timeout_s=20.0)
    began = threading.Event()

    def endless(budget: Budget) -> None:
        began.set()
        while True:
            budget.check()

    queries = [asyncio.create_task(pool.run(endless)) for _ in range(2)]
    await asyncio.to_thread(began.wait, 20.0)
    with pytest.raises(Busy):
        await pool.run(endless)
    for query in queries:
        query.cancel()
    assert all(
        isinstance(each, asyncio.CancelledError | Cancelled | TimedOut)
        for each in await asyncio.gather(*queries, return_exceptions=True)
    )
    pool.close()


@pytest.mark.parametrize(
    "query",
    [
        "(" * 10_000 + "1" + ")" * 10_000,
        "-" * 10_000 + "1",
        "+".join(["node_load1"] * 5_000),
        'node_load1{instance=~"(((((a+)+)+)+)+)+$"}',
        'node_load1{instance=~"' + "(a?){50}" * 20 + "a{1000}" + '"}',
        'label_replace(node_load1, "x", "$1", "instance", "' + "(.*)" * 50 + '")',
        "sum_over_time(node_load1[30d:1ms])",
        "max_over_time(sum_over_time(node_load1[1d:1s])[1d:1s])",
        "node_load1[100y]",
        'count_values("' + "x" * 60_000 + '", node_load1)',
        "topk(1e300, node_load1)",
        "quantile(NaN, node_load1)",
        "vector(1e309)",
        "node_load1 * on () group_left node_load1",
    ],
)
def test_a_hostile_query_is_answered_or_refused(house: Any, query: str) -> None:
    it = house()
    it.load("groups:\n- {name: g, rules: [{record: x, expr: node_load1}]}\n")
    it.hosts = {name: {LOAD: 1.0} for name in "abc"}
    it.run(3)
    budget = Budget(1_000_000, time.monotonic() + 20.0, time.monotonic)
    with it.head.lock:
        try:
            Engine().instant(query, it.now_ms, HeadStorage(it.head), budget)
        except PromqlError as error:
            assert str(error)  # noqa: PT017  # Most of these may be answered, too.
