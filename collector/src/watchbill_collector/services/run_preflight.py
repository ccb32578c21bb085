"""Preflights: whether each runbook could be run, looked at now and then, before anybody needs it.

Every PERIOD_S, spread over it by name; sooner where it was not ready, and soon after its text or what hosts allow has
changed. One at a time: a look asks hosts, and nobody waits for this one.
"""

import asyncio
import contextlib
import logging
import zlib
from typing import TYPE_CHECKING, Final

from watchbill.clock import Clock
from watchbill.errors import Busy, StorageError
from watchbill.logs import fields
from watchbill_collector.services.run_house import RunHouse
from watchbill_collector.store.runbooks import PreflightRow

if TYPE_CHECKING:
    from watchbill.daemon import Stamp

log = logging.getLogger("watchbill.runs")

PERIOD_S: Final = 30 * 60.0
NOT_READY_S: Final = 5 * 60.0
"""Between looks at a runbook that was not ready: who mends it wants to see that."""
FIRST_S: Final = 120.0
"""After the start: by then hosts have come back."""
CHANGED_S: Final = 60.0
"""After a text or an inventory changed: more changes follow, as a rule, and who changed it can ask for a plan."""
LOOK_EVERY_S: Final = 5.0
RETRY_S: Final = 60.0

Version = tuple[str, bool, object]


class Preflights:
    """See the module. On the loop."""

    def __init__(self, clock: Clock, house: RunHouse) -> None:
        self.found: dict[str, PreflightRow] = {}
        """The newest look at each runbook, in this life."""
        self.looked = 0
        self.failed = 0
        self._clock = clock
        self._house = house
        self._due_s: dict[str, float] = {}
        self._seen: dict[str, Version] = {}

    async def run(self, stamp: "Stamp") -> None:
        """For ever."""
        await self._house.runs.ready.wait()
        while True:
            stamp.made()
            with contextlib.suppress(Busy, StorageError):
                await self.turn()
            await asyncio.sleep(LOOK_EVERY_S)

    async def turn(self) -> str:
        """Look at the runbook that has waited longest, if its time has come; its name. Raises Busy, StorageError."""
        now_s = self._clock.monotonic_s()
        self._plan(now_s)
        name = min(self._due_s, key=lambda one: self._due_s[one], default="")
        if not name or self._due_s[name] > now_s:
            return ""
        self._due_s[name] = now_s + RETRY_S
        row = await self._house.desk.preflight(name)
        if row is None:
            del self._due_s[name]
            return name
        self._note(row)
        self._due_s[name] = now_s + (_spread(name, PERIOD_S) if row.ready else NOT_READY_S)
        return name

    def _note(self, row: PreflightRow) -> None:
        self.looked += 1
        before = self.found.get(row.name)
        if not row.ready:
            self.failed += 1
        if (before is None and not row.ready) or (before is not None and before.ready != row.ready):
            log.warning(
                "a runbook is ready" if row.ready else "a runbook is not ready",
                extra=fields(runbook=row.name, why="; ".join(row.problems)[:500]),
            )
        self.found[row.name] = row

    def _plan(self, now_s: float) -> None:
        """When each is looked at."""
        shelf, generation = self._house.shelf, self._house.inventories.generation
        for name in [name for name in self._due_s if name not in shelf.in_force]:
            del self._due_s[name], self._seen[name]
            self.found.pop(name, None)
        for name, runbook in shelf.in_force.items():
            version = (runbook.digest, shelf.acceptance(runbook.digest) is not None, generation)
            before = self._seen.get(name)
            self._seen[name] = version
            if before is None:
                self._due_s[name] = now_s + (FIRST_S if not self.looked else CHANGED_S)
            elif before != version:
                self._due_s[name] = min(self._due_s.get(name, now_s + CHANGED_S), now_s + CHANGED_S)


def _spread(name: str, period_s: float) -> float:
    """A period, up to a tenth shorter or longer by the name: what was looked at together comes apart."""
    return period_s * (0.9 + 0.2 * (zlib.crc32(name.encode()) % 1000) / 1000)
