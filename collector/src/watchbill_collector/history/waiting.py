"""What is committed and not in a day file yet, as it is known in memory.

Readings wait here as pieces until there are enough for a mini-block; then only the mini-block's whereabouts
stay. The writer thread changes this, readers take snapshots, and one lock keeps the two apart for the time of
copying a few references: arrays never change once they are here.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from watchbill_collector.history.tail import MiniRow
from watchbill_collector.history.values import Piece

MINI_TICKS = 30
"""So many ticks make a mini-block,"""
MINI_AGE_S = 300.0
"""or so long a wait: 20 ticks at 15 s,"""
AGED_LOOK_S = 2.0
"""How often all owners are looked at for their age."""
GOLDEN = 0.6180339887
"""Multiples of it, modulo 1, are spread evenly however many there are."""
MINI_BYTES = 2 << 20
"""or so many bytes of one owner."""
PENDING_BYTES_MAX = 512 << 20
"""Above this the owners with the most are made into mini-blocks at once."""


@dataclass(slots=True)
class _Owner:
    """Readings of one sender that wait, oldest first."""

    pieces: list[Piece] = field(default_factory=list)
    raws: list[int] = field(default_factory=list)  # The raw row of each piece.
    ticks: int = 0
    bytes: int = 0
    since_s: float = 0.0
    share: float = 1.0
    """How much of a full wait this one is."""


class Waiting:
    """Pieces by owner, mini-blocks by hour and owner. Owners are source numbers, or MIXED."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owners: dict[int, _Owner] = {}
        self._minis: dict[int, dict[int, list[MiniRow]]] = {}
        self._due: set[int] = set()
        self._begun: set[int] = set()
        self._aged_look_s = 0.0
        self.bytes = 0
        """Bytes of values that wait in memory."""

    # The writer's.

    def add(self, pieces: Iterable[tuple[int, Piece]], raw: int, now_s: float) -> None:
        """The pieces of one commit, with their owners."""
        total = 0
        with self._lock:
            for owner, piece in pieces:
                state = self._owners.get(owner)
                if state is None:
                    state = self._owners[owner] = _Owner(since_s=now_s, share=self._share(owner))
                state.pieces.append(piece)
                state.raws.append(raw)
                size = piece.values.nbytes
                total += size
                state.ticks += len(piece.times)
                state.bytes += size
                if state.ticks >= MINI_TICKS * state.share or state.bytes >= MINI_BYTES:
                    self._due.add(owner)
            self.bytes += total

    def _share(self, owner: int) -> float:
        """The first wait of each owner is cut to another length, so that their turns stay spread out, however many
        began together: half of the memory, and no minute in which a whole fleet's mini-blocks are made."""
        if owner in self._begun:
            return 1.0
        self._begun.add(owner)
        return 1.0 - owner * GOLDEN % 1.0

    def due(self, now_s: float) -> list[int]:
        """Owners whose readings should become mini-blocks."""
        if now_s >= self._aged_look_s:
            self._aged_look_s = now_s + AGED_LOOK_S
            self._due |= {
                owner
                for owner, state in self._owners.items()
                if state.pieces and now_s - state.since_s >= MINI_AGE_S * state.share
            }
        if self.bytes > PENDING_BYTES_MAX:
            heaviest = sorted(self._owners, key=lambda owner: -self._owners[owner].bytes)
            self._due |= set(heaviest[: 1 + len(heaviest) // 4])
        return list(self._due)

    def take(self, owner: int) -> list[Piece]:
        """All that waits of an owner; it stays until `flushed`."""
        state = self._owners.get(owner)
        return list(state.pieces) if state else []

    def owners(self) -> list[int]:
        """Owners of which something waits."""
        return [owner for owner, state in self._owners.items() if state.pieces]

    def flushed(self, owners: Sequence[int], rows: Iterable[tuple[int, MiniRow]]) -> None:
        """These owners' readings are in these mini-blocks now."""
        with self._lock:
            for owner in owners:
                state = self._owners.pop(owner, None)
                self.bytes -= state.bytes if state else 0
                self._due.discard(owner)
            for owner, row in rows:
                self._minis.setdefault(row.hour, {}).setdefault(owner, []).append(row)

    def begins_before(self, owner: int, time_ms: int) -> bool:
        """Whether something up to this time waits of an owner."""
        state = self._owners.get(owner)
        return state is not None and any(piece.times[0] <= time_ms for piece in state.pieces)

    def oldest_raw(self) -> int | None:
        """The oldest raw row that is still needed."""
        return min((state.raws[0] for state in self._owners.values() if state.raws), default=None)

    def hours(self) -> list[int]:
        """Hours that have mini-blocks, oldest first."""
        return sorted(self._minis)

    def minis_of(self, hour: int) -> dict[int, list[MiniRow]]:
        """The mini-blocks of an hour by owner."""
        return self._minis.get(hour, {})

    def merged(self, hour: int, rows: dict[int, list[MiniRow]]) -> None:
        """These are in a day file now."""
        with self._lock:
            of_hour = self._minis.get(hour, {})
            for owner, gone in rows.items():
                numbers = {row.id for row in gone}
                left = [row for row in of_hour.get(owner, []) if row.id not in numbers]
                if left:
                    of_hour[owner] = left
                else:
                    of_hour.pop(owner, None)
            if not of_hour:
                self._minis.pop(hour, None)

    # Anybody's.

    def snapshot(
        self, owners: Iterable[int], first_hour: int, last_hour: int
    ) -> tuple[list[Piece], list[MiniRow]]:
        """What waits of some owners: all pieces, and the mini-blocks of some hours in the order made."""
        pieces: list[Piece] = []
        rows: list[MiniRow] = []
        wanted = list(owners)
        with self._lock:
            for owner in wanted:
                state = self._owners.get(owner)
                if state:
                    pieces += state.pieces
            for hour, of_hour in self._minis.items():
                if first_hour <= hour <= last_hour:
                    for owner in wanted:
                        rows += of_hour.get(owner, ())
        rows.sort(key=lambda row: row.id)
        return pieces, rows

    @property
    def minis(self) -> int:
        """How many mini-blocks there are."""
        with self._lock:
            return sum(len(rows) for of_hour in self._minis.values() for rows in of_hour.values())
