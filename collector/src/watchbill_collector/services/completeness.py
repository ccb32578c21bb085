"""After a start: what of the last hour hosts had delivered before it, read from history in the background.

One series a host is enough, one that its agent sends with every reading. Of a host that has none in this time (another
kind of agent, or an hour of silence) the hour begins with this process.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from watchbill.errors import WatchbillError
from watchbill.logs import fields
from watchbill_collector.history import History
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.ingest.completeness import LAG_MS_MAX, WINDOW_MS, Times
from watchbill_collector.ingest.ingest import Ingest
from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.matching import Matcher, MatchOp
from watchbill_collector.series import SeriesTable

log = logging.getLogger("watchbill.collector")

WITNESS: Final = "watchbill_agent_ticks_total"
HOSTS_AT_ONCE: Final = 64
SAMPLES_MAX: Final = 2_000_000
"""Of HOSTS_AT_ONCE hosts in an hour and a half; more is a host that reads more often than it may."""


async def recall(
    history: History, table: SeriesTable, registry: HostRegistry, ingest: Ingest, now_ms: int
) -> None:
    """Fill in every host that was there before this process began at `now_ms`."""
    unread = ingest.unread()
    begin_ms = now_ms - WINDOW_MS - LAG_MS_MAX
    came = {host.agent_id: (presence.labels, host.enrolled_ms) for host, presence in registry.came()}
    try:
        series = await asyncio.to_thread(
            _witnesses, history, table, {key: labels for key, (labels, _) in came.items()}, begin_ms, now_ms
        )
        known = [agent_id for agent_id in unread if agent_id in series]
        for at in range(0, len(known), HOSTS_AT_ONCE):
            some = known[at : at + HOSTS_AT_ONCE]
            ids = [series[agent_id] for agent_id in some]
            found = await asyncio.to_thread(_times, history, ids, begin_ms, now_ms)
            for agent_id, times in zip(some, found, strict=True):
                if len(times):
                    unread.pop(agent_id).fill(times, max(begin_ms, came[agent_id][1]))
    except WatchbillError as exc:
        log.warning("completeness begins anew", extra=fields(why=exc))
    for coverage in unread.values():
        coverage.since_ms = now_ms


def _witnesses(
    history: History, table: SeriesTable, came: Mapping[str, Mapping[str, str]], begin_ms: int, end_ms: int
) -> dict[str, int]:
    """The witness of each host, by agent id."""
    history.know(begin_ms, end_ms)
    ids = table.select([Matcher(METRIC_NAME, MatchOp.EQUAL, WITNESS)])
    by_source = dict(zip(table.sources_of(ids).tolist(), ids.tolist(), strict=True))
    sources = {agent_id: table.source(labels) for agent_id, labels in came.items()}
    return {key: by_source[source] for key, source in sources.items() if source in by_source}


def _times(history: History, ids: Sequence[int], begin_ms: int, end_ms: int) -> list[Times]:
    """When each of these series has a value."""
    found = history.select(np.array(ids, np.uint32), begin_ms, end_ms, SAMPLES_MAX)
    ends = found.offsets.tolist()
    return [found.times[first:last][~np.isnan(found.values[first:last])] for first, last in pairwise(ends)]
