"""Backups, for the HTTP side: what the desk knows, and what people say, written down with who said it."""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from watchbill.clock import Clock
from watchbill.errors import Refused
from watchbill.protocol.frames import VERIFY, VerifyBackup
from watchbill_collector.api.backup_port import (
    NOTE_CHARACTERS_MAX,
    BackupEntry,
    BackupFacet,
    BackupHistory,
    BackupJob,
    BackupPause,
    BackupReview,
    Exemption,
    ExemptKind,
    VerifyRequest,
    at_or_none,
    backup_id,
    entry_of,
    no_backup,
    no_exemption,
)
from watchbill_collector.api.backup_report import Asked, BackupReportRow, Period, period_of
from watchbill_collector.api.ports import Caller, at
from watchbill_collector.audit import Entry
from watchbill_collector.backups import JobKey, Run, State, Word, due_ms_of
from watchbill_collector.backups.objective import OBJECTIVE_DEFAULT
from watchbill_collector.ingest.ports import Reach
from watchbill_collector.services.backup_desk import size_of
from watchbill_collector.services.backup_reports import Subject, row_of
from watchbill_collector.services.backup_requests import ANSWER_WITHIN_S, Hosts, unreached
from watchbill_collector.services.backups import Backups
from watchbill_collector.store import Store, audit, backup_notes
from watchbill_collector.store import backups as rows
from watchbill_collector.store.backup_notes import ExemptionRow, PauseRow, ReviewRow
from watchbill_collector.store.backups import JobRow, RecordRow
from watchbill_collector.store.hosts import Host
from watchbill_collector.store.text import harmless

CHANGES_SHOWN: Final = 200
REVIEWS_SHOWN: Final = 50
AUTHOR_CHARACTERS_MAX: Final = 128
_UNDEFINED: Final = "its host has not said yet what it is to be judged by"
_UNHEARD: Final = "the collector began anew and has not heard its host since"


