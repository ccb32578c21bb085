"""What judging backups costs: 100,000 jobs with ninety days of daily runs, from nothing and as nights go by.

From nothing is what a start does once its records are read: every record is folded into what is known of its job, then
every job is judged. Afterwards a look judges what changed or crosses a deadline: one per cent of all jobs at a time.
Records are made before the clock starts, and jobs that are due at the same time share them: nine million of them would
measure the machine's memory. CPU of the thread, since other things run on the machine.
"""

import gc
import resource
import time
from collections.abc import Iterator
from dataclasses import replace

from benchmarks import wrap_cost
from benchmarks.report import Report
from watchbill.backups.definition import Definition, ProofAges, Retention, SizeLimits
from watchbill.backups.record import Kind, Level, Outcome, Proof, Record, Snapshots, Source
from watchbill.backups.schedule import Schedule
from watchbill_collector.backups import BackupBook, JobKey, Word

JOBS = 100_000
JOBS_PER_HOST = 100
DAYS = 90
SLOTS = 96
"""Jobs are due every quarter of an hour round the clock: a little more than one per cent of them at a time."""
FROM_NOTHING_S = 30.0
CHANGED_MS = 50.0
ALLOWED = "what is allowed"
ROUNDS = 7
DAY_MS = 86_400_000
MINUTE_MS = 60_000
T0 = 1_780_272_000_000
"""2026-06-01 00:00 UTC."""
OBSERVED_JOBS = 200
KEPT = 30


def run(*, quick: bool) -> Report:
    """All of it; `quick` with two thousand jobs."""
    jobs = 2_000 if quick else JOBS
    report = Report(f"backups: {jobs:,} jobs x {DAYS} days")
    keys = [
        JobKey(f"agent-{number // JOBS_PER_HOST:05d}", f"job-{number % JOBS_PER_HOST}")
        for number in range(jobs)
    ]
    histories = [_runs(slot) for slot in range(SLOTS)]
    before_mb = _rss_mb()
    book, now_ms = BackupBook(T0), T0 + DAYS * DAY_MS
    loops = [_loop_ms()]
    _from_nothing(book, keys, histories, now_ms, report)
    loops.append(_loop_ms())
    report.add("memory of a job", (_rss_mb() - before_mb) * 1000 / jobs, "kB")
    # As after a start of the collector: what was read back is not looked through for cycles again and again.
    gc.collect()
    gc.freeze()
    now_ms = _changed(book, keys, now_ms, report)
    _crossing(book, keys, now_ms, report)
    _observed(report)
    loops.append(_loop_ms())
    report.add("to compare: a million additions in a loop, median", _median(loops), "ms CPU")
    wrap_cost.measure(report, ALLOWED)
    report.notes.append(
        f"{jobs * DAYS:,} records of runs; {jobs // JOBS_PER_HOST:,} hosts of {JOBS_PER_HOST} jobs each"
    )
    report.notes.append("CPU seconds of one thread; records are in memory when the clock starts")
    return report


def _from_nothing(
    book: BackupBook, keys: list[JobKey], histories: list[list[Record]], now_ms: int, report: Report
) -> None:
    definitions = [_definition(slot) for slot in range(SLOTS)]
    began = time.thread_time()
    for number, key in enumerate(keys):
        book.define(key, definitions[number % SLOTS], T0)
        book.record_all(key, [(record, record.observed_ms + 1000, 0) for record in histories[number % SLOTS]])
    folded = time.thread_time()
    for agent_id in {key.agent_id for key in keys}:
        book.watermark(agent_id, now_ms)
    changes = book.look(now_ms)
    judged = time.thread_time()
    words = {change.after.word for change in changes}
    assert len(changes) == len(keys), len(changes)
    assert words == {Word.OK}, words
    report.add("from nothing", judged - began, "s CPU", FROM_NOTHING_S, ALLOWED)
    report.add("of that: folding a record", (folded - began) / (len(keys) * DAYS) * 1e6, "us CPU")
    report.add("of that: judging a job", (judged - folded) / len(keys) * 1e6, "us CPU")


def _changed(book: BackupBook, keys: list[JobKey], now_ms: int, report: Report) -> int:
    """One per cent of all jobs tell of a run, out of turn, and their hosts are heard."""
    some = keys[::100]
    took: list[float] = []
    for number in range(ROUNDS):
        now_ms += MINUTE_MS // 10
        records = [_run(now_ms - 5 * MINUTE_MS, 10_000 + number, 1000) for _ in some]
        began = time.thread_time()
        for key, record in zip(some, records, strict=True):
            book.record(key, record, now_ms, 0)
            book.watermark(key.agent_id, now_ms)
        changes = book.look(now_ms)
        took.append(time.thread_time() - began)
        assert len(changes) == len(some), (len(changes), len(some))
    report.add("1 % of the jobs tell of a run, median", _median(took) * 1000, "ms CPU", CHANGED_MS, ALLOWED)
    return now_ms


