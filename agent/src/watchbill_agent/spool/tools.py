"""Looking at a spool's files, and putting them right, for the person on the host.

`inspect` says what there is, `verify` what is wrong with it, `repair` takes what is wrong out of the way: bad bytes
and whole files go to `quarantine/`, torn tails are cut, and what can be read stays where it is. Nothing is repaired
that could not be read before: a spool with damage works, and counts what it lost, without any of this.

Reading needs no lock and may be done while the agent runs: a segment that the agent writes to may then seem torn.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from watchbill.codec import GapBody, encode_gap
from watchbill.errors import Refused, StorageError, UsageError
from watchbill.files import Lock
from watchbill.protocol.frames import GapReason, Stream
from watchbill_agent.spool.disk import LOCK_NAME
from watchbill_agent.spool.filesystem import SystemFilesystem
from watchbill_agent.spool.format import (
    AGENT_ID_BYTES,
    HEADER_BYTES,
    VERSION,
    Bad,
    Fault,
    Frame,
    Header,
    Kind,
    NewerVersion,
    decode_header,
    encode_frame,
    encode_header,
    scan,
    seed_of,
)
from watchbill_agent.spool.note import Note, decode_note
from watchbill_agent.spool.segment import (
    SUFFIX,
    Found,
    examine,
    last_number,
    numbers_used,
    parse_name,
    segment_name,
)
from watchbill_agent.spool.segment_reader import SEGMENT_READ_BYTES_MAX
from watchbill_agent.spool.store import (
    QUARANTINE,
    STREAM_DIRECTORIES,
    Contents,
    SegmentFile,
    find,
    quarantine_bytes,
    set_aside,
)

TEMPORARY = ".tmp"


@dataclass(frozen=True, slots=True)
class Damage:
    """Something wrong in one file. `records` are numbers that are lost by it, 0 where none is or nobody knows."""

    path: Path
    offset: int
    size: int
    what: str
    harmless: bool = False


@dataclass(slots=True)
class Look:
    """What was found. `missing` are numbers without a record, by stream: the collector is told of them as gaps with
    reason CORRUPT."""

    directory: Path
    store_id: bytes | None
    running: bool
    segments: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[Stream, Note] = field(default_factory=dict)
    damages: list[Damage] = field(default_factory=list)
    missing: list[tuple[Stream, int, int]] = field(default_factory=list)
    quarantine: list[tuple[str, int]] = field(default_factory=list)


def look(directory: Path, agent_id: bytes | None = None) -> Look:
    """Read everything, change nothing. `agent_id` says whose spool it should be; without it, it is whose most of it
    is. Raises UsageError when there is no spool.
    """
    disk = SystemFilesystem()
    if not any((directory / name).is_dir() for name in STREAM_DIRECTORIES.values()):
        raise UsageError(f"{directory} holds no spool; spool.dir in agent.toml says where it is")
    contents = find(disk, directory, agent_id or _agent_id(directory), change=False)
    found = Look(directory, contents.store_id, _is_running(directory))
    seed = seed_of(contents.store_id or b"")
    for stream in Stream:
        _look_at_stream(found, stream, contents.files[stream], seed)
        _look_at_strangers(found, stream, contents)
    found.quarantine = sorted(disk.files(directory / QUARANTINE))
    return found


def _agent_id(directory: Path) -> bytes:
    """Whose most of the segments are."""
    counts: dict[bytes, int] = {}
    for name in STREAM_DIRECTORIES.values():
        for path in (directory / name).glob(f"*{SUFFIX}"):
            header = _header(path)
            if header is not None:
                counts[header.agent_id] = counts.get(header.agent_id, 0) + 1
    return max(counts, key=lambda one: counts[one], default=bytes(AGENT_ID_BYTES))


def _header(path: Path) -> Header | None:
    try:
        return decode_header(SystemFilesystem().read(path, HEADER_BYTES))
    except (OSError, NewerVersion):
        return None


def _is_running(directory: Path) -> bool:
    if not (directory / LOCK_NAME).exists():
        return False
    try:
        Lock(directory / LOCK_NAME).release()
    except Refused:
        return True
    except StorageError:
        return False
    return False


def _look_at_stream(found: Look, stream: Stream, files: list[SegmentFile], seed: int) -> None:
    expected = 0
    for file in files:
        data = SystemFilesystem().read(file.path, SEGMENT_READ_BYTES_MAX)
        one = examine(data, seed)
        if file.header is None:
            found.damages.append(Damage(file.path, 0, HEADER_BYTES, "the header is damaged"))
        for bad in one.bad:
            found.damages.append(_damage(file.path, bad))
        row = one.numbered
        found.missing += [(stream, *span) for span in _missing(row, expected or file.first)]
        last = numbers_used(one, file.first - 1)
        good = last_number(row[-1]) if row else file.first - 1
        if good < last:
            found.missing.append((stream, good + 1, last))
        expected = last + 1
        for payload in one.notes:
            note = decode_note(payload)
            if note is not None:
                found.notes[stream] = note
        found.segments.append(
            {
                "stream": stream.name.lower(),
                "file": str(file.path.relative_to(found.directory)),
                "first": file.first,
                "last": last,
                "bytes": file.size,
                "records": sum(frame.kind is Kind.DATA for frame in row),
                "samples": sum(frame.samples for frame in row if frame.kind is Kind.DATA),
                "dictionaries": len(one.schemas),
                "notes": len(one.notes),
                "damaged": len(one.bad),
            }
        )


def _missing(row: list[Frame], expected: int) -> Iterator[tuple[int, int]]:
    for frame in row:
        if frame.first > expected:
            yield expected, frame.first - 1
        expected = max(expected, last_number(frame) + 1)


def _damage(path: Path, bad: Bad) -> Damage:
    torn = bad.fault is Fault.TORN
    kind = "bytes" if bad.kind is None else f"a frame of kind {bad.kind.name.lower()}"
    what = f"{kind}, written by half" if torn else f"{kind}, not as written"
    return Damage(path, bad.offset, bad.size, what, harmless=torn)


def _look_at_strangers(found: Look, stream: Stream, contents: Contents) -> None:
    directory = found.directory / STREAM_DIRECTORIES[stream]
    ours = {file.path for file in contents.files[stream]}
    disk = SystemFilesystem()
    for name, size in sorted(disk.files(directory)):
        path = directory / name
        if name.endswith(SUFFIX) and path not in ours and size:
            found.damages.append(Damage(path, 0, size, "a segment of another spool, or of a newer version"))
    for name in sorted(disk.strangers(directory)):
        if name.endswith(SUFFIX):
            found.damages.append(Damage(directory / name, 0, 0, "not a file"))


# ------------------------------------------------------------ documents


def document(found: Look) -> dict[str, Any]:
    """What there is, with stable keys."""
    streams: dict[str, Any] = {}
    for stream in Stream:
        name = stream.name.lower()
        row = [one for one in found.segments if one["stream"] == name]
        note = found.notes.get(stream)
        base = 0 if note is None else note.bases.get(stream, 0)
        streams[name] = {
            "segments": len(row),
            "bytes": sum(one["bytes"] for one in row),
            "records": sum(one["records"] for one in row),
            "samples": sum(one["samples"] for one in row),
            "first": max(1, row[0]["first"] - base) if row else None,
            "last": row[-1]["last"] - base if row else None,
            "acked_at_least": None if note is None else max(0, note.acked - base),
            "gaps": []
            if note is None
            else [
                {
                    "first": gap.first - base,
                    "last": gap.last - base,
                    "reason": gap.reason.name.lower(),
                    "samples": gap.samples,
                }
                for gap in note.gaps
            ],
        }
    newest = max(found.notes.values(), key=lambda note: note.epoch, default=None)
    return {
        "directory": str(found.directory),
        "format": VERSION,
        "store": None if found.store_id is None else found.store_id.hex(),
        "spool": None if newest is None else newest.spool_id.hex(),
        "forks": 0 if newest is None else newest.epoch,
        "in_use": found.running,
        "streams": streams,
        "segments": found.segments,
        "quarantine": [{"file": name, "bytes": size} for name, size in found.quarantine],
    }


def findings(found: Look) -> dict[str, Any]:
    """What is wrong, with stable keys. `ok` tells nothing of what was lost before: only of the files."""
    return {
        "directory": str(found.directory),
        "ok": not any(not damage.harmless for damage in found.damages),
        "segments": len(found.segments),
        "bytes": sum(one["bytes"] for one in found.segments),
        "damage": [
            {
                "file": str(damage.path.relative_to(found.directory)),
                "offset": damage.offset,
                "bytes": damage.size,
                "what": damage.what,
                "harmless": damage.harmless,
            }
            for damage in found.damages
        ],
        "missing": [
            {"stream": stream.name.lower(), "first": first, "last": last}
            for stream, first, last in found.missing
        ],
    }


def inspect_lines(shown: dict[str, Any]) -> Iterator[str]:
    """For people."""
    yield f"spool       {shown['directory']}{', in use' if shown['in_use'] else ''}"
    yield f"name        {shown['spool'] or '(none yet)'}, {shown['forks']} forks, format {shown['format']}"
    for name, stream in shown["streams"].items():
        if not stream["segments"]:
            yield f"{name:<11} nothing"
            continue
        yield (
            f"{name:<11} {stream['records']} records, {stream['samples']} samples in {stream['segments']} segments"
            f" of {stream['bytes']} bytes; numbers {stream['first']}-{stream['last']}"
            f", acknowledged at least {stream['acked_at_least']}"
        )
        for gap in stream["gaps"]:
            yield f"  gap       {gap['first']}-{gap['last']} {gap['reason']}, {gap['samples']} samples"
    for one in shown["quarantine"]:
        yield f"quarantine  {one['file']} {one['bytes']} bytes"


def verify_lines(shown: dict[str, Any]) -> Iterator[str]:
    """For people."""
    for one in shown["damage"]:
        word = "harmless" if one["harmless"] else "damaged"
        yield f"{word:<11} {one['file']} at {one['offset']}, {one['bytes']} bytes: {one['what']}"
    for one in shown["missing"]:
        yield f"missing     {one['stream']} {one['first']}-{one['last']}: told to the collector as a gap"
    yield f"{'ok' if shown['ok'] else 'failed':<11} {shown['segments']} segments, {shown['bytes']} bytes read"
    if not shown["ok"]:
        yield "next: watchbill-agent spool repair --dry-run"


# ------------------------------------------------------------ repairing


def repair(directory: Path, agent_id: bytes | None = None, *, dry_run: bool) -> list[str]:
    """Take what is bad out of the way; what was done, or would be. Raises Refused while the agent runs."""
    with Lock(directory / LOCK_NAME):
        found = look(directory, agent_id)
        seed = seed_of(found.store_id or b"")
        done: list[str] = []
        for path in dict.fromkeys(damage.path for damage in found.damages):
            damages = [damage for damage in found.damages if damage.path == path]
            whole = any(damage.size == 0 or "another spool" in damage.what for damage in damages)
            done += (
                _set_aside(directory, path, dry_run=dry_run)
                if whole
                else _mend(directory, path, damages, seed, dry_run=dry_run)
            )
        return done


def _set_aside(directory: Path, path: Path, *, dry_run: bool) -> list[str]:
    if not dry_run:
        set_aside(SystemFilesystem(), directory, path)
    return [f"{path.relative_to(directory)}: set aside whole"]


def _mend(directory: Path, path: Path, damages: list[Damage], seed: int, *, dry_run: bool) -> list[str]:
    """Write the good frames of a segment to a new one, which takes its place; the old one is set aside."""
    disk = SystemFilesystem()
    name = path.relative_to(directory)
    said = [
        f"{name}: {'cut' if damage.harmless else 'quarantined'} {damage.size} bytes at {damage.offset}"
        for damage in damages
    ]
    if dry_run:
        return said
    data = disk.read(path, SEGMENT_READ_BYTES_MAX)
    for damage in damages:
        if not damage.harmless:
            bad_name = f"{path.parent.name}-{path.stem}-{damage.offset}.bad"
            bad = data[damage.offset : damage.offset + damage.size]
            quarantine_bytes(disk, directory, bad_name, bad)
    anew = _good(path, data, seed)
    parsed = parse_name(path.name)
    assert parsed is not None, "only segments are mended"
    first, generation = parsed
    target = path.with_name(segment_name(first, generation + 1))
    temporary = target.with_suffix(TEMPORARY)
    handle = disk.create(temporary)
    try:
        disk.write(handle, 0, anew)
        disk.sync(handle)
    finally:
        disk.close(handle)
    disk.rename(temporary, target)
    disk.sync_directory(path.parent)
    set_aside(disk, directory, path)
    return said


def _good(path: Path, data: bytes, seed: int) -> bytes:
    """A segment's good frames behind a header; numbers that damage has used up at its end stay used."""
    found = examine(data, seed)
    pieces = [_sound_header(path, data, found)]
    at = HEADER_BYTES
    for one, ends in scan(data, seed):
        if isinstance(one, Frame):
            pieces.append(data[at:ends])
        at = ends
    parsed = parse_name(path.name)
    assert parsed is not None
    good = last_number(found.numbered[-1]) if found.numbered else parsed[0] - 1
    used = numbers_used(found, parsed[0] - 1)
    if used > good:
        total = max([0, *(one.total for one in found.numbered[-1:]), *(bad.total for bad in found.trailing)])
        before = found.numbered[-1].total if found.numbered else total
        body = GapBody(GapReason.CORRUPT, total - before)
        payload = encode_gap(good + 1, used, body)
        frame = Frame(Kind.GAP, good + 1, total, min(total - before, 2**32 - 1), 0, 0, (), payload)
        pieces.append(encode_frame(frame, seed))
    return b"".join(pieces)


