"""The HTTP port after `init`: nobody in particular reads or writes, and no garbage is answered with a 500."""

import json
import random
import socket
from urllib.parse import quote

import pytest

pytestmark = pytest.mark.timeout(120)

OPEN = {"/", "/healthz", "/readyz", "/login"}
"""Paths that answer everybody: they say nothing about hosts."""

FORM = {"Content-Type": "application/x-www-form-urlencoded"}

GARBAGE = [
    "",
    "\0",
    "é" * 200,
    "../../etc/passwd",
    "%2e%2e%2f",
    "'; DROP TABLE hosts; --",
    "<script>alert(1)</script>",
    "x" * 5000,
    "-1",
    "1e999",
    "NaN",
    '{"a":',
    "{" * 500,
    "[" * 100_000,
    "up{",
    'count({__name__=~".*"}) by (instance)' * 20,
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    "rate(up[5m:1s])[1h:]",
]


@pytest.fixture(scope="module")
def collector(shared_house):
    made = shared_house.collector()
    shared_house.agent(made, "web1")
    return made


@pytest.fixture(scope="module")
def routes(collector):
    """Method, path and documented parameters of everything in openapi.json."""
    answer = collector.ask("GET", "/api/watchbill/v1/openapi.json")
    assert answer.status == 200
    document = answer.json
    assert document["openapi"].startswith("3.")
    found = [
        (method.upper(), path, [one["name"] for one in row.get("parameters", ()) if one["in"] == "query"])
        for path, methods in document["paths"].items()
        for method, row in methods.items()
    ]
    assert len(found) > 30
    return found


def filled(path, value):
    """A path with something in place of its parameters."""
    while "{" in path:
        before, _, rest = path.partition("{")
        path = before + quote(value, safe="", errors="replace") + rest.partition("}")[2]
    return path


def is_stream(path):
    return path.endswith("/events")


def test_without_a_token_nothing_is_read_and_nothing_is_written(collector, routes):
    let_in = set()
    for method, path, _ in routes:
        for token in (None, "wrong", "wbt1.aaaaaaaaaaaa.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"):
            answer = collector.ask(method, filled(path, "web1"), b"{}", token=token)
            if answer.status < 400:
                let_in.add(path)
                assert b"web1" not in answer.content, path
            else:
                assert answer.status in (401, 404, 429), (method, path, answer)
    assert let_in <= OPEN, let_in
    assert collector.host("web1")["state"] == "up"


def test_an_anonymous_reader_may_read_and_never_write(house):
    collector = house.collector("[rules]\nstock = false\n", anonymous=True)
    house.enrolled(collector, "web1")
    assert collector.ask("GET", "/api/watchbill/v1/hosts", token=None).status == 200
    assert collector.ask("GET", "/api/v1/query?query=up", token=None).status == 200
    for method, path, body in (
        ("POST", "/enrolments", {"names": ["x"]}),
        ("GET", "/enrolments", None),
        ("POST", "/hosts/web1/revoke", {}),
        ("POST", "/hosts/web1/rename", {"to": "y"}),
        ("DELETE", "/hosts/web1", None),
        ("POST", "/rules/check", {"text": ""}),
        ("POST", "/logins", {}),
    ):
        answer = collector.ask(method, f"/api/watchbill/v1{path}", json.dumps(body).encode(), token=None)
        assert answer.status == 401, (method, path, answer)
    page = collector.ask("GET", "/api/watchbill/v1/hosts", headers={"Host": "evil.example"}, token=None)
    assert page.status == 421, "a page elsewhere must not read through its visitor's browser"


def test_no_garbage_on_any_route_is_answered_with_a_500(collector, routes):
    rng = random.Random(7)
    for method, path, names in routes:
        if is_stream(path):
            continue
        for garbage in rng.sample(GARBAGE, 8):
            where = filled(path, garbage)
            query = "&".join(
                f"{name}={quote(rng.choice(GARBAGE), errors='replace')[:9000]}" for name in names
            )
            body = None if method == "GET" else garbage.encode("utf-8", "surrogatepass")
            kind = rng.choice(["application/json", "application/x-www-form-urlencoded", "text/plain", "\xff"])
            answer = collector.ask(method, f"{where}?{query}"[:60_000], body, headers={"Content-Type": kind})
            assert answer.status < 500, (method, where, query, garbage, answer)
    for method in ("PUT", "TRACE", "PROPFIND", "X"):
        assert 400 <= collector.ask(method, "/api/v1/query").status < 500
    assert "Traceback" not in collector.said
    assert collector.host("web1")["state"] == "up"


def test_requests_that_are_no_http_are_refused_and_the_next_is_answered(collector):
    port = collector.ports["http"]
    requests = [
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /api/v1/query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/v1/query HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"\x16\x03\x01\x00\x05hello",
    ]
    for request in requests:
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            try:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(65_536)
            except OSError:
                answer = b""
        assert answer == b"" or answer.split()[1].startswith(b"4"), (request[:60], answer[:200])
    assert collector.ask("GET", "/readyz").status == 200
    assert "Traceback" not in collector.said


def test_a_query_that_would_cost_too_much_is_refused_and_others_go_on(collector):
    big = "count_over_time(up[30d:1s])"
    answer = collector.ask("GET", f"/api/v1/query_range?query={quote(big)}&start=0&end=2000000000&step=1")
    assert 400 <= answer.status < 500 or answer.status == 503, answer
    assert answer.json["status"] == "error"
    for expression in ("(" * 3000 + "up" + ")" * 3000, "-" * 5000 + "up", "up" + " + up" * 5000):
        answer = collector.ask("POST", "/api/v1/query", f"query={quote(expression)}".encode(), headers=FORM)
        assert answer.status < 500, (expression[:20], answer)
        assert answer.json["status"] in ("error", "success")
    assert collector.value("up") == 1.0
