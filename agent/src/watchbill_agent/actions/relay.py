"""Carries orders to this host's runner, and away from it what it says of them.

The agent judges nothing and can forge nothing: an order is bytes to it. What the runner tells is kept as a critical
event under the name that the event itself has, and confirmed once it is synced here or the collector has it; so it is
told again until then, and arrives once. Orders are handed over until their time is over: the runner knows one that it
has seen.

Without a runner an order is answered as refused, and stays refused: that word says that it will not be run.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchbill.clock import Clock
from watchbill.errors import Refused, Unreachable
from watchbill.limits import EVENT_ID_BYTES
from watchbill.logs import fields
from watchbill.protocol.frames import RunnerOrder
from watchbill_agent.actions.door import Door, NoRunner, Reading, Told
from watchbill_agent.events import Events
from watchbill_agent.runner.event import Event
from watchbill_agent.spool import SpoolFull

log = logging.getLogger(__name__)

WAITING_MAX: Final = 64
"""Orders that wait to be handed over. Beyond it the newest is dropped, and counted; the collector sends it again."""
TTL_S_MAX: Final = 15 * 60.0
"""No order is good for longer, whatever is said of it."""
AGAIN_S: Final = 1.0
"""After a runner that hung up or a spool that is full."""
FOLLOW_S: Final = 30.0
KEPT_MAX: Final = 512
"""Events that are remembered as kept and not confirmed; one that comes again meanwhile is not kept twice."""
TOLD_REFUSED_MAX: Final = 1_024
FILES_LOOK_S: Final = 30.0
"""How often it is looked whether root's files are others now."""
INVENTORY_AGAIN_S: Final = 3_600.0
"""An unchanged inventory is told again at a connection, when this has passed: its collector may be another one."""
NO_RUNNER: Final = "none"
"""The version of an inventory that says that no runner answers; it is looked again whether one does."""
WATCHED: Final = ("actions.d", "observe.d", "roster.pub")
WATCHED_TOO: Final = "enrolled.json"
"""Every host that root enrolled has it, so by itself it says nothing."""


@dataclass(slots=True)
class RelayCounts:
    """Everything counted."""

    orders: int = 0
    handed_over: int = 0
    dropped: int = 0
    """Orders that were too many, or whose time was over before a runner took them."""
    no_runner: int = 0
    events: int = 0
    readings: int = 0
    inventories: int = 0


@dataclass(frozen=True, slots=True)
class _Waiting:
    body: bytes
    until_s: float


