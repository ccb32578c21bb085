"""Who may come in: the name they call us by, the credentials they show, and where their page came from.

Order, for every request:

1. The `Host` header names us. On loopback only loopback names do: else a web page anywhere could point its
   own name at 127.0.0.1 and read us through its visitor's browser.
2. A bearer token, or a session cookie, or nobody. Credentials that are shown and wrong are refused even where
   nobody in particular may read.
3. With a cookie, whatever is not a reading needs an `Origin` that is ours and the session's CSRF token.
4. The route's need against the caller's grants: the grants that satisfy it decide, by their scopes, where he may do
   what the route does (`views`).
"""

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request

from watchbill.errors import Busy, Refused
from watchbill_collector.api.ports import ANONYMOUS, Caller
from watchbill_collector.api.routes import ROLES, Need, Route, Within
from watchbill_collector.scopes import EVERYTHING, NOTHING, View

if TYPE_CHECKING:
    from watchbill_collector.api.house import House

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
CSRF_HEADER = "x-watchbill-csrf"
SECRET_CHARACTERS_MAX = 512
READING = frozenset({"GET", "HEAD", "OPTIONS"})
KEEPS_SCOPES = frozenset({Within.FILTERED, Within.OBJECT, Within.NO_HOSTS})
"""What a route has to say of itself before a caller with a scope is let in."""
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


class NotAdmitted(Refused):
    """A request that is turned away. `status` is the HTTP status, `kind` its `errorType`, `reason` a
    counter's label, `by` who asked, if that is known.
    """

    def __init__(
        self, status: int, kind: str, reason: str, message: str, hint: str = "", by: Caller = ANONYMOUS
    ) -> None:
        super().__init__(message)
        self.by = by
        self.status = status
        self.kind = kind
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True, slots=True)
class CookieNames:
    """What our cookies are called. Browsers share cookies between ports of one host, so the port is in the
    name.
    """

    session: str
    csrf: str


def cookie_names(request: Request, tls: bool) -> CookieNames:
    """The names for the port that the request came to. The `__Host-` prefix is only valid with Secure."""
    server = request.scope.get("server") or ("", 0)
    prefix = "__Host-" if tls else ""
    return CookieNames(f"{prefix}watchbill-{server[1]}", f"{prefix}watchbill-csrf-{server[1]}")


def check_host(headers: Headers, house: "House") -> None:
    """Refuse a `Host` that is not us. Raises NotAdmitted."""
    hosts = headers.getlist("host")
    options = house.options
    name = host_name(hosts[0]) if len(hosts) == 1 else ""
    if not name:
        raise NotAdmitted(400, "bad_data", "host", "the Host header is missing, doubled or malformed")
    if not options.loopback:
        return
    if name not in LOOPBACK_NAMES and name not in {known.lower() for known in options.names}:
        raise NotAdmitted(
            421,
            "refused",
            "host",
            "this collector listens on loopback and answers to loopback names alone",
            "open it as http://127.0.0.1:PORT, or add the name to `names` in collector.toml",
        )


