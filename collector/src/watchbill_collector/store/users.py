"""People and programs that may use the API: users, their grants, bearer tokens, login codes and sessions,
as rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from watchbill_collector.store.schema import BEARER_TOKENS, GRANTS, LOGINS, SESSIONS, USERS


class Role(StrEnum):
    """What a grant allows; what each may do is decided where it is done."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    AUTHOR = "author"
    ADMIN = "admin"
    AUDITOR = "auditor"


@dataclass(frozen=True, slots=True)
class Grant:
    """A role within a label selector; an empty scope is everything."""

    role: Role
    scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody. `grants` is sorted."""

    user_id: str
    name: str
    disabled: bool
    created_ms: int
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BearerToken:
    """A token's hash; `expires_ms` and `revoked_ms` are None while neither applies. `name` says what it is for;
    `used_ms` is roughly when it was used last.
    """

    token_id: str
    user_id: str
    secret_sha256: bytes
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None
    name: str = ""
    used_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A one-time code's hash."""

    login_id: str
    user_id: str
    secret_sha256: bytes
    created_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A browser's session: the hashes of its cookie and of its CSRF token."""

    session_id: str
    user_id: str
    secret_sha256: bytes
    csrf_sha256: bytes
    created_ms: int
    seen_ms: int
    expires_ms: int


def all_users(connection: sa.Connection, site: str) -> list[User]:
    """Every user with his grants."""
    grants: dict[str, list[Grant]] = {}
    for row in connection.execute(sa.select(GRANTS).where(GRANTS.c.site == site)):
        grants.setdefault(row.user_id, []).append(Grant(Role(row.role), row.scope))
    return [
        User(
            user_id=row.user_id,
            name=row.name,
            disabled=row.disabled,
            created_ms=row.created_ms,
            grants=tuple(sorted(grants.get(row.user_id, []), key=lambda one: (one.role, one.scope))),
        )
        for row in connection.execute(sa.select(USERS).where(USERS.c.site == site))
    ]


def add_user(connection: sa.Connection, site: str, user: User) -> None:
    """A new user with his grants."""
    connection.execute(
        USERS.insert().values(
            user_id=user.user_id,
            site=site,
            name=user.name,
            name_key=user.name.lower(),
            disabled=user.disabled,
            created_ms=user.created_ms,
        )
    )
    for grant in user.grants:
        connection.execute(
            GRANTS.insert().values(user_id=user.user_id, role=grant.role.value, scope=grant.scope, site=site)
        )


def set_disabled(connection: sa.Connection, user_id: str, disabled: bool) -> None:
    """Let a user in no more, or again."""
    connection.execute(USERS.update().where(USERS.c.user_id == user_id).values(disabled=disabled))


def all_bearer_tokens(connection: sa.Connection, site: str) -> list[BearerToken]:
    """Every token, revoked ones too."""
    columns = (BEARER_TOKENS.c[name] for name in BearerToken.__slots__)
    rows = connection.execute(sa.select(*columns).where(BEARER_TOKENS.c.site == site))
    return [BearerToken(**row) for row in rows.mappings()]


def add_bearer_token(connection: sa.Connection, site: str, token: BearerToken) -> None:
    """A new token."""
    connection.execute(BEARER_TOKENS.insert().values(site=site, **_row(token)))


def revoke_bearer_token(connection: sa.Connection, token_id: str, at_ms: int) -> None:
    """From here on it opens nothing."""
    connection.execute(
        BEARER_TOKENS.update().where(BEARER_TOKENS.c.token_id == token_id).values(revoked_ms=at_ms)
    )


def touch_bearer_token(connection: sa.Connection, token_id: str, used_ms: int) -> None:
    """Remember when it was used last."""
    connection.execute(
        BEARER_TOKENS.update().where(BEARER_TOKENS.c.token_id == token_id).values(used_ms=used_ms)
    )


def set_grants(connection: sa.Connection, site: str, user_id: str, grants: Sequence[Grant]) -> None:
    """Give a user these grants and no others."""
    connection.execute(GRANTS.delete().where(GRANTS.c.user_id == user_id))
    for grant in grants:
        connection.execute(
            GRANTS.insert().values(user_id=user_id, role=grant.role.value, scope=grant.scope, site=site)
        )


def add_login(connection: sa.Connection, site: str, login: Login) -> None:
    """A new one-time code; codes that ended are dropped with it."""
    connection.execute(LOGINS.delete().where(LOGINS.c.expires_ms < login.created_ms))
    connection.execute(LOGINS.insert().values(site=site, **_row(login)))


def find_login(connection: sa.Connection, login_id: str) -> Login | None:
    """The code of that id, while it has not been used."""
    columns = (LOGINS.c[name] for name in Login.__slots__)
    row = connection.execute(sa.select(*columns).where(LOGINS.c.login_id == login_id)).mappings().first()
    return Login(**row) if row else None


def take_login(connection: sa.Connection, login_id: str) -> bool:
    """Use a code up; False when somebody else just did."""
    return connection.execute(LOGINS.delete().where(LOGINS.c.login_id == login_id)).rowcount == 1


def all_sessions(connection: sa.Connection, site: str) -> list[Session]:
    """Every session that has not been ended."""
    columns = (SESSIONS.c[name] for name in Session.__slots__)
    rows = connection.execute(sa.select(*columns).where(SESSIONS.c.site == site))
    return [Session(**row) for row in rows.mappings()]


def add_session(connection: sa.Connection, site: str, session: Session) -> None:
    """A new session."""
    connection.execute(SESSIONS.insert().values(site=site, **_row(session)))


def touch_session(connection: sa.Connection, session_id: str, seen_ms: int) -> None:
    """Remember when it was used last."""
    connection.execute(SESSIONS.update().where(SESSIONS.c.session_id == session_id).values(seen_ms=seen_ms))


def drop_session(connection: sa.Connection, session_id: str) -> None:
    """End a session."""
    connection.execute(SESSIONS.delete().where(SESSIONS.c.session_id == session_id))


def drop_sessions_of(connection: sa.Connection, user_id: str) -> None:
    """End every session of a user."""
    connection.execute(SESSIONS.delete().where(SESSIONS.c.user_id == user_id))


def _row(value: BearerToken | Login | Session) -> dict[str, object]:
    return {name: getattr(value, name) for name in type(value).__slots__}
