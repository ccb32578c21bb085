"""What operators work out of labels alone, hung on the frames so that it is worked out once.

Everything here depends on frames and on the expression, never on samples: groups of an aggregation, which row
of one side meets which row of the other, result labels. A storage that answers with the same frame object
gets all of it from the cache; and since derived frames come from the cache too, the next operator finds its
own there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from watchbill_collector.labels import METRIC_NAME, STRINGS, Codes, LabelFrame
from watchbill_collector.promql.ast import Card, Matching
from watchbill_collector.promql.windows import Ints, Mask

METADATA_LABELS = (METRIC_NAME, "__type__", "__unit__")
"""What says which metric a sample is of; arithmetic makes it untrue."""

PAIRS_MAX = 5_000_000
"""Pairs of rows that one match may have; a many-to-many mistake would make millions."""


def without(frame: LabelFrame, names: tuple[str, ...]) -> LabelFrame:
    """The frame without some labels; the same object each time."""
    if not set(names) & set(frame.names):
        return frame
    return frame.derived(("without", names), lambda: frame.without(names))


def only(frame: LabelFrame, names: tuple[str, ...]) -> LabelFrame:
    """The frame with only some labels; the same object each time."""
    if set(frame.names) <= set(names):
        return frame
    return frame.derived(("only", names), lambda: frame.only(names))


def nameless(frame: LabelFrame) -> LabelFrame:
    """The frame without the metric's name, type and unit."""
    return without(frame, METADATA_LABELS)


def row_numbers(codes: Codes) -> tuple[Ints, int]:
    """Number equal rows from 0 on: the number of each row, and how many there are.

    Columns are packed into one int64 key as long as they fit, then numbered, then packed on: sorting integers
    is many times faster than sorting records.
    """
    rows, columns = codes.shape
    key = np.zeros(rows, np.int64)
    size = 1
    for column in range(columns):
        values = codes[:, column]
        span = int(values.max()) + 1 if rows else 1
        if span == 1:
            continue
        if size > (1 << 62) // span:
            _, key = np.unique(key, return_inverse=True)
            key = key.reshape(-1).astype(np.int64)
            size = int(key.max()) + 1
        key = key * span + values
        size *= span
    if size <= 1:
        return key, min(rows, 1)
    found, numbers = np.unique(key, return_inverse=True)
    return numbers.reshape(-1).astype(np.int64), len(found)


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """Rows in groups: `number[n]` is each row's group; `order` sorts rows by it, group g from `starts[g]`."""

    number: Ints
    order: Ints
    starts: Ints
    labels: LabelFrame  # a row a group

    def __len__(self) -> int:
        return len(self.labels)


