"""One channel's task: takes what waits for it, one notice at a time, and tries until it is clear how it ends.

Order: as queued, except that a notice which failed `ROUNDS` times gives way to those of other groups, so that
one the peer cannot digest does not hold up the rest. A failure that trying again may mend makes the channel wait:
full jitter up to `CAP_S`, or what the peer asked for. Before each attempt it is written down that there is one;
after a crash the same notice goes out again under the same key.

A peer that refuses us and not the notice (a wrong secret, a wrong address) makes the channel *held*: its notices are
kept, the channel counts as failing, and it is tried again as soon as its configuration or a secret file changes. It is
tried now and then all the same, because it may be the peer's own mistake that somebody mends over there; seldom
enough that no account is locked for it. `AGE_MS_MAX` bounds this as everything.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from watchbill.backoff import Backoff, Uniform
from watchbill.clock import Clock
from watchbill.logs import fields
from watchbill_collector.dispatch.outbox import DELIVERED, GIVEN_UP, REFUSED, Outbox, Waiting
from watchbill_collector.notifiers.notice import Delivered, Notice, SendFailed

log = logging.getLogger("watchbill.dispatch")

Send = Callable[[str, Notice], Awaitable[Delivered]]
"""Sends a notice through the channel of that name. Raises SendFailed, and nothing else."""

SEND_S_MAX: Final = 180.0
"""One attempt, whatever the channel's own timeout: what hangs is a failure."""
BASE_S: Final = 1.0
CAP_S: Final = 300.0
HELD_BASE_S: Final = 60.0
HELD_CAP_S: Final = 900.0
RETRY_AFTER_S_MAX: Final = 3_600.0
"""What a peer may ask for at most."""
ROUNDS: Final = 3
AGE_MS_MAX: Final = 24 * 3_600_000
"""A notice that could not be delivered for so long is given up: recorded and counted."""
LOOK_S: Final = 5.0
"""How often a channel looks for work that nobody told it of."""


@dataclass(frozen=True, slots=True)
class ChannelHealth:
    """How a channel does. Times are UTC milliseconds, 0 for never."""

    name: str
    ok: bool
    failing_since_ms: int
    last_error: str
    last_delivered_ms: int
    queued: int
    oldest_ms: int
    """When the oldest waiting notice was made."""
    held: bool = False
    """Its peer refuses us: somebody has to mend its configuration or its secret."""


def unchanging(_: str) -> object:
    """Of a channel whose configuration stays as it is."""
    return None


