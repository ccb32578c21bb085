"""The rules, the engine that they ask, and the thread in which they are evaluated."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from watchbill.errors import ConfigError
from watchbill_collector.configured import check_rules, rule_sources
from watchbill_collector.parts.ground import Ground, Part
from watchbill_collector.parts.intake import Intake
from watchbill_collector.parts.past import Past
from watchbill_collector.promql.engine import Engine, Options
from watchbill_collector.promql.precedence import Precedence
from watchbill_collector.rules import (
    AlertChange,
    FileAlertState,
    Rulebook,
    RuleMetrics,
    RuleThread,
    Surroundings,
)
from watchbill_collector.services.alert_events import AlertEvents
from watchbill_collector.services.health import WATCHES

log = logging.getLogger("watchbill.collector")

STALLED_S = 120.0
"""How long a group may be late, beyond two of its turns, before the outside watchdog is not pinged."""

Told = Callable[[Sequence[AlertChange]], None]


class Judging(Part):
    """See the module. It is begun by `app`: before rules look, other parts have to be ready."""

    def __init__(self, ground: Ground, past: Past, intake: Intake) -> None:
        self._ground = ground
        self._intake = intake
        self._begun = False
        self._loading = asyncio.Lock()
        self._told: list[Told] = [AlertEvents(ground.bus, ground.on_loop).changed]
        self.precedence = Precedence()
        self.engine = Engine(Options(lookback_ms=ground.config.query.lookback.ms))
        self.book = Rulebook(
            Surroundings(past.table, self.engine, {}, ground.external_url),
            intake.head,
            write=lambda ticks: ground.on_loop(intake.ingest.commits.add_own, ticks),
            on_change=self._changed,
            state=FileAlertState(ground.directory / "alerts.json"),
            past=past.history,
            also=WATCHES,
            monotonic=time.monotonic,
        )
        check_rules(ground.homes, ground.config)
        self.thread = RuleThread(
            self.book, intake.head, ground.clock, on_failure=self._failed, precedence=self.precedence
        )
        ground.metrics.register(RuleMetrics(self.book, intake.head))

    def follow(self, follower: Told) -> None:
        """Call `follower` with what changed in an evaluation, from now on; in the rules' thread."""
        self._told.append(follower)

    async def load(self) -> None:
        """Swap the rules as a whole. In a thread: filling their windows from history takes seconds. Raises
        ConfigError.
        """
        ground, book = self._ground, self.book
        # One at a time: a reload during the start must not be undone by what the start had read before.
        async with self._loading:
            sources = await asyncio.to_thread(rule_sources, ground.homes, ground.config)
            now_ms, interval_ms = ground.clock.wall_ms(), ground.config.rules.interval.ms
            problems = await asyncio.to_thread(book.reload, sources, now_ms, interval_ms)
        if problems:
            raise ConfigError(problems)
        intervals = [group.group.interval_ms for group in book.groups()]
        self._intake.ingest.rules_read(book.metric_names(), min(intervals, default=0), 0)

    def start(self) -> None:
        """Evaluate from now on."""
        self.thread.start()
        self._begun = True

    def end(self) -> None:
        """Finish the evaluation that goes on, save what alerts are at."""
        if self._begun:
            self.thread.close()

    def stalled(self) -> bool:
        """Whether evaluation stands still, or has not begun."""
        now_ms = self._ground.clock.wall_ms()
        ran = [(run.evaluated_ms, run.group.interval_ms) for run in self.book.groups()]
        late = any(now_ms - at_ms > 2 * every_ms + STALLED_S * 1000 for at_ms, every_ms in ran)
        return not self._begun or late

    def _changed(self, changes: Sequence[AlertChange]) -> None:
        for told in self._told:
            told(changes)

    def _failed(self, error: BaseException) -> None:
        """The rules' thread ended: without it this is no collector. The service manager starts it again."""
        log.critical("the rules' thread failed", exc_info=error)
        self._ground.on_loop(self._ground.house.spawn, "rules", _raise(error))


async def _raise(error: BaseException) -> NoReturn:
    raise error
