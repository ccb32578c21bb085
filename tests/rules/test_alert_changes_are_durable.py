"""A change of an alert is told only when it is saved: what a kill could take back must not have been acted on."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from watchbill.errors import StorageError
from watchbill_collector.rules import AlertChange, AlertState, MemoryAlertState
from watchbill_collector.rules.rulebook import SAVE_EVERY_MS_MIN
from watchbill_collector.rules.state import Saved

House = Any  # The fixture's class lives in conftest, which cannot be imported.


class Disk(MemoryAlertState):
    """Notes what was saved when a change was told, and fails when asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.saves = 0

    def save(self, saved: Saved) -> None:
        if self.fails:
            raise StorageError("no space left on device")
        self.saves += 1
        super().save(saved)

    def states(self) -> Mapping[tuple[str, str], AlertState]:
        """What a process that begins now would know."""
        alerts = [] if self.saved is None else [one for kept in self.saved.alerts.values() for one, _ in kept]
        return {(dict(a.labels)["alertname"], dict(a.labels)["instance"]): a.state for a in alerts}


class Told(list[AlertChange]):
    """The changes in the order told, and what was on the disk each time."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self.disk = disk
        self.on_disk: list[Mapping[tuple[str, str], AlertState]] = []

    def extend(self, changes: Iterable[AlertChange]) -> None:
        for change in changes:
            self.append(change)
            self.on_disk.append(self.disk.states())

    def states(self) -> list[AlertState]:
        """Without pending: an alert without `for` passes it on its way to firing, in one evaluation."""
        return [change.alert.state for change in self if change.alert.state is not AlertState.PENDING]


@pytest.fixture
def low(house: Callable[..., House]) -> House:
    """A house with one rule, `node_load1 < 5`, every second."""
    disk = Disk()
    made = house(state=disk, changes=Told(disk))
    made.load("groups:\n- {name: g, interval: 1s, rules: [{alert: Low, expr: node_load1 < 5}]}\n")
    return made


def step(house: House, value: float, after_ms: int) -> Any:
    house.now_ms += after_ms
    house.send("web1", {("node_load1", ()): value})
    return house.book.evaluate_due(house.now_ms)


def test_a_change_that_is_told_is_saved(low: House) -> None:
    for value in (1.0, 9.0, 1.0, 9.0, 1.0):
        step(low, value, 1_000)
    assert len(low.changes.states()) == 5
    for change, on_disk in zip(low.changes, low.changes.on_disk, strict=True):
        if change.alert.state is not AlertState.PENDING:
            assert on_disk["Low", "web1"] is change.alert.state


def test_while_saves_are_spared_changes_wait_for_the_next_which_comes_by_itself(low: House) -> None:
    step(low, 1.0, 1_000)
    low.book._saved_ms += 700  # As if another group had changed late in this second.
    upcoming = step(low, 9.0, 1_000)
    assert low.changes.states() == [AlertState.FIRING], "not saved yet, not told yet"
    assert upcoming <= low.now_ms + SAVE_EVERY_MS_MIN
    low.book.evaluate_due(upcoming)
    assert low.changes.states() == [AlertState.FIRING, AlertState.RESOLVED]
    assert low.changes.on_disk[-1]["Low", "web1"] is AlertState.RESOLVED


def test_a_disk_that_is_full_silences_nobody(low: House) -> None:
    low.state.fails = True
    step(low, 1.0, 1_000)
    assert low.changes.states() == [AlertState.FIRING]
    assert low.book.stats.save_failures == 1
    low.state.fails = False
    step(low, 9.0, 1_000)
    assert low.state.saves == 1


def test_a_clock_that_is_set_back_holds_nothing_up(low: House) -> None:
    step(low, 1.0, 1_000)
    low.book._saved_ms += 3_600_000
    step(low, 9.0, 1_000)
    assert low.changes.states() == [AlertState.FIRING, AlertState.RESOLVED]


def test_what_waits_is_told_at_the_end(low: House) -> None:
    step(low, 1.0, 1_000)
    low.book._saved_ms += 700
    step(low, 9.0, 1_000)
    low.book.close(low.now_ms)
    assert low.changes.states() == [AlertState.FIRING, AlertState.RESOLVED]
