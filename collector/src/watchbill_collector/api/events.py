"""Changes as they happen, for pages and programs that follow: server-sent events.

`EventBus.publish` is called on the loop when an alert or a host changes. Each follower has a queue with a
bound; one that does not keep up loses its queue and gets a single `resync`, which means: read everything
again. Nobody waits for a slow follower, least of all what publishes.

The newest events are kept in a ring. A follower that comes back says the last id it saw and gets what it
missed, or `resync` when that is no longer in the ring or was another process's. Ids are `RUN-NUMBER`.

Every 15 s without an event a comment goes out, so that proxies and clients know the connection lives. Streams
end at once when the server stops, and when the follower's login ends.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

RING_EVENTS_MAX = 1_024
QUEUE_EVENTS_MAX = 256
FOLLOWERS_MAX = 128
EVENT_BYTES_MAX = 64 << 10
COMMENT_EVERY_S = 15.0
RETRY_MS = 2_000

RESYNC = "resync"


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `kind` is the SSE event name (alert, host, ...), `data` its JSON."""

    id: str
    kind: str
    data: bytes
    subject: Mapping[str, str] | None = None
    """The labels of what it is about, by which it is seen or not; None: only who sees everything gets it."""

    def frame(self) -> bytes:
        """As it goes over the wire. The JSON holds no raw newline."""
        return b"id: %s\nevent: %s\ndata: %s\n\n" % (self.id.encode(), self.kind.encode(), self.data)


@dataclass(slots=True, eq=False)
class Follower:
    """One client's queue."""

    queue: deque[Event] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    poked: bool = False


class EventBus:
    """Publishes to followers. Lives on one event loop; `run` names this process in event ids."""

    def __init__(self, run: str) -> None:
        assert run.isalnum(), "the run is part of ids that travel in headers"
        self.resyncs = 0
        self.oversized = 0
        self._run = run
        self._number = 0
        self._ring: deque[Event] = deque(maxlen=RING_EVENTS_MAX)
        self._followers: set[Follower] = set()

    @property
    def followers(self) -> int:
        """Clients that follow now."""
        return len(self._followers)

    @property
    def full(self) -> bool:
        """Whether one more follower would be too many."""
        return len(self._followers) >= FOLLOWERS_MAX

    def publish(self, kind: str, document: object) -> None:
        """Tell every follower. An event that is too large becomes a `resync`, and is counted."""
        data = orjson.dumps(document, option=orjson.OPT_UTC_Z)
        if len(data) > EVENT_BYTES_MAX:
            self.oversized += 1
            kind, data = RESYNC, b"{}"
        event = self._next(kind, data, subject_of(document) if kind != RESYNC else {})
        self._ring.append(event)
        for follower in self._followers:
            if len(follower.queue) >= QUEUE_EVENTS_MAX:
                self._restart(follower)
            else:
                follower.queue.append(event)
            follower.news.set()

    def follow(self, last_id: str = "") -> Follower:
        """Begin to follow, after the event `last_id` if it is still known."""
        follower = Follower()
        if last_id:
            self._replay(follower, last_id)
        self._followers.add(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """Stop following."""
        self._followers.discard(follower)

    def _replay(self, follower: Follower, last_id: str) -> None:
        run, _, number = last_id.partition("-")
        seen = int(number) if number.isascii() and number.isdigit() and len(number) < 19 else -1
        oldest = self._number - len(self._ring)
        if run != self._run or not oldest <= seen <= self._number or self._number - seen > QUEUE_EVENTS_MAX:
            self._restart(follower)
        else:
            follower.queue.extend(list(self._ring)[seen - oldest :])
        if follower.queue:
            follower.news.set()

    def _restart(self, follower: Follower) -> None:
        self.resyncs += 1
        follower.queue.clear()
        follower.queue.append(Event(f"{self._run}-{self._number}", RESYNC, b"{}"))

    def poke(self) -> None:
        """Let every stream look whether its follower is still welcome: somebody's access has changed."""
        for follower in self._followers:
            follower.poked = True
            follower.news.set()

    def _next(self, kind: str, data: bytes, subject: Mapping[str, str] | None) -> Event:
        self._number += 1
        return Event(f"{self._run}-{self._number}", kind, data, subject)


def subject_of(document: object) -> Mapping[str, str] | None:
    """What an event is about: the `labels` in its document, or the host it names."""
    if not isinstance(document, Mapping):
        return None
    labels, host = document.get("labels"), document.get("host")
    if isinstance(labels, Mapping):
        return {str(name): str(value) for name, value in labels.items()}
    return {"instance": host} if isinstance(host, str) and host else None


class EventStream:
    """The answer that follows the bus: an ASGI application for one client."""

    def __init__(
        self,
        bus: EventBus,
        last_id: str,
        stopping: asyncio.Event,
        still_welcome: Callable[[], Awaitable[bool]],
        comment_every_s: float = COMMENT_EVERY_S,
        wanted: Callable[[Event], bool] = lambda _: True,
    ) -> None:
        """`still_welcome` is asked before everything that is sent, `wanted` of every event; a `resync` is sent to
        everybody.
        """
        self._bus = bus
        self._last_id = last_id
        self._stopping = stopping
        self._still_welcome = still_welcome
        self._comment_every_s = comment_every_s
        self._wanted = wanted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client goes, the server stops or the login ends."""
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] != "HEAD":
            follower = self._bus.follow(self._last_id)
            try:
                await self._stream(follower, receive, send)
            finally:
                self._bus.leave(follower)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, follower: Follower, receive: Receive, send: Send) -> None:
        await _body(send, b"retry: %d\n\n" % RETRY_MS)
        gone = asyncio.ensure_future(_disconnected(receive))
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            while not gone.done() and not stop.done():
                news = asyncio.ensure_future(follower.news.wait())
                await asyncio.wait(
                    {gone, stop, news}, timeout=self._comment_every_s, return_when=asyncio.FIRST_COMPLETED
                )
                news.cancel()
                if gone.done() or stop.done():
                    return
                if not await self._still_welcome():
                    return
                poked, follower.poked = follower.poked, False
                follower.news.clear()
                if follower.queue:
                    events = [one for one in follower.queue if one.kind == RESYNC or self._wanted(one)]
                    follower.queue.clear()
                    if events:
                        # Waits while the client does not read; the connection's stall limit ends that.
                        await _send_unless(stop, _body(send, b"".join(one.frame() for one in events)))
                elif not poked:
                    await _send_unless(stop, _body(send, b": still here\n\n"))
        finally:
            gone.cancel()
            stop.cancel()


async def _body(send: Send, content: bytes) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": True})


async def _send_unless(stop: "asyncio.Future[Any]", sending: Awaitable[None]) -> None:
    """Send, but do not let a client that never reads hold up the end of the server."""
    task: asyncio.Future[None] = asyncio.ensure_future(sending)
    both: set[asyncio.Future[Any]] = {task, stop}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    else:
        task.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def disconnected(request: Request) -> None:
    """Return when the client has gone away."""
    await _disconnected(request.receive)
