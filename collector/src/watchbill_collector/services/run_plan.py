"""Plans that have looked: planned, looked at what can be looked at, and planned again with what was seen."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from watchbill.actions.order import Purpose
from watchbill_collector.api.runbook_port import Plan, PlanStep
from watchbill_collector.runbooks.model import Runbook
from watchbill_collector.runbooks.parameters import Judged
from watchbill_collector.runbooks.planning import Planned, PlanRow, plan
from watchbill_collector.runbooks.run.world import World
from watchbill_collector.services.run_looks import Looked, Looks, seen_of

ROUNDS_MAX: Final = 5
"""A look may need what another one brought; what needs more rounds is unknown."""
SHOWN_CHARACTERS_MAX: Final = 2_000
"""Of what a look printed."""

Seen = Mapping[tuple[str, str], Looked]
"""Looks by step and host."""


async def live_plan(
    looks: Looks,
    world: World,
    runbook: Runbook,
    judged: Judged,
    drill: bool,
    books: Mapping[str, Runbook],
    *,
    purpose_of_people: bool,
) -> tuple[Planned, Seen]:
    """A plan, and what was looked at for it."""
    purpose = Purpose.PLAN if purpose_of_people else Purpose.PREFLIGHT
    found: dict[tuple[str, str], Looked] = {}
    planned = await asyncio.to_thread(
        lambda: plan(runbook, judged, world.fleet, world.facts, drill=drill, books=books)
    )
    for _ in range(ROUNDS_MAX):
        todo = [
            row for row in planned.looks if row.arguments is not None and (row.step, row.host) not in found
        ]
        if not todo:
            break
        looked = await looks.look(runbook.name, runbook.digest, todo, world, purpose)
        found |= {(one.row.step, one.row.host): one for one in looked}
        seen = seen_of(list(found.values()))
        planned = await asyncio.to_thread(
            lambda seen=seen: plan(  # type: ignore[misc]
                runbook, judged, world.fleet, world.facts, drill=drill, books=books, seen=seen
            )
        )
    if purpose_of_people:
        showing = [row for row in planned.rows if row.plan_argv and row.arguments is not None]
        for one in await looks.look(runbook.name, runbook.digest, showing, world):
            found[one.row.step, one.row.host] = one
    return planned, found


def made_plan(
    runbook: Runbook, judged: Judged, drill: bool, planned: Planned, seen: Seen, problems: Sequence[str]
) -> Plan:
    """As people see it."""
    away = [f"{step}: {one.detail}" for (step, _), one in seen.items() if one.detail]
    return Plan(
        runbook=runbook.name,
        digest=runbook.digest,
        drill=drill,
        parameters=judged.texts,
        confirm="" if drill or not runbook.confirm else judged.texts.get(runbook.confirm, ""),
        lock=planned.lock,
        steps=[_step(row, seen.get((row.step, row.host))) for row in planned.rows],
        problems=list(dict.fromkeys([*problems, *planned.problems, *away])),
    )


def _step(row: PlanRow, looked: Looked | None) -> PlanStep:
    made = PlanStep(
        step=row.step,
        kind=row.kind,
        host=row.host,
        action=row.action,
        effect=row.effect,
        argv=row.argv,
        run_as=row.run_as,
        approvals=row.approvals,
        role=row.role,
        commit=row.commit,
        verdict=row.verdict,
        detail=row.detail,
        seen=row.seen,
    )
    if looked is None or row.kind != "do":
        return made
    detail = "; ".join(part for part in (row.detail, looked.detail) if part)
    return replace(made, detail=detail, seen=(row.seen or looked.output)[:SHOWN_CHARACTERS_MAX])
