"""One connection of one agent: judges its frames, one after the other, and never waits.

The order of a session: Hello, Welcome; then dictionaries, batches and beats as they come; then Bye, or the
connection breaks. What a frame asks for is done at once or handed to the group commit; what has to be said
goes to the `Outlet`.

The way of a batch is the collector's hot path. A message of 300 samples is read from protobuf directly, its
values become an array without being copied, and nothing is done per sample.

What is wrong is refused as small as possible and told: a series, a record (which becomes a gap with reason
REFUSED, so that the stream goes on), and only for a broken protocol the session.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import numpy as np
from google.protobuf.message import DecodeError

from watchbill.codec import decode_hello, encode_down
from watchbill.errors import Unreadable
from watchbill.events import AGENT_STARTED, KIND_WANTED, is_kind
from watchbill.leaving import Farewell
from watchbill.limits import (
    AGE_MS_MAX,
    BATCH_RECORDS_MAX,
    BLOCKS_PER_RECORD_MAX,
    CREDIT_BYTES_DEFAULT,
    CREDIT_BYTES_MIN,
    DICTIONARIES_PER_SESSION_MAX,
    DICTIONARY_BYTES_MAX,
    DICTIONARY_PARTS_MAX,
    EVENT_BYTES_MAX,
    EVENT_ID_BYTES,
    FUTURE_MS_MAX,
    MESSAGE_BYTES_MAX,
    MESSAGE_CHARGE_BYTES,
    RECORD_BYTES_MAX,
    REQUEST_WITHIN_S,
    TICKS_PER_BLOCK_MAX,
)
from watchbill.protocol.frames import (
    SEQ_MAX,
    AuditHead,
    Busy,
    Down,
    End,
    EndReason,
    Hello,
    Nack,
    Refusal,
    Request,
    RunnerOrder,
    Stream,
)
from watchbill.protocol.server import AckPolicy, Verdict, Watermark, ack_of
from watchbill.v1 import link_pb2 as pb
from watchbill_collector.ingest.agents import Agent, boot_of
from watchbill_collector.ingest.delivered import Delivered
from watchbill_collector.ingest.dictionaries import HostSeries
from watchbill_collector.ingest.gaps import refused_row, reported_row
from watchbill_collector.ingest.liveness import Pulse
from watchbill_collector.ingest.ports import CritEvent
from watchbill_collector.series import Ticks

if TYPE_CHECKING:
    from watchbill_collector.ingest.ingest import Ingest

_NEVER = float("inf")
_FLOAT64 = np.dtype("<f8")
_parse = pb.Up.FromString
_parse_record = pb.Record.FromString

SETTLE_BYTES = 16 * 1024
"""Bytes received before they are charged to the byte quota: charging each message would cost more than it is
worth."""
NO_CRIT_RETRY_S = 60.0
"""How long an agent waits with critical records for a collector that has no place for them."""
NACK_AGAIN_S = 1.0
"""The same missing record is asked for again only after this long."""


class Outlet(Protocol):
    """The way back to the agent. Nothing here waits."""

    def send(self, message: bytes, within_s: int = 0) -> None:
        """Send a message after those before it. `within_s`: whoever keeps it on the way drops it after that long; 0:
        never."""

    def end(self, message: bytes, reason: EndReason) -> None:
        """Send a last message and close."""


class RecordRefused(Exception):
    """A record whose content can never be taken: `reason` is one word, the text for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Session:
    """One connection. `receive` takes its messages."""

    __slots__ = (
        "_acked",
        "_acks",
        "_credit",
        "_frames",
        "_hurried",
        "_ingest",
        "_nack_s",
        "_outlet",
        "_owed",
        "_parts",
        "_schemas",
        "_watermarks",
        "ack_at_s",
        "ack_interval_ms",
        "agent",
        "audit_told",
        "beat_interval_ms",
        "began_s",
        "boot_id",
        "bye",
        "delivered",
        "ended",
        "heard_s",
        "offset_ms",
        "pulse",
        "run_id",
        "spool_id",
        "takes",
        "transport",
    )

    def __init__(
        self,
        ingest: "Ingest",
        agent: Agent,
        outlet: Outlet,
        now_s: float,
        transport: str,
        ack_interval_ms: int,
    ) -> None:
        self._ingest = ingest
        self._outlet = outlet
        self.transport = transport
        self.ack_interval_ms = ack_interval_ms
        self.agent = agent
        self.began_s = self.heard_s = now_s
        self.ended = False
        self.bye: Farewell | None = None
        self.pulse: Pulse | None = None
        self.delivered: Delivered | None = None
        self.run_id = b""
        self.spool_id = b""
        self.boot_id = ""
        self.takes: tuple[str, ...] = ()
        self.audit_told = 0
        self.beat_interval_ms = 0
        self.offset_ms = 0
        self.ack_at_s = _NEVER
        self._acks = AckPolicy()
        self._acked = 0
        self._credit = CREDIT_BYTES_DEFAULT
        self._nack_s = 0.0
        self._owed = 0
        self._hurried = False
        self._schemas: OrderedDict[int, HostSeries | None] = OrderedDict()
        self._parts: tuple[int, int] = (0, 0)  # The schema whose parts are coming, and how many it has.
        self._frames: list[bytes] = []
        self._watermarks: dict[int, Watermark] = {}

    # ------------------------------------------------------------ what comes

    def receive(self, message: bytes, now_s: float) -> float:
        """Take one message. Returns for how many seconds nothing more should be read: 0, or the agent is too
        fast."""
        if self.ended:
            return 0.0
        self.heard_s = now_s
        pulse = self.pulse
        if pulse is not None:
            pulse.heard_s = now_s
        size = len(message)
        counters = self._ingest.counters
        counters.messages += 1
        counters.message_bytes += size
        if size > MESSAGE_BYTES_MAX:
            self._broken("oversized", f"a message of {size} bytes, more than {MESSAGE_BYTES_MAX}")
            return 0.0
        try:
            up = _parse(message)
            if pulse is not None and up.HasField("batch"):
                self._batch(up.batch, size)
            else:
                self._other(up, message)
        except DecodeError as exc:
            self._broken("malformed", str(exc))
        except Unreadable as exc:
            self._broken("record", str(exc))
        self._owed += max(MESSAGE_CHARGE_BYTES, size)
        return self._settle(now_s) if self._owed > SETTLE_BYTES else 0.0

    def _settle(self, now_s: float) -> float:
        """Charge what was received to the agent's byte quota. Returns seconds to read nothing, when it is
        overdrawn."""
        owed, self._owed = self._owed, 0
        bucket = self.agent.bytes
        if bucket.take(owed, now_s) >= 0:
            return 0.0
        self._ingest.counters.throttled += 1
        self._ingest.counters.refused(self.agent.instance or self.agent.agent_id, "byte_rate")
        return bucket.wait_s(now_s)

    def _other(self, up: pb.Up, message: bytes) -> None:
        """Everything but a batch."""
        kind = up.WhichOneof("message")
        if kind == "hello":
            if self.pulse is None:
                self._hello(up.hello)
            else:
                self._broken("second_hello", "a session has one Hello")
        elif self.pulse is None and kind == "bye":
            self._ingest.knocked(self)
        elif self.pulse is None:
            self._broken("no_hello", "a session begins with Hello")
        elif kind == "beat":
            self._beat(up.beat)
        elif kind == "dictionary":
            self._dictionary(up.dictionary, message)
        elif kind == "bye":
            self._bye(up.bye)
        # A kind that a newer agent may know is left alone.

    def _hello(self, message: pb.Hello) -> None:
        try:
            hello = decode_hello(message)
        except Unreadable as exc:
            self._broken("hello", str(exc))
            return
        self._ingest.greet(self, hello)

    def open(self, hello: Hello, pulse: Pulse, offset_ms: int, watermarks: Sequence[Watermark]) -> None:
        """The Hello was accepted."""
        self.run_id = hello.run_id
        self.spool_id = hello.spool_id
        self.boot_id = hello.boot_id
        self.takes = hello.takes
        self.offset_ms = offset_ms
        self.pulse = pulse
        self._watermarks = {int(watermark.stream): watermark for watermark in watermarks}
        self._acked = sum(watermark.committed for watermark in watermarks)
        crit = self._watermarks.get(Stream.CRIT)
        if crit is not None:
            told = next(state.last_durable for state in hello.streams if state.stream is Stream.CRIT)
            self.delivered = Delivered(crit, told)

    # ------------------------------------------------------------ dictionaries

    def _dictionary(self, dictionary: pb.Dictionary, message: bytes) -> None:
        counters = self._ingest.counters
        counters.dictionaries += 1
        schema_id, part, parts = dictionary.schema_id, dictionary.part, max(1, dictionary.parts)
        if part == 0:
            self._parts = (schema_id, parts)
            self._frames = []
        if self._parts != (schema_id, parts) or part != len(self._frames) or part >= parts:
            self._broken("dictionary_parts", "the parts of a dictionary come whole and in order")
            return
        self._frames.append(message)
        if parts > DICTIONARY_PARTS_MAX or sum(map(len, self._frames)) > DICTIONARY_BYTES_MAX:
            self._broken("dictionary_size", f"a dictionary has at most {DICTIONARY_BYTES_MAX} bytes")
            return
        if part + 1 < parts:
            return
        frames, self._frames = self._frames, []
        self._schemas.pop(schema_id, None)
        self._schemas[schema_id] = self._series(frames)
        if len(self._schemas) > DICTIONARIES_PER_SESSION_MAX:
            self._schemas.popitem(last=False)

    def _series(self, frames: Sequence[bytes]) -> HostSeries | None:
        """The host's series for a dictionary; None when nothing of it can be read."""
        agent, dictionaries = self.agent, self._ingest.dictionaries
        try:
            dictionary = dictionaries.read(frames)
        except Unreadable as exc:
            self.tell("dictionary", 1, str(exc))
            return None
        known = agent.series_of(dictionary.digest)
        if known is not None:
            return known
        for refused in dictionary.refused:
            self.tell(refused.reason, refused.count, refused.example)
        keys = dictionaries.keys(dictionary, agent.source, agent.source_names)
        allowed, over = agent.allowance(keys, self.heard_s)
        for reason, count in over:
            self.tell(reason, count, f"of {len(keys)} series in one dictionary")
        series = dictionaries.of_host(dictionary, agent.source, keys, allowed)
        if allowed is None or allowed.all():
            agent.keep_series(dictionary.digest, series)
        # A dictionary that was cut is not remembered: sent again later, more of it may be allowed.
        return series

    # ------------------------------------------------------------ batches

    def _batch(self, batch: pb.Batch, size: int) -> None:
        """Take the records of a batch, in order, as far as they continue the stream."""
        watermark = self._watermarks.get(batch.stream)
        if watermark is None:
            raise Unreadable(f"stream {batch.stream} was not in Hello")
        commits = self._ingest.commits
        if commits.full or (watermark.stream is Stream.CRIT and not commits.takes_crit):
            self.busy(commits.busy_s() if commits.full else NO_CRIT_RETRY_S)
            return
        records = batch.records
        if len(records) > BATCH_RECORDS_MAX:
            raise Unreadable(f"a batch has at most {BATCH_RECORDS_MAX} records")
        accepted = watermark.accepted
        for content in records:
            if not self._record(watermark, content):
                break
        if watermark.accepted != accepted:
            commits.touch(watermark, self.agent)
            self._acks.took(size, self.heard_s, urgent=watermark.stream is Stream.CRIT)
            if self.ack_at_s == _NEVER:
                self._look_again(self.heard_s)
        elif accepted == watermark.committed and records:
            # All of it came before and is committed: the acknowledgement must have been lost.
            self.acknowledge(self.heard_s, again=True)

    def _record(self, watermark: Watermark, content: bytes) -> bool:
        """Take one record; False when one before it is missing. Raises Unreadable for what no agent would
        write."""
        record = _parse_record(content)
        seq = record.seq
        if not 0 < seq < SEQ_MAX:
            raise Unreadable(f"sequence number {seq} does not exist")
        if len(content) > RECORD_BYTES_MAX:
            raise Unreadable(f"a record has at most {RECORD_BYTES_MAX} bytes")
        counters = self._ingest.counters
        if record.HasField("gap"):
            verdict = self._gap(watermark, seq, record.gap)
        else:
            verdict = watermark.offer(seq, seq, content)
        if verdict is not Verdict.ACCEPT:
            if verdict is Verdict.HOLE:
                self._missing(watermark)
                return False
            counters.duplicates += 1
            return True
        counters.records += 1
        try:
            if record.HasField("ticks"):
                self._ticks(watermark, record.ticks, len(content))
            elif record.HasField("event"):
                self._event(watermark, seq, record.event)
            elif not record.HasField("gap"):
                raise RecordRefused("record_kind", f"record {seq} has no content that is known here")
        except RecordRefused as exc:
            self._refuse_record(watermark, seq, exc, record)
        return True

    def _ticks(self, watermark: Watermark, ticks: pb.Ticks, size: int) -> None:
        """Take the blocks of a record, all of them or none. Raises RecordRefused."""
        if watermark.stream is not Stream.BULK:
            raise RecordRefused("wrong_stream", "samples belong into the bulk stream")
        blocks = ticks.blocks
        offset: int | None = self.offset_ms
        boot_id = ticks.boot_id
        if boot_id and boot_id != self.boot_id:
            offset = self.agent.offset_of_boot(boot_id)
        ingest = self._ingest
        if len(blocks) == 1:
            taken = [self._block(blocks[0], offset)]
        elif len(blocks) <= BLOCKS_PER_RECORD_MAX:
            taken = [self._block(block, offset) for block in blocks]
        else:
            raise RecordRefused("blocks", f"a record has at most {BLOCKS_PER_RECORD_MAX} blocks")
        for tick in taken:
            ingest.counters.samples += tick.values.size
            ingest.commits.add(tick, size)
            ingest.commits.cover(self.agent, tick.times_ms)
            size = 0  # Counted once for the record.

    def _block(self, block: pb.Block, offset: int | None) -> Ticks:
        """A block as ticks of series. Its values are not copied. Raises RecordRefused."""
        series = self._schemas.get(block.schema_id)
        if series is None:
            raise RecordRefused(
                "unknown_schema", f"schema {block.schema_id:016x} was not sent, or refused whole"
            )
        first_ms = block.first_boottime_ms
        if offset is None:
            offset = self.agent.time_by_wall(block.first_wall_ms, self.offset_ms) - first_ms
        times_ms = _times(first_ms + offset, block.steps_ms[:])
        first_ms, last_ms = times_ms[0], times_ms[-1]
        now_ms = self._ingest.now_ms
        if last_ms > now_ms + FUTURE_MS_MAX:
            raise RecordRefused(
                "future", f"a tick {(last_ms - now_ms) / 1000:.0f} s ahead of the collector's clock"
            )
        if first_ms < now_ms - AGE_MS_MAX:
            raise RecordRefused("too_old", f"a tick {(now_ms - first_ms) / 86_400_000:.1f} days old")
        values, count = block.values, len(times_ms)
        if len(values) != 8 * count * series.total:
            raise RecordRefused(
                "block_size", f"{len(values)} bytes for {count} ticks of {series.total} series, 8 each"
            )
        matrix = np.frombuffer(values, _FLOAT64).reshape(count, series.total)
        if series.columns is not None:
            matrix = matrix[:, series.columns]
        if last_ms > self.agent.last_tick_ms:
            self.agent.last_tick_ms = last_ms
            if offset == self.offset_ms and block.first_wall_ms:
                self.agent.clock_ms = block.first_wall_ms - block.first_boottime_ms
        return Ticks(series.ids, np.array(times_ms, np.int64), matrix)

    def _event(self, watermark: Watermark, seq: int, event: pb.Event) -> None:
        if watermark.stream is not Stream.CRIT:
            raise RecordRefused("wrong_stream", "events belong into the crit stream")
        if (
            len(event.event_id) != EVENT_ID_BYTES
            or len(event.payload) > EVENT_BYTES_MAX
            or not is_kind(event.kind)
        ):
            raise RecordRefused(
                "event", f"an event has an id of 16 bytes, a kind of {KIND_WANTED}, and at most 64 KiB"
            )
        content = self._ingest.read_event(self.agent.agent_id, event.kind, event.event_id, event.payload)
        if event.kind == AGENT_STARTED:
            self.agent.events_boot = boot_of(event.payload)
        present = (self.boot_id, self.offset_ms)
        shift_ms = self.agent.shift(event.boottime_ms, event.wall_ms, present, self._ingest.now_ms)
        found = CritEvent(
            seq,
            event.event_id,
            event.kind,
            event.boottime_ms,
            event.wall_ms,
            event.payload,
            shift_ms,
            content,
        )
        self._ingest.commits.add_events((self.agent.agent_id, watermark.spool_id), [found])

    def _gap(self, watermark: Watermark, seq: int, gap: pb.Gap) -> Verdict:
        last = gap.to_seq
        notice = gap.count == 0 and last == seq
        if not seq <= last < SEQ_MAX or (gap.count != last - seq + 1 and not notice):
            raise Unreadable(f"a gap over {seq}..{last} that counts {gap.count}")
        first = max(seq, watermark.accepted + 1)
        verdict = watermark.offer(seq, last, b"", gap.digest)
        if verdict is Verdict.ACCEPT:
            if not notice:
                self._lose(watermark)
            self._ingest.commits.add_gap(
                reported_row(
                    self.agent,
                    watermark,
                    gap,
                    seq=seq,
                    first=first,
                    notice=notice,
                    offset_ms=self.offset_ms,
                    now_ms=self._ingest.now_ms,
                )
            )
        return verdict

    def _refuse_record(
        self, watermark: Watermark, seq: int, refused: RecordRefused, record: pb.Record
    ) -> None:
        """The record's number is passed, its place is a gap: the agent must not send it for ever."""
        self.tell(refused.reason, 1, str(refused))
        self._lose(watermark)
        self._ingest.commits.add_gap(refused_row(self.agent, watermark, seq, record, self._ingest.now_ms))

    def _lose(self, watermark: Watermark) -> None:
        if watermark.stream is Stream.CRIT and self.delivered is not None:
            self.delivered.lose()

    def _missing(self, watermark: Watermark) -> None:
        self._ingest.counters.holes += 1
        if watermark.stream is Stream.CRIT and self.delivered is not None:
            self.delivered.hold(self.heard_s)
        if self.heard_s - self._nack_s >= NACK_AGAIN_S:
            self._nack_s = self.heard_s
            self.say(Nack(watermark.stream, watermark.accepted + 1))

    # ------------------------------------------------------------ beats, goodbyes

    def _beat(self, beat: pb.Beat) -> None:
        ingest = self._ingest
        ingest.counters.beats += 1
        if beat.wall_ms:
            self.agent.tell_clock(beat.wall_ms, beat.boottime_ms, ingest.clock.wall_ms())
        if beat.HasField("audit"):
            ingest.witness(self.agent.agent_id, (AuditHead(beat.audit.seq, beat.audit.hash),))
        if not beat.HasField("block"):
            return
        try:
            ticks = self._block(beat.block, self.offset_ms)
        except RecordRefused as exc:
            self.tell(exc.reason, 1, str(exc))
            return
        if ticks.values.size:
            ingest.live([ticks])

    def _bye(self, bye: pb.Bye) -> None:
        self.bye = Farewell(bye.reason, bye.back_within_ms)
        self._ingest.goodbye(self)

    # ------------------------------------------------------------ what goes

    def say(self, frame: Down) -> None:
        """Send a frame."""
        if not self.ended:
            self._outlet.send(encode_down(frame))

    def ask(self, request: Request) -> None:
        """Ask the host to do something: now, or not at all."""
        within_s = -(-request.ttl_ms // 1000) if isinstance(request, RunnerOrder) else REQUEST_WITHIN_S
        if not self.ended:
            self._outlet.send(encode_down(request), max(1, within_s))

    def tell(self, reason: str, count: int, detail: str) -> None:
        """Something is refused for good: count it under the sender's name and say so."""
        self._ingest.counters.refused(self.agent.instance or self.agent.agent_id, reason, count)
        self.say(Refusal(reason, count, detail[:500]))

    def busy(self, seconds: float) -> None:
        """Ask the agent to wait; it goes on after the last acknowledged record."""
        self._ingest.counters.busy += 1
        if self.delivered is not None:
            self.delivered.hold(self._ingest.clock.monotonic_s() + seconds)
        self.say(Busy(round(seconds * 1000)))

    def acknowledge(self, now_s: float, *, again: bool = False) -> None:
        """Acknowledge what is committed if it is time to, or `again` because an earlier one must have been
        lost."""
        committed = sum(watermark.committed for watermark in self._watermarks.values())
        options = self._ingest.options
        new = committed - self._acked
        due = new != 0 and (
            self._acks.due(now_s, new, self._credit, options.ack_records, self.ack_interval_ms / 1000)
            or (self.bye is not None)
        )
        credit = self._credit_now(now_s)
        if due or again or credit >= self._credit * 2:
            self._acked = committed
            self._credit = credit
            self._acks.sent(now_s, rest=not self.settled())
            self._ingest.counters.acks += 1
            head = self._ingest.audit_head()
            if head is not None and head.seq == self.audit_told:
                head = None
            elif head is not None:
                self.audit_told = head.seq
            self.say(ack_of(self._watermarks.values(), credit, self._ingest.clock.wall_ms(), head))
        self._look_again(now_s)

    def _look_again(self, now_s: float) -> None:
        """When the shared timer should ask again: when the oldest message has waited long enough, or soon
        because the credit has to grow."""
        waits = self._acks.oldest_s() + self.ack_interval_ms / 1000
        short = self._credit < CREDIT_BYTES_DEFAULT
        self.ack_at_s = min(waits, now_s + 1.0) if short else waits
        if short is not self._hurried:
            self._hurried = short
            self._ingest.hurry(self, on=short and not self.ended)

    def _credit_now(self, now_s: float) -> int:
        """What may be in flight: as much as the byte quota will still take, within bounds."""
        level = self.agent.bytes.level(now_s)
        if self._ingest.commits.full:
            return CREDIT_BYTES_MIN
        return int(min(CREDIT_BYTES_DEFAULT, max(CREDIT_BYTES_MIN, level)))

    def settled(self) -> bool:
        """Whether everything it sent is committed."""
        return all(watermark.accepted == watermark.committed for watermark in self._watermarks.values())

    def end(self, reason: EndReason, detail: str = "", retry_after_s: float = 0.0) -> None:
        """End the session from this side."""
        if self.ended:
            return
        self.ended = True
        self._outlet.end(encode_down(End(reason, detail[:500], round(retry_after_s * 1000))), reason)
        self._ingest.gone(self)

    def _broken(self, reason: str, detail: str) -> None:
        """The agent broke the protocol: nothing it says can be trusted from here on."""
        self._ingest.counters.refused(self.agent.instance or self.agent.agent_id, reason)
        self.end(EndReason.PROTOCOL, detail)


def _times(first_ms: int, steps: Sequence[int]) -> list[int]:
    """The times of the ticks of a block; as Python's integers, which for a few are cheaper than an array. Raises
    RecordRefused: too many, or two at the same time."""
    if len(steps) >= TICKS_PER_BLOCK_MAX:
        raise RecordRefused("ticks", f"a block has at most {TICKS_PER_BLOCK_MAX} ticks")
    if 0 in steps:
        raise RecordRefused("times", "two ticks of a block have the same time")
    return list(accumulate(steps, initial=first_ms))
