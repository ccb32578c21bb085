"""Series dictionaries: from what an agent says to series of the collector's table.

Most hosts of a fleet send the same dictionaries, so one is decoded and checked once, whoever sends it, and
known again by the SHA-256 of its bytes (`Dictionaries`). What is left per host is one array of series numbers
(`HostSeries`).

A series that breaks a rule is refused alone; its column is left out of every block, and the rest goes on.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from watchbill.codec import FamilyRun, Labels, Texts, decode_runs
from watchbill.errors import Unreadable
from watchbill.limits import (
    HELP_BYTES_MAX,
    LABEL_NAME_BYTES_MAX,
    LABEL_VALUE_BYTES_MAX,
    LABELS_MAX,
    METRIC_NAME_BYTES_MAX,
    SERIES_PER_AGENT_MAX,
)
from watchbill.v1 import link_pb2 as pb
from watchbill_collector.series import SeriesIds, SeriesTable

METRIC_NAME_PATTERN = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
LABEL_NAME_PATTERN = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)

RESERVED_NAMES = frozenset({"up", "ALERTS", "ALERTS_FOR_STATE"})
"""Metrics that only the collector makes: a host must not be able to say of itself that it is up."""

CACHED_SERIES_MAX = 200_000
"""Series in decoded dictionaries that are kept for the next host; the least recently used dictionary goes."""

Keys = npt.NDArray[np.int32]
Columns = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Refused:
    """Series of a dictionary that are refused for one reason: how many, and the first as an example."""

    reason: str
    count: int
    example: str


@dataclass(slots=True, eq=False)
class Dictionary:
    """A dictionary that was checked: `columns` of the blocks' `total` are good, `series` are theirs in order.

    The keys depend on which label names the host's own labels take, so there is one array per such set of
    names.
    """

    digest: bytes
    total: int
    columns: Columns
    series: tuple[tuple[str, Labels], ...]
    kinds: tuple[tuple[str, str, str], ...]
    refused: tuple[Refused, ...]
    keys: dict[frozenset[str], Keys] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether no column is left out."""
        return len(self.columns) == self.total


@dataclass(frozen=True, slots=True, eq=False)
class HostSeries:
    """A dictionary as one host's series. `ids` stays the same object while the host keeps its labels.

    `columns` are the block's columns they come from, None when it is all of them in order.
    """

    total: int
    ids: SeriesIds
    columns: Columns | None
    keys: Keys


class Dictionaries:
    """Decoded dictionaries, for all hosts."""

    def __init__(self, table: SeriesTable) -> None:
        self._table = table
        self._known: OrderedDict[bytes, Dictionary] = OrderedDict()
        self._series = 0
        self.decoded = 0

    def read(self, frames: Sequence[bytes]) -> Dictionary:
        """The dictionary in these messages, in order. Raises Unreadable."""
        digest = hashlib.sha256(b"".join(frames)).digest()
        known = self._known.get(digest)
        if known is not None:
            self._known.move_to_end(digest)
            return known
        self.decoded += 1
        dictionary = checked(digest, frames)
        for name, kind, text in dictionary.kinds:
            self._table.describe(name, kind, text)
        self._known[digest] = dictionary
        self._series += dictionary.total
        while self._series > CACHED_SERIES_MAX and len(self._known) > 1:
            self._series -= self._known.popitem(last=False)[1].total
        return dictionary

    def keys(self, dictionary: Dictionary, source: int, source_names: frozenset[str]) -> Keys:
        """The keys of a dictionary's series for a host whose own labels have these names."""
        keys = dictionary.keys.get(source_names)
        if keys is None:
            of = self._table.key_for_source
            keys = np.array([of(source, name, dict(labels)) for name, labels in dictionary.series], np.int32)
            dictionary.keys[source_names] = keys
        return keys

    def of_host(
        self, dictionary: Dictionary, source: int, keys: Keys, allowed: npt.NDArray[np.bool_] | None
    ) -> HostSeries:
        """The host's series, made on first sight; `allowed` leaves out what a quota refuses."""
        columns = dictionary.columns
        if allowed is not None:
            keys, columns = keys[allowed], columns[allowed]
        whole = len(columns) == dictionary.total
        ids = self._table.series(source, keys)
        return HostSeries(dictionary.total, ids, None if whole else columns, keys)


