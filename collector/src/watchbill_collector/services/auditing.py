"""The audit, for the HTTP side: recording, reading, and checking the chain against the fleet's word."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future

import sqlalchemy as sa
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from watchbill.clock import Clock
from watchbill.errors import Busy, StorageError, UsageError
from watchbill.logs import fields
from watchbill.protocol.frames import AuditHead
from watchbill_collector.api.audit_port import AuditFinding, AuditQuery, AuditRow, AuditVerdict, AuditWitness
from watchbill_collector.api.ports import NoSuch, at
from watchbill_collector.audit import Audit, Entry, Filter, Head, Outcome, Refusals, Row, Turned, Witnesses
from watchbill_collector.audit.audit import SYSTEM
from watchbill_collector.audit.changes import changes
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.store import Store, facts
from watchbill_collector.store import audit as rows
from watchbill_collector.store.text import canonical_json

log = logging.getLogger("watchbill.audit")

CONFIGURATION_FACT = "audit.configuration"
"""Under this name the store keeps the hash of what the collector ran with last."""
WHY_CHARACTERS_MAX = 2_000


class AuditKeeper:
    """`api.ports.AuditService`, and what the rest of the collector tells the audit."""

    def __init__(
        self, store: Store, clock: Clock, audit: Audit, witnesses: Witnesses, registry: HostRegistry
    ) -> None:
        self._store = store
        self._clock = clock
        self._audit = audit
        self._witnesses = witnesses
        self._registry = registry
        self._refusals = Refusals(clock)
        self.unwritten = 0
        """Rows that could not be written and are known of by this number alone."""
        self.own_signature_disputed = False
        """Whether the collector found at its start that the chain is not what it had signed."""
        self._failing = ""
        self._texts: dict[str, str] = {}

    # ------------------------------------------------------------ recording

    async def ready(self) -> None:
        """Raises StorageError while the audit cannot be written; tries again at every call."""
        if not self._failing:
            return
        try:
            await self._audit.record_async(
                SYSTEM, "audit.resumed", "audit", detail={"rows_lost": self.unwritten, "why": self._failing}
            )
        except (StorageError, Busy) as exc:
            raise StorageError(f"nothing is changed while the audit cannot be written: {exc}") from exc
        self._failing, self.unwritten = "", 0

    async def record(
        self, actor: str, action: str, target: str, outcome: str, detail: Mapping[str, object]
    ) -> None:
        """Record one thing."""
        try:
            await self._audit.record_async(actor, action, target, outcome, detail)
        except (StorageError, Busy) as exc:
            self._failed(exc, 1)
            raise StorageError(f"it was done, and could not be recorded: {exc}") from exc

    def refused(self, actor: str, source: str, action: str, target: str, reason: str) -> None:
        """Note somebody who was turned away; nobody waits for the row."""
        entry = self._refusals.note(Turned(actor, source, action, target, reason))
        if entry is not None:
            self._write([entry])

    @property
    def turned_away(self) -> int:
        """Requests that were turned away, since the start."""
        return self._refusals.counted

    def tidy(self, *, ending: bool = False) -> None:
        """Now and then: write what was only counted."""
        self._write(self._refusals.rest() if ending else self._refusals.summary())

    def _write(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return

        def work(connection: sa.Connection) -> None:
            for entry in entries:
                rows.append(connection, self._store.site, self._clock, entry)

        try:
            self._store.submit(work).add_done_callback(self._written)
        except (StorageError, Busy) as exc:
            self._failed(exc, len(entries))

    def _written(self, done: "Future[None]") -> None:
        error = done.exception()
        if error is not None:
            self._failed(error, 1)

    def _failed(self, error: BaseException, count: int) -> None:
        if not self._failing:
            log.error("the audit cannot be written: changes are refused", extra=fields(why=error))
        self._failing = str(error)[:200] or type(error).__name__
        self.unwritten += count

    # ------------------------------------------------------------ what is configured

    async def began_signing(self) -> None:
        """The collector starts: its checkpoints fit the chain, or it is said aloud that they do not. Raises
        StorageError, Busy.
        """
        wrong = await asyncio.to_thread(self._audit.begin_signing)
        if wrong is None:
            return
        self.own_signature_disputed = True
        log.critical(
            "the audit is not what this collector signed: rolled back, or written anew",
            extra=fields(row=wrong.seq),
        )
        detail = {"row": wrong.seq, "hash_signed": wrong.hash.hex()}
        await self.record(SYSTEM, "audit.disputed", "checkpoint", Outcome.FAILED, detail)

    def sign(self) -> None:
        """Now and then: a checkpoint under what was recorded since the last one. Blocks; raises nothing."""
        try:
            self._audit.sign()
        except (StorageError, Busy) as exc:
            self._failed(exc, 0)

    async def began(self, texts: Mapping[str, str]) -> None:
        """The collector starts with these texts: a row when they are others than it ran with before."""
        self._texts = dict(texts)
        hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
        value = hashlib.sha256(canonical_json(hashes).encode()).hexdigest()

        def work(connection: sa.Connection) -> None:
            if facts.get(connection, CONFIGURATION_FACT) == value:
                return
            facts.put(connection, self._store.site, CONFIGURATION_FACT, value)
            entry = Entry(
                actor=SYSTEM, action="configuration.start", target="configuration", detail={"files": hashes}
            )
            rows.append(connection, self._store.site, self._clock, entry)

        await self._store.write(work)

    async def reloaded(self, texts: Mapping[str, str], actor: str = SYSTEM) -> None:
        """The configuration was read anew: a row for each text that changed, with the difference."""
        found = changes(self._texts, texts)
        self._texts = dict(texts)
        hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
        value = hashlib.sha256(canonical_json(hashes).encode()).hexdigest()
        entries = [
            Entry(actor=actor, action=f"configuration.{one.what}", target=one.file, detail=one.detail)
            for one in found
        ] or [Entry(actor=actor, action="configuration.reload", target="configuration")]

        def work(connection: sa.Connection) -> None:
            facts.put(connection, self._store.site, CONFIGURATION_FACT, value)
            for entry in entries:
                rows.append(connection, self._store.site, self._clock, entry)

        await self._store.write(work)

    async def reload_refused(self, why: str, actor: str = SYSTEM) -> None:
        """The configuration was not taken: the one before goes on."""
        entry = Entry(
            actor=actor,
            action="configuration.reload",
            target="configuration",
            outcome=Outcome.REFUSED,
            detail={"why": why[:WHY_CHARACTERS_MAX]},
        )
        await self._audit.record_all([entry])

    # ------------------------------------------------------------ witnesses

    def heard_all(self, said: Mapping[str, Sequence[AuditHead]]) -> None:
        """What several agents showed, by their ids. Blocks."""
        for agent_id, heads in said.items():
            self.heard(agent_id, [Head(head.seq, head.hash) for head in heads])

    def heard(self, agent_id: str, heads: Sequence[Head]) -> None:
        """An agent shows the heads it was told. Blocks for a read; raises nothing."""
        if not self._witnesses.hear(agent_id, heads):
            return
        known = self._witnesses.testimony(agent_id)
        try:
            found = self._witnesses.judge(agent_id, self._clock.wall_ms())
        except StorageError as exc:
            log.warning("a witness could not be heard", extra=fields(why=exc))
            return
        if found is None or found.agreed or (known is not None and not known.agreed):
            return
        host = self._registry.get(agent_id)
        name = host.instance if host is not None else agent_id
        assert found.disputed is not None
        seq = found.disputed.seq
        log.critical(
            "the audit is not what the fleet was told: rolled back, or written anew",
            extra=fields(host=name, row=seq),
        )
        detail = {"row": seq, "hash_told": found.disputed.hash.hex(), "agent_id": agent_id}
        self._write([Entry(actor=SYSTEM, action="audit.disputed", target=name, detail=detail)])

    # ------------------------------------------------------------ reading

    async def rows(self, wanted: AuditQuery, limit: int) -> Sequence[AuditRow]:
        """Rows, newest first."""
        narrow = Filter(
            actor=wanted.actor,
            action=wanted.action,
            target=wanted.target,
            outcome=wanted.outcome,
            request=wanted.request,
            since_ms=None if wanted.since is None else round(wanted.since.timestamp() * 1000),
            until_ms=None if wanted.until is None else round(wanted.until.timestamp() * 1000),
            before=wanted.before,
        )
        return [_shown(row) for row in await asyncio.to_thread(self._audit.newest, narrow, limit)]

    async def export(self, after: int, limit: int) -> Sequence[AuditRow]:
        """Rows in order."""
        return [_shown(row) for row in await asyncio.to_thread(self._audit.after, after, limit)]

    async def verify(self, witnesses: Sequence[str] | None) -> AuditVerdict:
        """Check the chain, and hear the witnesses."""
        asked = self._asked(witnesses)
        verdict = await asyncio.to_thread(self._audit.check)
        said = [await asyncio.to_thread(self._witness, name, agent_id) for name, agent_id in asked]
        return AuditVerdict(
            # Whose word was asked for by name has to have spoken: silence is what a forger would arrange.
            ok=verdict.whole
            and all(
                one.verdict == "agrees" or (one.verdict == "silent" and witnesses is None) for one in said
            ),
            rows=verdict.rows,
            seq=verdict.seq,
            hash=verdict.hash.hex(),
            findings=tuple(
                AuditFinding(one.fault.value, one.seq, one.to, one.detail) for one in verdict.findings
            ),
            findings_left_out=verdict.findings_left_out,
            witnesses=tuple(said),
            checkpoints=verdict.checkpoints,
            signed_seq=verdict.signed_seq,
        )

    def _asked(self, names: Sequence[str] | None) -> list[tuple[str, str]]:
        if names is None:
            hosts = [(host.instance, host.agent_id) for host in self._registry.hosts()]
            return [one for one in hosts if self._witnesses.testimony(one[1]) is not None]
        found = []
        for name in names:
            try:
                host = self._registry.find(name)
            except UsageError as exc:
                raise NoSuch(str(exc)) from exc
            found.append((host.instance, host.agent_id))
        return found

    def _witness(self, name: str, agent_id: str) -> AuditWitness:
        """What a host's heads say of the chain as it is now."""
        found = self._witnesses.judge(agent_id, self._clock.wall_ms())
        if found is None:
            return AuditWitness(name, "silent", 0, None)
        disputed = None if found.disputed is None else found.disputed.seq
        return AuditWitness(
            name, "agrees" if found.agreed else "disagrees", found.seq, at(found.told_ms), disputed
        )


