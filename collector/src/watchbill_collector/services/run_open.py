"""Open runs, found by what they wait for: their locks, their hosts, their moments. Nobody goes through all of them."""

import heapq
from dataclasses import dataclass, field

from watchbill.actions.outcomes import Accepted, Finished, States
from watchbill.actions.outcomes import Refused as HostRefused
from watchbill_collector.runbooks.run.flow import Flow
from watchbill_collector.runbooks.run.progress import Run
from watchbill_collector.store.runs import JournalHead

Event = Accepted | Finished | HostRefused | States


@dataclass(slots=True)
class Live:
    """A run in memory, and what its journal ends with."""

    run: Run
    flow: Flow
    head: JournalHead
    wake_ms: int | None = None
    told: list[tuple[str, Event]] = field(default_factory=list)
    unsent: list[str] = field(default_factory=list)
    resumed: bool = False
    asked_ms: int = 0
    agents: frozenset[str] = frozenset()
    """Hosts that it waits for, as the driver has noted it."""
    noted_ms: int | None = None
    """The moment at which the driver would look at it."""


class OpenRuns:
    """See the module. On the loop; the driver of runs alone changes it."""

    def __init__(self) -> None:
        self.live: dict[str, Live] = {}
        self.due: dict[str, None] = {}
        self.locks: dict[str, dict[str, None]] = {}
        self.by_agent: dict[str, dict[str, None]] = {}
        """Runs by the hosts that they wait for: with ten thousand open ones nobody goes through all."""
        self.busy: dict[str, None] = {}
        """Runs with commands that are not over."""
        self.wakes: list[tuple[int, str]] = []
        """A heap of moments; one that is not its run's any more is passed over."""

    def mark(self, live: Live) -> None:
        """It is to be looked at in the next turn."""
        self.due[live.run.run_id] = None

    def put(self, live: Live) -> None:
        """A run is open: it is found by its lock and by what it waits for, and looked at soon."""
        self.live[live.run.run_id] = live
        if live.run.created.lock:
            self.locks.setdefault(live.run.created.lock, {})[live.run.run_id] = None
        self.note(live)
        self.mark(live)

    def note(self, live: Live) -> None:
        """What it waits for may be something else now."""
        run = live.run
        waits = (*run.open_attempts(), *run.unknown_attempts())
        self._found_by(live, frozenset(one.agent for one in waits))
        if run.open_keys:
            self.busy[run.run_id] = None
        else:
            self.busy.pop(run.run_id, None)
        if live.wake_ms is not None and live.wake_ms != live.noted_ms:
            heapq.heappush(self.wakes, (live.wake_ms, run.run_id))
        live.noted_ms = live.wake_ms

    def _found_by(self, live: Live, agents: frozenset[str]) -> None:
        for agent in live.agents - agents:
            known = self.by_agent[agent]
            del known[live.run.run_id]
            if not known:
                del self.by_agent[agent]
        for agent in agents - live.agents:
            self.by_agent.setdefault(agent, {})[live.run.run_id] = None
        live.agents = agents

    def drop(self, live: Live) -> None:
        """It is over, or not to be gone on with."""
        run_id = live.run.run_id
        self.live.pop(run_id, None)
        self.busy.pop(run_id, None)
        self._found_by(live, frozenset())
        held = self.locks.get(live.run.created.lock)
        if held is not None:
            held.pop(run_id, None)
            if not held:
                del self.locks[live.run.created.lock]

    def wake_due(self, now_ms: int) -> None:
        """Those whose moment has come."""
        while self.wakes and self.wakes[0][0] <= now_ms:
            at_ms, run_id = heapq.heappop(self.wakes)
            live = self.live.get(run_id)
            if live is not None and live.wake_ms == at_ms:
                live.noted_ms = None
                self.mark(live)