def checked(digest: bytes, frames: Sequence[bytes]) -> Dictionary:
    """Decode a dictionary and sort the good series from the bad. Raises Unreadable."""
    runs: list[FamilyRun] = []
    texts = Texts()
    for frame in frames:
        try:
            runs += decode_runs(pb.Up.FromString(frame).dictionary, texts)
        except DecodeError as exc:
            raise Unreadable(f"a dictionary is no message: {exc}") from exc
    good: list[tuple[str, Labels]] = []
    columns: list[int] = []
    faults: dict[str, list[str]] = {}
    seen: set[tuple[str, Labels]] = set()
    column = 0
    odd = texts.odd
    for run in runs:
        bad_name = "not_utf8" if run.name in odd else fault_of_name(run.name)
        for labels in run.series:
            one = (run.name, labels)
            fault = bad_name or (odd and fault_of_text(labels, odd)) or fault_of_labels(labels)
            if fault is None and one in seen:
                fault = "duplicate_series"
            if fault is None and len(good) >= SERIES_PER_AGENT_MAX:
                fault = "series_quota"
            if fault is None:
                seen.add(one)
                good.append(one)
                columns.append(column)
            else:
                faults.setdefault(fault, []).append(shown(run.name, labels))
            column += 1
    kinds = {run.name: (run.name, run.kind.name.lower(), run.help[:HELP_BYTES_MAX]) for run in runs}
    return Dictionary(
        digest,
        column,
        np.array(columns, np.int64),
        tuple(good),
        tuple(kind for kind in kinds.values() if kind[0] not in odd and fault_of_name(kind[0]) is None),
        tuple(Refused(reason, len(found), found[0]) for reason, found in faults.items()),
    )


def fault_of_name(name: str) -> str | None:
    """Why a metric name is refused, if it is."""
    if len(name) > METRIC_NAME_BYTES_MAX or not METRIC_NAME_PATTERN.fullmatch(name):
        return "metric_name"
    return "reserved_name" if name in RESERVED_NAMES else None


def fault_of_text(labels: Labels, odd: AbstractSet[str]) -> str | None:
    """Why a series is refused of whose texts some are among the `odd`, those that are not UTF-8."""
    return "not_utf8" if any(name in odd or value in odd for name, value in labels) else None


def fault_of_labels(labels: Labels) -> str | None:
    """Why a series' own labels are refused, if they are."""
    if len(labels) > LABELS_MAX:
        return "label_count"
    before = ""
    for name, value in labels:
        fault = fault_of_label(name, value)
        if fault is not None:
            return fault
        if name <= before:
            return "label_order"
        before = name
    return None


def fault_of_label(name: str, value: str) -> str | None:
    """Why one label is refused, if it is."""
    if len(name) > LABEL_NAME_BYTES_MAX or name.startswith("__") or not LABEL_NAME_PATTERN.fullmatch(name):
        return "label_name"
    if not value:
        return "label_value_empty"
    # Most values are short ASCII; only long ones are worth encoding to count their bytes.
    if len(value) * 4 > LABEL_VALUE_BYTES_MAX and len(value.encode()) > LABEL_VALUE_BYTES_MAX:
        return "label_value_length"
    return None


def shown(name: str, labels: Labels) -> str:
    """A series as text for people, cut to a length that fits a log line."""
    pairs = ", ".join(f"{label[:40]}={value[:40]!r}" for label, value in labels[:4])
    return f"{name[:80]}{{{pairs}}}".encode("ascii", "backslashreplace").decode()


def good_labels(labels: Mapping[str, str]) -> tuple[dict[str, str], str | None]:
    """The labels of a host that pass, and the reason of the first that does not."""
    good: dict[str, str] = {}
    fault: str | None = None
    for name, value in sorted(labels.items()):
        found = fault_of_label(name, value) or ("label_count" if len(good) >= LABELS_MAX else None)
        if found is None:
            good[name] = value
        else:
            fault = fault or found
    return good, fault
