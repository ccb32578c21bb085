"""How backups stand, as series: `watchbill_backup_*`, for rules, queries and whoever draws them.

A job's series carry the labels of its host, `backup`, and `service` where it belongs to one. They are said when
something changes, and all of them every SAY_EVERY_S, so that they are fresh for every rule. One that does not hold any
more gets a stale marker: another word, a job that is gone, a host that got other labels. Of a job that is paused or
retired only the word and the times are said, so that its alerts end.

Of a service the worst of its jobs counts: what can be restored of it is as old as the oldest part. A host may say which
service its job belongs to; it can make that service look worse, never better.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from watchbill_collector.backups import FacetName, JobKey, Level, State
from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.series import STALE_BITS, SeriesIds, SeriesTable, Ticks, Times, Values

SAY_EVERY_S: Final = 55.0
LEVELS: Final[Mapping[Level, float]] = {Level.OK: 0.0, Level.WARN: 1.0, Level.BAD: 2.0, Level.UNKNOWN: 3.0}

FACET: Final = "watchbill_backup_facet"
WORD: Final = "watchbill_backup_word"
MISSED: Final = "watchbill_backup_missed"
NEWEST_GOOD: Final = "watchbill_backup_newest_good_timestamp_seconds"
NEWEST_VERIFIED: Final = "watchbill_backup_newest_verified_timestamp_seconds"
RPO: Final = "watchbill_backup_rpo_seconds"
OBJECTIVE: Final = "watchbill_backup_rpo_objective_seconds"
DURATION: Final = "watchbill_backup_last_run_duration_seconds"
SIZE: Final = "watchbill_backup_size_bytes"
SERVICE_RPO: Final = "watchbill_backup_service_rpo_seconds"
SERVICE_VERIFIED_RPO: Final = "watchbill_backup_service_verified_rpo_seconds"
SERVICE_OBJECTIVE: Final = "watchbill_backup_service_rpo_objective_seconds"
SERVICE_KEPT: Final = "watchbill_backup_service_rpo_kept_ratio"
SERVICE_BUDGET: Final = "watchbill_backup_service_rpo_budget_seconds"
SERVICE_BUDGET_LEFT: Final = "watchbill_backup_service_rpo_budget_left_seconds"

_HELP: Final = {
    FACET: "How a side of a backup stands: 0 ok, 1 warning, 2 bad, 3 unknown. `severity` is how bad the job calls it.",
    WORD: "The word for a backup, as a label of a series that is 1.",
    MISSED: "Whether the last run that was due was missed.",
    NEWEST_GOOD: "The newest point in time that can be restored, as far as the tool says.",
    NEWEST_VERIFIED: "The newest point in time that was proven to be restorable.",
    RPO: "How old the newest point is that can be restored.",
    OBJECTIVE: "How old it may be, as its job says.",
    DURATION: "How long the last run took that ended.",
    SIZE: "The size of the newest good backup.",
    SERVICE_RPO: "How old the newest point is to which all of a service can be restored.",
    SERVICE_VERIFIED_RPO: "The same of points that were proven; infinite while a part never was.",
    SERVICE_OBJECTIVE: "How old it may be, as the service's description says, else the strictest of its jobs.",
    SERVICE_KEPT: "In which share of the last 30 days it was young enough, by the records of its jobs.",
    SERVICE_BUDGET: "For how long of these it may be older, so that that is 99.9 %.",
    SERVICE_BUDGET_LEFT: "What is left of that; negative when more is gone than there was.",
}
_NO_SERIES: Final = np.zeros(0, np.uint32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is said of one job. `severities` are those of its facets, `host` the labels of its host's series."""

    host: Mapping[str, str]
    service: str
    state: State
    severities: Mapping[FacetName, str]
    rpo_s: float
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Budget:
    """How the RPO that a service's description promises was kept: the share of the time, and the seconds for which it
    may be missed, and may be still."""

    kept: float
    budget_s: float
    left_s: float


@dataclass(slots=True)
class _Said:
    """The series of one job and their values. `aging`: which of them grows with time, -1 for none."""

    ids: SeriesIds
    values: list[float]
    aging: int
    job: Job


