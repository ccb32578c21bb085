"""Gets the spool to the collector: connects, says hello, sends, listens, and connects again.

The sender acts; what to do is decided by `watchbill.protocol`: `Client` says what to send and what an answer
means, `Pacer` when messages leave, and `Backoff` how long to stay away. One task reads, one sends; both end
with their session.

A session, in order:

1. open a link; send Hello with where the spool stands; wait for the Welcome, and act on what it orders;
2. send the first records at once, all later ones on the collector's grid; a dictionary goes before the first
   record of the session that needs it;
   what is sent is durable: whatever was appended since is synced first, in the spool's own thread;
3. send a beat when nothing else was sent for the beat interval. Shortly before the rules look, let what is
   still being collected leave; behind a backlog, a beat with its newest values goes instead;
4. at the stop, and before the machine sleeps: send what is left, say goodbye and why, wait for the
   acknowledgement until the deadline, close.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from watchbill.backoff import STRANGER_CAP_S, Backoff, return_cap_s
from watchbill.clock import Clock
from watchbill.codec import decode_down, encode_bye, encode_hello
from watchbill.errors import Unreadable
from watchbill.leaving import Farewell
from watchbill.limits import BEAT_INTERVAL_MS_MAX
from watchbill.protocol.client import Adopt, Asked, Client, Ended, Fork, Order, Pause, Phase, Told
from watchbill.protocol.frames import (
    Ack,
    AuditHead,
    Down,
    Hello,
    Refusal,
    Request,
    Settings,
    Stream,
    Welcome,
)
from watchbill.protocol.timing import CollectorTime, Pacer
from watchbill_agent.audit_heads import AuditHeads
from watchbill_agent.budget import Budget
from watchbill_agent.outgoing import LinkFacts, Newest, Outgoing, Parts
from watchbill_agent.spool import Spool
from watchbill_agent.transports import Link, LinkDown, LinkRefused, Transport

log = logging.getLogger("watchbill.link")

WELCOME_TIMEOUT_S = 30.0
FORKS_IN_A_ROW_MAX = 3
"""A collector that lets us fork more often than this without a session is broken, and gets the backoff."""
REFUSED_WAIT_S = 60.0
"""After a refusal that only a person can lift: ask seldom."""
RETRY_SPREAD_S = 5.0
"""Added at random to what Busy and End ask for, so that all who were sent away do not return together."""


@dataclass(frozen=True, slots=True)
class About:
    """What Hello says of this agent, beside the spool: fixed for the life of the process."""

    agent_version: str
    run_id: bytes
    boot_id: str
    instance: str = ""
    job: str = "node"
    labels: Mapping[str, str] = field(default_factory=dict)
    interval_ms: int = 10_000
    ticks_per_message: int = 1
    beat_interval_ms: int = 0
    """How seldom beats may be; 0: as the collector asks, at most every 10 s."""
    keeps_messages: bool = False
    """Messages leave when they are full, also before the rules look: beats carry the newest values."""
    takes: tuple[str, ...] = ()
    """Which orders of the collector are carried out here."""


REFUSAL_REASONS_MAX = 64
"""Different reasons of refusals counted; a collector has a dozen."""


async def nothing_to_sync() -> bool:
    """A spool in memory is as durable as it will ever be."""
    return True


async def nothing_to_tell(_before: bytes, _fork: Fork) -> None:
    """Nobody wants to know of a fork."""


class SessionOver(Exception):  # Not an error: how a session's tasks say that it ended.
    """The session ended: `wait_s` is what to do next, None for the usual backoff."""

    def __init__(self, reason: str, detail: str, *, at_least_s: float = 0.0, final: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.at_least_s = at_least_s
        self.final = final


class Sender:
    """Drives the link for the life of the agent. `run` it as a task; `wake` it after every append; `stop`
    it.

    What is sent and when is `outgoing.py`'s; `newest`, `flush` and `sync` are told of there. `forked` is told of a
    fork and of the name before it, in front of the next Hello. `asked` is given what the collector asks for, and must
    not wait.
    """

    def __init__(
        self,
        transport: Transport,
        spool: Spool,
        about: Callable[[], About],
        clock: Clock,
        rng: random.Random,
        *,
        newest: Newest | None = None,
        adopted: Callable[[Settings], None] = lambda _: None,
        flush: Callable[[], None] = lambda: None,
        heads: AuditHeads | None = None,
        budget: Budget | None = None,
        sync: Callable[[], Awaitable[bool]] = nothing_to_sync,
        forked: Callable[[bytes, Fork], Awaitable[None]] = nothing_to_tell,
        asked: Callable[[Request], None] = lambda _: None,
    ) -> None:
        self._transport = transport
        self._spool = spool
        self._about = about
        self._clock = clock
        self._client = Client(spool)
        self._backoff = Backoff(cap_s=STRANGER_CAP_S, jitter=rng)
        self._rng = rng
        self._adopted = adopted
        self._heads = heads
        self._budget = budget
        self._forked = forked
        self._asked = asked
        self._work = asyncio.Event()
        self._stopping = False
        self._farewell: Farewell | None = None
        self._away_until_s = 0.0
        self._parted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._was_connected = False
        self._forks = 0
        self._keeps_messages = False
        self._spread_s = 0.0
        self.facts = LinkFacts(since_s=clock.monotonic_s())
        self._parts = Parts(spool, self._client, clock, self.facts, newest, flush, heads, budget, sync)

    def wake(self) -> None:
        """There is something new in the spool."""
        self._work.set()

    async def run(self) -> None:
        """Keep the link until `stop`. Raises only what is our own mistake."""
        self._task = asyncio.current_task()
        while not self._stopping:
            self.facts.attempts += 1
            began_s = self._clock.monotonic_s()
            try:
                wait_s = await self._once()
            except (LinkDown, LinkRefused) as exc:
                lasted_s = self._clock.monotonic_s() - began_s
                wait_s = self._away(exc.reason, str(exc), lasted_s, final=isinstance(exc, LinkRefused))
            except SessionOver as exc:
                lasted_s = self._clock.monotonic_s() - began_s
                wait_s = self._away(
                    exc.reason, exc.detail, lasted_s, final=exc.final, at_least_s=exc.at_least_s
                )
            if self._budget is not None:
                wait_s = max(wait_s, self._budget.wait_s(self._clock.monotonic_s()))
            if self._farewell is not None and not self._stopping:
                await self._be_gone()
            elif wait_s > 0:
                await self._stay_away(wait_s)

    async def leave(self, farewell: Farewell, timeout_s: float, away_s: float) -> bool:
        """Send what is left and say goodbye, as at a stop; then stay away until `come_back`, or for so long.

        True when everything was acknowledged in time. Without a link nothing is said, and nothing changes.
        """
        if not self.facts.connected:
            return False
        self._farewell = farewell
        self._away_until_s = self._clock.monotonic_s() + away_s
        self._parted.clear()
        self._work.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._parted.wait()
        except TimeoutError:
            return False
        return self._delivered()

    def come_back(self) -> None:
        """What was left for is over: connect again at once."""
        if self._farewell is not None and not self._stopping:
            self._farewell = None
            self._work.set()

    async def _be_gone(self) -> None:
        """Stay away after a goodbye."""
        assert self._farewell is not None, "nobody leaves without a word"
        self._was_connected = False
        self.facts.since_s = self._clock.monotonic_s()
        self.facts.reason, self.facts.detail = self._farewell.reason, "said goodbye"
        while self._farewell is not None and not self._stopping:
            left_s = self._away_until_s - self._clock.monotonic_s()
            if left_s <= 0:
                self._farewell = None
                return
            self._work.clear()
            await self._wait(left_s)

    async def stop(self, reason: str, timeout_s: float, back_within_ms: int = 0) -> bool:
        """Send what is left, say goodbye and end `run`; without a link there is nothing to wait for.

        True when everything was acknowledged. After `timeout_s` the link is left as it is.
        """
        self._stopping, self._farewell = True, Farewell(reason, back_within_ms)
        self._work.set()
        task = self._task
        if task is not None and not task.done():
            if self.facts.connected:
                await asyncio.wait({task}, timeout=timeout_s)
            task.cancel()
            await asyncio.wait({task})
        return self._delivered()

    def _delivered(self) -> bool:
        return not any(self._spool.last(s) > self._spool.state(s).acked for s in Stream)

    # ------------------------------------------------------------ one session

    async def _once(self) -> float:
        """One attempt, to its end. Returns the seconds to wait before the next."""
        link = await self._transport.open()
        try:
            return await self._session(link)
        finally:
            self._client.lost()
            self.facts.in_flight_bytes = 0
            self.facts.connected = False
            self._parted.set()
            await link.close()

    async def _session(self, link: Link) -> float:
        pacer = await self._greet(link)
        if pacer is None:  # A fork: say hello again, as the new spool.
            self._forks += 1
            self.facts.forks += 1
            if self._forks > FORKS_IN_A_ROW_MAX:
                return self._backoff.next_s()
            return 0.0
        self._forks = 0
        self._back(pacer)
        reader = asyncio.create_task(self._listen(link, pacer), name="link reader")
        pump = asyncio.create_task(self._pump(link, pacer), name="link pump")
        try:
            await asyncio.wait({reader, pump}, return_when=asyncio.FIRST_COMPLETED)
            # The reader knows why a session ended, the pump only that it cannot write.
            if pump.done() and pump.exception() is not None and not reader.done():
                await asyncio.wait({reader}, timeout=1.0)
        finally:
            for task in (reader, pump):
                task.cancel()
            results = await asyncio.gather(reader, pump, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        return 0.0

    async def _greet(self, link: Link) -> Pacer | None:
        """Hello and Welcome; None when the Welcome ordered a fork."""
        about = self._about()
        await self._parts.make_durable()
        streams = self._client.hello()
        hello = Hello(
            agent_version=about.agent_version,
            spool_id=self._spool.spool_id,
            run_id=about.run_id,
            boot_id=about.boot_id,
            streams=streams,
            retired=self._spool.retired,
            wall_ms=self._clock.wall_ms(),
            boottime_ms=self._clock.boottime_ms(),
            instance=about.instance,
            job=about.job,
            labels=about.labels,
            interval_ms=about.interval_ms,
            ticks_per_message=about.ticks_per_message,
            beat_interval_ms=about.beat_interval_ms,
            audit=() if self._heads is None else self._heads.every(),
            takes=about.takes,
        )
        await self.facts.send(link, encode_hello(hello))
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT_S):
                message = await link.receive()
        except TimeoutError:
            raise LinkDown("timeout", "the collector took the connection and did not answer") from None
        if message is None:
            raise LinkDown("closed", "the collector closed the connection without an answer")
        frame = decoded(message)
        answered_s = self._clock.monotonic_s()
        if isinstance(frame, Welcome):
            time = CollectorTime(frame.server_time_ms, answered_s)
            self.facts.instance = frame.instance
            await self._told_head(frame.audit)
        else:
            time = CollectorTime(self._clock.wall_ms(), answered_s)
        pacer = Pacer(
            time,
            last_sent_s=answered_s,
            last_records_s=answered_s,
            records_every_s=about.interval_ms * about.ticks_per_message / 1000,
            collects=about.ticks_per_message > 1 and not about.keeps_messages,
            beat_interval_ms_max=about.beat_interval_ms or BEAT_INTERVAL_MS_MAX,
        )
        self._keeps_messages = about.keeps_messages
        for order in self._client.receive(frame, 0) if frame is not None else ():
            if isinstance(order, Fork):
                log.warning("the collector holds records this spool never had: it was rolled back; forking")
                before = self._spool.spool_id
                self._spool.obey(order)
                await self._forked(before, order)
                return None
            self._act(order, pacer)
        if self._client.phase is not Phase.OPEN:
            raise LinkDown("protocol", "the collector's first message was no welcome")
        return pacer

    def _act(self, order: Order, pacer: Pacer) -> None:
        """Carry out one order of the protocol."""
        if isinstance(order, Adopt):
            pacer.settings = order.settings
            self._spread_s = pacer.spread_s()
            self._backoff.cap_s = return_cap_s(self._spread_s)
            self._adopted(order.settings)
        elif isinstance(order, Pause):
            self.facts.busy += 1
            pacer.paused_until_s = (
                self._clock.monotonic_s() + order.seconds + self._rng.uniform(0, order.seconds)
            )
        elif isinstance(order, Told):
            self._told(order.refusal)
        elif isinstance(order, Asked):
            self._asked(order.request)
        elif isinstance(order, Ended):
            end = order.end
            raise SessionOver(
                end.reason.name.lower().replace("_", "-"),
                end.detail or end.reason.name.lower(),
                at_least_s=end.retry_after_ms / 1000,
                final=end.reason.final,
            )
        else:
            self._spool.obey(order)

    async def _told_head(self, head: AuditHead | None) -> None:
        """The collector said how far its audit is."""
        if self._heads is None:
            return
        if head is not None:
            self._heads.told(head)
        if self._heads.due:
            await asyncio.to_thread(self._heads.save)

    def _told(self, refusal: Refusal) -> None:
        counts = self.facts.refused
        if refusal.reason in counts or len(counts) < REFUSAL_REASONS_MAX:
            counts[refusal.reason] = counts.get(refusal.reason, 0) + refusal.count
        log.warning("the collector refused %d (%s): %s", refusal.count, refusal.reason, refusal.detail)

    async def _listen(self, link: Link, pacer: Pacer) -> None:
        """Read until the session ends."""
        while True:
            message = await link.receive()
            if message is None:
                if self._farewell is not None:
                    return
                raise LinkDown("closed", "the collector closed the session")
            frame = decoded(message)
            if frame is None:
                continue
            if isinstance(frame, Ack) and frame.server_time_ms:
                pacer.time = pacer.time.heard(frame.server_time_ms, self._clock.monotonic_s())
                await self._told_head(frame.audit)
            orders = self._client.receive(frame, self._client.session)
            for order in orders:
                self._act(order, pacer)
            self.facts.messages_received += 1
            pacer.last_heard_s = self._clock.monotonic_s()
            self.facts.in_flight_bytes = self._client.in_flight_bytes
            self._work.set()

    async def _pump(self, link: Link, pacer: Pacer) -> None:
        """Send until the session ends, or until everything is acknowledged once stopping."""
        out = Outgoing(self._parts, link, pacer, keeps_messages=self._keeps_messages)
        said_goodbye = False
        while True:
            self._work.clear()
            now_s = self._clock.monotonic_s()
            if self._client.in_flight_bytes and now_s - pacer.last_heard_s > pacer.ack_patience_s():
                raise LinkDown("timeout", "the collector acknowledges nothing any more")
            farewell = self._farewell
            if farewell is None and said_goodbye:
                raise SessionOver("back", "came back before the collector had let go")
            if farewell is not None:
                if pacer.paused_until_s > now_s:
                    await self._wait(pacer.paused_until_s - now_s)
                    continue
                await out.send_records()
                unsent = out.waits(Stream.BULK) or out.waits(Stream.CRIT)
                if not unsent and not said_goodbye:
                    said_goodbye = True
                    await out.send(encode_bye(farewell.reason, farewell.back_within_ms))
                # The collector acknowledges, then closes; the reader sees that, and the session ends.
                await self._work.wait()
                continue
            wait_s = await out.send_due(now_s)
            await self._wait(wait_s)

    # ------------------------------------------------------------ between sessions

    def _away(
        self, reason: str, detail: str, lasted_s: float, *, final: bool, at_least_s: float = 0.0
    ) -> float:
        """Note that the link is gone, say it once, and decide how long to stay away."""
        now_s = self._clock.monotonic_s()
        if self.facts.reason != reason and self._farewell is None:
            log.warning("no link to the collector (%s): %s", reason, detail)
        self.facts.reason, self.facts.detail = reason, detail
        if self._was_connected:
            self._was_connected = False
            self.facts.since_s = now_s
            if not final and not at_least_s:
                return self._backoff.ended_s(lasted_s, self._spread_s)
        if final:
            return self._backoff.next_s(max(at_least_s, REFUSED_WAIT_S))
        if at_least_s:
            return at_least_s + self._rng.uniform(0, max(at_least_s, RETRY_SPREAD_S))
        return self._backoff.next_s()

    def _back(self, pacer: Pacer) -> None:
        now_s = self._clock.monotonic_s()
        away_s = now_s - self.facts.since_s
        log.info(
            "linked to the collector after %.1f s; it knows this host as %s", away_s, self.facts.instance
        )
        self._was_connected = True
        self.facts.connected = True
        self.facts.since_s = now_s
        self.facts.reason = self.facts.detail = ""
        self.facts.sessions += 1
        self.facts.collector_time = pacer.time
        pacer.last_heard_s = now_s

    async def _wait(self, seconds: float) -> None:
        """Wait until woken, or that long."""
        timer = asyncio.get_running_loop().call_later(seconds, self._work.set)
        try:
            await self._work.wait()
        finally:
            timer.cancel()

    async def _stay_away(self, seconds: float) -> None:
        """Wait that long between two attempts, unless stopped."""
        until_s = self._clock.monotonic_s() + seconds
        while not self._stopping and (left_s := until_s - self._clock.monotonic_s()) > 0:
            self._work.clear()
            await self._wait(left_s)


def decoded(message: bytes) -> Down | None:
    """A Down message as a frame. Raises LinkDown when it is none: the session cannot be trusted any more."""
    try:
        return decode_down(message)
    except Unreadable as exc:
        raise LinkDown("protocol", str(exc)) from exc
