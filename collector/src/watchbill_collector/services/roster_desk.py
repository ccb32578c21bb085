"""The roster, as the collector carries it: kept, handed to hosts that have an older one, used to count votes.

The collector cannot make one. With a `roster.pub` of its own beside its configuration it refuses one that hosts would
refuse; without it, hosts are the first who look at the signature.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector as MetricCollector

from watchbill.actions.enrolled import read_roster_keys
from watchbill.actions.order import Order, RosterCopy
from watchbill.actions.outcomes import Inventory
from watchbill.actions.roster import Roster, RosterRefused, glance, open_roster
from watchbill.clock import Clock
from watchbill.errors import Refused, Unreadable
from watchbill.logs import fields
from watchbill_collector.api.ports import Caller, at
from watchbill_collector.api.roster_port import Behind, HostBehind, Published, RosterDocument
from watchbill_collector.audit import Entry
from watchbill_collector.runbooks.staffing import RoleStaff, roles, staff, still_on_roster
from watchbill_collector.scopes import View
from watchbill_collector.store import Store, audit, rosters
from watchbill_collector.store.rosters import RosterRow

log = logging.getLogger(__name__)

AGAIN_MS: Final = 10 * 60_000
"""A host that was sent the roster and does not say that it has it is sent it again after this."""
SENT_AT_ONCE_MAX: Final = 100
"""Hosts that are sent a roster in one turn; the others follow in the next."""
ROLES_EVERY_MS: Final = 60_000
"""How often it is counted who may approve what: every host and every action of it is looked at."""
ROLES_TOLD_MAX: Final = 200
"""As series; hosts name roles, and may name any number of them."""
AUTHOR_CHARACTERS_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Bearer:
    """A host that could have a roster: its name, its bound labels, what it said last, and when."""

    name: str
    labels: Mapping[str, str]
    inventory: Inventory
    told_ms: int


Bearers = Callable[[], Mapping[str, Bearer]]
"""By agent id."""
Send = Callable[[str, Order], bool]
"""To a host by its agent id; False when it is not connected."""


class RosterDesk:
    """`api.roster_port.RosterService`, and what counts votes asks for `current`. `disabled`: who was let out of this
    collector, in small letters."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        etc: Path,
        owner: int,
        bearers: Bearers,
        send: Send,
        disabled: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._store = store
        self._clock = clock
        self._etc = etc
        self._owner = owner
        self._bearers = bearers
        self._send = send
        self._disabled = disabled
        self._roles: dict[str, RoleStaff] = {}
        self._roles_until_ms = 0
        self._sent_ms: dict[str, tuple[int, int]] = {}
        """By agent id: the serial that was sent last, and when."""
        self._row: RosterRow | None = store.read(lambda connection: rosters.newest(connection, store.site))
        self._roster = None if self._row is None else glance(self._row.signed)

    def current(self) -> Roster | None:
        """By which votes are counted; None: nobody may approve."""
        return self._roster

    async def roster(self) -> RosterDocument:
        """The newest."""
        if self._roster is None or self._row is None:
            return RosterDocument(None)
        return RosterDocument(
            self._roster.document(), at(self._row.published_ms), self._row.author, self.still_there()
        )

    async def publish(self, signed: bytes, by: Caller) -> Published:
        """Take a newer one, and hand it on."""
        now_ms = self._clock.wall_ms()
        found = self._judged(signed, now_ms)
        author = by.name[:AUTHOR_CHARACTERS_MAX]
        row = RosterRow(found.serial, author, now_ms, signed)
        detail = {"serial": found.serial, "people": len(found.people), "expires_ms": found.expires_ms}
        entry = Entry(actor=author, action="roster.publish", target=f"roster/{found.serial}", detail=detail)

        def work(connection: sa.Connection) -> None:
            if not rosters.put(connection, self._store.site, row):
                newest = rosters.newest(connection, self._store.site)
                raise Refused(
                    f"got the serial {found.serial}, wanted more than the newest roster's "
                    f"{newest.serial if newest else 0}: sign it again with --previous, or --serial"
                )
            audit.append(connection, self._store.site, self._clock, entry)

        await self._store.write(work)
        self._row, self._roster = row, found
        self._roles_until_ms = 0
        return Published(found.document(), self.hand_out())

    def _judged(self, signed: bytes, now_ms: int) -> Roster:
        """A roster that may be carried. Raises Refused with why not."""
        try:
            keys = read_roster_keys(self._etc, self._owner)
            found = open_roster(keys, signed) if keys else glance(signed)
        except (RosterRefused, Unreadable) as exc:
            raise Refused(str(exc)) from exc
        if found.site != self._store.site:
            raise Refused(f"got a roster of the site {found.site!r}, wanted one of {self._store.site!r}")
        fault = found.fault(now_ms)
        if fault:
            raise Refused(fault)
        return found

    # ------------------------------------------------------------ who is there

    def still_there(self) -> tuple[str, ...]:
        """People of the newest roster who are disabled here: hosts still count what they sign."""
        return still_on_roster(self._roster, self._disabled())

    def roles(self) -> dict[str, RoleStaff]:
        """Every role with the people that it has and needs, as it was at most a minute ago."""
        now_ms = self._clock.wall_ms()
        if not 0 < self._roles_until_ms - now_ms <= ROLES_EVERY_MS:
            found = staff(self._roster, self._disabled(), now_ms)
            bearers = self._bearers().values()
            self._roles = roles(found, ((one.labels, one.inventory.actions) for one in bearers))
            self._roles_until_ms = now_ms + ROLES_EVERY_MS
        return self._roles

    # ------------------------------------------------------------ handing out

    def hand_out(self) -> int:
        """Send it to hosts that are connected and have an older one; how many. Called again from time to time."""
        if self._row is None:
            return 0
        now_ms, sent = self._clock.wall_ms(), 0
        bearers = self._bearers()
        for gone in self._sent_ms.keys() - bearers.keys():
            del self._sent_ms[gone]
        for agent_id, bearer in bearers.items():
            if sent == SENT_AT_ONCE_MAX:
                break
            if self._due(agent_id, bearer, now_ms) and self._send(agent_id, RosterCopy(self._row.signed)):
                self._sent_ms[agent_id] = (self._row.serial, now_ms)
                sent += 1
        if sent:
            log.info("a roster was sent", extra=fields(serial=self._row.serial, hosts=sent))
        return sent

    def _due(self, agent_id: str, bearer: Bearer, now_ms: int) -> bool:
        assert self._row is not None, "there is something to send"
        if not self._why_behind(bearer):
            return False
        serial, sent_ms = self._sent_ms.get(agent_id, (0, 0))
        return bearer.inventory.runner and (serial != self._row.serial or now_ms - sent_ms >= AGAIN_MS)

    def _why_behind(self, bearer: Bearer) -> str:
        """Why a host does not have the newest roster, or ""."""
        inventory = bearer.inventory
        if self._row is None or inventory.roster_serial >= self._row.serial or not inventory.runner:
            return ""
        if not inventory.roster_keys:
            return "no roster.pub there: nothing that is protected runs"
        return f"it has {inventory.roster_serial}" if inventory.roster_serial else "it has none yet"

    async def behind(self, sees: View) -> Behind:
        """Which hosts do not have it."""
        found = [
            HostBehind(one.name, one.inventory.roster_serial, why, at(one.told_ms))
            for one in self._bearers().values()
            if (why := self._why_behind(one)) and sees.host(one.name, one.labels)
        ]
        return Behind(self._row.serial if self._row else 0, sorted(found, key=lambda one: one.name))

    def lagging(self) -> Sequence[str]:
        """Names of all hosts that do not have it."""
        return [one.name for one in self._bearers().values() if self._why_behind(one)]