class Relay:
    """Between the link and the runner's `socket`. `committed` is the number of the last critical record that the
    collector has; `etc` is where root's files are."""

    def __init__(
        self, socket: Path, etc: Path, events: Events, clock: Clock, committed: Callable[[], int]
    ) -> None:
        self.counts = RelayCounts()
        self._socket = socket
        self._etc = etc
        self._events = events
        self._clock = clock
        self._committed = committed
        self._orders: deque[_Waiting] = deque()
        self._ordered = asyncio.Event()
        self._follow = asyncio.Event()
        self._news = asyncio.Event()
        self._keeping = asyncio.Lock()
        self._kept: OrderedDict[bytes, int | None] = OrderedDict()
        """Events that are kept: None for one that is safe, else the number it has in the spool."""
        self._safe: deque[bytes] = deque(maxlen=KEPT_MAX)
        """Events that were confirmed: an answer that was on its way meanwhile may name them once more."""
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        self._files: object = None
        self._version = ""
        self._salt = b""
        self._told_s = -INVENTORY_AGAIN_S
        self._again = False
        """There was a session since it was told."""
        self._changed = False
        """An order changed what it says: a roster, or another collector's epoch."""

    # ------------------------------------------------------------ what the link says

    def take(self, order: RunnerOrder) -> None:
        """An order came. Answered by events, later."""
        self.counts.orders += 1
        if len(self._orders) >= WAITING_MAX:
            self.counts.dropped += 1
            return
        until_s = self._clock.monotonic_s() + min(order.ttl_ms / 1000, TTL_S_MAX)
        self._orders.append(_Waiting(order.body, until_s))
        self._ordered.set()

    def connected(self) -> None:
        """There is a session: the collector may be one that does not know what this host can do."""
        self._again = True
        self._news.set()

    async def run(self) -> None:
        """Adopt what an earlier agent left in the runner, and serve."""
        self._follow.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hand_over_for_ever(), name="orders")
            group.create_task(self._follow_for_ever(), name="results of orders")
            group.create_task(self._introduce_for_ever(), name="what this host can do")

    async def observe(self, name: str) -> Reading:
        """Have the runner read something that root allows by this name. Raises NoRunner, Unreachable, Refused."""
        async with Door(self._socket) as door:
            reading = await door.observe(name)
        self.counts.readings += 1
        return reading

    # ------------------------------------------------------------ orders

    async def _hand_over_for_ever(self) -> None:
        while True:
            await self._ordered.wait()
            while self._orders:
                await self._hand_over(self._orders.popleft())
            self._ordered.clear()

    async def _hand_over(self, order: _Waiting) -> None:
        if self._was_refused(order.body):
            await self._refuse(order.body, "there was no runner when it first came")
            return
        handed = False
        while self._clock.monotonic_s() < order.until_s:
            try:
                async with Door(self._socket) as door:
                    handed = True
                    told = await door.order(order.body)
                    self.counts.handed_over += 1
                    await self._keep(door, told)
                    if told.changed:
                        self._changed = True
                        self._news.set()
                    if told.running:
                        self._follow.set()
                    return
            except NoRunner as exc:
                if not handed:
                    await self._refuse(order.body, str(exc))
                    return
            except (Unreachable, Refused) as exc:
                log.warning(
                    "the runner did not take an order, which is tried again", extra=fields(reason=exc)
                )
            except SpoolFull as exc:
                # It was taken: what it caused waits in the runner.
                log.error("what the runner says could not be kept", extra=fields(reason=exc))
                self._follow.set()
                return
            await asyncio.sleep(AGAIN_S)
        self.counts.dropped += 1

    def _was_refused(self, body: bytes) -> bool:
        return bool(self._refused) and (name := _named(body)) is not None and name.digest in self._refused

    async def _refuse(self, body: bytes, why: str) -> None:
        """Say that there is no runner. The order was not verified here: it came over the link, and says itself what it
        is about."""
        from watchbill.actions.order import Refusal
        from watchbill.actions.outcomes import COMMAND_REFUSED
        from watchbill.actions.outcomes import Refused as RefusedEvent

        self.counts.no_runner += 1
        name = _named(body)
        if name is None:
            return
        self._refused[name.digest] = None
        while len(self._refused) > TOLD_REFUSED_MAX:
            self._refused.popitem(last=False)
        told = RefusedEvent(
            key=name.key,
            run=name.run,
            step=name.step,
            reason=Refusal.RUNNER,
            detail=why,
            at_ms=self._clock.wall_ms(),
        )
        event = Event(COMMAND_REFUSED, told.to_json())
        try:
            await self._events.keep_bytes(event.kind, event.payload, event.id)
        except SpoolFull as exc:
            log.error("an event could not be kept", extra=fields(kind=event.kind, reason=exc))

    # ------------------------------------------------------------ what comes back

    async def _follow_for_ever(self) -> None:
        while True:
            await self._follow.wait()
            self._follow.clear()
            try:
                async with Door(self._socket) as door:
                    while await self._keep(door, await door.events(self._patience_s())):
                        pass
            except NoRunner:
                pass
            except (Unreachable, Refused, SpoolFull) as exc:
                log.warning("what the runner says waits there", extra=fields(reason=exc))
                await asyncio.sleep(AGAIN_S)
                self._follow.set()

    def _patience_s(self) -> float:
        """Unconfirmed events are there at once, so the next look waits here until one of them is safe."""
        return FOLLOW_S if not self._unsafe() else 0.0

    async def _keep(self, door: Door, told: Told) -> bool:
        """Keep what was told and confirm what is safe; whether something is to come. Raises SpoolFull, Unreachable."""
        async with self._keeping:
            for event in told.events:
                if event.id not in self._kept and event.id not in self._safe:
                    receipt = await self._events.keep_bytes(event.kind, event.payload, event.id)
                    self._kept[event.id] = None if receipt.durable else receipt.seq
                    self.counts.events += 1
            committed = self._committed()
            safe = [one for one, seq in self._kept.items() if seq is None or seq <= committed]
            if safe:
                await door.confirm(safe)
                for one in safe:
                    del self._kept[one]
                self._safe.extend(safe)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        if self._unsafe():
            await asyncio.sleep(AGAIN_S)
        return told.more or told.running > 0 or bool(self._kept)

    def _unsafe(self) -> bool:
        return any(seq is not None for seq in self._kept.values())

    # ------------------------------------------------------------ what this host can do

    async def _introduce_for_ever(self) -> None:
        while True:
            # Told apart from the looks: whoever sets it while we tell is heard afterwards.
            self._news.clear()
            try:
                await self._introduce()
            except (Unreachable, Refused, SpoolFull) as exc:
                log.debug("what this host can do is told later", extra=fields(reason=exc))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FILES_LOOK_S):
                    await self._news.wait()

    async def _introduce(self) -> None:
        """Tell the inventory when it is another one, or when a new session may not know it."""
        now_s = self._clock.monotonic_s()
        files = await asyncio.to_thread(self._look_at_files)
        again = self._again and now_s - self._told_s >= INVENTORY_AGAIN_S
        changed, self._changed = self._changed, False
        if files == self._files and self._version not in ("", NO_RUNNER) and not again and not changed:
            return
        try:
            async with Door(self._socket) as door:
                parts = [(part.version, part.payload) async for part in door.inventory()]
        except NoRunner:
            if not files and not self._version:
                return  # A host that allows nothing, and never did, has nothing to say.
            parts = [_nothing()]
        version = parts[0][0]
        if version != self._version or again:
            await self._tell_inventory(version, [payload for _, payload in parts])
            self._told_s = now_s
        self._files, self._again = files, False

    async def _tell_inventory(self, version: str, parts: list[bytes]) -> None:
        from watchbill.actions.outcomes import ACTIONS_INVENTORY

        if version != self._version:
            # The same inventory may come back later, and is then another event.
            self._salt = os.urandom(EVENT_ID_BYTES)
        for payload in parts:
            name = hashlib.sha256(b"watchbill/inventory-event/v1\0" + self._salt + payload).digest()
            await self._events.keep_bytes(ACTIONS_INVENTORY, payload, name[:EVENT_ID_BYTES])
        self._version = version
        self.counts.inventories += 1

    def _look_at_files(self) -> tuple[object, ...]:
        """What would be different if root had changed something; () when root has allowed nothing."""
        found = [facts for name in WATCHED for facts in _facts(self._etc / name)]
        return (*found, *_facts(self._etc / WATCHED_TOO)) if found else ()


def _facts(place: Path) -> list[object]:
    """How a file is, or all in a directory; nothing where there is none."""
    found: list[object] = []
    with contextlib.suppress(OSError):
        for path in sorted(place.iterdir()) if place.is_dir() else [place]:
            seen = path.lstat()
            found.append((path.name, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, seen.st_mode))
    return found


@dataclass(frozen=True, slots=True)
class _Name:
    digest: bytes
    key: str
    run: str
    step: str


def _named(body: bytes) -> _Name | None:
    """What an order says of itself; None for what is no command."""
    from watchbill.actions.order import Command, read_order
    from watchbill.actions.signing import unverified
    from watchbill.errors import Unreadable

    try:
        address, order = read_order(unverified(body))
        if not isinstance(order, Command):
            return None
        key = order.key(address.site, address.agent)
    except Unreadable:
        return None
    return _Name(bytes.fromhex(key), key, order.run, order.step)


def _nothing() -> tuple[str, bytes]:
    """The inventory of a host whose runner does not answer."""
    from watchbill.actions.outcomes import Inventory

    none = Inventory(
        version=NO_RUNNER, runner=False, ledger="", epoch=0, roster_serial=0, roster_keys=(), actions=()
    )
    return none.version, none.to_json()
