"""Backups in the daemon: says which jobs there are, has their repositories looked at, and verified.

1. At the start and after a reload: `backup.jobs`, all of them; then the definitions that were not told yet. What was
   told (definitions, lists of snapshots) is told again once in TOLD_AGAIN_MS, for a collector that lost it.
2. Each repository is looked at every `observe_every`, with jitter, one after the other. Beside the looks one
   verification at a time may go on.
3. A look is a child (`asked`). Its records go into the spool for critical records, each with its own id; only when they
   are there does the list of snapshots count as told.
4. A look that came to nothing is a record, too: unknown, and why.
5. The collector may ask for one of the verifications that a job declares (`judge`): it comes before what is due.
"""

import asyncio
import json
import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from watchbill.backups.record import (
    BACKUP_DEFINED,
    BACKUP_JOBS,
    BACKUP_RECORD,
    Kind,
    Level,
    Outcome,
    Record,
    Source,
    new_id,
    read_record,
)
from watchbill.backups.requests import TOO_SOON, UNKNOWN_JOB
from watchbill.clock import Clock
from watchbill.errors import Unreadable, UsageError
from watchbill.logs import fields
from watchbill.protocol.frames import VerifyBackup
from watchbill_agent.backups import memory
from watchbill_agent.backups.adapter import Check, Reason, error_lines
from watchbill_agent.backups.asked import Answer, ask
from watchbill_agent.backups.choosing import choose, occupied
from watchbill_agent.backups.config import JobConfig
from watchbill_agent.backups.drop import fitted
from watchbill_agent.backups.present import VAR_DIRECTORY, Counts
from watchbill_agent.backups.repository import Repository, scratch_name, tidy
from watchbill_agent.backups.requests import (
    EACH_S,
    SAVED_S,
    SHARE,
    Allowance,
    Begun,
    Refused,
    Verdict,
)
from watchbill_agent.backups.verifying import Progress, age_of, next_check, proved, unproved
from watchbill_agent.spool import Receipt, SpoolFull

log = logging.getLogger(__name__)

JITTER: Final = 0.1
"""Of the time between two looks: a thousand hosts must not ask one file server at once."""
FIRST_S_MAX: Final = 300.0
FIRST_SHARE: Final = 0.05
"""After a start every repository is looked at within this share of the time between two looks, and FIRST_S_MAX."""
SOON_S: Final = 15.0
"""After a run that ended: its repository says what became of it."""
AGAIN_S: Final = 60.0
"""After a spool that was full."""
STUCK_AGAIN_S: Final = 600.0
"""How long a repository is let alone whose child cannot be ended."""
IDLE_S_MAX: Final = 3600.0
TOLD_AGAIN_MS: Final = 7 * 86_400_000
SCRATCH: Final = "scratch"

Ask = Callable[[dict[str, Any], float], Awaitable[Answer]]


class Keeps(Protocol):
    """Where records and events go: `Events`."""

    async def keep(self, kind: str, payload: Mapping[str, object], event_id: bytes | None = None) -> Receipt:
        """Raises SpoolFull, UsageError."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A verification that was asked for, and is next."""

    job: str
    key: str
    check: Check
    request_id: bytes


