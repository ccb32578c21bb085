"""Whether an alert, or the clock, starts a runbook: at once, as a proposal, later, or not at all.

    one run for each alert   an alert that goes on firing starts no second one, over restarts as well, and none where
                             somebody ran the same while it fired; one that ended and comes again may, within limits
    for                      it has fired for so long, without a break
    evidence                 it was judged just now, on data of which nothing is missing
    agree                    so many different views are of its opinion (`views.py`)
    restraint                nothing is silenced or in maintenance that it is about, or that it would touch

What is not satisfied makes a proposal of what would have begun by itself: a person sees more than a trigger. Limits,
breaker, pause and acceptance are judged by who makes the run, in the moment in which it is made
(`run/restraint.py`), and make a proposal of it, too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo

from watchbill.cron import read_cron
from watchbill_collector.runbooks.model import Trigger
from watchbill_collector.runbooks.views import Opinion, View

FRESH_MS: Final = 60_000
"""How long after its turn a rule may be judged, so that what it says is of now."""
SCHEDULE_LATE_MS: Final = 10 * 60_000
"""A moment of a schedule that passed longer ago is over: nobody expects the work of the night at noon."""
SCHEDULE_AHEAD_MS: Final = 366 * 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """An alert that fires. `fingerprint` is of its labels; `incomplete` what is missing of its data; `judged_ms` when
    its rule was last judged, which is done every `every_ms`."""

    name: str
    fingerprint: str
    labels: Mapping[str, str]
    fired_ms: int
    judged_ms: int
    every_ms: int
    incomplete: str = ""

    @property
    def mark(self) -> str:
        """What runs say that this alert asked for."""
        return f"alert {self.name} {self.fingerprint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A run in earnest of the same runbook. `ended_ms` is 0 while it is open."""

    run_id: str
    mark: str
    ended_ms: int
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Start:
    """It begins by itself."""


@dataclass(frozen=True, slots=True)
class Propose:
    """A person is asked; `why` is why it does not begin by itself."""

    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again at this moment."""

    until_ms: int


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing is to be done."""

    why: str


Verdict = Start | Propose | Wait | Nothing


def due(
    trigger: Trigger,
    alert: Firing,
    earlier: Iterable[Earlier],
    parameters: Mapping[str, str],
    now_ms: int,
    moving: frozenset[str] = frozenset(),
) -> Wait | Nothing | None:
    """Whether the moment has come at all; None: it has, and `decide` is asked. `parameters` are those that it would
    have but for those that are others whenever it begins, which are `moving`."""
    from_ms = alert.fired_ms + round(trigger.for_s * 1000)
    if now_ms < from_ms:
        return Wait(from_ms)
    for one in earlier:
        if one.ended_ms and one.ended_ms <= alert.fired_ms:
            continue
        # It helped, or it did not: in either case a person is next.
        if one.mark == alert.mark or _still(one.parameters, moving) == parameters:
            return Nothing(f"run {one.run_id} was made for it")
    return None


def _still(parameters: Mapping[str, str], moving: frozenset[str]) -> dict[str, str]:
    return {name: text for name, text in parameters.items() if name not in moving}


def decide(
    trigger: Trigger, alert: Firing, views: Sequence[View], hushed: Sequence[str], now_ms: int
) -> Start | Propose:
    """What becomes of an alert whose moment has come. `hushed` names silences and maintenance of what it is about."""
    why: list[str] = []
    if not trigger.auto:
        why.append("its trigger proposes")
    late_ms = now_ms - alert.judged_ms - alert.every_ms
    if late_ms > FRESH_MS:
        why.append(f"the alert was last judged {(now_ms - alert.judged_ms) // 1000} s ago")
    if alert.incomplete:
        why.append(f"its data is incomplete: {alert.incomplete}")
    why += disagreement(trigger, views)
    why += hushed
    return Propose(tuple(why)) if why else Start()


def disagreement(trigger: Trigger, views: Sequence[View]) -> list[str]:
    """Why the quorum is not there; empty when it is, or none is wanted."""
    if not trigger.agree_least:
        return []
    agreed = len({one.name for one in views if one.opinion is Opinion.AGREES})
    against = [str(one) for one in views if one.opinion is Opinion.CONTRADICTS]
    if agreed >= trigger.agree_least and not against:
        return []
    others = [str(one) for one in views if one.opinion is not Opinion.AGREES]
    return [f"{agreed} of {len(views)} views agree, wanted {trigger.agree_least}: {'; '.join(others)}"]


def schedule_mark(trigger: Trigger, at_ms: int) -> str:
    """What a run says that a moment of a schedule asked for."""
    return f"schedule {trigger.schedule} {at_ms}"


def schedule_moment(trigger: Trigger, after_ms: int, now_ms: int) -> tuple[int, int]:
    """The newest moment of a schedule after `after_ms` that is not over yet, and the next one to come; 0 for none."""
    cron, zone = read_cron(trigger.schedule), ZoneInfo(trigger.zone or "UTC")
    within_ms = min(now_ms - after_ms, SCHEDULE_LATE_MS)
    found = cron.latest(zone, now_ms, within_ms) if within_ms > 0 else 0
    return found, cron.next(zone, now_ms, SCHEDULE_AHEAD_MS)
