"""Through when everything that a host had to say is here: it moves with what is heard, and stands still in doubt."""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from watchbill.clock import ManualClock
from watchbill.codec import GapBody, encode_batch, encode_beat, encode_event, encode_gap, encode_hello, number
from watchbill.errors import StorageError
from watchbill.protocol.frames import EndReason, GapReason, Hello, Stream, StreamState
from watchbill_collector.ingest.agents import Agent
from watchbill_collector.ingest.delivered import MARGIN_MS
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.ingest.ports import Host, MemoryAdmission, MemoryCritSink, MemorySink
from watchbill_collector.ingest.session import RecordRefused, Session
from watchbill_collector.series import SeriesTable

AGENT = "c83d89b0-e8c7-4a9f-b76b-15dd26a9c425"
SPOOL = b"s" * 16
HOUR_MS = 3_600_000


class Silent:
    """An outlet that nobody listens at."""

    def send(self, message: bytes, within_s: int = 0) -> None: ...

    def end(self, message: bytes, reason: EndReason) -> None: ...


class House:
    """Ingest in memory, with a clock that is moved by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.crit = MemoryCritSink()
        admission = MemoryAdmission([Host(AGENT, "web01")])
        self.ingest = Ingest(SeriesTable(), MemorySink(), admission, self.clock, crit=self.crit)

    def greet(self, kept: int) -> Session:
        """A session of a host that says that it has kept so many critical records."""
        session = self.ingest.connect(AGENT, Silent())
        assert session is not None
        hello = Hello(
            agent_version="1",
            spool_id=SPOOL,
            run_id=b"r" * 16,
            boot_id="boot",
            streams=(StreamState(Stream.CRIT, last_durable=kept), StreamState(Stream.BULK)),
            wall_ms=self.clock.wall_ms(),
            boottime_ms=self.clock.boottime_ms(),
        )
        self.hear(session, encode_hello(hello))
        return session

    def hear(self, session: Session, message: bytes) -> None:
        session.receive(message, self.clock.monotonic_s())

    def beat(self, session: Session) -> None:
        self.hear(session, encode_beat(self.clock.boottime_ms(), self.clock.wall_ms()))

    def event(self, session: Session, seq: int, kind: str = "k") -> None:
        event = encode_event(os.urandom(16), kind, self.clock.boottime_ms(), self.clock.wall_ms(), b"{}")
        self.hear(session, encode_batch(Stream.CRIT, [number(seq, event)]))

    def through(self) -> int | None:
        """Behind now, in ms; None while nothing can be said."""
        found = self.ingest.through_ms().get(AGENT)
        return None if found is None else self.clock.wall_ms() - found


@pytest_asyncio.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    house.crit.fail = None
    await house.ingest.close()


async def test_it_follows_what_is_heard(house: House) -> None:
    session = house.greet(kept=0)
    assert house.through() == MARGIN_MS
    house.clock.advance(60)
    assert house.through() == MARGIN_MS + 60_000, "nothing was heard since"
    house.beat(session)
    assert house.through() == MARGIN_MS
    session.end(EndReason.SHUTDOWN)
    assert house.through() is None


async def test_it_waits_for_what_the_host_had_kept_and_for_what_is_on_its_way(house: House) -> None:
    session = house.greet(kept=2)
    assert house.through() is None
    house.event(session, 1)
    await house.ingest.commits.flush()
    assert house.through() is None, "one more was kept"
    house.event(session, 2)
    assert house.through() is None, "it is not committed yet"
    await house.ingest.commits.flush()
    assert house.through() == MARGIN_MS
    house.event(session, 3)
    assert house.through() is None
    await house.ingest.commits.flush()
    assert house.through() == MARGIN_MS


async def test_a_commit_that_fails_holds_it_until_the_host_has_had_time_to_send_again(house: House) -> None:
    session = house.greet(kept=0)
    house.crit.fail = StorageError("disk full")
    house.event(session, 1)
    await house.ingest.commits.flush()
    assert house.through() is None, "the host was asked to wait, and keeps what it has"
    house.crit.fail = None
    house.clock.advance(60)
    house.beat(session)
    assert house.through() is None
    house.clock.advance(MARGIN_MS / 1000)
    house.beat(session)
    assert house.through() == MARGIN_MS


async def test_a_record_that_is_missing_holds_it(house: House) -> None:
    session = house.greet(kept=0)
    house.event(session, 2)
    assert house.through() is None
    house.event(session, 1)
    await house.ingest.commits.flush()
    house.clock.advance(MARGIN_MS / 1000)
    house.beat(session)
    assert house.through() == MARGIN_MS


def _refuse(agent_id: str, kind: str, event_id: bytes, payload: bytes) -> object:
    raise RecordRefused("bad", f"{agent_id} {kind}")


async def test_what_was_refused_or_lost_is_not_concluded_from(house: House) -> None:
    session = house.greet(kept=0)
    house.ingest.read_event = _refuse
    house.event(session, 1)
    await house.ingest.commits.flush()
    house.clock.advance(HOUR_MS)
    house.beat(session)
    assert house.through() is None
    assert house.ingest.counters.refusals == {("web01", "bad"): 1}
    assert house.crit.events == []
    session.end(EndReason.SHUTDOWN)
    again = house.greet(kept=1)
    assert house.through() == MARGIN_MS
    house.hear(again, encode_batch(Stream.CRIT, [encode_gap(2, 3, GapBody(GapReason.OVERFLOW))]))
    await house.ingest.commits.flush()
    assert house.through() is None


NOW_MS = 1_795_000_000_000
YEAR_MS = 366 * 24 * HOUR_MS
UP_MS = 10 * HOUR_MS


def shifted(boots: tuple[str, ...], boottime_ms: int, wall_ms: int, clock_now_ms: int = 0) -> int:
    """Of an event of the last of these boots that was seen, empty for one that nobody knows, in the boot "now"."""
    agent = Agent(AGENT, 0)
    for boot in boots[:-1]:
        agent.offset(boot, NOW_MS - 50 * HOUR_MS, HOUR_MS, NOW_MS - 50 * HOUR_MS)
    agent.events_boot = boots[-1]
    booted_ms = agent.offset("now", NOW_MS + clock_now_ms, UP_MS, NOW_MS)
    return agent.shift(boottime_ms, wall_ms, ("now", booted_ms), NOW_MS)


@pytest.mark.parametrize("boot", ["now", ""])
@pytest.mark.parametrize(
    ("clock_then_ms", "clock_now_ms", "shift_ms"),
    [
        (0, 0, 0),
        (400, 400, 0),
        (5_000, 5_000, -5_000),
        (YEAR_MS, YEAR_MS, -YEAR_MS),
        (YEAR_MS, 0, -YEAR_MS),
        (-YEAR_MS, -YEAR_MS, YEAR_MS),
    ],
    ids=["right", "believed", "ahead", "a year ahead", "a year ahead and set since", "a year behind"],
)
def test_what_an_event_says_is_shifted_by_what_its_clock_was_wrong(
    boot: str, clock_then_ms: int, clock_now_ms: int, shift_ms: int
) -> None:
    hour_ago = (UP_MS - HOUR_MS, NOW_MS - HOUR_MS + clock_then_ms)
    assert shifted((boot,), *hour_ago, clock_now_ms) == shift_ms


def test_a_clock_that_was_behind_and_set_since_is_told_by_the_boot_alone() -> None:
    hour_ago = (UP_MS - HOUR_MS, NOW_MS - HOUR_MS - YEAR_MS)
    assert shifted(("now",), *hour_ago) == YEAR_MS
    assert shifted(("",), *hour_ago) == 0, "it might be of an earlier boot, a year ago"


@pytest.mark.parametrize("boot", ["before", ""])
@pytest.mark.parametrize("boottime_ms", [HOUR_MS, 100 * HOUR_MS])
def test_an_event_of_a_boot_that_was_not_seen_is_taken_by_its_wall_clock(boot: str, boottime_ms: int) -> None:
    assert shifted((boot,), boottime_ms, NOW_MS - UP_MS - HOUR_MS) == 0


def test_an_event_of_an_earlier_boot_that_was_seen_is_taken_by_its_own_clock() -> None:
    assert shifted(("before", "before"), 2 * HOUR_MS, NOW_MS - YEAR_MS) == YEAR_MS - 49 * HOUR_MS


async def test_which_boot_events_are_of_is_said_by_the_start_of_their_agent(house: House) -> None:
    session = house.greet(kept=0)
    for seq, payload in enumerate(
        [b'{"boot":"b1"}', b'{"boot":"b2"}', b"{", b'{"boot":"%s"}' % (b"x" * 99)], 1
    ):
        event = encode_event(os.urandom(16), "agent.started", 1, 1, payload)
        house.hear(session, encode_batch(Stream.CRIT, [number(seq, event)]))
        assert house.ingest.agent(AGENT).events_boot == ["b1", "b2", "", ""][seq - 1]
