"""Watchbill's own API: users, their grants, their tokens. For administrators of everything."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.responses import Response

from watchbill.errors import UsageError
from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.ours import BASE, decoded
from watchbill_collector.api.people_port import GrantView, MadeToken, PeopleService, UserView
from watchbill_collector.api.routes import Call, Need, Parameter, Route, Within

TTL_S_MAX = 10 * 366 * 86_400
NAME_CHARACTERS_MAX = 128


@dataclass(frozen=True, slots=True)
class UserList:
    """Everybody."""

    users: Sequence[UserView]


@dataclass(frozen=True, slots=True)
class NewUser:
    """Who is to be let in, as what."""

    name: str
    grants: tuple[GrantView, ...]


@dataclass(frozen=True, slots=True)
class Grants:
    """What somebody may do from now on, and nothing else."""

    grants: tuple[GrantView, ...]


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that is wanted: what it is for, and for how long; without `ttl_s` until it is revoked."""

    name: str = ""
    ttl_s: float | None = None


def _service(call: Call) -> PeopleService:
    return call.house.services.people


def _name(call: Call) -> str:
    name: str = call.request.path_params["name"]
    if not name or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        raise UsageError("the name in the path is empty, too long or not printable")
    return name


async def _people(call: Call) -> Response:
    return json_answer(UserList(await _service(call).people()))


async def _add(call: Call) -> Response:
    new = decoded(call.body, NewUser)
    return json_answer(await _service(call).add(new.name, new.grants, call.caller), 201)


async def _grant(call: Call) -> Response:
    grants = decoded(call.body, Grants).grants
    return json_answer(await _service(call).grant(_name(call), grants, call.caller))


async def _disable(call: Call) -> Response:
    return json_answer(await _service(call).disable(_name(call), call.caller))


async def _enable(call: Call) -> Response:
    return json_answer(await _service(call).enable(_name(call), call.caller))


async def _new_token(call: Call) -> Response:
    new = decoded(call.body, NewToken)
    if new.ttl_s is not None and not 0 < new.ttl_s <= TTL_S_MAX:
        raise UsageError(f"wanted a `ttl_s` of more than 0 and at most {TTL_S_MAX}")
    made = await _service(call).new_token(_name(call), new.name[:NAME_CHARACTERS_MAX], new.ttl_s, call.caller)
    return json_answer(made, 201)


async def _revoke_token(call: Call) -> Response:
    token_id = str(call.request.path_params["token"])[:NAME_CHARACTERS_MAX]
    return json_answer(await _service(call).revoke_token(_name(call), token_id, call.caller))


_NAME = Parameter("name", "The user's name.", required=True)
_USER = f"{BASE}/users/{{name}}"

PEOPLE_ROUTES: tuple[Route, ...] = (
    Route(
        ("GET",),
        f"{BASE}/users",
        Need.ADMIN,
        _people,
        "Everybody who may use the API.",
        gives=UserList,
        within=Within.WHOLE,
    ),
    Route(
        ("POST",),
        f"{BASE}/users",
        Need.ADMIN,
        _add,
        "Let somebody in.",
        takes=NewUser,
        gives=UserView,
        within=Within.WHOLE,
    ),
    Route(
        ("POST",),
        f"{_USER}/grant",
        Need.ADMIN,
        _grant,
        "Give somebody these roles and scopes, and no others.",
        (_NAME,),
        takes=Grants,
        gives=UserView,
        within=Within.WHOLE,
    ),
    Route(
        ("POST",),
        f"{_USER}/disable",
        Need.ADMIN,
        _disable,
        "Let somebody in no more: tokens open nothing, sessions and streams end at once.",
        (_NAME,),
        gives=UserView,
        within=Within.WHOLE,
    ),
    Route(
        ("POST",),
        f"{_USER}/enable",
        Need.ADMIN,
        _enable,
        "Let somebody in again.",
        (_NAME,),
        gives=UserView,
        within=Within.WHOLE,
    ),
    Route(
        ("POST",),
        f"{_USER}/tokens",
        Need.ADMIN,
        _new_token,
        "Another token for somebody; its text is shown this once.",
        (_NAME,),
        takes=NewToken,
        gives=MadeToken,
        within=Within.WHOLE,
    ),
    Route(
        ("DELETE",),
        f"{_USER}/tokens/{{token}}",
        Need.ADMIN,
        _revoke_token,
        "Make a token worthless, at once.",
        (_NAME, Parameter("token", "The token's id.", required=True)),
        gives=UserView,
        within=Within.WHOLE,
    ),
)
