"""A channel that keeps what it is given: the supported twin of the real ones, for tests of what sends.

It can be told to fail, to hang, and to accept and then fail as a connection does that breaks after the peer's
yes. It is no kind that a configuration can name.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from watchbill_collector.notifiers.notice import Delivered, Notice, NoticeKind, SendFailed

NOTICES_MAX: Final = 100_000
"""Notices kept; the oldest go first."""


class MemoryChannel:
    """Accepts everything unless told otherwise."""

    kind = "memory"

    def __init__(self, *, refresh_s: float | None = None, alerts_wanted: int = 0) -> None:
        self.refresh_s = refresh_s
        self.alerts_wanted = alerts_wanted
        self.accepted: deque[Notice] = deque(maxlen=NOTICES_MAX)
        """What was accepted, in order; the same notice twice when it was sent twice."""
        self.attempts = 0
        self.closed = False
        self._failures: deque[tuple[SendFailed, bool]] = deque()
        self._open = asyncio.Event()
        self._open.set()

    def fail_next(self, failure: SendFailed, times: int = 1, *, accepted: bool = False) -> None:
        """The next attempts fail like this; `accepted`: the peer took it, and we never heard so."""
        self._failures.extend([(failure, accepted)] * times)

    def hang(self) -> None:
        """Every attempt waits, until `go_on`."""
        self._open.clear()

    def go_on(self) -> None:
        """What waits is accepted."""
        self._open.set()

    async def send(self, notice: Notice) -> Delivered:
        """Accept it, or do what was asked for."""
        assert not self.closed, "nobody sends through a closed channel"
        self.attempts += 1
        await self._open.wait()
        if self._failures:
            failure, accepted = self._failures.popleft()
            if accepted:
                self.accepted.append(notice)
            raise failure
        self.accepted.append(notice)
        return Delivered("kept")

    async def close(self) -> None:
        """Take nothing more."""
        self.closed = True

    def of_kind(self, kind: NoticeKind) -> Sequence[Notice]:
        """What was accepted of one kind."""
        return [notice for notice in self.accepted if notice.kind is kind]
