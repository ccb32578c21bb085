"""Who may use the API: bearer tokens for programs, one-time logins and sessions for browsers.

A token or cookie is 32 random bytes, kept as a hash. All that verifying needs is in memory: it waits for
nothing and a full disk locks nobody out. Deciding what a principal may do belongs to what he wants to do.
"""

import contextlib
import secrets
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import sqlalchemy as sa

from watchbill.clock import Clock
from watchbill.errors import Busy, Refused, StorageError, Unreadable, UsageError
from watchbill_collector.credentials import Credential, parse_credential, same_hash, secret_hash
from watchbill_collector.limiter import FailureLimiter
from watchbill_collector.store import Store, events, votes
from watchbill_collector.store import users as rows
from watchbill_collector.store.events import Event
from watchbill_collector.store.text import harmless
from watchbill_collector.store.users import BearerToken, Grant, Login, Role, Session, User

__all__ = ["BEARER_PREFIX", "Grant", "OpenedSession", "Principal", "Role", "User", "Users"]

BEARER_PREFIX: Final = "wbt1"
LOGIN_PREFIX: Final = "wbl1"
SESSION_PREFIX: Final = "wbs1"
LOGIN_LIFE_S: Final = 600
SESSION_LIFE_S: Final = 12 * 3600
SESSION_IDLE_S: Final = 30 * 60
SESSION_TOUCH_S: Final = 300
"""How often a session's last use is written; between two writes it is in memory alone."""
USERS_MAX: Final = 10_000
TOKENS_PER_USER_MAX: Final = 100
TOKEN_TOUCH_S: Final = 300
"""How often a token's last use is written; between two writes it is in memory alone."""
GRANTS_PER_USER_MAX: Final = 32
SESSIONS_MAX: Final = 10_000
NAME_MAX: Final = 128
DISABLED: Final = "was disabled on the collector"
FAILURES_PER_MINUTE_MAX: Final = 30
_NO_HASH: Final = bytes(32)
_NO_LOGIN: Final = "the login code opens nothing: unknown, used or older than ten minutes"


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who proved who he is; `via` is "token" or "session"."""

    user_id: str
    name: str
    grants: tuple[Grant, ...]
    via: str

    def has(self, role: Role) -> bool:
        """Whether he has that role, in whatever scope."""
        return any(grant.role is role for grant in self.grants)


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """What a browser gets after logging in: the cookie's value, and the token its forms and requests
    carry.
    """

    principal: Principal
    cookie: str
    csrf: str
    expires_ms: int


class Users:
    """Users, tokens and sessions of the site, in memory, written through to the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        site = store.site
        self._store = store
        self._clock = clock
        self._users = {user.user_id: user for user in store.read(lambda c: rows.all_users(c, site))}
        self._tokens = {one.token_id: one for one in store.read(lambda c: rows.all_bearer_tokens(c, site))}
        self._sessions = {one.session_id: one for one in store.read(lambda c: rows.all_sessions(c, site))}
        self._failures = FailureLimiter(clock, FAILURES_PER_MINUTE_MAX)
        self._subscribers: list[Callable[[], None]] = []
        self.refused = 0
        """Tokens, codes and cookies that opened nothing, since the start."""

    def subscribe(self, subscriber: Callable[[], None]) -> None:
        """Call `subscriber` whenever somebody may do less or other than before; in the writer's thread."""
        self._subscribers.append(subscriber)

    def _changed(self) -> None:
        for subscriber in self._subscribers:
            subscriber()

    # ------------------------------------------------------------ verifying

    def verify_bearer(self, text: str, source: str = "") -> Principal:
        """Who holds this token. Raises Refused, the same for every kind of wrong; Busy when `source` tries
        too often.
        """
        try:
            given = parse_credential(text, BEARER_PREFIX)
        except Unreadable:
            given = None
        token = self._tokens.get(given.credential_id) if given else None
        right = same_hash(given.hash if given else _NO_HASH, token.secret_sha256 if token else _NO_HASH)
        if token is None or not right or not self._usable(token):
            raise self._wrong("the bearer token opens nothing: it is unknown, revoked or expired", source)
        principal = self._principal(token.user_id, "token", source)
        self._used(token)
        return principal

    def _used(self, token: BearerToken) -> None:
        """Note that a token was used; nobody waits for the row, and a full disk keeps nobody out."""
        now_ms = self._clock.wall_ms()
        if token.used_ms is not None and now_ms - token.used_ms < TOKEN_TOUCH_S * 1000:
            return
        seen = replace(token, used_ms=now_ms)
        if self._tokens.get(token.token_id) is token:
            self._tokens[token.token_id] = seen
        with contextlib.suppress(StorageError, Busy):
            self._store.submit(lambda c: rows.touch_bearer_token(c, seen.token_id, now_ms))

    def verify_session(self, cookie: str, source: str = "") -> Principal:
        """Whose browser this is, by its cookie. Raises Refused."""
        session = self._session(cookie)
        if session is None:
            raise self._wrong("no session: log in again", source)
        return self._principal(session.user_id, "session", source)

    def csrf_sha256(self, cookie: str) -> bytes | None:
        """The hash of the token that writing requests of this session have to carry; None when it is
        closed.
        """
        session = self._session(cookie)
        return session.csrf_sha256 if session else None

    def csrf_is_right(self, cookie: str, csrf: str) -> bool:
        """Whether a request that writes carries the token of its own session."""
        session = self._session(cookie)
        try:
            given = bytes.fromhex(csrf[: 2 * 32 + 1])
        except ValueError:
            return False
        return session is not None and same_hash(secret_hash(given), session.csrf_sha256)

    def _session(self, cookie: str) -> Session | None:
        try:
            given = parse_credential(cookie, SESSION_PREFIX)
        except Unreadable:
            return None
        session = self._sessions.get(given.credential_id)
        if session is None or not same_hash(given.hash, session.secret_sha256):
            return None
        now = self._clock.wall_ms()
        if not session.created_ms <= now < min(session.expires_ms, session.seen_ms + SESSION_IDLE_S * 1000):
            return None
        return session

    async def touch(self, cookie: str) -> None:
        """A session was used: it stays open for another while. Called by whoever answers the browser."""
        session = self._session(cookie)
        now = self._clock.wall_ms()
        if session is None or now - session.seen_ms < SESSION_TOUCH_S * 1000:
            return
        seen = replace(session, seen_ms=now)
        await self._store.write(
            lambda c: rows.touch_session(c, seen.session_id, now), lambda _: self._keep_session(seen)
        )

    def _keep_session(self, session: Session) -> None:
        if session.session_id in self._sessions:  # It may have been ended meanwhile.
            self._sessions[session.session_id] = session

    def _usable(self, token: BearerToken) -> bool:
        now = self._clock.wall_ms()
        return token.revoked_ms is None and (token.expires_ms is None or now < token.expires_ms)

    def _principal(self, user_id: str, via: str, source: str) -> Principal:
        user = self._users.get(user_id)
        if user is None or user.disabled:
            raise self._wrong("this user is disabled", source)
        return Principal(user.user_id, user.name, user.grants, via)

    def _wrong(self, message: str, source: str) -> Refused | Busy:
        """What to raise; who fails too often is told to wait, who is right never is."""
        self.refused += 1
        left = self._failures.retry_after_s(source)
        if left is not None:
            return Busy(f"too many failures from {source}: try again in {left:.0f} s", left)
        self._failures.failed(source)
        return Refused(message)

    # ------------------------------------------------------------ users and tokens

    def users(self) -> list[User]:
        """Everybody, by name."""
        return sorted(self._users.values(), key=lambda user: user.name.lower())

    def disabled_names(self) -> frozenset[str]:
        """Who was let out, in small letters."""
        return frozenset(user.name.lower() for user in list(self._users.values()) if user.disabled)

    def find(self, name: str) -> User:
        """The user of that name. Raises UsageError."""
        for user in list(self._users.values()):
            if user.name.lower() == name.lower():
                return user
        raise UsageError(f"no user is called {harmless(name)!r}")

    def tokens_of(self, user_id: str) -> list[BearerToken]:
        """A user's tokens, without their secrets."""
        return [token for token in list(self._tokens.values()) if token.user_id == user_id]

    async def add(self, name: str, grants: Sequence[Grant], *, actor: str, source: str = "") -> User:
        """A new user. Raises UsageError when the name is taken or unusable."""
        return await self._store.write(lambda c: self._add(c, name, grants, actor, source), self._keep_user)

    async def add_with_token(
        self,
        name: str,
        grants: Sequence[Grant],
        *,
        actor: str,
        life_s: float | None = None,
        token_name: str = "",
    ) -> tuple[User, str]:
        """A new user and his first token, together or not at all. The text of the token is seen this once."""
        given = Credential.new(BEARER_PREFIX)

        def work(connection: sa.Connection) -> tuple[User, BearerToken]:
            user = self._add(connection, name, grants, actor, "")
            return user, self._add_token(connection, given, user, life_s, actor, "", token_name)

        def then(made: tuple[User, BearerToken]) -> None:
            self._keep_user(made[0])
            self._keep_token(made[1])

        user, _ = await self._store.write(work, then)
        return user, given.encode()

    async def grant(self, user_id: str, grants: Sequence[Grant], *, actor: str, source: str = "") -> User:
        """Give a user these grants and no others, in force at once. Raises UsageError when nobody would be left who
        administers everything.
        """

        def work(connection: sa.Connection) -> User:
            before = self._known(user_id)
            after = replace(before, grants=_sorted(grants))
            self._keep_an_admin(before, after)
            rows.set_grants(connection, self._store.site, user_id, after.grants)
            detail = {"grants": _words(after.grants), "was": _words(before.grants)}
            self._record(connection, "user.grant", after.name, actor, source, detail=detail)
            return after

        def then(user: User) -> None:
            self._keep_user(user)
            self._changed()

        return await self._store.write(work, then)

    def add_blocking(self, name: str, grants: Sequence[Grant], *, token: str, actor: str) -> User:
        """A new user with a token that was written to a file before, in one transaction, where there is no
        event loop. Raises Unreadable for a text that is no token.
        """
        given = parse_credential(token, BEARER_PREFIX)

        def work(connection: sa.Connection) -> tuple[User, BearerToken]:
            user = self._add(connection, name, grants, actor, "")
            return user, self._add_token(connection, given, user, None, actor, "")

        def then(made: tuple[User, BearerToken]) -> None:
            self._keep_user(made[0])
            self._keep_token(made[1])

        return self._store.write_blocking(work, then)[0]

    def _add(
        self, connection: sa.Connection, name: str, grants: Sequence[Grant], actor: str, source: str
    ) -> User:
        if not name or len(name) > NAME_MAX or not name.isprintable() or name != name.strip():
            raise UsageError(
                f"got the user name {harmless(name)!r}, wanted 1 to {NAME_MAX} printable characters"
            )
        if any(user.name.lower() == name.lower() for user in self._users.values()):
            raise UsageError(f"the user {name} exists")
        if len(self._users) >= USERS_MAX:
            raise UsageError(f"there are {USERS_MAX} users, which is the most")
        user = User(
            user_id=str(uuid.uuid4()),
            name=name,
            disabled=False,
            created_ms=self._clock.wall_ms(),
            grants=_sorted(grants),
        )
        rows.add_user(connection, self._store.site, user)
        detail = {"grants": _words(user.grants)}
        self._record(connection, "user.add", name, actor, source, detail=detail)
        return user

    def _keep_user(self, user: User) -> None:
        self._users[user.user_id] = user

    def _known(self, user_id: str) -> User:
        user = self._users.get(user_id)
        if user is None:
            raise UsageError(f"there is no user {harmless(user_id)!r}")
        return user

    def _keep_an_admin(self, before: User, after: User) -> None:
        """Raises UsageError when with this change nobody could administer everything any more."""
        if not _administers(before) or _administers(after):
            return
        if not any(_administers(one) for one in self._users.values() if one.user_id != after.user_id):
            raise UsageError(f"{after.name} is the last administrator of everything: make another one first")

    async def disable(self, user_id: str, *, actor: str, source: str = "") -> None:
        """Let a user in no more, at once: his tokens open nothing, his sessions end, what he agreed to in open runs is
        void. Raises UsageError for the last administrator.
        """

        def work(connection: sa.Connection) -> User:
            before = self._known(user_id)
            user = replace(before, disabled=True)
            self._keep_an_admin(before, user)
            rows.set_disabled(connection, user_id, disabled=True)
            rows.drop_sessions_of(connection, user_id)
            now_ms = self._clock.wall_ms()
            runs = votes.void_in_open_runs(connection, self._store.site, user.name, DISABLED, now_ms)
            detail = {"votes_void_in": runs} if runs else None
            self._record(connection, "user.disable", user.name, actor, source, detail=detail)
            return user

        def then(user: User) -> None:
            self._keep_user(user)
            for session in [one for one in self._sessions.values() if one.user_id == user_id]:
                del self._sessions[session.session_id]
            self._changed()

        await self._store.write(work, then)

    async def enable(self, user_id: str, *, actor: str, source: str = "") -> None:
        """Let a user in again: his tokens that were not revoked open what they opened. Raises UsageError."""

        def work(connection: sa.Connection) -> User:
            user = replace(self._known(user_id), disabled=False)
            rows.set_disabled(connection, user_id, disabled=False)
            self._record(connection, "user.enable", user.name, actor, source)
            return user

        await self._store.write(work, self._keep_user)

    async def new_token(
        self, user_id: str, *, actor: str, source: str = "", life_s: float | None = None, name: str = ""
    ) -> str:
        """A new bearer token; this is the only time its text is seen. Raises UsageError."""
        given = Credential.new(BEARER_PREFIX)
        await self._store.write(
            lambda c: self._add_token(c, given, self._known(user_id), life_s, actor, source, name),
            self._keep_token,
        )
        return given.encode()

    def _add_token(
        self,
        connection: sa.Connection,
        given: Credential,
        user: User,
        life_s: float | None,
        actor: str,
        source: str,
        name: str = "",
    ) -> BearerToken:
        now = self._clock.wall_ms()
        if user.disabled:
            raise UsageError(f"{user.name} is disabled: a token would open nothing")
        if sum(self._usable(token) for token in self.tokens_of(user.user_id)) >= TOKENS_PER_USER_MAX:
            raise UsageError(f"this user has {TOKENS_PER_USER_MAX} tokens; revoke some")
        token = BearerToken(
            token_id=given.credential_id,
            user_id=user.user_id,
            secret_sha256=given.hash,
            created_ms=now,
            expires_ms=None if life_s is None else now + round(life_s * 1000),
            name=harmless(name, NAME_MAX),
        )
        rows.add_bearer_token(connection, self._store.site, token)
        detail = {"token_id": token.token_id, "name": token.name, "expires_ms": token.expires_ms}
        self._record(connection, "token.add", user.name, actor, source, detail=detail)
        return token

    def _keep_token(self, token: BearerToken) -> None:
        self._tokens[token.token_id] = token

    async def revoke_token(self, token_id: str, *, actor: str, source: str = "") -> None:
        """From now on that token opens nothing. Raises UsageError when there is none."""

        def work(connection: sa.Connection) -> BearerToken:
            token = self._tokens.get(token_id)
            if token is None:
                raise UsageError(f"there is no token {harmless(token_id)!r}")
            now = self._clock.wall_ms()
            rows.revoke_bearer_token(connection, token_id, now)
            name = self._users[token.user_id].name
            self._record(connection, "token.revoke", name, actor, source, detail={"token_id": token_id})
            return replace(token, revoked_ms=now)

        def then(token: BearerToken) -> None:
            self._keep_token(token)
            self._changed()

        await self._store.write(work, then)

    # ------------------------------------------------------------ logging in

    async def new_login(self, user_id: str, *, actor: str) -> str:
        """A code that opens one session within ten minutes; printed for the person who is to type or
        follow it.
        """
        given = Credential.new(LOGIN_PREFIX)
        now = self._clock.wall_ms()
        login = Login(
            login_id=given.credential_id,
            user_id=user_id,
            secret_sha256=given.hash,
            created_ms=now,
            expires_ms=now + LOGIN_LIFE_S * 1000,
        )

        def work(connection: sa.Connection) -> None:
            rows.add_login(connection, self._store.site, login)
            self._record(connection, "login.offer", self._users[user_id].name, actor, "")

        await self._store.write(work)
        return given.encode()

    async def begin_session(self, principal: Principal, source: str) -> OpenedSession:
        """Open a session for somebody who has just proved who he is by his token."""
        cookie, csrf = Credential.new(SESSION_PREFIX), secrets.token_bytes(32)

        def work(connection: sa.Connection) -> tuple[Session, list[str]]:
            self._record(connection, "login", principal.name, principal.name, source)
            return self._add_session(connection, principal.user_id, cookie, csrf), self._drop_ended(
                connection
            )

        session, _ = await self._store.write(work, self._keep_sessions)
        return OpenedSession(principal, cookie.encode(), csrf.hex(), session.expires_ms)

    async def log_in(self, code: str, source: str) -> OpenedSession:
        """Use a code up and open a session. Raises Refused, the same for every kind of wrong; Busy after
        too many.
        """
        try:
            given = parse_credential(code, LOGIN_PREFIX)
        except Unreadable:
            given = None
        if given is None:
            raise self._wrong(_NO_LOGIN, source)
        cookie, csrf = Credential.new(SESSION_PREFIX), secrets.token_bytes(32)

        def work(connection: sa.Connection) -> tuple[Session | None, list[str]]:
            session = self._open(connection, given, cookie, csrf)
            if session is None:
                return None, []  # Who guesses writes nothing here: whoever answers him counts.
            name = self._users[session.user_id].name
            self._record(connection, "login", name, name, source)
            return session, self._drop_ended(connection)

        if self._failures.retry_after_s(source) is not None and not self._login_is_open(given):
            raise self._wrong(_NO_LOGIN, source)
        session, _ = await self._store.write(work, self._keep_sessions)
        if session is None:
            raise self._wrong(_NO_LOGIN, source)
        principal = self._principal(session.user_id, "session", source)
        return OpenedSession(principal, cookie.encode(), csrf.hex(), session.expires_ms)

    def _open(
        self, connection: sa.Connection, given: Credential, cookie: Credential, csrf: bytes
    ) -> Session | None:
        login = rows.find_login(connection, given.credential_id)
        if not same_hash(given.hash, login.secret_sha256 if login else _NO_HASH) or login is None:
            return None
        now = self._clock.wall_ms()
        user = self._users.get(login.user_id)
        in_time = login.created_ms <= now < login.expires_ms
        if not rows.take_login(connection, login.login_id) or not in_time or user is None or user.disabled:
            return None
        return self._add_session(connection, user.user_id, cookie, csrf)

    def _add_session(
        self, connection: sa.Connection, user_id: str, cookie: Credential, csrf: bytes
    ) -> Session:
        now = self._clock.wall_ms()
        session = Session(
            session_id=cookie.credential_id,
            user_id=user_id,
            secret_sha256=cookie.hash,
            csrf_sha256=secret_hash(csrf),
            created_ms=now,
            seen_ms=now,
            expires_ms=now + SESSION_LIFE_S * 1000,
        )
        rows.add_session(connection, self._store.site, session)
        return session

    def _keep_sessions(self, result: tuple[Session | None, list[str]]) -> None:
        opened, ended = result
        for session_id in ended:
            self._sessions.pop(session_id, None)
        if opened is not None:
            self._sessions[opened.session_id] = opened

    def _login_is_open(self, given: Credential) -> bool:
        """Whether a code would open a session, asked by reading: guesses of somebody limited write
        nothing.
        """
        login = self._store.read(lambda c: rows.find_login(c, given.credential_id))
        return login is not None and same_hash(given.hash, login.secret_sha256)

    def _drop_ended(self, connection: sa.Connection) -> list[str]:
        """Make room: sessions that ended by themselves, then those unused longest; their ids."""
        now_ms, idle_ms = self._clock.wall_ms(), SESSION_IDLE_S * 1000
        by_use = sorted(self._sessions.values(), key=lambda one: one.seen_ms)
        too_many = max(0, len(by_use) + 1 - SESSIONS_MAX)
        ended = [
            one.session_id
            for place, one in enumerate(by_use)
            if place < too_many or now_ms >= min(one.expires_ms, one.seen_ms + idle_ms)
        ]
        for session_id in ended:
            rows.drop_session(connection, session_id)
        return ended

    async def log_out(self, cookie: str, source: str = "") -> None:
        """End a session; a cookie that opens none is no error."""
        session = self._session(cookie)
        if session is None:
            return

        def work(connection: sa.Connection) -> str:
            rows.drop_session(connection, session.session_id)
            name = self._users[session.user_id].name
            self._record(connection, "logout", name, name, source)
            return session.session_id

        def then(session_id: str) -> None:
            self._sessions.pop(session_id, None)

        await self._store.write(work, then)

    def _record(
        self,
        connection: sa.Connection,
        verb: str,
        target: str,
        actor: str,
        source: str,
        outcome: str = events.OK,
        detail: Mapping[str, object] | None = None,
    ) -> None:
        event = Event(
            verb=verb, target=target, actor=actor, source=source, outcome=outcome, detail=detail or {}
        )
        events.append(connection, self._store.site, self._clock, event)


def _sorted(grants: Sequence[Grant]) -> tuple[Grant, ...]:
    found = tuple(sorted(set(grants), key=lambda one: (one.role, one.scope)))
    if len(found) > GRANTS_PER_USER_MAX:
        raise UsageError(f"{len(found)} grants, more than {GRANTS_PER_USER_MAX}")
    return found


def _words(grants: Sequence[Grant]) -> list[str]:
    return [f"{grant.role} {grant.scope}".strip() for grant in grants]


def _administers(user: User) -> bool:
    """Whether he administers everything."""
    return not user.disabled and Grant(Role.ADMIN) in user.grants
