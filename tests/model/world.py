"""The whole house with one agent, on a disk and a network that fail: real protocol, real spool on a simulated disk,
the real watermarks over a store that takes a transaction or does not.

`World(seed, mutations)` plays one random history: appends, syncs in a thread that is overtaken, handshakes, frames
that are lost, repeated and reordered, a collector whose commits fail and which is restored from a backup, an agent
that is killed, whose power goes, which is rolled back to a snapshot, or which meets its own clone. Then everything
heals, everything is delivered, and the books must balance:

- I1 every record that was durable is at the collector, or inside a gap there;
- I2 no record is there twice; I3 each is what was appended under that number;
- I4 what is acknowledged was committed before; I5 a watermark falls only with a restore; I6 nothing is missing
  below it, and nothing is beyond it;
- I7 no critical record was dropped, and none whose producer was told ok is missing;
- I8 every gap has its true reason and its exact count;
- I9 the disk holds no more than it may; I10 with everything healed, everything gets through.

A mutation breaks one rule on purpose: some history must then fail the books. What the memory spool does under the
same protocol is tested in tests/protocol.
"""

import copy
import errno
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from watchbill.clock import ManualClock
from watchbill.codec import number
from watchbill.limits import CREDIT_BYTES_DEFAULT
from watchbill.protocol.accounting import samples_beyond
from watchbill.protocol.client import Client, Fork, MarkLost, Phase, Release, Rewind
from watchbill.protocol.frames import (
    Ack,
    Down,
    GapReason,
    Hello,
    Nack,
    Settings,
    Stream,
    StreamMark,
    Welcome,
)
from watchbill.protocol.server import SPOOL_CLOSED, Ledger, Verdict, Watermark, ack_of, fault_of, greet
from watchbill_agent.spool import DiskSpool, Draft, Record, SimulatedFilesystem, Sizes, SpoolFull
from watchbill_agent.spool.lane import Lane, LaneJob

BULK, CRIT = Stream.BULK, Stream.CRIT
ROOT = Path("/spool")
AGENT = b"a" * 16
SIZES = Sizes(bytes_max=64 * 1024, crit_bytes=64 * 1024)
SEGMENT_BYTES = 16 * 1024
SLACK_BYTES = 2 * SEGMENT_BYTES
"""The disk may hold this much more than the cap: a segment that grows, and one that leaves after the next sync."""
CREDIT_BYTES = 40_000
SMALL_DISK_BYTES = 150_000

MODES = ("calm", "crashes", "restores", "rollbacks", "clones", "bad disk", "full disk")
MUTATIONS = {
    "ack before commit": "crashes",
    "send what is not synced": "crashes",
    "two transactions": "crashes",
    "delete on send": "calm",
    "no digest": "rollbacks",
    "no rewind gap": "restores",
    "accept holes": "calm",
    "no retired spools": "rollbacks",
    "no second key": "rollbacks",
    "drop without a gap": "calm",
    "miscount": "calm",
    "sync does nothing": "crashes",
    "directories are not synced": "crashes",
    "sync the same file again": "bad disk",
    "critical records make room": "calm",
    "numbers begin anew": "crashes",
    "gaps carry no digest": "rollbacks",
}
"""Each with the weather in which it shows soonest."""

Key = tuple[bytes, Stream, int]
Packet = tuple[int, bytes, Stream, Sequence[Record]]


class Broken(AssertionError):
    """The books do not balance."""


def must(truth: object, words: str) -> None:
    """One invariant."""
    if not truth:
        raise Broken(words)


@dataclass
class Store:
    """What the collector has committed."""

    rows: dict[Key, bytes] = field(default_factory=dict)
    uids: set[int] = field(default_factory=set)
    gaps: dict[Key, GapReason] = field(default_factory=dict)
    marks: dict[tuple[bytes, Stream], StreamMark] = field(default_factory=dict)
    told: list[tuple[Key, int, int | None]] = field(default_factory=list)
    """Of every overflow: where it begins, its last number, the samples it tells."""
    unknown_tails: set[tuple[bytes, Stream]] = field(default_factory=set)


