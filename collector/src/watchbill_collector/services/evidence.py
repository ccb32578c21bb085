"""Makes archives of evidence, from the store and from what the other services say.

1. the audit is signed as it stands, so that everything that is told is under a checkpoint;
2. what is told is read, in a thread, one archive at a time;
3. the archive is packed and signed;
4. that it was made, for whom, and its digest go into the audit: what cannot be recorded is not handed out.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from watchbill import __version__
from watchbill.clock import Clock
from watchbill.errors import Busy, UsageError
from watchbill_collector.api.answers import JSON_OPTIONS
from watchbill_collector.api.backup_port import BackupsService
from watchbill_collector.api.backup_report import Asked, BackupReportRow, period_of
from watchbill_collector.api.evidence_port import Archive, EvidenceKey, WantedBackups
from watchbill_collector.api.ports import Caller
from watchbill_collector.api.runbook_port import RunbookService, RunbookView, no_run
from watchbill_collector.audit import Audit
from watchbill_collector.evidence import chains, follow
from watchbill_collector.evidence.archive import CONTENT_BYTES_MAX, TooLarge, pack
from watchbill_collector.evidence.controls import controls
from watchbill_collector.store import Store, hosts, runbooks, runs
from watchbill_collector.store import evidence as rows
from watchbill_collector.store.audit import Row
from watchbill_collector.store.checkpoints import Checkpoint, Signer
from watchbill_collector.store.runs import RunSummary

RUNS_MAX: Final = 2_000
"""Of one archive; a longer time is refused."""
AUDIT_ROWS_MAX: Final = 20_000
"""Of the audit's chain in one archive. With more between its first and last, only the rows about the runs are in it."""
ROWS_AT_ONCE: Final = 2_000
JOBS_MAX: Final = 2_000
"""Backups of one archive; the rest is counted."""
AGAIN_S: Final = 5.0
OBJECTIVE: Final = 0.999
PERIOD_FIELDS: Final = (
    "id", "runbook", "digest", "drill", "state", "requester", "trigger", "created_ms", "started_ms", "recovered_ms",
    "ended_ms", "recovery_ms", "rto_ms", "rto_kept",
)  # fmt: skip

README: Final = """Evidence of Watchbill, signed by the collector whose audit it tells of.

  watchbill evidence verify FILE --key HEX --roster-pub FILE

checks it without any collector: every digest in index.signed, the signature under them, the chain of each journal and
of the audit, the checkpoint that signs the audit, what people signed, and that run.json, gates.json, outputs.json and
refusals.json say what follows from journal.jsonl, and nothing else. HEX is the collector's audit key, which has to be
known from elsewhere (GET /api/watchbill/v1/evidence/key); the second FILE is roster.pub, as it lies on the hosts.

Times are UTC milliseconds. A run's recovery time goes from its first row to the step that is marked `clock: stop`.
backups.json and drills.json are what the collector had worked out when this was made; they follow from no chain.
controls.json says which document helps to answer which question of which framework.
"""


BACKUPS_README: Final = """What backups did over a time, signed by the collector that judged them.

  watchbill evidence verify FILE --key HEX

checks it without any collector: every digest in index.signed, and the signature under them. HEX is the collector's
audit key, which has to be known from elsewhere (GET /api/watchbill/v1/evidence/key). index.signed says for whom it was
made, what was asked for, and whether all hosts are in it or those of a scope alone. backups.json is what the collector
had worked out from the records of the hosts when this was made; it follows from no chain. Times are UTC.
"""


@dataclass(slots=True)
class _Made:
    """An archive as it grows. `audit` are the rows about its runs, by their numbers."""

    files: dict[str, bytes] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    audit: dict[int, Row] = field(default_factory=dict)
    bytes: int = 0
    """Of the documents of runs, unpacked."""
    from_ms: int = 0
    until_ms: int = 0


