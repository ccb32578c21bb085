"""A clock that never jumps, and how a jump of the one behind it is told."""

import time

from watchbill.clock import SteadyClock


def test_a_steady_clock_does_not_see_that_the_date_was_set(monkeypatch):
    clock = SteadyClock()
    before_ms = clock.wall_ms()
    assert abs(before_ms - time.time() * 1000) < 1000
    assert abs(clock.stepped_ms()) <= 2
    real_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() - 3600 * 10**9)
    assert before_ms <= clock.wall_ms() < before_ms + 60_000
    assert abs(clock.stepped_ms() + 3_600_000) <= 2
