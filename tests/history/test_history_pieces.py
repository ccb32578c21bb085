"""Putting pieces together: nothing is lost, and what was committed first stays."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill_collector.history.pieces import between, unite
from watchbill_collector.history.values import Piece


def piece(ids: list[int], times: list[int], base: float = 0.0) -> Piece:
    values = np.array([[base + series * 100 + time for series in ids] for time in times])
    return Piece(np.array(ids, np.uint32), np.array(times), values.reshape(len(times), len(ids)))


def content(pieces: list[Piece]) -> dict[tuple[int, int], float]:
    found: dict[tuple[int, int], float] = {}
    for each in pieces:
        for row, time in enumerate(each.times.tolist()):
            for column, series in enumerate(each.ids.tolist()):
                if each.present is None or each.present[row, column]:
                    found.setdefault((series, time), float(each.values[row, column]))
    return found


def test_ticks_of_one_list_become_one_part_in_order() -> None:
    one = piece([1, 2], [30, 40])
    (part,) = unite([one, Piece(one.ids, np.array([10, 20, 40]), np.ones((3, 2)))])
    assert part.times.tolist() == [10, 20, 30, 40]
    assert part.present is None
    assert part.values[3].tolist() == [140.0, 240.0]


def test_a_list_that_grew_stays_one_part() -> None:
    (part,) = unite([piece([1, 2], [10, 20]), piece([1, 2, 9], [30])])
    assert part.ids.tolist() == [1, 2, 9]
    assert part.present is not None
    assert part.present.tolist() == [[True, True, False], [True, True, False], [True, True, True]]


def test_lists_read_at_other_times_stay_apart() -> None:
    parts = unite([piece([1, 2], [10, 20]), piece([7], [15])])
    assert [part.ids.tolist() for part in parts] == [[1, 2], [7]]


def test_lists_read_together_become_one_part() -> None:
    (part,) = unite([piece([1, 2], [10, 20]), piece([7], [10, 20])])
    assert part.ids.tolist() == [1, 2, 7]
    assert part.present is None


def test_a_cut_is_open_on_the_left() -> None:
    cut = between(piece([1], [10, 20, 30]), 10, 30)
    assert cut is not None
    assert cut.times.tolist() == [20, 30]
    assert between(piece([1], [10]), 10, 20) is None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([(1, 2, 3), (3, 4), (5,), (6, 7), (2, 1)]),
            st.lists(st.integers(1, 12), min_size=1, max_size=6, unique=True).map(sorted),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_nothing_is_lost_and_the_first_stays(drawn: list[tuple[tuple[int, ...], list[int], bool]]) -> None:
    lists = {ids: np.array(ids, np.uint32) for ids, _, _ in drawn}
    pieces = []
    for number, (ids, times, sparse) in enumerate(drawn):
        made = piece(list(ids), times, base=number * 10_000.0)
        present = None
        if sparse:
            present = np.ones(made.values.shape, np.bool_)
            present[::2, 0] = False
        pieces.append(Piece(lists[ids], made.times, made.values, present))
    parts = unite(pieces)
    assert content(parts) == content(pieces)
    every = [series for part in parts for series in part.ids.tolist()]
    assert len(every) == len(set(every))  # A series is in one part.
    for part in parts:
        assert (np.diff(part.times) > 0).all()
