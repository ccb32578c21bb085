"""All jobs: what is known of each, and when each has to be looked at again.

A look judges what changed since the one before and what crosses a deadline by itself; of a hundred thousand jobs that
is a few. Which those are: jobs of which something was told (`_changed`), jobs whose moment has come (`_moments`), and
jobs whose host has now been heard through what they wait for (`_wants`, by host).

A book that has just begun knows nothing of the time in which nobody listened: what only a host can tell is not judged
before that host was heard, or has had time to be.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from watchbill.backups.definition import JOBS_MAX, Definition, Retention
from watchbill.backups.record import Record
from watchbill_collector.backups.due import DueTimes
from watchbill_collector.backups.evidence import Evidence, Told
from watchbill_collector.backups.moments import Moments
from watchbill_collector.backups.sight import SILENT_MS
from watchbill_collector.backups.state import judge
from watchbill_collector.backups.words import Change, JobKey, Level, Standing, State

if TYPE_CHECKING:
    from watchbill.backups.schedule import Schedule

JOBS_PER_AGENT_MAX: Final = 2 * JOBS_MAX
"""Those it has, and as many that it had. More are refused and counted."""
RETENTION_TRUSTED_AFTER_MS: Final = 7 * 86_400_000
"""Who takes over a host could loosen its retention and then delete: so long after it was loosened, snapshots are still
judged by what it was before."""
STALE_MOMENTS: Final = 4
"""Moments in the heap for each job before those that do not hold any more are thrown out."""


@dataclass(slots=True)
class _Job:
    key: JobKey
    evidence: Evidence = field(default_factory=Evidence)
    definition: Definition | None = None
    standing: Standing | None = None
    dues: DueTimes | None = None
    state: State | None = None
    next_ms: int = 0
    changed: bool = False
    """Whether it waits for the next look."""
    told: bool = False
    """Whether it waits because something else is known of it, and not for the time alone."""


class BackupBook:
    """`listening_ms`: since when hosts could be heard. `refused` counts records and definitions of jobs beyond the
    bound of their host."""

    def __init__(self, listening_ms: int = 0) -> None:
        self.listening_ms = listening_ms
        self.refused = 0
        self.judged = 0
        self._jobs: dict[JobKey, _Job] = {}
        self._of_agent: dict[str, int] = {}
        self._changed: list[_Job] = []
        self._moments: Moments[_Job] = Moments()
        self._wants: dict[str, list[tuple[int, str]]] = {}
        self._watermarks: dict[str, int] = {}
        self._heard: set[str] = set()
        self._dues: dict[Schedule, DueTimes] = {}

    def define(self, key: JobKey, definition: Definition, now_ms: int) -> bool:
        """A job as its host defines it from now on. False when its host has too many."""
        job = self._job(key)
        if job is None:
            return False
        before = job.definition
        if before is None:
            job.standing = job.standing or Standing(defined_ms=now_ms)
        else:
            assert job.standing is not None
            if before.schedule != definition.schedule:
                job.standing = replace(job.standing, scheduled_ms=now_ms)
            if _looser(before.retention, definition.retention):
                job.standing = _held_to(job.standing, before.retention, now_ms)
        job.definition = definition
        job.dues = self._dues.setdefault(definition.schedule, DueTimes(definition.schedule))
        self._change(job)
        return True

    def forget(self, key: JobKey) -> None:
        """There is no such job any more."""
        job = self._jobs.pop(key, None)
        if job is None:
            return
        job.definition, job.next_ms = None, 0
        self._of_agent[key.agent_id] -= 1
        if not self._of_agent[key.agent_id]:
            del self._of_agent[key.agent_id]
            self._wants.pop(key.agent_id, None)
            self._watermarks.pop(key.agent_id, None)
            self._heard.discard(key.agent_id)

    def record(self, key: JobKey, record: Record, received_ms: int, shift_ms: int) -> bool:
        """What was told of a job, also before it was defined. False when its host has too many."""
        job = self._job(key)
        if job is None:
            return False
        job.evidence.add(record, received_ms, shift_ms)
        self._change(job)
        return True

    def record_all(self, key: JobKey, told: Iterable[Told]) -> bool:
        """The same of many, in the order they arrived: how a start reads back what is stored."""
        job = self._job(key)
        if job is None:
            return False
        job.evidence.add_all(told)
        self._change(job)
        return True

    def watermark(self, agent_id: str, through_ms: int, *, heard: bool = True) -> None:
        """Everything is known that this host told until then. Not `heard`: as it was remembered over a restart."""
        if heard:
            self._heard.add(agent_id)
        self._watermarks[agent_id] = max(through_ms, self._watermarks.get(agent_id, 0))
        wants = self._wants.get(agent_id)
        while wants and wants[0][0] <= through_ms:
            job = self._jobs.get(JobKey(agent_id, heapq.heappop(wants)[1]))
            if job is not None:
                self._wake(job)

    def stand(self, key: JobKey, standing: Standing) -> None:
        """What is known of a job beside what its host says: pauses, reviews, since when there is it."""
        job = self._job(key)
        if job is not None:
            job.standing = standing
            self._change(job)

    def look(self, now_ms: int) -> list[Change]:
        """Judge what has to be judged; what is to be said of each that says something else now."""
        for job in self._moments.passed(now_ms):
            self._wake(job)
        changed, self._changed = self._changed, []
        for job in changed:
            job.changed = False
        changes: list[Change] = []
        for job in changed:
            if job.definition is None:
                continue
            change = self._judge(job, now_ms)
            if change is not None:
                changes.append(change)
        if len(self._moments) > STALE_MOMENTS * (len(self._jobs) + 1):
            self._moments = Moments()
            for job in self._jobs.values():
                if job.next_ms:
                    self._moments.add(job)
        return changes

    def next_ms(self) -> int:
        """When a look may find something though nothing is told; 0 for never."""
        return self._moments.next_ms()

    def state(self, key: JobKey) -> State | None:
        """What is to be said of a job; None when there is none, or too little is known since the start."""
        job = self._jobs.get(key)
        return job.state if job is not None else None

    def standing(self, key: JobKey) -> Standing | None:
        """As it was told, and as its definitions made it since."""
        job = self._jobs.get(key)
        return job.standing if job is not None else None

    def definition(self, key: JobKey) -> Definition | None:
        """The one that holds."""
        job = self._jobs.get(key)
        return job.definition if job is not None else None

    def evidence(self, key: JobKey) -> Evidence | None:
        """What is known of a job."""
        job = self._jobs.get(key)
        return job.evidence if job is not None else None

    def keys(self) -> Iterator[JobKey]:
        """All jobs that are defined."""
        return (key for key, job in self._jobs.items() if job.definition is not None)

    def _job(self, key: JobKey) -> _Job | None:
        job = self._jobs.get(key)
        if job is None:
            count = self._of_agent.get(key.agent_id, 0)
            if count >= JOBS_PER_AGENT_MAX:
                self.refused += 1
                return None
            self._of_agent[key.agent_id] = count + 1
            job = self._jobs[key] = _Job(key)
        return job

    def _change(self, job: _Job) -> None:
        """Something else is known of it: have it judged anew at the next look."""
        job.told = True
        self._wake(job)

    def _wake(self, job: _Job) -> None:
        """Have it judged at the next look."""
        if not job.changed:
            job.changed = True
            self._changed.append(job)

    def _judge(self, job: _Job, now_ms: int) -> Change | None:
        assert job.definition is not None
        assert job.standing is not None
        agent_id = job.key.agent_id
        self.judged += 1
        state = judge(
            job.definition,
            job.evidence,
            self._watermarks.get(agent_id, 0),
            now_ms,
            job.standing,
            listening_ms=self.listening_ms,
            dues=job.dues,
            before=None if job.told else job.state,
        )
        job.told = False
        self._wait(job, state, now_ms)
        before = job.state
        if before is None and self._too_soon(agent_id, state, now_ms):
            return None
        job.state = state
        if before is not None and before.says() == state.says():
            return None
        return Change(job.key, before, state)

    def _too_soon(self, agent_id: str, state: State, now_ms: int) -> bool:
        """Whether its host has still to be heard before anything is said of it. What is bad as far as known is."""
        if not state.wants_ms or state.level is Level.BAD:
            return False
        return agent_id not in self._heard and now_ms < self.listening_ms + SILENT_MS

    def _wait(self, job: _Job, state: State, now_ms: int) -> None:
        """Note when and after what the job has to be looked at again."""
        assert not state.next_ms or state.next_ms > now_ms, (
            "a moment that has passed would be looked at for ever"
        )
        if state.next_ms != job.next_ms:
            job.next_ms = state.next_ms
            if state.next_ms:
                self._moments.add(job)
        if state.wants_ms:
            wants = self._wants.setdefault(job.key.agent_id, [])
            heapq.heappush(wants, (state.wants_ms, job.key.job))


def _looser(before: Retention, after: Retention) -> bool:
    return after.keep_s < before.keep_s or after.min_copies < before.min_copies


def _held_to(standing: Standing, before: Retention, now_ms: int) -> Standing:
    """The stricter of what was asked for lately."""
    if now_ms < standing.retention_before_until_ms:
        older = standing.retention_before
        before = Retention(
            keep_s=max(before.keep_s, older.keep_s), min_copies=max(before.min_copies, older.min_copies)
        )
    return replace(
        standing, retention_before=before, retention_before_until_ms=now_ms + RETENTION_TRUSTED_AFTER_MS
    )
