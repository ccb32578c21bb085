"""Orders: signed, numbered, and handed to whoever carries them to a host.

A number is given out once in the life of a store: they are taken from it in steps, so that a crash skips some and
repeats none. The epoch is the store's; a restored collector has a higher one, and hosts that heard it obey no other.
"""

from typing import Final, Protocol

from watchbill.actions.order import Address, Order, sign_order
from watchbill.clock import Clock
from watchbill_collector.store import Store, automation

CLEAN_TTL_MS: Final = 60_000
"""How long what has no effect, a question or a roster, may be under way."""


class Orders(Protocol):
    """Who carries orders to hosts."""

    def send(self, agent_id: str, body: bytes, ttl_ms: int) -> bool:
        """Hand it over; False when the host is not connected. Nobody promises that it arrives."""


class OrderDesk:
    """Signs what is sent. `take` is called ahead of time, so that signing never waits for the store."""

    def __init__(self, store: Store, clock: Clock, site: str, seed: bytes, orders: Orders) -> None:
        self._store = store
        self._clock = clock
        self._site = site
        self._seed = seed
        self._orders = orders
        self._next = 0
        self._below = 0
        self.epoch = store.read(automation.epoch)
        self.sent = 0
        self.unsent = 0

    def begin(self) -> None:
        """Take the first numbers. Blocks. Raises StorageError."""
        site = self._store.site
        first = self._store.write_blocking(
            lambda connection: automation.take_counters(connection, site, self._clock.wall_ms())
        )
        self._next, self._below = first, first + automation.COUNTER_STEP

    @property
    def scarce(self) -> bool:
        """Whether numbers are to be taken soon."""
        return self._below - self._next < automation.COUNTER_STEP // 2

    async def refill(self, wanted: int) -> None:
        """Take numbers until there are so many. Raises StorageError, Busy."""
        site = self._store.site
        while self._below - self._next < wanted:
            first = await self._store.write(
                lambda connection: automation.take_counters(connection, site, self._clock.wall_ms())
            )
            # What is left of the step before is skipped: numbers grow, and nobody misses any.
            self._next, self._below = first, first + automation.COUNTER_STEP

    def send(self, agent_id: str, order: Order, not_after_ms: int = 0) -> bool:
        """Sign and hand over. False when the host is not connected, or there are no numbers."""
        if self._next >= self._below:
            self.unsent += 1
            return False
        now_ms = self._clock.wall_ms()
        address = Address(
            site=self._site,
            agent=agent_id,
            epoch=self.epoch,
            counter=self._next,
            issued_ms=now_ms,
            not_after_ms=not_after_ms or now_ms + CLEAN_TTL_MS,
        )
        self._next += 1
        gone = self._orders.send(
            agent_id, sign_order(self._seed, address, order), max(1, address.not_after_ms - now_ms)
        )
        if gone:
            self.sent += 1
        else:
            self.unsent += 1
        return gone
