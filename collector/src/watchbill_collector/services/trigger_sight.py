"""What triggers look at: alerts as they stand in the rulebook, silences and maintenance. Read from any thread."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from watchbill.clock import Clock
from watchbill_collector.dispatch.silence import Silence
from watchbill_collector.dispatch.values import fingerprint_of
from watchbill_collector.dispatch.windows import Window, open_windows
from watchbill_collector.rules import AlertingRun, AlertState, Rulebook
from watchbill_collector.runbooks.triggers import Firing

Quiet = Callable[[Mapping[str, str]], list[str]]
"""What is silenced or in maintenance of what has these labels, in words."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Alerts that fire, and the names of those whose rules were judged: of others nothing is known."""

    firing: tuple[Firing, ...] = ()
    judged: frozenset[str] = frozenset()


def look(book: Rulebook, names: Collection[str]) -> Seen:
    """The alerts of these names, as of one moment. Blocks."""
    return book.between(lambda: _look(book, names))


def _look(book: Rulebook, names: Collection[str]) -> Seen:
    firing: list[Firing] = []
    judged: set[str] = set()
    for group in book.groups():
        for run in group.runs:
            if not isinstance(run, AlertingRun) or run.rule.name not in names or not run.health.evaluated_ms:
                continue
            judged.add(run.rule.name)
            firing += [
                Firing(
                    name=alert.rule,
                    fingerprint=fingerprint_of(tuple(sorted(alert.labels.items()))),
                    labels=alert.labels,
                    fired_ms=alert.fired_ms,
                    judged_ms=run.health.evaluated_ms,
                    every_ms=group.group.interval_ms,
                    incomplete=alert.incomplete,
                )
                for alert in book.alerts_of(group.group.name, run)
                if alert.state is AlertState.FIRING
            ]
    return Seen(tuple(firing), frozenset(judged))


def quiet(
    silences: Callable[[], Iterable[Silence]], windows: Callable[[], tuple[Window, ...]], clock: Clock
) -> Quiet:
    """Asks silences and windows of maintenance themselves: what dispatch made of them is of its last turn, and of
    alerts alone."""

    def asked(labels: Mapping[str, str]) -> list[str]:
        now_ms = clock.wall_ms()
        found = [
            f"{one.author} has silenced it: {one.reason}"
            for one in silences()
            if one.active(now_ms) and one.silences(labels)
        ]
        muted = open_windows(windows(), now_ms).muted
        return found + [f"it is in maintenance: {name}" for name, match in muted if match.matches(labels)]

    return asked
