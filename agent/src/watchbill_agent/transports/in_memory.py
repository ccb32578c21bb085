"""The twin of a transport: both ends in one process, for tests and simulations.

`InMemoryTransport` calls the given service with the far end of every link that is opened, as a server would.
"""

import asyncio
from collections.abc import Awaitable, Callable

from watchbill.limits import MESSAGE_BYTES_MAX
from watchbill_agent.transports import LinkDown, LinkRefused

QUEUE_MESSAGES_MAX = 64
"""Messages that wait in one direction; a sender waits beyond that, as a real connection makes it."""


class FarEnd:
    """The collector's side of an in-memory link."""

    def __init__(self) -> None:
        self.up: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_MESSAGES_MAX)
        self.down: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_MESSAGES_MAX)
        self.broken = asyncio.Event()
        self.refusal: LinkRefused | None = None

    async def read(self) -> bytes | None:
        """The next message of the agent, None when it closed or the link broke."""
        return await _first_of(self.up.get(), self.broken)

    async def write(self, message: bytes) -> None:
        """Send to the agent."""
        await self.down.put(message)

    def close(self) -> None:
        """End the link in order: what was written before is still read."""
        self.down.put_nowait(None)

    def cut(self) -> None:
        """Break the link as a network does."""
        self.broken.set()

    def refuse(self, reason: str, words: str) -> None:
        """End the link with a refusal."""
        self.refusal = LinkRefused(reason, words)
        self.broken.set()

    def why(self) -> LinkDown | LinkRefused:
        """Why a broken link is."""
        return self.refusal or LinkDown("cut", "the link was cut")


class InMemoryLink:
    """The agent's side."""

    def __init__(self, far: FarEnd) -> None:
        self._far = far

    async def send(self, message: bytes) -> None:
        """Hand one message to the far end. Raises LinkDown when it was cut, LinkRefused when it was refused."""
        if len(message) > MESSAGE_BYTES_MAX:
            raise LinkDown("oversized", f"a message of {len(message)} bytes, more than {MESSAGE_BYTES_MAX}")
        if self._far.broken.is_set():
            raise self._far.why()
        await self._far.up.put(message)

    async def receive(self) -> bytes | None:
        """The next message of the far end. Raises LinkDown when it was cut, LinkRefused when it was refused."""
        message = await _first_of(self._far.down.get(), self._far.broken)
        if message is None and self._far.broken.is_set():
            raise self._far.why()
        return message

    async def close(self) -> None:
        """Close in order."""
        if self._far.up.full():
            self._far.broken.set()
        else:
            self._far.up.put_nowait(None)


class InMemoryTransport:
    """Opens links to `service`, which is run as a task for each; `down` is raised instead while it is set."""

    def __init__(self, service: Callable[[FarEnd], Awaitable[None]]) -> None:
        self._service = service
        self._tasks: set[asyncio.Task[None]] = set()
        self.down: LinkDown | None = None
        self.links: list[FarEnd] = []

    async def open(self) -> InMemoryLink:
        """Connect. Raises what `down` says."""
        if self.down is not None:
            raise self.down
        far = FarEnd()
        self.links.append(far)
        task = asyncio.create_task(self._serve(far), name="in-memory service")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return InMemoryLink(far)

    async def _serve(self, far: FarEnd) -> None:
        await self._service(far)

    async def close(self) -> None:
        """Cut all links and end their services."""
        for far in self.links:
            far.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _first_of(getting: "Awaitable[bytes | None]", broken: asyncio.Event) -> bytes | None:
    get = asyncio.ensure_future(getting)
    cut = asyncio.ensure_future(broken.wait())
    try:
        await asyncio.wait({get, cut}, return_when=asyncio.FIRST_COMPLETED)
        return get.result() if get.done() and not broken.is_set() else None
    finally:
        get.cancel()
        cut.cancel()
