"""What the HTTP side needs to show rehearsals; see `ports.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from watchbill_collector.api.ports import Caller

HISTORY_SHOWN_MAX: Final = 50
"""Drills of one runbook, the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillView:
    """One drill. `ended` is None while it goes on, `recovery_s` when its clock never stopped."""

    id: str
    digest: str
    state: str
    requester: str
    started: datetime
    ended: datetime | None
    recovery_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillsView:
    """How the rehearsals of one runbook stand. `kept`: whether the newest recovery kept the objective, None where
    nobody knows; `other_text`: the last one that succeeded followed another text than the one in force; `automatic`:
    it begins by itself when it is due. Recovery times are of the newest drills that succeeded."""

    runbook: str
    every_s: float
    automatic: bool
    due: datetime | None
    overdue: bool
    held: int
    succeeded: int
    failed: bool
    other_text: bool
    rto_s: float
    recovery_s: float | None
    recovery_p50_s: float | None
    recovery_p90_s: float | None
    kept: bool | None
    history: Sequence[DrillView]


class DrillsService(Protocol):
    """Rehearsals, as one caller may see them: by the runbooks that he sees."""

    async def drills(self, caller: Caller) -> Sequence[DrillsView]:
        """Of every runbook that is to be rehearsed or was, by name."""


class NoDrills:
    """A collector without runbooks."""

    async def drills(self, caller: Caller) -> Sequence[DrillsView]:  # noqa: ARG002 - The protocol's.
        """None."""
        return ()
