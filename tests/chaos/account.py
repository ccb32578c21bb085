"""The account at the end of every chaos test: what history has of a host, and what explains each hole in it.

`node_time_seconds` carries the host's own clock as its value, so that a sample which is there says when it was taken:
one that is stored at another time, or twice, or under another host, shows.
"""

import itertools
from dataclasses import dataclass
from datetime import datetime
from typing import Any

INTERVAL_S = 1.0
HOLE = 1.9
"""Neighbours further apart than this many intervals have a hole between them."""
OFF_S = 1.5
"""How far a sample's time may be from the clock in its value: a reading takes a moment, and offsets are fixed."""


@dataclass(frozen=True, slots=True)
class Account:
    """Times of all samples of a host, the holes between them, and the gap rows: of `losses`, what the machine did not
    do by being busy."""

    times: list[float]
    holes: list[tuple[float, float]]
    unexplained: list[tuple[float, float]]
    rows: list[dict[str, Any]]
    losses: list[dict[str, Any]]

    @property
    def reasons(self) -> set[str]:
        """The reasons of all that is missing."""
        return {row["reason"] for row in self.losses}


def account(collector: Any, name: str, seconds: float = 600, *, dated: bool = False) -> Account:
    """The account of one host. Fails at once for a sample that is not what it says; of a `dated` host, whose clock was
    set, only the stored times count."""
    found = collector.raw(f'node_time_seconds{{instance="{name}"}}', seconds)
    for at, clock in found:
        assert dated or abs(at - clock) < OFF_S, f"the sample of {at} says {clock}"
    times = [at for at, _ in found]
    # Readings may lie close together: who was late goes on when the next one is due. No two have the same clock, and
    # it goes forward where nobody sets it.
    for (earlier, one), (later, other) in itertools.pairwise(found):
        assert one < other or (dated and one != other), (
            f"of {one}, two samples for one reading: {earlier}, {later}"
        )
    rows = collector.gaps(name)
    spans = [(_seconds(row["first"]), _seconds(row["last"])) for row in rows if row["first"] and row["last"]]
    holes = [(a, b) for a, b in itertools.pairwise(times) if b - a > HOLE * INTERVAL_S]
    unexplained = [hole for hole in holes if not _covered(hole, spans)]
    return Account(times, holes, unexplained, rows, collector.losses(name))


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _covered(hole: tuple[float, float], spans: list[tuple[float, float]]) -> bool:
    """Whether rows tell of the whole hole, but for an interval at either end."""
    reached = hole[0] + HOLE * INTERVAL_S
    for first, last in sorted(spans):
        if first <= reached:
            reached = max(reached, last + HOLE * INTERVAL_S)
    return reached >= hole[1]
