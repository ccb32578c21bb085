"""Runs of runbooks, and who may approve them: what hosts allow and answer, orders to them, what is known of the world,
the roster."""

import asyncio
import contextlib
import logging
import os
from typing import Final

from watchbill.actions.roster import Roster
from watchbill.errors import Busy, ConfigError, Problem, StorageError
from watchbill.logs import fields
from watchbill.protocol.frames import RunnerOrder
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.ingest.ports import Reach
from watchbill_collector.parts.backup_watch import BackupWatch
from watchbill_collector.parts.ground import Ground, Part
from watchbill_collector.parts.host_changes import HostChanges
from watchbill_collector.parts.intake import Intake
from watchbill_collector.parts.judging import Judging
from watchbill_collector.parts.notices import Notices
from watchbill_collector.parts.past import Past
from watchbill_collector.parts.state import State
from watchbill_collector.runbookfiles import DIRECTORY, read_directory
from watchbill_collector.runbooks.books import Source
from watchbill_collector.services.queries import HistoryStorage
from watchbill_collector.services.roster_desk import Bearer, RosterDesk, RosterMetrics
from watchbill_collector.services.run_house import RunHouse, RunMetrics
from watchbill_collector.services.run_knowledge import Knowledge
from watchbill_collector.services.run_notices import RunNotices
from watchbill_collector.services.runbook_watch import RunbookWatch, WatchMetrics
from watchbill_collector.services.trigger_sight import look, quiet

log = logging.getLogger("watchbill.collector")

ROSTER_EVERY_S: Final = 30.0
"""How often it is looked which hosts have an older roster."""


class Runbooks(Part):
    """See the module."""

    def __init__(
        self,
        ground: Ground,
        state: State,
        past: Past,
        changes: HostChanges,
        intake: Intake,
        judging: Judging,
        backup_watch: BackupWatch,
        notices: Notices,
    ) -> None:
        self._ground = ground
        knowledge = Knowledge(
            ground.clock,
            state.registry,
            intake.ingest,
            judging.engine,
            judging.book,
            HistoryStorage(past.history, past.table),
            backup_watch.backups.desk,
            intake.health,
        )
        told = RunNotices(notices.channels, ground.clock, ground.external_url)
        self.house = RunHouse(
            state.store,
            ground.clock,
            state.registry,
            state.bindings,
            bytes(state.pki.keys.command),
            _Carrier(intake.ingest),
            connected=intake.ingest.connected,
            facts=knowledge.facts,
            roster=self._roster,
            disabled=state.users.disabled_names,
            tell=told.tell,
            publish=self._published,
        )
        dispatching = notices.dispatching
        self.watch = RunbookWatch(
            state.store,
            ground.clock,
            self.house,
            past.table,
            alerts=lambda names: look(judging.book, names),
            emit=lambda ticks: intake.ingest.commits.add_own(list(ticks)),
            quiet=quiet(dispatching.silences.all, lambda: dispatching.routing.windows, ground.clock),
        )
        self.house.desk.apps = intake.health.app_names
        judging.follow(self.watch.alerts_changed)
        self.roster = RosterDesk(
            state.store,
            ground.clock,
            ground.homes.etc,
            os.geteuid(),
            self._bearers,
            self.house.orders.send,
            state.users.disabled_names,
        )
        state.users.subscribe(lambda: ground.on_loop(self.house.runs.changed))
        intake.reads(self.house.door.read)
        intake.crit.commands = self.house.door
        intake.crit.commands_told = self.house.told
        intake.ingest.came = self.house.connected
        changes.follow(self.house.host_changed)
        ground.metrics.register(RunMetrics(self.house))
        ground.metrics.register(WatchMetrics(self.watch))
        ground.metrics.register(RosterMetrics(self.roster))

    async def open(self) -> None:
        """Read the runbooks. A file that cannot be read keeps no collector from watching."""
        sources, problems = await self._read()
        for problem in problems:
            log.error("a runbook cannot be read", extra=fields(problem=problem))
        await self.house.shelf.load(sources)

    async def load(self) -> None:
        """The files as they are now. Raises ConfigError, StorageError, Busy: then those of before stay in force."""
        sources, problems = await self._read()
        if problems:
            raise ConfigError(problems)
        await self.house.shelf.load(sources)
        self.watch.reloaded()

    async def _read(self) -> tuple[list[Source], list[Problem]]:
        return await asyncio.to_thread(read_directory, self._ground.homes.etc / DIRECTORY)

    def begin(self) -> None:
        """Go on with the runs that are open."""
        self.house.spawn(self._ground.house)
        self.watch.spawn(self._ground.house)
        self._ground.every("roster", ROSTER_EVERY_S, self._hand_out)

    def _published(self, kind: str, document: object) -> None:
        self._ground.bus.publish(kind, document)
        self.watch.run_changed()

    async def _hand_out(self) -> None:
        with contextlib.suppress(Busy, StorageError):
            self.roster.hand_out()

    def _roster(self) -> Roster | None:
        return self.roster.current()

    def _bearers(self) -> dict[str, Bearer]:
        rows = self.house.inventories.rows
        return {
            host.agent: Bearer(name, host.labels, rows[host.agent].inventory, rows[host.agent].received_ms)
            for name, host in self.house.fleet.fleet().hosts.items()
            if host.agent in rows
        }


class _Carrier:
    """`services.run_orders.Orders` over the links of the agents."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest

    def send(self, agent_id: str, body: bytes, ttl_ms: int) -> bool:
        """Now, or not at all."""
        return self._ingest.ask(agent_id, RunnerOrder(body, ttl_ms)) is Reach.ASKED
