"""Finding out at the start what a spool's directory holds.

    DIR/bulk/*.seg  DIR/crit/*.seg  DIR/crit/spare-N.free  DIR/quarantine/*  DIR/spool.lock

Nothing here refuses to start, and nothing that can be read is thrown away:

- a segment of another agent or another store (a copied directory, a clone's files) goes to quarantine, as it is,
  and is never sent;
- a segment with a damaged header is told from its frames, whose checksums only this store can make;
- something under a segment's name that is no file goes to quarantine too;
- temporary files are what a crash left of a rewriting, whose original is still there.
"""

import contextlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from watchbill.limits import MIB
from watchbill.logs import fields
from watchbill.protocol.frames import Stream
from watchbill_agent.spool.filesystem import Filesystem
from watchbill_agent.spool.format import (
    HEADER_BYTES,
    Header,
    NewerVersion,
    decode_header,
    seed_of,
)
from watchbill_agent.spool.reserve import SPARE
from watchbill_agent.spool.segment import SUFFIX, examine, numbers_used, parse_name
from watchbill_agent.spool.segment_reader import SEGMENT_READ_BYTES_MAX

log = logging.getLogger("watchbill.spool")

QUARANTINE = "quarantine"
QUARANTINE_BYTES_MAX = 16 * MIB
"""What is set aside to be looked at; beyond it the oldest goes."""
STREAM_DIRECTORIES = {Stream.CRIT: "crit", Stream.BULK: "bulk"}


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """One file of a stream; `header` is None when it is damaged and the frames are ours all the same."""

    path: Path
    first: int
    generation: int
    size: int
    header: Header | None


@dataclass(frozen=True, slots=True)
class Contents:
    """What a directory holds. `store_id` is None when there is no segment of ours."""

    store_id: bytes | None
    files: dict[Stream, list[SegmentFile]]
    spares: int
    quarantined: int


def find(disk: Filesystem, root: Path, agent_id: bytes, *, change: bool = True) -> Contents:
    """Look at everything, and set aside what is not ours; with `change=False` only look."""
    seen: dict[Stream, list[SegmentFile]] = {}
    odd: list[Path] = []
    for stream, name in STREAM_DIRECTORIES.items():
        directory = root / name
        seen[stream], strange = _segments(disk, directory, change=change)
        odd += strange
    store_id = _store(one for row in seen.values() for one in row if _is_of(one.header, agent_id))
    kept: dict[Stream, list[SegmentFile]] = {stream: [] for stream in seen}
    for stream, row in seen.items():
        for one in row:
            verdict = _verdict(disk, one, stream, store_id, agent_id)
            if verdict == "ours":
                kept[stream].append(one)
            elif verdict == "empty":
                if change:
                    with contextlib.suppress(OSError):
                        disk.unlink(one.path)
            else:
                odd.append(one.path)
    for row in kept.values():
        for one in _superseded(disk, row, seed_of(store_id or b"")):
            row.remove(one)
            if change:
                with contextlib.suppress(OSError):
                    disk.unlink(one.path)
    if change:
        for path in odd:
            set_aside(disk, root, path)
        trim_quarantine(disk, root)
    spares = _spares(disk, root / STREAM_DIRECTORIES[Stream.CRIT], change=change)
    return Contents(store_id, kept, spares, len(odd))


def _segments(disk: Filesystem, directory: Path, *, change: bool) -> tuple[list[SegmentFile], list[Path]]:
    files: list[SegmentFile] = []
    odd: list[Path] = [directory / name for name in disk.strangers(directory) if name.endswith(SUFFIX)]
    for name, size in disk.files(directory):
        path = directory / name
        parsed = parse_name(name)
        if parsed is not None:
            try:
                header = decode_header(disk.read(path, HEADER_BYTES))
            except (NewerVersion, OSError) as exc:
                log.warning("a segment that cannot be used", extra=fields(path=path, reason=exc))
                odd.append(path)
                continue
            files.append(SegmentFile(path, *parsed, size, header))
        elif name.endswith(".tmp") and change:
            with contextlib.suppress(OSError):
                disk.unlink(path)
        elif name.endswith(SUFFIX):
            odd.append(path)
    files.sort(key=lambda one: (one.first, one.generation))
    return files, odd


