"""The ASGI application: from the table of routes to answers.

Every request, in order: bounds on its URL and body, the name it calls us by, who may ask (`guard.py`), the
handler, the house's errors as HTTP, compression, the headers that browsers need to be safe. What a handler
raises by mistake is one logged error and a 500 for one client.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Router
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from watchbill.errors import WatchbillError
from watchbill_collector.api.answers import (
    COMPRESS_BYTES_MIN,
    answer_for,
    error_answer,
    gzip_bytes,
    wants_gzip,
)
from watchbill_collector.api.guard import NotAdmitted, admit, check_host, source_of, views
from watchbill_collector.api.house import House
from watchbill_collector.api.limits import BODY_BYTES_MAX, DRAIN_BYTES_MAX, DRAIN_S, URL_BYTES_MAX
from watchbill_collector.api.page import PAGE_POLICY
from watchbill_collector.api.ports import ANONYMOUS
from watchbill_collector.api.recording import failed, recorded, turned_away
from watchbill_collector.api.routes import Call, Route
from watchbill_collector.api.table import ROUTES
from watchbill_collector.audit import Origin, on_behalf

log = logging.getLogger("watchbill.http")

PACK_INLINE_BYTES_MAX = 64 << 10
"""What is larger is compressed in a thread: 64 KiB take half a millisecond."""

API_POLICY = "default-src 'none'; frame-ancestors 'none'"
SAFE_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
TRANSPORT_SECURITY = "max-age=31536000"

_ERRORS_BY_STATUS = {404: "not_found", 405: "bad_data"}


class _TooLarge(WatchbillError):
    """A body over the bound."""


def create_application(house: House, routes: Sequence[Route] = ROUTES) -> ASGIApp:
    """The whole HTTP side over `house`, ready for a server. Routes that share a path share an endpoint."""
    by_path: dict[str, dict[str, Route]] = {}
    for route in routes:
        methods = by_path.setdefault(route.path, {})
        for method in route.methods:
            assert method not in methods, f"{method} {route.path} is in the table twice"
            methods[method] = route
    packer = ThreadPoolExecutor(1, thread_name_prefix="http-pack")
    mounted: list[BaseRoute] = [
        StarletteRoute(path, _Endpoint(path, methods, house, packer)) for path, methods in by_path.items()
    ]
    app = Starlette(exception_handlers={HTTPException: _http_error})
    app.router = Router(mounted, redirect_slashes=False)
    return _Front(app, house)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_answer(error.status_code, _ERRORS_BY_STATUS.get(error.status_code, "bad_data"), error.detail)


class _Front:
    """Outermost: what holds for every request, matched or not."""

    def __init__(self, app: ASGIApp, house: House) -> None:
        self._app = app
        self._house = house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(message)
            await send(message)

        request = Request(scope)
        try:
            if len(scope["raw_path"]) + len(scope["query_string"]) > URL_BYTES_MAX:
                raise NotAdmitted(
                    414,
                    "bad_data",
                    "url",
                    f"the URL is longer than {URL_BYTES_MAX} bytes: use a form",
                )
            check_host(request.headers, self._house)
        except NotAdmitted as exc:
            await _refused(exc, self._house)(scope, receive, send_safely)
            return
        await self._app(scope, receive, send_safely)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    def _add_headers(self, message: MutableMapping[str, Any]) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in SAFE_HEADERS:
            headers.setdefault(name, value)
        page = headers.get("content-type", "").startswith("text/html")
        headers.setdefault("Content-Security-Policy", PAGE_POLICY if page else API_POLICY)
        headers.setdefault("Cache-Control", "no-store")
        if self._house.options.tls:
            headers.setdefault("Strict-Transport-Security", TRANSPORT_SECURITY)


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """One path: its methods, its permission, its errors."""

    path: str
    methods: Mapping[str, Route]
    house: House
    packer: ThreadPoolExecutor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun_s = time.monotonic()
        status = 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        request = Request(scope, receive, send)
        number = secrets.token_hex(8)
        try:
            with on_behalf(Origin(source_of(request), number)):
                answer = await self._answer(request)
                if isinstance(answer, Response):
                    answer.headers["X-Request-Id"] = number
                await answer(scope, receive, send_counted)
        finally:
            counters = self.house.counters
            counters.requests.labels(self.path, str(status)).inc()
            if isinstance(status, int) and not self.path.endswith("/events"):
                counters.seconds.labels(self.path).observe(time.monotonic() - begun_s)

    async def _answer(self, request: Request) -> ASGIApp:
        method = request.method
        route = self.methods.get("GET" if method == "HEAD" else method)
        if route is None:
            reading = {"HEAD"} if "GET" in self.methods else set()
            allow = ", ".join(sorted({*self.methods, *reading, "OPTIONS"}))
            if method == "OPTIONS":
                return Response(status_code=204, headers={"Allow": allow})
            return error_answer(405, "bad_data", f"this takes {allow}", headers={"Allow": allow})
        caller = ANONYMOUS
        try:
            caller = await admit(request, route, self.house)
            body = await _body(request) if method not in ("GET", "HEAD") else b""
            view, sees = views(caller, route)
            call = Call(request, caller, self.house, _form(request, body) if route.form else body, view, sees)
            return await self._packed(request, await recorded(call, route))
        except NotAdmitted as exc:
            turned_away(request, route, exc, self.house)
            return _refused(exc, self.house)
        except ClientDisconnect:
            return Response(status_code=499)
        except _TooLarge as exc:
            self.house.counters.refused.labels("body").inc()
            await _drain(request)
            return error_answer(413, "bad_data", str(exc), headers={"Connection": "close"})
        except Exception as exc:
            known = answer_for(exc)
            if known is not None:
                failed(request, route, caller, exc, self.house)
                return known
            log.exception("request failed path=%s method=%s", self.path, method)
            return error_answer(
                500, "internal", "the collector failed on this request; its log says how", "watchbill doctor"
            )

    async def _packed(self, request: Request, answer: ASGIApp) -> ASGIApp:
        """The answer, compressed where that helps and the client takes it."""
        if not isinstance(answer, Response) or "content-encoding" in answer.headers:
            return answer
        body = bytes(answer.body)
        if len(body) < COMPRESS_BYTES_MIN or not wants_gzip(request.headers):
            return answer
        if len(body) > PACK_INLINE_BYTES_MAX:
            packed = await asyncio.get_running_loop().run_in_executor(self.packer, gzip_bytes, body)
        else:
            packed = gzip_bytes(body)
        answer.body = packed
        answer.headers["Content-Encoding"] = "gzip"
        answer.headers["Content-Length"] = str(len(packed))
        answer.headers.add_vary_header("Accept-Encoding")
        return answer


def _refused(error: NotAdmitted, house: House) -> Response:
    house.counters.refused.labels(error.reason).inc()
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 429:
        headers["Retry-After"] = "60"
    return error_answer(error.status, error.kind, str(error), error.hint, headers)


async def _body(request: Request) -> bytes:
    """The whole body, bounded. Raises _TooLarge before more than the bound is held."""
    message = f"the body is larger than {BODY_BYTES_MAX} bytes"
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > BODY_BYTES_MAX:
        raise _TooLarge(message)
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > BODY_BYTES_MAX:
            raise _TooLarge(message)
    return bytes(parts)


async def _drain(request: Request) -> None:
    dropped = 0
    message: Message = {"more_body": True}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while message.get("more_body") and dropped <= DRAIN_BYTES_MAX:
                message = await request.receive()
                dropped += len(message.get("body", b""))


def _form(request: Request, body: bytes) -> bytes:
    """A body counts as parameters only when it says that it is a form, as in Prometheus."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return body if kind == "application/x-www-form-urlencoded" else b""
