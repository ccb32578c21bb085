"""What the collector told us of its audit: some heads, on disk, so that nobody can write its past anew unnoticed.

The collector's audit is a chain of hashes, and its newest row, the head, comes with every acknowledgement that brings
another one. We keep the newest, and of the older ones some that lie ever further apart, KEPT in all; all of them are
shown at every Hello, and the newest in a beat. A head that the collector's audit does not contain any more is its
alarm, and a copy stays here in `audit-heads.json` for whoever comes to look.

Written at most every SAVE_EVERY_S and at the end: the head of the last minute may be lost with the power. On an edge
box, whose flash wears out, every SAVE_EVERY_EDGE_S: a site where somebody does something every minute would cost it
more writing than all its readings.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from watchbill.clock import Clock
from watchbill.errors import StorageError
from watchbill.files import FileMissing, UnreadableFile, read_bounded, write_atomic
from watchbill.limits import AUDIT_HEADS_MAX
from watchbill.logs import fields
from watchbill.protocol.frames import AuditHead

log = logging.getLogger(__name__)

FILE_NAME = "audit-heads.json"
FILE_BYTES_MAX = 64 * 1024
VERSION = 1
KEPT = AUDIT_HEADS_MAX
SAVE_EVERY_S = 60.0
SAVE_EVERY_EDGE_S = 3_600.0
SHOW_EVERY_S = 30.0
"""An agent that sends readings all the time sends no beats: then one goes for a new head, this often at most."""
HASH_BYTES = 32
SEQ_MAX = 2**62


@dataclass(frozen=True, slots=True)
class _Kept:
    head: AuditHead
    told_ms: int


class AuditHeads:
    """The heads, oldest first; written at most every `save_every_s`."""

    def __init__(self, directory: Path, clock: Clock, save_every_s: float = SAVE_EVERY_S) -> None:
        self._save_every_s = save_every_s
        self._path = directory / FILE_NAME
        self._clock = clock
        self._kept = _load(self._path)
        self._saved_s = clock.monotonic_s() - save_every_s
        self._changed = False
        self._shown_seq = 0
        self._shown_s = 0.0

    def told(self, head: AuditHead) -> None:
        """The collector said that this is its newest row."""
        if not 0 < head.seq < SEQ_MAX or len(head.hash) != HASH_BYTES:
            return
        if self._kept and self._kept[-1].head == head:
            return
        if any(one.head == head for one in self._kept):
            return
        # A lower number than we hold is kept beside what we hold: it is what will be asked about.
        self._kept.append(_Kept(head, self._clock.wall_ms()))
        if len(self._kept) > KEPT:
            self._thin()
        self._changed = True

    def _thin(self) -> None:
        """Drop the one that is missed least: whose neighbours lie closest, measured by how long ago it was told."""
        now_ms = self._clock.wall_ms()
        inner = range(1, len(self._kept) - 1)
        ages = {place: max(1, now_ms - self._kept[place].told_ms) for place in inner}
        del self._kept[min(inner, key=lambda place: _span(self._kept, place) / ages[place])]

    def every(self) -> tuple[AuditHead, ...]:
        """For Hello."""
        self._shown_seq = self._kept[-1].head.seq if self._kept else 0
        self._shown_s = self._clock.monotonic_s()
        return tuple(one.head for one in self._kept)

    def unshown(self) -> AuditHead | None:
        """The newest, once after it was told: for a beat."""
        if not self._kept or self._kept[-1].head.seq == self._shown_seq:
            return None
        self._shown_seq = self._kept[-1].head.seq
        self._shown_s = self._clock.monotonic_s()
        return self._kept[-1].head

    @property
    def show_due(self) -> bool:
        """Whether the newest was not shown for so long that a beat should go for it alone."""
        waits = bool(self._kept) and self._kept[-1].head.seq != self._shown_seq
        return waits and self._clock.monotonic_s() - self._shown_s >= SHOW_EVERY_S

    @property
    def due(self) -> bool:
        """Whether it is time to `save`."""
        return self._changed and self._clock.monotonic_s() - self._saved_s >= self._save_every_s

    def save(self) -> None:
        """Write the file, if there is something new. A disk that refuses is logged and tried again later. Blocks."""
        if not self._changed:
            return
        self._saved_s = self._clock.monotonic_s()
        kept = list(self._kept)
        try:
            write_atomic(self._path, _serialize(kept))
        except StorageError as exc:
            log.warning("what the collector told of its audit is not on disk", extra=fields(reason=exc))
        else:
            self._changed = self._kept != kept


def _span(kept: Sequence[_Kept], place: int) -> int:
    return max(1, kept[place + 1].told_ms - kept[place - 1].told_ms)


def _serialize(kept: Sequence[_Kept]) -> bytes:
    heads = [{"seq": one.head.seq, "hash": one.head.hash.hex(), "told_ms": one.told_ms} for one in kept]
    return json.dumps({"version": VERSION, "heads": heads}, indent=1).encode() + b"\n"


def _load(path: Path) -> list[_Kept]:
    """What is there; nothing when it cannot be read, which is logged and no error."""
    try:
        return parse(read_bounded(path, FILE_BYTES_MAX))
    except FileMissing:
        return []
    except (UnreadableFile, ValueError, RecursionError) as exc:
        log.warning("what was known of the collector's audit is lost", extra=fields(path=path, reason=exc))
        return []


def parse(content: bytes) -> list[_Kept]:
    """From JSON. Raises ValueError, which says what is wrong."""
    document = json.loads(content)
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ValueError("not a file of this version")
    heads = document.get("heads")
    if not isinstance(heads, list):
        raise ValueError("it has no heads")
    return [_parse_one(one) for one in heads[-KEPT:]]


def _parse_one(one: object) -> _Kept:
    if not isinstance(one, dict):
        raise ValueError("a head is no table")
    seq, text, told_ms = one.get("seq"), one.get("hash"), one.get("told_ms")
    if not isinstance(seq, int) or not isinstance(text, str) or not isinstance(told_ms, int):
        raise ValueError("a head without its number or hash")
    found = bytes.fromhex(text)
    if len(found) != HASH_BYTES or not 0 < seq < SEQ_MAX:
        raise ValueError("a head that cannot be")
    return _Kept(AuditHead(seq, found), told_ms)
