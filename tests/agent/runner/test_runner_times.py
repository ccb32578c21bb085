"""How often something protected begins: never more often than people agreed to, whoever orders, and whatever dies."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from watchbill.actions.bounds import AGREED_DAYS_MAX, DAY_MS
from watchbill.actions.order import Purpose, Refusal, RosterCopy
from watchbill.actions.outcomes import Accepted, Finished, Outcome
from watchbill.clock import ManualClock
from watchbill_agent.runner import bounds
from watchbill_agent.runner.cells import SystemDisk
from watchbill_agent.runner.core import Runner
from watchbill_agent.runner.ledger import CELL_BYTES, FILE, Class, Entry, Ledger, Marks

from .conftest import Host, Nobody, said

NOW = 1_700_000_000_000
NEEDS = 'needs = { approvals = 2, role = "dba" }\nparallel = 32'


class Killed(BaseException):
    """The runner was killed here. Nothing may catch it."""


class Begins(Nobody):
    """A launcher that counts what it is asked to begin, and may be killed before or after."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.dies = ""

    def start(self, key: str, task: Any) -> None:
        if self.dies == "before":
            raise Killed
        self.keys.append(key)
        if self.dies == "after":
            raise Killed


class KilledAt(SystemDisk):
    """A disk whose user is killed at the n-th thing that it does, in the middle of a write or before a sync; nothing is
    done to it afterwards."""

    def __init__(self, left: int) -> None:
        self._left = left

    def write(self, handle: int, offset: int, data: bytes) -> None:
        self._left -= 1
        if self._left == 0:
            super().write(handle, offset, data[:100])
        if self._left <= 0:
            raise Killed
        super().write(handle, offset, data)

    def sync(self, handle: int) -> None:
        self._left -= 1
        if self._left <= 0:
            raise Killed
        super().sync(handle)


def prepared(host: Host) -> None:
    host.clock = ManualClock(NOW)
    host.action("fence", ["/bin/true"], "once", NEEDS)
    host.install_roster_key()


ORDERS = st.tuples(st.just("order"), st.integers(0, 1), st.integers(1, 6), st.sampled_from(list(Purpose)[:3]))
DEATHS = st.tuples(
    st.sampled_from(["restart", "before", "after", "disk"]),
    st.integers(0, 1),
    st.integers(1, 9),
    st.just(Purpose.STEP),
)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(st.lists(st.one_of(ORDERS, DEATHS), min_size=4, max_size=16), st.integers(1, 3))
def test_in_whatever_order_orders_restarts_and_kills_come_it_begins_no_more_often_than_was_agreed(
    tmp_path_factory: pytest.TempPathFactory, story: list[tuple[str, int, int, Purpose]], times: int
) -> None:
    """Two agreements to one effect; each is counted for itself, and a kill at any moment makes neither begin more."""
    host = Host(tmp_path_factory.mktemp("h") / "h")
    prepared(host)
    launcher = Begins()

    def started(disk: SystemDisk | None = None) -> Runner:
        return Runner(
            host.homes, host.root.stat().st_uid, host.clock, launcher, disk=disk, boot="b", slots=64
        )

    runner = started()
    runner.order(host.signed(RosterCopy(host.roster())))
    base = host.command("fence")
    agreements = [host.agreed(base, "anna", "boris", times=times, reason=text) for text in ("one", "two")]
    keys: list[set[str]] = [set(), set()]
    for what, which, number, purpose in [*story, ("restart", 0, 1, Purpose.STEP)]:
        launcher.dies = what if what in ("before", "after") else ""
        try:
            if what in ("restart", "disk"):
                runner.close()
                runner = started(KilledAt(number) if what == "disk" else None)
            attempt = number + 100 * which
            command = host.agreed(base, "anna", "boris", times=times, reason=("one", "two")[which])
            assert command.manifest == agreements[which].manifest
            command = replace(command, attempt=attempt, purpose=purpose)
            keys[which].add(host.key(command))
            runner.order(host.signed(command))
        except Killed:
            runner.close()
            launcher.dies = ""
            runner = started()
    runner.close()
    for mine in keys:
        assert sum(key in mine for key in launcher.keys) <= times
    assert len(set(launcher.keys)) == len(launcher.keys), "and none under the same key twice"