class Collector:
    """The real ledger over a store that takes a transaction or does not."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.store = Store()
        self.sessions = 0
        self.start()

    def start(self) -> None:
        self.ledger = Ledger("agent")
        for (spool_id, _), mark in self.store.marks.items():
            self.ledger.restore(spool_id, mark)
        self.session = 0
        self.spool_id = b""
        self.pending = Store()
        self.touched: dict[Watermark, None] = {}

    def greet(self, hello: Hello) -> Welcome:
        must(fault_of(hello) is None, f"a Hello that no collector takes: {fault_of(hello)}")
        if self.ledger.unsettled(hello.spool_id):
            # What an earlier session of this spool sent is being committed: Hello waits for it.
            self.commit(succeeds=self.world.rng.random() < 0.8)
        greeting = greet(self.ledger, hello)
        for closed in greeting.closed:
            key = (closed.spool_id, closed.stream)
            if closed.reason is GapReason.TAIL_UNKNOWN:
                self.pending.unknown_tails.add(key)
                named = self.world.retired.get(key, -1)
                must(
                    closed.first > named + 1,
                    f"I8: the end of {key} was named, {named}, and is called unknown",
                )
            for seq in range(closed.first, closed.last + 1):
                self.pending.gaps[closed.spool_id, closed.stream, seq] = closed.reason
        self.touched |= dict.fromkeys(greeting.touched)
        self.sessions += 1
        self.session, self.spool_id = self.sessions, hello.spool_id
        return Welcome(self.session, 0, greeting.marks, Settings(credit_bytes=CREDIT_BYTES))

    def receive(self, packet: Packet) -> Nack | None:
        session, spool_id, stream, records = packet
        if session != self.session:
            return None
        must(spool_id == self.spool_id, "a frame of this session and of another spool")
        mark = self.ledger.watermark(spool_id, stream)
        for record in records:
            first = max(record.first, mark.accepted + 1)
            told = record.digest if record.gap and "gaps carry no digest" not in self.world.mutations else 0
            verdict = mark.offer(record.first, record.last, b"" if record.gap else record.content, told)
            if verdict is Verdict.HOLE and "accept holes" in self.world.mutations:
                mark.accepted, mark.record = record.last, b"" if record.gap else record.content
                first, verdict = record.first, Verdict.ACCEPT
            if verdict is Verdict.HOLE:
                return Nack(stream, mark.accepted + 1)
            if verdict is Verdict.ACCEPT:
                self.touched[mark] = None
                self.take(spool_id, stream, first, record)
        return None

    def take(self, spool_id: bytes, stream: Stream, first: int, record: Record) -> None:
        if record.gap is None:
            uid = uid_of(record.content)
            known = uid in self.store.uids or uid in self.pending.uids
            if not known or "no second key" in self.world.mutations:
                self.pending.rows[spool_id, stream, record.first] = record.content
            self.pending.uids.add(uid)
            return
        for seq in range(first, record.last + 1):
            self.pending.gaps[spool_id, stream, seq] = record.gap
        if record.gap is GapReason.OVERFLOW:
            told = samples_beyond(record.parts, record.samples, first - record.first)
            self.pending.told.append(((spool_id, stream, first), record.last, told))

    def commit(self, *, succeeds: bool, crit_succeeds: bool = True) -> Ack | None:
        """Two transactions, as the collector has two stores: samples with all gaps, then critical records. The second
        goes its own way, unless there are gaps in its stream that the first could not store."""
        early = self.ack(accepted=True) if "ack before commit" in self.world.mutations else None
        gaps_of_crit = any(stream is CRIT for _, stream, _ in self.pending.gaps)
        crit_succeeds = crit_succeeds and (succeeds or not gaps_of_crit)
        if not succeeds and "two transactions" in self.world.mutations:
            self.store.rows |= self.pending.rows
            self.store.uids |= self.pending.uids
        streams = [stream for stream, kept in ((BULK, succeeds), (CRIT, crit_succeeds)) if kept]
        for stream in streams:
            self.keep(stream)
        for mark in self.touched:
            if mark.stream in streams:
                done = mark.pending()
                before = self.store.marks.get((mark.spool_id, mark.stream))
                must(before is None or done.committed >= before.committed, "I5: a watermark fell")
                self.store.marks[mark.spool_id, mark.stream] = done
                mark.commit(done)
        if len(streams) < len(Stream):
            self.ledger.forget()
        self.pending, self.touched = Store(), {}
        return early or (self.ack() if len(streams) == len(Stream) else None)

    def keep(self, stream: Stream) -> None:
        """What the transaction of a stream stores, beside its watermarks."""
        rows = {key: content for key, content in self.pending.rows.items() if key[1] is stream}
        for key in rows:
            must(key not in self.store.rows, f"I2: {key} is stored twice")
            must(key not in self.store.gaps, f"I2: {key} is stored over a gap")
        self.store.rows |= rows
        self.store.uids |= {uid for uid in self.pending.uids if self.world.stream_of[uid] is stream}
        if stream is BULK:
            for key in self.pending.gaps:
                must(key not in self.store.rows, f"I2: a gap over {key}, which is there")
            self.store.gaps |= self.pending.gaps
            self.store.told += self.pending.told
            self.store.unknown_tails |= self.pending.unknown_tails

    def ack(self, *, accepted: bool = False) -> Ack | None:
        if not self.session:
            return None
        marks = [self.ledger.watermark(self.spool_id, stream) for stream in Stream]
        if accepted:
            return Ack(tuple(mark.pending() for mark in marks if mark.accepted), CREDIT_BYTES)
        return ack_of(marks, CREDIT_BYTES, 0)


def uid_of(content: bytes) -> int:
    """Which record of the world it is."""
    at = content.index(b"\x12\x00") + 2
    return int.from_bytes(content[at : at + 4])


class MutantLane(Lane):
    """A stream that breaks one rule."""

    mutations: frozenset[str] = frozenset()

    @property
    def sendable(self) -> int:
        return self.last if "send what is not synced" in self.mutations else super().sendable

    def _put_gap(self, gap: Record) -> None:
        if "drop without a gap" not in self.mutations or gap.gap is not GapReason.OVERFLOW:
            super()._put_gap(gap)

    def _overflow(self, row: list[Record]) -> Record:
        gap = super()._overflow(row)
        if "miscount" in self.mutations:
            from watchbill.codec import GapBody
            from watchbill_agent.spool.records import gap_record

            times = (gap.first_boottime_ms, gap.last_boottime_ms)
            return gap_record(gap.first, gap.last, GapBody(GapReason.OVERFLOW, gap.samples + 1, *times))
        return gap

    def begin_sync(self) -> LaneJob | None:
        job = super().begin_sync()
        if job is not None and "sync does nothing" in self.mutations:
            job.handles, job.names_changed = [], False
        if job is not None and "directories are not synced" in self.mutations:
            job.names_changed = False
        return job

    def _sync_failed(self, job: LaneJob) -> None:
        if "sync the same file again" in self.mutations:
            self.files.names_changed = job.names_changed
            self.files.leaving = job.leaving + self.files.leaving
            self.files.note_due = True
            return
        super()._sync_failed(job)

    def _keep_the_bound(self) -> None:
        super()._keep_the_bound()
        if "critical records make room" in self.mutations and self.stream is CRIT and len(self.segments) > 1:
            self._drop_oldest()


class World:
    """One history."""

    def __init__(self, seed: int, mode: str, mutations: Sequence[str] = ()) -> None:
        self.rng = random.Random(f"{mode} {seed}")
        self.mode = mode
        self.mutations = frozenset(mutations)
        self.clock = ManualClock()
        self.ids = 0
        self.uid = 0
        self.bodies: dict[int, bytes] = {}
        self.samples: dict[int, int] = {}
        self.stream_of: dict[int, Stream] = {}
        self.keys: dict[int, set[Key]] = {}
        self.uid_at: dict[Key, int] = {}
        """What this machine put under a number: its clone may have put something else there."""
        self.other_uid_at: dict[Key, int] = {}
        self.durable: set[int] = set()
        self.promised: set[int] = set()
        self.given_up: set[int] = set()
        self.dropped: set[Key] = set()
        self.acked: set[int] = set()
        self.crashed = self.restored = self.rolled_back = False
        self.up: list[Packet] = []
        self.down: list[tuple[int, Down]] = []
        self.names: set[bytes] = set()
        self.called = b""
        self.retired: dict[tuple[bytes, Stream], int] = {}
        self.jobs: list[tuple[Stream, LaneJob]] | None = None
        self.faulty = False
        self.disk = self.new_disk()
        self.snapshot: SimulatedFilesystem | None = None
        self.other: SimulatedFilesystem | None = None
        self.collector = Collector(self)
        self.backup = copy.deepcopy(self.collector.store)
        self.open()

    def new_disk(self) -> SimulatedFilesystem:
        return SimulatedFilesystem(SMALL_DISK_BYTES if self.mode == "full disk" else 1 << 30)

    # ------------------------------------------------------------ the agent's process

    def new_id(self) -> bytes:
        self.ids += 1
        return self.ids.to_bytes(16)

    def open(self) -> None:
        self.disk.before = self.fault
        healthy, self.faulty = self.faulty, False
        self.spool = DiskSpool(
            ROOT,
            AGENT,
            sizes=SIZES,
            filesystem=self.disk,
            clock=self.clock,
            boot_id=b"b" * 16,
            new_id=self.new_id,
        )
        self.faulty = healthy
        for stream, lane in self.spool._lanes.items():
            lane.__class__ = MutantLane
            lane.mutations = self.mutations  # type: ignore[attr-defined]
            if "numbers begin anew" in self.mutations and self.crashed and stream is BULK and lane.last > 2:
                lane.last -= 1
                lane.durable = min(lane.durable, lane.last)
        self.client = Client(self.spool)
        self.jobs = None
        if self.spool.held_before:
            self.notice(GapReason.RESTART)
        if self.spool.spool_id != self.called:
            # No note was durable, and what is retained goes on under a new name; or the note of a fork was not, and it
            # goes on under the old one.
            self.called = self.spool.spool_id
            self.names.add(self.spool.spool_id)
            for stream in Stream:
                for record in self.held(stream):
                    if record.gap is None:
                        self.name(uid_of(record.content), (self.spool.spool_id, stream, record.first))
        self.look()
        if self.spool.held_before:
            self.append(CRIT)  # That it began.

    def notice(self, reason: GapReason) -> None:
        """The agent says that nothing ran."""
        self.clock.advance(0.01)
        seq = self.spool.notice(reason, 0, self.clock.boottime_ms())
        # Before a power cut a record may have had this number.
        self.uid_at.pop((self.spool.spool_id, BULK, seq), None)

    def held(self, stream: Stream) -> list[Record]:
        """What the spool holds beyond what is acknowledged."""
        found: list[Record] = []
        seq = self.spool.state(stream).acked
        while (record := self.spool.held_after(stream, seq)) is not None:
            found.append(record)
            seq = record.last
        return found

    def fault(self, operation: str, _path: Path) -> None:
        if self.faulty and operation in ("write", "sync", "create", "rename") and self.rng.random() < 0.1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def look(self) -> None:
        """Note what the spool holds now: which numbers are which records, which are durable, which are lost."""
        spool_id = self.spool.spool_id
        for stream, lane in self.spool._lanes.items():
            for gap in [*lane.gaps, *(one.record for one in lane.tail if one.record.gap is not None)]:
                if gap.gap is GapReason.OVERFLOW:
                    self.dropped |= {(spool_id, stream, seq) for seq in range(gap.first, gap.last + 1)}

    def append(self, stream: Stream) -> None:
        self.uid += 1
        uid = self.uid
        size = self.rng.choice([500, 4_000]) if stream is CRIT else self.rng.choice([1_000, 4_000, 5_000])
        body = b"\x12\x00" + uid.to_bytes(4) + bytes(size)
        samples = 1 + uid % 3
        self.clock.advance(0.01)
        now_ms = self.clock.boottime_ms()
        try:
            seq = self.spool.append(stream, Draft(body, samples, now_ms, now_ms))
        except SpoolFull:
            must(stream is CRIT, "a bulk record was refused")
            return
        self.bodies[uid], self.samples[uid], self.stream_of[uid] = body, samples, stream
        self.keys[uid] = set()
        self.name(uid, (self.spool.spool_id, stream, seq))
        self.look()

    def name(self, uid: int, key: Key) -> None:
        self.keys[uid].add(key)
        self.uid_at[key] = uid

    def settle_durable(self) -> None:
        """What is durable now has to be accounted for, whatever happens."""
        for stream, lane in self.spool._lanes.items():
            seq = lane.acked
            while not lane.failing and (record := lane.after(seq)) is not None:
                if record.gap is None:  # What a power cut took before it was durable is a gap by now.
                    self.durable.add(uid_of(record.content))
                    if stream is CRIT:
                        self.promised.add(uid_of(record.content))
                seq = record.last

    # ------------------------------------------------------------ syncing

    def begin_sync(self) -> None:
        if self.jobs is None:
            self.jobs = self.spool.begin_sync()

    def end_sync(self) -> None:
        if self.jobs is not None:
            for _, job in self.jobs:
                job.run()
            jobs, self.jobs = self.jobs, None
            self.spool.end_sync(jobs)
            self.settle_durable()

    def sync(self) -> None:
        self.end_sync()
        self.spool.sync()
        self.settle_durable()

    # ------------------------------------------------------------ the session

    def connect(self, *, answered: bool = True) -> None:
        self.sync()
        streams = self.client.hello()
        retired = () if "no retired spools" in self.mutations else self.spool.retired
        hello = Hello("1", self.spool.spool_id, b"r" * 16, "boot", streams, 0, 0, retired)
        welcome = self.collector.greet(hello)
        if not answered:
            self.client.lost()
            return
        self.give_up_what_nobody_can_tell(welcome)
        self.obey(welcome, 0)

    def give_up_what_nobody_can_tell(self, welcome: Welcome) -> None:
        """Outside the promise: a machine was rolled back, and of the very record that the collector has as its newest
        a power cut left nothing to compare. This spool is then taken for the one that the collector knows."""
        for mark in welcome.marks:
            held = self.spool.held_after(mark.stream, mark.committed - 1)
            if self.rolled_back and held is not None and held.gap is GapReason.CORRUPT:
                spool = (self.spool.spool_id, mark.stream)
                for seq in range(1, mark.committed + 1):
                    self.given_up |= {uid for uid, keys in self.keys.items() if (*spool, seq) in keys}

    def obey(self, frame: Down, session: int) -> None:
        frame = self.checked(frame, session)
        for order in self.client.receive(frame, session):
            if isinstance(order, Fork):
                self.fork(order)
            elif isinstance(order, MarkLost) and "no rewind gap" in self.mutations:
                continue
            elif isinstance(order, Release | Rewind | MarkLost):
                if isinstance(order, Release):
                    spool_id = self.spool.spool_id
                    acked = range(1, order.through + 1)
                    self.acked |= {self.uid_at.get((spool_id, order.stream, seq), 0) for seq in acked}
                self.spool.obey(order)
        self.look()

    def checked(self, frame: Down, session: int) -> Down:
        if isinstance(frame, Ack | Welcome):
            if session in (0, self.collector.session) and not self.restored:
                for mark in frame.marks:
                    known = self.collector.store.marks.get((self.collector.spool_id, mark.stream))
                    must(
                        mark.committed <= (known.committed if known else 0),
                        "I4: acknowledged before the commit",
                    )
            if "no digest" in self.mutations:
                marks = tuple(StreamMark(mark.stream, mark.committed) for mark in frame.marks)
                if isinstance(frame, Ack):
                    return Ack(marks, frame.credit_bytes)
                return Welcome(frame.session, 0, marks, frame.settings)
        return frame

    def fork(self, order: Fork) -> None:
        before = self.spool.spool_id
        shifts = {stream: self.spool.state(stream).acked for stream in Stream}
        lasts = {stream: self.spool.last(stream) for stream in Stream}
        here = {
            (stream, record.first): uid_of(record.content)
            for stream in Stream
            for record in self.held(stream)
            if record.gap is None
        }
        self.retired |= {(one.spool_id, one.stream): one.last_seq for one in order.retired}
        self.spool.obey(order)
        after = self.called = self.spool.spool_id
        self.names.add(after)
        for stream, shift in shifts.items():
            for seq in range(shift + 1, lasts[stream] + 1):
                uid = here.get((stream, seq), self.uid_at.get((before, stream, seq)))
                if uid is not None:
                    self.name(uid, (after, stream, seq - shift))
                if (before, stream, seq) in self.dropped:
                    self.dropped.add((after, stream, seq - shift))
        self.append(CRIT)  # That it forked.

    def send(self) -> None:
        if self.client.phase is not Phase.OPEN:
            return
        run = self.client.take(records_max=self.rng.randint(1, 6))
        if run is None:
            return
        self.spool.sent(run.stream, run.held[-1].last)
        records = [record for record in run.held if isinstance(record, Record)]
        self.up.append((self.client.session, self.spool.spool_id, run.stream, records))
        if "delete on send" in self.mutations:
            self.spool.obey(Release(run.stream, run.held[-1].last, records[-1].digest))

    def deliver_up(self) -> None:
        if self.up:
            at = self.rng.randrange(min(4, len(self.up)))
            packet = self.up[at] if self.rng.random() < 0.2 else self.up.pop(at)
            answer = self.collector.receive(packet)
            if answer is not None:
                self.down.append((self.collector.session, answer))

    def deliver_down(self) -> None:
        if self.down:
            at = self.rng.randrange(min(4, len(self.down)))
            session, frame = self.down[at] if self.rng.random() < 0.2 else self.down.pop(at)
            self.obey(frame, session)

    def lose(self) -> None:
        for queue in (self.up, self.down):
            if queue and self.rng.random() < 0.7:
                queue.pop(self.rng.randrange(len(queue)))

    def commit(self, *, succeeds: bool, crit_succeeds: bool = True) -> None:
        session = self.collector.session
        ack = self.collector.commit(succeeds=succeeds, crit_succeeds=crit_succeeds)
        if ack is not None:
            self.down.append((session, ack))

    def exchange(self) -> None:
        """A stretch of good weather."""
        for _ in range(3):
            self.send()
        while self.up:
            self.collector.receive(self.up.pop(0))
        self.commit(succeeds=True)
        if self.down and self.rng.random() < 0.8:
            session, frame = self.down.pop()
            self.obey(frame, session)

    # ------------------------------------------------------------ disasters

    def kill(self) -> None:
        self.crashed = True
        if self.jobs is not None and self.rng.random() < 0.5:
            for _, job in self.jobs:
                job.run()
        self.disk.killed()
        self.open()

    def cut_power(self) -> None:
        self.crashed = True
        if self.jobs is not None and self.rng.random() < 0.5:
            self.jobs[0][1].run() if self.jobs else None
        self.disk.power_cut(self.rng)
        self.open()

    def roll_back(self) -> None:
        """The machine returns to a snapshot: what was appended since never was, unless the collector has it."""
        if self.snapshot is None:
            return
        self.rolled_back = self.crashed = True
        self.disk, self.snapshot = self.snapshot, None
        self.open()
        self.lost_with_the_disk()

    def sleep_and_roll_back(self) -> None:
        """The machine slept, its agent says so, and it returns to a snapshot from before: the newest that the collector
        has is a notice."""
        self.sync()
        self.snapshot = self.disk.snapshot()
        for _ in range(self.rng.randint(0, 3)):
            self.append(BULK)
        self.notice(GapReason.SUSPENDED)
        self.connect()
        for _ in range(4):
            if self.client.phase is Phase.OPEN:
                self.exchange()
        self.roll_back()
        for _ in range(self.rng.randint(0, 8)):
            self.append(BULK)

    def lost_with_the_disk(self) -> None:
        spool_id = self.spool.spool_id
        here: set[int] = set()
        for stream in Stream:
            lane = self.spool._lanes[stream]
            for seq in range(max(1, lane.first), lane.last + 1):
                record = self.spool.held_after(stream, seq - 1)
                if record is not None and record.gap is None and record.first == seq:
                    uid = uid_of(record.content)
                    here.add(uid)
                    self.uid_at[spool_id, stream, seq] = uid
        there = {uid_of(content) for content in self.collector.store.rows.values()}
        self.given_up |= set(self.bodies) - here - there

    def meet_the_clone(self) -> None:
        """Another machine with a copy of this one's disk takes its place; this one waits for its turn."""
        if self.other is None:
            self.sync()
            self.other = self.disk.snapshot()
            self.other_uid_at = dict(self.uid_at)
        self.rolled_back = self.crashed = True
        self.sync()
        self.disk.killed()
        self.disk, self.other = self.other, self.disk
        self.uid_at, self.other_uid_at = self.other_uid_at, self.uid_at
        self.open()

    def restore_the_collector(self) -> None:
        self.restored = True
        self.collector.store = copy.deepcopy(self.backup)
        self.collector.start()

    # ------------------------------------------------------------ one history

    def play(self, steps: int = 90) -> None:
        try:
            for _ in range(steps):
                self.step()
                self.check()
            self.heal()
            self.account()
        finally:
            self.disk.before = lambda *_: None

    def step(self) -> None:
        rng, x = self.rng, self.rng.random()
        self.faulty = self.mode == "bad disk" and rng.random() < 0.5
        if x < 0.30:
            for _ in range(rng.randint(1, 4)):
                self.append(rng.choice([BULK, BULK, CRIT]))
        elif x < 0.36:
            self.begin_sync()
        elif x < 0.42:
            self.end_sync()
        elif x < 0.46:
            self.sync()
        elif x < 0.52:
            self.connect(answered=rng.random() < 0.9)
        elif x < 0.60:
            self.send()
        elif x < 0.68:
            self.deliver_up()
        elif x < 0.74:
            self.commit(succeeds=rng.random() < 0.7, crit_succeeds=rng.random() < 0.8)
        elif x < 0.80:
            self.deliver_down()
        elif x < 0.83:
            self.lose()
        elif x < 0.90:
            if self.client.phase is Phase.OPEN:
                self.exchange()
        elif x < 0.91:
            self.client.go_back()
        elif x < 0.93:
            self.collector.start()
        elif self.mode != "calm":
            self.disaster()

    def disaster(self) -> None:
        rng = self.rng
        if self.mode == "restores" and rng.random() < 0.6:
            if rng.random() < 0.5:
                self.backup = copy.deepcopy(self.collector.store)
            else:
                self.restore_the_collector()
        elif self.mode == "rollbacks" and rng.random() < 0.6:
            if rng.random() < 0.5:
                self.sync()
                self.snapshot = self.disk.snapshot()
            elif rng.random() < 0.5:
                self.roll_back()
            else:
                self.sleep_and_roll_back()
        elif self.mode == "clones" and rng.random() < 0.6:
            self.meet_the_clone()
        elif rng.random() < 0.5:
            self.kill()
        else:
            self.cut_power()

    def heal(self) -> None:
        """Good weather, until everything is delivered; of two clones, one after the other."""
        self.faulty = False
        self.disk.capacity = 1 << 30
        turns = 3 if self.other is not None else 1
        for turn in range(turns):
            if turn:
                self.meet_the_clone()
                self.disk.capacity = 1 << 30
            for _ in range(8):
                self.up.clear()
                self.down.clear()
                self.connect()
                for _ in range(60):
                    if self.client.phase is not Phase.OPEN:
                        break
                    self.send()
                    while self.up:
                        self.collector.receive(self.up.pop(0))
                    ack = self.collector.commit(succeeds=True)
                    if ack is not None:
                        self.obey(ack, self.collector.session)
            self.check()
            for stream in Stream:
                state = self.spool.state(stream)
                must(state.acked == self.spool.last(stream), f"I10: {stream.name} stands at {state.acked}")

    # ------------------------------------------------------------ the books

    def check(self) -> None:
        """What must hold at any moment."""
        store = self.collector.store
        for key, content in store.rows.items():
            uid = uid_of(content)
            must(content == number(key[2], self.bodies[uid]), f"I3: {key} has another content")
            must(key in self.keys[uid], f"I3: {key} was never appended there")
            mark = store.marks.get(key[:2])
            must(mark is not None and key[2] <= mark.committed, f"I6: {key} lies beyond its watermark")
        used = self.disk.used(ROOT / "bulk")
        # What a sync failed for is there twice until the next one succeeds.
        slack = SIZES.bytes_max if self.mode == "bad disk" else SLACK_BYTES
        must(used <= SIZES.bytes_max + slack, f"I9: {used} bytes on the disk")
        for (_, stream, _), reason in store.gaps.items():
            must(stream is BULK or reason is not GapReason.OVERFLOW, "I7: a critical record was dropped")

    def no_holes(self) -> None:
        store = self.collector.store
        stored_elsewhere = {key for uid in store.uids for key in self.keys[uid]}
        for (spool_id, stream), mark in store.marks.items():
            if mark.committed == SPOOL_CLOSED:
                continue
            for seq in range(1, mark.committed + 1):
                key = (spool_id, stream, seq)
                known = key in store.rows or key in store.gaps or key in stored_elsewhere
                must(known, f"I6: nothing is known of {key}")

    def account(self) -> None:
        """What must hold in the end."""
        store = self.collector.store
        self.no_holes()
        there = [uid_of(content) for content in store.rows.values()]
        must(len(there) == len(set(there)), "I2: a record is there twice")
        found = set(there)
        for uid in self.durable - found - self.given_up:
            self.explain(uid)
        for uid in self.promised - found - self.given_up:
            must(self.restored or self.rolled_back, f"I7: critical record {uid} is missing")
        for key, reason in store.gaps.items():
            self.explain_gap(key, reason)
        for key, last, told in store.told:
            self.recount(key, last, told)
        if not self.rolled_back and not self.restored and self.mode not in ("bad disk", "full disk"):
            must(not store.unknown_tails, "I8: a tail is unknown though the spool went on")

    def explain(self, uid: int) -> None:
        reasons = {
            self.collector.store.gaps[key] for key in self.keys[uid] if key in self.collector.store.gaps
        }
        must(reasons, f"I1: record {uid}, {self.stream_of[uid].name}, is missing without a word")

    def explain_gap(self, key: Key, reason: GapReason) -> None:
        if reason in (GapReason.RESTART, GapReason.SUSPENDED):
            must(key[1] is BULK and self.crashed, f"I8: {key}: the agent never began anew, nor slept")
        elif reason is GapReason.OVERFLOW:
            must(key in self.dropped or self.restored, f"I8: {key} is said to have been dropped, and was not")
        elif reason is GapReason.COLLECTOR_REWIND:
            must(self.restored, f"I8: {key}: the collector was never rewound")
        elif reason is GapReason.CORRUPT:
            # A machine that was rolled back, and each of two clones, put something else there: one may have lost its
            # own, while another delivered it.
            uids = [uid for uid, keys in self.keys.items() if key in keys]
            lost_power = self.crashed and not self.promised.issuperset(uids or [0])
            must(lost_power, f"I8: {key} is said to be damaged")
        elif reason is GapReason.SPOOL_RETIRED:
            must(self.rolled_back or self.restored, f"I8: {key}: the spool was never retired")
        else:
            raise Broken(f"I8: {key} has the reason {reason.name}")

    def recount(self, key: Key, last: int, told: int | None) -> None:
        if self.restored or self.rolled_back:
            return  # Two histories of one spool meet under the same numbers.
        if not told:
            must(
                self.crashed or self.mode in ("bad disk", "full disk"),
                f"I8: {key} tells no number of samples",
            )
            return
        lost = [self.samples.get(self.uid_at.get((*key[:2], seq), 0), 0) for seq in range(key[2], last + 1)]
        must(told == sum(lost), f"I8: {told} samples told for {key}..{last}, {sum(lost)} lost")


assert CREDIT_BYTES < CREDIT_BYTES_DEFAULT
