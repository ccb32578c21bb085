"""The newest samples of what rules read, in windows laid out for judging all hosts at once."""

from watchbill_collector.head.head import Head, Watch
from watchbill_collector.head.hearing import UP_MATCHERS, Heard, Hearing
from watchbill_collector.head.reading import Ends, Newest, Selection
from watchbill_collector.head.refill import Filled, Past, refill
from watchbill_collector.head.rings import LOOKBACK_MS, HeadStats

__all__ = [
    "LOOKBACK_MS",
    "UP_MATCHERS",
    "Ends",
    "Filled",
    "Head",
    "HeadStats",
    "Heard",
    "Hearing",
    "Newest",
    "Past",
    "Selection",
    "Watch",
    "refill",
]