@dataclass(frozen=True, slots=True, eq=False)
class _All:
    """The series of all jobs together. `aging` are the places of those that grow with time, `points_ms` since when."""

    ids: SeriesIds
    values: Values
    aging: npt.NDArray[np.intp]
    points_ms: Times


class BackupSeries:
    """Makes the samples; whoever has it hands them on. Everything happens in one thread."""

    def __init__(self, table: SeriesTable) -> None:
        self._table = table
        self._said: dict[JobKey, _Said] = {}
        self._all: _All | None = None
        self._changed: dict[JobKey, None] = {}
        self._services: dict[str, SeriesIds] = {}
        self._said_ms = 0
        """When anything was said last: an end has to come later, or the value of that moment would stand."""
        for name, text in _HELP.items():
            table.describe(name, "gauge", text)

    def __len__(self) -> int:
        return len(self._said)

    def jobs_of(self, services: Collection[str]) -> dict[str, list[JobKey]]:
        """The jobs of which something is said, by the services that they belong to."""
        found: dict[str, list[JobKey]] = {name: [] for name in services}
        for key, said in self._said.items() if found else ():
            of_service = found.get(said.job.service)
            if of_service is not None:
                of_service.append(key)
        return found

    def say(self, key: JobKey, job: Job, now_ms: int) -> list[Ticks]:
        """A job stands so now; what ends by it. The rest is said by `say_changed`, or with all others."""
        readings, aging = _readings(job, now_ms)
        source = self._table.source(job.host)
        own = {"backup": key.job, **({"service": job.service} if job.service else {})}
        keys = [self._table.key_for_source(source, name, {**own, **more}) for name, more, _ in readings]
        ids = self._table.series(source, keys)
        before = self._said.get(key)
        ticks = [] if before is None else self._ended(np.setdiff1d(before.ids, ids), now_ms)
        self._all = None
        values = [value for _, _, value in readings]
        self._said[key] = _Said(ids, values, aging, job)
        self._changed[key] = None
        return ticks

    def say_changed(self, now_ms: int) -> list[Ticks]:
        """The jobs that stand otherwise than they were said."""
        said, self._changed = [self._said[key] for key in self._changed], {}
        if not said:
            return []
        self._said_ms = max(self._said_ms, now_ms)
        return [_said_tick(_together_of(said), now_ms)]

    def end(self, key: JobKey, now_ms: int) -> list[Ticks]:
        """Nothing more is said of a job."""
        before = self._said.pop(key, None)
        if before is None:
            return []
        self._changed.pop(key, None)
        self._all = None
        return self._ended(before.ids, now_ms)

    def say_all(
        self, now_ms: int, objectives: Mapping[str, float], budgets: Mapping[str, Budget]
    ) -> list[Ticks]:
        """Every job, and every service; `objectives` are the RPOs that services' descriptions promise, in seconds, and
        `budgets` how these were kept."""
        if self._all is None:
            self._all = _together_of(self._said.values())
        self._changed = {}
        ticks = [_said_tick(self._all, now_ms)] if len(self._all.ids) else []
        self._said_ms = max(self._said_ms, now_ms)
        return ticks + self._say_services(now_ms, objectives, budgets)

    # ------------------------------------------------------------ services

    def _say_services(
        self, now_ms: int, objectives: Mapping[str, float], budgets: Mapping[str, Budget]
    ) -> list[Ticks]:
        of: dict[str, list[Job]] = {}
        for said in self._said.values():
            if said.job.service and not said.job.state.quiet:
                of.setdefault(said.job.service, []).append(said.job)
        ticks: list[Ticks] = []
        before, self._services = self._services, {}
        for service, jobs in of.items():
            readings = _service_readings(jobs, objectives.get(service), budgets.get(service), now_ms)
            ids = np.array(
                [self._table.series_of({METRIC_NAME: name, "service": service}) for name in readings],
                np.uint32,
            )
            self._services[service] = ids
            ticks.append(_tick(ids, list(readings.values()), now_ms))
        kept = _together(self._services.values())
        return [*self._ended(np.setdiff1d(_together(before.values()), kept), now_ms), *ticks]

    def _ended(self, ids: SeriesIds, now_ms: int) -> list[Ticks]:
        return _ended(ids, max(now_ms, self._said_ms + 1))


