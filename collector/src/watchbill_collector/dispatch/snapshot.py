"""The alerts of the rules as dispatch sees them: read after every evaluation, quick while nothing changes.

Nothing depends on hearing of a change: every read looks at all rules. A rule whose alerts are the same objects
as last time costs one comparison of two dictionaries; 20 rules over 1,000 hosts take well under a millisecond.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from watchbill_collector.dispatch.values import Described, Labels, Standing, Way, fingerprint_of, severity_of
from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.rules import AlertingRun, AlertState, Rulebook
from watchbill_collector.rules.alerts import Alert
from watchbill_collector.rules.needs import watches

NOTIFY: Final = "notify"
"""The annotation by which a rule says its way: page, digest or none. It is no label, so it changes no alert."""
PRESENCE: Final = "up"
FINGERPRINTS_MAX: Final = 100_000
"""Fingerprints remembered for one rule; all are forgotten together when there are more."""


@dataclass(slots=True)
class _Chunk:
    """The alerts of one rule, and what they were read from."""

    alerts: Mapping[int, Alert]
    standings: tuple[Standing, ...]
    host_down: bool
    way: Way | None
    fingerprints: dict[Labels, str]


class Snapshot:
    """Reads a rulebook. `external_url` is where people reach the page, without a slash at the end."""

    def __init__(self, book: Rulebook, external_url: str = "") -> None:
        self._book = book
        self._external_url = external_url
        self._chunks: dict[AlertingRun, _Chunk] = {}

    def read(self) -> tuple[Sequence[Standing], bool]:
        """What fires and what resolved lately; and whether that differs from the last time.

        Between two evaluations: what fires in one is told together. Waits for one that runs.
        """
        return self._book.between(self._read)

    def _read(self) -> tuple[Sequence[Standing], bool]:
        chunks: dict[AlertingRun, _Chunk] = {}
        changed = False
        for group, run in self._runs():
            alerts = run.verdict.alerts
            chunk = self._chunks.get(run)
            if chunk is None or chunk.alerts != alerts:
                chunk = _read(group, run, alerts, chunk)
                changed = True
            else:
                chunk.alerts = alerts
            chunks[run] = chunk
        changed = changed or chunks.keys() != self._chunks.keys()
        self._chunks = chunks
        return [standing for chunk in chunks.values() for standing in chunk.standings], changed

    def describe(self, standing: Standing) -> Described:
        """Annotations, value and the page of an alert of this snapshot."""
        if not isinstance(standing.source, tuple):
            return Described()
        group, run, alert = standing.source
        shown = self._book.shown(group, run, alert)
        annotations = {name: text for name, text in shown.annotations.items() if name != NOTIFY}
        page = f"{self._external_url}/graph?g0.expr={quote(run.rule.expr, safe='')}&g0.tab=1"
        return Described(
            annotations,
            None if math.isnan(shown.value) else shown.value,
            page if self._external_url else "",
            bool(shown.incomplete),
        )

    def _runs(self) -> Iterator[tuple[str, AlertingRun]]:
        for group in self._book.groups():
            for run in group.runs:
                if isinstance(run, AlertingRun):
                    yield group.group.name, run


def _read(group: str, run: AlertingRun, alerts: Mapping[int, Alert], before: _Chunk | None) -> _Chunk:
    known = before.fingerprints if before is not None else {}
    if len(known) > FINGERPRINTS_MAX:
        known = {}
    host_down = before.host_down if before is not None else _about_hosts(run)
    way = before.way if before is not None else _way(run)
    old = {one.source[2]: one for one in before.standings if isinstance(one.source, tuple)} if before else {}
    standings = []
    for alert in alerts.values():
        if alert.state is AlertState.PENDING:
            continue
        same = old.get(alert)
        if same is not None:
            standings.append(same)
            continue
        fingerprint = known.get(alert.labels)
        if fingerprint is None:
            fingerprint = known[alert.labels] = fingerprint_of(alert.labels)
        labels = dict(alert.labels)
        standings.append(
            Standing(
                fingerprint=fingerprint,
                labels=labels,
                firing=alert.state is AlertState.FIRING,
                fired_ms=alert.fired_ms,
                resolved_ms=alert.resolved_ms,
                rule=run.rule.name,
                severity=severity_of(labels),
                way=way,
                host_down=host_down,
                source=(group, run, alert),
            )
        )
    return _Chunk(alerts, tuple(standings), host_down, way, known)


def _about_hosts(run: AlertingRun) -> bool:
    """Whether a rule judges nothing but whether hosts are heard: it reads `up` alone."""
    names = [
        matcher.value
        for watch in watches(run.rule.plan.expr)
        for matcher in watch.matchers
        if matcher.name == METRIC_NAME
    ]
    return bool(names) and set(names) == {PRESENCE}


def _way(run: AlertingRun) -> Way | None:
    text = next((template.text for name, template in run.rule.annotations if name == NOTIFY), "")
    return next((way for way in Way if way.value == text), None)
