"""What becomes of a rule's alerts: a pure function of what they were, what the expression gave, and the time.

The states are Prometheus': an alert is *pending* from the first evaluation that gives its labels, *firing*
once it has been given for `for`, *resolved* when it is no longer given (and `keep_firing_for` is over). A
resolved alert is remembered for a while, so that whoever missed the moment can still read of it.

`Hold` is the guard for the time in which nothing can be known: just after a start, before a host has been
heard, while a window is not covered, while what comes is not of now (`certainty.py` decides). An alert that is held
neither fires nor resolves, and a pending one does not age while nothing is known of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum

Labels = tuple[tuple[str, str], ...]
"""A label set: pairs sorted by name, no empty value."""

RESOLVED_KEPT_MS = 900_000
"""How long a resolved alert is remembered, as in Prometheus."""


class AlertState(Enum):
    """Where an alert stands, in the words of Prometheus' HTTP API."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "inactive"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. `labels` identify it; `given` are the labels that the expression gave, for templates.

    Times are UTC milliseconds; `fired_ms`, `resolved_ms` and `keep_since_ms` are 0 while there is no such
    time.
    """

    labels: Labels
    given: Labels
    state: AlertState
    active_ms: int
    fired_ms: int = 0
    resolved_ms: int = 0
    keep_since_ms: int = 0


Key = int
"""A number for a rule's alert: tuples of text are slow to look up, twenty thousand times every 15 s."""
Alerts = Mapping[Key, Alert]
Values = Mapping[Key, float]


@dataclass(frozen=True, slots=True)
class Terms:
    """The times of a rule, in milliseconds."""

    for_ms: int = 0
    keep_firing_for_ms: int = 0


class Doubt(IntEnum):
    """Why an alert cannot be judged. WARMING: too little of its window is known. BLIND: what is known is not of now,
    so that it does not even begin."""

    NONE = 0
    WARMING = 1
    BLIND = 2


Hold = Callable[[Labels], Doubt]
"""Whether what is known of an alert with these labels is too little to judge it."""


def nothing_held(_: Labels) -> Doubt:
    """Everything can be judged."""
    return Doubt.NONE


@dataclass(frozen=True, slots=True)
class Change:
    """An alert that has entered a state."""

    alert: Alert
    before: AlertState | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule's alerts are now. `values` holds the newest value of each that the expression gave,
    ever."""

    alerts: dict[Key, Alert]
    values: dict[Key, float]
    changes: tuple[Change, ...] = field(default=())
    held: int = 0

    @property
    def same(self) -> bool:
        """Whether nothing but values has changed."""
        return not self.changes


def decide(
    before: Alerts,
    old_values: Values,
    given: Values,
    begin: Callable[[Key], tuple[Labels, Labels]],
    terms: Terms,
    now_ms: int,
    hold: Hold = nothing_held,
    elapsed_ms: int = 0,
) -> Verdict:
    """Judge one rule at `now_ms`, when its expression gave the alerts `given`.

    `begin` answers the labels of a new alert, and those that the expression had. `elapsed_ms` is the time since the
    evaluation before: what a pending alert that cannot be seen does not age by.
    """
    after = dict(before)
    changes: list[Change] = []
    held = 0
    for key in given.keys() - before.keys():
        labels, own = begin(key)
        if hold is not nothing_held and hold(labels) is Doubt.BLIND:
            held += 1
            continue
        after[key] = _begun(Alert(labels, own, AlertState.PENDING, now_ms), None, changes)
    for key, alert in before.items():
        if key in given:
            if alert.state is AlertState.RESOLVED:
                if hold(alert.labels) is Doubt.BLIND:
                    held += 1
                    continue
                fresh = Alert(*begin(key), AlertState.PENDING, now_ms)
                after[key] = _begun(fresh, AlertState.RESOLVED, changes)
            elif alert.keep_since_ms:
                after[key] = replace(alert, keep_since_ms=0)
            elif (
                alert.state is AlertState.PENDING
                and hold is not nothing_held
                and (hold(alert.labels) is Doubt.BLIND)
            ):
                after[key] = replace(alert, active_ms=min(now_ms, alert.active_ms + elapsed_ms))
        elif alert.state is AlertState.RESOLVED:
            if now_ms - alert.resolved_ms > RESOLVED_KEPT_MS:
                del after[key]
        elif hold(alert.labels):
            held += 1
            if alert.state is AlertState.PENDING:
                after[key] = replace(alert, active_ms=min(now_ms, alert.active_ms + elapsed_ms))
        else:
            gone = _missing(alert, terms, now_ms)
            if gone is None:
                del after[key]
                changes.append(
                    Change(replace(alert, state=AlertState.RESOLVED, resolved_ms=now_ms), alert.state)
                )
            elif gone is not alert:
                after[key] = gone
                if gone.state is not alert.state:
                    changes.append(Change(gone, alert.state))
    for key in given:
        waiting = after.get(key)
        if waiting is None or waiting.state is not AlertState.PENDING:
            continue
        if now_ms - waiting.active_ms >= terms.for_ms:
            if hold(waiting.labels):
                held += 1
                continue
            after[key] = replace(waiting, state=AlertState.FIRING, fired_ms=now_ms)
            changes.append(Change(after[key], AlertState.PENDING))
    values = dict(given)
    if len(given) < len(after):
        values = {key: value for key, value in old_values.items() if key in after} | values
    return Verdict(after, values, tuple(changes), held)


def _begun(alert: Alert, before: AlertState | None, changes: list[Change]) -> Alert:
    changes.append(Change(alert, before))
    return alert


def _missing(alert: Alert, terms: Terms, now_ms: int) -> Alert | None:
    """What becomes of an alert that is not given any more; None forgets one that never fired."""
    if alert.state is AlertState.PENDING:
        return None
    if terms.keep_firing_for_ms:
        since = alert.keep_since_ms or now_ms
        if now_ms - since < terms.keep_firing_for_ms:
            return alert if alert.keep_since_ms else replace(alert, keep_since_ms=since)
    return replace(alert, state=AlertState.RESOLVED, resolved_ms=now_ms, keep_since_ms=0)


def moved(alert: Alert, by_ms: int) -> Alert:
    """An alert whose times are of a clock that has been set by `by_ms` since."""
    times = alert.active_ms, alert.fired_ms, alert.resolved_ms, alert.keep_since_ms
    active_ms, fired_ms, resolved_ms, keep_since_ms = (at_ms and at_ms + by_ms for at_ms in times)
    return replace(
        alert, active_ms=active_ms, fired_ms=fired_ms, resolved_ms=resolved_ms, keep_since_ms=keep_since_ms
    )


def resumed(alert: Alert, down_ms: int) -> Alert:
    """An alert after a time without evaluations: what is pending has not been seen in it, so it does not
    count."""
    return replace(alert, active_ms=alert.active_ms + down_ms) if alert.state is AlertState.PENDING else alert
