"""A notice made of what was decided: which alerts it lists, what they have in common, what is left out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from watchbill_collector.dispatch.decide import Content, Standings
from watchbill_collector.dispatch.routing import ALERTS_LISTED, Route
from watchbill_collector.dispatch.thread import Queued, Thread, Told
from watchbill_collector.dispatch.values import Described, Service, Severity, Standing, severity_of
from watchbill_collector.notifiers.notice import Notice, NoticeAlert, NoticeKind

Describe = Callable[[Standing], Described]
"""Fills in what a notice says of an alert beside its labels: templates are expanded only for what is listed."""
ServiceOf = Callable[[Mapping[str, str]], Service | None]


@dataclass(frozen=True, slots=True)
class Composer:
    """What all notices are made with. `external_url` has no slash at the end."""

    describe: Describe
    service_of: ServiceOf
    external_url: str

    def page(
        self,
        thread: Thread,
        content: Content,
        route: Route | None,
        standings: Standings,
        now_ms: int,
        wanted: int = 0,
    ) -> tuple[Notice, Queued]:
        """The notice of a thread that pages, and what to remember while it waits. `wanted` alerts are listed though the
        route says fewer.
        """
        listed_max = max(route.alerts_max if route is not None else ALERTS_LISTED, wanted)
        firing = standings.firing
        order = sorted(
            (*content.eligible, *content.still),
            key=lambda key: (_rank(firing.get(key)), _fired(firing.get(key)), key),
        )
        before = _known(thread)
        hushed = frozenset(content.still)
        alerts: list[NoticeAlert] = []
        after: dict[str, Told] = {}
        for key in order:
            standing, told = firing.get(key), before.get(key)
            shown = None
            if len(alerts) < listed_max:
                if standing is not None:
                    shown = self._firing(standing, silenced=key in hushed)
                elif told is not None and told.labels:
                    shown = self._told(key, told, 0)
            if shown is not None:
                alerts.append(shown)
                after[key] = Told(
                    shown.starts_ms, tuple(shown.labels.items()), tuple(shown.annotations.items())
                )
            elif told is not None:
                after[key] = Told(told.starts_ms, told.labels, told.annotations)
            elif standing is not None:
                after[key] = Told(standing.fired_ms)
        for key in content.ended:
            if len(alerts) >= listed_max:
                break
            shown = self._ended(key, standings.resolved.get(key), before.get(key), now_ms)
            if shown is not None:
                alerts.append(shown)
        total = len(order) + len(content.ended)
        source = [firing[key].labels for key in order if key in firing] or [one.labels for one in alerts]
        notice = self._notice(thread, content.kind, alerts, total - len(alerts), source, now_ms)
        return notice, Queued(notice.key, notice.kind.value, after, frozenset(content.ended), now_ms)

    def digest(self, thread: Thread, now_ms: int) -> tuple[Notice, Queued]:
        """The collected news of a channel: what fires worst first, then what came and went."""
        lines = sorted(
            thread.told.items(),
            key=lambda pair: (pair[1].ends_ms > 0, severity_of(dict(pair[1].labels)).rank, pair[1].starts_ms),
        )
        alerts = [self._told(key, told, told.ends_ms) for key, told in lines]
        notice = self._notice(
            thread, NoticeKind.DIGEST, alerts, thread.left_out, [one.labels for one in alerts], now_ms
        )
        ended = frozenset(key for key, told in lines if told.ends_ms)
        after = {key: told for key, told in lines if not told.ends_ms}
        return notice, Queued(notice.key, notice.kind.value, after, ended, now_ms)

    def _notice(
        self,
        thread: Thread,
        kind: NoticeKind,
        alerts: Sequence[NoticeAlert],
        left_out: int,
        labels: Sequence[Mapping[str, str]],
        now_ms: int,
    ) -> Notice:
        ranks = [severity_of(one) for one in labels]
        worst = min(ranks, key=lambda one: one.rank, default=Severity.MINOR)
        return Notice(
            key=f"{thread.group_key}-{thread.number + 1}",
            group_key=thread.group_key,
            channel=thread.channel,
            route=thread.route,
            kind=kind,
            severity=worst.value,
            group_labels=dict(thread.group),
            common_labels=_common(labels),
            common_annotations=_common([one.annotations for one in alerts]),
            alerts=tuple(alerts),
            alerts_left_out=left_out,
            created_ms=now_ms,
            external_url=self.external_url,
            remark=_TEMPLATE_FAILED if any(map(_failed, alerts)) else "",
        )

    def _firing(self, alert: Standing, *, silenced: bool = False) -> NoticeAlert:
        described = self.describe(alert)
        service = self.service_of(alert.labels)
        return NoticeAlert(
            fingerprint=alert.fingerprint,
            labels=alert.labels,
            annotations=described.annotations,
            status="firing",
            starts_ms=alert.fired_ms,
            ends_ms=None,
            value=described.value,
            generator_url=described.generator_url,
            service=service.name if service else "",
            owner=service.owner if service else "",
            incomplete=described.incomplete,
            silenced=silenced,
        )

    def _ended(self, key: str, alert: Standing | None, told: Told | None, now_ms: int) -> NoticeAlert | None:
        """An alert that is over: as its channel was told of it, or as its rule remembers it."""
        if told is not None and told.labels:
            ends_ms = alert.resolved_ms if alert is not None and alert.resolved_ms else now_ms
            return self._told(key, told, ends_ms)
        if alert is None:
            return None
        described = self.describe(alert)
        starts_ms = told.starts_ms if told is not None else alert.fired_ms
        told = Told(starts_ms, tuple(alert.labels.items()), tuple(described.annotations.items()))
        return self._told(key, told, alert.resolved_ms or now_ms)

    def _told(self, key: str, told: Told, ends_ms: int) -> NoticeAlert:
        labels = dict(told.labels)
        service = self.service_of(labels)
        return NoticeAlert(
            fingerprint=key,
            labels=labels,
            annotations=dict(told.annotations),
            status="resolved" if ends_ms else "firing",
            starts_ms=told.starts_ms,
            ends_ms=ends_ms or None,
            value=None,
            generator_url="",
            service=service.name if service else "",
            owner=service.owner if service else "",
        )


def line_of(alert: Standing, described: Described) -> Told:
    """A line of a digest."""
    return Told(alert.fired_ms, tuple(alert.labels.items()), tuple(described.annotations.items()))


_TEMPLATE_FAILED = "A template of an annotation failed; its text says how."
_FAILED_START = "<error expanding template"


def _failed(alert: NoticeAlert) -> bool:
    return any(text.startswith(_FAILED_START) for text in alert.annotations.values())


def _known(thread: Thread) -> dict[str, Told]:
    known = dict(thread.queued.after) if thread.queued is not None else {}
    return known | {key: told for key, told in thread.told.items() if told.labels or key not in known}


def _common(rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The pairs that all have."""
    iterator: Iterator[Mapping[str, str]] = iter(rows)
    common = dict(next(iterator, {}))
    for row in iterator:
        if not common:
            break
        common = {name: text for name, text in common.items() if row.get(name) == text}
    return common


def _rank(alert: Standing | None) -> int:
    return alert.severity.rank if alert is not None else len(Severity)


def _fired(alert: Standing | None) -> int:
    return alert.fired_ms if alert is not None else 0


def nobody_serves(_: Mapping[str, str]) -> Service | None:
    """There is no book of services."""
    return None


__all__ = ["Composer", "Describe", "ServiceOf", "line_of", "nobody_serves"]
