"""All jobs together: what is judged again when, what a restart claims, bounds, and that in any order it is the same."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill.backups.definition import ProofAges, Retention, SizeLimits
from watchbill.backups.record import Kind, Level, Outcome, Proof, Record, Source
from watchbill.backups.schedule import Schedule
from watchbill_collector.backups import BackupBook, Evidence, FacetName, JobKey, Standing, Word, judge
from watchbill_collector.backups.book import JOBS_PER_AGENT_MAX, RETENTION_TRUSTED_AFTER_MS
from watchbill_collector.backups.evidence import PROOFS_KEPT, RUNS_KEPT, SIZES_KEPT
from watchbill_collector.backups.sight import SILENT_MS
from watchbill_collector.backups.words import BAD, UNKNOWN

from .histories import DUE, MIN, T0, D, H, History, S, job

KEY = JobKey("agent-1", "nightly")


def ran(start_ms: int, number: int = 1, **given: object) -> Record:
    return Record(
        **{
            "record_id": f"{number:032x}",
            "job": "nightly",
            "kind": Kind.RUN,
            "source": Source.WRAP,
            "outcome": Outcome.OK,
            "observed_ms": start_ms + 10 * MIN,
            "started_ms": start_ms,
            "finished_ms": start_ms + 10 * MIN,
        }
        | given
    )


def words(book: BackupBook, now_ms: int) -> list[tuple[str, str]]:
    """What a look changes: word before and after."""
    return [
        (change.before.word.value if change.before else "", change.after.word.value)
        for change in book.look(now_ms)
    ]


def test_a_look_tells_each_change_once():
    book = BackupBook(T0)
    book.define(KEY, job(), T0)
    book.watermark(KEY.agent_id, T0)
    assert words(book, T0) == [("", "NEW")]
    assert words(book, T0 + H) == []
    book.record(KEY, ran(DUE), DUE + 10 * MIN, 0)
    book.watermark(KEY.agent_id, DUE + 11 * MIN)
    assert words(book, DUE + 11 * MIN) == [("NEW", "OK")]
    assert words(book, DUE + 12 * MIN) == []


def test_a_deadline_is_judged_when_it_comes_and_again_when_its_host_is_heard_through_it():
    book = BackupBook(T0)
    book.define(KEY, job(), T0)
    book.watermark(KEY.agent_id, T0)
    book.look(T0)
    book.watermark(KEY.agent_id, DUE + MIN)
    assert words(book, DUE + MIN) == [("NEW", "LATE")]
    assert book.next_ms() == DUE + 30 * MIN
    book.watermark(KEY.agent_id, DUE + 29 * MIN)
    assert words(book, DUE + 30 * MIN) == []
    assert words(book, DUE + 30 * MIN + S) == []
    book.watermark(KEY.agent_id, DUE + 30 * MIN + S)
    assert words(book, DUE + 30 * MIN + 2 * S) == [("LATE", "MISSED")]


def test_only_what_changed_is_judged():
    book = BackupBook(T0)
    keys = [JobKey(f"agent-{number}", "nightly") for number in range(50)]
    for key in keys:
        book.define(key, job(), T0)
        book.watermark(key.agent_id, T0)
    assert len(book.look(T0)) == 50
    judged = book.judged
    book.record(keys[7], ran(DUE), DUE + 10 * MIN, 0)
    assert [change.key for change in book.look(T0 + H)] == [keys[7]]
    assert book.judged == judged + 1
    assert book.look(T0 + H) == []


def test_after_a_restart_nothing_is_claimed_of_the_time_in_which_nobody_listened():
    """Down from before it was due until three hours after: what is known is said, the rest once its host was heard."""
    start = DUE + 3 * H
    book = BackupBook(start)
    book.define(KEY, job(), T0)
    book.record(KEY, ran(DUE - D), DUE - D + 10 * MIN, 0)
    book.watermark(KEY.agent_id, DUE - H, heard=False)
    assert words(book, start) == []
    assert book.state(KEY) is None
    assert words(book, start + MIN) == []
    book.record(KEY, ran(DUE, 2), start + 2 * MIN, 0)
    book.watermark(KEY.agent_id, start + 2 * MIN)
    assert words(book, start + 2 * MIN) == [("", "OK")]


def test_after_a_restart_a_host_that_stays_silent_is_unknown_and_what_was_stale_is_stale_at_once():
    start = DUE + 3 * H
    book = BackupBook(start)
    book.define(KEY, job(), T0)
    book.record(KEY, ran(DUE - D), DUE - D + 10 * MIN, 0)
    book.watermark(KEY.agent_id, DUE - H, heard=False)
    other = JobKey("agent-2", "nightly")
    book.define(other, job(), T0)
    book.record(other, ran(DUE - 9 * D), DUE - 9 * D + 10 * MIN, 0)
    book.watermark(other.agent_id, DUE + H, heard=False)
    assert [(change.key, change.after.word) for change in book.look(start)] == [(other, Word.STALE)]
    assert words(book, start + SILENT_MS) == [("", "UNKNOWN")]


def test_a_changed_schedule_asks_from_now_on_and_a_changed_rpo_at_once():
    book = BackupBook(T0)
    book.define(KEY, job(schedule=Schedule(cron="0 1 * * *")), T0)
    book.record(KEY, ran(DUE - 75 * MIN), DUE, 0)
    book.watermark(KEY.agent_id, DUE + 10 * H)
    book.define(KEY, job(schedule=Schedule(cron="0 9 * * *")), DUE + 10 * H)
    assert words(book, DUE + 10 * H) == [("", "OK")]
    book.define(KEY, job(schedule=Schedule(cron="0 9 * * *"), rpo_s=3600.0), DUE + 10 * H + MIN)
    assert words(book, DUE + 10 * H + MIN) == [("OK", "STALE")]
    assert book.standing(KEY).scheduled_ms == DUE + 10 * H


def test_a_definition_that_changes_while_a_run_goes_on_judges_the_run_by_what_holds_now():
    book = BackupBook(T0)
    book.define(KEY, job(), T0)
    run = {"run_id": "cd" * 16}
    book.record(KEY, ran(DUE, outcome=Outcome.RUNNING, observed_ms=DUE, finished_ms=0, **run), DUE, 0)
    book.watermark(KEY.agent_id, DUE + 2 * MIN)
    assert words(book, DUE + 2 * MIN) == [("", "RUNNING")]
    book.define(KEY, job(max_duration_s=60.0, schedule=Schedule(cron="0 9 * * *")), DUE + 2 * MIN)
    assert words(book, DUE + 2 * MIN) == [("RUNNING", "FAILED")]
    book.record(KEY, ran(DUE, 2, **run), DUE + 10 * MIN, 0)
    assert words(book, DUE + 10 * MIN) == [("FAILED", "OK")]


def test_a_host_that_loosens_its_retention_is_held_to_what_it_was_for_a_week():
    strict = job(
        retention=Retention(keep_s=30 * 86400.0, min_copies=3), observed=True, rpo_s=0.0, schedule=Schedule()
    )
    loose = replace(strict, retention=Retention())
    history = History(strict)
    for day in range(20):
        history.saw(DUE + day * D, *(DUE + number * D for number in range(day + 1)))
    gone = history.saw(DUE + 19 * D + 2 * H, DUE + 19 * D)
    for loosened, wanted in ((DUE + 19 * D + H, Word.SUSPECT), (DUE + 11 * D, Word.OK)):
        book = BackupBook(T0)
        book.define(KEY, strict, T0)
        book.define(KEY, loose, loosened)
        for record, received in history.told:
            book.record(KEY, record, received, 0)
        now = gone.observed_ms + H
        book.watermark(KEY.agent_id, now)
        assert [change.after.word for change in book.look(now)] == [wanted]
    assert RETENTION_TRUSTED_AFTER_MS == 7 * D


def test_a_pause_ends_by_itself():
    book = BackupBook(T0)
    book.define(KEY, job(rpo_s=0.0), T0)
    book.watermark(KEY.agent_id, DUE + 9 * H)
    book.stand(KEY, Standing(T0, paused_until_ms=DUE + 8 * H))
    assert words(book, DUE + 7 * H) == [("", "PAUSED")]
    assert book.next_ms() == DUE + 8 * H
    assert words(book, DUE + 8 * H) == [("PAUSED", "NEW")]


def test_a_job_that_is_forgotten_leaves_nothing_behind():
    book = BackupBook(T0)
    book.define(KEY, job(), T0)
    book.look(T0)
    book.forget(KEY)
    book.forget(KEY)
    assert list(book.keys()) == []
    assert book.state(KEY) is book.definition(KEY) is book.evidence(KEY) is None
    book.watermark(KEY.agent_id, DUE + H)
    assert book.look(DUE + H) == []


def test_records_come_before_their_definition_too():
    book = BackupBook(T0)
    book.record(KEY, ran(DUE), DUE + 10 * MIN, 0)
    assert book.look(DUE + H) == []
    assert list(book.keys()) == []
    book.define(KEY, job(), T0)
    book.watermark(KEY.agent_id, DUE + H)
    assert words(book, DUE + H) == [("", "OK")]


def test_jobs_of_a_host_are_bounded_and_cost_nobody_else():
    book = BackupBook(T0)
    for number in range(JOBS_PER_AGENT_MAX):
        assert book.record(JobKey("hostile", f"job-{number}"), ran(DUE), DUE + H, 0)
    assert not book.record(JobKey("hostile", "one-more"), ran(DUE), DUE + H, 0)
    assert not book.define(JobKey("hostile", "another"), job(), DUE)
    assert book.refused == 2
    assert book.define(KEY, job(), T0)


def test_moments_that_do_not_hold_any_more_do_not_pile_up():
    book = BackupBook(T0)
    book.define(KEY, job(schedule=Schedule(every_s=3600.0)), T0)
    for number in range(500):
        now = T0 + number * MIN
        book.record(KEY, ran(now - 10 * MIN, number), now, 0)
        book.watermark(KEY.agent_id, now)
        book.look(now)
    assert len(book._moments) <= 20
    assert sum(map(len, book._wants.values())) <= 20


def test_what_is_kept_of_a_job_is_bounded():
    evidence = Evidence()
    for number in range(3 * SIZES_KEPT):
        evidence.add(ran(DUE + number * H, number + 1, bytes_source=number), DUE + number * H + H, 0)
        proof = Proof(level=Level.DATA, ok=True, fraction=0.001)
        evidence.add(
            ran(DUE + number * H, 10_000 + number, kind=Kind.VERIFY, verify=proof), DUE + number * H + H, 0
        )
    assert len(evidence.runs) == RUNS_KEPT
    assert len(evidence.sizes) == SIZES_KEPT
    assert len(evidence.copies[""].proofs[Level.DATA]) == PROOFS_KEPT
    assert evidence.good_sizes(14) == list(range(3 * SIZES_KEPT - 14, 3 * SIZES_KEPT))
    evidence.add(ran(DUE, 99_999), DUE + D, 0)
    assert (len(evidence.runs), evidence.late) == (RUNS_KEPT, 1)


@pytest.mark.parametrize("at_ms", [0, 1, 253_402_300_799_999])
def test_any_time_that_a_clock_can_show_ends_in_a_word(at_ms):
    history = History(job(max_duration_s=60.0, observed=True, size=SizeLimits(drop=0.1)))
    given = {"started_ms": at_ms, "finished_ms": at_ms, "point_ms": at_ms, "observed_ms": at_ms}
    history.tell(Kind.RUN, DUE, **given)
    history.saw(DUE + MIN, at_ms, **{key: value for key, value in given.items() if key[0] in "op"})
    history.tell(Kind.VERIFY, DUE, verify=Proof(level=Level.DATA, ok=True), **given)
    for shift in (0, 400 * D, -400 * D):
        evidence = Evidence()
        for record, arrived in history.told:
            evidence.add(record, arrived, shift)
        assert judge(history.definition, evidence, DUE + H, DUE + H, history.standing).word in Word


# Any history, told in any order, twice, all at once or look by look, gives the same.

HOURS = st.integers(1, 24 * 12)
RUNS = st.builds(
    lambda hour, minutes, outcome, size: ("run", hour, minutes, outcome, size),
    HOURS,
    st.integers(1, 90),
    st.sampled_from(
        [Outcome.OK, Outcome.OK, Outcome.PARTIAL, Outcome.FAILED, Outcome.UNKNOWN, Outcome.RUNNING]
    ),
    st.none() | st.integers(0, 1000),
)
PROOFS = st.builds(
    lambda hour, level, ok, fraction: ("proof", hour, level, ok, fraction),
    HOURS,
    st.sampled_from(Level),
    st.booleans(),
    st.sampled_from([1.0, 0.5, 0.25]),
)
LOOKS = st.builds(
    lambda hour, newest, readable: ("look", hour, newest, readable), HOURS, HOURS, st.booleans()
)
DEFINITIONS = st.builds(
    job,
    schedule=st.sampled_from(
        [
            Schedule(),
            Schedule(cron="15 2 * * *"),
            Schedule(every_s=6 * 3600.0),
            Schedule(calendar="Mon..Fri 04:00"),
        ]
    ),
    rpo_s=st.sampled_from([0.0, 26 * 3600.0]),
    max_duration_s=st.sampled_from([0.0, 3600.0]),
    min_duration_s=st.sampled_from([0.0, 120.0]),
    size=st.sampled_from([SizeLimits(), SizeLimits(min_bytes=100, drop=0.3)]),
    verify=st.sampled_from([ProofAges(), ProofAges(structure_s=86400.0, data_s=3 * 86400.0)]),
    retention=st.sampled_from([Retention(), Retention(keep_s=5 * 86400.0, min_copies=2)]),
    observed=st.booleans(),
    observe_every_s=st.just(3600.0),
)


def history_of(definition, told) -> History:
    """Runs begin at moments of their own, as do looks."""
    history = History(definition)
    for number, (kind, hour, *rest) in enumerate(told):
        at = T0 + hour * H + number
        if kind == "run":
            minutes, outcome, size = rest
            run = f"{number + 1000:032x}"
            history.goes_on(at, at, run)
            if outcome is not Outcome.RUNNING:
                history.ran(at, at + minutes * MIN, run_id=run, outcome=outcome, bytes_source=size)
        elif kind == "proof":
            level, ok, fraction = rest
            history.proved(at, level, ok=ok, fraction=fraction)
        elif rest[1]:
            history.saw(at, *(T0 + day * D for day in range(rest[0] // 24 + 1)))
        else:
            history.unread(at)
    return history


HISTORIES = st.builds(history_of, DEFINITIONS, st.lists(st.one_of(RUNS, RUNS, PROOFS, LOOKS), max_size=9))


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.randoms(use_true_random=False), HOURS)
def test_the_order_of_arrival_and_doubled_records_change_nothing(history, random, hour):
    """But for what only the order of looks tells: what vanished between two of them."""
    now = T0 + 13 * D + hour * H
    plain, shuffled = Evidence(), Evidence()
    records = [record for record, _ in history.told]
    looks = sorted(
        (record for record in records if record.kind is Kind.OBSERVE), key=lambda one: one.observed_ms
    )
    others = [record for record in records if record.kind is not Kind.OBSERVE]
    for record in [*others, *looks]:
        plain.add(record, now, 0)
    mixed = [*others, *others]
    random.shuffle(mixed)
    for record in looks:
        mixed.insert(random.randrange(len(mixed) + 1), record)
    placed = iter(looks)
    mixed = [next(placed) if record.kind is Kind.OBSERVE else record for record in mixed]
    for record in mixed:
        shuffled.add(record, now, 0)
    one, other = (judge(history.definition, each, now, now, history.standing) for each in (plain, shuffled))
    assert one == other


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.lists(HOURS, max_size=12), st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_looking_on_the_way_gives_what_all_at_once_gives(history, looks, lags):
    """Word by word: a book that was looked at often, one that was looked at once, and the function itself."""
    often, once = BackupBook(), BackupBook()
    for book in (often, once):
        book.define(KEY, history.definition, T0)
    at = [(received, 0, record) for record, received in history.told]
    at += [(T0 + hour * H, 1, None) for hour in looks]
    heard = 0
    for number, (moment, _, record) in enumerate(sorted(at, key=lambda one: one[:2])):
        if record is not None:
            often.record(KEY, record, moment, 0)
            once.record(KEY, record, moment, 0)
        else:
            heard = max(heard, moment - lags[number % len(lags)] * H)
            often.watermark(KEY.agent_id, heard)
            often.look(moment)
    end = T0 + 14 * D
    once.watermark(KEY.agent_id, heard)
    moment = often.next_ms()
    while moment and moment < end:
        often.look(moment)
        assert often.next_ms() != moment
        moment = often.next_ms()
    often.look(end)
    once.look(end)
    assert often.state(KEY).says() == once.state(KEY).says()
    state = judge(history.definition, history.evidence(end), heard, end, history.standing)
    assert once.state(KEY).says() == state.says()


@settings(max_examples=80, deadline=None)
@given(HISTORIES, HOURS, st.integers(0, 1000))
def test_a_silent_host_is_never_said_to_have_missed_anything(history, hour, minutes):
    """Of what was due after it was last heard."""
    heard = T0 + hour * H
    state = history.state(heard + minutes * MIN, heard_ms=heard)
    if state.facets[FacetName.RUN].reason == "missed":
        assert history.state(heard).facets[FacetName.RUN].reason == "missed"


@settings(max_examples=60, deadline=None)
@given(HISTORIES, HOURS)
def test_between_two_moments_that_were_announced_nothing_changes(history, hour):
    """`next_ms` leaves out no deadline: a quarter before and just before it, the state is what it was."""
    now = T0 + 12 * D + hour * H
    evidence = history.evidence(now)
    end = now + 40 * D
    state = judge(history.definition, evidence, end, now, history.standing)
    until = min(state.next_ms or end, end)
    for moment in (now + (until - now) // 4, until - 1):
        later = judge(history.definition, evidence, end, moment, history.standing)
        assert later.says() == state.says()
    for name, held in zip(FacetName, state.holds_ms, strict=True):
        moment = min(held, end) - 1
        later = judge(history.definition, evidence, end, moment, history.standing)
        assert later.facets[name] == state.facets[name], "whatever becomes of the others"


@settings(max_examples=80, deadline=None)
@given(HISTORIES, HOURS)
def test_a_run_that_begins_mends_nothing(history, hour):
    """Whatever was bad before stays bad, in the same word, while it goes on. At a moment at which nothing arrives."""
    now = T0 + hour * H + 30 * MIN + 30 * S
    before = history.state(now)
    facet = before.facets[FacetName.RUN]
    history.goes_on(now + S, now + S, "f" * 32, arrived_ms=now + S)
    state = history.state(now + S)
    after = state.facets[FacetName.RUN]
    if facet.level is BAD or facet.reason == "partial":
        assert after.level is facet.level
        # A job whose runs are told is known to be stale without a look at its repository.
        assert state.word in (before.word, Word.STALE)
    elif facet.level is not UNKNOWN:
        assert after.reason == "running"
