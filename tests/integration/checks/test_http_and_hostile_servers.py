"""Whatever a server does, an http check ends by its deadline with the reason, and holds nothing afterwards."""

import asyncio
import gzip
import os
import random
import resource
import ssl
import struct
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from watchbill_agent.checks.check import Verdict
from watchbill_agent.checks.httpwire import Answer

from .asked import Authority, Handler, Pair, ask, descriptors, labels_of, nothing_left, series, serving

SHORT_S = 0.15
"""For a look that has to be ended."""
MEMORY_KIB_MAX = 48 * 1024
OK = b"HTTP/1.1 200 OK\r\n"


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def saying(*pieces: bytes, every_s: float = 0.0, times: int = 1) -> Handler:
    """Reads a request, says the pieces, the last of them again and again, and closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        for piece in (*pieces, *([pieces[-1]] * (times - 1))):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every_s)
        if writer.can_write_eof():
            writer.write_eof()
            await reader.read()

    return handle


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head_of(reader)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER
    writer.transport.abort()


def body(content: bytes, *heads: bytes) -> bytes:
    return (
        OK
        + b"".join(head + b"\r\n" for head in heads)
        + b"Content-Length: %d\r\n\r\n" % len(content)
        + content
    )


FOR_EVER = 1_000_000
BOMB = gzip.compress(b"\0" * (64 << 20))
SERVERS: dict[str, tuple[Handler, dict[str, Any], float, str]] = {
    "never answers": (silent, {}, SHORT_S, "timeout"),
    "says a byte at a time": (saying(OK, b"x", every_s=0.05, times=FOR_EVER), {}, SHORT_S, "timeout"),
    "has an endless body": (saying(OK + b"\r\n", b"x" * 65536, times=FOR_EVER), {}, 30, "body-too-long"),
    "has an endless body that is looked at": (
        saying(OK + b"\r\n", b"x" * 65536, times=FOR_EVER),
        {"fail_if_body_matches_regexp": ["(x+x+)+y"]},
        30,
        "body-too-long",
    ),
    "has endless headers": (saying(OK, b"X-A: b\r\n" * 1000, times=FOR_EVER), {}, 30, "headers-too-long"),
    "has a header of a megabyte": (saying(OK + b"X: " + b"y" * (1 << 20)), {}, 30, "headers-too-long"),
    "says garbage": (saying(bytes(range(256)) * 8), {}, 30, "protocol"),
    "speaks HTTP/0.9": (saying(b"<html>well</html>\n"), {}, 30, "protocol"),
    "closes without a word": (saying(b""), {}, 30, "closed"),
    "closes in the headers": (saying(OK + b"X-A: b"), {}, 30, "closed"),
    "closes in the body": (saying(OK + b"Content-Length: 100\r\n\r\nabc"), {}, 30, "body-incomplete"),
    "resets": (resets, {}, 30, "reset"),
    "says two lengths": (
        saying(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        {},
        30,
        "protocol",
    ),
    "says no number for a length": (saying(OK + b"Content-Length: many\r\n\r\n"), {}, 30, "protocol"),
    "chunks nonsense": (
        saying(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nnothing\r\n"),
        {},
        30,
        "protocol",
    ),
    "chunks for ever": (
        saying(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000, times=FOR_EVER),
        {},
        30,
        "body-too-long",
    ),
    "chunks little with much around": (
        saying(
            OK + b"Transfer-Encoding: chunked\r\n\r\n",
            (b"1;" + b"e" * 30_000 + b"\r\nx\r\n") * 10,
            times=FOR_EVER,
        ),
        {},
        30,
        "body-too-long",
    ),
    "is about to answer for ever": (saying(b"HTTP/1.1 102 Processing\r\n\r\n" * 100), {}, 30, "protocol"),
    "speaks another protocol": (saying(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), {}, 30, "protocol"),
    "sends a bomb": (
        saying(body(BOMB, b"Content-Encoding: gzip")),
        {"json": ["$.a"], "compression": "gzip"},
        30,
        "body-too-long",
    ),
    "compresses nonsense": (
        saying(body(b"\x1f\x8b nothing", b"Content-Encoding: gzip")),
        {"json": ["$.a"]},
        30,
        "body-encoding",
    ),
    "cuts its compression off": (
        saying(body(gzip.compress(b'{"a": 1}' * 1000)[:-9], b"Content-Encoding: gzip")),
        {"json": ["$.a"]},
        30,
        "body-incomplete",
    ),
    "compresses with what nobody knows": (
        saying(body(b"?", b"Content-Encoding: zz")),
        {"json": ["$.a"]},
        30,
        "body-encoding",
    ),
    "nests JSON for ever": (saying(body(b"[" * 500_000)), {"json": ["$.a"]}, 30, "json-invalid"),
    "points nowhere": (
        saying(b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n"),
        {},
        30,
        "redirect-invalid",
    ),
    "points to a file": (
        saying(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"),
        {},
        30,
        "redirect-invalid",
    ),
    "redirects for ever": (
        saying(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"),
        {},
        30,
        "redirects-too-many",
    ),
    "redirects with an endless body": (
        saying(b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n", b"x" * 65536, times=FOR_EVER),
        {},
        30,
        "body-too-long",
    ),
}


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_that(name: str) -> None:
    handler, values, within_s, reason = SERVERS[name]
    before, memory = descriptors(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with serving(handler) as port:
        outcome = await ask("http", within_s, url=f"http://127.0.0.1:{port}/", **values)
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, reason), outcome.detail
    assert outcome.detail.isascii()
    assert outcome.detail.isprintable()
    assert len(outcome.detail) <= 300
    assert series(outcome)["probe_http_duration_seconds:connect"] > 0
    await nothing_left(before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEMORY_KIB_MAX


async def test_more_than_its_length_is_not_read() -> None:
    async with serving(saying(OK + b"Content-Length: 2\r\n\r\nabcdef")) as port:
        outcome = await ask("http", url=f"http://127.0.0.1:{port}/", fail_if_body_not_matches_regexp=["^ab$"])
    assert outcome.verdict is Verdict.OK


async def test_a_port_where_nobody_listens_is_refused() -> None:
    async with serving(silent) as port:
        pass
    outcome = await ask("http", url=f"http://127.0.0.1:{port}/")
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "refused")
    assert str(port) in outcome.detail


async def test_a_server_that_keeps_us_busy_leaves_others_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turn, taken, take = 0, Counter[int](), Answer.take

    def counting(answer: Answer, *piece: Any, **how: Any) -> None:
        taken[turn] += 1
        take(answer, *piece, **how)

    async def others() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(Answer, "take", counting)
    beside = asyncio.create_task(others())
    for handler, http in (
        (saying(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000, times=3), "1.1"),
        (frames(HEADERS_200, frame(0, 0, 1, b"x") * 500, times=20), "2"),
    ):
        async with serving(handler) as port:
            outcome = await ask("http", url=f"http://127.0.0.1:{port}/", http=http)
        assert outcome.reason == "body-too-long", outcome.detail
    beside.cancel()
    assert taken.total() > 25_000
    assert max(taken.values()) <= 500


async def test_a_long_body_is_searched_beside_the_others() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    chosen = random.Random(1).randbytes(200_000).translate(bytes(b"ab"[number & 1] for number in range(256)))
    async with serving(saying(body(chosen))) as port:
        url = f"http://127.0.0.1:{port}/"
        assert (await ask("http", url=url)).verdict is Verdict.OK
        beside = asyncio.create_task(others())
        outcome = await ask("http", url=url, fail_if_body_matches_regexp=["a.{100}z"])
        beside.cancel()
    assert outcome.verdict is Verdict.OK, outcome.detail
    assert turns > 20


async def test_a_look_that_is_cancelled_holds_nothing() -> None:
    before = descriptors()
    async with serving(silent) as port:
        looking = asyncio.create_task(ask("http", url=f"http://127.0.0.1:{port}/"))
        await asyncio.sleep(0.05)
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
    await nothing_left(before)


# ---------------------------------------------------------------- HTTP/2


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


SETTINGS = frame(4, 0, 0, b"")
HEADERS_200 = frame(1, 4, 1, b"\x88")


def frames(*pieces: bytes, times: int = 1) -> Handler:
    """Says its settings and the pieces, the last again and again, while it reads what comes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(SETTINGS)
        drain = asyncio.create_task(_read_all(reader))
        try:
            for piece in (*pieces, *([pieces[-1]] * (times - 1))):
                writer.write(piece)
                await writer.drain()
            await asyncio.sleep(0 if times > 1 else 0.05)
        finally:
            drain.cancel()

    return handle


