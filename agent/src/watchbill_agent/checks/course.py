"""When a check is due, and what of its looks is published: pure, the clock is handed in as seconds of any one clock.

Each check has a grid of its own, shifted by its phase, so that checks of one interval are spread over it and stay where
they are over a restart. What was well is looked at again a few times before it is called failed; what is failed and
looks well is well at once.
"""

import zlib
from dataclasses import dataclass
from typing import Final

from watchbill_agent.checks.check import Outcome, Verdict

LATE_S: Final = 0.5
"""A look that begins later than this after its time counts as late."""
TELLINGS_AT_ONCE: Final = 6
TELLING_EVERY_S: Final = 60.0
"""So many changes of a verdict are told one by one, then one a minute: what flaps must not fill the critical stream,
and how it stands in the end is always told."""

WELL: Final = (Verdict.OK, Verdict.WARNING)


def phase_of(host: str, name: str) -> float:
    """A check's share of its interval, in [0, 1): the same after every restart."""
    return zlib.crc32(f"{host}/{name}".encode("utf-8", "replace")) / 2**32


class Course:
    """One check's way through time. `known` is the verdict that was published last, perhaps by an earlier process."""

    __slots__ = ("_interval_s", "_known", "_phase_s", "_retries", "_retry_every_s", "_tries", "due_s")

    def __init__(
        self,
        interval_s: float,
        phase: float,
        now_s: float,
        *,
        retries: int = 0,
        retry_every_s: float = 1.0,
        known: Verdict | None = None,
    ) -> None:
        self._interval_s = interval_s
        self._phase_s = phase * interval_s
        self._retries = retries
        self._retry_every_s = retry_every_s
        self._known = known
        self._tries = 0
        self.due_s = self._after(now_s)
        """When the next look is due."""

    def begin_within(self, seconds: float, now_s: float) -> None:
        """Look for the first time soon, instead of after up to an interval: spread over `seconds` by the phase."""
        soon_s = now_s + min(seconds, self._interval_s) * (self._phase_s / self._interval_s)
        self.due_s = min(self.due_s, soon_s)

    def ended(self, outcome: Outcome, now_s: float) -> bool:
        """A look ended: whether its outcome is to be published. If not, it is looked again soon."""
        well = outcome.verdict in WELL
        again_s = now_s + self._retry_every_s
        if not well and self._known in (None, *WELL) and self._tries < self._retries:
            self._tries += 1
            self.due_s = again_s
            return False
        self._tries = 0
        self._known = outcome.verdict
        self.due_s = self._after(now_s)
        return True

    def skip(self, now_s: float) -> None:
        """The look that was due came to nothing: the next is at the next point of the grid."""
        self.due_s = self._after(now_s)

    def _after(self, now_s: float) -> float:
        """The next point of the grid; never the one that this look was for, should it have come a little early."""
        earliest_s = now_s + self._interval_s * 0.1
        return earliest_s + (self._phase_s - earliest_s) % self._interval_s


@dataclass(slots=True)
class Telling:
    """What of a check's changes has been told as an event. `told` is the verdict and the reason of the last one."""

    told: tuple[Verdict, str] | None = None
    _tellings: float = float(TELLINGS_AT_ONCE)
    _refilled_s: float | None = None

    def change(self, verdict: Verdict, reason: str, now_s: float) -> tuple[str, bool]:
        """How it stood when it was last told, "" if never; and whether this is to be told now. A first verdict that is
        OK is told, too: it may be the end of what an earlier agent told."""
        before = "" if self.told is None else self.told[0].word
        if self.told == (verdict, reason):
            return before, False
        if self._refilled_s is not None:
            grown = (now_s - self._refilled_s) / TELLING_EVERY_S
            self._tellings = min(self._tellings + grown, TELLINGS_AT_ONCE)
        self._refilled_s = now_s
        if self._tellings < 1:
            return before, False
        self._tellings -= 1
        self.told = (verdict, reason)
        return before, True
