"""All silences: in the store, and in memory for whoever looks every second.

Two people may silence the same alerts at the same time: each silence is its own, with its own reason and end. The
second who ends a silence early is told that somebody was quicker. What is done is in the audit, in one transaction.
"""

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from watchbill.clock import Clock
from watchbill.errors import Busy, Refused, UsageError
from watchbill_collector.dispatch.matchers import BadMatchers, read_match
from watchbill_collector.dispatch.silence import (
    REASON_CHARACTERS_MAX,
    SILENCE_S_MAX,
    SILENCES_MAX,
    Silence,
)
from watchbill_collector.scopes import EVERYTHING, Bindings, NoBindings, View
from watchbill_collector.store import Store, audit, silences
from watchbill_collector.store.audit import Entry
from watchbill_collector.store.silences import SilenceRow

AUTHOR_CHARACTERS_MAX: Final = 128
START_S_MAX: Final = 366 * 86_400
"""How far ahead a silence may begin."""
ID_BYTES: Final = 6
SCOPES_JOINED_BY: Final = "\n"
"""The spelling of a scope has no line break."""


class NoSilence(Refused):
    """There is no silence of that id."""


class SilenceBook:
    """`changed` is called on the loop after every change; `bindings` say which hosts are in which scope."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        changed: Callable[[], None] = lambda: None,
        bindings: Bindings | None = None,
    ) -> None:
        self.unreadable = 0
        """Silences in the store that make no sense to this version; they silence nothing."""
        self.changed = changed
        self._store = store
        self._clock = clock
        self._bindings = bindings if bindings is not None else NoBindings()
        self._all: tuple[Silence, ...] = ()

    def load(self) -> None:
        """Read what is kept. Blocks. Raises StorageError."""
        rows = self._store.read(lambda connection: silences.all_silences(connection, self._store.site))
        self._all = tuple(one for row in rows if (one := self._silence(row)) is not None)

    def _silence(self, row: SilenceRow) -> Silence | None:
        try:
            match = read_match(row.matchers)
        except BadMatchers:
            self.unreadable += 1
            return None
        return Silence(
            silence_id=row.silence_id,
            match=match,
            reason=row.reason,
            author=row.author,
            created_ms=row.created_ms,
            starts_ms=row.starts_ms,
            ends_ms=row.ends_ms,
            expired_by=row.expired_by,
            # Of scopes that this version cannot read, nothing is silenced.
            scope=View.of(row.scope.split(SCOPES_JOINED_BY)),
            bindings=self._bindings,
            generation=self._bindings.generation,
        )

    def all(self) -> tuple[Silence, ...]:
        """Every silence that is kept, ended ones too; the same object as long as nothing changes."""
        generation = self._bindings.generation
        if any(one.generation != generation and not one.scope.whole for one in self._all):
            # Hosts came or went: what keeps to a scope may mean other alerts than before.
            self._all = tuple(replace(one, generation=generation) for one in self._all)
        return self._all

    def get(self, silence_id: str) -> Silence:
        """One of them. Raises NoSilence."""
        for one in self._all:
            if one.silence_id == silence_id:
                return one
        raise NoSilence(f"there is no silence {silence_id[:40]!r}: watchbill silences list")

    async def add(
        self,
        matchers: str,
        duration_s: float,
        reason: str,
        author: str,
        starts_in_s: float = 0.0,
        scope: View = EVERYTHING,
    ) -> Silence:
        """Silence from now, or from a while ahead, never more than `scope` takes in. Raises UsageError for what cannot
        be, Busy beyond the bound, StorageError.
        """
        if scope.scopes is not None and not scope.scopes:
            raise Refused("a silence needs a scope that takes in something")
        try:
            match = read_match(matchers)
        except BadMatchers as exc:
            raise UsageError(f"the matchers cannot be used: {exc}") from exc
        if not any(not one.matches("") for one in match.matchers):
            raise UsageError(
                'a silence of everything is refused: name something that must be there, such as alertname="X"'
            )
        if not reason.strip() or len(reason) > REASON_CHARACTERS_MAX:
            raise UsageError(f"a reason of 1 to {REASON_CHARACTERS_MAX} characters is wanted")
        if not 1 <= duration_s <= SILENCE_S_MAX:
            raise UsageError(f"a silence lasts from 1 s to {SILENCE_S_MAX // 86_400} days")
        if not 0 <= starts_in_s <= START_S_MAX:
            raise UsageError(f"a silence begins now or within {START_S_MAX // 86_400} days")
        now_ms = self._clock.wall_ms()
        if sum(one.ends_ms > now_ms for one in self._all) >= SILENCES_MAX:
            raise Busy(f"there are {SILENCES_MAX} silences already", 60.0)
        starts_ms = now_ms + round(starts_in_s * 1000)
        row = SilenceRow(
            silence_id=secrets.token_hex(ID_BYTES),
            matchers=match.text,
            reason=_line(reason, REASON_CHARACTERS_MAX),
            author=_line(author, AUTHOR_CHARACTERS_MAX),
            created_ms=now_ms,
            starts_ms=starts_ms,
            ends_ms=starts_ms + round(duration_s * 1000),
            scope=SCOPES_JOINED_BY.join(one.text for one in scope.scopes or ()),
        )

        def work(connection: sa.Connection) -> None:
            silences.add_silence(connection, self._store.site, row)
            detail = {
                "matchers": row.matchers,
                "reason": row.reason,
                "starts_ms": row.starts_ms,
                "ends_ms": row.ends_ms,
                "scope": row.scope,
            }
            entry = Entry(actor=row.author, action="silence.add", target=row.silence_id, detail=detail)
            audit.append(connection, self._store.site, self._clock, entry)

        await self._store.write(work)
        made = self._silence(row)
        assert made is not None, "what was read just now reads again"
        self._all = (*(one for one in self._all if one.ends_ms > now_ms - silences.KEPT_MS), made)
        self.changed()
        return made

    async def expire(self, silence_id: str, by: str) -> Silence:
        """End a silence now. Raises NoSilence, Refused when it has ended, StorageError."""
        before = self.get(silence_id)
        now_ms = self._clock.wall_ms()
        by = _line(by, AUTHOR_CHARACTERS_MAX)
        quicker = f"silence {silence_id} has ended already"
        if before.ends_ms <= now_ms:
            raise Refused(f"{quicker}, by {before.expired_by}" if before.expired_by else quicker)

        def work(connection: sa.Connection) -> bool:
            if not silences.expire_silence(connection, silence_id, now_ms, by):
                return False
            detail = {"matchers": before.match.text, "author": before.author}
            entry = Entry(actor=by, action="silence.expire", target=silence_id, detail=detail)
            audit.append(connection, self._store.site, self._clock, entry)
            return True

        if not await self._store.write(work):
            raise Refused(quicker)
        after = replace(before, ends_ms=now_ms, expired_by=by)
        self._all = tuple(after if one.silence_id == silence_id else one for one in self._all)
        self.changed()
        return after


def _line(text: str, length_max: int) -> str:
    """Printable, on one line, bounded, and something UTF-8 can hold."""
    kept = "".join(char if char.isprintable() else " " for char in text.strip()[:length_max])
    return kept.encode("utf-8", "replace").decode()
