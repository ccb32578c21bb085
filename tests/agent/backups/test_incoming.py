"""Files that wait for the agent: whole ones are adopted once, all others are set aside, and nothing blocks it."""

import json
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from watchbill.backups.record import Kind, Outcome, Record, Source, new_id
from watchbill.clock import ManualClock
from watchbill.config import Homes
from watchbill.errors import StorageError, UsageError
from watchbill.limits import EVENT_BYTES_MAX
from watchbill.protocol.frames import Stream
from watchbill.v1 import link_pb2 as pb
from watchbill_agent.backups.drop import FILES_MAX, Drop, encoded, file_name, fitted
from watchbill_agent.backups.incoming import NAMES_MAX, REFUSED_MAX, TEMPORARY_S_MAX, Incoming
from watchbill_agent.events import Events
from watchbill_agent.spool import DiskSpool, Keeper, MemoryKeeper, MemorySpool, SimulatedFilesystem, Sizes

CRIT = Stream.CRIT
SIZES = Sizes(256 * 1024, 128 * 1024)


def record(**more: object) -> dict[str, Any]:
    made = Record(
        record_id=new_id(),
        job="nightly",
        kind=Kind.RUN,
        source=Source.REPORT,
        outcome=Outcome.OK,
        observed_ms=1_700_000_000_000,
    )
    made = msgspec.structs.replace(made, **more)  # type: ignore[arg-type]
    document: dict[str, Any] = json.loads(made.to_json())
    return document


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    (tmp_path / "var").mkdir()
    return Drop(Homes(tmp_path / "etc", tmp_path / "var", tmp_path / "run"))


@pytest.fixture
def disk() -> SimulatedFilesystem:
    return SimulatedFilesystem()


@pytest.fixture
async def on_disk(disk: SimulatedFilesystem, drop: Drop) -> AsyncIterator[tuple[Incoming, DiskSpool]]:
    spool = DiskSpool(Path("/spool"), b"a" * 16, sizes=SIZES, filesystem=disk)
    keeper = Keeper(spool, ManualClock())
    yield Incoming(drop, Events(keeper, ManualClock()), lambda: spool.state(CRIT).acked), spool
    await keeper.close(5)


def held(spool: DiskSpool | MemorySpool) -> list[dict[str, Any]]:
    found, seq = [], 0
    while (one := spool.held_after(CRIT, seq)) is not None:
        found.append(json.loads(pb.Record.FromString(one.content).event.payload))
        seq = one.last
    return found


async def test_files_become_events_in_the_order_in_which_they_were_made(
    drop: Drop, on_disk: tuple[Incoming, DiskSpool], disk: SimulatedFilesystem
) -> None:
    incoming, _ = on_disk
    made = [record(observed_ms=1_700_000_000_000 + step, finished_ms=step) for step in range(100)]
    for one in random.Random(1).sample(made, len(made)):
        drop.write(one)
    await incoming.at_start()
    assert list(drop.directory.iterdir()) == []
    disk.power_cut(random.Random(2))
    assert held(DiskSpool(Path("/spool"), b"a" * 16, sizes=SIZES, filesystem=disk)) == made
    assert (incoming.kept, incoming.waiting) == (100, 0)


async def test_a_file_stays_while_the_spool_takes_no_more_and_follows_later(
    drop: Drop, on_disk: tuple[Incoming, DiskSpool], disk: SimulatedFilesystem
) -> None:
    incoming, spool = on_disk
    made = record()
    drop.write(made)

    def refuse(operation: str, path: Path) -> None:
        if operation in ("write", "create", "rename") and path.parent.name == "crit":
            raise OSError(28, "No space left on device")

    disk.before = refuse
    await incoming.adopt()
    assert [one.name for one in drop.directory.iterdir()] == [file_name(made)]
    assert incoming.waiting == 1
    disk.before = lambda operation, path: None
    await incoming.adopt()
    assert list(drop.directory.iterdir()) == []
    assert made in held(spool)