class AuditMetrics:
    """The audit's own metrics, for a prometheus_client registry."""

    def __init__(self, keeper: AuditKeeper, audit: Audit, witnesses: Witnesses) -> None:
        self._keeper = keeper
        self._audit = audit
        self._witnesses = witnesses

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are given when they are collected."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """What there is to know."""
        head = self._audit.head()
        for name, text, value in (
            ("rows", "Rows of the audit.", head.seq if head is not None else 0),
            (
                "witnesses_disagreeing",
                "Hosts that were told of rows which the audit does not contain, and the collector if it signed such.",
                self._witnesses.disagreeing + self._keeper.own_signature_disputed,
            ),
            ("rows_unsigned", "Rows behind the newest signed checkpoint.", self._audit.unsigned),
            ("rows_unwritten", "Rows that could not be written.", self._keeper.unwritten),
        ):
            yield GaugeMetricFamily(f"watchbill_collector_audit_{name}", text, float(value))
        yield CounterMetricFamily(
            "watchbill_collector_audit_refusals", "Requests turned away.", float(self._keeper.turned_away)
        )


def _shown(row: Row) -> AuditRow:
    return AuditRow(
        seq=row.seq,
        time=at(row.at_ms),
        actor=row.actor,
        source=row.source,
        action=row.action,
        target=row.target,
        outcome=row.outcome,
        request=row.request,
        detail=json.loads(row.detail),
        prev_hash=row.prev_hash.hex(),
        hash=row.hash.hex(),
    )
