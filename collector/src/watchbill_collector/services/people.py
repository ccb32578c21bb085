"""Users, tokens and sessions, for the HTTP side."""

from collections.abc import Callable, Sequence
from datetime import datetime

from watchbill.errors import UsageError
from watchbill_collector.api.people_port import GrantView, MadeToken, TokenView, UserView
from watchbill_collector.api.ports import Caller, Grant, LoginCode, NewSession, NoSuch, Role, at
from watchbill_collector.scopes import parse_scope
from watchbill_collector.users import LOGIN_LIFE_S, OpenedSession, Principal, User, Users
from watchbill_collector.users import Grant as OwnGrant
from watchbill_collector.users import Role as OwnRole

ROLE_NAMES = ", ".join(role.value for role in OwnRole)


class PeopleService:
    """`api.ports.UsersService` over `users.Users`; `now_ms` is the wall clock."""

    def __init__(self, users: Users, now_ms: Callable[[], int]) -> None:
        self._users = users
        self._now_ms = now_ms

    async def bearer(self, token: str, source: str) -> Caller:
        """The user of a bearer token."""
        return _caller(self._users.verify_bearer(token, source))

    async def session(self, cookie: str, source: str) -> Caller:
        """The user of a session."""
        principal = self._users.verify_session(cookie, source)
        await self._users.touch(cookie)
        return _caller(principal)

    def csrf_is_right(self, cookie: str, csrf: str) -> bool:
        """Whether a writing request carries the token of its own session."""
        return self._users.csrf_is_right(cookie, csrf)

    async def login_code(self, caller: Caller) -> LoginCode:
        """A one-time login."""
        code = await self._users.new_login(caller.user_id, actor=caller.name)
        return LoginCode(code, at(self._now_ms() + LOGIN_LIFE_S * 1000))

    async def redeem(self, code: str, source: str) -> NewSession:
        """Use a one-time login up."""
        return _opened(await self._users.log_in(code, source))

    async def begin(self, caller: Caller, source: str) -> NewSession:
        """A session for somebody who has just shown his token."""
        user = self._users.find(caller.name)
        principal = Principal(user.user_id, user.name, user.grants, "token")
        return _opened(await self._users.begin_session(principal, source))

    async def end(self, cookie: str, source: str) -> None:
        """Log out."""
        await self._users.log_out(cookie, source)


class ManagingService:
    """`api.people_port.PeopleService` over `users.Users`."""

    def __init__(self, users: Users) -> None:
        self._users = users

    async def people(self) -> Sequence[UserView]:
        """Everybody."""
        return [self.shown(user) for user in self._users.users()]

    async def add(self, name: str, grants: Sequence[GrantView], by: Caller) -> UserView:
        """A new user."""
        return self.shown(await self._users.add(name, read_grants(grants), actor=by.name))

    async def grant(self, name: str, grants: Sequence[GrantView], by: Caller) -> UserView:
        """Other grants."""
        user = self._find(name)
        return self.shown(await self._users.grant(user.user_id, read_grants(grants), actor=by.name))

    async def disable(self, name: str, by: Caller) -> UserView:
        """Out."""
        await self._users.disable(self._find(name).user_id, actor=by.name)
        return self.shown(self._find(name))

    async def enable(self, name: str, by: Caller) -> UserView:
        """In again."""
        await self._users.enable(self._find(name).user_id, actor=by.name)
        return self.shown(self._find(name))

    async def new_token(self, name: str, token_name: str, ttl_s: float | None, by: Caller) -> MadeToken:
        """Another token."""
        user = self._find(name)
        text = await self._users.new_token(user.user_id, actor=by.name, life_s=ttl_s, name=token_name)
        return MadeToken(self.shown(user), text.split(".")[1], text)

    async def revoke_token(self, name: str, token_id: str, by: Caller) -> UserView:
        """One token less."""
        user = self._find(name)
        if token_id not in {token.token_id for token in self._users.tokens_of(user.user_id)}:
            raise NoSuch(f"{user.name} has no token {token_id!r}")
        await self._users.revoke_token(token_id, actor=by.name)
        return self.shown(user)

    def _find(self, name: str) -> User:
        try:
            return self._users.find(name)
        except UsageError as exc:
            raise NoSuch(str(exc)) from exc

    def shown(self, user: User) -> UserView:
        """A user as the API shows him."""
        tokens = sorted(self._users.tokens_of(user.user_id), key=lambda one: one.created_ms)
        return UserView(
            user.name,
            user.disabled,
            at(user.created_ms),
            tuple(GrantView(grant.role.value, grant.scope) for grant in user.grants),
            tuple(
                TokenView(
                    one.token_id,
                    one.name,
                    at(one.created_ms),
                    _maybe(one.expires_ms),
                    _maybe(one.used_ms),
                    _maybe(one.revoked_ms),
                )
                for one in tokens
            ),
        )


def read_grants(grants: Sequence[GrantView]) -> list[OwnGrant]:
    """Grants as they are kept: roles that exist, scopes in their one spelling. Raises UsageError."""
    if not grants:
        raise UsageError("somebody without any role may do nothing: give one of " + ROLE_NAMES)
    found = []
    for grant in grants:
        try:
            role = OwnRole(grant.role)
        except ValueError as exc:
            raise UsageError(f"there is no role {grant.role[:40]!r}, wanted one of {ROLE_NAMES}") from exc
        found.append(OwnGrant(role, parse_scope(grant.scope).text if grant.scope else ""))
    return found


def _maybe(wall_ms: int | None) -> datetime | None:
    return None if wall_ms is None else at(wall_ms)


def _caller(principal: Principal) -> Caller:
    grants = tuple(Grant(Role(grant.role.value), grant.scope) for grant in principal.grants)
    return Caller(principal.name, grants, principal.via, principal.user_id)


def _opened(opened: OpenedSession) -> NewSession:
    return NewSession(opened.cookie, opened.csrf, at(opened.expires_ms))
