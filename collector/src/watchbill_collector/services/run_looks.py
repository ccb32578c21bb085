"""Live looks for a plan: read actions, and what other actions print of what they would do. Nothing is changed by them.

Every command here says that it is for a plan; runners take nothing but looks under that word. They belong to no run and
are in no journal; they have keys and are in the ledgers of their hosts like all others.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from watchbill.actions.definition import Action
from watchbill.actions.order import Command, Purpose
from watchbill.actions.outcomes import Finished, Outcome
from watchbill.actions.outcomes import Refused as HostRefused
from watchbill.clock import Clock
from watchbill_collector.runbooks.expression import Known
from watchbill_collector.runbooks.outputs import HostResult, host_result, step_value
from watchbill_collector.runbooks.planning import PlanRow
from watchbill_collector.runbooks.run.world import World
from watchbill_collector.services.runs import Runs

LOOK_S: Final = 20.0
"""How long a plan waits for a look; what has not answered by then is unknown."""
LOOKS_MAX: Final = 500
"""Looks of one plan at a time; of more, those beyond are unknown."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look brought: its result, or why there is none."""

    row: PlanRow
    result: HostResult
    detail: str
    output: str = ""


class Looks:
    """Sends looks and waits for what comes of them."""

    def __init__(self, runs: Runs, clock: Clock) -> None:
        self._runs = runs
        self._clock = clock
        self.wait_s = LOOK_S

    async def look(
        self,
        runbook: str,
        digest: str,
        rows: Sequence[PlanRow],
        world: World,
        purpose: Purpose = Purpose.PLAN,
    ) -> list[Looked]:
        """All of them at once."""
        run = f"{purpose.value}-{uuid.uuid4().hex[:16]}"
        await self._runs.orders.refill(len(rows) + 1)
        return await asyncio.gather(
            *(
                self._one(run, runbook, digest, number, row, world, purpose)
                for number, row in enumerate(rows[:LOOKS_MAX], 1)
            )
        )

    async def _one(
        self,
        run: str,
        runbook: str,
        digest: str,
        number: int,
        row: PlanRow,
        world: World,
        purpose: Purpose,
    ) -> Looked:
        host = world.fleet.host(row.host)
        action = None if host is None or host.actions is None else host.actions.get(row.action)
        if action is None or row.arguments is None:
            return Looked(row, HostResult(), "not known")
        if not world.connected(row.agent):
            return Looked(row, HostResult(), f"{row.host} is away")
        command = Command(
            run=run,
            runbook=runbook,
            runbook_digest=digest,
            step=row.step,
            attempt=number,
            purpose=purpose,
            host=row.host,
            action=row.action,
            action_digest=row.digest,
            arguments=row.arguments,
        )
        key = command.key(world.site, row.agent)
        future = self._runs.expect(key)
        try:
            not_after_ms = self._clock.wall_ms() + round(self.wait_s * 1000)
            if not self._runs.orders.send(row.agent, command, not_after_ms):
                return Looked(row, HostResult(), f"{row.host} is away")
            with contextlib.suppress(TimeoutError):
                return _looked(row, action, await asyncio.wait_for(future, self.wait_s))
            return Looked(row, HostResult(), f"{row.host} did not answer within {self.wait_s:g} s")
        finally:
            self._runs.forget(key)


def _looked(row: PlanRow, action: Action, said: Finished | HostRefused) -> Looked:
    if isinstance(said, HostRefused):
        return Looked(row, HostResult(ok=False), f"{row.host} refused: {said.reason.value}: {said.detail}")
    detail = "" if said.outcome is Outcome.OK else f"{said.outcome.value}: {said.detail or said.errors[:200]}"
    return Looked(row, host_result(action, said), detail, said.output)


def seen_of(looked: Sequence[Looked]) -> Mapping[str, Known]:
    """What steps have brought, by id, as a plan takes it."""
    by_step: dict[str, dict[str, HostResult]] = {}
    for one in looked:
        by_step.setdefault(one.row.step, {})[one.row.host] = one.result
    return {step: step_value(results) for step, results in by_step.items()}
