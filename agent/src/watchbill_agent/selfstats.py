"""What the agent costs and how it fares, as a reading beside the samplers': the monitor is monitored, too."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from watchbill import __version__
from watchbill_agent.reading import Family, Layout, MetricType, Reading, Series, labels
from watchbill_agent.scheduler import Punctuality

PREFIX = "watchbill_agent_"


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything counted elsewhere, gathered once a tick. Counters grow for as long as the process lives."""

    series: int = 0
    series_refused: Mapping[str, int] | None = None
    dictionaries: int = 0
    readings_broken: int = 0
    tick_duration_s: float = 0.0
    suspended_s: float = 0.0
    queue_records: int = 0
    queue_bytes: int = 0
    queue_bytes_max: int = 0
    dropped_records: int = 0
    dropped_samples: int = 0
    acked_records: int = 0
    spool_durable: bool = False
    spool_segments: int = 0
    spool_written_bytes: int = 0
    spool_syncs: int = 0
    spool_failures: int = 0
    spool_damaged: int = 0
    spool_refused: int = 0
    spool_reserve_short: int = 0
    connected: bool = False
    attempts: int = 0
    sessions: int = 0
    messages_sent: int = 0
    bytes_sent: int = 0
    records_sent: int = 0
    records_sent_again: int = 0
    beats_sent: int = 0
    in_flight_bytes: int = 0
    collector_refused: Mapping[str, int] | None = None
    clock_offset_s: float = 0.0
    certificate_expires_s: float = 0.0
    certificate_life_s: float = 0.0
    backup_jobs: int = 0
    backup_looks: int = 0
    backup_looks_failed: int = 0
    backup_verifications: int = 0
    backup_looks_stuck: int = 0
    backup_records: int = 0
    backup_records_refused: int = 0
    backup_requests: int = 0
    backup_requests_refused: int = 0
    backup_requests_dropped: int = 0
    orders: int = 0
    orders_dropped: int = 0
    orders_without_runner: int = 0
    orders_events: int = 0
    backup_reports: int = 0
    backup_reports_refused: int = 0
    backup_reports_waiting: int = 0
    pings: int = 0
    pings_refused: int = 0
    happenings: int = 0
    happenings_dropped: int = 0
    reloads: int = 0
    reloads_refused: int = 0
    last_reload_ok: bool = True
    log_lines_suppressed: int = 0


_COUNTER, _GAUGE = MetricType.COUNTER, MetricType.GAUGE

