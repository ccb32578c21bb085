"""Who was told of an alert, for the HTTP side."""

import asyncio
from collections.abc import Callable
from typing import Final

from watchbill.clock import Clock
from watchbill_collector.api.alert_list import is_hushed
from watchbill_collector.api.ports import Alert, at
from watchbill_collector.api.told_port import Told, ToldNotice, ToldWait
from watchbill_collector.dispatch.dispatcher import Dispatcher
from watchbill_collector.dispatch.routing import Routing
from watchbill_collector.dispatch.telling import About, Wait, notices_about, threads_of, waits
from watchbill_collector.store import Store, outbox

NOTICES_SHOWN: Final = 50
ROWS_OF_THREADS: Final = 200
ROWS_BEHIND: Final = 100
"""Notices looked at behind the beginning and behind the end of an alert, whichever thread they were of: that of an
alert that ended is forgotten.
"""
DIGEST_AHEAD_MS: Final = 8 * 86_400_000


class AlertTelling:
    """`api.told_port.TellingService` over the dispatcher and the outbox."""

    def __init__(
        self, dispatcher: Dispatcher, store: Store, clock: Clock, routing: Callable[[], Routing]
    ) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._clock = clock
        self._routing = routing

    async def told(self, alert: Alert) -> Told:
        """Of one alert."""
        dispatcher = self._dispatcher
        threads, places = dispatcher.outbox.threads, dispatcher.places
        keys = threads_of(alert.fingerprint, threads, places)
        routing = self._routing()
        waiting = waits(
            alert.fingerprint,
            threads,
            places,
            dispatcher.outbox.waiting,
            dispatcher.due,
            {one.name: one for one in dispatcher.health()},
            routing.digest.next(routing.digest_zone, self._clock.wall_ms(), DIGEST_AHEAD_MS),
        )
        about = await asyncio.to_thread(self._about, alert, frozenset(keys))
        nobody = "" if waiting or about or keys else self._why_nobody(alert, routing)
        shown = [_notice(one) for one in about[:NOTICES_SHOWN]]
        return Told(shown, [_wait(one) for one in waiting], nobody, len(about) > len(shown))

    def _about(self, alert: Alert, keys: frozenset[str]) -> list[About]:
        site = self._store.site
        began_ms = round(alert.active_at.timestamp() * 1000)
        rows = self._store.read(
            lambda c: (
                outbox.notices_of_threads(c, site, sorted(keys), began_ms, ROWS_OF_THREADS) if keys else []
            )
        )
        starts = [began_ms, round(alert.since.timestamp() * 1000)]
        if alert.resolved_at is not None:
            starts.append(round(alert.resolved_at.timestamp() * 1000))
        for since_ms in dict.fromkeys(starts):
            rows += self._store.read(
                lambda c, since_ms=since_ms: outbox.notices_since(c, site, since_ms, ROWS_BEHIND)  # type: ignore[misc]
            )
        return notices_about(alert.fingerprint, rows, keys)

    def _why_nobody(self, alert: Alert, routing: Routing) -> str:
        if alert.state != "firing":
            return ""
        if is_hushed(alert):
            return "hushed"
        if not self._dispatcher.health():
            return "none"
        return "way" if routing.routes_of(alert.labels) else "no_route"


def _notice(about: About) -> ToldNotice:
    row = about.row
    return ToldNotice(
        key=row.notice_key,
        channel=row.channel,
        route=about.route,
        kind=row.kind,
        said=about.status,
        outcome=row.outcome,
        attempts=row.attempts,
        created=at(row.created_ms),
        changed=at(row.changed_ms),
        detail=row.detail,
    )


def _wait(wait: Wait) -> ToldWait:
    return ToldWait(
        channel=wait.channel,
        route=wait.route,
        waits_for=wait.waits_for.value,
        due=at(wait.due_ms) if wait.due_ms else None,
        attempts=wait.attempts,
        why=wait.why,
    )
