"""How the RPO of each service was kept over the last thirty days: the error budget of what services.d promises.

Worked out anew from the records of all its jobs, one service after the other, by the same function as of a job: what a
host tells days late counts when it happened. A month of an hourly job takes some 20 ms of CPU, so there is a pause
after each service that keeps this to SHARE of the time. A figure says until when it is known.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from watchbill.backups.definition import Definition
from watchbill.clock import Clock
from watchbill.errors import Busy, StorageError
from watchbill.logs import fields
from watchbill_collector.api.backup_report import BackupRpo
from watchbill_collector.backups import JobKey
from watchbill_collector.backups.objective import OBJECTIVE_DEFAULT, Kept, rpo_kept, service_kept
from watchbill_collector.scopes import View
from watchbill_collector.services.backup_reports import records_since, rpo_told
from watchbill_collector.services.backup_series import Budget
from watchbill_collector.store import Store

if TYPE_CHECKING:
    from watchbill.daemon import Stamp
    from watchbill_collector.services.backup_desk import BackupDesk
    from watchbill_collector.services.backups import Backups

log = logging.getLogger("watchbill.backups")

PERIOD_MS: Final = 30 * 86_400_000
ROUND_S: Final = 300.0
"""From the beginning of one round to that of the next, at least."""
SHARE: Final = 0.02
"""Of one CPU that this may take."""
PAUSE_S_MIN: Final = 0.1
JOBS_MAX: Final = 1_000
"""Jobs of one service. One of more has no figure, and is counted."""


@dataclass(frozen=True, slots=True)
class Part:
    """A job of a service; its host is known through `known_ms`."""

    key: JobKey
    definition: Definition
    defined_ms: int
    known_ms: int
    host: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Figure:
    """How one service's RPO was kept; `hosts` are those whose jobs it comes from, with their labels."""

    kept: Kept
    hosts: Mapping[str, Mapping[str, str]]


class ServiceBudgets:
    """See the module. Figures are read from any thread."""

    def __init__(self, backups: "Backups", store: Store, clock: Clock) -> None:
        self._backups = backups
        self._store = store
        self._clock = clock
        self.figures: Mapping[str, Figure] = {}
        """By service; replaced as a whole."""
        self.left_out = 0
        """Services of more jobs than are looked at, in the last round."""

    def of(self, service: str, view: View) -> BackupRpo | None:
        """As it is told to somebody; None where there is no figure, or a host in it is not his to see."""
        figure = self.figures.get(service)
        if figure is None or not all(view.host(name, labels) for name, labels in figure.hosts.items()):
            return None
        return rpo_told(figure.kept, OBJECTIVE_DEFAULT)

    async def run(self, stamp: "Stamp") -> None:
        """One round after the other."""
        await self._backups.ready.wait()
        while True:
            began_s = self._clock.monotonic_s()
            try:
                await self.round(stamp)
            except (Busy, StorageError) as exc:
                log.error("budgets of services cannot be worked out", extra=fields(why=exc))
            stamp.made()
            await asyncio.sleep(max(began_s + ROUND_S - self._clock.monotonic_s(), PAUSE_S_MIN))

    async def round(self, stamp: "Stamp | None" = None) -> None:
        """Every service once. Raises Busy, StorageError."""
        promised = await self._backups.work(parts_of, self._backups.desk)
        looked = {name: found for name, found in promised.items() if 0 < len(found[1]) <= JOBS_MAX}
        self.left_out = sum(len(parts) > JOBS_MAX for _, parts in promised.values())
        self._show({name: figure for name, figure in self.figures.items() if name in looked})
        for name, (rpo_s, parts) in looked.items():
            figure, took_s = await asyncio.to_thread(self._figure, rpo_s, parts, self._clock.wall_ms())
            if figure is not None:
                self._show({**self.figures, name: figure})
            if stamp is not None:
                stamp.made()
                await asyncio.sleep(max(took_s / SHARE, PAUSE_S_MIN))

    def _show(self, figures: Mapping[str, Figure]) -> None:
        self.figures = figures
        self._backups.desk.budgets = {
            name: budget for name, figure in figures.items() if (budget := _budget(figure.kept)) is not None
        }

    def _figure(self, rpo_s: float, parts: Sequence[Part], now_ms: int) -> tuple[Figure | None, float]:
        """Of one service, and the CPU that it took. In a thread."""
        began_s = time.thread_time()
        kept = service_kept(
            [one for part in parts if (one := self._kept(part, rpo_s, now_ms)) is not None], now_ms
        )
        figure = None if kept is None else Figure(kept, {part.host: part.labels for part in parts})
        return figure, time.thread_time() - began_s

    def _kept(self, part: Part, rpo_s: float, now_ms: int) -> Kept | None:
        since_ms = now_ms - PERIOD_MS
        found, truncated = records_since(self._store, part.key, since_ms - round(rpo_s * 1000))
        return rpo_kept(
            replace(part.definition, rpo_s=rpo_s),
            [(row.record, row.received_ms, row.shift_ms) for row in found],
            defined_ms=part.defined_ms,
            from_ms=since_ms,
            until_ms=now_ms,
            known_ms=part.known_ms,
            told_from_ms=found[-1].received_ms if truncated else 0,
        )


def _budget(kept: Kept) -> Budget | None:
    """None while nothing is known of any time."""
    if kept.share is None:
        return None
    allowed_ms = kept.allowed_ms(OBJECTIVE_DEFAULT)
    return Budget(kept.share, allowed_ms / 1000, (allowed_ms - kept.over_ms) / 1000)


def parts_of(desk: "BackupDesk") -> dict[str, tuple[float, list[Part]]]:
    """Every service that promises an RPO, in seconds, with the jobs that hosts have for it. In the desk's thread."""
    promised = desk.promised_rpos()
    found: dict[str, tuple[float, list[Part]]] = {}
    for service, jobs in desk.jobs_of(promised).items():
        parts = []
        for key, row, host in jobs:
            definition = desk.book.definition(key)
            if definition is not None:
                known_ms = desk.through_ms(key.agent_id)
                parts.append(Part(key, definition, row.defined_ms, known_ms, host.instance, host.labels))
        found[service] = promised[service], parts
    return found