class RosterMetrics(MetricCollector):
    """`watchbill_roster_*`: of the roster itself nothing before there is one."""

    def __init__(self, desk: RosterDesk) -> None:
        self._desk = desk

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: names are made when there is something to say."""
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Its number, its people and roles, when it ends, and how many hosts have an older one."""
        found = self._desk.current()
        if found is not None:
            for name, help_, value in (
                ("serial", "Number of the newest roster.", found.serial),
                ("people", "People on the newest roster.", len(found.people)),
                (
                    "people_disabled",
                    "People on the newest roster who are disabled on the collector.",
                    len(self._desk.still_there()),
                ),
                ("issued_timestamp_seconds", "When the newest roster was signed.", found.issued_ms / 1000),
                ("expires_timestamp_seconds", "When the newest roster ends.", found.expires_ms / 1000),
                (
                    "hosts_behind",
                    "Hosts with a runner that have an older roster, or none.",
                    len(self._desk.lagging()),
                ),
            ):
                yield GaugeMetricFamily(f"watchbill_roster_{name}", help_, value=value)
        yield from self._roles()

    def _roles(self) -> Iterable[GaugeMetricFamily]:
        people = GaugeMetricFamily(
            "watchbill_roster_role_people",
            "People who may approve in a role, on the host where the fewest may.",
            labels=["role"],
        )
        needed = GaugeMetricFamily(
            "watchbill_roster_role_needed",
            "People of a role that one action asks for, at most.",
            labels=["role"],
        )
        for role, one in sorted(self._desk.roles().items())[:ROLES_TOLD_MAX]:
            people.add_metric([role], one.people)
            needed.add_metric([role], one.needed)
        yield from (people, needed)
