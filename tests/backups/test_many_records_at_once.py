"""Records that a start reads back are folded many at a time; what comes of it is what each alone would have made."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill.backups.definition import SizeLimits
from watchbill.backups.record import Kind, Level, Outcome, Proof, Record, Source
from watchbill_collector.backups import BackupBook, Evidence, JobKey, facet_size
from watchbill_collector.backups.evidence import RUNS_KEPT, SIZES_KEPT, Told
from watchbill_collector.backups.moments import Moments

from .histories import MIN, T0, D, H, History, S, job

KEY = JobKey("agent-1", "nightly")
OUTCOMES = st.sampled_from([Outcome.OK] * 6 + list(Outcome))
SIZES = st.one_of(st.none(), st.integers(0, 2000))
STEPS = st.sampled_from([H, H, H, H, H, 2 * D, 0, -3 * H])


def record(number: int, at: int, **given: object) -> Record:
    """Of a good run that ended at that moment."""
    return Record(
        **{
            "record_id": f"{number + 1:032x}",
            "job": "nightly",
            "kind": Kind.RUN,
            "source": Source.WRAP,
            "outcome": Outcome.OK,
            "observed_ms": at,
            "started_ms": at - 10 * MIN,
            "finished_ms": at,
            "bytes_source": number * 389 % 2000,
        }
        | given
    )


@st.composite
def told(draw: st.DrawFn) -> list[Told]:
    """One good run after the other but for some, which come late, twice, ahead of their time, or tell of something
    else."""
    found: list[Told] = []
    at, count = T0, draw(st.integers(0, 45))
    odd = draw(st.sets(st.integers(0, 45), max_size=draw(st.sampled_from([0, 2, 5, 45]))))
    for number in range(count):
        at += draw(STEPS) if number in odd else H
        if number in odd:
            found.append(draw(odd_one(number, at)))
        else:
            found.append((record(number, at), at + S, 0))
    return found


@st.composite
def odd_one(draw: st.DrawFn, number: int, at: int) -> Told:
    """A record of whatever kind, of a new run or of one before."""
    shift = draw(st.sampled_from([0, 0, 0, 5 * S, -2 * H, -(T0 + 30 * D)]))
    kind = draw(st.sampled_from([Kind.RUN] * 6 + [Kind.OBSERVE, Kind.VERIFY]))
    run = draw(st.integers(max(number - 14, 0), number))
    there = max(at - shift, 0)
    given = {
        "kind": kind,
        "outcome": draw(OUTCOMES),
        "observed_ms": there + draw(st.sampled_from([0, 0, H])),
        "run_id": f"{run + 1:032x}" if draw(st.booleans()) else "",
        "started_ms": draw(st.sampled_from([max(there - 10 * MIN, 0)] * 3 + [0, there + H])),
        "finished_ms": draw(st.sampled_from([there] * 3 + [0, there + H])),
        "point_ms": draw(st.sampled_from([0, 0, T0 + 90 * MIN, max(there - H, 0), there + D])),
        "bytes_source": draw(SIZES),
        "bytes_stored": draw(SIZES),
        "verify": Proof(level=Level.DATA, ok=True) if kind is Kind.VERIFY else None,
    }
    return record(number, at, **given), at + draw(st.sampled_from([S, S, 0, D])), shift


def known(evidence: Evidence) -> dict[str, object]:
    """All of it, to compare; what is known of copies by what can be seen of it."""
    values = {name: getattr(evidence, name) for name in Evidence.__slots__}
    values["sizes"] = evidence.sizes and evidence.sizes.newest(SIZES_KEPT)
    values["copies"] = {
        name: (copy.seen, copy.unread, copy.proofs, copy.sizes and copy.sizes.newest(SIZES_KEPT))
        for name, copy in evidence.copies.items()
    }
    return values


def agree(told: list[Told], cut: int = 0) -> None:
    """One by one and many at once, whatever the last one is."""
    alone = Evidence()
    for end, one in enumerate(told, 1):
        alone.add(*one)
        if cut <= end:
            together = Evidence()
            together.add_all(told[:cut])
            together.add_all(told[cut:end])
            assert known(together) == known(alone)


@settings(max_examples=150, deadline=None)
@given(told(), st.integers(0, 45))
def test_many_at_once_are_what_each_alone_is(told, cut):
    agree(told, cut)


ODD_AT = T0 + 5 * H


@pytest.mark.parametrize(
    "given",
    [
        {"observed_ms": ODD_AT + H},
        {"finished_ms": ODD_AT + H},
        {"point_ms": ODD_AT + H},
        {"started_ms": ODD_AT + H},
        {"started_ms": 0},
        {"finished_ms": 0},
        {"point_ms": T0 + 4 * H - 10 * MIN},
        {"point_ms": T0 - D},
        {"run_id": f"{4:032x}"},
        {"started_ms": T0 - D},
        {"bytes_source": None},
        {"bytes_source": None, "bytes_stored": 9999},
        *({"outcome": outcome} for outcome in Outcome),
    ],
    ids=str,
)
def test_one_odd_run_among_many_is_what_it_is_alone(given):
    for shift in (0, 90 * S, -90 * S):
        told = [(record(number, T0 + number * H), T0 + number * H + S, 0) for number in range(20)]
        told[5] = (record(5, ODD_AT, **given), ODD_AT + S, shift)
        agree(told)


def test_a_run_that_is_said_to_have_begun_before_all_that_is_kept_changes_nothing_of_that():
    """A start that is told late moves its run behind others; the newest may then be older than what is not kept any
    more."""
    runs = [(record(number, T0 + number * H), T0 + number * H + S, 0) for number in range(12)]
    late = [
        (
            record(number, T0, run_id=f"{number + 1:032x}", started_ms=T0 - D - number, finished_ms=0),
            T0 + 2 * D,
            0,
        )
        for number in range(2, 12)
    ]
    between = (record(99, T0 + H - 5 * MIN), T0 + 2 * D, 0)
    alone, together = Evidence(), Evidence()
    for one in (*runs, *late, between):
        alone.add(*one)
    together.add_all([*runs, *late, between])
    assert known(together) == known(alone)
    assert together.late == 1


def test_ninety_days_at_once_keep_the_newest_runs_and_all_sizes():
    """And the newest good run before them, though it is made for nothing else."""
    days = [
        (record(day, T0 + day * D + 10 * MIN, bytes_source=1000 + day), T0 + day * D + H, 0)
        for day in range(90)
    ]
    evidence = Evidence()
    evidence.add_all(days)
    assert [run.began_ms for run in evidence.runs] == [T0 + day * D for day in range(90 - RUNS_KEPT, 90)]
    assert evidence.good_before.began_ms == T0 + (89 - RUNS_KEPT) * D
    assert evidence.good_sizes(90) == list(range(1000, 1090))
    assert evidence.size_max == 1089


def test_a_book_takes_many_at_once_and_refuses_those_of_a_host_with_too_many_jobs(monkeypatch):
    monkeypatch.setattr("watchbill_collector.backups.book.JOBS_PER_AGENT_MAX", 1)
    history = History()
    run = history.ran(T0 + H)
    book = BackupBook(T0)
    book.define(KEY, history.definition, T0)
    assert book.record_all(KEY, [(run, T0 + 2 * H, 0)])
    assert not book.record_all(JobKey(KEY.agent_id, "another"), [(run, T0 + 2 * H, 0)])
    assert book.refused == 1
    book.watermark(KEY.agent_id, T0 + 2 * H)
    assert [change.after.last_run.record_id for change in book.look(T0 + 2 * H)] == [run.record_id]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(OUTCOMES, SIZES), max_size=30),
    st.builds(
        SizeLimits,
        min_bytes=st.sampled_from([0, 10, 900]),
        drop=st.sampled_from([0.0, 0.3, 1.0]),
        window=st.sampled_from([1, 7, 20]),
    ),
)
def test_a_size_that_is_as_usual_at_a_glance_is_so_by_the_median(runs, limits):
    history = History(job(size=limits))
    for number, (outcome, size) in enumerate(runs):
        history.ran(T0 + number * H, outcome=outcome, bytes_source=size)
    quick = history.state(T0 + 40 * H)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facet_size, "_as_usual", lambda sight: None)
        assert history.state(T0 + 40 * H) == quick


class Waiting:
    def __init__(self, next_ms: int) -> None:
        self.next_ms = next_ms


def test_what_comes_within_a_second_comes_at_its_millisecond():
    moments: Moments[Waiting] = Moments()
    early, late, moved, gone = (Waiting(at) for at in (5_250, 5_750, 5_100, 5_200))
    for one in (late, early, moved, gone):
        moments.add(one)
    moved.next_ms, gone.next_ms = 9_000, 0
    moments.add(moved)
    assert moments.next_ms() == 5_250
    assert moments.passed(5_249) == []
    assert moments.passed(5_250) == [early]
    assert moments.next_ms() == 5_750
    assert moments.passed(8_999) == [late]
    assert (moments.next_ms(), len(moments)) == (9_000, 1)
    assert moments.passed(9_000) == [moved]
    assert (moments.next_ms(), len(moments)) == (0, 0)
