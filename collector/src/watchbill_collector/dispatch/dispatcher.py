"""The dispatcher: looks at the alerts, plans, writes, and has one task a channel that sends.

    dispatcher = Dispatcher(outbox, silences, clock, channels.send)
    await dispatcher.configure(setup)        # at the start, and at every reload
    dispatcher.begin(snapshot, keep)         # once the rules have taken up their alerts
    await dispatcher.run(stamp)              # until cancelled

A turn comes after every change of an alert (`wake`, from any thread), when something is due, and every second.
An alert's own state is made durable before a notice of it goes out (`keep`): else a crash could forget a firing
that somebody was told of.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from watchbill.backoff import Uniform
from watchbill.clock import Clock
from watchbill.daemon import Stamp
from watchbill_collector.dispatch.outbox import Outbox
from watchbill_collector.dispatch.plan import Hush, Plan, Planner, World
from watchbill_collector.dispatch.routing import Destination, Routing
from watchbill_collector.dispatch.sender import ChannelHealth, Send, Sender, unchanging
from watchbill_collector.dispatch.silence import Silence
from watchbill_collector.dispatch.values import Standing
from watchbill_collector.notifiers.notice import Notice

log = logging.getLogger("watchbill.dispatch")

TURN_S: Final = 1.0
"""How often alerts are looked at though nobody said that one changed."""
ABSENT_MS: Final = 180_000
"""After a start, how long an alert that is not there may be one that has not been heard of yet: more than rules
hold theirs for."""
DRAIN_S: Final = 5.0
"""How long a stop waits for what is being sent."""
PRUNE_S: Final = 600.0


class Alerts(Protocol):
    """Where alerts are read from."""

    def read(self) -> tuple[Sequence[Standing], bool]:
        """What fires and what resolved lately; and whether that differs from the last time. May block for as long
        as an evaluation takes."""


class Silences(Protocol):
    """Who wants quiet."""

    def all(self) -> tuple[Silence, ...]:
        """Every silence that has not ended; the same object as long as nothing changes."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a reload changes: routes, the names of channels, and the planner with its services.

    `refresh_ms` is for channels whose peer forgets what is not said again: within that time, by name; `alerts_wanted`
    for those whose peer wants each alert: so many are listed.
    """

    routing: Routing
    channels: frozenset[str]
    planner: Planner
    refresh_ms: Mapping[str, int] = field(default_factory=dict)
    alerts_wanted: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class DispatchStats:
    """Since the start."""

    turns: int = 0
    plans: int = 0
    plan_s: float = 0.0
    kept_failed: int = 0
    grouped_together: int = 0
    planned_ms: int = 0
    """When a plan was made and written last."""


@dataclass(slots=True)
class _Task:
    sender: Sender
    task: "asyncio.Task[None] | None" = None


def _always() -> bool:
    return True


class Dispatcher:
    """From alerts to notices."""

    def __init__(
        self,
        outbox: Outbox,
        silences: Silences,
        clock: Clock,
        send: Send,
        *,
        jitter: Uniform | None = None,
        stamp: Callable[[str], object] = unchanging,
    ) -> None:
        self.outbox = outbox
        self.stats = DispatchStats()
        self.hushed: Mapping[str, Hush] = {}
        """Why alerts that fire tell nobody anew, by fingerprint."""
        self.places: Mapping[str, tuple[Destination, Mapping[str, Standing]]] = {}
        """The alerts that nothing hushes, by the thread of notices they belong to."""
        self.due: Mapping[str, int] = {}
        """When such a thread is looked at next, where it waits."""
        self._silences = silences
        self._clock = clock
        self._send = send
        self._jitter = jitter
        self._stamp = stamp
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._setup: Setup | None = None
        self._alerts: Alerts | None = None
        self._keep: Callable[[], bool] = _always
        self._began_ms = 0
        self._senders: dict[str, _Task] = {}
        self._running = False
        self._closed = False
        self._look_again_ms = 0
        self._seen_silences: tuple[Silence, ...] = ()
        self._due = True
        self._pruned_s = clock.monotonic_s()

    # Wiring.

    async def configure(self, setup: Setup) -> None:
        """Use these routes and channels from now. A channel that is gone finishes what it is sending."""
        async with self._lock:
            self._setup = setup
            gone = [self._senders.pop(name) for name in self._senders.keys() - setup.channels]
            for each in self._senders.values():
                each.sender.try_again()
            for name in sorted(setup.channels - self._senders.keys()):
                self._senders[name] = _Task(self._sender(name))
            self._due = True
        await _ended(gone)
        if self._running:
            self._start()
        self._wake.set()

    def _sender(self, name: str) -> Sender:
        return Sender(
            name,
            self._send,
            self.outbox,
            self._lock,
            self._clock,
            changed=self.look,
            ready=self._kept,
            jitter=self._jitter,
            stamp=self._stamp,
        )

    def begin(self, alerts: Alerts, keep: Callable[[], bool] = _always) -> None:
        """Look at alerts from now. `keep` makes their state durable, and says whether it is; it may block."""
        self._alerts, self._keep = alerts, keep
        self._began_ms = self._clock.wall_ms()
        self._wake.set()

    def wake(self) -> None:
        """An alert may have changed. From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:
            return  # The loop is closed: so are we.

    def look(self) -> None:
        """Something else changed: a silence, or what a channel was told. On the loop."""
        self._due = True
        self._wake.set()

    # Working.

    async def run(self, stamp: Stamp | None = None) -> None:
        """Until cancelled; then what is being sent has a moment to end."""
        if self._closed:
            return
        self._running = True
        self._start()
        try:
            while not self._closed:
                await self.turn()
                self._check()
                if stamp is not None:
                    stamp.made()
                try:
                    async with asyncio.timeout(TURN_S):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                self._wake.clear()
        finally:
            self._running = False
            await _ended(list(self._senders.values()))

    async def close(self) -> None:
        """Plan and send nothing more; what is being sent has a moment to end. Before channels and store close."""
        self._closed = True
        self._wake.set()
        await _ended(list(self._senders.values()))
        async with self._lock:
            await self.outbox.flush()

    def _start(self) -> None:
        for name, each in self._senders.items():
            if each.task is None:
                each.task = asyncio.create_task(each.sender.run(), name=f"channel {name}")

    def _check(self) -> None:
        """A channel's task that failed by our own mistake ends the daemon: nobody else would notice."""
        for each in self._senders.values():
            if each.task is not None and each.task.done() and not each.task.cancelled():
                error = each.task.exception()
                if error is not None:
                    raise error

    async def turn(self) -> bool:
        """Look once; whether anything was planned."""
        self.stats.turns += 1
        if self._setup is None or self._alerts is None:
            self._due = False
            return False
        alerts, changed = await asyncio.to_thread(self._alerts.read)
        now_ms = self._clock.wall_ms()
        silences = self._silences.all()
        if silences is not self._seen_silences:
            self._seen_silences, changed = silences, True
        due = self._look_again_ms and now_ms >= self._look_again_ms
        if self.outbox.undurable:
            async with self._lock:
                await self.outbox.flush()
        if not (changed or due or self._due):
            return False
        self._due = False
        async with self._lock:
            plan = await self._plan(self._setup, alerts, silences, now_ms)
        self._wake_senders(plan)
        await self._prune(now_ms)
        return not plan.empty

    async def _plan(
        self, setup: Setup, alerts: Sequence[Standing], silences: tuple[Silence, ...], now_ms: int
    ) -> Plan:
        began_s = self._clock.monotonic_s()
        absent_ms = self._began_ms + ABSENT_MS
        world = World(
            alerts=alerts,
            silences=silences,
            routing=setup.routing,
            channels=setup.channels,
            refresh_ms=setup.refresh_ms,
            alerts_wanted=setup.alerts_wanted,
            now_ms=now_ms,
            complete=now_ms >= absent_ms,
            attempted=self.outbox.attempted(),
            in_flight=frozenset(
                each.sender.in_flight for each in self._senders.values() if each.sender.in_flight
            ),
        )
        plan = await asyncio.to_thread(setup.planner.plan, world, dict(self.outbox.threads))
        if not world.complete:
            plan.look(absent_ms)
        self._look_again_ms = plan.look_again_ms
        self.hushed, self.places, self.due = plan.hushed, plan.places, plan.due
        if not plan.empty:
            await self.outbox.apply(plan, now_ms)
        stats = self.stats
        stats.plans += 1
        stats.planned_ms = now_ms
        stats.grouped_together += plan.grouped_together
        stats.plan_s = self._clock.monotonic_s() - began_s
        return plan

    def _wake_senders(self, plan: Plan) -> None:
        for channel in {notice.channel for notice in plan.notices}:
            if channel in self._senders:
                self._senders[channel].sender.wake()

    async def _kept(self) -> bool:
        """Before anything is sent: the alerts' own state is durable. When the disk does not take it, what there
        is to tell is told all the same: it may well be the disk."""
        if not await asyncio.to_thread(self._keep):
            self.stats.kept_failed += 1
        return True

    async def _prune(self, now_ms: int) -> None:
        if self._clock.monotonic_s() - self._pruned_s >= PRUNE_S:
            self._pruned_s = self._clock.monotonic_s()
            async with self._lock:
                await self.outbox.prune(now_ms)

    # For others.

    async def send(self, notice: Notice) -> None:
        """Queue a notice that no rule made."""
        async with self._lock:
            await self.outbox.queue(notice, self._clock.wall_ms())
        each = self._senders.get(notice.channel)
        if each is not None:
            each.sender.wake()

    async def drain(self) -> None:
        """Every channel tries what waits, in this task, until nothing is left that may be tried now."""
        while any([await each.sender.turn() for each in list(self._senders.values())]):
            pass

    def health(self) -> list[ChannelHealth]:
        """How every channel does."""
        return [each.sender.health() for each in self._senders.values()]


async def _ended(tasks: Sequence[_Task]) -> None:
    """End senders; what is being sent may finish for a moment."""
    running = [each.task for each in tasks if each.task is not None and not each.task.done()]
    for each in tasks:
        if each.task is not None and not each.sender.in_flight:
            each.task.cancel()
        each.sender.stop()
    if running:
        await asyncio.wait(running, timeout=DRAIN_S)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


__all__ = ["Alerts", "DispatchStats", "Dispatcher", "Setup", "Silences"]
