"""Users, tokens and sessions, for the HTTP side."""

from collections.abc import Callable

from watchbill_collector.api.ports import Caller, Grant, LoginCode, NewSession, Role, at
from watchbill_collector.users import LOGIN_LIFE_S, OpenedSession, Principal, Users


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


def _caller(principal: Principal) -> Caller:
    grants = tuple(Grant(Role(grant.role.value), grant.scope) for grant in principal.grants)
    return Caller(principal.name, grants, principal.via, principal.user_id)


def _opened(opened: OpenedSession) -> NewSession:
    return NewSession(opened.cookie, opened.csrf, at(opened.expires_ms))
