"""Lists of series: what a sender's readings are columns of.

A list is interned: whoever brings the same series in the same order gets the same `SeriesList`, so that a
thousand readings share one array, and files name a list by a number.
"""

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from watchbill_collector.labels import Indices
from watchbill_collector.series import SeriesIds, SeriesTable

MIXED = -1
"""The owner of a list whose series are of several sources."""


@dataclass(frozen=True, slots=True, eq=False)
class SeriesList:
    """Distinct series in order. `take` picks them from readings that name one twice (the first counts)."""

    number: int
    ids: SeriesIds
    owner: int
    take: Indices | None = None


class ListBook:
    """Every list in use, by number, by content and by owner. Any thread may use it."""

    def __init__(self, table: SeriesTable) -> None:
        self._table = table
        self._lock = threading.Lock()
        self._next = 0
        self.epoch = 0
        """Grows before numbers are forgotten: a query that sees it change begins again."""
        self._lists: dict[int, SeriesList] = {}
        self._by_content: dict[bytes, SeriesList] = {}
        self._by_array: dict[int, tuple[SeriesIds, SeriesList]] = {}
        self._of_owner: dict[int, dict[int, SeriesList]] = {}

    def __len__(self) -> int:
        return len(self._lists)

    def __getitem__(self, number: int) -> SeriesList:
        return self._lists[number]

    def of(self, ids: SeriesIds) -> SeriesList:
        """The list with these series; a dictionary look-up when the array object is known."""
        known = self._by_array.get(id(ids))
        if known is not None and known[0] is ids:
            return known[1]
        digest = hashlib.blake2b(ids.tobytes(), digest_size=16).digest()
        with self._lock:
            found = self._by_content.get(digest)
            if found is None:
                found = self._new(digest, ids)
            # One array a list: the newest, which is what its sender goes on using.
            self._by_array = self._by_array if len(self._by_array) < 2 * len(self._lists) + 16 else {}
            self._by_array[id(ids)] = (ids, found)
        return found

    def _new(self, digest: bytes, ids: SeriesIds) -> SeriesList:
        distinct, first = np.unique(ids, return_index=True)
        take = None
        if len(distinct) < len(ids):
            take = np.sort(first)
            ids = ids[take]
        sources = self._table.sources_of(ids)
        owner = int(sources[0]) if len(ids) and bool((sources == sources[0]).all()) else MIXED
        made = SeriesList(self._next, ids, owner, take)
        self._next += 1
        self._lists[made.number] = made
        self._by_content[digest] = made
        self._of_owner.setdefault(owner, {})[made.number] = made
        return made

    def owned_by(self, owners: Iterable[int]) -> list[SeriesList]:
        """All lists of some owners, and the mixed ones, which may hold anybody's series."""
        with self._lock:
            return [each for owner in {*owners, MIXED} for each in self._of_owner.get(owner, {}).values()]

    def keep(self, numbers: set[int]) -> None:
        """Forget every list but these."""
        with self._lock:
            gone = [number for number in self._lists if number not in numbers]
            for number in gone:
                owner = self._lists.pop(number).owner
                del self._of_owner[owner][number]
                if not self._of_owner[owner]:
                    del self._of_owner[owner]
            if gone:
                self._by_content = {d: each for d, each in self._by_content.items() if each.number in numbers}
                self._by_array = {
                    at: pair for at, pair in self._by_array.items() if pair[1].number in numbers
                }
