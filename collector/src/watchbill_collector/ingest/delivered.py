"""Through when a host is known: until that time, everything critical that it had to say is committed here.

That something was *not* said can be concluded up to this time alone. A host that is silent, a link that is cut, a
commit that fails: the time stands still, and what was expected after it is not known rather than missed.

In a session it moves along with what is heard, MARGIN_MS behind, because a stream keeps its order: what was kept on the
host before a message was sent comes before that message. It stands still

1. until everything is here that the host had kept when it said Hello;
2. while something accepted is not committed;
3. while the host was asked to wait, or to send again, and for MARGIN_MS after that;
4. for the rest of the session once a critical record was refused or its place is a gap: what it would have said is
   lost, and nobody may conclude anything from not having it. The next session says how far it goes on.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from watchbill.protocol.server import Watermark

if TYPE_CHECKING:
    from watchbill_collector.ingest.session import Session

MARGIN_MS: Final = 90_000
"""What may lie between an event on a host and its place in the stream: a file handed over while its agent was busy is
found within a minute, and a broker may let a small message overtake a large one."""


class Delivered:
    """What a session has brought of the crit stream, beside how much it said there was."""

    __slots__ = ("_held_until_s", "_lost", "_told", "_watermark")

    def __init__(self, watermark: Watermark, told: int) -> None:
        """`told` is the number of the last record that the host had kept when it said Hello."""
        self._watermark = watermark
        self._told = told
        self._held_until_s = 0.0
        self._lost = False

    def hold(self, until_s: float) -> None:
        """The host keeps what it has to itself until then, on the monotonic clock."""
        self._held_until_s = max(self._held_until_s, until_s + MARGIN_MS / 1000)

    def lose(self) -> None:
        """Something that it kept will never come."""
        self._lost = True

    def whole(self, now_s: float) -> bool:
        """Whether everything that was kept before the newest message is committed."""
        mark = self._watermark
        return (
            not self._lost
            and now_s >= self._held_until_s
            and mark.accepted == mark.committed
            and mark.committed >= self._told
        )


def through_ms(sessions: "Iterable[Session]", now_s: float, now_ms: int) -> dict[str, int]:
    """Through when each host with a session is known, by agent id, where it can be said now. UTC ms; it is never
    earlier than what was said before of the same session."""
    found: dict[str, int] = {}
    for session in sessions:
        delivered = session.delivered
        if delivered is not None and not session.ended and delivered.whole(now_s):
            silent_ms = round((now_s - session.heard_s) * 1000)
            found[session.agent.agent_id] = now_ms - silent_ms - MARGIN_MS
    return found