class Evidence:
    """`api.evidence_port.EvidenceService`."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        audit: Audit,
        signer: Signer,
        services: "Beside",
    ) -> None:
        self._store = store
        self._clock = clock
        self._audit = audit
        self._signer = signer
        self._beside = services
        self._making = asyncio.Lock()
        self.made = 0
        self.turned_away = 0

    async def key(self) -> EvidenceKey:
        """By which key archives are signed."""
        return EvidenceKey(self._signer.public.hex(), self._store.site)

    async def run(self, run_id: str, caller: Caller) -> Archive:
        """Of one run."""
        summary = await asyncio.to_thread(self._store.read, lambda c: runs.summary(c, run_id))
        if summary is None:
            raise no_run(run_id)
        return await self._make(f"run {run_id}", f"evidence-{run_id}.zip", [summary], None, caller)

    async def period(self, since_ms: int | None, until_ms: int | None, caller: Caller) -> Archive:
        """Of a time."""
        period = period_of(Asked(since_ms, until_ms, None), self._clock.wall_ms(), OBJECTIVE)
        site = self._store.site
        found = await asyncio.to_thread(
            self._store.read,
            lambda c: runs.summaries(c, site, since_ms=period.since_ms, limit=RUNS_MAX + 1),
        )
        within = [one for one in found if one.created_ms <= period.until_ms]
        if len(found) > RUNS_MAX:
            raise UsageError(f"more than {RUNS_MAX} runs in that time: ask for a shorter one")
        name = f"evidence-{_day(period.since_ms)}-{_day(period.until_ms)}.zip"
        return await self._make(
            f"period {period.since_ms} {period.until_ms}",
            name,
            within,
            (period.since_ms, period.until_ms),
            caller,
        )

    async def backups(self, wanted: WantedBackups, caller: Caller) -> Archive:
        """The report on backups over a time."""
        period = period_of(wanted.asked, self._clock.wall_ms(), OBJECTIVE)
        asked = Asked(period.since_ms, period.until_ms, period.objective)
        what = f"backups {period.since_ms} {period.until_ms}"
        name = f"backups-{_day(period.since_ms)}-{_day(period.until_ms)}.zip"
        ids = wanted.ids[:JOBS_MAX]

        async def content() -> bytes:
            _, told = await self._beside.backups.report(ids, asked)
            return await asyncio.to_thread(self._pack_backups, wanted, asked, told, caller.name)

        return await self._handed_out(what, name, content, {"backups": len(ids)}, caller)

    async def _make(
        self,
        what: str,
        name: str,
        summaries: Sequence[RunSummary],
        period: tuple[int, int] | None,
        caller: Caller,
    ) -> Archive:
        async def content() -> bytes:
            agents = None if period else {agent for one in summaries for agent in one.hosts}
            beside = await self._beside.documents(caller, agents, period)
            return await asyncio.to_thread(self._pack, summaries, period, beside, caller.name)

        return await self._handed_out(what, name, content, {"runs": len(summaries)}, caller)

    async def _handed_out(
        self,
        what: str,
        name: str,
        content_of: Callable[[], Awaitable[bytes]],
        counted: Mapping[str, int],
        caller: Caller,
    ) -> Archive:
        """One at a time, and recorded before anybody has it."""
        if self._making.locked():
            self.turned_away += 1
            raise Busy("another archive of evidence is being made", AGAIN_S)
        async with self._making:
            try:
                content = await content_of()
            except TooLarge as exc:
                raise UsageError(str(exc)) from exc
            digest = hashlib.sha256(content).hexdigest()
            detail = {"sha256": digest, "bytes": len(content), **counted}
            await self._audit.record_async(caller.name, "evidence.made", what, detail=detail)
            self.made += 1
            return Archive(name, content)

    # ------------------------------------------------------------ in a thread

    def _pack(
        self,
        summaries: Sequence[RunSummary],
        period: tuple[int, int] | None,
        beside: Mapping[str, bytes],
        person: str,
    ) -> bytes:
        self._audit.sign()
        now_ms = self._clock.wall_ms()
        oldest_ms = min((one.created_ms for one in summaries), default=now_ms)
        made = _Made(from_ms=period[0] if period else oldest_ms, until_ms=now_ms)
        told = [self._run(made, one, f"runs/{one.run_id}/" if period else "") for one in summaries]
        made.audit = self._rows_about({one.run_id for one in summaries}, oldest_ms)
        made.about = {
            "kind": "period" if period else "run",
            "site": self._store.site,
            "made_ms": now_ms,
            "made_by": person,
            "version": __version__,
        }
        if period is None:
            made.about["run"] = summaries[0].run_id
        else:
            listed = [{name: run[name] for name in PERIOD_FIELDS} for run in told]
            made.about |= {"since_ms": period[0], "until_ms": period[1]}
            made.files["period.json"] = _json(
                {"since_ms": period[0], "until_ms": period[1], "runs": listed, **_counts(listed)}
            )
        made.files |= beside
        self._rosters(made)
        self._chain(made)
        made.files["README.txt"] = README.encode()
        made.files["controls.json"] = _json(controls(list(made.files)))
        return pack(made.about, made.files, self._signer.public, self._signer.sign)

    def _pack_backups(
        self, wanted: WantedBackups, asked: Asked, told: Sequence[BackupReportRow], person: str
    ) -> bytes:
        left_out = max(len(wanted.ids) - JOBS_MAX, 0)
        about = {
            "kind": "backups",
            "site": self._store.site,
            "made_ms": self._clock.wall_ms(),
            "made_by": person,
            "version": __version__,
            "since_ms": asked.since_ms,
            "until_ms": asked.until_ms,
            "asked": dict(wanted.only),
            "hosts": wanted.hosts,
            "rows": len(told),
            "left_out": left_out,
        }
        files = {
            "README.txt": BACKUPS_README.encode(),
            "backups.json": _reported(asked, told, left_out),
        }
        files["controls.json"] = _json(controls(list(files)))
        return pack(about, files, self._signer.public, self._signer.sign)

    def _run(self, made: _Made, summary: RunSummary, prefix: str) -> dict[str, Any]:
        """The documents of one run; what its run.json says."""
        site, run_id = self._store.site, summary.run_id
        journal = self._store.read(lambda c: runs.journal(c, run_id))
        lines = [
            {
                "n": row.n,
                "at_ms": row.at_ms,
                "kind": row.kind,
                "body": row.body,
                "prev_hash": row.prev_hash.hex(),
                "hash": row.hash.hex(),
            }
            for row in journal
        ]
        found = follow.documents(run_id, lines)
        run: dict[str, Any] = found["run.json"]
        mine = {"journal.jsonl": b"".join(chains.line(one) for one in lines)}
        mine |= {name: _json(document) for name, document in found.items()}
        digests = {run["digest"]: "runbook.yaml"}
        digests |= {digest: f"called/{name}.yaml" for name, digest in run["called"].items()}
        for text in self._store.read(lambda c: runbooks.texts(c, digests)):
            mine[digests[text.digest]] = text.content.encode("utf-8")
        accepted = self._store.read(lambda c: runbooks.acceptances(c, site))
        mine["acceptances.json"] = _json(
            [
                {"digest": one.digest, "name": one.name, "person": one.person, "at_ms": one.at_ms}
                for digest in digests
                for one in accepted.get(digest, ())
                if one.at_ms <= (summary.ended_ms or made.until_ms)
            ]
        )
        made.files |= {prefix + name: body for name, body in mine.items()}
        made.bytes += sum(len(body) for body in mine.values())
        if made.bytes > CONTENT_BYTES_MAX:
            raise TooLarge(f"more than {CONTENT_BYTES_MAX} bytes of documents: ask for a shorter time")
        return run

    def _rows_about(self, ids: set[str], from_ms: int) -> dict[int, Row]:
        """The audit's rows that tell of these runs, by their numbers: one reading, whatever the number of runs."""
        site = self._store.site
        after = self._store.read(lambda c: rows.first_since(c, site, from_ms)) - 1
        found: dict[int, Row] = {}
        while after >= 0:
            read = self._audit.after(after, ROWS_AT_ONCE)
            if not read:
                break
            for row in read:
                if row.target in ids or ('"run"' in row.detail and json.loads(row.detail).get("run") in ids):
                    found[row.seq] = row
            after = read[-1].seq
        return found

    def _rosters(self, made: _Made) -> None:
        found = self._store.read(lambda c: rows.rosters(c, self._store.site, made.from_ms, made.until_ms))
        made.files["rosters.json"] = _json(
            [
                {
                    "serial": serial,
                    "author": author,
                    "published_ms": published_ms,
                    "signed": base64.b64encode(signed).decode("ascii"),
                }
                for serial, author, published_ms, signed in found
            ]
        )

    def _chain(self, made: _Made) -> None:
        """The audit from its first row about the runs to the checkpoint behind the last; of no run, its newest row."""
        newest = self._audit.head()
        first = min(made.audit, default=newest.seq if newest else 0)
        last = max(made.audit, default=first)
        checkpoint = self._store.read(lambda c: rows.covering(c, last))
        until = checkpoint.seq if checkpoint is not None else last
        whole = until - first < AUDIT_ROWS_MAX
        if whole:
            found = self._store.read(lambda c: rows.rows_between(c, first, until)) if first else []
        else:
            at_checkpoint = self._store.read(lambda c: rows.rows_between(c, until, until))
            found = [
                row for _, row in sorted({**made.audit, **{one.seq: one for one in at_checkpoint}}.items())
            ]
        made.about["audit"] = "whole" if whole else "rows"
        made.files["audit.jsonl"] = b"".join(chains.line(_audit_row(row)) for row in found)
        made.files["checkpoint.json"] = _json(_signed(checkpoint))


