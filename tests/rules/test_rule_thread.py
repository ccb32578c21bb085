"""The rules' thread: evaluates by itself, saves when it is closed, and does not hide what ended it."""

import threading
import time
from typing import Any

from watchbill.clock import SystemClock
from watchbill_collector.rules import MemoryAlertState, RuleThread


def _wait(done: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_it_evaluates_and_closes(house: Any) -> None:
    state = MemoryAlertState()
    it = house(state=state)
    it.load("groups:\n- {name: g, interval: 1s, rules: [{alert: A, expr: vector(1)}]}\n")
    thread = RuleThread(it.book, it.head, SystemClock())
    thread.start()
    _wait(lambda: it.states() == {("A", ""): "firing"})
    assert any(each.name == "rules" for each in threading.enumerate())
    assert thread.close()
    assert state.saved is not None
    assert thread.failure is None


def test_what_ends_it_is_known(house: Any) -> None:
    it = house()
    it.load("groups:\n- {name: g, interval: 1s, rules: [{alert: A, expr: vector(1)}]}\n")
    told: list[BaseException] = []
    failed = threading.Event()
    before, threading.excepthook = threading.excepthook, lambda _: failed.set()

    def broken(_: object) -> None:
        raise ValueError("nobody expected this")

    it.book._on_change = broken
    thread = RuleThread(it.book, it.head, SystemClock(), told.append)
    try:
        thread.start()
        assert failed.wait(20.0)
    finally:
        threading.excepthook = before
    assert thread.close()
    assert [str(error) for error in told] == ["nobody expected this"]
