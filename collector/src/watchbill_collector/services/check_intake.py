"""What hosts tell of their checks: judged at the door, and kept in the transaction that commits it.

The event itself stays in the host's timeline; beside it the newest word of each check is kept, which people see next to
its verdict.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec
import sqlalchemy as sa

from watchbill_collector.applications import VERDICTS
from watchbill_collector.ingest.ports import CritEvent
from watchbill_collector.ingest.session import RecordRefused
from watchbill_collector.store import checks as rows
from watchbill_collector.store.checks import CheckChange
from watchbill_collector.store.text import harmless

CHECK_CHANGED: Final = "check.changed"
CHECK_KINDS: Final = frozenset({CHECK_CHANGED, "heartbeat.ping", "statsd.event"})
"""Kinds of which the newest of each host are kept; likewise whatever begins with a word of CHECK_FAMILIES."""
CHECK_FAMILIES: Final = ("security.",)
UNREADABLE: Final = "check_event"
"""Why something is refused that is no event of a check."""


class _Changed(msgspec.Struct):
    check: str
    to: str
    app: str = ""
    kind: str = ""
    before: str = msgspec.field(default="", name="from")
    reason: str = ""
    detail: str = ""


def read(_agent_id: str, kind: str, _event_id: bytes, payload: bytes) -> CheckChange | None:
    """`Ingest.read_event`; its times are not known yet. Raises RecordRefused."""
    if kind != CHECK_CHANGED:
        return None
    try:
        told = msgspec.json.decode(payload, type=_Changed)
    except (msgspec.DecodeError, ValueError) as exc:
        raise RecordRefused(UNREADABLE, f"{kind}: {exc}") from exc
    if not 0 < len(told.check) <= rows.NAME_CHARACTERS_MAX or not told.check.isprintable():
        raise RecordRefused(
            UNREADABLE,
            f"{kind}: a check's name of 1 to {rows.NAME_CHARACTERS_MAX} printable characters is wanted",
        )
    if told.to not in VERDICTS or told.before not in ("", *VERDICTS):
        raise RecordRefused(UNREADABLE, f"{kind}: verdicts are wanted: {', '.join(VERDICTS)}")
    return CheckChange(
        check_name=told.check,
        app=harmless(told.app, rows.NAME_CHARACTERS_MAX),
        kind=harmless(told.kind, rows.NAME_CHARACTERS_MAX),
        before=told.before,
        after=told.to,
        reason=harmless(told.reason, rows.REASON_CHARACTERS_MAX),
        detail=harmless(told.detail, rows.DETAIL_CHARACTERS_MAX),
        since_ms=0,
        at_ms=0,
    )


def write(
    connection: sa.Connection, site: str, agent_id: str, events: Sequence[CritEvent]
) -> list[tuple[str, CheckChange]]:
    """Keep what new events of a host say of its checks; what is kept now. In the transaction that keeps the events."""
    return [
        (agent_id, rows.put(connection, site, agent_id, replace(event.content, since_ms=at_ms, at_ms=at_ms)))
        for event in events
        if isinstance(event.content, CheckChange)
        for at_ms in (event.wall_ms + event.shift_ms,)
    ]
