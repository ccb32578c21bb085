"""Which snapshots a repository was seen to hold, and what vanished from it when.

The host tells what is there; it cannot take back what it told before. Whether a snapshot was allowed to leave is
judged later, by the job's retention; here it is only written down what left, and how old it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from watchbill.backups.record import Snapshots
from watchbill_collector.backups.runs import FUTURE_MS

VANISHINGS_KEPT: Final = 8
"""Of a repository's vanishings: beyond it the one that left at the greatest age is forgotten, which is the one that
retention explains best."""
IDS_NAMED_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Vanishing:
    """Snapshots that one observation did not find any more. `youngest_ms` is the time of the youngest of them, `ids`
    are some of the youngest; `left` are still there. `newest`: nothing newer was there instead."""

    at_ms: int
    count: int
    youngest_ms: int
    ids: tuple[str, ...]
    left: int
    newest: bool
    replaced: bool = False

    @property
    def age_ms(self) -> int:
        """Of the youngest, when it was missed."""
        return self.at_ms - self.youngest_ms


@dataclass(slots=True)
class Ledger:
    """One repository's. `times` are of the snapshots that are there, by id; `digest` is of all of them.

    `seen` counts observations. `future_ms` is the time of a snapshot that had not come yet when it was seen, 0 for
    none. `unlisted`: the newest list of ids did not come.
    """

    at_ms: int = 0
    seen: int = 0
    count: int = 0
    oldest_ms: int = 0
    newest_ms: int = 0
    digest: str = ""
    future_ms: int = 0
    unlisted: bool = False
    listed: bool = False
    times: dict[str, int] = field(default_factory=dict)
    vanishings: list[Vanishing] = field(default_factory=list)
    _parts: dict[int, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    _parts_digest: str = ""

    def seen_at(self, at_ms: int, found: Snapshots, shift_ms: int, *, replaced: bool = False) -> None:
        """Take in what an observation found. One that is older than the newest changes nothing."""
        if at_ms < self.at_ms:
            return
        if at_ms > self.at_ms:
            self.seen += 1
        self.at_ms = at_ms
        self.count = found.count
        self.oldest_ms = found.oldest_ms + shift_ms if found.oldest_ms > 0 else 0
        self.newest_ms = found.newest_ms + shift_ms if found.newest_ms > 0 else 0
        self.future_ms = self.newest_ms if self.newest_ms > at_ms + FUTURE_MS else 0
        if self.listed and found.ids_digest == self.digest:
            self.unlisted = False
            return
        whole = self._whole(found)
        if whole is None:
            self.unlisted = True
            return
        self._hold({name: time_ms + shift_ms for name, time_ms in whole}, at_ms, replaced=replaced)
        self.digest = found.ids_digest
        self.listed, self.unlisted = True, False

    def newest_not_after(self, at_ms: int) -> int:
        """The time of the newest snapshot that is no later than this; 0 if none is known."""
        return max((time_ms for time_ms in self.times.values() if time_ms <= at_ms), default=0)

    def _whole(self, found: Snapshots) -> list[tuple[str, int]] | None:
        """The list, once all of its parts are here."""
        if not found.count:
            return []
        if not found.parts:
            return None
        if found.parts == 1:
            return list(found.listed)
        if found.ids_digest != self._parts_digest:
            self._parts, self._parts_digest = {}, found.ids_digest
        self._parts[found.part] = found.listed
        if len(self._parts) < found.parts:
            return None
        whole = [one for _, part in sorted(self._parts.items()) for one in part]
        self._parts = {}
        return whole

    def _hold(self, times: dict[str, int], at_ms: int, *, replaced: bool) -> None:
        """Compare with what was there, then hold this instead. Times stay as they were first told."""
        before = self.times
        if not self.listed:
            self.times = times
            return
        gone = before.keys() - times.keys()
        if len(times) < self.count:
            # Only the newest are listed: what is older than these may still be there.
            oldest_ms = min(times.values(), default=0)
            gone = {name for name in gone if before[name] > oldest_ms}
        self.times = {name: before.get(name, time_ms) for name, time_ms in times.items()}
        self.vanishings = [one for one in self.vanishings if not times.keys() >= set(one.ids)]
        if gone:
            self._miss(gone, before, at_ms, replaced=replaced)

    def _miss(self, gone: set[str], before: Mapping[str, int], at_ms: int, *, replaced: bool) -> None:
        youngest_first = sorted(gone, key=lambda name: (-before[name], name))
        youngest_ms = before[youngest_first[0]]
        self.vanishings.append(
            Vanishing(
                at_ms=at_ms,
                count=len(gone),
                youngest_ms=youngest_ms,
                ids=tuple(youngest_first[:IDS_NAMED_MAX]),
                left=self.count,
                newest=max(self.times.values(), default=0) < youngest_ms <= at_ms,
                replaced=replaced,
            )
        )
        if len(self.vanishings) > VANISHINGS_KEPT:
            self.vanishings.remove(max(self.vanishings, key=lambda one: (not one.newest, one.age_ms)))
