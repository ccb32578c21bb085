"""Why a host goes, in words both ends share, and how long it may stay away before it counts as missed.

An agent that is stopped says goodbye with one of these words. What says nothing (a killed process, a broken stream,
the broker's Will) was not announced: nobody expected it.
"""

from dataclasses import dataclass
from typing import Final

STOP: Final = "stop"
RESTART: Final = "restart"
UPGRADE: Final = "upgrade"
REBOOT: Final = "reboot"
POWEROFF: Final = "poweroff"
SUSPEND: Final = "suspend"
DECOMMISSION: Final = "decommission"
WORDS: Final = (STOP, RESTART, UPGRADE, REBOOT, POWEROFF, SUSPEND, DECOMMISSION)

MINUTE_MS: Final = 60_000
BACK_WITHIN_MS: Final = {RESTART: 2 * MINUTE_MS, UPGRADE: 10 * MINUTE_MS, REBOOT: 15 * MINUTE_MS}
"""How long each takes at most as a rule; who goes for another reason promises nothing."""
BACK_WITHIN_MS_MAX: Final = 31 * 24 * 60 * MINUTE_MS
"""The longest promise taken; a longer one is cut to it."""
WORD_CHARACTERS_MAX: Final = 32

_OLD_WORDS: Final = {"": STOP, "shutdown": STOP}
"""What agents said before there were reasons."""


@dataclass(frozen=True, slots=True)
class Farewell:
    """What an agent says when it goes. `back_within_ms` 0: as long as its reason usually takes."""

    reason: str = STOP
    back_within_ms: int = 0


@dataclass(frozen=True, slots=True)
class Leaving:
    """An announced stop as the collector keeps it. Times in UTC ms; `back_by_ms` 0: nothing was promised."""

    reason: str
    left_ms: int
    back_by_ms: int = 0


def read_word(said: str) -> str:
    """The reason that was said: an older agent's in today's words, any other as it is, short and printable."""
    word = "".join(letter for letter in said[:WORD_CHARACTERS_MAX] if letter.isprintable()).strip().lower()
    return _OLD_WORDS.get(word, word)


def taken(farewell: Farewell, now_ms: int) -> Leaving:
    """What a goodbye means at this time."""
    reason = read_word(farewell.reason)
    within_ms = min(farewell.back_within_ms or BACK_WITHIN_MS.get(reason, 0), BACK_WITHIN_MS_MAX)
    return Leaving(reason, now_ms, now_ms + within_ms if within_ms else 0)
