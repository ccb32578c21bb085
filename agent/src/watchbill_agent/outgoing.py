"""What one session sends, and when: records on the grid, dictionaries before them, beats.

The Pacer says when; the protocol's Client says what. One task, the pump of `sender.py`, drives it.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from watchbill.clock import Clock
from watchbill.codec import BlockValues, Schema, encode_batch, encode_beat
from watchbill.limits import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, DICTIONARIES_PER_SESSION_MAX
from watchbill.protocol.client import Client, Run
from watchbill.protocol.frames import Stream
from watchbill.protocol.timing import CollectorTime, Pacer
from watchbill_agent.audit_heads import AuditHeads
from watchbill_agent.budget import Budget
from watchbill_agent.spool import Record, Spool
from watchbill_agent.transports import Link

SYNC_PATIENCE_S = 5.0
"""A disk that takes longer than this to sync does not hold up beats; what it holds up waits for the next turn."""
NEVER_S = float("inf")


class Newest(Protocol):
    """What the batcher can say of the newest tick that it has seen, whether it was sent or not."""

    def boottime_ms(self) -> int:
        """When it was taken; 0 before the first."""

    def values(self, metrics: frozenset[str]) -> BlockValues | None:
        """Its values of these metrics as a block of one tick; None when it has none."""


@dataclass(slots=True)
class LinkFacts:
    """How the link is, for `status`, `doctor` and self-metrics. `since_s` is monotonic."""

    connected: bool = False
    since_s: float = 0.0
    reason: str = "starting"
    detail: str = ""
    attempts: int = 0
    sessions: int = 0
    messages_sent: int = 0
    bytes_sent: int = 0
    records_sent: int = 0
    records_sent_again: int = 0
    beats_sent: int = 0
    messages_received: int = 0
    busy: int = 0
    forks: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    in_flight_bytes: int = 0
    collector_time: CollectorTime | None = None
    instance: str = ""

    async def send(self, link: Link, message: bytes) -> None:
        """Send a message, and count it."""
        await link.send(message)
        self.messages_sent += 1
        self.bytes_sent += len(message)


@dataclass(frozen=True, slots=True)
class Parts:
    """What is sent from: parts of the agent, the same for every session.

    `newest` knows the newest tick, `flush` puts what is being collected into the spool as it is, `sync` makes
    what is in the spool durable.
    """

    spool: Spool
    client: Client
    clock: Clock
    facts: LinkFacts
    newest: Newest | None
    flush: Callable[[], None]
    heads: AuditHeads | None
    budget: Budget | None
    sync: Callable[[], Awaitable[bool]]

    async def make_durable(self) -> None:
        """Sync what was appended, as long as a disk may take for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SYNC_PATIENCE_S):
                await self.sync()


