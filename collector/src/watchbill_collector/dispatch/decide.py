"""What one thread of notices needs next: pure decisions about one route, channel and group.

A delivered firing always gets its end, so whatever the channel may believe counts: what it was told, and what
it was told in an attempt of which nobody knows the outcome. Whatever it may not have heard is told. From these
two rules the rest follows:

- A firing that waits in the queue while its alerts end is replaced by their end alone: people read that it
  came and went, and nobody is paged for the past.
- A silence stops new notices and repeats, never an end.
- A route that changes or goes keeps its threads until what they were told has ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from watchbill_collector.dispatch.routing import Route
from watchbill_collector.dispatch.thread import Queued, Thread, Told
from watchbill_collector.dispatch.values import Standing
from watchbill_collector.notifiers.notice import NoticeKind


@dataclass(frozen=True, slots=True)
class Standings:
    """How every alert stands. `complete`: what is in neither has ended, and is not merely not heard of yet."""

    firing: Mapping[str, Standing]
    resolved: Mapping[str, Standing]
    complete: bool

    def over(self, fingerprint: str) -> bool:
        """Whether an alert that once fired does not any more."""
        return fingerprint not in self.firing and (self.complete or fingerprint in self.resolved)


@dataclass(frozen=True, slots=True)
class Content:
    """What a notice is to say. `eligible` alerts fire and nothing hushes them; `still` fire, and were told before;
    `ended` are over."""

    kind: NoticeKind
    eligible: tuple[str, ...]
    still: tuple[str, ...]
    ended: tuple[str, ...]

    @property
    def after(self) -> frozenset[str]:
        """What the channel believes fires, once it has it."""
        return frozenset(self.eligible) | frozenset(self.still)


class Step(Enum):
    """What to do with a thread."""

    NOTHING = "nothing"
    QUEUE = "queue"
    REPLACE = "replace"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now; `due_ms` is when to look again where it is not yet time, 0 without."""

    step: Step
    content: Content | None = None
    due_ms: int = 0


_NOTHING = Decision(Step.NOTHING)


def decide(
    thread: Thread,
    eligible: Mapping[str, Standing],
    route: Route | None,
    standings: Standings,
    *,
    attempted: bool,
    in_flight: bool,
    now_ms: int,
    refresh_ms: int = 0,
) -> Decision:
    """What a thread that pages needs. `attempted`: its queued notice was tried; `in_flight`: it is being tried.

    `refresh_ms`: how soon the channel's peer takes for over what it is not told again; 0: never.
    """
    if in_flight:
        return _NOTHING
    content, due_ms = _wanted(
        thread, eligible, route, standings, attempted=attempted, now_ms=now_ms, refresh_ms=refresh_ms
    )
    queued = thread.queued
    if queued is not None:
        if content is None:
            return Decision(Step.DROP)
        same = (
            queued.kind == content.kind.value
            and frozenset(queued.after) == content.after
            and queued.ended == frozenset(content.ended)
        )
        return _NOTHING if same else Decision(Step.REPLACE, content)
    if content is None:
        return _NOTHING if not due_ms else Decision(Step.NOTHING, due_ms=due_ms)
    return Decision(Step.QUEUE, content) if due_ms <= now_ms else Decision(Step.NOTHING, due_ms=due_ms)


