"""The metric history: every reading, in few bytes, for as long as retention says.

`History` keeps it on this machine (`local` says how); `MetricHistory` is what any other keeper would have to
answer to. `docs/block-format.md` describes the files.
"""

from watchbill_collector.history.local import History, HistoryStatus
from watchbill_collector.history.values import (
    GapRow,
    HistoryCounters,
    HistoryOptions,
    Mark,
    MetricHistory,
    Samples,
    StorageBroken,
    StorageFull,
    Tier,
    TierSamples,
    TooManySamples,
)

__all__ = [
    "GapRow",
    "History",
    "HistoryCounters",
    "HistoryOptions",
    "HistoryStatus",
    "Mark",
    "MetricHistory",
    "Samples",
    "StorageBroken",
    "StorageFull",
    "Tier",
    "TierSamples",
    "TooManySamples",
]
