"""The event stream: order, ids, replay, slow followers, the end."""

import asyncio
import contextlib
import json

import pytest

from watchbill_collector.api.events import (
    FOLLOWERS_MAX,
    QUEUE_EVENTS_MAX,
    RING_EVENTS_MAX,
    EventBus,
    EventStream,
)

PATH = b"/api/watchbill/v1/events"


class Stream:
    """One follower over a real connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, served, last_id="", token="token-of-viewer"):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        last = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n{last}\r\n"
        writer.write(b"GET %s HTTP/1.1\r\n%s" % (PATH, head.encode()))
        found = cls(reader, writer)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 200"), head
        assert b"text/event-stream" in head
        assert await found.block() == {"retry": "2000"}
        return found

    async def block(self):
        """The fields of the next event or comment; chunk framing skipped."""
        fields = {}
        while True:
            line = (await asyncio.wait_for(self.reader.readline(), 10)).strip().decode()
            if not line:
                if fields:
                    return fields
                if self.reader.at_eof():
                    raise EOFError
                continue
            key, colon, value = line.partition(":")
            if colon:
                fields[key] = value.strip()

    async def events(self, count):
        return [await self.block() for _ in range(count)]

    def close(self):
        self.writer.close()


@pytest.fixture
def followers():
    opened = []
    yield opened
    for stream in opened:
        stream.close()


async def test_events_arrive_in_order_with_ids_and_kinds(serve, followers):
    served = await serve()
    stream = await Stream.open(served)
    followers.append(stream)
    await served.until(lambda: served.house.bus.followers == 1)
    for number in range(3):
        served.house.bus.publish("alert", {"number": number, "text": "a\nb\r\n\u2028"})
    got = await stream.events(3)
    assert [event["id"] for event in got] == ["run1-1", "run1-2", "run1-3"]
    assert [event["event"] for event in got] == ["alert"] * 3
    assert [json.loads(event["data"])["number"] for event in got] == [0, 1, 2]
    assert json.loads(got[0]["data"])["text"] == "a\nb\r\n\u2028"


async def test_a_follower_that_comes_back_gets_what_it_missed(serve, followers):
    served = await serve()
    for number in range(5):
        served.house.bus.publish("host", number)
    stream = await Stream.open(served, "run1-3")
    followers.append(stream)
    assert [event["id"] for event in await stream.events(2)] == ["run1-4", "run1-5"]
    served.house.bus.publish("host", "new")
    assert (await stream.block())["id"] == "run1-6"


@pytest.mark.parametrize(
    "last_id", ["otherrun-1", "run1-1", "run1-99999", "nonsense", "run1-", "run1--5", "run1-" + "9" * 50, "-"]
)
async def test_what_can_not_be_replayed_is_a_resync(last_id):
    bus = EventBus("run1")
    for number in range(RING_EVENTS_MAX + 10):
        bus.publish("host", number)
    follower = bus.follow(last_id)
    (event,) = follower.queue
    assert (event.kind, event.id) == ("resync", f"run1-{RING_EVENTS_MAX + 10}")


def test_a_follower_at_the_newest_event_has_nothing_to_catch_up():
    bus = EventBus("run1")
    bus.publish("host", 1)
    assert not bus.follow("run1-1").queue


async def test_a_follower_that_never_reads_gets_one_resync_and_holds_up_nobody(serve, followers):
    bus = EventBus("run1")
    slow, quick = bus.follow(), bus.follow()
    for number in range(QUEUE_EVENTS_MAX * 4):
        bus.publish("alert", number)
        quick.queue.clear()
    assert len(slow.queue) <= QUEUE_EVENTS_MAX
    assert slow.queue[0].kind == "resync"
    assert bus.resyncs >= 1
    # After the resync its numbers go on without a hole.
    numbers = [int(event.id.partition("-")[2]) for event in slow.queue]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_an_event_that_is_too_large_becomes_a_resync():
    bus = EventBus("run1")
    follower = bus.follow()
    bus.publish("alert", {"text": "x" * 1_000_000})
    (event,) = follower.queue
    assert event.kind == "resync"
    assert bus.oversized == 1


async def test_silence_is_filled_with_comments():
    bus = EventBus("run1")
    sent = []
    gone = asyncio.Event()

    async def send(message):
        sent.append(message)
        if message.get("body", b"").startswith(b": still here"):
            gone.set()

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    async def welcome():
        return True

    stream = EventStream(bus, "", asyncio.Event(), welcome, comment_every_s=0.01)
    await asyncio.wait_for(stream({"type": "http", "method": "GET"}, receive, send), 10)
    assert b": still here\n\n" in [message.get("body") for message in sent]
    assert bus.followers == 0


async def test_a_stream_ends_with_its_login():
    bus = EventBus("run1")

    async def send(_):
        pass

    async def receive():
        await asyncio.Event().wait()

    async def welcome():
        return False

    stream = EventStream(bus, "", asyncio.Event(), welcome, comment_every_s=0.01)
    await asyncio.wait_for(stream({"type": "http", "method": "GET"}, receive, send), 10)
    assert bus.followers == 0


async def test_streams_end_at_once_when_the_server_stops(serve, followers):
    served = await serve()
    followers += [await Stream.open(served) for _ in range(10)]
    await served.until(lambda: served.house.bus.followers == 10)
    await asyncio.wait_for(served.server.stop(), 2.5)  # The graceful limit is 3 s: it was not needed.
    assert served.house.bus.followers == 0
    for stream in followers:
        with contextlib.suppress(EOFError, asyncio.IncompleteReadError):
            await stream.block()


async def test_a_follower_that_leaves_is_forgotten(serve):
    served = await serve()
    stream = await Stream.open(served)
    await served.until(lambda: served.house.bus.followers == 1)
    stream.close()
    await served.until(lambda: served.house.bus.followers == 0)


async def test_followers_beyond_the_bound_are_told_to_come_later(serve):
    served = await serve()
    kept = [served.house.bus.follow() for _ in range(FOLLOWERS_MAX)]
    answer = await served.client.get(PATH.decode(), headers=served.viewer)
    assert (answer.status_code, answer.json()["errorType"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "10"
    for follower in kept:
        served.house.bus.leave(follower)


async def test_a_viewer_whose_token_is_taken_away_does_not_follow_again(serve):
    served = await serve()
    del served.twins.users.tokens["token-of-viewer"]
    assert (await served.client.get(PATH.decode(), headers=served.viewer)).status_code == 401
