"""The account of critical events: what a host's own files hold, against what the collector has stored.

An agent keeps its critical records for three days after they were acknowledged, so its files tell every one that it
ever promised to keep.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from watchbill.v1 import link_pb2 as pb
from watchbill_agent.spool.format import Kind, decode_header, seed_of
from watchbill_agent.spool.segment import examine


class Event(NamedTuple):
    """One event by its id, and its kind."""

    event_id: bytes
    kind: str


def kept(spool: Path) -> list[Event]:
    """What the files of a host's spool hold, in order."""
    found = []
    for path in sorted((spool / "crit").glob("*.seg")):
        data = path.read_bytes()
        header = decode_header(data)
        assert header is not None, path
        for frame in examine(data, seed_of(header.store_id)).numbered:
            if frame.kind is Kind.DATA:
                event = pb.Record.FromString(frame.payload).event
                found.append(Event(event.event_id, event.kind))
    return found


def stored(collector: Any, agent_id: str) -> list[Event]:
    """What the collector has of a host."""
    path = collector.state / "control.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        rows = connection.execute(
            "SELECT event_id, kind FROM crit_records WHERE agent_id = ? ORDER BY received_ms, seq",
            (agent_id,),
        )
        return [Event(*row) for row in rows]


def balance(collector: Any, agent: Any, until: Any, seconds: float = 60) -> list[Event]:
    """Wait until everything that the host kept is stored; it is there once, and nothing is that was not kept."""

    def missing() -> set[Event]:
        return set(kept(agent.state / "spool")) - set(stored(collector, agent.agent_id))

    until(lambda: not missing(), f"critical events of {agent.name} are stored", seconds)
    found = stored(collector, agent.agent_id)
    assert sorted(found) == sorted(kept(agent.state / "spool")), "each once, and no other"
    assert len(set(found)) == len(found)
    return found