class BackupAnswers:
    """`api.backup_port.BackupsService`. `hosts` is the way down to them."""

    def __init__(
        self,
        backups: Backups,
        store: Store,
        clock: Clock,
        hosts: Hosts,
        answer_within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        self._hosts = hosts
        self._answer_within_s = answer_within_s
        self._backups = backups
        self._desk = backups.desk
        self._store = store
        self._clock = clock
        self._shown: dict[JobKey, tuple[int, BackupJob]] = {}
        self._keys: dict[str, JobKey] = {}
        self._reporting = asyncio.Lock()

    # ------------------------------------------------------------ reading

    async def jobs(self) -> Sequence[BackupJob]:
        """All of them."""
        return await self._backups.work(self._jobs)

    def _jobs(self) -> list[BackupJob]:
        """In the desk's thread. What did not change since it was shown is shown as it was."""
        found: dict[JobKey, tuple[int, BackupJob]] = {}
        for key, row, host in self._desk.jobs():
            revision = self._desk.revised.get(key, 0)
            before = self._shown.get(key)
            if before is None or before[0] != revision:
                before = (revision, self._job(key, row, host))
                self._keys[before[1].id] = key
            found[key] = before
        for key in self._shown.keys() - found.keys():
            self._keys.pop(self._shown[key][1].id, None)
        self._shown = found
        return [job for _, job in found.values()]

    async def history(self, job_id: str, limit: int, before: datetime | None = None) -> BackupHistory:
        """Of one job."""
        key, found = await self._backups.work(self._history, job_id, limit, before)
        return replace(found, asked=self._backups.requests.of(key))

    def _history(self, job_id: str, limit: int, before: datetime | None) -> tuple[JobKey, BackupHistory]:
        key = self._key(job_id)
        site = self._store.site
        before_ms = None if before is None else round(before.timestamp() * 1000)
        read = self._store.read
        found = read(lambda c: rows.records_of(c, site, key.agent_id, key.job, limit + 1, before_ms))
        changes = read(lambda c: backup_notes.changes(c, site, key.agent_id, key.job, CHANGES_SHOWN))
        reviews = read(lambda c: backup_notes.reviews(c, site, key.agent_id, key.job, REVIEWS_SHOWN))
        definition, row, book = self._desk.book.definition(key), self._desk.row(key), self._desk.book
        evidence, standing = book.evidence(key), book.standing(key)
        if definition is None or row is None or evidence is None or standing is None:
            raise no_backup(job_id)
        due_ms = due_ms_of(definition, evidence, standing, self._clock.wall_ms())
        return key, BackupHistory(
            definition=definition,
            digest=row.digest,
            defined=at(row.changed_ms),
            due=_moment(due_ms),
            entries=_entries(found[:limit]),
            truncated=len(found) > limit,
            changes=[self._backups.change_of(change) for change in changes],
            reviews=[_review(review) for review in reviews],
        )

    async def exemptions(self) -> Sequence[Exemption]:
        """Those that hold."""
        site, now_ms = self._store.site, self._clock.wall_ms()
        found = await asyncio.to_thread(
            self._store.read, lambda connection: backup_notes.exemptions(connection, site, now_ms)
        )
        return [_exemption(row) for row in found]

    async def report(self, job_ids: Sequence[str], asked: Asked) -> tuple[Period, Sequence[BackupReportRow]]:
        """Rows of these jobs."""
        period = period_of(asked, self._clock.wall_ms(), OBJECTIVE_DEFAULT)
        async with self._reporting:
            subjects = await self._backups.work(self._subjects, job_ids)
            return period, await asyncio.to_thread(
                lambda: [row_of(self._store, subject, period) for subject in subjects]
            )

    def _subjects(self, job_ids: Sequence[str]) -> list[Subject]:
        """In the desk's thread. One that is gone since it was asked for is left out."""
        self._jobs()
        found = []
        for job_id in job_ids:
            key = self._keys.get(job_id)
            row = self._desk.row(key) if key is not None else None
            if key is not None and row is not None:
                subject = Subject(
                    key=key,
                    shown=self._shown[key][1],
                    definition=self._desk.book.definition(key),
                    digest=row.digest,
                    defined_ms=row.defined_ms,
                    known_ms=self._desk.through_ms(key.agent_id),
                    gone_ms=row.gone_ms,
                )
                found.append(subject)
        return found

    def _key(self, job_id: str) -> JobKey:
        """Raises NoSuch."""
        if job_id not in self._keys:
            self._jobs()
        key = self._keys.get(job_id)
        if key is None:
            raise no_backup(job_id)
        return key

    # ------------------------------------------------------------ writing

    async def review(self, job_id: str, note: str, by: Caller) -> BackupReview:
        """Somebody looked at it."""
        key, job = await self._named(job_id)
        row = ReviewRow(
            agent_id=key.agent_id,
            job=key.job,
            at_ms=self._clock.wall_ms(),
            author=_line(by.name, AUTHOR_CHARACTERS_MAX),
            word=job.word,
            note=_line(note),
        )
        await self._write(
            lambda connection: backup_notes.add_review(connection, self._store.site, row),
            Entry(actor=row.author, action="backup.review", target=_target(job), detail={"note": row.note}),
        )
        await self._stand(key, review=row)
        return _review(row)

    async def pause(self, job_id: str, duration_s: float, reason: str, by: Caller) -> BackupJob:
        """Do not judge it for so long."""
        key, job = await self._named(job_id)
        until_ms = self._clock.wall_ms() + round(duration_s * 1000)
        return await self._pause(key, job, until_ms, reason, by, "backup.pause")

    async def resume(self, job_id: str, by: Caller) -> BackupJob:
        """Judge it again. The pause stays, over: what was due while it lasted is not asked for."""
        key, job = await self._named(job_id)
        paused = self._desk.pauses.get(key)
        if paused is None or paused.until_ms <= self._clock.wall_ms():
            raise Refused(f"{job.name} of {job.host} is not paused")
        return await self._pause(key, job, self._clock.wall_ms(), paused.reason, by, "backup.resume")

    async def _pause(
        self, key: JobKey, job: BackupJob, until_ms: int, reason: str, by: Caller, action: str
    ) -> BackupJob:
        row = PauseRow(
            agent_id=key.agent_id,
            job=key.job,
            until_ms=until_ms,
            author=_line(by.name, AUTHOR_CHARACTERS_MAX),
            reason=_line(reason),
        )
        detail = {"until_ms": until_ms, "reason": row.reason}
        await self._write(
            lambda connection: backup_notes.set_pause(connection, self._store.site, row),
            Entry(actor=row.author, action=action, target=_target(job), detail=detail),
        )
        await self._stand(key, pause=row)
        return (await self._named(job.id))[1]

    async def verify(self, job_id: str, level: str, by: Caller) -> VerifyRequest:
        """Ask its host. That it was asked for is written down first."""
        key, job = await self._named(job_id)
        if job.word == Word.RETIRED.value:
            raise Refused(f"{job.name} of {job.host} is retired: its host is gone, or has the job no more")
        reach = self._hosts.reach(key.agent_id, VERIFY)
        if reach is not Reach.ASKED:
            raise unreached(reach, job.host)
        requests = self._backups.requests
        actor = _line(by.name, AUTHOR_CHARACTERS_MAX)
        made = requests.make(key, job.host, level, actor)
        detail = {"request": made.id, "level": level}
        try:
            await self._write(
                lambda _: None,
                Entry(actor=actor, action="backup.verify", target=_target(job), detail=detail),
            )
            reach = self._hosts.ask(key.agent_id, VerifyBackup(bytes.fromhex(made.id), key.job, level))
            if reach is not Reach.ASKED:
                raise unreached(reach, job.host)
        except BaseException:
            requests.withdraw(key, made.id)
            raise
        return await requests.wait(key, made, self._answer_within_s)

    async def exempt(
        self, kind: ExemptKind, name: str, owner: str, reason: str, duration_s: float, by: Caller
    ) -> Exemption:
        """This host or service needs no backup."""
        now_ms = self._clock.wall_ms()
        row = ExemptionRow(
            exemption_id=secrets.token_hex(6),
            kind=kind,
            name=name,
            owner=_line(owner, AUTHOR_CHARACTERS_MAX),
            reason=_line(reason),
            author=_line(by.name, AUTHOR_CHARACTERS_MAX),
            created_ms=now_ms,
            expires_ms=now_ms + round(duration_s * 1000),
        )
        detail = {
            "id": row.exemption_id,
            "owner": row.owner,
            "reason": row.reason,
            "until_ms": row.expires_ms,
        }
        entry = Entry(actor=row.author, action="backup.exempt", target=f"{kind}/{name}", detail=detail)

        def work(connection: sa.Connection) -> None:
            if not backup_notes.set_exemption(connection, self._store.site, row):
                raise Refused(f"there are {backup_notes.EXEMPTIONS_MAX} exemptions, the most that are kept")

        await self._write(work, entry)
        return _exemption(row)

    async def withdraw(self, exemption_id: str, by: Caller) -> Exemption:
        """It does need one."""
        site, found = self._store.site, list[ExemptionRow]()

        def work(connection: sa.Connection) -> None:
            row = backup_notes.end_exemption(connection, site, exemption_id)
            if row is None:
                raise no_exemption(exemption_id)
            found.append(row)
            target = f"{row.kind}/{row.name}"
            actor = _line(by.name, AUTHOR_CHARACTERS_MAX)
            entry = Entry(actor=actor, action="backup.withdraw", target=target, detail={"id": exemption_id})
            audit.append(connection, site, self._clock, entry)

        await self._store.write(work)
        return _exemption(found[0])

    async def _write(self, write: Callable[[sa.Connection], None], entry: Entry) -> None:
        """In one transaction, with its row of the audit."""

        def work(connection: sa.Connection) -> None:
            write(connection)
            audit.append(connection, self._store.site, self._clock, entry)

        await self._store.write(work)

    async def _named(self, job_id: str) -> tuple[JobKey, BackupJob]:
        def work() -> tuple[JobKey, BackupJob]:
            self._jobs()
            key = self._key(job_id)
            return key, self._shown[key][1]

        return await self._backups.work(work)

    async def _stand(
        self, key: JobKey, *, pause: PauseRow | None = None, review: ReviewRow | None = None
    ) -> None:
        """Have it judged by what was said, now."""

        def work() -> None:
            if pause is not None:
                self._desk.pauses[key] = pause
            if review is not None:
                self._desk.reviews[key] = review
            self._desk.stand(key)

        await self._backups.work(work)
        await self._backups.turn()

    # ------------------------------------------------------------ showing

    def _job(self, key: JobKey, row: JobRow, host: Host) -> BackupJob:
        book = self._desk.book
        definition, state, evidence = book.definition(key), book.state(key), book.evidence(key)
        word, pause, review = (
            self._desk.words.get(key),
            self._desk.pauses.get(key),
            self._desk.reviews.get(key),
        )
        return BackupJob(
            id=backup_id(*key),
            name=row.job,
            host=host.instance,
            agent_id=key.agent_id,
            labels=host.labels,
            service=self._desk.service_of(key, definition, host) if definition is not None else "",
            tool=definition.tool if definition is not None else "",
            word=state.word.value if state is not None else Word.UNKNOWN.value,
            level=state.level.value if state is not None else "unknown",
            severity=state.severity if state is not None else "",
            why=state.why if state is not None else _UNDEFINED if definition is None else _UNHEARD,
            advice=state.advice if state is not None else "",
            facets=_facets(state),
            since=at(word.at_ms) if word is not None and state is not None else None,
            point=_moment(state.point_ms if state is not None else 0),
            verified_point=_moment(state.verified_point_ms if state is not None else 0),
            rpo_s=definition.rpo_s if definition is not None else 0.0,
            last_run=self._run_of(key, state.last_run) if state is not None and state.last_run else None,
            snapshots=state.snapshots if state is not None and state.snapshots else None,
            size_bytes=size_of(evidence) if evidence is not None else None,
            paused=BackupPause(at(pause.until_ms), pause.author, pause.reason)
            if pause is not None and state is not None and state.word is Word.PAUSED
            else None,
            reviewed=_review(review) if review is not None else None,
        )

    def _run_of(self, key: JobKey, run: Run) -> BackupEntry:
        record_id, arrived_ms = self._desk.arrived.get(key, ("", 0))
        return BackupEntry(
            id=run.record_id,
            kind="run",
            source=run.source.value,
            outcome=run.outcome.value,
            at=at(run.finished_ms or run.at_ms),
            received=at(arrived_ms if record_id == run.record_id else run.at_ms),
            run_id=run.run_id,
            copy=run.copy,
            started=_moment(run.started_ms),
            finished=_moment(run.finished_ms),
            duration_s=run.duration_ms / 1000 if run.duration_ms else None,
            exit_code=run.exit_code,
            signal=run.signal,
            point=_moment(run.point_ms),
            snapshot_id=run.snapshot_id,
            bytes_source=run.bytes_source,
            bytes_stored=run.bytes_stored,
            files=run.files,
            files_failed=run.files_failed,
            reason=run.reason,
            errors=(run.error,) if run.error else (),
        )


def _facets(state: State | None) -> list[BackupFacet]:
    if state is None:
        return []
    return [
        BackupFacet(name.value, facet.level.value, facet.reason, facet.text)
        for name, facet in state.facets.items()
    ]


def _entries(found: Iterable[RecordRow]) -> list[BackupEntry]:
    """The newest first; of a run how it ended, though its last sign of life may have arrived later."""
    entries: dict[str, BackupEntry] = {}
    for row in found:
        entry = entry_of(row.record, row.received_ms, row.shift_ms)
        name = entry.run_id if entry.kind == "run" and entry.run_id else entry.id
        if name not in entries or entries[name].outcome == "running":
            entries[name] = entry
    return sorted(entries.values(), key=lambda entry: entry.at, reverse=True)


def _review(row: ReviewRow) -> BackupReview:
    return BackupReview(at(row.at_ms), row.author, row.word, row.note)


def _exemption(row: ExemptionRow) -> Exemption:
    kind: ExemptKind = "service" if row.kind == "service" else "host"
    created, expires = at(row.created_ms), at(row.expires_ms)
    return Exemption(row.exemption_id, kind, row.name, row.owner, row.reason, created, expires, row.author)


def _moment(at_ms: int) -> datetime | None:
    return at_or_none(at_ms) if at_ms else None


def _target(job: BackupJob) -> str:
    return f"{job.host}/{job.name}"


def _line(text: str, length_max: int = NOTE_CHARACTERS_MAX) -> str:
    """What a person said, on one line of at most so many characters that can be printed."""
    return harmless(text, length_max)