def grouping(frame: LabelFrame, keyed: LabelFrame) -> Grouping:
    """Groups of the rows of `frame` that are equal in `keyed`, numbered by first appearance."""
    if not len(frame):
        nothing = np.zeros(0, np.int64)
        return Grouping(nothing, nothing, nothing, keyed)
    number, count = row_numbers(keyed.codes)
    if count == len(frame):
        every = np.arange(count, dtype=np.int64)
        return Grouping(every, every, every, keyed)
    _, first = np.unique(number, return_index=True)
    rank = np.empty(count, np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(count)
    number = rank[number]
    order = np.argsort(number, kind="stable")
    starts = np.searchsorted(number[order], np.arange(count)).astype(np.int64)
    return Grouping(number, order, starts, keyed.take(order[starts]))


def grouped(frame: LabelFrame, names: tuple[str, ...], *, exclude: bool) -> Grouping:
    """The groups of an aggregation: `by` the names, or `without` them (and without the metric name)."""

    def make() -> Grouping:
        keyed = without(frame, (*names, METRIC_NAME)) if exclude else only(frame, names)
        return grouping(frame, keyed)

    return frame.derived(("grouped", names, exclude), make)


def equal_rows(frame: LabelFrame) -> Grouping:
    """Rows with the same labels, together."""
    return frame.derived("equal rows", lambda: grouping(frame, frame))


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """How the rows of a binary operator's "many" side meet those of its "one" side.

    `many[p]` and `one[p]` are the rows of pair p, None where that is simply every row in order. `labels` has
    a row a pair, `group[p]` is its match group. `exact` says that no group has two rows on a side where only
    one may be, so nothing can clash at any step; without it the samples have to be looked at.
    """

    many: Ints | None
    one: Ints | None
    group: Ints
    labels: LabelFrame
    exact: bool


def matched(many: LabelFrame, one: LabelFrame, matching: Matching, *, rename: bool) -> Match | None:
    """The match of two frames, None if it has more than PAIRS_MAX pairs.

    `rename` when the operator makes another metric of its operands.
    """
    key = ("match", one, matching, rename)
    known = many.known(key)
    if isinstance(known, Match):
        return known
    made = _match(many, one, matching, rename=rename)
    # More pairs than rows is a mistake, which ends in an error: not worth its memory.
    return made if made is None or len(made.group) > len(many) else many.derived(key, lambda: made)


def present_rows(frame: LabelFrame, rows: Mask) -> LabelFrame:
    """Some rows of a frame; the same object for the same rows."""
    if rows.all():
        return frame
    return frame.derived(("rows", rows.tobytes()), lambda: frame.take(rows))


def match_groups(lhs: LabelFrame, rhs: LabelFrame, matching: Matching) -> tuple[Ints, Ints, int]:
    """The match group of each row of both sides, and how many groups there are."""

    def make() -> tuple[Ints, Ints, int]:
        names = tuple(sorted({*lhs.names, *rhs.names}))
        if matching.on:
            names = tuple(name for name in names if name in matching.labels)
        else:
            names = tuple(name for name in names if name not in matching.labels and name != METRIC_NAME)
        both = np.concatenate([_aligned(lhs, names), _aligned(rhs, names)])
        numbers, count = row_numbers(both)
        return numbers[: len(lhs)], numbers[len(lhs) :], count

    return lhs.derived(("match groups", rhs, matching.on, matching.labels), make)


def _aligned(frame: LabelFrame, names: tuple[str, ...]) -> Codes:
    return frame.aligned(names) if names else np.zeros((len(frame), 0), np.int32)


def _match(many: LabelFrame, one: LabelFrame, matching: Matching, *, rename: bool) -> Match | None:
    many_group, one_group, groups = match_groups(many, one, matching)
    many_counts = np.bincount(many_group, minlength=groups)
    one_counts = np.bincount(one_group, minlength=groups)
    if int((many_counts * one_counts).sum()) > PAIRS_MAX:
        return None
    many_rows, one_rows = _pairs(many_group, one_group, one_counts)
    labels = _result_labels(many, one, many_rows, one_rows, matching, rename=rename)
    exact = bool((one_counts <= 1).all())
    if matching.card is Card.ONE_TO_ONE:
        exact = exact and bool((many_counts <= 1).all())
    else:
        exact = exact and len(equal_rows(labels)) == len(labels)
    return Match(
        None if _is_everything(many_rows, len(many)) else many_rows,
        None if _is_everything(one_rows, len(one)) else one_rows,
        many_group[many_rows],
        labels,
        exact,
    )


def _pairs(many_group: Ints, one_group: Ints, one_counts: Ints) -> tuple[Ints, Ints]:
    """All pairs of rows in the same group, in the order of the many side."""
    order = np.argsort(one_group, kind="stable")
    starts = np.concatenate(([0], np.cumsum(one_counts)))
    partners = one_counts[many_group]
    many_rows = np.repeat(np.arange(len(many_group)), partners)
    within = np.arange(len(many_rows)) - np.repeat(np.cumsum(partners) - partners, partners)
    one_rows = order[starts[many_group[many_rows]] + within]
    return many_rows.astype(np.int64), one_rows.astype(np.int64)


def _is_everything(rows: Ints, count: int) -> bool:
    return len(rows) == count and bool((rows == np.arange(count)).all())


def _result_labels(
    many: LabelFrame, one: LabelFrame, many_rows: Ints, one_rows: Ints, matching: Matching, *, rename: bool
) -> LabelFrame:
    base = nameless(many) if rename else many
    if matching.card is Card.ONE_TO_ONE:
        base = only(base, matching.labels) if matching.on else without(base, matching.labels)
    out = base if _is_everything(many_rows, len(many)) else base.take(many_rows)
    for name in matching.include:
        out = out.with_column(name, one.column(name)[one_rows])
    return out


def texts(codes: Sequence[int]) -> list[str]:
    """The strings behind codes."""
    return [STRINGS.text(code) for code in codes]


def label_order(frame: LabelFrame) -> Ints:
    """The rows in the order of their labels, as Prometheus compares label sets: int64[n]."""
    return frame.derived("label order", lambda: _label_order(frame))


def _label_order(frame: LabelFrame) -> Ints:
    # Label sets compare pair by pair, names before values; an absent label lets the next name take its place.
    keys = [
        tuple((name, STRINGS.text(code)) for name, code in zip(frame.names, row, strict=True) if code)
        for row in frame.codes.tolist()
    ]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def drop_names(frame: LabelFrame, drop: bool | Mask) -> LabelFrame:
    """The labels once the pending removals of names are done; the same object when the mask is all or
    nothing.
    """
    if isinstance(drop, bool) or drop.all() or not drop.any():
        return nameless(frame) if np.any(drop) else frame
    out = frame
    for name in METADATA_LABELS:
        if name in frame.names:
            out = out.with_column(name, np.where(drop, 0, frame.column(name)))
    return out
