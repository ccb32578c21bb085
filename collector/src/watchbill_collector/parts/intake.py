"""Ingest with what is around it: who may send, the critical events, the windows that rules read, the witnesses of the
audit."""

from collections.abc import Callable

from watchbill.leaving import DECOMMISSION, Leaving
from watchbill_collector.head import Head
from watchbill_collector.hosts import ChangeKind, HostChange
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.ingest.settings import IngestOptions
from watchbill_collector.parts.ground import Ground, Part
from watchbill_collector.parts.host_changes import HostChanges
from watchbill_collector.parts.past import Past
from watchbill_collector.parts.state import State
from watchbill_collector.services import check_intake
from watchbill_collector.services.completeness import recall
from watchbill_collector.services.departures import retire_decommissioned
from watchbill_collector.services.health import HealthMetrics, HealthService
from watchbill_collector.services.registry import RegistryAdmission, StoreCritSink
from watchbill_collector.services.witnessing import COMPARED_EVERY_S, Witnessing

STALLED_S = 120.0
"""How long a commit may wait before the outside watchdog is not pinged."""


Reader = Callable[[str, str, bytes, bytes], object | None]
"""Of one host's event: its kind, id and payload. Raises RecordRefused."""


class Intake(Part):
    """See the module. The doors start it: they know when agents may come."""

    def __init__(self, ground: Ground, state: State, past: Past, changes: HostChanges) -> None:
        self._ground = ground
        self._state = state
        self._past = past
        self.head = Head(past.table)
        self.crit = StoreCritSink(state.store, ground.clock)
        self.ingest = Ingest(
            past.table,
            past.history,
            RegistryAdmission(state.registry),
            ground.clock,
            crit=self.crit,
            appended=self.head.append,
            options=IngestOptions(sessions_max=ground.config.grpc.agents_max),
        )
        self._witnessing = Witnessing(state.store, state.auditing)
        self.ingest.audit_head = self._witnessing.head
        self.ingest.witness = self._witnessing.shown
        self.ingest.left = self._host_left
        self.health = HealthService(self.head, state.registry, state.store, ground.clock, self._up)
        self.crit.checks_told = self.health.told
        self._readers: list[Reader] = [check_intake.read]
        self.ingest.read_event = self._read_event
        self.ingest.restore([*past.history.marks(), *self.crit.marks()])
        changes.follow(self._host_changed)
        changes.follow(self.health.host_changed)
        ground.metrics.register(self.ingest.counters)
        ground.metrics.register(HealthMetrics(self.health))

    def begin(self) -> None:
        """Read back how complete the last hour was, and compare what witnesses show."""
        now_ms = self._ground.clock.wall_ms()
        past, registry = self._past, self._state.registry
        self._ground.house.spawn(
            "completeness", recall(past.history, past.table, registry, self.ingest, now_ms)
        )
        self._ground.every("witnesses", COMPARED_EVERY_S, self._witnessing.compare)

    def reads(self, reader: Reader) -> None:
        """Have critical events read at the door by `reader`, too: it answers None for kinds that are not its own."""
        self._readers.append(reader)

    def _read_event(self, agent_id: str, kind: str, event_id: bytes, payload: bytes) -> object | None:
        for reader in self._readers:
            found = reader(agent_id, kind, event_id, payload)
            if found is not None:
                return found
        return None

    def _up(self, agent_id: str) -> bool | None:
        facts = self.ingest.facts(agent_id)
        return None if facts is None else facts.up

    def stalled(self) -> bool:
        """Whether commits stand still."""
        return self.ingest.commits.oldest_s() > STALLED_S

    def _host_left(self, agent_id: str, leaving: Leaving) -> None:
        name = self.ingest.name_of(agent_id)
        self._ground.bus.publish("host", {"host": name, "agent_id": agent_id, "change": "left"})
        if leaving.reason == DECOMMISSION:
            self._ground.house.spawn("decommission", retire_decommissioned(self._state.registry))

    def _host_changed(self, change: HostChange) -> None:
        agent_id = change.after.agent_id
        if change.kind is ChangeKind.REVOKED:
            self.ingest.revoke(agent_id)
            self.ingest.retire(agent_id)
        elif change.kind in (ChangeKind.RETIRED, ChangeKind.REPLACED):
            self.ingest.retire(agent_id)
        elif change.kind is ChangeKind.FORGOTTEN:
            self.ingest.forget(agent_id)
        elif change.kind is ChangeKind.RENAMED:
            self.ingest.renamed(agent_id)