@dataclass(frozen=True, slots=True)
class Beside:
    """What an archive has beside the journals: drills and backups, as the other services know them."""

    clock: Clock
    store: Store
    runbooks: RunbookService
    backups: BackupsService

    async def documents(
        self, caller: Caller, agents: set[str] | None, period: tuple[int, int] | None
    ) -> dict[str, bytes]:
        """`agents`: of these hosts alone."""
        since, until = period or (None, None)
        jobs = sorted(
            (job.host, job.name, job.id)
            for job in await self.backups.jobs()
            if agents is None or job.agent_id in agents
        )
        ids = [one for _, _, one in jobs[:JOBS_MAX]]
        told, reported = await self.backups.report(ids, Asked(since, until, None))
        asked = Asked(told.since_ms, told.until_ms, told.objective)
        found = {"backups.json": _reported(asked, reported, len(jobs) - len(ids))}
        names = await asyncio.to_thread(self._names, agents)
        if period is None:
            found["hosts.json"] = _json(names)
        else:
            now = datetime.fromtimestamp(self.clock.wall_ms() / 1000, UTC)
            books = await self.runbooks.runbooks(caller)
            found["drills.json"] = _ours([_drill(one, now) for one in books])
        return found

    def _names(self, agents: set[str] | None) -> list[dict[str, Any]]:
        known = self.store.read(lambda c: hosts.all_hosts(c, self.store.site))
        return [
            {"agent_id": one.agent_id, "instance": one.instance, "labels": dict(one.labels)}
            for one in known
            if agents is None or one.agent_id in agents
        ]


