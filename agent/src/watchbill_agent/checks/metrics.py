"""What the runtime of checks says of itself: series of a host that has checks, and of no other."""

from collections.abc import Callable
from typing import Final

from watchbill_agent.checks.present import Counts
from watchbill_agent.reading import Family, Layout, MetricType, Reading, Series

PREFIX: Final = "watchbill_agent_"
_GAUGE, _COUNTER = MetricType.GAUGE, MetricType.COUNTER

_ROWS: Final[tuple[tuple[str, MetricType, str, Callable[[Counts], float]], ...]] = (
    ("checks", _GAUGE, "Checks of this host.", lambda c: c.checks),
    ("check_looks_total", _COUNTER, "Looks that ended.", lambda c: c.looks),
    ("check_looks_not_ok_total", _COUNTER, "Looks whose verdict was not ok.", lambda c: c.looks_failed),
    ("check_timeouts_total", _COUNTER, "Looks that did not end in time.", lambda c: c.timeouts),
    ("check_late_total", _COUNTER, "Looks that began more than half a second late.", lambda c: c.late),
    (
        "check_lateness_seconds",
        _GAUGE,
        "How late the latest look since the last time was.",
        lambda c: c.late_s_max,
    ),
    (
        "check_killed_total",
        _COUNTER,
        "Processes of checks that were killed at their deadline.",
        lambda c: c.killed,
    ),
    (
        "check_files_unanswered_total",
        _COUNTER,
        "Files that checks need and that did not answer in time.",
        lambda c: c.files_unanswered,
    ),
    (
        "check_restarts_total",
        _COUNTER,
        "Times the process of checks began again.",
        lambda c: c.child_restarts,
    ),
    (
        "check_samples_dropped_total",
        _COUNTER,
        "Samples of checks that were too many.",
        lambda c: c.samples_dropped,
    ),
    ("check_events_total", _COUNTER, "Changes of a verdict that were told.", lambda c: c.told),
    (
        "check_events_held_total",
        _COUNTER,
        "Changes that were too many to be told one by one.",
        lambda c: c.untold,
    ),
    (
        "check_events_dropped_total",
        _COUNTER,
        "Events that checks told and that were too many.",
        lambda c: c.happenings_dropped,
    ),
)
LAYOUT: Final = Layout(
    [Family(PREFIX + name, kind, help_) for name, kind, help_, _ in _ROWS],
    [Series(PREFIX + name) for name, _, _, _ in _ROWS],
)


def reading(counts: Counts) -> Reading:
    """The counts as they are."""
    return Reading(LAYOUT, [round(float(value(counts)), 6) for _, _, _, value in _ROWS])