def _readings(job: Job, now_ms: int) -> tuple[list[tuple[str, dict[str, str], float]], int]:
    """Name, labels and value of everything that is said of a job, and which of them ages."""
    state, run = job.state, job.state.last_run
    found: list[tuple[str, dict[str, str], float]] = [(WORD, {"word": state.word.value}, 1.0)]
    if not state.quiet:
        for name, facet in state.facets.items():
            labels = {"facet": name.value, "severity": job.severities[name]}
            found.append((FACET, labels, LEVELS[facet.level]))
        found.append((MISSED, {}, float(state.facets[FacetName.RUN].reason == "missed")))
    if state.verified_point_ms:
        found.append((NEWEST_VERIFIED, {}, state.verified_point_ms / 1000))
    if job.rpo_s:
        found.append((OBJECTIVE, {}, job.rpo_s))
    if run is not None and run.duration_ms:
        found.append((DURATION, {}, run.duration_ms / 1000))
    if job.size_bytes is not None:
        found.append((SIZE, {}, float(job.size_bytes)))
    aging = -1
    if state.point_ms:
        found.append((NEWEST_GOOD, {}, state.point_ms / 1000))
        aging = len(found)
        found.append((RPO, {}, (now_ms - state.point_ms) / 1000))
    return found, aging


def _service_readings(
    jobs: Sequence[Job], promised_s: float | None, budget: Budget | None, now_ms: int
) -> dict[str, float]:
    """Of the jobs of one service, the worst; a part of which there is no point has none however old."""
    readings = {
        SERVICE_RPO: max(_age_s(job.state.point_ms, now_ms) for job in jobs),
        SERVICE_VERIFIED_RPO: max(_age_s(job.state.verified_point_ms, now_ms) for job in jobs),
    }
    asked = [job.rpo_s for job in jobs if job.rpo_s]
    if promised_s or asked:
        readings[SERVICE_OBJECTIVE] = promised_s or min(asked)
    if budget is not None:
        readings[SERVICE_KEPT] = budget.kept
        readings[SERVICE_BUDGET], readings[SERVICE_BUDGET_LEFT] = budget.budget_s, budget.left_s
    return readings


def _said_tick(every: _All, now_ms: int) -> Ticks:
    values = every.values.copy()
    values[every.aging] = (now_ms - every.points_ms) / 1000
    return Ticks(every.ids, np.array([now_ms], np.int64), values.reshape(1, -1))


def _together_of(said: Iterable[_Said]) -> _All:
    parts = list(said)
    values: list[float] = []
    aging: list[int] = []
    for one in parts:
        if one.aging >= 0:
            aging.append(len(values) + one.aging)
        values += one.values
    points_ms = [one.job.state.point_ms for one in parts if one.aging >= 0]
    ids = _together(one.ids for one in parts)
    return _All(ids, np.array(values), np.array(aging, np.intp), np.array(points_ms, np.int64))


def _age_s(point_ms: int, now_ms: int) -> float:
    return (now_ms - point_ms) / 1000 if point_ms else math.inf


def _together(parts: Iterable[SeriesIds]) -> SeriesIds:
    found = list(parts)
    return np.concatenate(found) if found else _NO_SERIES


def _tick(ids: SeriesIds, values: Sequence[float], now_ms: int) -> Ticks:
    return Ticks(ids, np.array([now_ms], np.int64), np.array([values], np.float64))


def _ended(ids: SeriesIds, now_ms: int) -> list[Ticks]:
    """Stale markers, made from bits: arithmetic would turn them into ordinary NaNs."""
    if not len(ids):
        return []
    values = np.full((1, len(ids)), STALE_BITS, np.uint64).view(np.float64)
    return [Ticks(ids, np.array([now_ms], np.int64), values)]
