# ruff: noqa: ARG002 - The twins take what the contract gives them, and need less of it.
"""In-memory twins of the backups: one that keeps what it is given, and one of a collector that knows none."""

import dataclasses
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from watchbill.clock import Clock
from watchbill.errors import Refused, Unreachable
from watchbill_collector.api.backup_port import (
    BackupHistory,
    BackupJob,
    BackupPause,
    BackupReview,
    Exemption,
    ExemptKind,
    VerifyRequest,
    no_backup,
    no_exemption,
)
from watchbill_collector.api.backup_report import (
    Asked,
    BackupReportRow,
    BackupRpo,
    Period,
    ReportReview,
    period_of,
)
from watchbill_collector.api.ports import Caller, NoSuch, at

PAUSED, RETIRED = "PAUSED", "RETIRED"
OBJECTIVE = 0.999


class BackupsTwin:
    """Jobs by id, with their histories. What is paused says so, and says again what it said before afterwards."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._jobs: dict[str, BackupJob] = {}
        self._histories: dict[str, BackupHistory] = {}
        self._exemptions: dict[str, Exemption] = {}
        self._rpos: dict[str, BackupRpo] = {}
        self.journal: list[tuple[str, str, str]] = []
        """Who did what to which."""
        self.away: set[str] = set()
        """Hosts that are not connected."""
        self.says: dict[str, object] = {"answer": "begun", "level": "structure"}
        """What hosts answer to a request, fields of it; nothing: they do not."""

    def put(self, job: BackupJob, history: BackupHistory, rpo: BackupRpo | None = None) -> None:
        """Have a job."""
        if rpo is not None:
            self._rpos[job.id] = rpo
        self._jobs[job.id] = job
        self._histories[job.id] = history

    async def jobs(self) -> Sequence[BackupJob]:
        """All of them."""
        return [self._standing(job) for job in self._jobs.values()]

    async def history(self, job_id: str, limit: int, before: datetime | None = None) -> BackupHistory:
        """Of one job."""
        self._job(job_id)
        whole = self._histories[job_id]
        older = [entry for entry in whole.entries if before is None or entry.at < before]
        older.sort(key=lambda entry: entry.at, reverse=True)
        return dataclasses.replace(whole, entries=older[:limit], truncated=len(older) > limit)

    async def report(self, job_ids: Sequence[str], asked: Asked) -> tuple[Period, Sequence[BackupReportRow]]:
        """Runs and reviews are counted from the histories; an RPO is as it was `put`."""
        period = period_of(asked, self._clock.wall_ms(), OBJECTIVE)
        known = [self._standing(self._jobs[job_id]) for job_id in job_ids if job_id in self._jobs]
        return period, [self._row(job, period) for job in known]

    def _row(self, job: BackupJob, period: Period) -> BackupReportRow:
        def within(moment: datetime) -> bool:
            return at(period.since_ms) <= moment <= at(period.until_ms)

        history = self._histories[job.id]
        runs = [entry for entry in history.entries if entry.kind == "run" and within(entry.at)]
        good = [entry.at for entry in runs if entry.outcome == "ok"]
        return BackupReportRow(
            id=job.id,
            name=job.name,
            host=job.host,
            agent_id=job.agent_id,
            labels=job.labels,
            service=job.service,
            tool=job.tool,
            word=job.word,
            digest=history.digest,
            digests=(),
            runs_ok=len(good),
            runs_failed=sum(entry.outcome == "failed" for entry in runs),
            last_ok=max(good, default=None),
            words={},
            rpo=self._rpos.get(job.id),
            reviews=[
                ReportReview(at=one.at, by=one.by, word=one.word, note=one.note)
                for one in history.reviews
                if within(one.at)
            ],
        )

    async def review(self, job_id: str, note: str, by: Caller) -> BackupReview:
        """Keep it, the newest first."""
        job, history = self._job(job_id), self._histories[job_id]
        made = BackupReview(self._now(), by.name, self._standing(job).word, note)
        self._histories[job_id] = dataclasses.replace(history, reviews=(made, *history.reviews))
        self._jobs[job_id] = dataclasses.replace(job, reviewed=made)
        self.journal.append(("review", job_id, by.name))
        return made

    async def pause(self, job_id: str, duration_s: float, reason: str, by: Caller) -> BackupJob:
        """Until then."""
        paused = BackupPause(self._now() + timedelta(seconds=duration_s), by.name, reason)
        self._jobs[job_id] = dataclasses.replace(self._job(job_id), paused=paused)
        self.journal.append(("pause", job_id, by.name))
        return self._standing(self._jobs[job_id])

    async def resume(self, job_id: str, by: Caller) -> BackupJob:
        """No longer."""
        job = self._job(job_id)
        if self._standing(job).paused is None:
            raise Refused(f"{job.name} of {job.host} is not paused")
        self._jobs[job_id] = dataclasses.replace(job, paused=None)
        self.journal.append(("resume", job_id, by.name))
        return self._jobs[job_id]

    async def verify(self, job_id: str, level: str, by: Caller) -> VerifyRequest:
        """Its host answers as it was told to."""
        job, history = self._job(job_id), self._histories[job_id]
        if job.word == RETIRED:
            raise Refused(f"{job.name} of {job.host} is retired")
        if job.host in self.away:
            raise Unreachable(f"{job.host} is not connected, and a request does not wait for it")
        now = self._now()
        made = VerifyRequest(
            id=secrets.token_hex(16), name=job.name, host=job.host, level=level, by=by.name, at=now
        )
        if self.says:
            said: dict[str, Any] = {**self.says, "answered": now}
            made = dataclasses.replace(made, **said)
        self._histories[job_id] = dataclasses.replace(history, asked=(made, *history.asked))
        self.journal.append(("verify", job_id, by.name))
        return made

    async def exemptions(self) -> Sequence[Exemption]:
        """Those that hold."""
        now = self._now()
        return sorted(
            (one for one in self._exemptions.values() if one.expires > now), key=lambda one: one.expires
        )

    async def exempt(
        self, kind: ExemptKind, name: str, owner: str, reason: str, duration_s: float, by: Caller
    ) -> Exemption:
        """In the place of the old one."""
        now = self._now()
        made = Exemption(
            secrets.token_hex(6),
            kind,
            name,
            owner,
            reason,
            now,
            now + timedelta(seconds=duration_s),
            by.name,
        )
        others = {key: one for key, one in self._exemptions.items() if (one.kind, one.name) != (kind, name)}
        self._exemptions = others | {made.id: made}
        self.journal.append(("exempt", made.id, by.name))
        return made

    async def withdraw(self, exemption_id: str, by: Caller) -> Exemption:
        """It is gone."""
        if all(one.id != exemption_id for one in await self.exemptions()):
            raise no_exemption(exemption_id)
        self.journal.append(("withdraw", exemption_id, by.name))
        return self._exemptions.pop(exemption_id)

    def _standing(self, job: BackupJob) -> BackupJob:
        if job.paused is None:
            return job
        if job.paused.until <= self._now():
            return dataclasses.replace(job, paused=None)
        return dataclasses.replace(job, word=PAUSED)

    def _job(self, job_id: str) -> BackupJob:
        if job_id not in self._jobs:
            raise no_backup(job_id)
        return self._jobs[job_id]

    def _now(self) -> datetime:
        return at(self._clock.wall_ms())


class NoBackups:
    """The twin of a collector that knows of no backups, and keeps nothing about them."""

    async def jobs(self) -> Sequence[BackupJob]:
        """None."""
        return ()

    async def history(self, job_id: str, limit: int, before: datetime | None = None) -> BackupHistory:
        """There is none."""
        raise no_backup(job_id)

    async def report(self, job_ids: Sequence[str], asked: Asked) -> tuple[Period, Sequence[BackupReportRow]]:
        """Of none, over no time."""
        return Period(0, 0, OBJECTIVE), ()

    async def review(self, job_id: str, note: str, by: Caller) -> BackupReview:
        """There is none."""
        raise no_backup(job_id)

    async def pause(self, job_id: str, duration_s: float, reason: str, by: Caller) -> BackupJob:
        """There is none."""
        raise no_backup(job_id)

    async def resume(self, job_id: str, by: Caller) -> BackupJob:
        """There is none."""
        raise no_backup(job_id)

    async def verify(self, job_id: str, level: str, by: Caller) -> VerifyRequest:
        """There is none."""
        raise no_backup(job_id)

    async def exemptions(self) -> Sequence[Exemption]:
        """None."""
        return ()

    async def exempt(
        self, kind: ExemptKind, name: str, owner: str, reason: str, duration_s: float, by: Caller
    ) -> Exemption:
        """Not here."""
        raise NoSuch("this collector keeps no exemptions")

    async def withdraw(self, exemption_id: str, by: Caller) -> Exemption:
        """There is none."""
        raise no_exemption(exemption_id)
