"""When samples are taken, whatever the clocks do."""

import itertools

import pytest

from watchbill.clock import ManualClock
from watchbill_agent.scheduler import STALL_TOLD_EVERY_MS, STALLS_TOLD_AT_ONCE, Scheduler, Slept


class SleepyClock(ManualClock):
    """A manual clock whose machine can be suspended: the boot clock goes on, the monotonic one stands."""

    def __init__(self) -> None:
        super().__init__()
        self.slept_ms = 0

    def monotonic_s(self) -> float:
        return (self.boottime_ms() - self.slept_ms) / 1000

    def suspend(self, seconds: float) -> None:
        self.advance(seconds)
        self.slept_ms += round(seconds * 1000)


@pytest.fixture
def clock():
    return SleepyClock()


def run(scheduler: Scheduler, clock: ManualClock, seconds: float) -> list[tuple[int, int, bool]]:
    """Every tick within that time, as (interval, boot time, fresh)."""
    end_ms = clock.boottime_ms() + round(seconds * 1000)
    ticks = []
    while clock.boottime_ms() < end_ms:
        ticks += [(tick.interval_ms, tick.boottime_ms, tick.fresh) for tick in scheduler.due()]
        clock.advance(min(scheduler.wait_s(), (end_ms - clock.boottime_ms()) / 1000))
    return ticks


def test_the_first_tick_is_at_once_and_the_rest_on_the_hosts_own_grid(clock):
    scheduler = Scheduler(10_000, [], 0.3, clock)
    assert scheduler.wait_s() == 0
    times = [at for _, at, _ in run(scheduler, clock, 60)]
    assert times[0] == 1_000_000
    assert {at % 10_000 for at in times[1:]} == {3_000}
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert 5_000 < steps[0] <= 15_000
    assert set(steps[1:]) == {10_000}


@pytest.mark.parametrize("phase", [0, 0.001, 0.25, 0.5, 0.7, 0.9999])
def test_no_phase_makes_two_ticks_closer_than_half_an_interval(clock, phase):
    times = [at for _, at, _ in run(Scheduler(1_000, [], phase, clock), clock, 10)]
    assert all(later - earlier > 500 for earlier, later in itertools.pairwise(times))


def test_a_stall_is_one_late_tick_and_counted_misses_not_a_burst(clock):
    scheduler = Scheduler(1_000, [], 0, clock)
    run(scheduler, clock, 5)
    clock.advance(30.4)
    before = scheduler.punctuality.missed
    (tick,) = scheduler.due()
    assert tick.boottime_ms == clock.boottime_ms()
    assert scheduler.due() == []
    assert scheduler.punctuality.missed - before == 30
    assert scheduler.wait_s() == 0.6
    assert 30 <= scheduler.punctuality.lateness_s < 31
    assert scheduler.punctuality.take_max_s() >= 30
    assert scheduler.punctuality.take_max_s() == 0


def test_a_machine_that_is_always_late_misses_no_tick(clock):
    scheduler = Scheduler(10_000, [], 0, clock)
    run(scheduler, clock, 20)
    for _ in range(20):
        clock.advance(scheduler.wait_s() + 8.5)
        assert len(scheduler.due()) == 1
    assert scheduler.punctuality.missed == 0
    clock.advance(scheduler.wait_s() + 9.5)
    assert len(scheduler.due()) == 1
    assert scheduler.wait_s() == 10.5
    assert scheduler.punctuality.missed == 1


def test_a_suspend_is_told_apart_from_a_stall(clock):
    scheduler = Scheduler(10_000, [], 0, clock)
    run(scheduler, clock, 30)
    assert scheduler.slept() is None
    clock.advance(100)
    stood_still = scheduler.slept()
    assert stood_still is not None
    assert not stood_still.suspended
    scheduler.due()
    before_ms = clock.boottime_ms()
    clock.suspend(6 * 3600)
    clock.advance(0.2)
    slept = scheduler.slept()
    assert slept == Slept(before_ms + 200, clock.boottime_ms(), suspended=True)
    assert len(scheduler.due()) == 1
    assert scheduler.slept() is None


