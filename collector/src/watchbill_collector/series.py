"""Which series exist: identities as integers, and the index that selectors search.

A series is a *source* (the labels that all series of one sender share: instance, job, the host's labels) and
a *key* (metric name and the labels of its own). A thousand hosts that send the same 300 series have 1,300
label sets between them, not 300,000. `SeriesTable` numbers all three; the numbers live as long as the
process, storage writes text. Series that the collector makes itself (recording rules, ALERTS) have the empty
source.

A label that the source has and the key too: the source's wins and the key's is renamed `exported_<name>`, as
Prometheus does with target labels; `key_for_source` does that renaming. Two *different* sources may well use
one name, one as a source label and the other as a key label: lookups look at both.

What a series costs: 8 bytes for its two numbers and 8 for the way back from (source, key) to it. A selector
is decided on the distinct sources and keys, then spread over the series by two array look-ups. Series are
only ever added, so an answer that was found once is only continued with what has been added since.

Threads: any thread may read at any time. Whatever adds takes the table's lock; readers see either the time
before or the time after, since arrays are only appended to and numbers are published last.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from watchbill_collector.labels import METRIC_NAME, STRINGS, Codes, Indices, LabelFrame
from watchbill_collector.labelsets import Growing, LabelSets
from watchbill_collector.matching import InvalidRegex, Matcher, MatchOp

__all__ = [
    "NO_SOURCE",
    "STALE",
    "STALE_BITS",
    "InvalidRegex",
    "MatchOp",
    "Matcher",
    "SeriesIds",
    "SeriesTable",
    "Ticks",
    "Times",
    "Values",
    "is_stale",
]

SeriesIds = npt.NDArray[np.uint32]
Times = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

STALE_BITS = 0x7FF0000000000002
"""Prometheus' stale marker, a signalling NaN: compare through a uint64 view, never by arithmetic."""
STALE = np.array([STALE_BITS], np.uint64).view(np.float64)[0]

NO_SOURCE = 0
"""The source without labels."""

SELECTIONS_CACHED_MAX = 1_024
"""Answers to selectors kept; the least recently used goes."""
FRAMES_CACHED_MAX = 64
"""Label frames kept, for selections that are asked for again unchanged."""
METADATA_MAX = 50_000
"""Metric names whose type and help are kept; later ones go without."""


def is_stale(values: Values) -> npt.NDArray[np.bool_]:
    """Which values are stale markers."""
    stale: npt.NDArray[np.bool_] = values.view(np.uint64) == np.uint64(STALE_BITS)
    return stale


@dataclass(frozen=True, slots=True, eq=False)
class Ticks:
    """k readings of n series, taken together: what ingest hands to history and head.

    `times_ms` is UTC milliseconds, ascending; `values[tick, series]`; a stale marker has STALE_BITS.
    `series` is the same array object as long as the sender's dictionary is the same.
    """

    series: SeriesIds
    times_ms: Times
    values: Values

    def __post_init__(self) -> None:
        assert self.values.shape == (len(self.times_ms), len(self.series))


@dataclass(frozen=True, slots=True, eq=False)
class _OfSource:
    """The way from a source's keys (sorted) to its series."""

    keys: npt.NDArray[np.int32]
    ids: SeriesIds


