"""The http check against nginx, and what is told to whom."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from watchbill_agent.checks.check import Verdict

from .asked import Authority, Handler, ask, labels_of, series, serving
from .nginx import Nginx

pytestmark = pytest.mark.real("nginx")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def nginx(authority: Authority) -> Iterator[Nginx]:
    made = Nginx(authority)
    try:
        made.start()
        yield made
    finally:
        made.remove()


async def test_a_page_is_well_and_its_phases_are_told(nginx: Nginx) -> None:
    outcome = await ask(
        "http", url=f"http://127.0.0.1:{nginx.http}/", fail_if_body_not_matches_regexp=["<h1>well</h1>$"]
    )
    assert (outcome.verdict, outcome.reason) == (Verdict.OK, ""), outcome.detail
    found = series(outcome)
    assert found["probe_http_status_code"] == 200
    assert found["probe_http_version"] == 1.1
    assert found["probe_http_content_length"] == found["probe_http_uncompressed_body_length"] == 14
    assert found["probe_http_last_modified_timestamp_seconds"] == pytest.approx(
        (nginx.place / "root/index.html").stat().st_mtime, abs=1
    )
    assert found["probe_ip_protocol"] == 4
    phases = [found[f"probe_http_duration_seconds:{name}"] for name in ("connect", "processing", "transfer")]
    assert all(phase > 0 for phase in phases)
    assert found["probe_http_duration_seconds:tls"] == 0


@pytest.mark.parametrize(("http", "version"), [("1.1", 1.1), ("auto", 2.0), ("2", 2.0)])
async def test_the_http_that_is_wanted_is_spoken_over_tls(
    nginx: Nginx, authority: Authority, http: str, version: float
) -> None:
    outcome = await ask(
        "http",
        url=f"https://localhost:{nginx.https}/status.json",
        ca_file=str(authority.file),
        http=http,
        json=['$.status == "ok"', "$.queue.depth < 4"],
    )
    assert outcome.verdict is Verdict.OK, outcome.detail
    found = series(outcome)
    assert found["probe_http_version"] == version
    assert found["probe_http_ssl"] == 1
    assert found["probe_http_duration_seconds:tls"] > 0
    assert found["probe_ssl_earliest_cert_expiry"] <= found["probe_ssl_last_chain_expiry_timestamp_seconds"]
    assert labels_of(outcome, "probe_tls_version_info") == {"version": "TLS 1.3"}
    assert labels_of(outcome, "probe_ssl_last_chain_info")["subjectalternative"] == "localhost,127.0.0.1"


async def test_a_body_goes_out_over_http_2(nginx: Nginx, authority: Authority) -> None:
    outcome = await ask(
        "http",
        url=f"https://localhost:{nginx.https}/form",
        ca_file=str(authority.file),
        http="2",
        method="POST",
        body="x" * 200_000,
        json=["$.status"],
    )
    assert outcome.verdict is Verdict.OK, outcome.detail


@pytest.mark.parametrize("compression", ["gzip", ""])
async def test_a_compressed_body_is_judged_as_what_it_becomes(nginx: Nginx, compression: str) -> None:
    url = f"http://127.0.0.1:{nginx.http}/status.json"
    outcome = await ask("http", url=url, compression=compression, json=['$.nodes[0].role == "primary"'])
    assert outcome.verdict is Verdict.OK, outcome.detail
    size = (nginx.place / "root/status.json").stat().st_size
    assert series(outcome)["probe_http_uncompressed_body_length"] == size


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "a status": ({"path": "nowhere"}, "status-unexpected"),
    "a status that is wanted": ({"path": "nowhere", "valid_status_codes": ["2xx", 301, "404-410"]}, ""),
    "a body": ({"fail_if_body_not_matches_regexp": ["sick"]}, "body-unexpected"),
    "a body that may not be": ({"fail_if_body_matches_regexp": ["w.ll"]}, "body-unexpected"),
    "a header": (
        {"fail_if_header_not_matches": [{"header": "Content-Type", "regexp": "json"}]},
        "header-unexpected",
    ),
    "a header that may not be": (
        {"fail_if_header_matches": [{"header": "server", "regexp": "nginx"}]},
        "header-unexpected",
    ),
    "a header that is missing": (
        {"fail_if_header_not_matches": [{"header": "X-None", "regexp": "."}]},
        "header-unexpected",
    ),
    "a header that may be missing": (
        {"fail_if_header_not_matches": [{"header": "X-None", "regexp": ".", "allow_missing": True}]},
        "",
    ),
    "JSON": ({"path": "status.json", "json": ["$.queue.depth > 3"]}, "json-unexpected"),
    "no JSON": ({"json": ["$.queue"]}, "json-invalid"),
    "too long a body": ({"body_size_limit": "5B"}, "body-too-long"),
    "no body of a HEAD": ({"method": "HEAD", "body_size_limit": "5B"}, ""),
    "TLS that is not there": ({"fail_if_not_ssl": True}, "tls-missing"),
    "a version": ({"valid_http_versions": ["2"]}, "version-unexpected"),
    "a redirect": ({"path": "moved", "json": ["$.status"]}, ""),
    "a redirect not taken": ({"path": "moved", "follow_redirects": False}, "status-unexpected"),
    "a redirect too many": ({"path": "moved", "redirects_max": 0}, "redirects-too-many"),
    "a Unix socket": ({"unix_socket": "{place}/socket", "path": "status.json", "json": ["$.status"]}, ""),
    "a Unix socket that is none": ({"unix_socket": "{place}/none"}, "refused"),
    "slowness": ({"fail_after": "1ms", "warn_after": "0s"}, "slow"),
}


@pytest.mark.parametrize("name", CASES)
async def test_what_is_wanted_decides(nginx: Nginx, name: str) -> None:
    values, reason = CASES[name]
    values = dict(values)
    path = values.pop("path", "")
    if "unix_socket" in values:
        values["unix_socket"] = values["unix_socket"].format(place=nginx.place)
    outcome = await ask("http", url=f"http://127.0.0.1:{nginx.http}/{path}", **values)
    assert outcome.reason == reason, outcome.detail
    if reason != "slow":
        assert outcome.verdict is (Verdict.CRITICAL if reason else Verdict.OK)


async def test_http_may_point_to_https_and_not_the_other_way(nginx: Nginx, authority: Authority) -> None:
    values = {"ca_file": str(authority.file)}
    up = await ask("http", url=f"http://127.0.0.1:{nginx.http}/secure", **values)
    assert (up.verdict, series(up)["probe_http_redirects"], series(up)["probe_http_ssl"]) == (
        Verdict.OK,
        1,
        1,
    )
    down = f"https://localhost:{nginx.https}/plain"
    refused = await ask("http", url=down, **values)
    assert (refused.verdict, refused.reason) == (Verdict.CRITICAL, "redirect-refused")
    assert (await ask("http", url=down, redirect_to_http=True, **values)).verdict is Verdict.OK


async def test_a_server_that_wants_a_certificate_says_so(nginx: Nginx, authority: Authority) -> None:
    url, client = f"https://localhost:{nginx.mutual}/", authority.issue("client")
    without = await ask("http", url=url, ca_file=str(authority.file))
    assert (without.reason, series(without)["probe_http_status_code"]) == ("status-unexpected", 400)
    shown = {"cert_file": str(client.chain), "key_file": str(client.key)}
    assert (await ask("http", url=url, ca_file=str(authority.file), **shown)).verdict is Verdict.OK


async def test_a_stopped_server_is_refused_and_is_well_when_it_is_back(nginx: Nginx) -> None:
    url = f"http://127.0.0.1:{nginx.http}/"
    nginx.stop()
    outcome = await ask("http", url=url)
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "refused")
    nginx.start()
    assert (await ask("http", url=url)).verdict is Verdict.OK


# ---------------------------------------------------------------- what is told to whom


def remembering(heard: list[bytes], answer: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append((await reader.readuntil(b"\r\n\r\n")).lower())
        writer.write(answer)
        await writer.drain()

    return handle


WELL = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


async def test_secrets_are_told_to_nobody_else(tmp_path: Path) -> None:
    for name, secret in (("password", "hunter2"), ("key", "k-1234")):
        (tmp_path / name).write_text(f"{secret}\n")
        (tmp_path / name).chmod(0o600)
    elsewhere: list[bytes] = []
    at_home: list[bytes] = []
    async with serving(remembering(elsewhere, WELL)) as other:
        answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % other
        async with serving(remembering(at_home, answer)) as port:
            outcome = await ask(
                "http",
                url=f"http://127.0.0.1:{port}/a?b=c",
                headers={"X-Plain": "told", "Host": "shop.example"},
                header_files={"X-Key": str(tmp_path / "key")},
                username="ann",
                password_file=str(tmp_path / "password"),
            )
    assert outcome.verdict is Verdict.OK, outcome.detail
    assert at_home[0].startswith(b"get /a?b=c http/1.1\r\nhost: shop.example\r\n")
    assert b"x-key: k-1234\r\n" in at_home[0]
    assert b"authorization: basic yw5uomh1bnrlcji=\r\n" in at_home[0]
    assert b"x-plain: told" in elsewhere[0]
    assert not any(word in elsewhere[0] for word in (b"authorization", b"k-1234", b"shop.example"))


async def test_a_secret_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t-99")
    (tmp_path / "token").chmod(0o644)
    outcome = await ask("http", url="http://127.0.0.1:1/", bearer_token_file=str(tmp_path / "token"))
    assert (outcome.verdict, outcome.reason) == (Verdict.UNKNOWN, "credential")
    assert "t-99" not in outcome.detail


async def test_a_proxy_is_asked_for_the_whole_address_and_tunnels_tls(
    nginx: Nginx, authority: Authority
) -> None:
    heard: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        there, away = await asyncio.open_connection("127.0.0.1", nginx.https)
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)

        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(pump(reader, away))
                both.create_task(pump(there, writer))
        finally:
            away.transport.abort()

    plain: list[bytes] = []
    async with serving(remembering(plain, WELL)) as port:
        url = "http://shop.example:8080/a"
        assert (await ask("http", url=url, proxy_url=f"http://127.0.0.1:{port}")).verdict is Verdict.OK
    assert plain[0].startswith(b"get http://shop.example:8080/a http/1.1\r\nhost: shop.example:8080\r\n")
    async with serving(proxy) as port:
        url, through = "https://localhost:1/", f"http://127.0.0.1:{port}"
        outcome = await ask("http", url=url, ca_file=str(authority.file), proxy_url=through)
    assert outcome.verdict is Verdict.OK, outcome.detail
    assert heard[0].startswith(b"CONNECT localhost:1 HTTP/1.1\r\n")
    async with serving(remembering(plain, b"HTTP/1.1 403 No\r\n\r\n")) as port:
        outcome = await ask("http", url=url, proxy_url=f"http://127.0.0.1:{port}")
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "proxy-refused")