def _sound_header(path: Path, data: bytes, found: Found) -> bytes:
    if decode_header(data) is not None:
        return data[:HEADER_BYTES]
    # From a neighbour: every segment of a store has the same ids.
    parsed = parse_name(path.name)
    assert parsed is not None
    for other in sorted(path.parent.parent.glob(f"*/*{SUFFIX}")):
        header = _header(other)
        if header is not None:
            first = found.numbered[0] if found.numbered else None
            before = 0 if first is None else first.total - first.samples
            stream = next(int(s) for s, name in STREAM_DIRECTORIES.items() if name == path.parent.name)
            return encode_header(
                Header(
                    stream,
                    header.store_id,
                    header.agent_id,
                    parsed[0],
                    before,
                    header.wall_ms,
                    header.boottime_ms,
                    header.boot_id,
                )
            )
    return data[:HEADER_BYTES]


# ------------------------------------------------------------ before imaging


def forget(directory: Path) -> bool:
    """Remove a spool, before an image is made of this host. False when there was none. Raises OSError."""
    found = False
    for name in (*STREAM_DIRECTORIES.values(), QUARANTINE):
        place = directory / name
        if not place.is_dir():
            continue
        found = True
        for path in place.iterdir():
            path.unlink()
        place.rmdir()
    (directory / LOCK_NAME).unlink(missing_ok=True)
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
    return found
