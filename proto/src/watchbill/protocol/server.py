"""The collector's end of the delivery protocol.

One `Ledger` per agent, shared by all its sessions while the process lives, knows for every spool and stream
what is committed and what is *accepted*: on its way to the disk. A record is accepted once, whatever the
sessions; it is acknowledged when its commit is done. When a commit fails, everything accepted and not
committed is forgotten at once, and the agent sends it again: nothing was promised.

`greet` answers a Hello: the watermarks for the Welcome, and the gap rows that close the agent's older spools,
whose records can no longer come.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum

from watchbill.protocol.frames import (
    NO_DIGEST,
    PROTOCOL_VERSION,
    RUN_ID_BYTES,
    SEQ_MAX,
    SPOOL_ID_BYTES,
    Ack,
    AuditHead,
    EndReason,
    GapReason,
    Hello,
    RetiredSpool,
    Stream,
    StreamMark,
    digest_of,
)

SPOOL_CLOSED = 2**63 - 1
"""The watermark of a spool that will never be used again. An agent that comes back with it (a restored disk)
sees a number that it never reached, and forks."""

CLOSED_SPOOLS_KEPT = 64
"""Closed spools remembered of one agent, so that one that comes back (a restored disk) has to fork. An older one
would be taken for new: its agent says then that the collector was rewound, and sends again what it retains."""

RETIRED_MAX = 64
"""Retired spools believed in one Hello."""


class Verdict(Enum):
    """What becomes of a record that arrives."""

    ACCEPT = "accept"
    DUPLICATE = "duplicate"
    HOLE = "hole"


class Watermark:
    """How far one stream of one spool has come. `accepted >= committed`, and equal when nothing is on its
    way."""

    __slots__ = ("accepted", "closed_ms", "committed", "digest", "record", "spool_id", "stream", "told")

    def __init__(self, spool_id: bytes, stream: Stream, committed: int = 0, digest: int = NO_DIGEST) -> None:
        self.spool_id = spool_id
        self.stream = stream
        self.committed = committed
        self.digest = digest
        self.accepted = committed
        self.record = b""
        self.told = NO_DIGEST
        # Nothing compares the digest of a closed spool: its place tells when it was closed, UTC ms.
        self.closed_ms = digest if committed == SPOOL_CLOSED else 0

    @property
    def closed(self) -> bool:
        """Whether the spool is closed, or will be when the present commit is done."""
        return self.accepted == SPOOL_CLOSED

    def offer(self, first: int, last: int, record: bytes, told: int = NO_DIGEST) -> Verdict:
        """Judge a record that covers `first`..`last`, and take it if it continues the stream.

        `record` is its bytes, empty for a gap, which tells its digest. A gap may begin before what is accepted: only
        its rest is new.
        """
        accepted = self.accepted
        if last <= accepted:
            return Verdict.DUPLICATE
        if first > accepted + 1:
            return Verdict.HOLE
        self.accepted = last
        self.record = record
        self.told = told
        return Verdict.ACCEPT

    def close(self, now_ms: int) -> None:
        """Take nothing more for this spool, ever."""
        self.accepted = SPOOL_CLOSED
        self.record = b""
        self.closed_ms = now_ms

    def pending(self) -> StreamMark:
        """What the transaction that is about to begin has to store."""
        if self.accepted == self.committed:
            return StreamMark(self.stream, self.committed, self.digest)
        if self.closed:
            return StreamMark(self.stream, self.accepted, self.closed_ms)
        digest = digest_of(self.record) if self.record else self.told
        return StreamMark(self.stream, self.accepted, digest)

    def commit(self, mark: StreamMark) -> None:
        """The transaction that stored `mark` is durable."""
        assert self.committed <= mark.committed <= self.accepted
        self.committed = mark.committed
        self.digest = mark.digest
        if self.accepted == self.committed:
            self.record = b""  # The bytes were kept for the digest alone.

    def forget(self) -> None:
        """The transaction failed: what was accepted is not ours."""
        self.accepted = self.committed
        self.record = b""

    def mark(self) -> StreamMark:
        """What is committed: for Welcome and Ack."""
        return StreamMark(self.stream, self.committed, self.digest)


@dataclass(frozen=True, slots=True)
class Closed:
    """An older spool that was closed: its records `first`..`last` are missing for good.

    With TAIL_UNKNOWN nobody knows how many there were: `last` is `first - 1`.
    """

    spool_id: bytes
    stream: Stream
    first: int
    last: int
    reason: GapReason

    @property
    def count(self) -> int:
        """Records known to be lost."""
        return self.last - self.first + 1


class Ledger:
    """Everything known about the deliveries of one agent."""

    __slots__ = ("_watermarks", "agent_id")

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self._watermarks: dict[tuple[bytes, Stream], Watermark] = {}

    def restore(self, spool_id: bytes, mark: StreamMark) -> None:
        """A watermark that was committed before this process began."""
        key = (spool_id, mark.stream)
        self._watermarks[key] = Watermark(spool_id, mark.stream, mark.committed, mark.digest)

    def watermark(self, spool_id: bytes, stream: Stream) -> Watermark:
        """The watermark of a stream, made at zero on first sight."""
        key = (spool_id, stream)
        found = self._watermarks.get(key)
        if found is None:
            found = self._watermarks[key] = Watermark(spool_id, stream)
        return found

    def open_spools(self) -> set[bytes]:
        """Spools that records may still come from."""
        return {spool_id for (spool_id, _), watermark in self._watermarks.items() if not watermark.closed}

    def unsettled(self, spool_id: bytes) -> bool:
        """Whether something of that spool is accepted and not committed yet. A Hello has to wait for it: of a spool
        that was rolled back, the Welcome would else name the last record that both ends agree on, while the one
        after it, which only this end has, already takes the place of the agent's."""
        return any(
            one.spool_id == spool_id and one.accepted != one.committed for one in self._watermarks.values()
        )

    def knows(self, spool_id: bytes) -> bool:
        """Whether anything of that spool has been seen."""
        return any(known == spool_id for known, _ in self._watermarks)

    def delivered(self) -> bool:
        """Whether anything was ever committed."""
        return any(watermark.committed for watermark in self._watermarks.values())

    def forget_closed(self, named: AbstractSet[bytes]) -> list[Watermark]:
        """Forget the spools that were closed longest ago, all but CLOSED_SPOOLS_KEPT; answers what is to be
        forgotten on disk as well. `named` are spools that the agent still speaks of: forgotten, they would be
        taken for spools that never arrived.
        """
        closed = {
            watermark.spool_id: watermark.closed_ms
            for watermark in self._watermarks.values()
            if watermark.committed == SPOOL_CLOSED
        }
        surplus = len(closed) - CLOSED_SPOOLS_KEPT
        if surplus <= 0:
            return []
        gone = set(sorted(closed, key=lambda spool_id: closed[spool_id])[:surplus]) - named
        keys = [key for key in self._watermarks if key[0] in gone]
        return [self._watermarks.pop(key) for key in keys]

    def watermarks(self) -> Iterable[Watermark]:
        """All of them."""
        return self._watermarks.values()

    def forget(self) -> None:
        """A commit failed: forget everything that was only accepted."""
        for watermark in self._watermarks.values():
            watermark.forget()