def test_what_was_counted_and_never_begun_has_begun_and_nobody_knows_how_it_ended(host: Host) -> None:
    prepared(host)
    launcher = Begins()
    runner = host.runner(launcher=launcher, boot="b")
    runner.order(host.signed(RosterCopy(host.roster())))
    command = host.agreed(host.command("fence"), "anna", "boris")
    launcher.dies = "before"
    with pytest.raises(Killed):
        runner.order(host.signed(command))
    runner.close()
    launcher.dies = ""
    runner = host.runner(launcher=launcher, boot="b")
    (refused,) = said(runner.order(host.signed(replace(command, attempt=2))).events)
    assert refused.reason is Refusal.SPENT
    assert isinstance(host.clock, ManualClock)
    host.clock.advance(bounds.START_S)
    runner.look()
    found = {type(one): one for one in said(runner.waiting()) if isinstance(one, Accepted | Finished)}
    assert found[Finished].outcome is Outcome.INTERRUPTED
    assert launcher.keys == []


def test_looking_is_not_counted(host: Host) -> None:
    prepared(host)
    host.action("look", ["/bin/true"], "read", NEEDS)
    runner = host.runner(launcher=Begins(), boot="b")
    runner.order(host.signed(RosterCopy(host.roster())))
    command = host.agreed(host.command("look"), "anna", "boris", times=0)
    for attempt in range(1, 4):
        (found,) = said(runner.order(host.signed(replace(command, attempt=attempt))).events)
        assert isinstance(found, Accepted), found


# ---------------------------------------------------------------- the ledger


def entry(key: str, grant: str) -> Entry:
    return Entry(
        key=key, class_=Class.EFFECT, action="a", at_ms=NOW, boot="b", boottime_ms=1, until_ms=NOW + DAY_MS, grant=grant
    )  # fmt: skip


def test_a_ledger_of_before_counts_from_when_it_is_opened_and_says_so_ever_after(tmp_path: Path) -> None:
    ledger = Ledger.open(SystemDisk(), tmp_path, NOW, slots=4)
    ledger.decide(entry("one", ""), Marks(1, 1, 0))
    first = ledger.id
    old = json.dumps({"v": 1, "id": first, "at": NOW, "slots": 4}).encode()
    ledger._cells.write(0, old)
    ledger.close()
    for opened_ms in (NOW + 50, NOW + 99):
        ledger = Ledger.open(SystemDisk(), tmp_path, opened_ms)
        assert (ledger.id, ledger.made_ms, ledger.counts_ms) == (first, NOW, NOW + 50)
        assert ledger.find("one") is not None
        ledger.close()


def test_a_decision_with_the_longest_names_fits_its_cell(tmp_path: Path) -> None:
    longest = Entry(
        key="k" * 64, class_=Class.REFUSED, action="a" * 64, at_ms=2**46, boot="b" * 36, boottime_ms=2**46,
        until_ms=2**46, reason=max((one.value for one in Refusal), key=len), grant="g" * 64,
    )  # fmt: skip
    ledger = Ledger.open(SystemDisk(), tmp_path, NOW, slots=2)
    ledger.decide(longest, Marks(1, 1, 0))
    ledger.close()
    ledger = Ledger.open(SystemDisk(), tmp_path, NOW)
    assert (ledger.begun("g" * 64), ledger.begun(""), (tmp_path / FILE).stat().st_size % CELL_BYTES) == (
        1,
        0,
        0,
    )
    ledger.close()


def test_what_counts_is_kept_as_long_as_people_agreed(host: Host) -> None:
    prepared(host)
    runner = host.runner(launcher=Begins(), boot="b")
    now_ms = host.clock.wall_ms()
    ends_ms = now_ms + AGREED_DAYS_MAX * DAY_MS
    runner.order(host.signed(RosterCopy(host.roster(expires_ms=ends_ms))))
    command = host.agreed(host.command("fence"), "anna", "boris", expires_ms=ends_ms)
    runner.order(host.signed(command))
    assert runner._store is not None
    kept = runner._store.ledger.find(host.key(command))
    assert kept is not None
    assert kept.until_ms == ends_ms
    # A clock that was ahead when it was written makes it no shorter.
    runner.close()
    ledger = Ledger.open(SystemDisk(), host.homes.var, now_ms - 400 * DAY_MS)
    (mended,) = (ledger.find(host.key(command)),)
    assert mended is not None
    assert mended.until_ms - mended.at_ms == AGREED_DAYS_MAX * DAY_MS
    ledger.close()


def test_many_agreements_are_told_apart(tmp_path: Path) -> None:
    ledger = Ledger.open(SystemDisk(), tmp_path, NOW, slots=32)
    for number, grant in enumerate(itertools.islice(itertools.cycle("xyz"), 30)):
        ledger.decide(entry(f"k{number}", grant), Marks(1, number, 0))
    assert [ledger.begun(one) for one in "xyzw"] == [10, 10, 10, 0]
    ledger.close()
