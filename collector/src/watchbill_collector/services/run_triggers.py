"""Triggers at work: alerts and schedules that ask for runs.

    alerts_changed()   in the rules' thread: something fires, or does not any more
    look()             the alerts as they stand now; what each asks for, decided in `runbooks/triggers.py`
    run()              look, do, sleep until a `for` is over, a schedule comes, or an alert changes

Nothing is kept here that would be missed: what was asked for is told by the runs themselves (`mark`), so that a
collector that starts again asks for nothing twice. A proposal, and a run that waits for its turn, end when the alert
does that made them, unless a person took them over.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from watchbill.clock import Clock
from watchbill.errors import Busy, Refused, StorageError
from watchbill.logs import fields
from watchbill_collector.api.ports import NoSuch
from watchbill_collector.audit import Entry
from watchbill_collector.rules import AlertChange
from watchbill_collector.runbooks.model import Runbook, Trigger
from watchbill_collector.runbooks.parameters import Judged, is_now, judge_parameters, parameters_of_alert
from watchbill_collector.runbooks.planning import Planned, plan
from watchbill_collector.runbooks.run.rows import Row, State
from watchbill_collector.runbooks.run.words import RunState
from watchbill_collector.runbooks.triggers import (
    SCHEDULE_LATE_MS,
    Earlier,
    Firing,
    Nothing,
    Propose,
    Start,
    Wait,
    decide,
    due,
    schedule_mark,
    schedule_moment,
)
from watchbill_collector.runbooks.views import View, asks_hosts, collector_view, host_views
from watchbill_collector.scopes import INSTANCE
from watchbill_collector.services.run_house import RunHouse
from watchbill_collector.services.run_looks import Looks, seen_of
from watchbill_collector.services.run_open import Live
from watchbill_collector.services.run_plan import live_plan
from watchbill_collector.services.runs import SYSTEM
from watchbill_collector.services.trigger_sight import Quiet, Seen
from watchbill_collector.store import Store, runs

if TYPE_CHECKING:
    from watchbill.daemon import Stamp

log = logging.getLogger("watchbill.runs")

LOOK_EVERY_S: Final = 30.0
"""Between looks without news."""
RETRY_S: Final = 2.0
"""After the store could not be asked."""
VIEWS_WAIT_S: Final = 5.0
"""How long hosts may take to say what they see; who has said nothing by then is unsure."""
FIRING_MAX: Final = 200
"""Alerts of one trigger that are looked at; of more, those that fired last wait, counted: so much at once is one cause,
and none of hosts."""
EARLIER_MS: Final = 7 * 86_400_000
"""How long before an alert a run may have begun that goes on while it fires."""
REASON_CHARACTERS_MAX: Final = 1_000

_WAITS: Final = frozenset({RunState.PROPOSED, RunState.QUEUED})
_ALERT: Final = "alert "

Making = tuple[str, tuple[tuple[str, str], ...]]
"""A runbook with parameters that a run is being made of."""
Over = dict[tuple[str, str, int], None]
"""Runbook, mark and beginning of alerts that need no further look as long as they fire."""


@dataclass(slots=True)
class TriggerCounters:
    """Of what triggers did."""

    started: int = 0
    proposed: int = 0
    refused: int = 0
    ended: int = 0
    beyond: int = 0


class Triggers:
    """See the module. On the loop; `alerts` is asked in a thread."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        house: RunHouse,
        *,
        alerts: Callable[[Collection[str]], Seen],
        quiet: Quiet = lambda _: [],
    ) -> None:
        self.counters = TriggerCounters()
        self._store = store
        self._clock = clock
        self._house = house
        self._alerts = alerts
        self._quiet = quiet
        self._looks = Looks(house.runs, clock)
        self._looks.wait_s = VIEWS_WAIT_S
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._names: frozenset[str] = frozenset()
        self._making: set[Making] = set()
        """Two alerts of one thing make one run."""
        self._over: Over = {}
        self._schedules: dict[tuple[str, str, str], int] = {}
        """Up to when moments of a schedule were looked for."""
        self._scheduling: set[tuple[str, str, str]] = set()
        """Of which a run is being made."""
        self._began_ms = clock.wall_ms()
        self._wake_ms = 0

    # ------------------------------------------------------------ news

    def alerts_changed(self, changes: Sequence[AlertChange]) -> None:
        """`Judging.follow`. In the rules' thread."""
        names = self._names
        if any(change.rule in names for change in changes):
            with contextlib.suppress(RuntimeError):  # A loop that is closing takes nothing more.
                self._loop.call_soon_threadsafe(self._news.set)

    def wake(self) -> None:
        """Runbooks are others now. On the loop."""
        self._over.clear()
        self._news.set()

    # ------------------------------------------------------------ the life of it

    async def run(self, stamp: "Stamp") -> None:
        """For ever. What has to ask hosts is done beside it: the next alert does not wait for it."""
        await self._house.runs.ready.wait()
        async with asyncio.TaskGroup() as group:
            while True:
                stamp.made()
                wait_s = RETRY_S
                try:
                    for work in await self.look():
                        group.create_task(self._done(work))
                    wait_s = self._wait_s()
                except (Busy, StorageError) as exc:
                    log.error("triggers cannot look at runs", extra=fields(why=exc))
                with contextlib.suppress(TimeoutError):
                    # Not wait_for: up to 3.11 it loses a cancellation that comes together with news.
                    async with asyncio.timeout(wait_s):
                        await self._news.wait()
                self._news.clear()

    async def turn(self) -> None:
        """One look, and everything that it asks for."""
        for work in await self.look():
            await self._done(work)

    async def _done(self, work: Awaitable[None]) -> None:
        """A store that cannot be asked is asked again: the alert still fires."""
        try:
            await work
        except (Busy, StorageError) as exc:
            log.error("a trigger could not ask for a run", extra=fields(why=exc))
            self._loop.call_later(RETRY_S, self._news.set)

    def _wait_s(self) -> float:
        if not self._wake_ms:
            return LOOK_EVERY_S
        return min(max(0.0, (self._wake_ms - self._clock.wall_ms()) / 1000), LOOK_EVERY_S)

    # ------------------------------------------------------------ one look

    async def look(self) -> list[Awaitable[None]]:
        """What is to be done now. Raises Busy, StorageError."""
        by_alert: dict[str, list[Runbook]] = {}
        scheduled: list[Runbook] = []
        for book in self._house.shelf.in_force.values():
            if book.trigger is not None and book.trigger.alert:
                by_alert.setdefault(book.trigger.alert, []).append(book)
            elif book.trigger is not None:
                scheduled.append(book)
        self._names = frozenset(by_alert)
        asked_for = {
            live.run.created.trigger.split(" ")[1]
            for live in self._house.runs.open()
            if live.run.created.trigger.startswith(_ALERT)
        }
        seen = await asyncio.to_thread(self._alerts, self._names | asked_for)
        self._wake_ms = 0
        await self._end_proposals(seen)
        found: list[Awaitable[None]] = []
        over: Over = {}
        for name, books in by_alert.items():
            firing = sorted((one for one in seen.firing if one.name == name), key=lambda one: one.fired_ms)
            self.counters.beyond += max(0, len(firing) - FIRING_MAX) * len(books)
            for book in books:
                found += await self._due(book, firing[:FIRING_MAX], over)
        self._over = over
        for book in scheduled:
            found += await self._scheduled(book)
        return found

    async def _due(self, book: Runbook, firing: Sequence[Firing], over: Over) -> list[Awaitable[None]]:
        """What is to be done about the alerts of one trigger."""
        assert book.trigger is not None, "asked for by its trigger"
        found: list[Awaitable[None]] = []
        fresh: list[Firing] = []
        for alert in firing:
            if (book.name, alert.mark, alert.fired_ms) in self._over:
                over[book.name, alert.mark, alert.fired_ms] = None
            else:
                fresh.append(alert)
        if not fresh:
            return found
        earlier = await self._earlier(book.name, fresh[0].fired_ms)
        for alert in fresh:
            judged = judge_parameters(book, parameters_of_alert(book, alert.labels))
            # A time that is another one in each run does not tell two runs apart.
            moving = frozenset(
                one.name for one in book.parameters if is_now(one, judged.texts.get(one.name, ""))
            )
            texts = {name: text for name, text in judged.texts.items() if name not in moving}
            verdict = due(book.trigger, alert, earlier, texts, self._clock.wall_ms(), moving)
            making = (book.name, tuple(sorted(texts.items())))
            match verdict:
                case Wait(until_ms):
                    self._wake(until_ms)
                case Nothing():
                    over[book.name, alert.mark, alert.fired_ms] = None
                case None if making not in self._making:
                    self._making.add(making)
                    found.append(self._asked(book, alert, making))
        return found

    def _wake(self, at_ms: int) -> None:
        self._wake_ms = min(self._wake_ms or at_ms, at_ms)

    async def _earlier(self, name: str, fired_ms: int) -> list[Earlier]:
        site = self._store.site
        found = await asyncio.to_thread(
            self._store.read,
            lambda connection: runs.summaries(
                connection, site, runbook=name, since_ms=max(1, fired_ms - EARLIER_MS)
            ),
        )
        return [
            Earlier(
                run_id=one.run_id, mark=one.trigger, ended_ms=one.ended_ms, parameters=dict(one.parameters)
            )
            for one in found
            if not one.drill
        ]

    # ------------------------------------------------------------ asking

    async def _asked(self, book: Runbook, alert: Firing, making: Making) -> None:
        trigger = book.trigger
        assert trigger is not None, "asked for by its trigger"
        given = parameters_of_alert(book, alert.labels)
        try:
            judged = judge_parameters(book, given, self._moment())
            views = await self._views(book, trigger, alert, judged)
            hushed = await self._hushed(book, judged, alert.labels)
            verdict = decide(trigger, alert, views, hushed, self._clock.wall_ms())
            about = alert.labels.get(INSTANCE, "")
            what = f"{alert.name} fires{' for ' if about else ''}{about}"
            said = "; ".join(str(one) for one in views)
            await self._make(book, given, f"{what}; {said}" if said else what, alert.mark, verdict)
        finally:
            self._making.discard(making)
        # What was refused would be refused again; other alerts of the same thing find the run now.
        self._over[book.name, alert.mark, alert.fired_ms] = None
        self._news.set()

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(self._clock.wall_ms() / 1000, UTC)

    async def _views(self, book: Runbook, trigger: Trigger, alert: Firing, judged: Judged) -> list[View]:
        views = (
            [collector_view(alert.incomplete)]
            if any(one.text == "collector" for one in trigger.agree)
            else []
        )
        if not asks_hosts(trigger):
            return views
        world = self._house.fleet()
        in_force = self._house.shelf.in_force
        planned, looked = await live_plan(
            self._looks, world, book, judged, False, in_force, purpose_of_people=False
        )
        seen = seen_of(list(looked.values()))
        return views + host_views(book, judged.values, planned, seen, world.facts)

    async def _hushed(self, book: Runbook, judged: Judged, labels: Mapping[str, str]) -> list[str]:
        """What is silenced or in maintenance of what it is about, and of the hosts that a run would change."""
        world = self._house.fleet()
        planned: Planned = await asyncio.to_thread(
            plan, book, judged, world.fleet, world.facts, books=self._house.shelf.in_force
        )
        found = (
            [f"{labels.get(INSTANCE) or 'the alert'}: {one}" for one in self._quiet(labels)] if labels else []
        )
        for name in planned.hosts[:FIRING_MAX]:
            host = world.fleet.host(name)
            bound = host.labels if host is not None else {}
            found += [f"{name}: {one}" for one in self._quiet({**bound, INSTANCE: name})]
        return list(dict.fromkeys(found))

    async def _make(
        self, book: Runbook, given: Mapping[str, str], reason: str, mark: str, verdict: Start | Propose
    ) -> None:
        """Begin it, or propose it. Who makes it may still propose what was to begin."""
        if isinstance(verdict, Propose):
            reason = f"{reason}; proposed: {'; '.join(verdict.why)}"
        auto = isinstance(verdict, Start)
        try:
            run_id, why = await self._house.desk.propose(
                book.name, given, reason[:REASON_CHARACTERS_MAX], mark, auto=auto
            )
        except (Refused, NoSuch) as exc:
            self.counters.refused += 1
            log.error(
                "a trigger could not ask for a run", extra=fields(runbook=book.name, trigger=mark, why=exc)
            )
            return
        if why:
            self.counters.proposed += 1
        else:
            self.counters.started += 1
        log.warning(
            "a trigger asked for a run", extra=fields(run=run_id, runbook=book.name, trigger=mark, why=why)
        )

    # ------------------------------------------------------------ schedules

    async def _scheduled(self, book: Runbook) -> list[Awaitable[None]]:
        trigger = book.trigger
        assert trigger is not None, "it is scheduled"
        now_ms = self._clock.wall_ms()
        key = (book.name, trigger.schedule, trigger.zone)
        # What came while nobody was here is made up for shortly after; a schedule that is new begins now.
        first = not self._schedules and now_ms - self._began_ms < SCHEDULE_LATE_MS
        after_ms = self._schedules.get(key, now_ms - SCHEDULE_LATE_MS if first else now_ms)
        moment_ms, next_ms = schedule_moment(trigger, after_ms, now_ms)
        if next_ms:
            self._wake(next_ms)
        if moment_ms and key in self._scheduling:
            return []
        mark = schedule_mark(trigger, moment_ms) if moment_ms else ""
        if mark and not any(one.mark == mark for one in await self._earlier(book.name, moment_ms)):
            self._scheduling.add(key)
            return [self._on_schedule(book, trigger, mark, now_ms)]
        self._schedules[key] = now_ms
        return []

    async def _on_schedule(self, book: Runbook, trigger: Trigger, mark: str, now_ms: int) -> None:
        """Ask for the run of a moment. Only then is it over: a store that was busy is asked again."""
        key = (book.name, trigger.schedule, trigger.zone)
        try:
            await self._ask_on_schedule(book, trigger, mark)
        finally:
            self._scheduling.discard(key)
        self._schedules[key] = now_ms

    async def _ask_on_schedule(self, book: Runbook, trigger: Trigger, mark: str) -> None:
        hushed = await self._hushed(book, judge_parameters(book, {}, self._moment()), {})
        why = (*(() if trigger.auto else ("its trigger proposes",)), *hushed)
        verdict = Propose(why) if why else Start()
        await self._make(book, {}, f"its schedule: {trigger.schedule}", mark, verdict)

    # ------------------------------------------------------------ the end of an alert

    async def _end_proposals(self, seen: Seen) -> None:
        firing = {one.mark for one in seen.firing}
        for live in self._house.runs.open():
            created = live.run.created
            if not created.trigger.startswith(_ALERT) or not _waits(live) or created.trigger in firing:
                continue
            if created.trigger.split(" ")[1] not in seen.judged:
                continue  # Nobody knows.
            entry = Entry(
                actor=SYSTEM, action="run.expire", target=live.run.run_id, detail={"trigger": created.trigger}
            )

            def ended(live: Live = live) -> list[Row]:
                if not _waits(live):
                    return []
                return [State(state=RunState.EXPIRED.value, detail="its alert ended before it began")]

            await self._house.runs.add(live, ended, entry)
            self.counters.ended += 1


def _waits(live: Live) -> bool:
    """Whether it has not begun, and nobody took it over."""
    return live.run.state in _WAITS and not live.run.requester