def _wanted(
    thread: Thread,
    eligible: Mapping[str, Standing],
    route: Route | None,
    standings: Standings,
    *,
    attempted: bool,
    now_ms: int,
    refresh_ms: int,
) -> tuple[Content | None, int]:
    """What a notice would say, None when there is nothing to say; and when it is, or will be, time for it."""
    perhaps, surely = beliefs(thread, attempted=attempted)
    ended = tuple(fingerprint for fingerprint in perhaps if standings.over(fingerprint))
    over = frozenset(ended)
    # What only waits, and is hushed meanwhile, is not told after all.
    heard = thread.told.keys() | (thread.queued.after.keys() if thread.queued and attempted else set())
    still = tuple(one for one in perhaps if one in heard and one not in over and one not in eligible)
    fresh = [alert for fingerprint, alert in eligible.items() if fingerprint not in surely]
    told_ms = _past(thread.told_ms, now_ms)
    if not eligible and not still:
        return (Content(NoticeKind.RESOLVED, (), (), ended), now_ms) if ended else (None, 0)
    content = Content(NoticeKind.FIRING, tuple(eligible), still, ended)
    if fresh and not thread.told and route is not None:
        worst = min((alert.severity for alert in fresh), key=lambda severity: severity.rank)
        first_ms = min(alert.fired_ms for alert in fresh)
        wait_until_ms = _past(first_ms, now_ms) + route.wait_for(worst)
        if thread.refused_ms:  # The channel gave a final no: not again and again.
            wait_until_ms = max(wait_until_ms, _past(thread.refused_ms, now_ms) + route.repeat_ms)
        return content, wait_until_ms
    if fresh or ended:
        interval_ms = route.interval_ms if route is not None else 0
        return content, told_ms + (min(interval_ms, refresh_ms) if refresh_ms else interval_ms)
    again_ms = refresh_ms
    if eligible and route is not None:
        again_ms = min(route.repeat_ms, refresh_ms) if refresh_ms else route.repeat_ms
    if again_ms:
        due_ms = told_ms + again_ms
        return (content, due_ms) if due_ms <= now_ms else (None, due_ms)
    return None, 0


def _past(at_ms: int, now_ms: int) -> int:
    """A time as it was written down; one that is still to come was written before somebody set the clock back,
    and is long ago: nobody is to wait until it comes again."""
    return at_ms if at_ms <= now_ms else 0


def beliefs(thread: Thread, *, attempted: bool) -> tuple[list[str], frozenset[str]]:
    """What the channel may believe fires, and what it surely does."""
    queued = thread.queued
    sure = frozenset(fingerprint for fingerprint, told in thread.told.items() if told.sure)
    if queued is None:
        return list(thread.told), sure
    perhaps = list(dict.fromkeys([*thread.told, *queued.after]))
    # Tried, with an outcome that nobody knows: only what holds either way is sure.
    return perhaps, sure & frozenset(queued.after) if attempted else sure


def without_queued(thread: Thread, *, attempted: bool) -> Thread:
    """The thread, when its queued notice is taken back. What was tried may have been heard: it is not forgotten."""
    queued = thread.queued
    if queued is None or not attempted:
        return replace(thread, queued=None)
    told = {}
    for fingerprint, one in {**queued.after, **thread.told}.items():
        both = fingerprint in thread.told and fingerprint in queued.after
        told[fingerprint] = one if both else replace(one, sure=False)
    return replace(thread, queued=None, told=told)


def accepted(thread: Thread, queued: Queued, now_ms: int) -> Thread:
    """The thread, when the channel has accepted its notice."""
    if queued.kind == NoticeKind.DIGEST.value:
        told = {key: one for key, one in thread.told.items() if key not in queued.ended}
        return replace(thread, told=told, queued=None, told_ms=now_ms, changed_ms=now_ms, left_out=0)
    return replace(
        thread, told=dict(queued.after), queued=None, told_ms=now_ms, refused_ms=0, changed_ms=now_ms
    )


def refused(thread: Thread, queued: Queued, now_ms: int, *, attempted_unknown: bool) -> Thread:
    """The thread, when its notice will not be tried again: the channel said a final no, or time ran out.

    An end that could not be told is forgotten: it is counted, and trying for ever helps nobody. After a firing
    the thread waits for `repeat`, or for its alerts to change.
    """
    if queued.kind == NoticeKind.DIGEST.value:
        return replace(thread, queued=None, told_ms=now_ms, changed_ms=now_ms)
    if queued.kind == NoticeKind.RESOLVED.value:
        return replace(thread, told={}, queued=None, told_ms=now_ms, changed_ms=now_ms)
    bare = without_queued(thread, attempted=attempted_unknown)
    told = {key: one for key, one in bare.told.items() if key not in queued.ended}
    return replace(bare, told=told, told_ms=now_ms, refused_ms=now_ms, changed_ms=now_ms)


__all__ = [
    "Content",
    "Decision",
    "Standings",
    "Step",
    "Told",
    "accepted",
    "beliefs",
    "decide",
    "refused",
    "without_queued",
]
