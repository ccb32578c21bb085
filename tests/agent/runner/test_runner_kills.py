"""kill -9 at every single thing that runner and supervisor do to the disk: a `once` action runs at most once, every
mismatch is told as unknown, and nothing is forgotten."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from watchbill.actions.order import Ask, Command
from watchbill.actions.outcomes import Accepted, Finished, Outcome, State, States
from watchbill.clock import ManualClock, SystemClock
from watchbill_agent.runner import bounds
from watchbill_agent.runner.cells import SystemDisk
from watchbill_agent.runner.executor import execute

from .conftest import Host, Nobody, ended, said

STEPS_MAX = 60
LIVED = 77


class KilledAt(SystemDisk):
    """A disk whose user is killed at the n-th thing that it does; `torn`: in the middle of a write."""

    def __init__(self, step: int, *, torn: bool) -> None:
        self._left = step
        self._torn = torn

    def write(self, handle: int, offset: int, data: bytes) -> None:
        if self._now():
            if self._torn:
                super().write(handle, offset, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(handle, offset, data)

    def sync(self, handle: int) -> None:
        if self._now():
            os.kill(os.getpid(), signal.SIGKILL)
        super().sync(handle)

    def _now(self) -> bool:
        self._left -= 1
        return self._left == 0


def died(work: Callable[[], object]) -> bool:
    """Whether a process that does this work is killed by its disk."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            work()
            code = LIVED
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (LIVED, -signal.SIGKILL)
    return os.waitstatus_to_exitcode(status) != LIVED


class House:
    """A host with one action that must not run twice, and what it wrote."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.counter = host.root / "counter"
        tool = host.script("tool", f"open({str(self.counter)!r}, 'a').write('ran ')")
        host.action("count", [str(tool)], "once")
        host.clock = ManualClock(SystemClock().wall_ms(), SystemClock().boottime_ms())
        self.attempt = 0

    def next(self) -> Command:
        self.attempt += 1
        self.counter.unlink(missing_ok=True)
        return self.host.command("count", attempt=self.attempt)

    @property
    def runs(self) -> int:
        return self.counter.read_text().count("ran") if self.counter.exists() else 0

    def recovered(self, command: Command) -> Finished | None:
        """What a collector finds out that was told nothing: it asks, sends again what is absent, and waits."""
        host, key = self.host, self.host.key(command)
        runner = host.runner()
        assert not runner.fault
        (states,) = [
            one for one in said(runner.order(host.signed(Ask("q", (key,)))).events) if isinstance(one, States)
        ]
        known = states.states[key]
        if known is State.ABSENT:
            assert self.runs == 0
        (answer, *_) = said(runner.order(host.signed(command)).events)
        assert isinstance(answer, Accepted | Finished), answer
        assert isinstance(host.clock, ManualClock)
        if known in (State.ACCEPTED, State.RUNNING):
            host.clock.advance(bounds.START_S)
        found = ended(runner, key)
        assert self.runs <= 1
        assert (self.runs == 1) or found.outcome is Outcome.INTERRUPTED
        runner.confirm([event.id for event in runner.waiting()])
        assert runner.waiting() == []
        runner.close()
        host.made.remove(runner)
        return found


@pytest.fixture
def house(host: Host) -> House:
    return House(host)


@pytest.mark.parametrize("torn", [False, True])
def test_a_runner_that_is_killed_at_any_step_of_accepting_runs_it_at_most_once(
    house: House, torn: bool
) -> None:
    host = house.host
    outcomes = set()
    for step in range(1, STEPS_MAX):
        command = house.next()
        host.runner(launcher=Nobody()).close()  # The files are there: what is killed is the accepting.
        signed = host.signed(command)

        def work(step: int = step, signed: bytes = signed) -> None:
            host.runner(disk=KilledAt(step, torn=torn)).order(signed)

        killed = died(work)
        found = house.recovered(command)
        assert found is not None
        outcomes.add(found.outcome)
        if not killed:
            break
    else:
        pytest.fail("it never came through")
    assert step > 5, "so many steps are to be killed at"
    assert Outcome.OK in outcomes


@pytest.mark.parametrize("torn", [False, True])
def test_a_supervisor_that_is_killed_at_any_step_runs_it_at_most_once(house: House, torn: bool) -> None:
    host = house.host
    outcomes = []
    for step in range(1, STEPS_MAX):
        command = house.next()
        runner = host.runner(launcher=Nobody())
        runner.order(host.signed(command))
        runner.close()
        key = host.key(command)

        def work(step: int = step, key: str = key) -> None:
            execute(host.homes, key, KilledAt(step, torn=torn), SystemClock())

        killed = died(work)
        if not killed:
            assert house.runs == 1
        found = house.recovered(command)
        assert found is not None
        outcomes.append((found.outcome, house.runs))
        if not killed:
            break
    else:
        pytest.fail("it never came through")
    assert step > 5, "so many steps are to be killed at"
    assert outcomes[0] == (Outcome.INTERRUPTED, 0), "accepted, and nothing says that it began"
    assert (Outcome.INTERRUPTED, 1) in outcomes, "it ran, and nobody saw how it ended"
    assert outcomes[-1] == (Outcome.OK, 1)


def test_a_runner_that_is_killed_while_it_clears_up_leaves_that_to_the_next(house: House) -> None:
    host = house.host
    for step in range(1, STEPS_MAX):
        command = house.next()
        runner = host.runner(launcher=Nobody())
        runner.order(host.signed(command))
        runner.close()
        key = host.key(command)
        assert died(lambda key=key: execute(host.homes, key, KilledAt(3, torn=False), SystemClock()))

        def work(step: int = step) -> None:
            found = host.runner(disk=KilledAt(step, torn=False))
            found.confirm([event.id for event in found.waiting()])

        killed = died(work)
        found = house.recovered(command)
        assert found is not None
        assert (found.outcome, house.runs) == (Outcome.INTERRUPTED, 1)
        if not killed:
            break
    assert step > 4


def test_two_supervisors_of_one_key_begin_one_command(house: House) -> None:
    host, command = house.host, house.next()
    runner = host.runner(launcher=Nobody())
    runner.order(host.signed(command))
    key = host.key(command)
    both = [os.fork() for _ in range(2)]
    if 0 in both:
        code = execute(host.homes, key, SystemDisk(), SystemClock())
        os._exit(code)
    for child in both:
        os.waitpid(child, 0)
    assert ended(runner).outcome is Outcome.OK
    assert house.runs == 1


def test_a_supervisor_without_a_decision_does_nothing(house: House) -> None:
    host = house.host
    host.runner(launcher=Nobody()).close()
    assert not died(lambda: execute(host.homes, "00" * 32, SystemDisk(), SystemClock()))
    assert not Path(house.counter).exists()
