"""How long to wait before trying again, so that a thousand hosts do not try together.

Full jitter: uniform between nothing and a ceiling that doubles with every failure. The first wait after a
healthy session is spread over what the other side asked for, since then everybody lost it at the same moment.

The ceiling follows from how many there are. A collector that comes back is heard by everybody within one ceiling, and
until then it cannot tell who is gone from who is still waiting; so a small fleet knocks often, and a large one as
seldom as its size demands.
"""

import random
from typing import Protocol

BASE_S = 1.0
CAP_S = 120.0
RETURN_CAP_S = 20.0
"""The ceiling of an agent whose collector asks for no larger spread: of a thousand agents a hundred knock a second."""
STRANGER_CAP_S = 60.0
"""The ceiling of an agent that was never told how many there are."""
HEALTHY_AFTER_S = 60.0
"""A session shorter than this does not reset the waits: a peer that accepts and drops is not well."""


class Uniform(Protocol):
    """Where the jitter comes from."""

    def uniform(self, a: float, b: float, /) -> float:
        """A number between a and b."""


def return_cap_s(spread_s: float) -> float:
    """The longest wait between two tries of an agent that was told this spread; both ends reckon with it."""
    return min(CAP_S, max(RETURN_CAP_S, spread_s))


class Backoff:
    """The waits of one thing that is tried again and again. Not for several things at once."""

    def __init__(
        self,
        base_s: float = BASE_S,
        cap_s: float = CAP_S,
        healthy_after_s: float = HEALTHY_AFTER_S,
        jitter: Uniform | None = None,
    ) -> None:
        assert 0 < base_s <= cap_s
        self._base_s = base_s
        self.cap_s = cap_s
        """The ceiling's ceiling; it may be changed at any time."""
        self._healthy_after_s = healthy_after_s
        self._jitter: Uniform = jitter if jitter is not None else random.SystemRandom()
        self.failures = 0
        """Failures in a row."""

    def next_s(self, at_least_s: float = 0.0) -> float:
        """The wait after one more failure. `at_least_s` is what the peer asked for, jitter on top."""
        ceiling_s = self.cap_s
        # 2 ** 1,100 is no float: stop doubling where the cap has long won.
        if self.failures < 60:
            ceiling_s = min(self.cap_s, self._base_s * 2**self.failures)
        self.failures += 1
        return at_least_s + self._jitter.uniform(0.0, ceiling_s)

    def ended_s(self, session_s: float, spread_s: float = 0.0, at_least_s: float = 0.0) -> float:
        """The wait after a session of `session_s` ended; a healthy one starts the waits anew."""
        if session_s < self._healthy_after_s:
            return self.next_s(at_least_s)
        self.failures = 0
        return at_least_s + self._jitter.uniform(0.0, max(spread_s, self._base_s))

    def reset(self) -> None:
        """It worked."""
        self.failures = 0
