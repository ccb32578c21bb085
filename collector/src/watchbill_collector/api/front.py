"""Everything outside the two APIs: the page, logging in and out, health, metrics."""

from collections.abc import Awaitable
from typing import TypeVar
from urllib.parse import parse_qs

import orjson
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from watchbill.errors import Busy, Refused
from watchbill_collector.api.answers import error_answer, json_answer
from watchbill_collector.api.guard import SECRET_CHARACTERS_MAX, NotAdmitted, cookie_names, source_of
from watchbill_collector.api.ours import Empty
from watchbill_collector.api.page import page_answer
from watchbill_collector.api.ports import NewSession
from watchbill_collector.api.routes import Call, Need, Parameter, Route, Within

T = TypeVar("T")

SESSION_S_MAX = 12 * 3_600
"""Cookies end with the session's absolute limit; the service ends idle ones earlier."""

NOT_BUILT = b"""<!doctype html><meta charset=utf-8><title>Watchbill</title>
<h1>Watchbill</h1><p>The collector runs; its page was not built into this installation.
In a clone, <code>scripts/setup</code> builds it. The API answers meanwhile.</p>
"""


async def _page(call: Call) -> Response:
    page = call.house.options.page
    file = page.get(call.request.url.path)
    if file is not None:
        return page_answer(file, call.request.headers)
    if call.request.url.path == "/":
        return Response(NOT_BUILT, media_type="text/html; charset=utf-8")
    return error_answer(404, "not_found", "no such page", "/")


async def _login_code(call: Call) -> Response:
    code = call.request.query_params.get("code", "")
    if not code:
        return RedirectResponse("/", 303)
    # A browser may ask with HEAD before it opens an address; that must not use the code up.
    if call.request.method == "HEAD":
        return Response(status_code=204)
    users = call.house.services.users
    session = await _proved(users.redeem(code[:SECRET_CHARACTERS_MAX], source_of(call.request)))
    return _with_cookies(call, session, RedirectResponse("/", 303))


async def _login_token(call: Call) -> Response:
    users, source = call.house.services.users, source_of(call.request)
    caller = await _proved(users.bearer(_shown_token(call)[:SECRET_CHARACTERS_MAX], source))
    session = await users.begin(caller, source)
    answer = json_answer(Empty()) if _is_json(call.request) else RedirectResponse("/", 303)
    return _with_cookies(call, session, answer)


async def _proved(proof: Awaitable[T]) -> T:
    """What logging in gives, its refusals as HTTP."""
    try:
        return await proof
    except Refused as exc:
        hint = "watchbill login URL --browser makes another one-time login"
        raise NotAdmitted(403, "unauthorized", "login", str(exc), hint) from exc
    except Busy as exc:
        raise NotAdmitted(429, "unauthorized", "failures", str(exc)) from exc


async def _logout(call: Call) -> Response:
    names = cookie_names(call.request, call.house.options.tls)
    await call.house.services.users.end(call.request.cookies.get(names.session, ""), source_of(call.request))
    answer = json_answer(Empty())
    for name in (names.session, names.csrf):
        answer.delete_cookie(name, secure=call.house.options.tls, samesite="strict")
    return answer


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _shown_token(call: Call) -> str:
    if _is_json(call.request):
        try:
            document = orjson.loads(call.body)
        except orjson.JSONDecodeError:
            return ""
        token = document.get("token", "") if isinstance(document, dict) else ""
        return token if isinstance(token, str) else ""
    try:
        return parse_qs(call.body.decode("ascii"), max_num_fields=8).get("token", [""])[0].strip()
    except ValueError:
        return ""


def _with_cookies(call: Call, session: NewSession, answer: Response) -> Response:
    tls = call.house.options.tls or call.house.options.behind_proxy
    names = cookie_names(call.request, call.house.options.tls)
    answer.set_cookie(
        names.session, session.cookie, max_age=SESSION_S_MAX, secure=tls, httponly=True, samesite="strict"
    )
    # Read by our page, which sends it back in a header: a foreign page can do neither.
    answer.set_cookie(names.csrf, session.csrf, max_age=SESSION_S_MAX, secure=tls, samesite="strict")
    return answer


async def _healthz(_: Call) -> Response:
    return Response(b"ok\n", media_type="text/plain; charset=utf-8")


async def _readyz(call: Call) -> Response:
    why = "stopping" if call.house.stopping.is_set() else await call.house.services.status.ready()
    if why:
        return Response(f"not ready: {why}\n", 503, media_type="text/plain; charset=utf-8")
    return Response(b"ready\n", media_type="text/plain; charset=utf-8")


async def _metrics(call: Call) -> Response:
    house = call.house
    house.counters.streams.set(house.bus.followers)
    house.counters.queries.set(house.pool.places)
    memory = house.pool.memory
    house.counters.query_memory.set(memory.in_use)
    house.counters.query_memory_max.set(memory.maximum)
    house.counters.query_memory_waits.set(memory.waited)
    house.counters.query_memory_refusals.set(memory.refused)
    encode, media = choose_encoder(call.request.headers.get("accept", ""))
    return Response(encode(house.counters.registry), media_type=media)


FRONT_ROUTES: tuple[Route, ...] = (
    Route(
        ("GET",),
        "/login",
        Need.NOTHING,
        _login_code,
        "Log a browser in with a one-time code; then on to the page.",
        (Parameter("code", "The one-time code.", required=True),),
        media="text/html",
        within=Within.NO_HOSTS,
    ),
    Route(
        ("POST",),
        "/login",
        Need.NOTHING,
        _login_token,
        "Log a browser in with a bearer token, as JSON or as a form field `token`.",
        within=Within.NO_HOSTS,
    ),
    Route(("POST",), "/logout", Need.KNOWN, _logout, "End the session.", within=Within.NO_HOSTS),
    Route(
        ("GET",),
        "/healthz",
        Need.NOTHING,
        _healthz,
        "Whether the process answers.",
        media="text/plain",
        within=Within.NO_HOSTS,
    ),
    Route(
        ("GET",),
        "/readyz",
        Need.NOTHING,
        _readyz,
        "Whether it can answer queries.",
        media="text/plain",
        within=Within.NO_HOSTS,
    ),
    Route(
        ("GET",),
        "/metrics",
        Need.READ,
        _metrics,
        "The collector's own metrics.",
        media="text/plain",
        within=Within.WHOLE,
    ),
    Route(("GET",), "/", Need.NOTHING, _page, "The page.", media="text/html", within=Within.NO_HOSTS),
    Route(
        ("GET",),
        "/{file:path}",
        Need.NOTHING,
        _page,
        "The page's files.",
        media="text/html",
        within=Within.NO_HOSTS,
    ),
)
