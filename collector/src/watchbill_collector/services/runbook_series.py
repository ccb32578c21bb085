"""How runbooks stand, as series: `watchbill_runbook_*`, for rules, queries and whoever draws them.

They carry `runbook`, and no host: a runbook is of the site. What does not hold any more gets a stale marker, so that
its alerts end.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.series import STALE_BITS, SeriesTable, Ticks

READY: Final = "watchbill_runbook_ready"
ACCEPTED: Final = "watchbill_runbook_accepted"
OPEN: Final = "watchbill_runbook_runs_open"
HELD: Final = "watchbill_runbook_held"
FAILED: Final = "watchbill_runbook_failed"
STOPPED: Final = "watchbill_runbook_stopped"
BREAKER: Final = "watchbill_runbook_breaker_open"
DRILL_LAST: Final = "watchbill_runbook_drill_last_timestamp_seconds"
DRILL_OVERDUE: Final = "watchbill_runbook_drill_overdue"
DRILL_FAILED: Final = "watchbill_runbook_drill_failed"
RECOVERY: Final = "watchbill_runbook_recovery_seconds"
OBJECTIVE: Final = "watchbill_runbook_objective_rto_seconds"

_HELP: Final = {
    READY: "Whether a runbook could be run, when it was last looked.",
    ACCEPTED: "Whether somebody accepted its text.",
    OPEN: "Its runs that are open, by state.",
    HELD: "Its runs that are held: a person has to decide.",
    FAILED: "Whether its newest run in earnest failed, within the last day.",
    STOPPED: "Proposals of a trigger that would have begun by itself, and was stopped.",
    BREAKER: "Whether so many of its runs did not end well that its trigger only proposes.",
    DRILL_LAST: "When it was last rehearsed.",
    DRILL_OVERDUE: "Whether it should have been rehearsed by now.",
    DRILL_FAILED: "Whether its newest rehearsal failed.",
    RECOVERY: "How long recovery takes in drills: nine of ten took no longer.",
    OBJECTIVE: "How long it may take.",
}

Reading = tuple[str, tuple[tuple[str, str], ...]]
"""A metric and its labels."""


class RunbookSeries:
    """Makes the samples; whoever has it hands them on."""

    def __init__(self, table: SeriesTable) -> None:
        self._table = table
        self._said: dict[Reading, int] = {}
        self._said_ms = 0
        for name, text in _HELP.items():
            table.describe(name, "gauge", text)

    def say(self, readings: Mapping[Reading, float], now_ms: int) -> list[Ticks]:
        """It stands so now: everything that holds, and the ends of what does not any more."""
        # An end has to come later than what was said last, or the value of that moment would stand.
        now_ms = self._said_ms = max(now_ms, self._said_ms + 1)
        before, self._said = self._said, {}
        for name, labels in readings:
            known = before.get((name, labels))
            self._said[name, labels] = (
                known if known is not None else self._table.series_of({METRIC_NAME: name, **dict(labels)})
            )
        gone = [number for key, number in before.items() if key not in self._said]
        ticks = [_ticks(list(self._said.values()), np.array([list(readings.values())], np.float64), now_ms)]
        if gone:
            # Made from bits: arithmetic would turn them into ordinary NaNs.
            ends = np.full((1, len(gone)), STALE_BITS, np.uint64).view(np.float64)
            ticks.append(_ticks(gone, ends, now_ms))
        return [one for one in ticks if len(one.series)]


def _ticks(
    numbers: Sequence[int], values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", now_ms: int
) -> Ticks:
    return Ticks(np.array(numbers, np.uint32), np.array([now_ms], np.int64), values)
