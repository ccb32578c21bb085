"""The host registry and the store, as ingest sees them."""

from collections.abc import Callable, Mapping, Sequence

import sqlalchemy as sa

from watchbill.clock import Clock
from watchbill.events import LIFE
from watchbill.identity import RefusalReason
from watchbill.leaving import Leaving
from watchbill.protocol.frames import Stream
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.ingest.ports import CritEvent, Host, Mark, Spool, Standing
from watchbill_collector.services import backup_intake, check_intake
from watchbill_collector.services.backup_intake import Written
from watchbill_collector.services.run_intake import COMMAND_KINDS, Committed, RunDoor
from watchbill_collector.store import Store, crit
from watchbill_collector.store.checks import CheckChange
from watchbill_collector.store.hosts import Host as HostRow
from watchbill_collector.store.hosts import HostState

_STANDINGS = {
    HostState.ACTIVE: Standing.ACTIVE,
    HostState.PENDING: Standing.PENDING,
    HostState.RETIRED: Standing.RETIRED,
    HostState.REVOKED: Standing.REVOKED,
    HostState.FORGOTTEN: Standing.FORGOTTEN,
}


class RegistryAdmission:
    """`ingest.ports.Admission` over `hosts.HostRegistry`."""

    def __init__(self, registry: HostRegistry) -> None:
        self._registry = registry

    def host(self, agent_id: str) -> Host | None:
        """The host with this identity; one whose last certificate has expired may not go on."""
        row = self._registry.get(agent_id)
        if row is None:
            return None
        host = _host(row)
        if (
            host.standing is Standing.ACTIVE
            and self._registry.standing(agent_id) is RefusalReason.UNKNOWN_AGENT
        ):
            return None
        return host

    def seen(self, agent_id: str, labels: Mapping[str, str], beat_interval_ms: int) -> None:
        """A session began."""
        self._registry.seen(agent_id, labels, beat_interval_ms)

    def left(self, agent_id: str, leaving: Leaving) -> None:
        """The host announced its stop."""
        self._registry.left(agent_id, leaving)

    def leaving(self, agent_id: str) -> Leaving | None:
        """How the host said goodbye."""
        return self._registry.leaving(agent_id)

    def expected(self) -> Sequence[tuple[Host, Mapping[str, str], int]]:
        """Active hosts that came and did not say goodbye."""
        return [(_host(row), one.labels, one.beat_interval_ms) for row, one in self._registry.expected()]

    def promised(self) -> Sequence[tuple[Host, Mapping[str, str], Leaving]]:
        """Active hosts that said goodbye and that they would be back."""
        return [(_host(row), labels, leaving) for row, labels, leaving in self._registry.promised()]


def _host(row: HostRow) -> Host:
    return Host(row.agent_id, row.instance, row.labels, _STANDINGS[row.state])


class StoreCritSink:
    """`ingest.ports.CritSink` over the control store. Called by the committing thread."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.backups_told: Callable[[frozenset[str]], None] = lambda _: None
        """Told that something new of backups is committed, with the hosts whose jobs are others now. From the
        committing thread; must not block."""
        self.commands: RunDoor | None = None
        """Keeps what hosts say of commands and actions; None: nobody asks for any."""
        self.commands_told: Callable[[Committed], None] = lambda _: None
        """Told what of that is committed; in the same way."""
        self.checks_told: Callable[[Sequence[tuple[str, CheckChange]]], None] = lambda _: None
        """Told what hosts said of their checks, once it is committed; in the same way."""

    def commit(self, marks: Sequence[Mark], events: Mapping[Spool, Sequence[CritEvent]]) -> None:
        """Write events and watermarks in one transaction. Raises StorageError."""
        now_ms = self._clock.wall_ms()
        committed, checks = Committed(), list[tuple[str, CheckChange]]()
        told = self._store.write_blocking(
            lambda connection: self._write(connection, marks, events, now_ms, committed, checks)
        )
        if told is not None:
            self.backups_told(told)
        if committed.told or committed.inventories:
            self.commands_told(committed)
        if checks:
            self.checks_told(checks)

    def _write(
        self,
        connection: sa.Connection,
        marks: Sequence[Mark],
        events: Mapping[Spool, Sequence[CritEvent]],
        now_ms: int,
        committed: Committed,
        checks: list[tuple[str, CheckChange]],
    ) -> frozenset[str] | None:
        """In the transaction; what `backups_told` is to be told, None for nothing."""
        site, changed, found = self._store.site, set(), False
        for mark in marks:
            those = events.get((mark.agent_id, mark.spool_id), ())
            at = crit.CritMark(mark.agent_id, mark.spool_id, mark.seq, mark.digest)
            new = set(crit.commit(connection, site, at, [_record(event) for event in those], now_ms))
            fresh = [event for event in those if event.seq in new]
            written = backup_intake.write(connection, site, mark.agent_id, fresh, now_ms)
            checks += check_intake.write(connection, site, mark.agent_id, fresh)
            if self.commands is not None:
                self.commands.write(connection, mark.agent_id, fresh, now_ms, committed)
            found = found or written is not Written.NOTHING
            if written is Written.JOBS:
                changed.add(mark.agent_id)
        return frozenset(changed) if found else None

    def trim(self) -> int:
        """Let go of the oldest events of agents' own lives, of checks, and of backups and commands, which are kept
        apart; how many went.
        Blocks. Raises StorageError.
        """
        site, kinds = self._store.site, LIFE | backup_intake.BACKUP_KINDS | COMMAND_KINDS
        kinds |= check_intake.CHECK_KINDS
        return self._store.write_blocking(
            lambda connection: crit.trim(connection, site, kinds, check_intake.CHECK_FAMILIES)
        )

    def marks(self) -> list[Mark]:
        """Every watermark of the crit stream."""
        rows = self._store.read(lambda connection: crit.marks(connection, self._store.site))
        return [Mark(row.agent_id, row.spool_id, int(Stream.CRIT), row.seq, row.digest) for row in rows]

    def remove_marks(self, marks: Sequence[Mark]) -> None:
        """Forget watermarks of the crit stream. Blocks. Raises StorageError."""
        keys = [(mark.agent_id, mark.spool_id) for mark in marks]
        self._store.write_blocking(lambda connection: crit.remove_marks(connection, self._store.site, keys))


def _record(event: CritEvent) -> crit.CritRecord:
    return crit.CritRecord(
        seq=event.seq,
        event_id=event.event_id,
        kind=event.kind,
        boottime_ms=event.boottime_ms,
        wall_ms=event.wall_ms,
        payload=event.payload,
    )
