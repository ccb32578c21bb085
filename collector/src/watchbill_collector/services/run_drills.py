"""Drills: noted when they end, judged against their objective, begun where a runbook says so."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from watchbill.clock import Clock
from watchbill.errors import Refused
from watchbill.logs import fields
from watchbill_collector.api.drill_port import HISTORY_SHOWN_MAX, DrillsView, DrillView
from watchbill_collector.api.ports import Caller, Grant, Role, at
from watchbill_collector.runbooks.drilling import Held, Standing, begins, standing
from watchbill_collector.runbooks.run.words import ENDED, RunState
from watchbill_collector.services.run_house import RunHouse
from watchbill_collector.services.run_open import Live
from watchbill_collector.services.runs import SYSTEM
from watchbill_collector.store import Store, drills, runs
from watchbill_collector.store.drills import DrillRow
from watchbill_collector.store.runs import RunSummary

log = logging.getLogger("watchbill.runs")

ITSELF: Final = Caller(SYSTEM, (Grant(Role.OPERATOR),), "system")
"""Who begins a drill that is due."""
REASON: Final = "the drill is due"


@dataclass(slots=True)
class _Known:
    rows: dict[str, list[DrillRow]] = field(default_factory=dict)
    ended: list[RunSummary] = field(default_factory=list)
    since: dict[str, int] = field(default_factory=dict)


class Drills:
    """See the module. On the loop; `turn` reads the store in a thread."""

    def __init__(self, store: Store, clock: Clock, house: RunHouse) -> None:
        self.history: dict[str, list[Held]] = {}
        """By runbook, the newest first."""
        self.begun = 0
        self.refused = 0
        self._store = store
        self._clock = clock
        self._house = house
        self._since: dict[str, int] = {}
        self._tried: dict[str, int] = {}
        """When a drill was last tried that was refused."""

    def standing(self, name: str) -> Standing | None:
        """How the drills of a runbook stand; None when it cannot be read."""
        runbook = self._house.shelf.in_force.get(name)
        if runbook is None:
            return None
        now_ms = self._clock.wall_ms()
        return standing(runbook, self.history.get(name, ()), self._since.get(name, now_ms), now_ms)

    async def drills(self, caller: Caller) -> list[DrillsView]:
        """`api.drill_port.DrillsService`: of the runbooks that he sees."""
        found = []
        for view in await self._house.desk.runbooks(caller):
            held = self.standing(view.name)
            if held is not None and (held.every_s or held.last is not None):
                found.append(_view(view.name, held, self.history.get(view.name, ())))
        return found

    async def turn(self) -> None:
        """Note what ended, and begin what is due. Raises Busy, StorageError."""
        known = await asyncio.to_thread(self._store.read, self._read)
        fresh = [_row(one, self._due_before(one.runbook)) for one in known.ended]
        if fresh:
            site = self._store.site

            def keep(connection: sa.Connection) -> None:
                for row in fresh:
                    drills.add(connection, site, row)

            await self._store.write(keep)
        self._since = known.since
        found = {name: [_held(row) for row in rows] for name, rows in known.rows.items()}
        for row in fresh:
            found.setdefault(row.runbook, []).append(_held(row))
        for live in self._house.runs.open():
            if live.run.created.drill:
                found.setdefault(live.run.created.runbook, []).append(_open(live))
        for held in found.values():
            held.sort(key=lambda one: (one.started_ms, one.run_id), reverse=True)
        self.history = found
        await self._begin()

    def _read(self, connection: sa.Connection) -> _Known:
        site = self._store.site
        known = _Known(drills.all_of(connection, site), [], drills.first_seen(connection, site))
        noted = {row.run_id for rows in known.rows.values() for row in rows}
        oldest = {name: rows[-1].started_ms for name, rows in known.rows.items()}
        known.ended = [
            one
            for one in runs.drills(connection, site)
            if RunState(one.state) in ENDED
            and one.run_id not in noted
            # What went, because there are so many, does not come back.
            and (
                len(known.rows.get(one.runbook, ())) < drills.DRILLS_PER_RUNBOOK_MAX
                or one.created_ms > oldest[one.runbook]
            )
        ]
        return known

    def _due_before(self, name: str) -> int:
        found = self.standing(name)
        return found.due_ms if found is not None and found.overdue else 0

    async def _begin(self) -> None:
        now_ms = self._clock.wall_ms()
        in_earnest = any(not live.run.created.drill for live in self._house.runs.open())
        for name in list(self._house.shelf.in_force):
            found = self.standing(name)
            if found is None or not begins(found, now_ms, in_earnest=in_earnest):
                continue
            if self._house.restraints.paused or now_ms < self._tried.get(name, 0) + found.every_s * 1000:
                continue
            try:
                await self._house.desk.start(name, {}, REASON, True, "", ITSELF)
            except Refused as exc:
                self._tried[name] = now_ms
                self.refused += 1
                log.error("a drill that is due could not begin", extra=fields(runbook=name, why=exc))
                continue
            self.begun += 1
            # One at a time: each has its own look at what the one before has left.
            return


def _view(name: str, found: Standing, history: Sequence[Held]) -> DrillsView:
    return DrillsView(
        runbook=name,
        every_s=found.every_s,
        automatic=found.auto,
        due=at(found.due_ms) if found.due_ms else None,
        overdue=found.overdue,
        held=found.count,
        succeeded=found.succeeded,
        failed=found.failed,
        other_text=found.other_text,
        rto_s=found.rto_s,
        recovery_s=found.recovery_s,
        recovery_p50_s=found.p50_s,
        recovery_p90_s=found.p90_s,
        kept=found.kept,
        history=[
            DrillView(
                id=one.run_id,
                digest=one.digest,
                state=one.state.value,
                requester=one.requester,
                started=at(one.started_ms),
                ended=at(one.ended_ms) if one.ended_ms else None,
                recovery_s=None if one.recovery_ms is None else one.recovery_ms / 1000,
            )
            for one in history[:HISTORY_SHOWN_MAX]
        ],
    )


def _row(one: RunSummary, due_ms: int) -> DrillRow:
    return DrillRow(
        run_id=one.run_id,
        runbook=one.runbook,
        digest=one.digest,
        due_ms=due_ms,
        started_ms=one.created_ms,
        ended_ms=one.ended_ms,
        state=one.state,
        recovery_ms=one.recovered_ms - one.created_ms if one.recovered_ms else None,
        detail=one.requester,
    )


def _held(row: DrillRow) -> Held:
    return Held(
        run_id=row.run_id,
        digest=row.digest,
        requester=row.detail,
        state=RunState(row.state),
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
        recovery_ms=row.recovery_ms,
    )


def _open(live: Live) -> Held:
    run = live.run
    return Held(
        run_id=run.run_id,
        digest=run.created.digest,
        requester=run.requester,
        state=run.state,
        started_ms=run.created_ms,
    )