BAD = {
    "half": b'{"record_id":',
    "empty": b"",
    "no record": b'{"a": 1}',
    "huge": b" " * (EVENT_BYTES_MAX + 1),
    "deep": b"[" * 30_000,
    "not text": b"\xff\xfe" * 50,
    "another's": json.dumps(record()).encode(),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
async def test_what_is_no_record_is_set_aside_and_the_next_one_is_adopted(
    drop: Drop, on_disk: tuple[Incoming, DiskSpool], content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    incoming, spool = on_disk
    made = record()
    drop.write(made)
    name = f"{0:015d}-{'0' * 32}.json"
    (drop.directory / name).write_bytes(content)
    await incoming.adopt()
    assert held(spool) == [made]
    assert (drop.var / "backups/refused" / name).read_bytes() == content
    assert incoming.refused == 1
    assert "a file is no record of a backup" in caplog.text


async def test_links_pipes_and_directories_are_set_aside_unread(
    drop: Drop, on_disk: tuple[Incoming, DiskSpool], tmp_path: Path
) -> None:
    incoming, spool = on_disk
    drop.write(record())
    outside = tmp_path / "outside"
    outside.write_bytes(json.dumps(record()).encode())
    names = [f"{0:015d}-{digit * 32}.json" for digit in "123"]
    (drop.directory / names[0]).symlink_to(outside)
    os.mkfifo(drop.directory / names[1])
    (drop.directory / names[2]).mkdir()
    await incoming.adopt()
    assert list(drop.directory.iterdir()) == []
    assert len(held(spool)) == 1
    assert incoming.refused == 3
    assert outside.exists()


async def test_what_is_being_written_is_left_alone_and_removed_when_nobody_can_be_writing_it_any_more(
    drop: Drop, on_disk: tuple[Incoming, DiskSpool]
) -> None:
    incoming, _ = on_disk
    drop.write(record())
    young, old = drop.directory / ".a.1.tmp", drop.directory / ".b.2.tmp"
    for one in (young, old):
        one.write_text("{")
    long_ago = young.stat().st_mtime - TEMPORARY_S_MAX - 5
    os.utime(old, (long_ago, long_ago))
    await incoming.adopt()
    assert list(drop.directory.iterdir()) == [young]


async def test_a_flood_costs_a_bounded_look_and_a_bounded_number_is_kept_aside(
    drop: Drop, on_disk: tuple[Incoming, DiskSpool], monkeypatch: pytest.MonkeyPatch
) -> None:
    incoming, _ = on_disk
    drop.write(record())
    monkeypatch.setattr("watchbill_agent.backups.incoming.NAMES_MAX", 150)
    assert NAMES_MAX > FILES_MAX
    for number in range(200):
        (drop.directory / f"junk{number}").touch()
    await incoming.adopt()
    assert 50 <= len(list(drop.directory.iterdir())) <= 51
    await incoming.adopt()
    assert list(drop.directory.iterdir()) == []
    assert len(list((drop.var / "backups/refused").iterdir())) == REFUSED_MAX
    assert incoming.refused == 200


async def test_a_host_that_is_not_enrolled_leaves_files_for_the_time_when_it_is(drop: Drop) -> None:
    incoming = Incoming(drop, None, lambda: 0)
    answer = await incoming.told(json.dumps(record()))
    assert (answer["kept"], answer["why"]) == ("file", "this host is not enrolled")
    await incoming.at_start()
    assert len(list(drop.directory.iterdir())) == 1


async def test_with_a_spool_in_memory_the_file_goes_when_the_collector_has_the_record(drop: Drop) -> None:
    spool, committed = MemorySpool(), [0]
    incoming = Incoming(drop, Events(MemoryKeeper(spool), ManualClock()), lambda: committed[0])
    assert (await incoming.told(json.dumps(record())))["kept"] == "file"
    drop.write(record())
    for _ in range(2):
        await incoming.adopt()
        assert len(list(drop.directory.iterdir())) == 2
        assert len(held(spool)) == 2
    committed[0] = 1
    await incoming.adopt()
    assert len(list(drop.directory.iterdir())) == 1


@pytest.mark.parametrize("said", ["", "{}", "[" * 30_000, '{"record_id": "\udcff"}'])
async def test_what_is_no_record_is_refused_at_the_socket(
    on_disk: tuple[Incoming, DiskSpool], said: str
) -> None:
    with pytest.raises(UsageError):
        await on_disk[0].told(said)


async def test_who_cannot_be_helped_is_told_so(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watchbill_agent.backups.drop.FILES_MAX", 3)
    for _ in range(3):
        drop.write(record())
    answer = await Incoming(drop, None, lambda: 0).told(json.dumps(record()))
    assert answer["kept"] == ""
    assert "3 records wait there already" in str(answer["why"])


def test_a_link_in_place_of_the_directory_is_not_followed(drop: Drop, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (drop.var / "backups").mkdir()
    drop.directory.symlink_to(elsewhere)
    with pytest.raises(StorageError, match="could not be written"):
        drop.write(record())
    assert list(elsewhere.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which may write for others")
def test_what_root_leaves_belongs_to_the_agents_user(drop: Drop) -> None:
    os.chown(drop.var, 12345, 12345)
    made = record()
    drop.write(made)
    for place in (drop.directory.parent, drop.directory, drop.directory / file_name(made)):
        assert (place.stat().st_uid, place.stat().st_gid) == (12345, 12345)


def test_a_record_that_is_too_long_for_an_event_loses_the_beginning_of_its_tail() -> None:
    long = record(tail="\U0001f600" * 8191 + "z", errors=("é" * 500,) * 10)
    short = fitted(long)
    assert len(encoded(short)) <= EVENT_BYTES_MAX
    assert long["tail"].endswith(short["tail"])
    assert short["tail"].endswith("z")
    assert fitted(short) == short


def test_a_record_that_is_too_long_without_its_tail_loses_its_last_errors() -> None:
    errors = tuple(f"{number}" + "\U0001f600" * 499 for number in range(10))
    long = record(tail="z" * 8192, errors=errors, copy="\U0001f600" * 256, repo_id="\U0001f600" * 256)
    short = fitted(long)
    assert len(encoded(short)) <= EVENT_BYTES_MAX
    assert short["tail"] == ""
    assert 5 < len(short["errors"]) < 10
    assert errors[: len(short["errors"])] == tuple(short["errors"])
    assert {**short, "tail": 0, "errors": 0} == {**long, "tail": 0, "errors": 0}, "and nothing else"