class Outgoing:
    """The sending side of one session. With `keeps_messages` messages leave only when they are full, also before a
    look."""

    def __init__(self, parts: Parts, link: Link, pacer: Pacer, *, keeps_messages: bool) -> None:
        self.pacer = pacer
        self._parts = parts
        self._link = link
        self._keeps_messages = keeps_messages
        self._schemas: OrderedDict[int, None] = OrderedDict()
        self._begun = False
        self._unheard = True
        self._release_s = NEVER_S
        """When waiting records may leave; NEVER_S while none wait."""
        self._newest_sent_ms = 0
        self._newest_told_ms = 0
        self._evaluation_s: float | None = None

    async def send(self, message: bytes) -> None:
        """Send a message, and count it."""
        await self._parts.facts.send(self._link, message)

    async def send_due(self, now_s: float) -> float:
        """Send what is due, and say how many seconds there is nothing to do unless woken."""
        paused_s = self.pacer.paused_until_s - now_s
        spent_s = 0.0 if self._parts.budget is None else self._parts.budget.wait_s(now_s)
        urgent = self.waits(Stream.CRIT) and paused_s <= 0
        waiting = self.waits(Stream.BULK) and paused_s <= 0 and spent_s <= 0
        if self._parts.budget is not None and spent_s > 0 and self.waits(Stream.BULK):
            self._parts.budget.waits += 1
        looking = self._evaluation_s is not None and now_s >= self._evaluation_s
        # What is read while this is being sent is for the next look.
        newest_ms = self._parts.newest.boottime_ms() if looking and self._parts.newest is not None else 0
        released = not self._begun or looking or now_s >= self._release_s
        if urgent or (waiting and released):
            if looking and self.pacer.held_until_s:
                self._parts.flush()
            await self.send_records(crit_only=spent_s > 0 or not released)
            self._release_s, self.pacer.held_until_s = NEVER_S, 0.0
            waiting = self.waits(Stream.BULK)
            now_s = self._parts.clock.monotonic_s()
        if not waiting:
            self._release_s = NEVER_S
        elif self._release_s == NEVER_S:
            held = self._one_waits() and self.pacer.hold(now_s)
            self._release_s = self.pacer.held_until_s if held else now_s + self.pacer.release_in(now_s)
        await self._beat_if_due(now_s, newest_ms)
        now_s = self._parts.clock.monotonic_s()
        waits = [self.pacer.beat_in(now_s), self.pacer.ack_patience_s()]
        if waiting and not self._parts.client.stuck():
            waits.append(self._release_s - now_s)
        if self._evaluation_s is not None:
            waits.append(self._evaluation_s - now_s)
        waits += [seconds for seconds in (paused_s, spent_s) if seconds > 0]
        return max(0.001, min(waits))

    def waits(self, stream: Stream) -> bool:
        """Whether the stream has something that was not handed out yet, durable or not."""
        return (
            self._parts.client.unsent(stream)
            or self._parts.spool.last(stream) > self._parts.spool.state(stream).last_durable
        )

    def _one_waits(self) -> bool:
        """Whether a single record of readings waits: no backlog."""
        return self._parts.spool.last(Stream.BULK) == self._parts.client.handed_out(Stream.BULK) + 1

    async def send_records(self, *, crit_only: bool = False) -> None:
        """Send what is durable, as far as the credit goes."""
        if any(
            self._parts.spool.last(stream) > self._parts.spool.state(stream).last_durable for stream in Stream
        ):
            await self._parts.make_durable()
        while (
            run := self._parts.client.take(BATCH_BYTES_MAX, BATCH_RECORDS_MAX, crit_only=crit_only)
        ) is not None:
            await self._send_run(run)
            self.pacer.last_sent_s = self.pacer.last_records_s = self._parts.clock.monotonic_s()
            if self._unheard:
                # Patience for an acknowledgement runs from the first record that waits for one.
                self._unheard = False
                self.pacer.last_heard_s = self.pacer.last_sent_s

    async def _send_run(self, run: Run) -> None:
        # Before anything is waited for: what is dropped from now on has to be told as sent.
        self._parts.spool.sent(run.stream, run.held[-1].last)
        records = [record for record in run.held if isinstance(record, Record)]
        for record in records:
            for schema in record.schemas:
                await self._need(schema)
        await self.send(encode_batch(run.stream, [record.content for record in records]))
        self._begun = True
        self._newest_sent_ms = max(self._newest_sent_ms, records[-1].last_boottime_ms)
        self._parts.facts.records_sent += len(records)
        self._parts.facts.records_sent_again += len(records) if run.again else 0
        self._parts.facts.in_flight_bytes = self._parts.client.in_flight_bytes

    async def _need(self, schema: Schema) -> None:
        """Send a dictionary unless the collector has it from this session. Both ends forget the oldest
        first."""
        if schema.schema_id in self._schemas:
            return
        for frame in schema.frames:
            await self.send(frame)
        if len(self._schemas) >= DICTIONARIES_PER_SESSION_MAX:
            self._schemas.popitem(last=False)
        self._schemas[schema.schema_id] = None

    async def _beat_if_due(self, now_s: float, newest_ms: int) -> None:
        """Beat when it is time to; with values when the rules are about to look and `newest_ms`, the newest reading
        for them, was not sent."""
        looks_s = self.pacer.evaluation_in(now_s)
        self._evaluation_s = None if looks_s is None or self._parts.newest is None else now_s + looks_s
        block: BlockValues | None = None
        unsent = newest_ms > self._newest_sent_ms and (
            self._parts.budget is None or not self._parts.budget.thrifty(now_s)
        )
        if unsent and self._parts.newest is not None:
            if not self._keeps_messages:
                await self._hand_over()
            if newest_ms > max(self._newest_sent_ms, self._newest_told_ms):
                self._newest_told_ms = self._parts.newest.boottime_ms()
                block = self._parts.newest.values(frozenset(self.pacer.settings.beat_metrics))
        show = self._parts.heads is not None and self._parts.heads.show_due
        if block is None and not show and self.pacer.beat_in(now_s) > 0:
            return
        if block is not None:
            await self._need(block.schema)
        facts = self._parts.spool.facts()
        beat = encode_beat(
            self._parts.clock.boottime_ms(),
            self._parts.clock.wall_ms(),
            facts.records,
            facts.bytes,
            block,
            None if self._parts.heads is None else self._parts.heads.unshown(),
        )
        await self.send(beat)
        self._parts.facts.beats_sent += 1
        self.pacer.last_sent_s = self._parts.clock.monotonic_s()

    async def _hand_over(self) -> None:
        """Before the rules look: let what is still being collected leave as it is, when nothing waits before it.

        A beat in its place would cost the collector as much, and everything in it would come a second time.
        """
        if self.waits(Stream.BULK) or self.pacer.paused_until_s > self._parts.clock.monotonic_s():
            return
        self._parts.flush()
        if self.waits(Stream.BULK):
            await self.send_records()
