"""The agent's end of the delivery protocol.

The machine decides; whoever drives it (the sender) acts. It reads what the spool holds through `Log`, is
given every frame that arrives, and answers with orders. It never waits and never asks for the time.

One session:

1. `hello()` makes the first frame from what the spool holds, and forgets everything of the session before.
2. The Welcome is compared with the spool (`_reconcile`), stream by stream:

   - acked <= W <= last and the digest of W is ours: normal, or lost acknowledgements. Release up to W, go on.
   - W < acked: the collector was restored from a backup. What is still held is sent again, what is not
   becomes
     a gap (COLLECTOR_REWIND).
   - W > last, or the digest is not ours: this spool was rolled back (a snapshot, a restored disk). Fork.

   Here W is what the collector holds and `last` the highest number of this spool.

3. `take()` hands out the records to send, critical ones first, as far as the credit goes.
4. Acknowledgements release records; Nack goes back; Busy waits and goes back; End ends.

A frame of another session than the current one is ignored: a broker may deliver it late, or twice.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from watchbill.limits import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, CREDIT_BYTES_DEFAULT
from watchbill.protocol.frames import (
    NO_DIGEST,
    SEQ_MAX,
    Ack,
    Busy,
    Down,
    End,
    EndReason,
    GapReason,
    Nack,
    Refusal,
    Request,
    RetiredSpool,
    RunnerOrder,
    Settings,
    Stream,
    StreamMark,
    StreamState,
    VerifyBackup,
    Welcome,
)

STREAMS_BY_URGENCY = (Stream.CRIT, Stream.BULK)


class Held(Protocol):
    """One record or gap record that the spool still holds: sequence numbers `first` to `last`, `size`
    bytes."""

    @property
    def first(self) -> int:
        """Its sequence number; of a gap, the first that it covers."""

    @property
    def last(self) -> int:
        """The last number it covers; for data the same as `first`."""

    @property
    def size(self) -> int:
        """Bytes on the wire."""


class Log(Protocol):
    """What the machine reads of the spool."""

    @property
    def spool_id(self) -> bytes:
        """16 random bytes, made with the spool."""

    @property
    def retired(self) -> tuple[RetiredSpool, ...]:
        """Spools this agent used before, with the last number used in each."""

    def state(self, stream: Stream) -> StreamState:
        """Where the stream stands."""

    def digest(self, stream: Stream, seq: int) -> int | None:
        """The digest of a record, known as long as it may be needed: until it is acknowledged, also when it
        was dropped after having been sent. NO_DIGEST for a gap, None for what was never here."""

    def held_after(self, stream: Stream, seq: int) -> Held | None:
        """The first thing held that reaches beyond `seq`, of what is durable."""


@dataclass(frozen=True, slots=True)
class Release:
    """Order: everything up to `through` is the collector's now; remember `digest` for the next handshake."""

    stream: Stream
    through: int
    digest: int


@dataclass(frozen=True, slots=True)
class MarkLost:
    """Order: put a gap record over `first`..`last` at the front of the stream; `acked` goes back before
    it."""

    stream: Stream
    first: int
    last: int
    reason: GapReason


@dataclass(frozen=True, slots=True)
class Rewind:
    """Order: the collector holds less than it acknowledged; `acked` goes back to `through`."""

    stream: Stream
    through: int
    digest: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Order: start a new spool with what is retained, renumbered; retire the old one as given; then say hello
    again."""

    retired: tuple[RetiredSpool, ...]


@dataclass(frozen=True, slots=True)
class Adopt:
    """Order: the collector's settings, as a whole."""

    settings: Settings


@dataclass(frozen=True, slots=True)
class Pause:
    """Order: send nothing for this long, then go on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Told:
    """Order: tell the operator that the collector refused something."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Asked:
    """Order: the collector asks this host to do something; whoever does it decides whether."""

    request: Request


@dataclass(frozen=True, slots=True)
class Ended:
    """Order: the session is over."""

    end: End


Order = Release | MarkLost | Rewind | Fork | Adopt | Pause | Told | Asked | Ended


@dataclass(frozen=True, slots=True)
class Run:
    """Records to send in one message, in order. `again`: some were sent before."""

    stream: Stream
    held: tuple[Held, ...]
    again: bool = False


class Phase(Enum):
    """Where a session stands."""

    IDLE = "idle"
    GREETING = "greeting"
    OPEN = "open"
    OVER = "over"


@dataclass(slots=True)
class _Progress:
    """One stream in one session: `cursor` is the last number handed out, `reached` the highest ever handed
    out, `in_flight` what is not acknowledged, as (last number, bytes)."""

    acked: int = 0
    cursor: int = 0
    reached: int = 0
    in_flight: deque[tuple[int, int]] = field(default_factory=deque)


