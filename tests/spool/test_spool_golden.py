"""Files of every released version open, and a second reader, written from docs/spool-format.md alone, agrees."""

import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchbill.clock import ManualClock
from watchbill.protocol.frames import GapReason, Stream
from watchbill.v1 import link_pb2 as pb
from watchbill_agent.spool import DiskSpool, Draft, Record, Sizes

GOLDEN = Path(__file__).with_name("golden")
VERSIONS = sorted(path.name for path in GOLDEN.iterdir())
AGENT = bytes(range(16))
MARKER = b"\xd7WBr"


def frames(path: Path) -> Iterator[tuple[int, int, int, int, int, bytes]]:
    """(kind, number, total, samples, first boot time, payload) of each frame, as the page says."""
    data = path.read_bytes()
    assert data[:5] == b"WBSP\x01"
    assert int(path.stem) == struct.unpack_from("<Q", data, 40)[0]
    assert zlib.crc32(data[:92]) == struct.unpack_from("<I", data, 92)[0]
    assert data[24:40] == AGENT
    begun = zlib.crc32(data[8:24])
    at = 96
    while at < len(data) and any(data[at:]):
        head = data[at : at + 48]
        marker, size, checksum, number, total, samples, first_ms, _, kind, ids, _ = struct.unpack(
            "<4sIIQQIqIBBH", head
        )
        assert marker == MARKER
        assert zlib.crc32(head, begun) == struct.unpack_from("<I", data, at + 48)[0]
        payload = data[at + 52 : at + 52 + size]
        assert zlib.crc32(payload, begun) == checksum
        yield kind, number, total, samples, first_ms, payload[8 * ids :] if kind == 1 else payload
        at += 52 + size


@pytest.fixture
def copy(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / "spool"))


def held(spool: DiskSpool, stream: Stream) -> list[Record]:
    found: list[Record] = []
    seq = spool.state(stream).acked
    while (record := spool.held_after(stream, seq)) is not None:
        found.append(record)
        seq = record.last
    return found


@pytest.mark.parametrize("copy", VERSIONS, indirect=True)
def test_a_released_version_opens_and_goes_on(copy: Path) -> None:
    spool = DiskSpool(copy, AGENT, sizes=Sizes(128 * 1024, 128 * 1024), clock=ManualClock())
    try:
        assert spool.spool_id == (2).to_bytes(16)
        assert [(one.spool_id, one.stream, one.last_seq) for one in spool.retired] == [
            ((1).to_bytes(16), Stream.BULK, 3),
            ((1).to_bytes(16), Stream.CRIT, 0),
        ]
        bulk = held(spool, Stream.BULK)
        assert [(record.first, record.gap) for record in bulk[:4]] == [
            (1, None),
            (2, None),
            (3, GapReason.SUSPENDED),
            (4, None),
        ]
        assert len(bulk) == 39
        assert {record.samples for record in bulk[3:]} == {120}
        assert {one.frames for record in bulk for one in record.schemas} == {bulk[0].schemas[0].frames}
        (event,) = held(spool, Stream.CRIT)
        assert pb.Record.FromString(event.content).event.kind == "test"
        assert spool.append(Stream.BULK, Draft(b"\x12\x00", 1, 1, 1)) == 40
        assert spool.sync()
        assert spool.facts().damaged == spool.quarantined == 0
    finally:
        spool.close()


def test_a_reader_written_from_the_page_finds_the_same() -> None:
    paths = sorted((GOLDEN / "v1" / "bulk").glob("*.seg"))
    found = [frame for path in paths for frame in frames(path)]
    numbered = [frame for frame in found if frame[0] in (1, 2)]
    assert [frame[1] for frame in numbered] == list(range(1, 41))
    total = 0
    for _, _, so_far, samples, _, _ in numbered:
        total += samples
        assert so_far == total
    (gap,) = [pb.Record.FromString(frame[5]) for frame in found if frame[0] == 2]
    assert (gap.seq, gap.gap.to_seq, gap.gap.count) == (4, 4, 0)
    ticks = pb.Record.FromString(numbered[-1][5]).ticks
    (block,) = ticks.blocks
    assert block.first_boottime_ms == numbered[-1][4]
    dictionaries = [frame[5] for frame in found if frame[0] == 3]
    assert len(dictionaries) == len(paths), "every segment can be read by itself"
    schema_id, series, part, parts = struct.unpack_from("<QIHH", dictionaries[0])
    assert (schema_id, series, part, parts) == (block.schema_id, 2, 0, 1)
    whole = zlib.decompress(dictionaries[0][16:])
    up = pb.Up.FromString(whole[4 : 4 + int.from_bytes(whole[:4], "little")])
    assert up.dictionary.families[0].name == b"node_load1"
    notes = [json.loads(frame[5]) for frame in found if frame[0] == 4]
    assert [note["v"] for note in notes] == [1] * len(notes)
    last = notes[-1]
    assert (last["epoch"], last["spool"], last["base"]) == (1, (2).to_bytes(16).hex(), {"1": 0, "2": 1})
    assert (last["acked"], last["through"], last["total"]) == (1, 0, 0)