async def _read_all(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass


HUGE_TABLE = frame(1, 4, 1, b"\x88" + (b"\x40\x01a\x7f\xff\x7e" + b"v" * (127 + 16255)) + b"\xbe" * 2000)
SERVERS_2: dict[str, tuple[Handler, str]] = {
    "floods with settings": (frames(SETTINGS * 500, times=10_000), "protocol"),
    "floods with pings": (frames(frame(6, 0, 0, b"12345678") * 500, times=10_000), "protocol"),
    "sends nothing for ever": (frames(HEADERS_200, frame(0, 0, 1, b"") * 500, times=10_000), "protocol"),
    "sends a byte a frame": (frames(HEADERS_200, frame(0, 0, 1, b"x") * 500, times=10_000), "body-too-long"),
    "resets the stream": (frames(frame(3, 0, 1, (7).to_bytes(4, "big"))), "reset"),
    "says goodbye": (frames(frame(7, 0, 0, b"\0\0\0\0\0\0\0\1")), "closed"),
    "sends data first": (frames(frame(0, 1, 1, b"abc")), "protocol"),
    "sends a header bomb": (frames(HUGE_TABLE), "protocol"),
    "speaks HTTP/1.1": (saying(OK + b"\r\n"), "protocol"),
    "closes in the middle": (frames(HEADERS_200), "body-incomplete"),
}


@pytest.mark.parametrize("name", SERVERS_2)
async def test_a_server_of_http_2_that(name: str) -> None:
    handler, reason = SERVERS_2[name]
    before = descriptors()
    async with serving(handler) as port:
        outcome = await ask("http", url=f"http://127.0.0.1:{port}/", http="2")
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, reason), outcome.detail
    await nothing_left(before)


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "Stranger")


