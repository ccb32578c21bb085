"""How the collector does, for the HTTP side, and as metrics of its own."""

import ctypes
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from watchbill import __version__
from watchbill.clock import Clock
from watchbill_collector.api.ports import at
from watchbill_collector.api.status_port import CertificateStatus, DiskStatus, PortStatus, Status, StoreStatus
from watchbill_collector.history import History
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.rules import Rulebook
from watchbill_collector.series import SeriesIds, SeriesTable, Ticks
from watchbill_collector.store.database import DATABASE_FILE

TIME_ERROR = 5
"""What adjtimex answers while nothing disciplines the clock."""


class ConditionService:
    """`api.ports.StatusService`. `certificates` and `ports` are what the daemon serves with."""

    def __init__(
        self,
        clock: Clock,
        site: str,
        state: Path,
        *,
        history: History,
        ingest: Ingest,
        book: Rulebook,
        table: SeriesTable,
    ) -> None:
        self.certificates: Sequence[CertificateStatus] = ()
        self.ports: Sequence[PortStatus] = ()
        self.not_ready = "starting"
        self.channels_failing: Callable[[], Mapping[str, str]] = dict
        self.outbox_unwritten: Callable[[], str] = str
        self.roster_disabled: Callable[[], tuple[str, ...]] = tuple
        self._clock = clock
        self._site = site
        self._state = state
        self._history = history
        self._ingest = ingest
        self._book = book
        self._table = table
        self._started_ms = clock.wall_ms()

    async def status(self) -> Status:
        """A snapshot."""
        history = self._history.status()
        disk = os.statvfs(self._state)
        groups = self._book.groups()
        now_ms = self._clock.wall_ms()
        store = self._state / DATABASE_FILE
        refused: dict[str, int] = {}
        for (_, reason), count in list(self._ingest.counters.refusals.items()):
            refused[reason] = refused.get(reason, 0) + count
        return Status(
            version=__version__,
            started=at(self._started_ms),
            now=at(now_ms),
            site=self._site,
            stores=(
                StoreStatus(
                    "history",
                    str(self._history.directory),
                    history.state == "ok",
                    history.tail_bytes + history.day_bytes,
                    "; ".join(filter(None, (history.reason, *history.problems[:3]))),
                ),
                StoreStatus("store", str(self._state), True, store.stat().st_size if store.exists() else 0),
            ),
            disks=(
                DiskStatus(str(self._state), disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize),
            ),
            certificates=tuple(self.certificates),
            ports=tuple(self.ports),
            sessions=self._ingest.sessions,
            series=len(self._table),
            commit_pending=self._ingest.commits.pending_batches,
            commit_oldest_s=self._ingest.commits.oldest_s(),
            clock_synchronised=_clock_synchronised(),
            rules_failing=sum(run.health.health == "err" for group in groups for run in group.runs),
            rules_late_s=max(
                (
                    max(0.0, (now_ms - group.next_ms(group.evaluated_ms)) / 1000)
                    for group in groups
                    if group.evaluated_ms
                ),
                default=0.0,
            ),
            refused=refused,
            channels_failing=self.channels_failing(),
            outbox_unwritten=self.outbox_unwritten(),
            roster_disabled=self.roster_disabled(),
        )

    async def ready(self) -> str:
        """Why it cannot answer queries yet."""
        return self.not_ready


def _clock_synchronised() -> bool | None:
    """Whether the kernel says that something disciplines the clock; None when it cannot be asked."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        answer = libc.adjtimex(ctypes.create_string_buffer(256))
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else answer != TIME_ERROR


class CollectorMetrics:
    """Metrics of the parts that know nothing of prometheus_client; registered once."""

    def __init__(self, history: History, table: SeriesTable) -> None:
        self._history = history
        self._table = table

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are given when they are collected."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """For a prometheus_client registry."""
        info = InfoMetricFamily("watchbill_collector_build", "The version that runs.")
        info.add_metric((), {"version": __version__})
        yield info
        yield CounterMetricFamily(
            "watchbill_collector_cpu_seconds", "Processor time used by the collector.", time.process_time()
        )
        yield GaugeMetricFamily("watchbill_collector_resident_bytes", "Memory in use.", _resident_bytes())
        yield GaugeMetricFamily("watchbill_collector_series", "Series known.", float(len(self._table)))
        counters = self._history.counters
        for name in counters.__slots__:
            text = f"History: {name.replace('_', ' ')}."
            yield CounterMetricFamily(
                f"watchbill_collector_history_{name}", text, float(getattr(counters, name))
            )
        status = self._history.status()
        for name in ("tail_bytes", "pending_bytes", "day_bytes", "day_files"):
            yield GaugeMetricFamily(
                f"watchbill_collector_history_{name}",
                f"History: {name.replace('_', ' ')}.",
                float(getattr(status, name)),
            )
        yield GaugeMetricFamily(
            "watchbill_collector_history_writable",
            "Whether history takes samples.",
            float(status.state == "ok"),
        )


def _resident_bytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


OWN_JOB = "watchbill-collector"
SERIES_OWN_MAX = 5_000
"""Series of its own that the collector keeps in history: refusals are counted by host, and hosts are many."""


class OwnSamples:
    """The collector's metrics as ticks for its own history, under `job` and `instance` of its own."""

    def __init__(self, registry: CollectorRegistry, table: SeriesTable, instance: str) -> None:
        self._registry = registry
        self._table = table
        self._labels = {"job": OWN_JOB, "instance": instance}
        self._ids: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        self._series: SeriesIds = np.zeros(0, np.uint32)
        self.dropped = 0

    def tick(self, now_ms: int) -> Ticks:
        """One reading of everything."""
        ids: list[int] = []
        values: list[float] = []
        for family in self._registry.collect():
            for sample in family.samples:
                if len(ids) >= SERIES_OWN_MAX:
                    self.dropped += 1
                    continue
                key = (sample.name, tuple(sample.labels.items()))  # A family gives its labels in one order.
                known = self._ids.get(key)
                if known is None:
                    labels = {METRIC_NAME: sample.name, **dict(key[1]), **self._labels}
                    known = self._ids[key] = self._table.series_of(labels)
                    self._table.describe(sample.name, family.type, family.documentation)
                ids.append(known)
                values.append(float(sample.value))
        series = np.array(ids, np.uint32)
        if not np.array_equal(series, self._series):
            self._series = series
        return Ticks(self._series, np.array([now_ms], np.int64), np.array([values], np.float64))
