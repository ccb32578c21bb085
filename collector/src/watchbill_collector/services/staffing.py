"""What it means that somebody leaves: read from the store and `runbooks.d`, whether the collector runs or not."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from watchbill.actions.roster import glance
from watchbill.clock import Clock
from watchbill.errors import Unreadable
from watchbill_collector.runbooks.fleet import Fleet, KnownHost
from watchbill_collector.runbooks.model import Runbook
from watchbill_collector.runbooks.staffing import (
    AskedByRunbook,
    AskedOnHost,
    hosts_without,
    on_roster,
    runbooks_without,
    staff,
)
from watchbill_collector.store import Store, hosts, inventories, rosters, votes
from watchbill_collector.store.hosts import HostState


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """Somebody is let out: the open runs in which what he agreed to is void; what he could approve on which hosts, and
    the runbooks that ask for his role, as long as the newest roster has him. `roster` 0: it does not, or there is none.
    """

    name: str
    roster: int
    runs: tuple[str, ...] = ()
    hosts: tuple[AskedOnHost, ...] = ()
    runbooks: tuple[AskedByRunbook, ...] = ()

    def document(self) -> dict[str, Any]:
        """For a program."""
        return {
            "name": self.name,
            "roster": self.roster,
            "runs": list(self.runs),
            "hosts": [asdict(one) | {"short": one.short} for one in self.hosts],
            "runbooks": [asdict(one) | {"short": one.short} for one in self.runbooks],
        }


class Staffing:
    """Reads anew each time: it is asked seldom, and by who has no collector running, too. Blocks."""

    def __init__(self, store: Store, clock: Clock, books: Callable[[], Mapping[str, Runbook]]) -> None:
        self._store = store
        self._clock = clock
        self._books = books

    def leaving(self, name: str, disabled: frozenset[str]) -> Leaving:
        """What it means that `name` is among the `disabled`. Raises StorageError."""
        site = self._store.site
        runs = tuple(self._store.read(lambda connection: votes.voided_in_open_runs(connection, site, name)))
        row = self._store.read(lambda connection: rosters.newest(connection, site))
        try:
            roster = None if row is None else glance(row.signed)
        except Unreadable:
            roster = None
        person = on_roster(roster, name)
        if roster is None or person is None:
            return Leaving(name=name, roster=0, runs=runs)
        rest = staff(roster, disabled | {name.lower()}, self._clock.wall_ms())
        fleet = self._fleet()
        return Leaving(
            name=name,
            roster=roster.serial,
            runs=runs,
            hosts=tuple(hosts_without(person, rest, fleet)),
            runbooks=tuple(runbooks_without(person, rest, fleet, self._books())),
        )

    def _fleet(self) -> Fleet:
        site = self._store.site
        rows = self._store.read(lambda connection: hosts.all_hosts(connection, site))
        said = self._store.read(lambda connection: inventories.all_of(connection, site))
        found = {}
        for host in rows:
            if host.state is HostState.ACTIVE:
                known = said.get(host.agent_id)
                found[host.instance] = KnownHost(
                    name=host.instance,
                    agent=host.agent_id,
                    labels=dict(host.labels),
                    actions=None if known is None else {one.name: one for one in known.inventory.actions},
                )
        return Fleet(found)