class Client:
    """The agent's end. One object lives as long as the agent; `hello` begins each session."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._phase = Phase.IDLE
        self._session = 0
        self._credit = 0
        self._in_flight_bytes = 0
        self._progress = {stream: _Progress() for stream in STREAMS_BY_URGENCY}

    @property
    def phase(self) -> Phase:
        """Where the session stands."""
        return self._phase

    @property
    def session(self) -> int:
        """The collector's number for this session; 0 before the Welcome."""
        return self._session

    @property
    def in_flight_bytes(self) -> int:
        """Bytes sent and not yet acknowledged in this session."""
        return self._in_flight_bytes

    def hello(self) -> tuple[StreamState, ...]:
        """Begin a session: the stream states for the Hello."""
        self._phase = Phase.GREETING
        self._session = 0
        self._credit = 0
        self._forget_flight()
        return tuple(self._log.state(stream) for stream in STREAMS_BY_URGENCY)

    def lost(self) -> None:
        """The connection is gone."""
        self._phase = Phase.IDLE
        self._forget_flight()

    def receive(self, frame: Down, session: int) -> list[Order]:
        """Take one frame of `session` and say what to do about it; the Welcome brings its session along."""
        if self._phase is Phase.GREETING:
            if isinstance(frame, Welcome):
                return self._welcomed(frame)
            if isinstance(frame, Busy):
                self._phase = Phase.OVER
                return [Ended(_busy_end(frame))]
            if isinstance(frame, End):
                self._phase = Phase.OVER
                return [Ended(frame)]
            return []
        if self._phase is not Phase.OPEN or session != self._session:
            return []
        return self._open(frame)

    def _open(self, frame: Down) -> list[Order]:
        if isinstance(frame, Ack):
            self._credit = frame.credit_bytes
            return [order for mark in frame.marks for order in self._acknowledged(mark)]
        if isinstance(frame, Nack):
            self._go_back(frame.stream, frame.expected - 1)
            return []
        if isinstance(frame, Busy):
            for stream in STREAMS_BY_URGENCY:
                self._go_back(stream, 0)
            return [Pause(frame.retry_after_ms / 1000)]
        if isinstance(frame, Settings):
            self._credit = frame.credit_bytes or self._credit
            return [Adopt(frame)]
        if isinstance(frame, Refusal):
            return [Told(frame)]
        if isinstance(frame, VerifyBackup | RunnerOrder):
            return [Asked(frame)]
        if isinstance(frame, End):
            self._phase = Phase.OVER
            return [Ended(frame)]
        return []  # A second Welcome of the same session is a duplicate.

    def _welcomed(self, welcome: Welcome) -> list[Order]:
        marks = {mark.stream: mark for mark in welcome.marks}
        rolled_back = False
        orders: list[Order] = []
        for stream in STREAMS_BY_URGENCY:
            mark = marks.get(stream, StreamMark(stream, 0))
            state = self._log.state(stream)
            if self._rolled_back(state, mark):
                rolled_back = True
            else:
                orders += self._reconcile(state, mark)
        if rolled_back:
            self._phase = Phase.OVER
            # What this spool retains moves to the new one, so nothing of the old one is outstanding after
            # what the collector holds.
            held = {
                # A collector that has closed this spool names a number beyond all that there are.
                stream: min(marks[stream].committed, SEQ_MAX - 1) if stream in marks else 0
                for stream in STREAMS_BY_URGENCY
            }
            return [
                Fork(tuple(RetiredSpool(self._log.spool_id, stream, seq) for stream, seq in held.items()))
            ]
        self._phase = Phase.OPEN
        self._session = welcome.session
        self._credit = welcome.settings.credit_bytes or CREDIT_BYTES_DEFAULT
        return [Adopt(welcome.settings), *orders]

    def _rolled_back(self, state: StreamState, mark: StreamMark) -> bool:
        """Whether the collector holds records of this spool that this spool never had."""
        if mark.committed > state.last_durable:
            return True
        if mark.committed == 0 or mark.digest == NO_DIGEST:
            return False
        if mark.committed == state.acked:
            ours: int | None = state.acked_digest
        else:
            ours = self._log.digest(state.stream, mark.committed)
            if ours is None:
                # Below what was acknowledged, digests are gone and nothing can be said. Above it, every
                # digest of what was ever sent is kept: the collector has something that was never sent from
                # here.
                return mark.committed > state.acked
        return ours not in (NO_DIGEST, mark.digest)

    def _reconcile(self, state: StreamState, mark: StreamMark) -> list[Order]:
        stream = state.stream
        progress = self._progress[stream]
        progress.acked = progress.cursor = progress.reached = mark.committed
        if mark.committed >= state.acked:
            if mark.committed == state.acked:
                return []
            return [Release(stream, mark.committed, mark.digest)]
        orders: list[Order] = [Rewind(stream, mark.committed, mark.digest)]
        if mark.committed < state.first_retained - 1:
            first, last = mark.committed + 1, state.first_retained - 1
            orders.append(MarkLost(stream, first, last, GapReason.COLLECTOR_REWIND))
        return orders

    def _acknowledged(self, mark: StreamMark) -> list[Order]:
        progress = self._progress[mark.stream]
        if mark.committed <= progress.acked:
            return []
        if mark.committed > progress.reached and not self._sent_before(mark):
            return []  # A peer's mistake; it must not make us release what it does not have.
        if self._foreign(mark):
            # Rolled back to before a session whose last records were still being committed when this one began.
            # Hello compares digests again, and then this spool forks.
            self._phase = Phase.OVER
            why = "the collector holds another record under a number of this spool: it was rolled back"
            return [Ended(End(EndReason.PROTOCOL, why))]
        progress.acked = mark.committed
        progress.cursor = max(progress.cursor, mark.committed)
        flight = progress.in_flight
        while flight and flight[0][0] <= mark.committed:
            self._in_flight_bytes -= flight.popleft()[1]
        return [Release(mark.stream, mark.committed, mark.digest)]

    def _foreign(self, mark: StreamMark) -> bool:
        """Whether the collector holds something else under that number than was sent from here."""
        ours = self._log.digest(mark.stream, mark.committed)
        return ours is not None and NO_DIGEST not in (ours, mark.digest) and ours != mark.digest

    def _sent_before(self, mark: StreamMark) -> bool:
        """Whether the collector may rightly hold more than this session sent it: what the session before sent
        and what was still being committed when this one began."""
        if mark.committed > self._log.state(mark.stream).last_durable:
            return False
        ours = self._log.digest(mark.stream, mark.committed)
        return ours is not None and (NO_DIGEST in (ours, mark.digest) or ours == mark.digest)

    def _go_back(self, stream: Stream, through: int) -> None:
        """Send again what follows `through`, or the last acknowledged record when that is later."""
        progress = self._progress[stream]
        through = max(through, progress.acked)
        if through >= progress.cursor:
            return
        progress.cursor = through
        flight = progress.in_flight
        while flight and flight[-1][0] > through:
            self._in_flight_bytes -= flight.pop()[1]

    def go_back(self) -> None:
        """No acknowledgement came in time: send everything unacknowledged again."""
        for stream in STREAMS_BY_URGENCY:
            self._go_back(stream, 0)

    def _forget_flight(self) -> None:
        for progress in self._progress.values():
            progress.in_flight.clear()
        self._in_flight_bytes = 0

    def unsent(self, stream: Stream) -> bool:
        """Whether the stream holds something that was not handed out yet."""
        if self._phase is not Phase.OPEN:
            return self._log.state(stream).last_durable > self._log.state(stream).acked
        return self._log.state(stream).last_durable > self._progress[stream].cursor

    def handed_out(self, stream: Stream) -> int:
        """The last number that was handed out in this session."""
        return self._progress[stream].cursor

    def stuck(self) -> bool:
        """Whether records wait and the credit lets none of them go."""
        waiting = [
            held
            for stream in STREAMS_BY_URGENCY
            if (held := self._log.held_after(stream, self._progress[stream].cursor)) is not None
        ]
        return bool(waiting) and not any(self._fits(held) for held in waiting)

    def _fits(self, held: Held) -> bool:
        if self._in_flight_bytes == 0:
            return self._credit > 0
        return held.size <= self._credit - self._in_flight_bytes

    def take(
        self,
        bytes_max: int = BATCH_BYTES_MAX,
        records_max: int = BATCH_RECORDS_MAX,
        *,
        crit_only: bool = False,
    ) -> Run | None:
        """The next records to send in one message, or None: nothing is waiting, or the credit is used up.

        Critical records come first. A record larger than the whole credit goes alone when nothing is in
        flight.
        """
        if self._phase is not Phase.OPEN:
            return None
        for stream in STREAMS_BY_URGENCY[:1] if crit_only else STREAMS_BY_URGENCY:
            run = self._take(stream, bytes_max, records_max)
            if run is not None:
                return run
        return None

    def _take(self, stream: Stream, bytes_max: int, records_max: int) -> Run | None:
        progress = self._progress[stream]
        room = self._credit - self._in_flight_bytes
        taken: list[Held] = []
        size = 0
        cursor, reached = progress.cursor, progress.reached
        while len(taken) < records_max:
            held = self._log.held_after(stream, cursor)
            if held is None or (taken and size + held.size > bytes_max):
                break
            alone = not taken and self._in_flight_bytes == 0 and self._credit > 0
            if size + held.size > room and not alone:
                break
            assert held.first <= cursor + 1, "a spool holds every number, as data or in a gap"
            taken.append(held)
            size += held.size
            cursor = held.last
            progress.in_flight.append((held.last, held.size))
        if not taken:
            return None
        again = taken[0].last <= reached
        progress.cursor = cursor
        progress.reached = max(reached, cursor)
        self._in_flight_bytes += size
        return Run(stream, tuple(taken), again)


def _busy_end(busy: Busy) -> End:
    return End(EndReason.BUSY, "the collector takes no more sessions now", busy.retry_after_ms)
