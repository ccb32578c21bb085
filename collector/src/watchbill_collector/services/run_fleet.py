"""The hosts as runbooks see them: active ones by name, with their bound labels and what they said they allow."""

from collections.abc import Callable, Mapping
from typing import Final

from watchbill.actions.roster import Roster
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.runbooks.expression import Facts
from watchbill_collector.runbooks.expressions import NO_FACTS
from watchbill_collector.runbooks.fleet import Fleet, KnownHost
from watchbill_collector.runbooks.run.world import World
from watchbill_collector.services.run_intake import Inventories
from watchbill_collector.store.hosts import HostState

NOBODY: Final[Mapping[str, Mapping[str, str]]] = {}


class FleetView:
    """The fleet, made again when a host or an inventory is another one. Calling it gives the world of this moment."""

    def __init__(
        self,
        site: str,
        registry: HostRegistry,
        inventories: Inventories,
        *,
        connected: Callable[[str], bool],
        facts: Callable[[], Facts] = lambda: NO_FACTS,
        roster: Callable[[], Roster | None] = lambda: None,
        paused: Callable[[], str] = lambda: "",
        disabled: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._site = site
        self._registry = registry
        self._inventories = inventories
        self._connected = connected
        self._facts = facts
        self._roster = roster
        self._paused = paused
        self._disabled = disabled
        self._fleet: Fleet | None = None
        self._labels: Mapping[str, Mapping[str, str]] = NOBODY
        self._seen = (-1, -1)
        self._changes = 0
        registry.subscribe(self._changed)

    def _changed(self, _: object) -> None:
        self._changes += 1

    @property
    def generation(self) -> tuple[int, int]:
        """Another one when the fleet may be another one."""
        return self._changes, self._inventories.generation

    def fleet(self) -> Fleet:
        """Active hosts by name."""
        if self._fleet is None or self._seen != self.generation:
            self._seen = self.generation
            hosts = [one for one in self._registry.hosts() if one.state is HostState.ACTIVE]
            found: dict[str, KnownHost] = {}
            for host in hosts:
                row = self._inventories.rows.get(host.agent_id)
                actions = None if row is None else {one.name: one for one in row.inventory.actions}
                found[host.instance] = KnownHost(
                    name=host.instance, agent=host.agent_id, labels=dict(host.labels), actions=actions
                )
            self._fleet = Fleet(found)
            self._labels = {host.agent_id: dict(host.labels) for host in hosts}
        return self._fleet

    def name_of(self, agent_id: str) -> str:
        """A host's name, also of one that is gone; "" for one that was never here."""
        host = self._registry.get(agent_id)
        return "" if host is None else host.instance

    def __call__(self) -> World:
        """The world now."""
        return World(
            site=self._site,
            fleet=self.fleet(),
            facts=self._facts(),
            connected=self._connected,
            ledger=self._inventories.ledger,
            labels=self._labels,
            roster=self._roster(),
            paused=self._paused(),
            disabled=self._disabled(),
        )