def old(pair: Pair) -> ssl.SSLContext:
    context = pair.context()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


WELL = saying(body(b"well"))


@pytest.mark.parametrize(
    ("reason", "days", "ends"),
    [
        ("tls-expired", -2.0, "expired"),
        ("tls-expires-soon", 2.0, "fails"),
        ("tls-expires-soon", 10.0, "warns"),
        ("", 90.0, ""),
    ],
)
async def test_when_a_certificate_ends_is_told_and_judged(
    authority: Authority, reason: str, days: float, ends: str
) -> None:
    pair = authority.issue(days=days)
    async with serving(WELL, pair.context()) as port:
        outcome = await ask("http", url=f"https://localhost:{port}/", ca_file=str(authority.file))
    verdict = {"": Verdict.OK, "warns": Verdict.WARNING}.get(ends, Verdict.CRITICAL)
    assert (outcome.verdict, outcome.reason) == (verdict, reason), outcome.detail
    assert series(outcome)["probe_ssl_earliest_cert_expiry"] == pytest.approx(
        time.time() + days * 86400, abs=60
    )


async def _presented(pair_or_context: Any, handler: Handler = WELL, **values: Any) -> Any:
    context = pair_or_context.context() if isinstance(pair_or_context, Pair) else pair_or_context
    before = descriptors()
    async with serving(handler, context) as port:
        outcome = await ask("http", url=f"https://127.0.0.1:{port}/", **values)
    await nothing_left(before)
    return outcome


async def test_whose_certificate_it_is_decides(authority: Authority, stranger: Authority) -> None:
    trusted = {"ca_file": str(authority.file)}
    for pair, reason in (
        (authority.issue("elsewhere.example"), "tls-wrong-host"),
        (stranger.issue(), "tls-untrusted"),
        (stranger.itself(), "tls-self-signed"),
        (authority.issue(begins=1), "tls-not-yet-valid"),
    ):
        outcome = await _presented(pair, **trusted)
        assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, reason), outcome.detail
        assert series(outcome)["probe_ssl_earliest_cert_expiry"] > 0
        assert "probe_ssl_last_chain_expiry_timestamp_seconds" not in series(outcome)
        assert series(outcome)["probe_http_status_code"] == 0