def test_a_process_that_stood_still_says_from_when_readings_are_missing(clock):
    scheduler = Scheduler(10_000, [], 0, clock)
    run(scheduler, clock, 30)
    clock.advance(scheduler.wait_s() + 9.5)
    assert scheduler.slept() is None, "that tick is late, and none is missing"
    scheduler.due()
    due_ms = clock.boottime_ms() + round(scheduler.wait_s() * 1000)
    clock.advance(scheduler.wait_s() + 25)
    assert scheduler.slept() == Slept(due_ms, clock.boottime_ms(), suspended=False)
    assert len(scheduler.due()) == 1
    assert scheduler.slept() is None


def test_a_host_that_starves_tells_its_stalls_once_a_minute_and_leaves_none_out(clock):
    scheduler = Scheduler(1_000, [], 0, clock)
    run(scheduler, clock, 5)
    began_ms, told = clock.boottime_ms(), []
    for _ in range(200):
        clock.advance(scheduler.wait_s() + 2.5)
        told += [slept] if (slept := scheduler.slept()) is not None else []
        scheduler.due()
    assert len(told) <= STALLS_TOLD_AT_ONCE + (clock.boottime_ms() - began_ms) / STALL_TOLD_EVERY_MS
    clock.advance(60)
    last = scheduler.slept()
    told += [last]
    for earlier, later in itertools.pairwise(told):
        assert later.from_ms - earlier.to_ms < 1_100, "between two of them lies nothing but readings"


@pytest.mark.parametrize("step_ms", [3_600_000, -3_600_000, 315_360_000_000, -315_360_000_000])
def test_a_step_of_the_wall_clock_moves_no_tick(clock, step_ms):
    scheduler = Scheduler(10_000, [], 0.1, clock)
    run(scheduler, clock, 30)
    wait_s = scheduler.wait_s()
    clock.set_wall_ms(clock.wall_ms() + step_ms)
    assert scheduler.wait_s() == wait_s
    clock.advance(wait_s)
    (tick,) = scheduler.due()
    assert tick.wall_ms == clock.wall_ms()


def test_a_slightly_late_tick_carries_the_time_of_the_grid(clock):
    scheduler = Scheduler(10_000, [], 0, clock)
    run(scheduler, clock, 20)
    clock.advance(scheduler.wait_s() + 0.002)
    (tick,) = scheduler.due()
    assert tick.boottime_ms % 10_000 == 0
    assert tick.wall_ms == clock.wall_ms() - 2
    clock.advance(scheduler.wait_s() + 0.003)
    (tick,) = scheduler.due()
    assert tick.boottime_ms % 10_000 == 3


def test_slower_groups_come_with_the_base_group_and_before_it(clock):
    ticks = run(Scheduler(10_000, [30_000, 10_000, 5_000], 0.5, clock), clock, 120)
    assert {interval for interval, _, _ in ticks} == {10_000, 30_000}
    slow = [at for interval, at, _ in ticks if interval == 30_000]
    base = [at for interval, at, _ in ticks if interval == 10_000]
    assert set(slow) <= set(base)
    assert ticks[0][0] == 30_000


def test_a_group_slower_than_a_minute_is_emitted_every_minute_and_read_at_its_pace(clock):
    ticks = run(Scheduler(10_000, [300_000], 0.5, clock), clock, 1_200)
    slow = [(at, fresh) for interval, at, fresh in ticks if interval == 300_000]
    assert 19 <= len(slow) <= 21
    read = [at for at, fresh in slow if fresh]
    assert 4 <= len(read) <= 5
    assert {later - earlier for earlier, later in itertools.pairwise(read[1:])} == {300_000}
