"""`/api/watchbill/v1/drills`: what is to be rehearsed, and what rehearsals have shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.responses import Response

from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.drill_port import DrillsView
from watchbill_collector.api.ours import BASE
from watchbill_collector.api.routes import Call, Need, Route, Within


@dataclass(frozen=True, slots=True)
class DrillList:
    """Every runbook that is to be rehearsed or was, by name."""

    drills: Sequence[DrillsView]


async def _drills(call: Call) -> Response:
    return json_answer(DrillList(await call.house.services.drills.drills(call.caller)))


DRILL_ROUTES: tuple[Route, ...] = (
    Route(
        ("GET",),
        f"{BASE}/drills",
        Need.READ,
        _drills,
        "Rehearsals: what is due, how the last ones went, and how long recovery takes in them.",
        gives=DrillList,
        within=Within.FILTERED,
    ),
)