@dataclass(slots=True)
class Backups:
    """`jobs` are those of the files; `var` is the agent's state. `uniform` is where jitter comes from; `runner` tells a
    look where this host's runner is (`etc`, `runner`)."""

    jobs: Sequence[JobConfig]
    var: Path
    agent_id: str
    events: Keeps
    clock: Clock
    ask: Ask = ask
    uniform: Callable[[float, float], float] = random.uniform
    runner: Mapping[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    _repositories: dict[str, Repository] = field(default_factory=dict)
    _memory: memory.Memory = field(default_factory=memory.Memory)
    _looks_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _verifications_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _remembering: asyncio.Lock = field(default_factory=asyncio.Lock)
    _announced: bool = False
    _wanted: Wanted | None = None
    _verifying: Repository | None = None
    _allowance: Allowance = field(init=False)
    """Of what is asked for, in seconds."""

    def __post_init__(self) -> None:
        self._allowance = Allowance(SHARE, SAVED_S, self.clock.monotonic_s())
        self._memory = memory.load(self.var, self.agent_id)
        self.adopt(self.jobs)

    # ------------------------------------------------------------ what there is

    def adopt(self, jobs: Sequence[JobConfig]) -> None:
        """Other jobs from now on. A repository that is read as before is looked at when it would have been."""
        before, self._repositories = self._repositories, {}
        self.jobs = jobs
        now_s = self.clock.monotonic_s()
        for job in jobs:
            for target in job.targets:
                first_s = self.uniform(0, min(FIRST_S_MAX, FIRST_SHARE * job.definition.observe_every_s))
                one = Repository(job, target, now_s + first_s)
                old = before.get(one.key)
                if old is not None:
                    one.left, one.last, one.unproved = old.left, old.last, old.unproved
                    if old.target == target:
                        one.due_s = min(old.due_s, now_s + job.definition.observe_every_s)
                self._repositories[one.key] = one
        self._memory.keep_only({job.name for job in jobs}, set(self._repositories))
        self.counts.jobs = len(jobs)
        self._announced = False
        self._wake()

    def soon(self, job: str) -> None:
        """A run of this job ended: look at what became of it."""
        soon_s = self.clock.monotonic_s() + SOON_S
        for one in self._repositories.values():
            if one.job.name == job:
                one.due_s = min(one.due_s, soon_s)
                self._wake()

    def seen(self) -> list[dict[str, object]]:
        """What the last looks found, for `backup list`."""
        now_s = self.clock.monotonic_s()
        return [
            {
                "job": one.job.name,
                "copy": one.target.copy,
                "next_look_s": max(0, round(one.due_s - now_s)),
                "observed_ms": 0 if one.last is None else one.last.observed_ms,
                "outcome": "" if one.last is None else one.last.outcome.value,
                "reason": "" if one.last is None else one.last.reason,
                "errors": [] if one.last is None else list(one.last.errors),
                "point_ms": 0 if one.last is None else one.last.point_ms,
                "snapshots": None
                if one.last is None or one.last.snapshots is None
                else one.last.snapshots.count,
            }
            for one in self._repositories.values()
        ]

    # ------------------------------------------------------------ the loop

    async def run(self) -> None:
        """For ever. Looks and verifications go side by side, of each one at a time: reading all data back takes hours,
        and the others must not be out of sight for it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lane(self.look_turn, self._looks_changed), name="looks at backups")
            group.create_task(self._lane(self.verify_turn, self._verifications_changed), name="verifications")

    async def _lane(self, turn: Callable[[], Awaitable[float]], changed: asyncio.Event) -> None:
        while True:
            changed.clear()
            wait_s = await turn()
            try:
                async with asyncio.timeout(wait_s):
                    await changed.wait()
            except TimeoutError:
                pass

    def _wake(self) -> None:
        self._looks_changed.set()
        self._verifications_changed.set()

    async def look_turn(self) -> float:
        """Announce what is new, then the look that is due first; how long there is nothing to do."""
        if not self._announced and not await self._announce():
            return AGAIN_S
        waiting = self._waiting()
        first = min(waiting, key=lambda one: one.due_s, default=None)
        wait_s = IDLE_S_MAX if first is None else first.due_s - self.clock.monotonic_s()
        if first is not None and wait_s <= 0:
            await self._look(first)
            return 0.0
        return min(wait_s, STUCK_AGAIN_S) if self.counts.stuck else min(wait_s, IDLE_S_MAX)

    async def verify_turn(self) -> float:
        """The verification that was asked for, else the one that is due first; how long there is none."""
        if self._wanted is not None and self._announced:
            await self._verify_wanted()
            return 0.0
        due = self._verification(self._waiting()) if self._announced else None
        if due is None:
            return IDLE_S_MAX
        wait_s = (due[0] - self.clock.wall_ms()) / 1000
        if wait_s <= 0:
            await self._verify(*due[1:])
            return 0.0
        return min(wait_s, IDLE_S_MAX)

    def _waiting(self) -> list[Repository]:
        """All but those whose children did not end."""
        waiting = [one for one in self._repositories.values() if not one.is_stuck()]
        self.counts.stuck = len(self._repositories) - len(waiting)
        return waiting

    # ------------------------------------------------------------ which jobs there are

    async def _announce(self) -> bool:
        """Tell the collector which jobs there are; False when that could not be kept."""
        jobs = self.jobs
        digests = {job.name: job.definition.digest() for job in jobs}
        try:
            await self.events.keep(BACKUP_JOBS, {"jobs": digests})
            for job in jobs:
                await self._define(job, digests[job.name])
        except SpoolFull as exc:
            self.counts.refused += 1
            log.error("the backups of this host cannot be announced", extra=fields(reason=exc))
            return False
        # A reload in the meantime has others, which are not announced yet.
        self._announced = self.jobs is jobs
        self._verifications_changed.set()
        await self._remember()
        await asyncio.to_thread(tidy, self._scratch, {scratch_name(key) for key in self._repositories})
        return True

    async def _define(self, job: JobConfig, digest: str) -> None:
        told = self._memory.definitions.get(job.name)
        now_ms = self.clock.wall_ms()
        if told is not None and told.digest == digest and 0 <= now_ms - told.told_ms < TOLD_AGAIN_MS:
            return
        document = json.loads(job.definition.to_json())
        # The same version is the same event, however often it is told.
        await self.events.keep(BACKUP_DEFINED, {"digest": digest, "definition": document})
        self._memory.definitions[job.name] = memory.Definition(digest, now_ms)

    # ------------------------------------------------------------ looks

    async def _look(self, one: Repository) -> None:
        known = self._memory.repository(one.key)
        began_ms = self.clock.wall_ms()
        within_s = one.job.observe_within_s
        fresh = 0 <= began_ms - known.told_ms < TOLD_AGAIN_MS
        told_digest = known.told_digest if fresh else ""
        one.due_s = math.inf
        answer = await self.ask({**self._question(one, "observe"), "told_digest": told_digest}, within_s)
        records = self._records(one, answer, Kind.OBSERVE, began_ms)
        one = self._now(one, answer)
        self.counts.looks += 1
        every_s = one.job.definition.observe_every_s
        # Sooner, if a run ended while this look was going on.
        next_s = self.clock.monotonic_s() + every_s * (1 + self.uniform(-JITTER, JITTER))
        one.due_s = min(one.due_s, next_s)
        self._note(one, records[0])
        if await self._keep(records):
            digest = next((each.snapshots.ids_digest for each in records if each.snapshots is not None), "")
            if digest and digest != told_digest:
                known.told_digest, known.told_ms = digest, began_ms
                await self._remember()
        else:
            one.due_s = min(one.due_s, self.clock.monotonic_s() + AGAIN_S)

    @property
    def _scratch(self) -> Path:
        return self.var / VAR_DIRECTORY / SCRATCH

    def _question(self, one: Repository, do: str) -> dict[str, Any]:
        return {
            "do": do,
            "job": one.job,
            "target": one.target,
            "scratch": str(self._scratch / scratch_name(one.key)),
            **self.runner,
        }

    def _records(self, one: Repository, answer: Answer, kind: Kind, began_ms: int) -> tuple[Record, ...]:
        """What the child said; at least one record, and ours when it said nothing."""
        fault = answer.fault
        try:
            records = tuple(read_record(line) for line in answer.lines)
        except Unreadable as exc:
            records, fault = (), f"the child's answer is none: {exc}"
        if records:
            return records
        now_ms = self.clock.wall_ms()
        record = Record(
            record_id=new_id(),
            job=one.job.name,
            kind=kind,
            source=Source.REPO,
            outcome=Outcome.UNKNOWN,
            observed_ms=now_ms,
            copy=one.target.copy,
            started_ms=began_ms,
            finished_ms=now_ms,
            tool=one.job.definition.tool,
            reason=Reason.TIMED_OUT if answer.timed_out else Reason.ADAPTER_FAILED,
            errors=error_lines(fault or "the child said nothing"),
        )
        return (record,)

    def _now(self, one: Repository, answer: Answer) -> Repository:
        """The same repository after a reload that may have been."""
        now = self._repositories.get(one.key, one)
        now.left = answer.left or now.left
        return now

    def _note(self, one: Repository, record: Record) -> None:
        """Once when a repository cannot be read any more, and once when it can again."""
        unknown = record.outcome is Outcome.UNKNOWN
        before = one.last is not None and one.last.outcome is Outcome.UNKNOWN
        said = fields(job=one.job.name, copy=one.target.copy, reason=record.reason, error=_first(record))
        self.counts.looks_failed += unknown
        if unknown and (not before or (one.last is not None and one.last.reason != record.reason)):
            log.warning("a backup cannot be looked at", extra=said)
        elif before and not unknown:
            log.info("a backup can be looked at again", extra=fields(job=one.job.name, copy=one.target.copy))
        if not unknown and (before or one.last is None):
            self._verifications_changed.set()
        one.last = record

    async def _keep(self, records: Sequence[Record]) -> bool:
        for record in records:
            try:
                document = fitted(json.loads(record.to_json()))
                await self.events.keep(BACKUP_RECORD, document, bytes.fromhex(record.record_id))
            except (SpoolFull, UsageError) as exc:
                self.counts.refused += 1
                log.error(
                    "what is known of a backup cannot be kept", extra=fields(job=record.job, reason=exc)
                )
                return False
            self.counts.records += 1
        return True

    # ------------------------------------------------------------ verifications

    def _verification(self, waiting: Sequence[Repository]) -> tuple[int, Repository, Check] | None:
        """The one that is due first."""
        found: list[tuple[int, Repository, Check]] = []
        for one in waiting:
            known = self._memory.repositories.get(one.key, _NOTHING)
            due = next_check(
                one.target.levels, one.job.definition.verify, known.progress, self.clock.wall_ms()
            )
            # Without a look that could read it a verification would only fail the same way.
            if due is not None and one.last is not None and one.last.outcome is not Outcome.UNKNOWN:
                found.append((due[0], one, due[1]))
        return min(found, key=lambda each: (each[0], each[1].key), default=None)

    async def _verify(self, one: Repository, check: Check, request_id: bytes = b"") -> None:
        known = self._memory.repository(one.key)
        began_ms = self.clock.wall_ms()
        self._verifying, began_s = one, self.clock.monotonic_s()
        try:
            answer = await self.ask(
                {**self._question(one, "verify"), "check": check}, one.job.verify_within_s
            )
        finally:
            self._verifying = None
            if request_id:
                self._allowance.use(max(EACH_S, self.clock.monotonic_s() - began_s))
        (record, *_) = self._records(one, answer, Kind.VERIFY, began_ms)
        record = msgspec.structs.replace(record, run_id=request_id.hex())
        one = self._now(one, answer)
        self.counts.verifications += 1
        age_s = age_of(check.level, one.job.definition.verify)
        now_ms = self.clock.wall_ms()
        before = known.progress.get(check.level, Progress())
        kept = await self._keep([record])
        if record.verify is None or not kept:
            self.counts.looks_failed += record.verify is None
            self._say_unproved(one, check, record)
            hopeless = record.reason == Reason.NOT_THROUGH_RUNNER
            known.progress[check.level] = unproved(check, before, age_s, now_ms, hopeless=hopeless)
        else:
            one.unproved.pop(check.level, None)
            known.progress[check.level] = proved(check, record.verify, age_s, now_ms)
        await self._remember()

    # ------------------------------------------------------------ what is asked for

    def judge(self, request: VerifyBackup) -> Verdict:
        """Whether a verification that the collector asks for is made; then it is the next. Of those that the job's own
        file declares, of the level that is asked for, the one that is due first."""
        job = next((each for each in self.jobs if each.name == request.job), None)
        if job is None:
            return Refused(UNKNOWN_JOB, f"no file of this host defines {request.job}")
        running = "" if self._verifying is None else self._verifying.job.name
        wanted = "" if self._wanted is None else self._wanted.job
        busy = occupied(job.name, running, wanted)
        if busy is not None:
            return busy
        found = choose(job, request.level, self._progress_of(job), self.clock.wall_ms())
        if isinstance(found, Refused):
            return found
        one, check = found
        wait_s = self._allowance.wait_s(self.clock.monotonic_s())
        if wait_s > 0:
            again = f"again in {math.ceil(wait_s / 60)} minutes"
            return Refused(TOO_SOON, f"what was asked for lately took the time there is for it: {again}")
        self._wanted = Wanted(job.name, one.key, check, request.request_id)
        self._verifications_changed.set()
        return Begun(check.level.value, one.target.copy)

    def _progress_of(self, job: JobConfig) -> Iterator[tuple[Repository, Mapping[Level, Progress]]]:
        for one in self._repositories.values():
            if one.job.name == job.name:
                yield one, self._memory.repositories.get(one.key, _NOTHING).progress

    async def _verify_wanted(self) -> None:
        wanted, self._wanted = self._wanted, None
        assert wanted is not None
        one = self._repositories.get(wanted.key)
        if one is not None:  # Else a reload took it away in between.
            await self._verify(one, wanted.check, wanted.request_id)

    def _say_unproved(self, one: Repository, check: Check, record: Record) -> None:
        if one.unproved.get(check.level) == record.reason:
            return
        one.unproved[check.level] = record.reason
        said = fields(
            job=one.job.name,
            copy=one.target.copy,
            level=check.level,
            reason=record.reason,
            error=_first(record),
        )
        log.warning("a backup could not be verified", extra=said)

    async def _remember(self) -> None:
        async with self._remembering:
            content = msgspec.json.encode(self._memory)
            await asyncio.to_thread(memory.save, self.var, content)


_NOTHING: Final = memory.Repository()


def _first(record: Record) -> str:
    return record.errors[0] if record.errors else ""
