"""Blocks: every bit comes back, damage is noticed, and the format is what the specification says."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from watchbill_collector.history import block
from watchbill_collector.history.block import Block, DamagedBlock, NewerBlock
from watchbill_collector.series import STALE_BITS

GOLDEN = Path(__file__).parent / "golden"
STALE = np.array([STALE_BITS], np.uint64).view(np.float64)[0]


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint64)


def times(ticks: int, first: int = 1_700_000_000_000, step: int = 15_000) -> np.ndarray:
    return first + step * np.arange(ticks, dtype=np.int64)


def read_plainly(data: bytes) -> tuple[list[int], list[list[bytes | None]]]:
    """A second reader, written from docs/block-format.md with struct and zstd alone: times, and for each
    series the eight bytes of every value, None where it is absent.
    """
    header = struct.unpack_from("<2sBBIIHHIHBBqq", data)
    magic, version, _, crc, n, k, in_frame, heads_size, f, width, _, first, step = header
    assert (magic, version) == (b"WB", 1)
    ends = struct.unpack_from(f"<{f}I", data, 40)
    at = 40 + 4 * f
    seconds = [
        int.from_bytes(data[at + i * width : at + (i + 1) * width], "little", signed=True)
        for i in range(k - 2 if width else 0)
    ]
    at += width * max(k - 2, 0)
    assert zlib.crc32(data[8:at]) == crc
    clock, distance = [first], step
    for i in range(k - 1):
        clock.append(clock[-1] + distance)
        distance += seconds[i] if width and i < k - 2 else 0
    heads = zstandard.ZstdDecompressor().decompress(data[at : at + heads_size])
    frames_at = at + heads_size
    begins = [0, *ends]
    frames = [
        zstandard.ZstdDecompressor().decompress(data[frames_at + b : frames_at + e])
        for b, e in zip(begins, ends, strict=False)
    ]
    kinds, exponents = heads[:n], heads[n : 2 * n]
    planes = heads[2 * n : 10 * n]
    firsts = [bytes(planes[p * n + i] for p in range(8)) for i in range(n)]
    patches, partial = struct.unpack_from("<II", heads, 10 * n)
    at = 10 * n + 8
    mended = [struct.unpack_from("<IHQ", heads, at + 14 * i) for i in range(patches)]
    at += 14 * patches
    missing = struct.unpack_from(f"<{partial}I", heads, at)
    at += 4 * partial
    size = -(-k // 8)
    presence = {s: heads[at + size * i : at + size * (i + 1)] for i, s in enumerate(missing)}
    at += size * partial
    widths = (0, 1, 2, 4, 8, 8)
    stream = b"".join(frames) if in_frame else heads[at:]
    values: list[list[bytes | None]] = [[] for _ in range(n)]
    for kind in range(6):
        for series in (i for i in range(n) if kinds[i] == kind):
            length = widths[kind] * (k - 1)
            own, stream = stream[:length], stream[length:]
            steps = [bytes(own[p * (k - 1) + t] for p in range(widths[kind])) for t in range(k - 1)]
            row: list[bytes | None] = []
            if kind == 0:
                row = [firsts[series]] * k
            elif kind == 5:
                row = [firsts[series]]
                for each in steps:
                    row.append(bytes(a ^ b for a, b in zip(row[-1] or b"", each, strict=True)))
            else:
                whole = int.from_bytes(firsts[series], "little", signed=True)
                row = [struct.pack("<d", whole / 10.0 ** exponents[series])]
                for each in steps:
                    whole += int.from_bytes(each, "little", signed=True)
                    row.append(struct.pack("<d", whole / 10.0 ** exponents[series]))
            values[series] = row
    assert stream == b""
    for series, tick, raw in mended:
        values[series][tick] = struct.pack("<Q", raw)
    for series, bitmap in presence.items():
        for tick in range(k):
            if not bitmap[tick // 8] >> tick % 8 & 1:
                values[series][tick] = None
    return clock, values


def examples() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None, int]]:
    """Fixed content for the golden files: name -> times, values, presence, series in a frame."""
    random = np.random.default_rng(7)
    ticks = 48
    rows = [np.full(ticks, 4096.0), np.full(ticks, np.nan), np.full(ticks, -0.0)]
    rows += [np.cumsum(random.integers(0, 90, ticks)).astype(float) for _ in range(20)]
    rows += [
        np.round(np.cumsum(random.random(ticks)) * 3, 2),
        np.cumsum(random.integers(0, 2**40, ticks)) * 1.0,
    ]
    rows += [random.random(ticks), np.where(np.arange(ticks) == 47, STALE, np.arange(ticks) * 0.5)]
    values = np.stack(rows, axis=1)
    present = np.ones(values.shape, np.bool_)
    present[5:9, 4] = False
    present[:, 5] = False
    jittered = times(ticks) + random.integers(-3, 4, ticks)
    return {
        "hour": (jittered, values, None, 16),
        "partial": (times(ticks), values, present, 16),
        "small": (times(3), values[:3], None, 0),
        "one-tick": (times(1), values[:1], None, 0),
    }


@pytest.mark.parametrize("name", examples())
def test_a_golden_file_reads_as_it_always_did(name: str) -> None:
    clock, values, present, frame_series = examples()[name]
    path = GOLDEN / f"block-v1-{name}.bin"
    data = path.read_bytes()
    read = Block(data)
    assert read.times.tolist() == clock.tolist()
    decoded = block.decode([read])
    there = np.ones(values.shape, np.bool_) if present is None else present
    assert (bits(decoded)[there] == bits(values)[there]).all()
    # Our writer's numbers have not moved either, whatever zstd makes of them.
    (again,) = block.encode([clock], values, [values.shape[1]], present=present, frame_series=frame_series)
    assert Block(again).heads == read.heads


@pytest.mark.parametrize("name", examples())
def test_a_reader_written_from_the_specification_reads_the_same(name: str) -> None:
    clock, values, present, _ = examples()[name]
    plain_clock, plain = read_plainly((GOLDEN / f"block-v1-{name}.bin").read_bytes())
    assert plain_clock == clock.tolist()
    for series in range(values.shape[1]):
        for tick in range(len(values)):
            there = present is None or present[tick, series]
            assert plain[series][tick] == (values[tick, series].tobytes() if there else None)


ANY = st.integers(0, 2**64 - 1)
DECIMAL = st.builds(lambda n, e: n / 10.0**e, st.integers(-(10**9), 10**9), st.integers(0, 9))
ODD = st.sampled_from(
    [0.0, -0.0, float("nan"), float("inf"), float("-inf"), 5e-324, 2.0**53, 2.0**63, 1e308, STALE]
)


@settings(max_examples=150, deadline=None)
@given(
    st.data(),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([0, 1, 3, 16]),
    st.booleans(),
)
def test_every_bit_comes_back(data: st.DataObject, ticks: int, series: int, frame: int, holes: bool) -> None:
    number = st.one_of(DECIMAL, ODD, st.floats(allow_nan=False), DECIMAL)
    values = data.draw(hnp.arrays(np.float64, (ticks, series), elements=number, fill=DECIMAL))
    clock = np.cumsum(data.draw(hnp.arrays(np.int64, ticks, elements=st.integers(1, 2**40))))
    present = data.draw(hnp.arrays(np.bool_, (ticks, series))) if holes else None
    if present is not None:
        present[0] |= ~present.any(axis=0)
    (made,) = block.encode([clock], values, [series], present=present, frame_series=frame)
    read = Block(made)
    assert read.times.tolist() == clock.tolist()
    there = np.ones(values.shape, np.bool_) if present is None else present
    assert (bits(block.decode([read]))[there] == bits(values)[there]).all()
    for column, mask in read.partial.items():
        assert mask.tolist() == there[:, column].tolist()
    assert set(np.flatnonzero(~there.all(axis=0)).tolist()) == set(read.partial)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint64, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=ANY))
@example(np.array([[0], [2**63]], np.uint64))
def test_every_bit_of_any_pattern_comes_back(patterns: np.ndarray) -> None:
    values = patterns.view(np.float64)
    (made,) = block.encode([times(len(values))], values, [values.shape[1]])
    assert (bits(block.decode([Block(made)])) == patterns).all()


def test_a_series_is_read_alone_without_the_other_frames() -> None:
    values = np.cumsum(np.random.default_rng(1).integers(0, 50, (100, 64)), axis=0) / 10.0
    (made,) = block.encode([times(100)], values, [64])
    everything = block.decode([Block(made)])
    for column in (0, 15, 16, 63):
        read = Block(made)
        exponent, first = read.head(column)
        alone = block.joined(
            read.kinds[column], 100, np.array([first]), np.array([exponent], np.uint8), read.planes(column)
        )
        assert (alone[:, 0] == everything[:, column]).all()
        assert len(read._frames) == 1


def test_many_blocks_in_one_call_are_the_same_as_one_by_one() -> None:
    random = np.random.default_rng(3)
    counts = [1, 7, 30]
    values = np.round(random.random((20, 38)) * 100, 1)
    values[3, 5] = STALE
    clocks = [times(20, first=1000 * i + 1) + random.integers(0, 3, 20) for i in range(3)]
    together = block.encode(clocks, values, counts, frame_series=block.NO_FRAMES)
    begin = 0
    for clock, count, made in zip(clocks, counts, together, strict=True):
        (alone,) = block.encode([clock], values[:, begin : begin + count], [count], frame_series=0)
        assert made == alone
        begin += count
    assert (bits(block.decode([Block(made) for made in together])) == bits(values)).all()


def test_a_stale_marker_costs_a_patch_and_not_the_whole_series() -> None:
    steady = np.arange(240.0)[:, None] * 3
    ended = steady.copy()
    ended[-1] = STALE
    (clean,), (marked,) = (block.encode([times(240)], values, [1]) for values in (steady, ended))
    assert len(marked) < len(clean) + 60
    assert Block(marked).kinds == Block(clean).kinds


def test_constant_series_are_nearly_free() -> None:
    values = np.tile(np.arange(300.0) * 4096, (240, 1))
    (made,) = block.encode([times(240)], values, [300])
    assert len(made) < 300 * 8


def test_every_flipped_byte_is_noticed() -> None:
    values = np.cumsum(np.random.default_rng(1).integers(0, 50, (30, 40)), axis=0) / 10.0
    (made,) = block.encode([times(30) + np.arange(30) % 3], values, [40])
    for at in range(len(made)):
        broken = made[:at] + bytes([made[at] ^ 0x40]) + made[at + 1 :]
        try:
            read = Block(broken)
            same = (block.decode([read]) == values).all() and (read.times == Block(made).times).all()
        except (DamagedBlock, NewerBlock):
            continue
        assert same, f"byte {at}"  # Only what carries no meaning may change unnoticed.


def test_every_truncation_is_noticed() -> None:
    values = np.cumsum(np.random.default_rng(1).integers(0, 50, (30, 20)), axis=0) / 10.0
    (made,) = block.encode([times(30)], values, [20])
    for length in range(len(made)):
        with pytest.raises(DamagedBlock):
            block.decode([Block(made[:length])])


def test_a_newer_version_is_told_from_damage() -> None:
    (made,) = block.encode([times(2)], np.ones((2, 1)), [1])
    with pytest.raises(NewerBlock, match="version 9"):
        Block(made[:2] + b"\x09" + made[3:])


def test_a_part_that_claims_to_be_huge_is_not_believed() -> None:
    (made,) = block.encode([times(2)], np.ones((2, 1)), [1])
    claim = b"\x28\xb5\x2f\xfd\xc0\x58" + struct.pack("<Q", 1 << 40)  # A zstd header: 1 TiB of content.
    fields = list(struct.unpack_from("<2sBBIIHHIHBBqq", made))
    fields[7] = len(claim)
    head = struct.pack("<2sBBIIHHIHBBqq", *fields)
    head = head[:4] + struct.pack("<I", zlib.crc32(head[8:])) + head[8:]
    with pytest.raises(DamagedBlock, match="larger than any"):
        _ = Block(head + claim).heads
