"""The facet of size: floors, falls below what is usual, runs that ended too soon."""

import pytest

from watchbill.backups.definition import SizeLimits
from watchbill.backups.record import Outcome
from watchbill_collector.backups import FacetName, Word

from .histories import DUE, MIN, D, H, History, S, job

GIB = 1 << 30


def told(sizes: list[int], **given: object) -> tuple[str, str]:
    """Of daily runs of these sizes: level and reason."""
    history = History(job(**({"size": SizeLimits(min_bytes=10, drop=0.3)} | given)))
    for day, size in enumerate(sizes):
        history.ran(DUE + day * D, bytes_source=size)
    facet = history.state(DUE + (len(sizes) - 1) * D + H).facets[FacetName.SIZE]
    return facet.level.value, facet.reason


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([100], ("unknown", "little-history")),
        ([100, 100], ("unknown", "little-history")),
        ([9], ("bad", "below-min")),
        ([100, 100, 9], ("bad", "below-min")),
        ([100, 100, 100], ("ok", "ok")),
        ([100, 100, 100, 70], ("ok", "ok")),
        ([100, 100, 100, 69], ("warn", "dropped")),
        ([100, 100, 100, 69, 69], ("bad", "dropped")),
        ([100, 100, 100, 69, 100], ("ok", "ok")),
        ([100, 100, 100, 69, 100, 69], ("warn", "dropped")),
        ([100] * 30 + [50] * 6, ("bad", "dropped")),
        ([100] * 30 + [50] * 7, ("ok", "ok")),
        ([100] * 30 + [50] * 40, ("ok", "ok")),
        ([100, 200, 400, 800], ("ok", "ok")),
        ([100, 101, 99, 1000, 100], ("ok", "ok")),
        ([0, 0, 0, 0], ("bad", "below-min")),
    ],
)
def test_a_fall_is_a_warning_once_and_bad_twice(sizes, wanted):
    """After a whole window at the new size it is the usual one."""
    assert told(sizes) == wanted


def test_a_floor_alone_needs_no_history_and_no_limits_ask_for_nothing():
    assert told([100], size=SizeLimits(min_bytes=10)) == ("ok", "ok")
    assert told([100], size=SizeLimits()) == ("ok", "not-asked")


def test_runs_that_failed_or_say_no_size_are_no_history():
    history = History(job(size=SizeLimits(drop=0.3)))
    for day in range(4):
        history.ran(DUE + day * D, bytes_source=100)
    history.ran(DUE + 4 * D, outcome=Outcome.FAILED, bytes_source=1)
    history.ran(DUE + 5 * D)
    assert history.state(DUE + 5 * D + H).facets[FacetName.SIZE].reason == "ok"


def test_the_narrowest_window_sees_a_fall_too():
    narrow = SizeLimits(drop=0.3, window=1)
    assert told([100, 100, 100, 50], size=narrow) == ("warn", "dropped")
    assert told([100, 100, 100, 50, 50], size=narrow) == ("bad", "dropped")
    assert told([100, 100, 100, 50, 50, 50], size=narrow) == ("ok", "ok")


def test_a_wide_window_reaches_beyond_the_runs_that_are_kept():
    sizes = [100] * 40 + [50] * 13
    assert told(sizes, size=SizeLimits(drop=0.3, window=30)) == ("bad", "dropped")


def test_sizes_of_a_repository_count_where_runs_tell_none():
    history = History(
        job(tool="pgbackrest", observed=True, observe_every_s=3600.0, size=SizeLimits(drop=0.3))
    )
    points = []
    for day, size in enumerate((GIB, GIB, GIB, GIB // 2, GIB // 2)):
        points.append(DUE + day * D)
        for hour in (1, 2, 3):
            history.saw(DUE + day * D + hour * H, *points, bytes_source=size)
    state = history.state(DUE + 4 * D + 4 * H)
    assert (state.word, state.severity) == (Word.SUSPECT, "major")
    assert "512.0 MiB, usually 1.0 GiB" in state.why


def test_a_run_that_ended_too_soon_is_suspect():
    history = History(job(min_duration_s=20.0))
    history.ran(DUE, DUE + 19 * S)
    state = history.state(DUE + MIN)
    assert (state.word, state.facets[FacetName.SIZE].reason) == (Word.SUSPECT, "too-fast")
    history.ran(DUE + H, DUE + H + 20 * S)
    assert history.state(DUE + 2 * H).word is Word.OK