def _crossing(book: BackupBook, keys: list[JobKey], now_ms: int, report: Report) -> None:
    """Nothing is told any more: one slot after the other is late, then missed. Both are looks of their own."""
    took: list[float] = []
    agents = sorted({key.agent_id for key in keys})
    for _ in range(ROUNDS):
        now_ms = book.next_ms() + 1
        judged = book.judged
        # Heard first, as it comes: through the minute before.
        for agent_id in agents:
            book.watermark(agent_id, now_ms)
        began = time.thread_time()
        changes = book.look(now_ms)
        took.append((time.thread_time() - began) / max(book.judged - judged, 1) * len(keys) / 100)
        assert changes or book.judged > judged
    report.add(
        "1 % of the jobs cross a deadline, median", _median(took) * 1000, "ms CPU", CHANGED_MS, ALLOWED
    )


def _observed(report: Report) -> None:
    """Jobs whose repositories are read once a day, thirty snapshots each, and verified once a week."""
    definition = replace(
        _definition(0),
        tool="restic",
        retention=Retention(keep_s=KEPT * 86_400.0, min_copies=7),
        verify=ProofAges(structure_s=14 * 86_400.0, data_s=60 * 86_400.0),
        observed=True,
        observe_every_s=86_400.0,
    )
    records = list(_observations())
    book, now_ms = BackupBook(T0), T0 + DAYS * DAY_MS
    began = time.thread_time()
    for number in range(OBSERVED_JOBS):
        key = JobKey("agent", f"job-{number}")
        book.define(key, definition, T0)
        book.record_all(key, [(record, record.observed_ms + 1000, 0) for record in records])
    folded = time.thread_time()
    book.watermark("agent", now_ms)
    changes = book.look(now_ms)
    judged = time.thread_time()
    words = {change.after.word for change in changes}
    assert words == {Word.OK}, changes[0].after
    report.add(
        f"a look that lists {KEPT} snapshots, folded",
        (folded - began) / (OBSERVED_JOBS * len(records)) * 1e6,
        "us CPU",
    )
    report.add(
        "judging a job that is also looked at and verified", (judged - folded) / OBSERVED_JOBS * 1e6, "us CPU"
    )


def _observations() -> Iterator[Record]:
    for day in range(DAYS):
        start_ms = T0 + day * DAY_MS
        yield _run(start_ms, day, 1000 + day)
        times = [start_ms - back * DAY_MS for back in range(min(day + 1, KEPT))]
        yield Record(
            record_id=f"{day + 1_000_000:032x}",
            job="job",
            kind=Kind.OBSERVE,
            source=Source.REPO,
            outcome=Outcome.OK,
            observed_ms=start_ms + 20 * MINUTE_MS,
            started_ms=start_ms + 20 * MINUTE_MS,
            point_ms=times[0],
            snapshots=Snapshots(
                count=len(times),
                oldest_ms=times[-1],
                newest_ms=times[0],
                ids_digest=f"{day:032x}",
                parts=1,
                listed=tuple((f"{time_ms:064x}", time_ms) for time_ms in times),
            ),
        )
        if day % 7 == 0:
            yield Record(
                record_id=f"{day + 2_000_000:032x}",
                job="job",
                kind=Kind.VERIFY,
                source=Source.REPO,
                outcome=Outcome.OK,
                observed_ms=start_ms + 40 * MINUTE_MS,
                verify=Proof(level=Level.DATA, ok=True),
            )


def _definition(slot: int) -> Definition:
    return Definition(
        name="job",
        tool="wrap",
        schedule=Schedule(cron=f"{slot % 4 * 15} {slot // 4} * * *"),
        max_duration_s=4 * 3600.0,
        min_duration_s=20.0,
        rpo_s=26 * 3600.0,
        size=SizeLimits(min_bytes=10, drop=0.3),
        retention=Retention(keep_s=KEPT * 86_400.0, min_copies=7),
    )


def _runs(slot: int) -> list[Record]:
    """One a day, at the slot's quarter of an hour."""
    start_ms = T0 + slot * 15 * MINUTE_MS
    return [_run(start_ms + day * DAY_MS, day, 1000 + day) for day in range(DAYS)]


def _run(start_ms: int, number: int, size: int) -> Record:
    return Record(
        record_id=f"{number:032x}",
        job="job",
        kind=Kind.RUN,
        source=Source.WRAP,
        outcome=Outcome.OK,
        observed_ms=start_ms + 10 * MINUTE_MS if number < 10_000 else start_ms + MINUTE_MS,
        run_id=f"{number:032x}",
        started_ms=start_ms,
        finished_ms=start_ms + MINUTE_MS,
        exit_code=0,
        bytes_source=size,
    )


def _median(some: list[float]) -> float:
    return sorted(some)[len(some) // 2]


def _loop_ms() -> float:
    """How fast this machine is while it measures: 28 ms where the figures of docs/decisions.md were taken."""
    began, total = time.thread_time(), 0
    for number in range(1_000_000):
        total += number
    return (time.thread_time() - began) * 1000


def _rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