_PLAIN: tuple[tuple[str, MetricType, str], ...] = (
    ("cpu_seconds_total", _COUNTER, "CPU time of the agent and its ended children."),
    ("resident_memory_bytes", _GAUGE, "Memory the agent holds."),
    ("open_fds", _GAUGE, "Open file descriptors."),
    ("start_time_seconds", _GAUGE, "When the agent started, in seconds since 1970."),
    ("series", _GAUGE, "Series sampled now."),
    ("dictionaries_total", _COUNTER, "Series dictionaries built."),
    ("readings_broken_total", _COUNTER, "Readings dropped because values and series did not match."),
    ("ticks_total", _COUNTER, "Sampling rounds."),
    ("ticks_missed_total", _COUNTER, "Sampling rounds that did not take place: stall, suspend, overload."),
    ("tick_lateness_seconds", _GAUGE, "How late the latest of the rounds since the last one sent was."),
    ("tick_duration_seconds", _GAUGE, "How long the last round took."),
    ("suspended_seconds_total", _COUNTER, "Time the machine slept while the agent ran."),
    ("queue_records", _GAUGE, "Records waiting for the collector's acknowledgement."),
    ("queue_bytes", _GAUGE, "Bytes they take."),
    ("queue_bytes_max", _GAUGE, "Bytes they may take."),
    ("dropped_records_total", _COUNTER, "Records dropped because the queue was full."),
    ("dropped_samples_total", _COUNTER, "Samples dropped with them."),
    ("acked_records", _GAUGE, "Number of the last record that the collector has committed."),
    (
        "spool_durable",
        _GAUGE,
        "1 while what waits survives a power cut, 0 in memory or when the disk refuses.",
    ),
    ("spool_segments", _GAUGE, "Files of the spool."),
    ("spool_written_bytes_total", _COUNTER, "Bytes of records written to it."),
    ("spool_syncs_total", _COUNTER, "Syncs of a stream."),
    ("spool_failures_total", _COUNTER, "Writes and syncs that the disk refused."),
    ("spool_damaged_total", _COUNTER, "Damaged stretches found, and files set aside."),
    (
        "spool_refused_records_total",
        _COUNTER,
        "Critical records that could not be kept; their producers were told.",
    ),
    (
        "spool_reserve_missing_files",
        _GAUGE,
        "Files of the reserve for critical records that are not made yet.",
    ),
    ("connected", _GAUGE, "1 with a session, 0 without."),
    ("connection_attempts_total", _COUNTER, "Attempts to reach the collector."),
    ("sessions_total", _COUNTER, "Sessions with the collector; all but the first are reconnects."),
    ("messages_sent_total", _COUNTER, "Messages sent to the collector."),
    ("sent_bytes_total", _COUNTER, "Bytes of these messages."),
    ("records_sent_total", _COUNTER, "Records sent."),
    ("records_sent_again_total", _COUNTER, "Records sent more than once."),
    ("beats_sent_total", _COUNTER, "Beats sent."),
    ("in_flight_bytes", _GAUGE, "Bytes sent and not acknowledged."),
    ("clock_offset_seconds", _GAUGE, "This host's clock less the collector's, to within a round trip."),
    ("certificate_expiry_seconds", _GAUGE, "When the certificate ends, in seconds since 1970; 0 without."),
    ("certificate_lifetime_seconds", _GAUGE, "How long the certificate is valid in all; 0 without."),
    ("backup_jobs", _GAUGE, "Backup jobs of this host."),
    ("backup_looks_total", _COUNTER, "Looks at repositories of backups."),
    ("backup_looks_failed_total", _COUNTER, "Looks and verifications that found nothing out."),
    ("backup_verifications_total", _COUNTER, "Verifications of backups."),
    ("backup_looks_stuck", _GAUGE, "Looks that could not be ended and are left to themselves."),
    ("backup_records_total", _COUNTER, "Records about backups that these looks made."),
    ("backup_records_refused_total", _COUNTER, "Records about backups that the spool did not take."),
    ("backup_requests_total", _COUNTER, "Verifications of backups that the collector asked for."),
    ("backup_requests_refused_total", _COUNTER, "Of these, those that this host did not make."),
    ("backup_requests_dropped_total", _COUNTER, "Of these, those that were too many to be answered."),
    ("orders_total", _COUNTER, "Orders of the collector for this host's runner."),
    ("orders_dropped_total", _COUNTER, "Of these, those that were too many, or that no runner took in time."),
    ("orders_without_runner_total", _COUNTER, "Of these, those that were refused because no runner listens."),
    ("orders_events_total", _COUNTER, "Events that this host's runner told."),
    ("backup_reports_total", _COUNTER, "Records of runs that others handed over."),
    (
        "backup_reports_refused_total",
        _COUNTER,
        "Records of runs that could not be kept, and files in their place that are none.",
    ),
    ("backup_reports_waiting", _GAUGE, "Records of runs that wait as files."),
    ("pings_total", _COUNTER, "Pings that were taken."),
    ("pings_refused_total", _COUNTER, "Pings of jobs that there are not, that were none, or too many."),
    ("sampled_events_total", _COUNTER, "Events of the host's timeline that samplers told."),
    ("sampled_events_dropped_total", _COUNTER, "Events of samplers that were too many to be told."),
    ("config_reloads_total", _COUNTER, "Configuration reloads asked for."),
    ("config_reloads_refused_total", _COUNTER, "Reloads refused because the files were wrong."),
    ("config_last_reload_successful", _GAUGE, "1 if the files in use are the files on disk as last read."),
    ("log_lines_suppressed_total", _COUNTER, "Log lines not written because there were too many."),
)
_REFUSED = Family(PREFIX + "series_refused", _GAUGE, "Series left out now, by reason.")
_BY_COLLECTOR = Family(
    PREFIX + "collector_refused_total", _COUNTER, "What the collector refused, by its reason."
)
_BUILD = Family(PREFIX + "build_info", _GAUGE, "Which agent this is.")


