"""Backups over a time, worked out from the records that are kept: the rows of a report.

What a job is judged by is asked of the desk in its own thread. The records are read in another, so that a report over
a fleet delays no judgement, and one report at a time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from watchbill.backups.definition import Definition
from watchbill.backups.record import Kind, Level, Outcome, Record
from watchbill_collector.api.backup_port import BackupJob
from watchbill_collector.api.backup_report import (
    DIGESTS_TOLD,
    REVIEWS_TOLD,
    BackupReportRow,
    BackupRpo,
    BackupSpan,
    Period,
    ReportReview,
)
from watchbill_collector.api.ports import at
from watchbill_collector.backups import JobKey
from watchbill_collector.backups.objective import Kept, rpo_kept
from watchbill_collector.store import Store, backup_notes
from watchbill_collector.store import backups as rows
from watchbill_collector.store.backups import RecordRow

RECORDS_READ_MAX: Final = 20_000
"""Of one job; of more the newest are read, and its row says so. A look an hour at 17 copies are 12,000 in a month."""
SPANS_TOLD: Final = 20
"""Times beyond the RPO that are told one by one."""
_NONE: Final = Definition(name="", tool="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A job as the desk knows it. `known_ms`: its host was heard through this; `gone_ms`: it has the job no more."""

    key: JobKey
    shown: BackupJob
    definition: Definition | None
    digest: str
    defined_ms: int
    known_ms: int
    gone_ms: int


def row_of(store: Store, subject: Subject, period: Period) -> BackupReportRow:
    """One job over the time. Raises StorageError."""
    key, site = subject.key, store.site
    definition = subject.definition or _NONE
    found, truncated = records_since(store, key, period.since_ms - round(definition.rpo_s * 1000))
    changes = store.read(lambda c: backup_notes.changes(c, site, *key, backup_notes.CHANGES_PER_JOB_MAX))
    reviews = store.read(lambda c: backup_notes.reviews(c, site, *key, REVIEWS_TOLD))
    digests = store.read(lambda c: rows.digests_of(c, site, *key, period.since_ms, period.until_ms))
    counts = _Counts()
    counts.take(found, period)
    words: dict[str, int] = {}
    for change in changes:
        if period.since_ms <= change.at_ms <= period.until_ms:
            words[change.after] = words.get(change.after, 0) + 1
    shown = subject.shown
    return BackupReportRow(
        id=shown.id,
        name=shown.name,
        host=shown.host,
        agent_id=shown.agent_id,
        labels=shown.labels,
        service=shown.service,
        tool=shown.tool,
        word=shown.word,
        digest=subject.digest,
        digests=[one for one in digests if one != subject.digest][-DIGESTS_TOLD:],
        **counts.fields(),
        words=words,
        rpo=_rpo(subject, definition, found, truncated, period),
        reviews=[
            ReportReview(at=at(one.at_ms), by=one.author, word=one.word, note=one.note)
            for one in reviews
            if period.since_ms <= one.at_ms <= period.until_ms
        ],
        truncated=truncated,
    )


def records_since(store: Store, key: JobKey, since_ms: int) -> tuple[list[RecordRow], bool]:
    """The records of a job that arrived since then, the newest first, and whether there were more than are read. Raises
    StorageError."""
    found = store.read(
        lambda c: rows.records_of(c, store.site, *key, RECORDS_READ_MAX + 1, received_from_ms=since_ms)
    )
    return found[:RECORDS_READ_MAX], len(found) > RECORDS_READ_MAX


def _rpo(
    subject: Subject, definition: Definition, found: Sequence[RecordRow], truncated: bool, period: Period
) -> BackupRpo | None:
    until_ms = min(period.until_ms, subject.gone_ms or period.until_ms)
    kept = rpo_kept(
        definition,
        [(row.record, row.received_ms, row.shift_ms) for row in found],
        defined_ms=subject.defined_ms,
        from_ms=period.since_ms,
        until_ms=max(until_ms, period.since_ms),
        known_ms=subject.known_ms,
        told_from_ms=found[-1].received_ms if truncated else 0,
    )
    return None if kept is None else rpo_told(kept, period.objective)


def rpo_told(kept: Kept, objective: float) -> BackupRpo:
    """As it is told: with the budget, and of what was beyond the RPO the newest one by one."""
    allowed_ms = kept.allowed_ms(objective)
    return BackupRpo(
        rpo_s=kept.rpo_ms / 1000,
        objective=objective,
        since=at(kept.from_ms),
        until=at(kept.until_ms),
        unknown_s=kept.unknown_ms / 1000,
        kept=kept.share,
        over_s=kept.over_ms / 1000,
        times=len(kept.spans),
        spans=[BackupSpan(at(began), at(ended)) for began, ended in kept.spans[-SPANS_TOLD:]],
        worst_s=kept.worst_ms / 1000,
        budget_s=allowed_ms / 1000,
        left_s=(allowed_ms - kept.over_ms) / 1000,
    )


_RUNS: Final[Mapping[Outcome, str]] = {
    Outcome.OK: "runs_ok",
    Outcome.PARTIAL: "runs_partial",
    Outcome.FAILED: "runs_failed",
    Outcome.UNKNOWN: "runs_unknown",
    Outcome.RUNNING: "runs_unended",
}


@dataclass(slots=True)
class _Counts:
    """What was told in the time, counted."""

    numbers: dict[str, int] = field(default_factory=dict)
    newest_ms: dict[str, int] = field(default_factory=dict)

    def take(self, found: Iterable[RecordRow], period: Period) -> None:
        """Records, the newest first: of a run the last word counts."""
        ended: dict[str, tuple[Outcome, int]] = {}
        for row in found:
            record = row.record
            at_ms = min((record.finished_ms or record.observed_ms) + row.shift_ms, row.received_ms)
            if not period.since_ms <= at_ms <= period.until_ms:
                continue
            if record.kind is Kind.RUN:
                name = record.run_id or record.record_id
                known = ended.get(name)
                if known is None or known[0] is Outcome.RUNNING:
                    ended[name] = (record.outcome, at_ms)
            elif record.kind is Kind.OBSERVE:
                self._one("looks_unread" if record.outcome is Outcome.UNKNOWN else "looks", "", at_ms)
            else:
                self._proof(record, at_ms)
        for outcome, at_ms in ended.values():
            self._one(_RUNS[outcome], "last_ok" if outcome is Outcome.OK else "", at_ms)

    def _proof(self, record: Record, at_ms: int) -> None:
        """A verification that says how it ended; one that could not be made is none."""
        restored = record.kind is Kind.RESTORE or (
            record.verify is not None and record.verify.level is Level.RESTORE
        )
        if record.verify is None and (record.kind is not Kind.RESTORE or record.outcome in _NO_WORD):
            return
        good = record.outcome is Outcome.OK and (record.verify is None or record.verify.ok)
        what = "restore" if restored else "proof"
        self._one(f"{what}s_ok" if good else f"{what}s_failed", f"last_{what}" if good else "", at_ms)

    def _one(self, number: str, newest: str, at_ms: int) -> None:
        self.numbers[number] = self.numbers.get(number, 0) + 1
        if newest:
            self.newest_ms[newest] = max(at_ms, self.newest_ms.get(newest, 0))

    def fields(self) -> dict[str, Any]:
        """As a row has them."""
        return {**self.numbers, **{name: at(at_ms) for name, at_ms in self.newest_ms.items()}}


_NO_WORD: Final = (Outcome.UNKNOWN, Outcome.RUNNING)
