"""Ways to reach the collector: each opens links that carry whole messages in order, or not at all.

`over_grpc` is the stream to the collector's port 7443; `in_memory` is the twin for tests and simulations. A
transport knows nothing of what the messages say.
"""

from typing import Protocol

from watchbill.errors import Refused, Unreachable


class LinkDown(Unreachable):
    """No connection, or the connection broke. `reason` is one word for metrics and `doctor`; the text is for
    people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class LinkRefused(Refused):
    """The other end answered and does not want us, or we do not trust it; only a person can help."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Link(Protocol):
    """One open connection."""

    async def send(self, message: bytes) -> None:
        """Hand over one Up message; waits while the other end cannot take it. Raises LinkDown."""

    async def receive(self) -> bytes | None:
        """The next Down message, None when the collector closed. Raises LinkDown, LinkRefused."""

    async def close(self) -> None:
        """Close in order; never raises, may be called twice."""


class Transport(Protocol):
    """A way to the collector."""

    async def open(self) -> Link:
        """Connect. Raises LinkDown, LinkRefused."""