class SeriesTable:
    """All series of the process: labels to numbers, numbers to labels, and selectors."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._sources = LabelSets()
        self._keys = LabelSets()
        self._source: Growing[np.int32] = Growing(np.int32)
        self._key: Growing[np.int32] = Growing(np.int32)
        self._of_source: dict[int, _OfSource] = {}
        self._own: Growing[np.int64] = Growing(np.int64)  # By key: its series without a source, or -1.
        self._selections: OrderedDict[tuple[Matcher, ...], tuple[int, SeriesIds]] = OrderedDict()
        self._frames: OrderedDict[int, tuple[SeriesIds, LabelFrame]] = OrderedDict()
        self.metadata: dict[str, tuple[str, str]] = {}
        """Metric name -> (type, help), as senders told it: `counter`, `gauge`, `untyped`, ..."""

    def __len__(self) -> int:
        return len(self._key)

    @property
    def generation(self) -> int:
        """Grows whenever a series is added."""
        return len(self._key)

    # Making series.

    def source(self, labels: Mapping[str, str]) -> int:
        """The number of a sender's shared labels."""
        with self._lock:
            return self._sources.number(labels)

    def key(self, name: str, labels: Mapping[str, str]) -> int:
        """The number of a metric name with labels of its own. An empty name is none at all."""
        with self._lock:
            return self._keys.number({**labels, METRIC_NAME: name})

    def key_of(self, labels: Mapping[str, str]) -> int:
        """The number of a key given whole, `__name__` among its labels."""
        with self._lock:
            return self._keys.number(labels)

    def key_for_source(self, source: int, name: str, labels: Mapping[str, str]) -> int:
        """As `key`, but a label that the source has too is renamed `exported_<name>`, as often as it
        takes.
        """
        taken = self._sources.labels(source)
        if taken.keys().isdisjoint(labels):
            return self.key(name, labels)
        free = {label: value for label, value in labels.items() if label not in taken}
        for label in sorted(labels.keys() & taken.keys()):
            renamed = f"exported_{label}"
            while renamed in taken or renamed in free:
                renamed = f"exported_{renamed}"
            free[renamed] = labels[label]
        return self.key(name, free)

    def series(self, source: int, keys: Sequence[int] | npt.NDArray[np.int32]) -> SeriesIds:
        """The series of a source under some keys, in the order of `keys`; made on first sight.

        Asking again costs microseconds. A key given twice gives the same series twice.
        """
        wanted = np.asarray(keys, np.int32)
        with self._lock:
            ids = self._find(source, wanted)
            if (ids < 0).any():
                self._add(source, np.unique(wanted[ids < 0]))
                ids = self._find(source, wanted)
        return ids.astype(np.uint32)

    def series_of(self, labels: Mapping[str, str]) -> int:
        """The series of the collector itself with these labels, `__name__` among them."""
        with self._lock:
            key = self._keys.number(labels)
            if key < len(self._own):
                found = int(self._own.view[key])
                if found >= 0:
                    return found
            return int(self.series(NO_SOURCE, [key])[0])

    def series_of_frame(self, frame: LabelFrame) -> SeriesIds:
        """The collector's own series for every row of a frame (`__name__` among its columns), all at once: fifty
        thousand new ones take a tenth of a second, where `series_of` would take five.
        """
        with self._lock:
            return self.series(NO_SOURCE, self._keys.numbers(frame))

    def describe(self, name: str, kind: str, text: str) -> None:
        """Note a metric's type and help; what was told last stands."""
        if name in self.metadata or len(self.metadata) < METADATA_MAX:
            self.metadata[name] = (kind, text)

    def _find(self, source: int, keys: npt.NDArray[np.int32]) -> Indices:
        """Series ids, -1 where there is none yet."""
        if source == NO_SOURCE:
            self._own.extend(np.full(len(self._keys) - len(self._own), -1, np.int64))
            return self._own.view[keys]
        known = self._of_source.get(source)
        if known is None:
            return np.full(len(keys), -1, np.int64)
        at = np.minimum(np.searchsorted(known.keys, keys), len(known.keys) - 1)
        return np.where(known.keys[at] == keys, known.ids[at].astype(np.int64), -1)

    def _add(self, source: int, keys: npt.NDArray[np.int32]) -> None:
        ids = np.arange(len(self), len(self) + len(keys))
        if source == NO_SOURCE:
            self._own.view[keys] = ids
        else:
            known = self._of_source.get(source)
            if known is not None:
                keys_all, ids_all = np.concatenate([known.keys, keys]), np.concatenate([known.ids, ids])
                order = np.argsort(keys_all)
                self._of_source[source] = _OfSource(keys_all[order], ids_all[order].astype(np.uint32))
            else:
                self._of_source[source] = _OfSource(keys, ids.astype(np.uint32))
        self._source.extend(np.full(len(keys), source, np.int32))
        self._key.extend(keys)  # Last: its length is what readers take for the number of series.

    # Looking at series.

    def sources_of(self, ids: SeriesIds) -> npt.NDArray[np.int32]:
        """The source of each series."""
        return self._source.view[ids]

    def keys_of(self, ids: SeriesIds) -> npt.NDArray[np.int32]:
        """The key of each series."""
        return self._key.view[ids]

    def source_labels(self, source: int) -> dict[str, str]:
        """The text of a source."""
        return self._sources.labels(source)

    def key_labels(self, key: int) -> dict[str, str]:
        """The text of a key, `__name__` among it."""
        return self._keys.labels(key)

    def labels(self, series: int) -> dict[str, str]:
        """All labels of one series, names in order."""
        both = self._sources.labels(int(self._source.view[series])) | self._keys.labels(
            int(self._key.view[series])
        )
        return dict(sorted(both.items()))

    def frame(self, ids: SeriesIds) -> LabelFrame:
        """The labels of some series, a row each. An answer of `select` gets the same frame every time."""
        cached = self._frames.get(id(ids))
        if cached is not None and cached[0] is ids:
            return cached[1]
        frame = self._frame(ids)
        if not ids.flags.writeable:
            with self._lock:
                self._frames[id(ids)] = (ids, frame)
                while len(self._frames) > FRAMES_CACHED_MAX:
                    self._frames.popitem(last=False)
        return frame

    def _frame(self, ids: SeriesIds) -> LabelFrame:
        sources, source_row = _distinct(self._source.view[ids], len(self._sources))
        keys, key_row = _distinct(self._key.view[ids], len(self._keys))
        source_names, source_codes = self._sources.matrix(sources)
        key_names, key_codes = self._keys.matrix(keys)
        names = tuple(sorted({*source_names, *key_names}))
        place = {name: position for position, name in enumerate(names)}
        by_source = np.zeros((len(sources), len(names)), np.int32)
        by_source[:, [place[name] for name in source_names]] = source_codes
        by_key = np.zeros((len(keys), len(names)), np.int32)
        by_key[:, [place[name] for name in key_names]] = key_codes
        codes = by_source.take(source_row, axis=0)
        codes |= by_key.take(key_row, axis=0)  # A series has a label from one of the two, the other is 0.
        return LabelFrame(names, codes)

    # Selectors.

    def select(self, matchers: Sequence[Matcher]) -> SeriesIds:
        """The series that all matchers want, ascending; a read-only array.

        The same object as long as nothing was added that matches, so callers may compare with `is` and keep
        what they derived from it. Raises InvalidRegex.
        """
        wanted = tuple(matchers)
        size, found = self._selections.get(wanted, (0, _NOTHING))
        count = len(self)
        if size < count or wanted not in self._selections:
            for matcher in wanted:
                matcher.check()
            more = self._matching(wanted, size, count)
            if len(more):
                found = np.concatenate([found, more])
                found.flags.writeable = False
            with self._lock:
                self._selections[wanted] = (count, found)
                while len(self._selections) > SELECTIONS_CACHED_MAX:
                    self._selections.popitem(last=False)
        return found

    def _matching(self, matchers: tuple[Matcher, ...], begin: int, end: int) -> SeriesIds:
        """The matching series among begin..end."""
        source, key = self._source.view[begin:end], self._key.view[begin:end]
        found = np.arange(end - begin)
        for matcher in matchers:
            of_source, of_key = self._sources.column(matcher.name), self._keys.column(matcher.name)
            if begin == 0:
                source_wanted, key_wanted = matcher.matches_codes(of_source), matcher.matches_codes(of_key)
                if not of_source.any():  # The label is a key's: an answer per key will do.
                    keep = key_wanted[key[found]]
                elif not of_key.any():
                    keep = source_wanted[source[found]]
                else:
                    has = of_source[source[found]] != 0
                    keep = np.where(has, source_wanted[source[found]], key_wanted[key[found]])
            else:
                keep = matcher.matches_codes(of_source[source[found]] | of_key[key[found]])
            found = found[keep]
        return cast("SeriesIds", (found + begin).astype(np.uint32))

    def column(self, name: str, ids: SeriesIds) -> Codes:
        """The codes of one label of some series, 0 where they have none."""
        of_source, of_key = self._sources.column(name), self._keys.column(name)
        return of_source[self._source.view[ids]] | of_key[self._key.view[ids]]

    def label_names(self, ids: SeriesIds | None = None) -> list[str]:
        """The names of labels that any of the series has (all series when None), sorted."""
        sets = self._sets_of(ids)
        codes = {int(code) for table, numbers in sets for code in np.unique(table.cells(numbers)[1])}
        return sorted(STRINGS.text(code) for code in codes)

    def label_values(self, name: str, ids: SeriesIds | None = None) -> list[str]:
        """The values of one label among the series (all when None), sorted; "" is not one of them."""
        codes = {
            int(code) for table, numbers in self._sets_of(ids) for code in _of(table.column(name), numbers)
        }
        return sorted(STRINGS.text(code) for code in codes - {0})

    def _sets_of(self, ids: SeriesIds | None) -> list[tuple[LabelSets, Indices]]:
        source, key = self._source.view, self._key.view
        if ids is not None:
            source, key = source[ids], key[ids]
        return [
            (self._sources, _distinct(source, len(self._sources))[0]),
            (self._keys, _distinct(key, len(self._keys))[0]),
        ]


_NOTHING = np.zeros(0, np.uint32)
_NOTHING.flags.writeable = False


def _of(column: Codes, numbers: Indices) -> list[int]:
    return cast("list[int]", np.unique(column[numbers]).tolist())


def _distinct(numbers: npt.NDArray[np.int32], bound: int) -> tuple[Indices, Indices]:
    """The distinct numbers (all < bound), ascending, and the position of each given one among them."""
    if len(numbers) * 8 < bound:
        few, where = np.unique(numbers, return_inverse=True)
        return few.astype(np.int64), where.reshape(-1).astype(np.int64)
    seen = np.zeros(bound, np.bool_)
    seen[numbers] = True
    distinct = np.flatnonzero(seen).astype(np.int64)
    position = np.empty(bound, np.int64)
    position[distinct] = np.arange(len(distinct))
    return distinct, position[numbers]
