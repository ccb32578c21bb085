"""The door for what must not be lost: every producer of critical events comes through here.

A producer is answered when its event is as safe as this host can make it: `Receipt.durable` says whether that is on
the disk. What cannot be kept at all is refused with SpoolFull; nothing is dropped silently.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Protocol

from watchbill.clock import Clock
from watchbill.codec import encode_event
from watchbill.errors import UsageError
from watchbill.events import KIND_WANTED, is_kind
from watchbill.limits import EVENT_BYTES_MAX, EVENT_ID_BYTES
from watchbill.logs import fields
from watchbill_agent.spool import Draft, Receipt, SpoolFull

log = logging.getLogger(__name__)


class Keeps(Protocol):
    """The spool's keeper, as this sees it."""

    async def keep(self, draft: Draft) -> Receipt:
        """Keep a critical record. Raises SpoolFull."""


class Events:
    """Keeps events through `keeper`. `wake` is told that something may be sent."""

    def __init__(self, keeper: Keeps, clock: Clock, wake: Callable[[], None] = lambda: None) -> None:
        self._keeper = keeper
        self._clock = clock
        self._wake = wake

    async def keep(self, kind: str, payload: Mapping[str, object], event_id: bytes | None = None) -> Receipt:
        """Keep an event; where it stands, and whether it survives this process. Given the same `event_id` again, the
        collector has it once. Raises UsageError for one that no collector takes, SpoolFull when it cannot be kept.
        """
        content = json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()
        return await self.keep_bytes(kind, content, event_id)

    async def keep_bytes(self, kind: str, content: bytes, event_id: bytes | None = None) -> Receipt:
        """The same for a payload that is JSON already. Raises as `keep` does."""
        if not is_kind(kind):
            raise UsageError(f"got the kind {kind!r}, wanted {KIND_WANTED}")
        if len(content) > EVENT_BYTES_MAX:
            raise UsageError(f"{kind}: got {len(content)} bytes, wanted at most {EVENT_BYTES_MAX}")
        event_id = event_id or os.urandom(EVENT_ID_BYTES)
        assert len(event_id) == EVENT_ID_BYTES
        boottime_ms, wall_ms = self._clock.boottime_ms(), self._clock.wall_ms()
        body = encode_event(event_id, kind, boottime_ms, wall_ms, content)
        receipt = await self._keeper.keep(Draft(body, 0, boottime_ms, boottime_ms))
        self._wake()
        return receipt

    async def tell(self, kind: str, payload: Mapping[str, object]) -> None:
        """Keep an event of the agent's own, which goes on without it: a disk that refuses is logged."""
        try:
            await self.keep(kind, payload)
        except SpoolFull as exc:
            log.error("an event could not be kept", extra=fields(kind=kind, reason=exc))
