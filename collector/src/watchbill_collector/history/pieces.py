"""Putting pieces of readings together.

A sender's readings come as pieces: some ticks of one list of series. Its list changes now and then (a disk
appears, a process ends), several lists may be sampled at different rates, and a backlog may repeat what is
there already. `unite` makes as few rectangular parts as it can without making them sparse: lists that share a
series, or that are read at exactly the same times, go into one part; others stay apart.

Where two pieces have a value for the same series and time, the earlier piece in the sequence wins: the one
committed first.
"""

from collections.abc import Sequence

import numpy as np

from watchbill_collector.history.values import Piece
from watchbill_collector.series import SeriesIds, Times  # noqa: TC001


def in_order(piece: Piece) -> Piece:
    """The piece with times ascending strictly; of equal times the first stays."""
    times = piece.times
    if len(times) < 2 or (times[1:] > times[:-1]).all():
        return piece
    order = np.argsort(times, kind="stable")
    times = times[order]
    order = order[np.concatenate([[True], times[1:] > times[:-1]])]
    present = None if piece.present is None else piece.present[order]
    return Piece(piece.ids, piece.times[order], piece.values[order], present)


def between(piece: Piece, start_ms: int, end_ms: int) -> Piece | None:
    """The ticks in (start, end]; None when there are none."""
    first, last = piece.times.searchsorted((start_ms, end_ms), side="right").tolist()
    if first == last:
        return None
    if last - first == len(piece.times):
        return piece
    present = None if piece.present is None else piece.present[first:last]
    return Piece(piece.ids, piece.times[first:last], piece.values[first:last], present)


def unite(pieces: Sequence[Piece]) -> list[Piece]:
    """As few parts as fit, each with times ascending strictly."""
    first = pieces[0].ids
    if all(piece.ids is first for piece in pieces):
        return [_part(pieces)]
    return [_part(group) for group in _groups(pieces)]


def _part(pieces: Sequence[Piece]) -> Piece:
    first = pieces[0]
    if len(pieces) == 1:
        return in_order(first)
    if all(piece.ids is first.ids and piece.present is None for piece in pieces):
        times = np.concatenate([piece.times for piece in pieces])
        return in_order(Piece(first.ids, times, np.concatenate([piece.values for piece in pieces])))
    return _fold(pieces)


def _groups(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces that belong together, each group in the order given, and the groups too."""
    members: dict[int, list[int]] = {}
    for position, piece in enumerate(pieces):
        members.setdefault(id(piece.ids), []).append(position)
    lists = list(members.values())
    leader = list(range(len(lists)))

    def lead(number: int) -> int:
        while leader[number] != number:
            number = leader[number]
        return number

    def join(one: int, other: int) -> None:
        one, other = lead(one), lead(other)
        leader[max(one, other)] = min(one, other)

    by_times: dict[bytes, int] = {}
    for number, positions in enumerate(lists):
        times = b"".join(pieces[position].times.tobytes() for position in positions)
        join(number, by_times.setdefault(times, number))
    ids = [pieces[positions[0]].ids for positions in lists]
    every = np.concatenate(ids)
    order = np.argsort(every, kind="stable")
    number_of = np.repeat(np.arange(len(ids)), [len(each) for each in ids])[order]
    shared = np.flatnonzero(every[order][1:] == every[order][:-1])
    pairs = np.unique(np.stack([number_of[shared], number_of[shared + 1]], axis=1), axis=0)
    for one, other in pairs.tolist():
        join(one, other)
    groups: dict[int, list[int]] = {}
    for number, positions in enumerate(lists):
        groups.setdefault(lead(number), []).extend(positions)
    return [[pieces[position] for position in sorted(positions)] for positions in groups.values()]


def _fold(pieces: Sequence[Piece]) -> Piece:
    """One rectangle around pieces."""
    pieces = [in_order(piece) for piece in pieces]
    times: Times = np.unique(np.concatenate([piece.times for piece in pieces]))
    every = np.concatenate([piece.ids for piece in pieces])
    _, first = np.unique(every, return_index=True)
    ids: SeriesIds = every[np.sort(first)]  # In the order of first sight: neighbours are alike.
    if len(ids) == len(pieces[0].ids):
        ids = pieces[0].ids
    by_id = np.argsort(ids)
    values = np.zeros((len(times), len(ids)))
    present = np.zeros((len(times), len(ids)), np.bool_)
    for piece in reversed(pieces):  # The first piece last: it overwrites.
        rows = np.searchsorted(times, piece.times)
        columns = by_id[np.searchsorted(ids, piece.ids, sorter=by_id)]
        at = np.ix_(rows, columns)
        if piece.present is None:
            values[at], present[at] = piece.values, True
        else:
            values[at] = np.where(piece.present, piece.values, values[at])
            present[at] |= piece.present
    return Piece(ids, times, values, None if present.all() else present)
