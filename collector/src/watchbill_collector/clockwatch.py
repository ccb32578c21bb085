"""Notices that the machine's date was set, so that the collector begins anew by the new date.

Everything in the collector asks one clock, which never jumps (`watchbill.clock.SteadyClock`). Would it follow a
jump, then after a step back by an hour no rule would be judged for an hour, and after a step forward what every
host sends would be an hour old: what fires would end, and nothing would begin to fire. Beginning anew is the way
that is tried at every start: agents link again and learn the date, windows are filled from history, alerts go on.
"""

from typing import Final

STEP_MS_MAX: Final = 2_000
"""How far the machine's clock may be from ours before we begin anew. Corrections of a running clock are slewed and
do not count: boot time is slewed with it."""
LOOK_EVERY_S: Final = 1.0
LOOKS: Final = 3
"""Looks in a row at which a step has to stand: one that is taken back at once is nobody's date."""


class ClockWatch:
    """Counts how often in a row the clock was seen elsewhere."""

    def __init__(self) -> None:
        self._seen = 0

    def stands(self, stepped_ms: int) -> bool:
        """Whether the clock has been set, to be asked every LOOK_EVERY_S."""
        self._seen = self._seen + 1 if abs(stepped_ms) > STEP_MS_MAX else 0
        return self._seen >= LOOKS