class Sender:
    """A channel at work. `changed` is called after everything that ended, so that what follows is planned. `stamp`
    gives another value when the configuration or a secret of the channel has changed; it may block.
    """

    def __init__(
        self,
        name: str,
        send: Send,
        outbox: Outbox,
        lock: asyncio.Lock,
        clock: Clock,
        *,
        changed: Callable[[], None],
        ready: Callable[[], Awaitable[bool]],
        jitter: Uniform | None = None,
        stamp: Callable[[str], object] = unchanging,
    ) -> None:
        self.name = name
        self.in_flight = ""
        """The key of the notice that is being tried."""
        self.failing_since_ms = 0
        self.last_error = ""
        self.last_delivered_ms = 0
        self._deliver = send
        self._outbox = outbox
        self._lock = lock
        self._clock = clock
        self._changed = changed
        self._ready = ready
        self._backoff = Backoff(BASE_S, CAP_S, jitter=jitter)
        self._held_backoff = Backoff(HELD_BASE_S, HELD_CAP_S, jitter=jitter)
        self._held = False
        self._stamp = stamp
        self._tried_with: object = None
        self._not_before_s = 0.0
        self._wake = asyncio.Event()
        self._stopping = False

    def stop(self) -> None:
        """Take no further notice; `run` ends when the one that is being sent has."""
        self._stopping = True
        self._wake.set()

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()

    def try_again(self) -> None:
        """Whatever it waits for may be over: a person has changed something."""
        self._not_before_s = 0.0
        self._backoff.reset()
        self._held_backoff.reset()
        self._wake.set()

    async def run(self) -> None:
        """Until it is stopped or cancelled."""
        while not self._stopping:
            await self._look_at_secrets()
            wait_s = self._not_before_s - self._clock.monotonic_s()
            if wait_s <= 0 and await self.turn():
                continue
            self._wake.clear()
            try:
                async with asyncio.timeout(min(LOOK_S, wait_s) if wait_s > 0 else LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def turn(self) -> bool:
        """Try one notice, unless the channel has to wait; whether there was one."""
        await self._look_at_secrets()
        if self._clock.monotonic_s() < self._not_before_s:
            return False
        async with self._lock:
            waiting = await self._take()
        if waiting is None:
            return False
        try:
            await self._send(waiting)
        finally:
            self.in_flight = ""
            self._changed()
        return True

    async def _look_at_secrets(self) -> None:
        if self._held and await asyncio.to_thread(self._stamp, self.name) != self._tried_with:
            log.warning("a channel that was refused has been changed", extra=fields(channel=self.name))
            self._held = False
            self.try_again()

    async def _take(self) -> Waiting | None:
        """The next notice, marked as being tried; those that are too old are given up on the way."""
        while True:
            queue = self._outbox.of_channel(self.name)
            if not queue:
                return None
            # Should it be one notice after all that the peer does not want, the next try is another one's.
            rounds = 1 if self._held else ROUNDS
            waiting = min(queue, key=lambda one: (one.attempts // rounds, one.number))
            now_ms = self._clock.wall_ms()
            old = [one for one in queue if now_ms - one.notice.created_ms > AGE_MS_MAX]
            if old:
                for one in old:
                    await self._give_up(one, now_ms)
                continue
            if not await self._ready():
                return None
            self.in_flight = waiting.notice.key
            return await self._outbox.begin(waiting.notice.key, now_ms)

    async def _give_up(self, waiting: Waiting, now_ms: int) -> None:
        age = fields(
            channel=self.name, notice=waiting.notice.key, why=waiting.detail, attempts=waiting.attempts
        )
        log.error("a notice is given up", extra=age)
        await self._outbox.end(waiting.notice.key, GIVEN_UP, waiting.detail, now_ms)
        self._changed()

    async def _send(self, waiting: Waiting) -> None:
        key = waiting.notice.key
        # Before, so that what is changed meanwhile is not missed.
        self._tried_with = await asyncio.to_thread(self._stamp, self.name)
        try:
            async with asyncio.timeout(SEND_S_MAX):
                delivered = await self._deliver(self.name, waiting.notice)
        except SendFailed as exc:
            await self._failed(waiting, exc)
        except TimeoutError:
            late = SendFailed(f"no answer within {SEND_S_MAX:.0f} s", transient=True)
            await self._failed(waiting, late)
        else:
            async with self._lock:
                await self._outbox.end(key, DELIVERED, delivered.detail, self._clock.wall_ms())
            self._works()

    async def _failed(self, waiting: Waiting, failure: SendFailed) -> None:
        now_ms, why = self._clock.wall_ms(), failure.why
        self.last_error = why
        if not self.failing_since_ms:
            self.failing_since_ms = now_ms
            log.error("a channel fails", extra=fields(channel=self.name, why=why, held=failure.unwelcome))
        self._held = failure.unwelcome
        async with self._lock:
            if failure.transient:
                await self._outbox.failed(waiting.notice.key, why, now_ms)
                asked_s = min(max(failure.retry_after_s or 0.0, 0.0), RETRY_AFTER_S_MAX)
                waits = self._held_backoff if self._held else self._backoff
                self._not_before_s = self._clock.monotonic_s() + waits.next_s(asked_s)
            else:
                log.error(
                    "a notice is refused", extra=fields(channel=self.name, notice=waiting.notice.key, why=why)
                )
                await self._outbox.end(waiting.notice.key, REFUSED, why, now_ms)

    def _works(self) -> None:
        now_ms = self._clock.wall_ms()
        if self.failing_since_ms:
            seconds = round((now_ms - self.failing_since_ms) / 1000)
            log.warning("a channel works again", extra=fields(channel=self.name, failed_s=seconds))
        self.failing_since_ms, self.last_error, self.last_delivered_ms = 0, "", now_ms
        self._backoff.reset()
        self._held_backoff.reset()
        self._held = False
        self._not_before_s = 0.0

    def health(self) -> ChannelHealth:
        """How it does."""
        queue = self._outbox.of_channel(self.name)
        return ChannelHealth(
            name=self.name,
            ok=not self.failing_since_ms,
            failing_since_ms=self.failing_since_ms,
            last_error=self.last_error,
            last_delivered_ms=self.last_delivered_ms,
            queued=len(queue),
            oldest_ms=min((one.notice.created_ms for one in queue), default=0),
            held=self._held,
        )
