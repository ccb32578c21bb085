"""From the stretches in which a condition held to the alerts that a rule would have made of them. Pure.

A stretch is two moments of the evaluation grid, both of them judged and both given by the expression. What comes out
is what `rules.alerts.decide` says when it is asked step by step; a property test holds the two together.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Firing:
    """One time that an alert fired: from the evaluation that fired it to the one that ended it. UTC milliseconds.

    `to_ms` is None while it still fires at the end.
    """

    from_ms: int
    to_ms: int | None


@dataclass(frozen=True, slots=True)
class Episodes:
    """What became of one series: how long it was pending in all, and each time it fired."""

    pending_ms: int
    firings: tuple[Firing, ...]


Stretch = tuple[int, int]


def episodes(
    stretches: Sequence[Stretch], for_ms: int, keep_firing_for_ms: int, step_ms: int, end_ms: int
) -> Episodes:
    """Judge the stretches of one series, in their order; `end_ms` is the last moment judged."""
    pending_ms = 0
    firings: list[Firing] = []
    fired_ms: int | None = None  # Since when it fires.
    ends_ms = 0  # When a firing alert ends, if nothing is given before.
    for first_ms, last_ms in stretches:
        if fired_ms is not None and first_ms > ends_ms:
            firings.append(Firing(fired_ms, ends_ms))
            fired_ms = None
        if fired_ms is None:
            fires_ms = first_ms + _up(for_ms, step_ms)
            if fires_ms > last_ms:
                pending_ms += min(last_ms + step_ms, end_ms) - first_ms
                continue
            pending_ms += fires_ms - first_ms
            fired_ms = fires_ms
        # Missed first one step later; kept until that has been so for long enough.
        ends_ms = last_ms + step_ms + _up(keep_firing_for_ms, step_ms)
    if fired_ms is not None:
        firings.append(Firing(fired_ms, ends_ms if ends_ms <= end_ms else None))
    return Episodes(pending_ms, tuple(firings))


def _up(duration_ms: int, step_ms: int) -> int:
    """A duration in whole steps: a rule is judged at no other moment."""
    return -(-duration_ms // step_ms) * step_ms
