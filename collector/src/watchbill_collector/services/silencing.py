"""Silences and the outbox, for the HTTP side."""

import asyncio
from collections.abc import Callable, Sequence

from watchbill.clock import Clock
from watchbill.errors import UsageError
from watchbill_collector.api.ports import Alert, Caller, NoSuch, RulesService, at
from watchbill_collector.api.silences import (
    ALERTS_SHOWN_MAX,
    ChannelState,
    DispatchView,
    Matched,
    NewSilence,
    NoticeView,
    SilenceOrder,
    SilenceView,
    WindowView,
    no_silence,
)
from watchbill_collector.dispatch.dispatcher import Dispatcher
from watchbill_collector.dispatch.matchers import BadMatchers, read_match
from watchbill_collector.dispatch.silence import Silence
from watchbill_collector.dispatch.silence_reach import Reach
from watchbill_collector.dispatch.silencebook import NoSilence, SilenceBook
from watchbill_collector.dispatch.windows import Window
from watchbill_collector.notifiers.channel_set import ChannelSet
from watchbill_collector.scopes import Bindings, View
from watchbill_collector.store import Store, outbox

NOTICES_SHOWN = 50
AHEAD_MS = 7 * 86_400_000


class SilencingService:
    """`api.silences.SilencesService` over the book of silences and the dispatcher."""

    def __init__(
        self,
        book: SilenceBook,
        dispatcher: Dispatcher,
        channels: ChannelSet,
        rules: RulesService,
        store: Store,
        clock: Clock,
        windows: Callable[[], tuple[Window, ...]],
        bindings: Bindings,
    ) -> None:
        self._book = book
        self._dispatcher = dispatcher
        self._channels = channels
        self._rules = rules
        self._store = store
        self._clock = clock
        self._windows = windows
        self._bindings = bindings

    async def silences(self, view: View, *, expired: bool) -> Sequence[SilenceView]:
        """Those that have not ended, or all that are kept, of what could hush something that he sees."""
        now_ms = self._clock.wall_ms()
        found = [one for one in self._book.all() if expired or one.ends_ms > now_ms]
        found.sort(key=lambda one: -one.created_ms)
        return await self._shown(found, view, view)

    async def silence(self, silence_id: str, view: View, sees: View) -> SilenceView:
        """One of those that he sees, and whether `view` takes in all that it reaches."""
        found = [one for one in self._book.all() if one.silence_id == silence_id]
        for shown in await self._shown(found, view, sees):
            return shown
        raise no_silence(silence_id)

    async def add(self, order: SilenceOrder, by: Caller, view: View) -> NewSilence:
        """Make one that keeps to what he may silence."""
        made = await self._book.add(
            order.matchers, order.duration_s, order.reason, by.name, order.starts_in_s, view
        )
        alerts = [alert for alert in await self._rules.alerts() if made.silences(alert.labels)]
        return NewSilence(self._view(made, alerts, yours=True), len(alerts), alerts[:ALERTS_SHOWN_MAX])

    async def matched(self, matchers: str, view: View) -> Matched:
        """What a silence of his with these matchers would silence now."""
        try:
            match = read_match(matchers)
        except BadMatchers as exc:
            raise UsageError(f"the matchers cannot be used: {exc}") from exc
        alerts = [
            alert
            for alert in await self._rules.alerts()
            if match.matches(alert.labels) and view.covers(alert.labels, self._bindings)
        ]
        return Matched(match.text, len(alerts), alerts[:ALERTS_SHOWN_MAX], _scope(view))

    async def expire(self, silence_id: str, by: Caller, view: View) -> SilenceView:
        """End one now that is his to end."""
        if not view.whole and not (await self.silence(silence_id, view, view)).yours:
            raise no_silence(silence_id)
        try:
            return self._view(await self._book.expire(silence_id, by.name), (), yours=True)
        except NoSilence as exc:
            raise NoSuch(str(exc)) from exc

    async def dispatch(self) -> DispatchView:
        """How notices get out."""
        site, now_ms = self._store.site, self._clock.wall_ms()
        rows = await asyncio.to_thread(
            self._store.read, lambda connection: outbox.recent_notices(connection, site, NOTICES_SHOWN)
        )
        return DispatchView(
            channels=[
                ChannelState(
                    name=one.name,
                    kind=self._channels.kind(one.name),
                    ok=one.ok,
                    failing_since=at(one.failing_since_ms) if one.failing_since_ms else None,
                    last_error=one.last_error,
                    last_delivered=at(one.last_delivered_ms) if one.last_delivered_ms else None,
                    queued=one.queued,
                    oldest_s=max(0.0, (now_ms - one.oldest_ms) / 1000) if one.oldest_ms else 0.0,
                    held=one.held,
                )
                for one in self._dispatcher.health()
            ],
            windows=[_window(one, now_ms) for one in self._windows()],
            notices=[
                NoticeView(
                    key=row.notice_key,
                    channel=row.channel,
                    kind=row.kind,
                    outcome=row.outcome,
                    attempts=row.attempts,
                    created=at(row.created_ms),
                    changed=at(row.changed_ms),
                    detail=row.detail,
                )
                for row in rows
            ],
            hushed=len(self._dispatcher.hushed),
            unwritten=self._dispatcher.outbox.undurable,
        )

    async def _shown(self, silences: Sequence[Silence], view: View, sees: View) -> list[SilenceView]:
        """Those that somebody sees, with what of his they hush; `view` decides which he may end."""
        every = await self._rules.alerts()
        firing = [
            alert for alert in every if alert.state == "firing" and sees.covers(alert.labels, self._bindings)
        ]

        def work() -> list[SilenceView]:
            seen, mine = Reach(sees, self._bindings), Reach(view, self._bindings)
            return [
                self._view(one, firing, yours=mine.holds(one))
                for one in silences
                if seen.touches(one) or seen.holds(one) or any(one.silences(alert.labels) for alert in firing)
            ]

        return await asyncio.to_thread(work)

    def _view(self, silence: Silence, alerts: Sequence[Alert], *, yours: bool) -> SilenceView:
        return SilenceView(
            id=silence.silence_id,
            matchers=silence.match.text,
            reason=silence.reason,
            author=silence.author,
            state=silence.state(self._clock.wall_ms()),
            created=at(silence.created_ms),
            starts=at(silence.starts_ms),
            ends=at(silence.ends_ms),
            firing=sum(alert.state == "firing" and silence.silences(alert.labels) for alert in alerts),
            expired_by=silence.expired_by,
            scope=_scope(silence.scope),
            yours=yours,
        )


def _scope(view: View) -> str:
    return "" if view.whole else view.text


def _window(window: Window, now_ms: int) -> WindowView:
    until_ms, opens_ms = window.until_ms(now_ms), window.opens_ms(now_ms, AHEAD_MS)
    return WindowView(
        name=window.name,
        matchers=window.match.text if window.match is not None else None,
        cron=window.cron.text,
        zone=window.zone.key,
        duration_s=window.duration_ms / 1000,
        until=at(until_ms) if until_ms > now_ms else None,
        opens=at(opens_ms) if opens_ms else None,
    )