async def test_any_certificate_is_believed_only_when_that_is_said_and_is_said_again(
    stranger: Authority,
) -> None:
    outcome = await _presented(stranger.issue(), insecure_skip_verify=True)
    assert outcome.verdict is Verdict.OK
    assert "NOT verified" in outcome.detail
    assert series(outcome)["watchbill_check_insecure"] == 1


async def test_another_name_may_be_wanted(authority: Authority) -> None:
    values = {"ca_file": str(authority.file), "server_name": "elsewhere.example"}
    assert (await _presented(authority.issue("elsewhere.example"), **values)).verdict is Verdict.OK


async def refuses_version(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(65536)
    writer.write(b"\x15\x03\x01\x00\x02\x02\x46")
    await writer.drain()
    await reader.read(65536)


async def test_a_redirect_shows_no_certificate_and_asks_for_the_name_of_whom_it_leads_to(
    authority: Authority,
) -> None:
    client, seen = authority.issue("client"), []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peercert"))
        await WELL(reader, writer)

    def asking(name: str) -> ssl.SSLContext:
        context = authority.issue(name).context()
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(authority.file)
        return context

    async with serving(elsewhere, asking("localhost")) as other:
        location = b"Location: https://localhost:%d/\r\nContent-Length: 0\r\n\r\n" % other
        async with serving(saying(b"HTTP/1.1 302 Found\r\n" + location), asking("shop.example")) as port:
            outcome = await ask(
                "http",
                url=f"https://127.0.0.1:{port}/",
                ca_file=str(authority.file),
                cert_file=str(client.chain),
                key_file=str(client.key),
                server_name="shop.example",
            )
    assert outcome.verdict is Verdict.OK, outcome.detail
    assert len(seen) == 1
    assert not seen[0]


async def test_an_old_tls_is_refused_unless_it_is_wanted(authority: Authority) -> None:
    pair = authority.issue()
    # asyncio's server sends no alert when it cannot agree, so the refusal is one as OpenSSL's servers send it.
    before = descriptors()
    async with serving(refuses_version) as port:
        outcome = await ask("http", url=f"https://127.0.0.1:{port}/", ca_file=str(authority.file))
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "tls-version"), outcome.detail
    await nothing_left(before)
    outcome = await _presented(old(pair), ca_file=str(authority.file), min_version="TLS10")
    assert outcome.verdict is Verdict.OK, outcome.detail
    assert labels_of(outcome, "probe_tls_version_info") == {"version": "TLS 1.1"}


async def test_a_client_certificate_is_shown(authority: Authority, tmp_path: Path) -> None:
    server, client = authority.issue(), authority.issue("client")
    context = server.context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.file)
    shown = {"cert_file": str(client.chain), "key_file": str(client.key)}
    assert (await _presented(context, ca_file=str(authority.file), **shown)).verdict is Verdict.OK
    assert (await _presented(context, ca_file=str(authority.file))).verdict is Verdict.CRITICAL
    client.key.chmod(0o644)
    unsafe = await _presented(context, ca_file=str(authority.file), **shown)
    assert (unsafe.verdict, unsafe.reason) == (Verdict.UNKNOWN, "credential"), unsafe.detail


async def test_authorities_that_cannot_be_read_are_our_fault(authority: Authority, tmp_path: Path) -> None:
    nothing = tmp_path / "none.pem"
    nothing.write_text("nothing")
    fifo = tmp_path / "fifo.pem"
    os.mkfifo(fifo)
    for path in (nothing, fifo, Path("/dev/zero")):
        outcome = await _presented(authority.issue(), ca_file=str(path))
        assert (outcome.verdict, outcome.reason) == (Verdict.UNKNOWN, "tls-files"), outcome.detail


async def after_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(65536)
    writer.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(65536)
    writer.write_eof()


async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(65536)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    await reader.read(65536)


@pytest.mark.parametrize(
    ("handler", "within_s", "reason"),
    [
        (after_hello, 30, "reset"),
        (closes, 30, "closed"),
        (plain, 30, "tls-not-spoken"),
        (silent, SHORT_S, "timeout"),
    ],
)
async def test_what_is_no_tls(handler: Handler, within_s: float, reason: str) -> None:
    before = descriptors()
    async with serving(handler) as port:
        outcome = await ask("http", within_s, url=f"https://127.0.0.1:{port}/")
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, reason), outcome.detail
    await nothing_left(before)