def _superseded(disk: Filesystem, files: list[SegmentFile], seed: int) -> list[SegmentFile]:
    """Files whose records were written anew, because a sync of theirs had failed: whatever begins inside a file of
    a higher generation. (What begins before it ends where it begins, as every segment does.)"""
    gone: list[SegmentFile] = []
    for anew in [one for one in files if one.generation]:
        try:
            last = numbers_used(examine(disk.read(anew.path, SEGMENT_READ_BYTES_MAX), seed), anew.first)
        except OSError:
            continue
        gone += [
            one
            for one in files
            if one.generation < anew.generation and anew.first <= one.first <= last and one not in gone
        ]
    return gone


def _is_of(header: Header | None, agent_id: bytes) -> bool:
    return header is not None and header.agent_id == agent_id


def _store(files: Iterable[SegmentFile]) -> bytes | None:
    """The store that was written to last."""
    newest = max(
        (one.header for one in files if one.header is not None),
        key=lambda header: (header.wall_ms, header.first),
        default=None,
    )
    return None if newest is None else newest.store_id


def _verdict(
    disk: Filesystem, one: SegmentFile, stream: Stream, store_id: bytes | None, agent_id: bytes
) -> str:
    header = one.header
    if header is not None:
        ours = (
            header.store_id == store_id
            and header.agent_id == agent_id
            and header.stream == int(stream)
            and header.first == one.first
        )
        return "ours" if ours else "foreign"
    try:
        data = disk.read(one.path, SEGMENT_READ_BYTES_MAX)
    except OSError:
        return "foreign"
    if len(data) < HEADER_BYTES or not any(data):
        return "empty"  # A crash between making the file and writing it.
    if store_id is None:
        return "foreign"
    found = examine(data, seed_of(store_id))
    return "ours" if found.numbered or found.notes else "foreign"


def _spares(disk: Filesystem, directory: Path, *, change: bool) -> int:
    """Spare files have consecutive numbers; what is beyond a hole in them is made anew."""
    names = {name for name, _ in disk.files(directory)}
    count = 0
    while (name := SPARE.format(count)) in names:
        if change and not _emptied(disk, directory / name):
            break
        count += 1
    return count


def _emptied(disk: Filesystem, path: Path) -> bool:
    """Make sure that a spare file is zeros; False when the disk refuses.

    A power cut may keep what was written to a segment and lose the name it got. Its frames are good, and were promised
    to nobody: in the next segment they would be taken for what stands there.
    """
    try:
        data = disk.read(path, SEGMENT_READ_BYTES_MAX)
        if data.count(0) == len(data):
            return True
        handle = disk.open(path)
        try:
            disk.write(handle, 0, bytes(len(data)))
            disk.sync(handle)
        finally:
            disk.close(handle)
    except OSError as exc:
        log.warning("a spare file of the spool cannot be emptied", extra=fields(path=path, reason=exc))
        return False
    return True


def set_aside(disk: Filesystem, root: Path, path: Path) -> None:
    """Move something to the quarantine. A disk that refuses even that is left as it is."""
    target = root / QUARANTINE / f"{time.time_ns():019d}-{path.parent.name}-{path.name}"
    try:
        disk.make_directory(root / QUARANTINE)
        disk.rename(path, target)
        log.warning("set aside", extra=fields(path=path, to=target))
    except OSError as exc:
        log.warning("could not be set aside", extra=fields(path=path, reason=exc))


def quarantine_bytes(disk: Filesystem, root: Path, name: str, data: bytes) -> None:
    """Keep a copy of bad bytes for whoever wants to look at them, if the disk has room."""
    target = root / QUARANTINE / name
    try:
        disk.make_directory(root / QUARANTINE)
        if any(known == name for known, _ in disk.files(root / QUARANTINE)):
            return
        handle = disk.create(target)
        try:
            disk.write(handle, 0, data)
        finally:
            disk.close(handle)
    except OSError as exc:
        log.debug("bad bytes were not copied", extra=fields(path=target, reason=exc))
    trim_quarantine(disk, root)


def trim_quarantine(disk: Filesystem, root: Path) -> None:
    """The oldest things set aside go while there is too much of it."""
    files = sorted(disk.files(root / QUARANTINE))
    total = sum(size for _, size in files)
    for name, size in files:
        if total <= QUARANTINE_BYTES_MAX:
            return
        with contextlib.suppress(OSError):
            disk.unlink(root / QUARANTINE / name)
        total -= size