@dataclass(frozen=True, slots=True)
class Greeting:
    """The answer to a Hello: marks for the Welcome, spools closed by it, and whether this is the agent's
    first spool here, so that nothing can be missing before it."""

    marks: tuple[StreamMark, ...]
    closed: tuple[Closed, ...]
    touched: tuple[Watermark, ...]
    first_contact: bool


def fault_of(hello: Hello) -> tuple[EndReason, str] | None:
    """What is wrong with a Hello as it stands, if anything: the reason to refuse it, and words for people."""
    if hello.protocol != PROTOCOL_VERSION:
        return EndReason.VERSION, f"protocol {hello.protocol} is not spoken here, {PROTOCOL_VERSION} is"
    if len(hello.spool_id) != SPOOL_ID_BYTES or len(hello.run_id) != RUN_ID_BYTES:
        return EndReason.PROTOCOL, "spool_id and run_id have 16 bytes"
    if len({state.stream for state in hello.streams}) != len(hello.streams):
        return EndReason.PROTOCOL, "a stream is named twice"
    for state in hello.streams:
        if not (0 <= state.acked <= state.last_durable < SEQ_MAX):
            return EndReason.PROTOCOL, "a stream's acked lies beyond its last_durable"
        if not (1 <= state.first_retained <= state.last_durable + 1):
            return EndReason.PROTOCOL, "a stream's first_retained lies outside it"
    if len(hello.retired) > RETIRED_MAX:
        return EndReason.PROTOCOL, f"more than {RETIRED_MAX} retired spools"
    for retired in hello.retired:
        if len(retired.spool_id) != SPOOL_ID_BYTES or not 0 <= retired.last_seq < SEQ_MAX:
            return EndReason.PROTOCOL, "a retired spool that cannot be"
        if retired.spool_id == hello.spool_id:
            return EndReason.PROTOCOL, "the present spool is named as retired"
    return None


