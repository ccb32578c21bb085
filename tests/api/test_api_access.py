"""Who may come in: every route without credentials, roles, sessions, foreign pages, foreign names."""

import re

import pytest

from watchbill_collector.api.page import PAGE_POLICY
from watchbill_collector.api.routes import Need
from watchbill_collector.api.table import ROUTES

EVERY = [(route, method) for route in ROUTES for method in route.methods]
FINITE = [(route, method) for route, method in EVERY if not route.path.endswith("/events")]


def filled(path: str) -> str:
    return re.sub(r"\{\w+(:\w+)?\}", "x", path)


async def test_no_route_answers_nobody_unless_it_is_open(serve):
    served = await serve()
    for route, method in EVERY:
        answer = await served.client.request(method, filled(route.path))
        where = f"{method} {route.path} -> {answer.status_code}"
        if route.need is Need.NOTHING:
            assert answer.status_code in (200, 303, 403, 404), where
            assert "web1" not in answer.text, where
        else:
            assert answer.status_code == 401, where
            assert answer.headers["www-authenticate"] == "Bearer", where
            assert answer.json()["hint"].startswith("watchbill login http://127.0.0.1:"), where


async def test_reading_without_a_name_opens_reading_alone(serve):
    served = await serve(anonymous_read=True)
    for route, method in FINITE:
        answer = await served.client.request(method, filled(route.path))
        where = f"{method} {route.path} -> {answer.status_code}"
        if route.need not in (Need.NOTHING, Need.READ):
            assert answer.status_code == 401, where
        else:
            assert answer.status_code not in (401, 403) or route.path == "/login", where


async def test_a_viewer_changes_nothing(serve):
    served = await serve()
    for route, method in FINITE:
        answer = await served.client.request(method, filled(route.path), headers=served.viewer)
        open_to_him = {Need.NOTHING, Need.READ, Need.KNOWN}
        refused = route.need not in open_to_him or (route.path, method) == ("/login", "POST")
        assert (answer.status_code == 403) == refused, f"{method} {route.path} -> {answer.status_code}"
    assert served.twins.hosts.journal == []


def test_every_route_that_writes_needs_more_than_reading():
    for route, method in EVERY:
        if method in ("GET", "HEAD") or route.form or route.path == "/login":
            continue
        if route.about.startswith("Not built yet"):
            continue
        assert route.need not in (Need.NOTHING, Need.READ), route.path


async def test_what_speaks_of_everything_is_refused_to_who_has_a_scope(serve):
    served = await serve()
    answer = await served.client.get("/metrics", headers=served.scoped)
    assert answer.status_code == 403
    assert 'team="a"' in answer.json()["error"]


@pytest.mark.parametrize(
    "shown", ["Bearer wrong", "Bearer", "Basic dXNlcjpwYXNz", "bearer " + "x" * 5000, "Bearer tok en", ""]
)
async def test_wrong_credentials_are_refused_even_where_nobody_may_read(serve, shown):
    served = await serve(anonymous_read=True)
    answer = await served.client.get("/api/watchbill/v1/hosts", headers={"Authorization": shown})
    assert answer.status_code == 401


async def test_two_credentials_are_none(serve):
    served = await serve(anonymous_read=True)
    answer = await served.raw(
        b"GET /api/v1/alerts HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        b"Authorization: Bearer token-of-admin\r\nAuthorization: Bearer token-of-viewer\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("name", ["forwarded", "x-forwarded-for", "x-real-ip", "via"])
async def test_what_a_proxy_lets_through_is_not_anonymous_reading(serve, name):
    served = await serve(anonymous_read=True)
    answer = await served.client.get("/api/watchbill/v1/hosts", headers={name: "203.0.113.9"})
    assert answer.status_code == 401


async def test_a_foreign_page_cannot_spend_anonymous_reading(serve):
    served = await serve(anonymous_read=True)
    there = "/api/v1/query?query=up"
    assert (await served.client.get(there, headers={"Sec-Fetch-Site": "cross-site"})).status_code == 401
    assert (await served.client.get(there, headers={"Sec-Fetch-Site": "same-origin"})).status_code == 200


# ---------------------------------------------------------------- the Host header


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:7480", 200),
        ("localhost", 200),
        ("LOCALHOST.:1", 200),
        ("[::1]:7480", 200),
        ("watch.example", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("user@127.0.0.1", 400),
        ("127.0.0.1/x", 400),
        ("127.0.0.1:port", 400),
        ("[::1", 400),
        ("", 400),
    ],
)
async def test_on_loopback_only_our_names_are_answered(serve, name, status):
    served = await serve(names=("Watch.Example",))
    answer = await served.raw(
        b"GET /healthz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % name.encode()
    )
    assert answer.startswith(b"HTTP/1.1 %d" % status)


async def test_beyond_loopback_every_well_formed_name_is_answered(serve):
    served = await serve(loopback=False)
    answer = await served.client.get("/healthz", headers={"Host": "anything.example"})
    assert answer.status_code == 200


# ---------------------------------------------------------------- sessions


async def logged_in(served) -> str:
    """The session's CSRF token; the cookie is in the client."""
    answer = await served.client.post("/login", json={"token": "token-of-admin"})
    assert answer.status_code == 200
    return next(value for name, value in served.client.cookies.items() if "csrf" in name)


