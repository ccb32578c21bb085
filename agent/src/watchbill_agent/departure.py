"""Why the running agent is about to go: the word that was left for it, and what it says before a suspend.

A word that was left is used by a stop that comes soon; later it is out of date: whoever left it changed his mind.
"""

from collections.abc import Callable
from typing import Final, Protocol

from watchbill.clock import Clock
from watchbill.errors import UsageError
from watchbill.leaving import SUSPEND, WORD_CHARACTERS_MAX, Farewell

WORD_FRESH_MS: Final = 120_000
"""How long a word that was left counts."""
SAY_S: Final = 4.0
"""How long a suspend may wait for the goodbye: less than who asked waits for the answer."""
AWAY_S: Final = 60.0
"""For how long an agent that said it is going to sleep waits for the sleep; then it comes back by itself."""
_NUMBER_DIGITS_MAX: Final = 15


class Leaver(Protocol):
    """The sender, as this sees it."""

    async def leave(self, farewell: Farewell, timeout_s: float, away_s: float) -> bool:
        """Deliver, say goodbye, stay away for a while; whether everything was acknowledged."""


class Departure:
    """The word that was left, and what follows from it. `sender` gives the present one, None without a link."""

    def __init__(self, clock: Clock, flush: Callable[[], None], sender: Callable[[], Leaver | None]) -> None:
        self._clock = clock
        self._flush = flush
        self._sender = sender
        self._word = Farewell()
        self._left_ms: int | None = None

    def farewell(self) -> Farewell:
        """What to say at a stop now."""
        fresh = self._left_ms is not None and self._clock.boottime_ms() - self._left_ms <= WORD_FRESH_MS
        return self._word if fresh else Farewell()

    async def told(self, rest: str) -> dict[str, object]:
        """Somebody leaves word: a reason and within how many ms the host means to be back. Raises UsageError."""
        reason, _, within = rest.partition(" ")
        if not 0 < len(reason) <= WORD_CHARACTERS_MAX or not reason.isalnum() or not _is_number(within):
            raise UsageError(f"got {rest!r}, wanted a reason and milliseconds")
        farewell = Farewell(reason, int(within))
        if reason != SUSPEND:
            self._word, self._left_ms = farewell, self._clock.boottime_ms()
            return {"reason": reason, "said": False}
        sender = self._sender()
        self._flush()
        said = sender is not None and await sender.leave(farewell, SAY_S, AWAY_S)
        return {"reason": reason, "said": said}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _NUMBER_DIGITS_MAX
