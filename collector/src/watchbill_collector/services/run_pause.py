"""What holds for all runs: the pause, and since when each runbook's failures are counted. In memory as it is stored."""

import sqlalchemy as sa

from watchbill.clock import Clock
from watchbill_collector.audit import Entry
from watchbill_collector.store import Store, audit, automation
from watchbill_collector.store.automation import Kept


class Restraints:
    """See the module. Each change is in the audit, in its own transaction."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.pause: Kept | None = store.read(lambda connection: automation.get(connection, automation.PAUSE))
        self.breakers: dict[str, Kept] = store.read(
            lambda connection: automation.begin_with(connection, store.site, automation.BREAKER)
        )

    @property
    def paused(self) -> str:
        """By whom and why nothing begins, "" when everything may."""
        return f"by {self.pause.person}: {self.pause.value.get('reason', '')}" if self.pause else ""

    def since_ms(self, runbook: str) -> int:
        """Since when its failures are counted."""
        kept = self.breakers.get(runbook)
        return kept.changed_ms if kept is not None else 0

    async def set_pause(self, person: str, reason: str) -> None:
        """Nothing begins any more. Raises StorageError, Busy."""
        await self._put(automation.PAUSE, {"reason": reason}, person, "automation.pause", reason)
        self.pause = Kept({"reason": reason}, person, self._clock.wall_ms())

    async def end_pause(self, person: str, reason: str) -> None:
        """Everything goes on. Raises StorageError, Busy."""

        def work(connection: sa.Connection) -> None:
            automation.remove(connection, automation.PAUSE)
            self._record(connection, person, "automation.resume", "automation", reason)

        await self._store.write(work)
        self.pause = None

    async def reset_breaker(self, runbook: str, person: str, reason: str) -> None:
        """Failures are counted from now on. Raises StorageError, Busy."""
        name = automation.BREAKER + runbook
        await self._put(name, {"reason": reason}, person, "breaker.reset", reason, runbook)
        self.breakers[runbook] = Kept({"reason": reason}, person, self._clock.wall_ms())

    async def _put(
        self,
        name: str,
        value: dict[str, object],
        person: str,
        action: str,
        reason: str,
        target: str = "automation",
    ) -> None:
        now_ms = self._clock.wall_ms()

        def work(connection: sa.Connection) -> None:
            automation.put(connection, self._store.site, name, value, person, now_ms)
            self._record(connection, person, action, target, reason)

        await self._store.write(work)

    def _record(self, connection: sa.Connection, person: str, action: str, target: str, reason: str) -> None:
        entry = Entry(actor=person, action=action, target=target, detail={"reason": reason})
        audit.append(connection, self._store.site, self._clock, entry)
