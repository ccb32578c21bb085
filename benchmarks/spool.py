"""The agent's spool: what a record costs to keep, what a sync costs, and how long a start takes with a full one.

Beside it SQLite in WAL mode, as an agent would use it: a row a record, `synchronous=NORMAL` and a commit a record
(which the kernel keeps through a kill), `FULL` where every record is synced.
"""

import os
import resource
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import Report
from watchbill.clock import SystemClock
from watchbill.codec import BlockValues, FamilyRun, MetricKind, encode_schema, encode_ticks, pack
from watchbill.protocol.frames import Stream
from watchbill_agent.spool import DiskSpool, Draft, Sizes, SystemFilesystem

SERIES = 300
MIB = 1 << 20
AGENT = b"b" * 16


class CountingDisk(SystemFilesystem):
    """The real disk, counted."""

    def __init__(self) -> None:
        self.syncs = 0

    def sync(self, handle: int) -> None:
        """One more."""
        self.syncs += 1
        super().sync(handle)

    def sync_directory(self, path: Path) -> None:
        """One more."""
        self.syncs += 1
        super().sync_directory(path)


def run(*, quick: bool) -> Report:
    """Appends, syncs, and the start with a full spool."""
    report = Report(f"spool: records of {SERIES} samples")
    appends = 2_000 if quick else 20_000
    synced = 50 if quick else 500
    full_bytes = (64 if quick else 1024) * MIB
    place = Path(tempfile.mkdtemp(prefix="wb-spool-", dir=os.environ.get("WATCHBILL_BENCH_DIR")))
    try:
        ours, peer = _appends(place / "a", appends), _sqlite(place / "a.db", appends, "NORMAL")
        report.add("CPU a record appended", ours * 1e6, "us", peer * 1e6, "SQLite WAL, a commit a record")
        report.add("records appended a CPU second", 1 / ours, "1/s", 1 / peer, "SQLite WAL")
        ours_s, peer_s = _synced(place / "s", synced), _sqlite_wall(place / "s.db", synced)
        report.add(
            "time a record appended and synced", ours_s[0] * 1e3, "ms", peer_s * 1e3, "SQLite WAL, FULL"
        )
        report.add("syncs a record", ours_s[1], "")
        _full(report, place / "full", full_bytes)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return report


def _draft() -> Draft:
    labels = tuple((("n", str(index)),) for index in range(SERIES))
    schema = encode_schema([FamilyRun("node_bench", MetricKind.GAUGE, "A series.", labels)])
    block = BlockValues(schema, [1_000_000], 1_700_000_000_000, pack([1.5 * n for n in range(SERIES)]))
    return Draft(encode_ticks([block], "boot"), SERIES, 1_000_000, 1_000_000, (schema,))


def _cpu_s(work: Callable[[], None]) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _appends(place: Path, count: int) -> float:
    spool = DiskSpool(place, AGENT, sizes=Sizes(1 << 30))
    draft = _draft()

    def work() -> None:
        for _ in range(count):
            spool.append(Stream.BULK, draft)
        spool.sync()

    cpu_s = _cpu_s(work)
    spool.close()
    return cpu_s / count


def _sqlite(path: Path, count: int, synchronous: str) -> float:
    connection = _database(path, synchronous)
    body = _draft().body

    def work() -> None:
        for _ in range(count):
            connection.execute("INSERT INTO records (body, samples, at) VALUES (?, ?, ?)", (body, SERIES, 1))
            connection.commit()

    cpu_s = _cpu_s(work)
    connection.close()
    return cpu_s / count


def _database(path: Path, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute(
        "CREATE TABLE records (seq INTEGER PRIMARY KEY, body BLOB, samples INTEGER, at INTEGER)"
    )
    return connection


def _synced(place: Path, count: int) -> tuple[float, float]:
    disk = CountingDisk()
    spool = DiskSpool(place, AGENT, sizes=Sizes(1 << 30), filesystem=disk)
    while spool.reserve_short:
        spool.sync()
    draft = _draft()
    spool.append(Stream.BULK, draft)
    spool.sync()
    before, began_s = disk.syncs, time.monotonic()
    for _ in range(count):
        spool.append(Stream.BULK, draft)
        spool.sync()
    took_s = time.monotonic() - began_s
    spool.close()
    return took_s / count, (disk.syncs - before) / count


def _sqlite_wall(path: Path, count: int) -> float:
    connection = _database(path, "FULL")
    body = _draft().body
    began_s = time.monotonic()
    for _ in range(count):
        connection.execute("INSERT INTO records (body, samples, at) VALUES (?, ?, ?)", (body, SERIES, 1))
        connection.commit()
    took_s = time.monotonic() - began_s
    connection.close()
    return took_s / count


def _full(report: Report, place: Path, size: int) -> None:
    spool = DiskSpool(place, AGENT, sizes=Sizes(size + 64 * MIB))
    draft = _draft()
    while spool.facts().bytes < size:
        for _ in range(400):
            spool.append(Stream.BULK, draft)
        spool.sync()
    records = spool.last(Stream.BULK)
    spool.close()
    words = f"{size / MIB:.0f} MiB, {records} records"
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    spool = DiskSpool(place, AGENT, sizes=Sizes(size + 64 * MIB))
    spool.append(Stream.BULK, draft)
    took_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    report.add(f"start to the first append, {words}", took_s * 1e3, "ms", 200.0, "allowed")
    report.add("CPU of that", cpu_s * 1e3, "ms")
    clock, began_s = SystemClock(), time.monotonic()
    cpu_s = _cpu_s(
        lambda: [spool.check_segment(stream, path) for stream, path, _ in spool.segments()] and None
    )
    report.add("all of it verified, warm, without pauses", clock.monotonic_s() - began_s, "s", 5.0, "allowed")
    report.add("CPU of that", cpu_s, "s")
    seq, taken, began_s = 0, 0, time.monotonic()
    while (record := spool.held_after(Stream.BULK, seq)) is not None:
        seq = record.last
        taken += record.samples
    took_s = time.monotonic() - began_s
    report.add("reading it as a sender does", taken / took_s / 1e6, "M samples/s")
    spool.close()
    report.notes.append("warm: just written, in the page cache; the agent pauses as long as it reads")