def host_name(host: str) -> str:
    """The name in a `Host` header, without port and brackets, lower case; empty when it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # Raises when it is no number.
        name = parts.hostname or ""
    except ValueError:
        return ""
    if parts.username is not None or parts.path or parts.query or parts.fragment:
        return ""
    return name.rstrip(".").lower()


async def admit(request: Request, route: Route, house: "House") -> Caller:
    """The caller, let in. Raises NotAdmitted."""
    if route.need is Need.NOTHING:
        if request.method not in READING:
            check_origin(request, house)
        return ANONYMOUS
    caller = await _identify(request, house)
    if caller.via == "anonymous":
        if route.need is Need.READ and _may_read_unknown(request, house):
            return caller
        raise _unknown(request)
    roles = {grant.role for grant in caller.grants}
    wanted = ROLES[route.need]
    if not roles & wanted:
        names = " or ".join(sorted(role.value for role in wanted))
        raise NotAdmitted(
            403, "forbidden", "role", f"{caller.name} needs the role {names} for this", by=caller
        )
    view, _ = views(caller, route)
    if not view.whole and route.within not in KEEPS_SCOPES:
        raise NotAdmitted(
            403,
            "forbidden",
            "scope",
            f"{caller.name} may see {view.text} alone, and this speaks of everything",
            by=caller,
        )
    return caller


def views(caller: Caller, route: Route) -> tuple[View, View]:
    """Where an admitted caller may do what the route does, and what he may read."""
    if caller.via == "anonymous":
        # He was let in to read, or the route is open and has nothing of hosts in it.
        return (EVERYTHING, EVERYTHING) if route.need is Need.READ else (NOTHING, NOTHING)
    wanted = ROLES[route.need]
    return (
        View.of(grant.scope for grant in caller.grants if grant.role in wanted),
        View.of(grant.scope for grant in caller.grants),
    )


async def _identify(request: Request, house: "House") -> Caller:
    shown = request.headers.getlist("authorization")
    if shown:
        return await _bearer(shown, request, house)
    cookie = request.cookies.get(cookie_names(request, house.options.tls).session, "")
    if cookie and len(cookie) <= SECRET_CHARACTERS_MAX:
        caller = await _session(cookie, request, house)
        if caller is not None:
            return caller
    if request.method not in READING:
        check_origin(request, house)
    return ANONYMOUS


async def _session(cookie: str, request: Request, house: "House") -> Caller | None:
    """The session's user; None when it has ended, which a browser learns by what it may no longer do."""
    try:
        caller = await house.services.users.session(cookie, source_of(request))
    except (Refused, Busy):
        return None
    if request.method not in READING:
        check_origin(request, house)
        shown = request.headers.get(CSRF_HEADER, "")
        if len(shown) > SECRET_CHARACTERS_MAX or not house.services.users.csrf_is_right(cookie, shown):
            message = f"a write with a session needs its token in {CSRF_HEADER}"
            raise NotAdmitted(403, "forbidden", "csrf", message, by=caller)
    return caller


def source_of(request: Request) -> str:
    """The client's address, for counting failures."""
    return request.client.host if request.client is not None else ""


async def _bearer(shown: list[str], request: Request, house: "House") -> Caller:
    scheme, _, token = shown[0].partition(" ")
    token = token.strip()
    if len(shown) == 1 and scheme.lower() == "bearer" and 0 < len(token) <= SECRET_CHARACTERS_MAX:
        try:
            return await house.services.users.bearer(token, source_of(request))
        except Refused as exc:
            raise NotAdmitted(401, "unauthorized", "token", str(exc), _login_line(request)) from exc
        except Busy as exc:
            raise NotAdmitted(429, "unauthorized", "failures", str(exc)) from exc
    raise NotAdmitted(
        401, "unauthorized", "token", "wanted one `Authorization: Bearer TOKEN`", _login_line(request)
    )


def _unknown(request: Request) -> NotAdmitted:
    return NotAdmitted(401, "unauthorized", "nobody", "this needs a token or a login", _login_line(request))


def _login_line(request: Request) -> str:
    host = request.headers.get("host", "")
    if not host_name(host) or not host.isprintable():
        return "watchbill login URL"
    return f"watchbill login {request.scope.get('scheme', 'http')}://{host}"


def _may_read_unknown(request: Request, house: "House") -> bool:
    """Anonymous reading is for programs and browsers on this machine, not for what a proxy lets through."""
    if not (house.options.anonymous_read and house.options.loopback):
        return False
    if any(name in request.headers for name in FORWARDED):
        return False
    # A page from elsewhere cannot read our answers, but it could make its visitor's browser ask for many.
    if request.headers.get("sec-fetch-site", "none") == "cross-site":
        return False
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def check_origin(request: Request, house: "House") -> None:
    """A browser says where a write comes from: it has to be our own page. Raises NotAdmitted.

    Without cookies a missing `Origin` is a program, which has no cookies to be abused; browsers send one with
    every request that is not a reading.
    """
    origins = request.headers.getlist("origin")
    if not origins:
        if request.cookies:
            raise NotAdmitted(403, "forbidden", "origin", "a write with a cookie needs an Origin header")
        return
    try:
        parts = urlsplit(origins[0])
    except ValueError:
        parts = urlsplit("")
    schemes = {"http", "https"} if house.options.behind_proxy else {request.scope.get("scheme", "http")}
    ours = request.headers.get("host", "").lower()
    if len(origins) != 1 or parts.scheme not in schemes or not ours or parts.netloc.lower() != ours:
        raise NotAdmitted(403, "forbidden", "origin", "this write comes from a page that is not ours")
