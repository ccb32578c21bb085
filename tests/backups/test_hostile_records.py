"""Whatever a host that is wrong, or hostile, says of its backups ends in a word, and in bounds."""

from dataclasses import replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill.backups.definition import Copy, ProofAges, Requirement, Retention, SizeLimits
from watchbill.backups.record import Kind, Level, Outcome, Proof, Record, Snapshots, Source, record_fault
from watchbill.backups.schedule import Schedule
from watchbill_collector.backups import BackupBook, JobKey, Word
from watchbill_collector.backups.evidence import COPIES_KEPT, RUNS_KEPT

from .histories import DUE, T0, D, H, History, job

KEY = JobKey("agent", "nightly")
TIMES = st.one_of(
    st.sampled_from([0, 1, 2**53]), st.integers(T0 - 800 * D, T0 + 800 * D), st.integers(T0, T0 + 3 * D)
)
COUNTS = st.none() | st.sampled_from([0, 1, 100, 2**53])
IDS = st.sampled_from([f"{number:032x}" for number in range(6)])
NAMES = st.sampled_from(["", "nas", "cloud", "other"])
SNAPSHOTS = st.builds(
    lambda listed, parts, part, count, digest: Snapshots(
        count=count,
        oldest_ms=min((at for _, at in listed), default=0),
        newest_ms=max((at for _, at in listed), default=0),
        ids_digest=digest,
        parts=parts,
        part=min(part, max(parts - 1, 0)),
        listed=tuple(listed),
    ),
    st.lists(st.tuples(st.sampled_from("abcdef"), TIMES), max_size=5),
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from([0, 1, 5, 10_000]),
    st.sampled_from(["", "x", "y"]),
)
RECORDS = st.builds(
    Record,
    record_id=IDS,
    job=st.just("nightly"),
    kind=st.sampled_from(Kind),
    source=st.sampled_from(Source),
    outcome=st.sampled_from(Outcome),
    observed_ms=TIMES,
    run_id=st.just("") | IDS,
    copy=NAMES,
    started_ms=TIMES,
    finished_ms=TIMES,
    point_ms=TIMES,
    snapshot_id=st.sampled_from(["", "a", "abcdefgh"]),
    bytes_source=COUNTS,
    bytes_stored=COUNTS,
    verify=st.none()
    | st.builds(
        Proof, level=st.sampled_from(Level), ok=st.booleans(), fraction=st.sampled_from([0.0, 0.3, 1.0])
    ),
    snapshots=st.none() | SNAPSHOTS,
    repo_locked=st.none() | st.booleans(),
    repo_id=st.sampled_from(["", "one", "two"]),
)
ASKED = job(
    schedule=Schedule(cron="15 2 * * *"),
    max_duration_s=3600.0,
    min_duration_s=60.0,
    size=SizeLimits(min_bytes=10, drop=0.3),
    retention=Retention(keep_s=30 * 86400.0, min_copies=2),
    verify=ProofAges(structure_s=86400.0, data_s=86400.0, restore_s=86400.0),
    copies=(Copy(name="nas", media="disk"), Copy(name="cloud", location="offsite", immutable=True)),
    require=Requirement(copies=2, media=1, offsite=1, immutable=1),
    observed=True,
    observe_every_s=3600.0,
)
DEFINITIONS = st.sampled_from(
    [
        ASKED,
        replace(ASKED, copies=(), schedule=Schedule(every_s=3600.0)),
        job(),
        job(schedule=Schedule(), rpo_s=0.0),
    ]
)


@settings(max_examples=40, deadline=None)
@given(
    DEFINITIONS,
    st.lists(st.tuples(RECORDS, st.integers(0, 72)), max_size=12),
    st.sampled_from([0, -400 * D, 400 * D]),
)
def test_any_records_end_in_a_word_and_are_not_looked_at_for_ever(definition, told, shift):
    book = BackupBook(T0)
    book.define(KEY, definition, T0)
    for record, hour in sorted(told, key=lambda one: one[1]):
        assert record_fault(record) == ""
        now = T0 + hour * H
        book.record(KEY, record, now, shift)
        book.watermark(KEY.agent_id, now)
        book.look(now)
        state = book.state(KEY)
        assert state.word in Word
        assert state.why
        assert state.point_ms <= now
        assert state.verified_point_ms <= now
    looks, now = 0, T0 + 72 * H
    while book.next_ms() and looks < 30:
        now = max(now, book.next_ms())
        book.watermark(KEY.agent_id, now)
        book.look(now)
        looks += 1
        assert book.next_ms() == 0 or book.next_ms() > now
    evidence = book.evidence(KEY)
    assert len(evidence.runs) <= RUNS_KEPT
    assert len(evidence.copies) <= COPIES_KEPT


def test_a_word_is_the_same_whatever_a_hosts_other_jobs_say():
    book = BackupBook(T0)
    book.define(KEY, job(), T0)
    for number in range(300):
        other = JobKey(KEY.agent_id, f"other-{number}")
        book.define(other, job(name=f"other-{number}"), T0)
    book.watermark(KEY.agent_id, DUE + H)
    words = {change.after.word for change in book.look(DUE + H)}
    assert words == {Word.MISSED}


def test_what_a_host_says_moves_no_cursor_and_has_an_end():
    rude = "\x1b[2J\r\n\u202e" + "x" * 400
    history = History(job(observed=True, observe_every_s=3600.0))
    history.ran(DUE, outcome=Outcome.FAILED, errors=(rude,))
    failed = history.state(DUE + H)
    history.saw(DUE + H, DUE)
    listed = (("\x1b[2J" + "y" * 250, DUE), ("\x07", DUE + 1))
    history.tell(
        Kind.OBSERVE,
        DUE + 2 * H,
        snapshots=msgspec.structs.replace(SOME, count=2, ids_digest="a", parts=1, listed=listed),
    )
    history.tell(Kind.OBSERVE, DUE + 3 * H, snapshots=SOME)
    gone = history.state(DUE + 4 * H)
    assert (failed.word, gone.word) == (Word.FAILED, Word.SUSPECT)
    for state in (failed, gone):
        for text in (state.why, *(facet.text for facet in state.facets.values())):
            assert text.isprintable()
            assert len(text) < 600


SOME = Snapshots(count=0)
