"""What the HTTP side needs for managing people: users, their grants, their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from watchbill_collector.api.ports import Caller


@dataclass(frozen=True, slots=True)
class GrantView:
    """A role, and the selector of hosts it holds for; an empty scope is everything."""

    role: str
    scope: str = ""


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token without its secret. `used` is when it was used last, within five minutes."""

    id: str
    name: str
    created: datetime
    expires: datetime | None
    used: datetime | None
    revoked: datetime | None


@dataclass(frozen=True, slots=True)
class UserView:
    """Somebody who may use the API: a person or a program."""

    name: str
    disabled: bool
    created: datetime
    grants: tuple[GrantView, ...]
    tokens: tuple[TokenView, ...]


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A token that was just made; its text is shown this once."""

    user: UserView
    id: str
    token: str


class PeopleService(Protocol):
    """Managing users. NoSuch for a name that is nobody's; UsageError for what contradicts itself, and when nobody
    would be left who administers everything.
    """

    async def people(self) -> Sequence[UserView]:
        """Everybody, by name."""

    async def add(self, name: str, grants: Sequence[GrantView], by: Caller) -> UserView:
        """A new user, without a token."""

    async def grant(self, name: str, grants: Sequence[GrantView], by: Caller) -> UserView:
        """Give somebody these grants and no others."""

    async def disable(self, name: str, by: Caller) -> UserView:
        """Let somebody in no more, at once."""

    async def enable(self, name: str, by: Caller) -> UserView:
        """Let somebody in again."""

    async def new_token(self, name: str, token_name: str, ttl_s: float | None, by: Caller) -> MadeToken:
        """Another token."""

    async def revoke_token(self, name: str, token_id: str, by: Caller) -> UserView:
        """Make a token worthless, at once."""
