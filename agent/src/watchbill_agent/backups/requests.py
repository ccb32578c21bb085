"""What the collector asks of this host about its backups: verify one now.

The collector may be stolen, so nothing here takes its word for more than which of the host's own verifications is to
come sooner, and how often that may be is said here:

- what waits, what is answered and what is remembered has a bound; beyond it requests are dropped, and counted;
- verifications that are asked for take at most SHARE of the time in the long run, whatever is asked (`Allowance`).

Each request is answered by an event, once: the same id again is the same request. No more than this is imported on a
host without backups.
"""

import logging
from asyncio import Queue, QueueFull
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from watchbill.backups.requests import BACKUP_ANSWERED, BEGUN, REFUSED, WHY_CHARACTERS_MAX
from watchbill.clock import Clock
from watchbill.errors import UsageError
from watchbill.logs import fields
from watchbill.protocol.frames import VerifyBackup
from watchbill_agent.spool import SpoolFull

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watchbill_agent.spool import Receipt

log = logging.getLogger(__name__)

WAITING_MAX: Final = 8
"""Requests that wait to be answered, each of them for a sync of the spool."""
REMEMBERED_MAX: Final = 256
"""Ids of requests that were taken."""
ANSWERS_AT_ONCE: Final = 20.0
ANSWERS_PER_S: Final = 1 / 30
"""Answers are critical events, which are written to this host's disk: two a minute in the long run."""

SHARE: Final = 0.2
"""Of all time, for what is asked for: after a verification of an hour the next may begin two and a half hours later."""
SAVED_S: Final = 1800.0
"""As long as they may take before that counts: somebody verifies all jobs of a host after a change."""
EACH_S: Final = 60.0
"""As long as each counts at least: thirty quick ones one after the other, then one in five minutes."""


class Allowance:
    """So much may be used: it grows by `rate` a second up to `most`. What is used last may be more than there is; then
    nothing is allowed until that is made good."""

    def __init__(self, rate: float, most: float, now_s: float) -> None:
        self._rate, self._most = rate, most
        self._level, self._at_s = most, now_s

    def wait_s(self, now_s: float) -> float:
        """How long nothing is allowed; 0: something is."""
        self._level = min(self._most, self._level + max(0.0, now_s - self._at_s) * self._rate)
        self._at_s = now_s
        return 0.0 if self._level > 0 else -self._level / self._rate + 1.0

    def use(self, amount: float) -> None:
        """So much was used."""
        self._level -= amount


@dataclass(frozen=True, slots=True)
class Begun:
    """It is what is verified next, at once."""

    level: str
    copy: str


@dataclass(frozen=True, slots=True)
class Refused:
    """`reason` is a word of `watchbill.backups.requests`; `why` says it to a person."""

    reason: str
    why: str


Verdict = Begun | Refused
Judge = Callable[[VerifyBackup], Verdict]


@dataclass(slots=True)
class RequestCounts:
    """Since the start."""

    taken: int = 0
    refused: int = 0
    dropped: int = 0
    """Not even answered: too many, or the spool took no answer."""


class Keeps(Protocol):
    """Where answers go: `Events`."""

    async def keep(
        self, kind: str, payload: "Mapping[str, object]", event_id: bytes | None = None
    ) -> "Receipt":
        """Raises SpoolFull, UsageError."""


class Requests:
    """Takes what is asked, has it judged, answers. `judge` begins what it allows, and must not wait."""

    def __init__(self, events: Keeps, clock: Clock, judge: Judge) -> None:
        self._events = events
        self._clock = clock
        self._judge = judge
        self._waiting: Queue[VerifyBackup] = Queue(WAITING_MAX)
        self._remembered: deque[bytes] = deque(maxlen=REMEMBERED_MAX)
        self._answers = Allowance(ANSWERS_PER_S, ANSWERS_AT_ONCE, clock.monotonic_s())
        self.counts = RequestCounts()

    def take(self, request: VerifyBackup) -> None:
        """The collector asks. Returns at once."""
        if request.request_id in self._remembered:
            return
        if self._answers.wait_s(self._clock.monotonic_s()) > 0:
            self._drop("too many requests")
            return
        try:
            self._waiting.put_nowait(request)
        except QueueFull:
            self._drop("too many requests wait")
            return
        self._answers.use(1.0)
        self._remembered.append(request.request_id)
        self.counts.taken += 1

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.turn()

    async def turn(self) -> None:
        """Answer one, when there is one."""
        request = await self._waiting.get()
        verdict = self._judge(request)
        said: dict[str, object] = {"request": request.request_id.hex(), "job": request.job}
        if isinstance(verdict, Begun):
            said |= {"answer": BEGUN, "level": verdict.level, "copy": verdict.copy}
            log.info("a backup is verified, as it was asked for", extra=fields(**said))
        else:
            self.counts.refused += 1
            said |= {"answer": REFUSED, "reason": verdict.reason, "why": verdict.why[:WHY_CHARACTERS_MAX]}
            log.warning("a backup is not verified, though it was asked for", extra=fields(**said))
        try:
            await self._events.keep(BACKUP_ANSWERED, said, request.request_id)
        except (SpoolFull, UsageError) as exc:
            self._drop(str(exc))

    def _drop(self, why: str) -> None:
        self.counts.dropped += 1
        log.warning("a request of the collector was not answered", extra=fields(reason=why))