def _reported(asked: Asked, told: Sequence[BackupReportRow], left_out: int) -> bytes:
    return _ours(
        {
            "since_ms": asked.since_ms,
            "until_ms": asked.until_ms,
            "objective": asked.objective,
            "rows": told,
            "left_out": left_out,
        }
    )


def _drill(book: RunbookView, now: datetime) -> dict[str, Any]:
    return {
        "runbook": book.name,
        "digest": book.digest,
        "accepted_by": book.accepted_by,
        "rto_s": book.rto_s,
        "rpo_s": book.rpo_s,
        "every_s": book.drill_every_s,
        "last": book.last_drill,
        "last_state": book.last_drill_state,
        "due": book.drill_due,
        "overdue": book.drill_due is not None and book.drill_due < now,
        "recovery_p90_s": book.recovery_p90_s,
        "ready": book.ready,
        "not_ready": list(book.not_ready),
    }


def _counts(listed: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {
        "drills": sum(one["drill"] for one in listed),
        "recovered": sum(one["recovery_ms"] is not None for one in listed),
        "rto_kept": sum(one["rto_kept"] is True for one in listed),
        "rto_missed": sum(one["rto_kept"] is False for one in listed),
    }


def _audit_row(row: Row) -> dict[str, Any]:
    found = {name: getattr(row, name) for name in chains.AUDIT_FIELDS}
    return found | {"prev_hash": row.prev_hash.hex(), "hash": row.hash.hex()}


def _signed(checkpoint: Checkpoint | None) -> dict[str, Any]:
    if checkpoint is None:
        return {}
    return {
        "seq": checkpoint.seq,
        "site": checkpoint.site,
        "at_ms": checkpoint.at_ms,
        "hash": checkpoint.hash.hex(),
        "before": checkpoint.before.hex(),
        "key": checkpoint.key.hex(),
        "signature": checkpoint.signature.hex(),
    }


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=True).encode("ascii") + b"\n"


def _ours(document: object) -> bytes:
    """What holds dataclasses and times."""
    options = JSON_OPTIONS | orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(document, option=options)


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y%m%d")
