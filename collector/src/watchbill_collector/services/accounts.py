"""What is known to be missing, for the HTTP side."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from watchbill.protocol.frames import GapReason, Stream
from watchbill_collector.api.ports import Gap, GapSummary, NoSuch, at
from watchbill_collector.history import GapRow, History
from watchbill_collector.hosts import HostRegistry

COLLECTOR = "(collector)"
"""The name under which gaps of the collector's own samples are listed."""
GAPS_READ_MAX = 100_000


class AccountsService:
    """`api.ports.GapsService` over the history's gap rows."""

    def __init__(self, history: History, registry: HostRegistry) -> None:
        self._history = history
        self._registry = registry

    async def gaps(self, host: str | None, since: datetime | None, limit: int) -> Sequence[Gap]:
        """Missing ranges, newest first."""
        agent_id = None
        if host is not None:
            known = self._registry.live(host) or self._registry.get(host)
            past = next((one for one in self._registry.hosts() if one.instance == host), None)
            if known is None and past is None:
                raise NoSuch(f"there is no host {host!r}: watchbill hosts lists them")
            found = known or past
            assert found is not None
            agent_id = found.agent_id
        rows = await asyncio.to_thread(self._history.gaps, agent_id, GAPS_READ_MAX if since else limit)
        gaps = [self._gap(row) for row in rows]
        return [gap for gap in gaps if since is None or (gap.last or gap.recorded) >= since][:limit]

    def summaries(self) -> dict[str, GapSummary]:
        """By agent id, over the time that history keeps. Blocks for one short read."""
        found: dict[str, GapSummary] = {}
        for row in self._history.gaps(None, GAPS_READ_MAX):
            before = found.get(row.agent_id, GapSummary())
            last = at(row.last_ms or row.recorded_ms)
            found[row.agent_id] = GapSummary(
                before.ranges + 1,
                before.records + row.count,
                before.samples + row.samples,
                last if before.last is None else max(last, before.last),
                before.unknown + (row.samples_known is None),
            )
        return found

    def _gap(self, row: GapRow) -> Gap:
        host = self._registry.get(row.agent_id)
        return Gap(
            host=host.instance if host else COLLECTOR if not row.agent_id else row.agent_id,
            agent_id=row.agent_id,
            stream=Stream(row.stream).name.lower() if row.stream else "",
            from_seq=row.from_seq,
            to_seq=row.to_seq,
            count=row.count,
            samples=row.samples_known,
            first=at(row.first_ms) if row.first_ms else None,
            last=at(row.last_ms) if row.last_ms else None,
            reason=GapReason(row.reason).name.lower(),
            recorded=at(row.recorded_ms),
            duration_s=max(0, row.last_ms - row.first_ms) / 1000 if row.first_ms and row.last_ms else None,
        )
