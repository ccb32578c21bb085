# ruff: noqa: ARG002 - The twins take what the contracts give them, and need less of it.
"""In-memory twins of what has to do with people: users, the audit, and the channels that reach them."""

import dataclasses
import secrets
from collections.abc import Mapping, Sequence

from watchbill.clock import Clock
from watchbill.errors import StorageError
from watchbill_collector.api.audit_port import AuditQuery, AuditRow, AuditVerdict, AuditWitness
from watchbill_collector.api.channel_port import ChannelTrial, ChannelView
from watchbill_collector.api.people_port import GrantView, MadeToken, TokenView, UserView
from watchbill_collector.api.ports import Caller, NoSuch, at
from watchbill_collector.audit import origin


class ChannelsTwin:
    """Two channels: `ops` works, `broken` does not."""

    def __init__(self) -> None:
        self.tested: list[tuple[str, str]] = []

    async def channels(self) -> Sequence[ChannelView]:
        """Both."""
        return [ChannelView("broken", "webhook"), ChannelView("ops", "email")]

    async def test(self, name: str, by: Caller) -> ChannelTrial:
        """Note who asked."""
        kinds = {channel.name: channel.kind for channel in await self.channels()}
        if name not in kinds:
            raise NoSuch(f"there is no channel {name!r}")
        self.tested.append((name, by.name))
        works = name == "ops"
        detail = "250 accepted" if works else "https://hooks.example: connection refused"
        hint = "" if works else "check the address"
        return ChannelTrial(name, kinds[name], works, detail, not works, hint, 0.1)


class AuditTwin:
    """An audit in a list. `fail` makes it unwritable."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.entries: list[AuditRow] = []
        self.fail = ""

    async def ready(self) -> None:
        """Unless it is to fail."""
        if self.fail:
            raise StorageError(self.fail)

    async def record(
        self, actor: str, action: str, target: str, outcome: str, detail: Mapping[str, object]
    ) -> None:
        """Keep it."""
        await self.ready()
        self._keep(actor, "", action, target, outcome, detail)

    def refused(self, actor: str, source: str, action: str, target: str, reason: str) -> None:
        """Keep it."""
        self._keep(actor or "anonymous", source, action, target, "refused", {"reason": reason})

    async def rows(self, wanted: AuditQuery, limit: int) -> Sequence[AuditRow]:
        """Those of an actor."""
        found = [row for row in reversed(self.entries) if wanted.actor in ("", row.actor)]
        return found[:limit]

    async def export(self, after: int, limit: int) -> Sequence[AuditRow]:
        """In order."""
        return self.entries[after : after + limit]

    async def verify(self, witnesses: Sequence[str] | None) -> AuditVerdict:
        """A list cannot be tampered with, and no host was told of it."""
        silent = tuple(AuditWitness(name, "silent", 0, None) for name in witnesses or ())
        return AuditVerdict(not silent, len(self.entries), len(self.entries), "", (), 0, silent)

    def _keep(
        self, actor: str, source: str, action: str, target: str, outcome: str, detail: Mapping[str, object]
    ) -> None:
        asked = origin()
        asked.rows += 1
        number = len(self.entries) + 1
        row = AuditRow(
            number,
            at(self._clock.wall_ms()),
            actor,
            source or asked.source,
            action,
            target,
            outcome,
            asked.request,
            detail,
            "",
            "",
        )
        self.entries.append(row)


class PeopleTwin:
    """Users in a dictionary."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._users: dict[str, UserView] = {}

    async def people(self) -> Sequence[UserView]:
        """By name."""
        return [self._users[name] for name in sorted(self._users)]

    async def add(self, name: str, grants: Sequence[GrantView], by: Caller) -> UserView:
        """A new one."""
        return self._put(UserView(name, False, at(self._clock.wall_ms()), tuple(grants), ()))

    async def grant(self, name: str, grants: Sequence[GrantView], by: Caller) -> UserView:
        """Other grants."""
        return self._put(dataclasses.replace(self._find(name), grants=tuple(grants)))

    async def disable(self, name: str, by: Caller) -> UserView:
        """Out."""
        return self._put(dataclasses.replace(self._find(name), disabled=True))

    async def enable(self, name: str, by: Caller) -> UserView:
        """In again."""
        return self._put(dataclasses.replace(self._find(name), disabled=False))

    async def new_token(self, name: str, token_name: str, ttl_s: float | None, by: Caller) -> MadeToken:
        """Another token."""
        user, now = self._find(name), at(self._clock.wall_ms())
        token = TokenView(secrets.token_hex(6), token_name, now, None, None, None)
        user = self._put(dataclasses.replace(user, tokens=(*user.tokens, token)))
        return MadeToken(user, token.id, secrets.token_urlsafe(32))

    async def revoke_token(self, name: str, token_id: str, by: Caller) -> UserView:
        """One token less."""
        user = self._find(name)
        if token_id not in {token.id for token in user.tokens}:
            raise NoSuch(f"{name} has no token {token_id}")
        left = tuple(token for token in user.tokens if token.id != token_id)
        return self._put(dataclasses.replace(user, tokens=left))

    def _find(self, name: str) -> UserView:
        if name not in self._users:
            raise NoSuch(f"no user is called {name}")
        return self._users[name]

    def _put(self, user: UserView) -> UserView:
        self._users[user.name] = user
        return user