def greet(ledger: Ledger, hello: Hello, now_ms: int = 0) -> Greeting:
    """Answer a Hello that has no fault: close what is over, and say how far each stream has come.

    The ledger is changed as if the closing were committed; hand `closed` and `touched` to the same
    transaction, and on its failure `Ledger.forget` undoes it.
    """
    first_contact = not ledger.delivered()
    last_of = {(retired.spool_id, retired.stream): retired for retired in hello.retired}
    closed: list[Closed] = []
    touched: list[Watermark] = []
    for retired in hello.retired:
        ledger.watermark(retired.spool_id, retired.stream)
    for watermark in list(ledger.watermarks()):
        if watermark.spool_id == hello.spool_id or watermark.closed:
            continue
        gap = _closing(watermark, last_of.get((watermark.spool_id, watermark.stream)))
        if gap is not None:
            closed.append(gap)
        watermark.close(now_ms)
        touched.append(watermark)
    marks = tuple(ledger.watermark(hello.spool_id, state.stream).mark() for state in hello.streams)
    return Greeting(marks, tuple(closed), tuple(touched), first_contact)


def _closing(watermark: Watermark, retired: RetiredSpool | None) -> Closed | None:
    """The gap that closing a spool leaves; None when it ended exactly where the collector is."""
    first = watermark.accepted + 1
    if retired is None:
        if watermark.stream is Stream.CRIT and watermark.accepted == 0:
            return None  # Nothing critical was ever sent; there is no reason to suspect any.
        return Closed(watermark.spool_id, watermark.stream, first, first - 1, GapReason.TAIL_UNKNOWN)
    if watermark.accepted > retired.last_seq:
        # It was rolled back before it ended: what it numbered anew after that is not what is held here.
        return Closed(watermark.spool_id, watermark.stream, first, first - 1, GapReason.TAIL_UNKNOWN)
    if retired.last_seq < first:
        return None
    return Closed(watermark.spool_id, watermark.stream, first, retired.last_seq, GapReason.SPOOL_RETIRED)


class AckPolicy:
    """When an acknowledgement is due. One costs the collector as much as a message, so most are saved up.

    At once: the first of a session, and critical records. Otherwise after a quarter of the credit, when
    `records_max` records more are committed, or `interval_s` after the oldest unacknowledged message, whichever is
    first. Records are counted, not messages: those of a backlog hold hundreds, and its end would wait for as many
    messages of what is new.
    """

    __slots__ = ("_bytes", "_first", "_oldest_s", "_urgent", "_waits")

    def __init__(self) -> None:
        self._first = True
        self._urgent = False
        self._waits = False
        self._bytes = 0
        self._oldest_s = 0.0

    def took(self, size: int, now_s: float, *, urgent: bool = False) -> None:
        """A message of `size` bytes with something new was accepted."""
        if not self._waits:
            self._waits, self._oldest_s = True, now_s
        self._bytes += size
        self._urgent = self._urgent or urgent

    def due(self, now_s: float, records: int, credit_bytes: int, records_max: int, interval_s: float) -> bool:
        """Whether to acknowledge the `records` that have been committed since."""
        return self._waits and (
            self._first
            or self._urgent
            or records >= records_max
            or self._bytes * 4 >= credit_bytes
            or now_s - self._oldest_s >= interval_s
        )

    def oldest_s(self) -> float:
        """When the oldest unacknowledged message came; infinite when there is none."""
        return self._oldest_s if self._waits else float("inf")

    def sent(self, now_s: float, *, rest: bool) -> None:
        """The acknowledgement is on its way; `rest` when something accepted is still being committed."""
        self._first = False
        self._urgent = self._urgent and rest
        self._waits = rest
        if not rest:  # Else how many of them wait is not known: better an acknowledgement too early.
            self._bytes = 0
        self._oldest_s = now_s


def ack_of(
    watermarks: Iterable[Watermark],
    credit_bytes: int,
    server_time_ms: int,
    audit: AuditHead | None = None,
) -> Ack:
    """The cumulative acknowledgement for a session's streams."""
    marks = tuple(watermark.mark() for watermark in watermarks if watermark.committed)
    return Ack(marks, credit_bytes, server_time_ms, audit)