class SelfStats:
    """Samples this process; `facts` is asked at every tick."""

    name = "watchbill_agent"

    def __init__(self, facts: Callable[[], Facts], punctuality: Punctuality, started_s: float) -> None:
        self._facts = facts
        self._punctuality = punctuality
        self._started_s = started_s
        self._memory = Memory()
        self._reasons: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._layout = _layout((), ())

    def sample(self) -> Reading:
        """One reading; the layout changes only when a reason appears or vanishes."""
        facts = self._facts()
        refused, by_collector = facts.series_refused or {}, facts.collector_refused or {}
        reasons = tuple(sorted(refused)), tuple(sorted(by_collector))
        if reasons != self._reasons:
            self._reasons, self._layout = reasons, _layout(*reasons)
        # Whole microseconds: what is finer is noise, and noise is what history cannot compress.
        values = [
            *(round(value, 6) for value in self._plain(facts)),
            1.0,
            *(float(refused[reason]) for reason in reasons[0]),
            *(float(by_collector[reason]) for reason in reasons[1]),
        ]
        return Reading(self._layout, values)

    def _plain(self, facts: Facts) -> Sequence[float]:
        """In the order of _PLAIN."""
        punctuality = self._punctuality
        return (
            cpu_seconds(),
            self._memory.rss_bytes(),
            open_fds(),
            self._started_s,
            facts.series,
            facts.dictionaries,
            facts.readings_broken,
            punctuality.ticks,
            punctuality.missed,
            punctuality.take_max_s(),
            facts.tick_duration_s,
            facts.suspended_s,
            facts.queue_records,
            facts.queue_bytes,
            facts.queue_bytes_max,
            facts.dropped_records,
            facts.dropped_samples,
            facts.acked_records,
            float(facts.spool_durable),
            facts.spool_segments,
            facts.spool_written_bytes,
            facts.spool_syncs,
            facts.spool_failures,
            facts.spool_damaged,
            facts.spool_refused,
            facts.spool_reserve_short,
            float(facts.connected),
            facts.attempts,
            facts.sessions,
            facts.messages_sent,
            facts.bytes_sent,
            facts.records_sent,
            facts.records_sent_again,
            facts.beats_sent,
            facts.in_flight_bytes,
            facts.clock_offset_s,
            facts.certificate_expires_s,
            facts.certificate_life_s,
            facts.backup_jobs,
            facts.backup_looks,
            facts.backup_looks_failed,
            facts.backup_verifications,
            facts.backup_looks_stuck,
            facts.backup_records,
            facts.backup_records_refused,
            facts.backup_requests,
            facts.backup_requests_refused,
            facts.backup_requests_dropped,
            facts.orders,
            facts.orders_dropped,
            facts.orders_without_runner,
            facts.orders_events,
            facts.backup_reports,
            facts.backup_reports_refused,
            facts.backup_reports_waiting,
            facts.pings,
            facts.pings_refused,
            facts.happenings,
            facts.happenings_dropped,
            facts.reloads,
            facts.reloads_refused,
            float(facts.last_reload_ok),
            facts.log_lines_suppressed,
        )

    def close(self) -> None:
        """Give the descriptor back."""
        self._memory.close()


def _layout(refused: Sequence[str], by_collector: Sequence[str]) -> Layout:
    families = [Family(PREFIX + name, kind, text) for name, kind, text in _PLAIN]
    series = [Series(family.name) for family in families]
    series.append(Series(_BUILD.name, labels(version=__version__, python=platform.python_version())))
    series += [Series(_REFUSED.name, labels(reason=reason)) for reason in refused]
    series += [Series(_BY_COLLECTOR.name, labels(reason=reason)) for reason in by_collector]
    return Layout([*families, _BUILD, _REFUSED, _BY_COLLECTOR], series)


def cpu_seconds() -> float:
    """User and system time of this process and of its children that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def open_fds() -> int:
    """Open descriptors, without the one that looks; 0 where /proc is not there."""
    try:
        with os.scandir("/proc/self/fd") as entries:
            return sum(1 for _ in entries) - 1
    except OSError:
        return 0


class Memory:
    """Resident memory of this process; the agent's own /proc, wherever --procfs points."""

    def __init__(self) -> None:
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        try:
            self._fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def rss_bytes(self) -> int:
        """Bytes; 0 where /proc is not there."""
        try:
            return int(os.pread(self._fd, 256, 0).split()[1]) * self._page_bytes
        except (OSError, IndexError, ValueError):
            return 0

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def started_s() -> float:
    """When this process started, in seconds since 1970; now, where the kernel does not say."""
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, IndexError, ValueError):
        return time.time()
