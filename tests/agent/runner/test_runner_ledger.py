"""The ledger over time, on damaged and on full disks."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from watchbill.actions import outcomes
from watchbill.actions.bounds import LEDGER_DAYS
from watchbill.actions.order import Ask, Refusal
from watchbill.actions.outcomes import Accepted, Finished, Outcome, Refused, State
from watchbill.clock import ManualClock
from watchbill_agent.runner import bounds
from watchbill_agent.runner.cells import Cells, Damaged, SystemDisk
from watchbill_agent.runner.ledger import (
    CELL_BYTES,
    DAY_MS,
    FIRST,
    MARKS,
    Class,
    Entry,
    Ledger,
    LedgerFull,
    Marks,
)

from .conftest import Host, Nobody, ended, said

NOW = 1_700_000_000_000


def entry(key: str, at_ms: int = NOW, kept_ms: int = LEDGER_DAYS * DAY_MS) -> Entry:
    return Entry(
        key=key,
        class_=Class.EFFECT,
        action="a",
        at_ms=at_ms,
        boot="b",
        boottime_ms=1,
        until_ms=at_ms + kept_ms,
    )


@pytest.mark.parametrize("at", [0, 3, 4, 8, 9, 12])
def test_a_cell_with_a_changed_byte_is_known_to_be_damaged(tmp_path: Path, at: int) -> None:
    path = tmp_path / "cells"
    Cells.make(path, 64, 4)
    cells = Cells(SystemDisk(), path, 64, 4)
    assert cells.read_all() == [None] * 4
    cells.write(1, b"one", b"", b"three")
    content = bytearray(path.read_bytes())
    content[64 + at] ^= 1
    path.write_bytes(content)
    found = cells.read_all()
    if at == 12:
        assert found == [None, b"one", None, b"three"], "beyond the content nothing counts"
    else:
        assert isinstance(found[1], Damaged)
        assert (found[0], found[2], found[3]) == (None, None, b"three")
    cells.close()


def test_a_ledger_remembers_what_it_must_and_refuses_beyond(tmp_path: Path) -> None:
    ledger = Ledger.open(SystemDisk(), tmp_path, NOW, slots=4)
    for n in range(3):
        ledger.decide(entry(f"e{n}", NOW + n), Marks(1, n, 0))
    ledger.decide(entry("look", NOW, bounds.LOOK_KEPT_MS), Marks(1, 3, 0))
    with pytest.raises(LedgerFull):
        ledger.decide(entry("late", NOW + 5), Marks(1, 4, 0))
    assert ledger.marks == Marks(1, 3, 0)
    ledger.decide(entry("late", NOW + bounds.LOOK_KEPT_MS), Marks(1, 4, 0))
    assert ledger.find("look") is None, "running it twice would do no harm"
    ledger.close()
    ledger = Ledger.open(SystemDisk(), tmp_path, NOW, slots=999)
    assert (ledger.slots, ledger.held, ledger.marks) == (4, 4, Marks(1, 4, 0)), (
        "it keeps the size that it has"
    )
    with pytest.raises(LedgerFull):
        ledger.decide(entry("later", NOW + LEDGER_DAYS * DAY_MS - 1), Marks(1, 5, 0))
    ledger.decide(entry("later", NOW + LEDGER_DAYS * DAY_MS), Marks(1, 5, 0))
    assert ledger.find("e0") is None
    ledger.close()


def spoil(path: Path, cell: int) -> None:
    with open(path, "r+b") as file:
        file.seek(cell * CELL_BYTES + 10)
        file.write(b"\xff\xff\xff")


def test_a_decision_that_cannot_be_read_makes_it_another_ledger_that_keeps_the_rest(tmp_path: Path) -> None:
    ledger = Ledger.open(SystemDisk(), tmp_path, NOW, slots=4)
    first = ledger.decide(entry("one"), Marks(2, 7, 1))
    ledger.decide(entry("two"), Marks(2, 8, 1))
    old = ledger.id
    ledger.close()
    spoil(tmp_path / "ledger", FIRST + 2 * first.slot)
    ledger = Ledger.open(SystemDisk(), tmp_path, NOW + 5)
    assert (ledger.id != old, ledger.damaged, ledger.made_ms) == (True, 1, NOW + 5)
    assert (ledger.find("one"), ledger.marks) == (None, Marks(2, 8, 1))
    assert ledger.find("two") is not None
    new = ledger.id
    ledger.close()
    ledger = Ledger.open(SystemDisk(), tmp_path, NOW + 9)
    assert (ledger.id, ledger.damaged) == (new, 0)
    ledger.close()


@pytest.mark.parametrize("what", ["who", "marks", "short", "empty"])
def test_a_ledger_that_does_not_know_itself_is_set_aside(tmp_path: Path, what: str) -> None:
    ledger = Ledger.open(SystemDisk(), tmp_path, NOW, slots=4)
    ledger.decide(entry("one"), Marks(2, 7, 1))
    old = ledger.id
    ledger.close()
    path = tmp_path / "ledger"
    match what:
        case "who":
            spoil(path, 0)
        case "marks":
            for mark in MARKS:
                spoil(path, mark)
        case "short":
            os.truncate(path, path.stat().st_size - 2 * CELL_BYTES)
        case _:
            path.write_bytes(b"")
    ledger = Ledger.open(SystemDisk(), tmp_path, NOW + 5, slots=4)
    assert (ledger.id != old, ledger.held, ledger.made_ms) == (True, 0, NOW + 5)
    assert (tmp_path / "ledger.damaged").exists()
    ledger.close()


def test_a_clock_that_was_years_ahead_stops_nothing_for_years(host: Host) -> None:
    host.clock = ManualClock(NOW + 1_000 * DAY_MS)
    host.action("svc", ["/bin/true"], "once", 'cooldown = "10m"\nparallel = 9')
    runner = host.runner(launcher=Nobody(), boot="one")
    first = host.command("svc")
    runner.order(host.signed(first))
    runner.close()
    host.clock = ManualClock(NOW)
    runner = host.runner(launcher=Nobody(), boot="two")
    assert runner._store is not None
    kept = runner._store.ledger.find(host.key(first))
    assert kept is not None
    assert (kept.at_ms, kept.until_ms - kept.at_ms) == (NOW, LEDGER_DAYS * DAY_MS)
    host.clock.advance(601)
    (found,) = said(runner.order(host.signed(host.command("svc", attempt=2))).events)
    assert isinstance(found, Accepted), found
    host.clock.set_wall_ms(NOW - 1_000 * DAY_MS)  # And back again, while it runs.
    (found,) = said(runner.order(host.signed(host.command("svc", attempt=3))).events)
    assert found.reason is Refusal.COOLDOWN
    runner.close()


def test_one_torn_mark_is_no_loss(tmp_path: Path) -> None:
    ledger = Ledger.open(SystemDisk(), tmp_path, NOW, slots=4)
    for counter in range(1, 4):
        ledger.raise_marks(Marks(1, counter, 0))
    ledger.close()
    spoil(tmp_path / "ledger", MARKS[0])
    ledger = Ledger.open(SystemDisk(), tmp_path, NOW)
    assert ledger.marks.counter in (2, 3)
    ledger.close()


def test_a_ledger_that_is_full_refuses_and_says_so(host: Host) -> None:
    host.clock = ManualClock()
    host.action("svc", ["/bin/true"], "repeat", "parallel = 9")
    runner = host.runner(launcher=Nobody(), slots=2)
    commands = [host.command("svc", attempt=attempt) for attempt in range(3)]
    answers = [said(runner.order(host.signed(command)).events)[0] for command in commands]
    assert [type(one) for one in answers] == [Accepted, Accepted, Refused]
    assert answers[2].reason is Refusal.LEDGER


def test_a_host_made_anew_does_not_claim_to_know(host: Host) -> None:
    host.action("svc", ["/bin/true"], "once")
    runner = host.runner()
    command = host.command("svc")
    (accepted,) = said(runner.order(host.signed(command)).events)
    ended(runner)
    runner.close()
    for path in host.homes.var.iterdir():
        path.unlink()
    runner = host.runner()
    (states,) = said(runner.order(host.signed(Ask("q", (host.key(command),)))).events)
    assert states.states == {host.key(command): State.ABSENT}
    assert states.ledger != accepted.ledger


def test_results_that_nobody_fetches_stop_further_commands_and_come_back_after_a_restart(host: Host) -> None:
    host.clock = ManualClock()
    host.action("svc", ["/bin/true"], "repeat", "parallel = 32")
    runner = host.runner(launcher=Nobody(), boot="before")
    for attempt in range(bounds.ROOMS):
        runner.order(host.signed(host.command("svc", attempt=attempt)))
        if runner.running == bounds.RUNNING_MAX:
            runner.close()
            runner = host.runner(launcher=Nobody(), boot=f"boot {attempt}")
    found = said(runner.order(host.signed(host.command("svc", attempt=99))).events)[0]
    assert (found.reason, "0 results more" in found.detail) == (Refusal.BUSY, True)
    assert sum(isinstance(one, Finished) for one in said(runner.waiting())) >= bounds.RUNNING_MAX
    runner.confirm([event.id for event in runner.waiting()])
    answer = said(runner.order(host.signed(host.command("svc", attempt=100))).events)[0]
    assert isinstance(answer, Accepted)


def test_an_event_told_again_is_the_same_one(host: Host) -> None:
    host.action("svc", ["/bin/echo", "hello"], "once")
    runner = host.runner()
    runner.order(host.signed(host.command("svc")))
    ended(runner)
    before = [event.id for event in runner.waiting()]
    runner.close()
    runner = host.runner()
    assert [event.id for event in runner.waiting()] == before
    runner.confirm(before[:1])
    assert [event.kind for event in runner.waiting()] == [outcomes.COMMAND_FINISHED]
    runner.confirm(before)
    runner.close()
    assert host.runner().waiting() == []


# ---------------------------------------------------------------- full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which the runner's files fit with little to spare."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system")
    place = tmp_path / "disk"
    place.mkdir(mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=100,mode=0700", "tmpfs", str(place)], check=True
    )
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> None:
    for size in (65536, 512):
        with open(place / "junk", "ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(size))
    with contextlib.suppress(OSError):
        for number in range(200):
            (place / f"junk{number}").touch()


@pytest.mark.real("mount")
def test_on_a_full_disk_commands_run_and_their_results_are_kept(small_disk: Path) -> None:
    host = Host(small_disk / "h")
    host.action("svc", ["/bin/echo", "hello"], "once")
    runner = host.runner()
    host.runner().close()
    fill(small_disk)
    with pytest.raises(OSError, match="space"):
        (small_disk / "more").write_bytes(bytes(4096))
    command = host.command("svc")
    runner.order(host.signed(command))
    found = ended(runner)
    assert (found.outcome, found.exit_code, found.output) == (Outcome.OK, 0, "hello\n")
    refused = said(runner.order(host.signed(replace(command, action="no", attempt=2))).events)
    assert refused[0].reason is Refusal.NOT_ALLOWED
    runner.close()
    runner = host.runner()
    assert len(runner.waiting()) == 3
    runner.close()


@pytest.mark.real("mount")
def test_a_disk_that_was_full_before_is_no_place_to_run_anything_from(small_disk: Path) -> None:
    host = Host(small_disk / "h")
    host.action("svc", ["/bin/echo", "hello"], "once")
    (small_disk / "h" / "var" / "runner").mkdir(parents=True)
    fill(small_disk)
    runner = host.runner()
    found = said(runner.order(host.signed(host.command("svc"))).events)[0]
    assert (found.reason, runner.running) == (Refusal.LEDGER, 0)
    assert "space" in found.detail
    for junk in small_disk.glob("junk*"):
        junk.unlink()
    assert runner.status()["fault"] == ""
    answer = said(runner.order(host.signed(host.command("svc", attempt=2))).events)[0]
    assert isinstance(answer, Accepted), "as soon as there is room it works"
    ended(runner)
    runner.close()
