"""On a disk without a free byte the outbox still takes, sends and writes down: the page about it goes out."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from watchbill.errors import StorageError
from watchbill_collector.dispatch.given import labelled
from watchbill_collector.store import Store, reserve

SIZE = "size=48m"
NOTICES = 20


@pytest.fixture(autouse=True)
def whole_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """As daemons have it; see tests/conftest.py."""
    monkeypatch.setattr("watchbill_collector.store.set_aside", reserve.set_aside)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", SIZE, "watchbill-test", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a file system needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> None:
    """Leave not one free block."""
    with open(place / "filler", "wb", buffering=0) as file:
        for piece in (1 << 20, 1 << 12, 1):
            while True:
                try:
                    if not file.write(bytes(piece)):
                        break
                except OSError:
                    break


async def test_notices_are_queued_sent_and_written_down_on_a_full_disk(
    desk: Any, small_disk: Path, a_route: Any
) -> None:
    one = desk(a_route(group_by=("alertname",)))
    shutil.move(str(one.directory), small_disk / "state")
    one.directory = small_disk / "state"
    await one.open()
    fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "more").write_bytes(b"x" * 8192)
    alerts = []
    for number in range(NOTICES):
        alerts.append(one.alerts.fire(one.clock.wall_ms(), **labelled(f"DiskFull{number}")))
        await one.turn(1)
    assert one.told() == ["firing"] * NOTICES
    outbox = one.dispatcher.outbox
    assert (outbox.undurable, outbox.counters.write_failures) == ("", 0)
    await one.restart()
    for alert in alerts:
        one.alerts.resolve(alert, one.clock.wall_ms())
    await one.turn(1)
    assert one.told() == ["firing"] * NOTICES + ["resolved"] * NOTICES


async def test_without_the_reserve_it_goes_out_all_the_same_and_is_counted(
    desk: Any, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = desk()
    shutil.move(str(one.directory), small_disk / "state")
    one.directory = small_disk / "state"
    monkeypatch.setattr("watchbill_collector.store.set_aside", lambda _: True)
    await one.open()
    fill(small_disk)

    async def use_up() -> None:
        for number in range(400):
            await one.silences.add(f'a="{number}"', 60, "r" * 1_000, "anna")

    with pytest.raises(StorageError):
        await use_up()
    one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    await one.turn()
    assert one.told() == ["firing"]
    assert one.dispatcher.outbox.counters.write_failures > 0
    (small_disk / "filler").unlink()
    await one.turn(1)
    assert one.dispatcher.outbox.undurable == ""


def test_the_reserve_leaves_no_table_and_costs_its_size_once(tmp_path: Path) -> None:
    for _ in range(3):
        store = Store.open(tmp_path, "main")
        assert reserve.TABLE not in store.read(
            lambda connection: {
                row[0] for row in connection.exec_driver_sql("SELECT name FROM sqlite_master")
            }
        )
        assert (tmp_path / "control.db-wal").stat().st_size >= reserve.RESERVE_BYTES
        store.close()
    assert (tmp_path / "control.db").stat().st_size < 2 * reserve.RESERVE_BYTES