async def test_a_token_becomes_a_session_that_reads(serve):
    served = await serve()
    await logged_in(served)
    me = (await served.client.get("/api/watchbill/v1/me")).json()
    assert (me["name"], me["via"], me["roles"]) == ("ops", "session", ["admin"])


async def test_cookies_are_strict_and_the_session_is_out_of_scripts_reach(serve):
    served = await serve()
    answer = await served.client.post("/login", json={"token": "token-of-admin"})
    session, csrf = answer.headers.get_list("set-cookie")
    assert session.startswith(f"watchbill-{served.server.port}=")
    assert "HttpOnly" in session
    assert "HttpOnly" not in csrf
    for cookie in (session, csrf):
        assert "SameSite=strict" in cookie
        assert "Path=/" in cookie
        assert "Secure" not in cookie
        assert "Domain" not in cookie


async def test_with_tls_cookies_are_secure_and_bound_to_the_host(serve):
    served = await serve(tls=True)
    answer = await served.client.post("/login", json={"token": "token-of-admin"})
    for cookie in answer.headers.get_list("set-cookie"):
        assert cookie.startswith("__Host-watchbill-")
        assert "Secure" in cookie
    assert "max-age" in answer.headers["strict-transport-security"]


async def test_a_one_time_login_works_once(serve):
    served = await serve()
    made = (await served.client.post("/api/watchbill/v1/logins", headers=served.admin)).json()
    there = f"/login?code={made['code']}"
    assert (await served.client.head(there)).status_code == 204
    first = await served.client.get(there)
    assert (first.status_code, first.headers["location"]) == (303, "/")
    assert (await served.client.get("/api/watchbill/v1/me")).json()["name"] == "ops"
    served.client.cookies.clear()
    again = await served.client.get(there)
    assert again.status_code == 403
    assert "set-cookie" not in again.headers


async def test_a_write_with_a_session_needs_origin_and_token(serve):
    served = await serve()
    csrf = await logged_in(served)
    there, origin = "/api/watchbill/v1/hosts/web1/approve", served.url
    post = lambda **headers: served.client.post(there, headers=headers)  # noqa: E731
    right = {"Origin": origin, "X-Watchbill-CSRF": csrf}
    refused = [
        await post(),
        await post(**{"X-Watchbill-CSRF": csrf}),
        await post(Origin=origin),
        await post(**right | {"X-Watchbill-CSRF": csrf[:-1]}),
        await post(**right | {"X-Watchbill-CSRF": "x" * 10_000}),
        await post(**right | {"Origin": "http://evil.example"}),
        await post(**right | {"Origin": "null"}),
        await post(**right | {"Origin": origin.replace("http:", "https:")}),
        await post(**right | {"Origin": origin + "0"}),
    ]
    assert [answer.status_code for answer in refused] == [403] * len(refused)
    assert (await post(**right)).status_code == 409  # Let in; web1 does not wait for anybody.


async def test_a_bearer_token_needs_neither(serve):
    served = await serve()
    answer = await served.client.post("/api/watchbill/v1/hosts/web1/retire", headers=served.admin)
    assert answer.status_code == 200
    assert served.twins.hosts.journal == [("retire", "ops")]


async def test_a_foreign_page_cannot_log_its_visitor_in(serve):
    served = await serve()
    answer = await served.client.post(
        "/login", json={"token": "token-of-admin"}, headers={"Origin": "http://evil.example"}
    )
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_logging_out_ends_the_session(serve):
    served = await serve()
    csrf = await logged_in(served)
    cookies = dict(served.client.cookies)
    right = {"Origin": served.url, "X-Watchbill-CSRF": csrf}
    assert (await served.client.post("/logout")).status_code == 403
    assert (await served.client.post("/logout", headers=right)).status_code == 200
    served.client.cookies.update(cookies)
    assert (await served.client.get("/api/watchbill/v1/me")).status_code == 401


async def test_an_ended_session_still_reads_where_anybody_may(serve):
    served = await serve(anonymous_read=True)
    served.client.cookies.set(f"watchbill-{served.server.port}", "ended")
    assert (await served.client.get("/api/watchbill/v1/me")).json()["via"] == "anonymous"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b'{"token": 5}', "application/json"),
        (b'["token-of-admin"]', "application/json"),
        (b"{", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"token=wrong", "application/x-www-form-urlencoded"),
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
        (b"&" * 1000, "application/x-www-form-urlencoded"),
        (b"", "text/plain"),
    ],
)
async def test_a_bad_login_is_refused(serve, content, kind):
    served = await serve()
    answer = await served.client.post("/login", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 403
    assert served.refused("login") == 1


# ---------------------------------------------------------------- headers of every answer


@pytest.mark.parametrize("path", ["/", "/page.js", "/nothing", "/api/v1/query", "/healthz", "/login?code=x"])
async def test_every_answer_is_safe_for_browsers(serve, path):
    served = await serve()
    headers = (await served.client.get(path, headers={"Origin": "http://evil.example"})).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert not [name for name in headers if name.startswith("access-control-")]
    assert "server" not in headers


async def test_the_page_may_run_its_own_scripts_and_nothing_else(serve):
    served = await serve()
    answer = await served.client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == PAGE_POLICY
    assert "unsafe" not in PAGE_POLICY
    again = await served.client.get("/", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    script = await served.client.get("/page.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert script.headers["content-encoding"] == "gzip"
