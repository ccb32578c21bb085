"""The checks tcp and tls: conversations, STARTTLS in every protocol, and servers that mean no good."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import pytest

from watchbill_agent.checks.check import Verdict

from .asked import Authority, Handler, ask, descriptors, labels_of, nothing_left, series, serving

SHORT_S = 0.15
BANNER = b"SSH-2.0-OpenSSH_9.2\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    return authority.issue().context()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


def saying(*pieces: bytes, times: int = 1) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in (*pieces, *([pieces[-1]] * (times - 1))):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
        await reader.read()

    return handle


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))
    writer.transport.abort()


SSH = [{"expect": "^SSH-2.0-"}]
TCP: dict[str, tuple[Handler, dict[str, Any], str]] = {
    "takes connections": (silent, {}, ""),
    "says its banner": (saying(BANNER), {"query_response": SSH}, ""),
    "says more before its banner": (saying(b"hello\r\n" * 9, BANNER), {"query_response": SSH}, ""),
    "says half a line and waits": (saying(b"login: "), {"query_response": [{"expect": "^login: $"}]}, ""),
    "says something else": (
        saying(b"HTTP/1.0 400 \x1b[31m\r\n"),
        {"query_response": SSH},
        "answer-unexpected",
    ),
    "says nothing": (silent, {"query_response": SSH}, "timeout"),
    "closes": (saying(b""), {"query_response": SSH}, "closed"),
    "resets": (resets, {"query_response": SSH}, "reset"),
    "says no end of a line": (
        saying(b"x" * 65536, times=100_000),
        {"query_response": [{"expect": "(x+x+)+y"}]},
        "answer-too-long",
    ),
    "says lines for ever": (saying(b"x\n" * 9999, times=100_000), {"query_response": SSH}, "answer-too-long"),
    "speaks no TLS": (saying(BANNER), {"tls": True}, "tls-not-spoken"),
}


@pytest.mark.parametrize("name", TCP)
async def test_tcp_of_a_server_that(name: str) -> None:
    handler, values, reason = TCP[name]
    before = descriptors()
    async with serving(handler) as port:
        within_s = SHORT_S if reason == "timeout" else 30
        outcome = await ask("tcp", within_s, address=f"127.0.0.1:{port}", **values)
    assert outcome.reason == reason, outcome.detail
    assert outcome.verdict is (Verdict.CRITICAL if reason else Verdict.OK)
    assert outcome.detail.isascii()
    assert outcome.detail.isprintable()
    assert series(outcome)["probe_failed_due_to_regex"] == (reason == "answer-unexpected")
    await nothing_left(before)


async def test_a_conversation_goes_in_turns_and_into_tls(
    authority: Authority, context: ssl.SSLContext
) -> None:
    heard: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        heard.append(await reader.readline())
        writer.write(b"250-all\r\n250 STARTTLS\r\n")
        heard.append(await reader.readline())
        writer.write(b"220 go on\r\n")
        await writer.start_tls(context)
        heard.append(await reader.readline())
        writer.write(b"221 bye\r\n")
        await writer.drain()
        await reader.read()

    turns = [
        {"expect": "^220 ", "send": "EHLO x\r\n"},
        {"expect": "^250[ -]STARTTLS", "send": "STARTTLS"},
        {"expect": "^220 ", "starttls": True},
        {"send": "QUIT"},
        {"expect": "^221 "},
    ]
    async with serving(handle) as port:
        address = f"localhost:{port}"
        outcome = await ask("tcp", address=address, ca_file=str(authority.file), query_response=turns)
    assert outcome.verdict is Verdict.OK, outcome.detail
    assert heard == [b"EHLO x\r\n", b"STARTTLS\n", b"QUIT\n"]
    assert series(outcome)["watchbill_check_phase_seconds:tls"] > 0
    assert labels_of(outcome, "probe_tls_version_info") == {"version": "TLS 1.3"}


# ---------------------------------------------------------------- STARTTLS


class Script:
    """What a server of a protocol says, and what it has to hear, until TLS begins."""

    def __init__(self, *steps: bytes | Callable[[bytes], bool]) -> None:
        self.steps = steps

    def handler(self, context: ssl.SSLContext) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for step in self.steps:
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                else:
                    assert step(await reader.read(4096))
            await writer.start_tls(context)
            await reader.read()

        return handle


def starts(*beginnings: bytes) -> Callable[[bytes], bool]:
    return lambda said: said.startswith(beginnings)


def greeting_of_mysql(capabilities: int) -> bytes:
    content = (
        b"\x0a10.11.6-MariaDB\0" + bytes(4) + b"12345678\0" + capabilities.to_bytes(2, "little") + bytes(30)
    )
    return len(content).to_bytes(3, "little") + b"\0" + content


EHLO = b"250-here\r\n250-PIPELINING\r\n250 STARTTLS\r\n"
LDAP_OK = bytes.fromhex("300c 020101 7807 0a0100 0400 0400")
SCRIPTS = {
    "smtp": Script(b"220-here\r\n220 now\r\n", starts(b"EHLO"), EHLO, starts(b"STARTTLS\r\n"), b"220 go\r\n"),
    "imap": Script(b"* OK here\r\n", starts(b"w1 STARTTLS"), b"* CAPABILITY\r\nw1 OK go\r\n"),
    "pop3": Script(b"+OK here\r\n", starts(b"STLS\r\n"), b"+OK go\r\n"),
    "ftp": Script(b"220 here\r\n", starts(b"AUTH TLS\r\n"), b"234 go\r\n"),
    "postgres": Script(starts(bytes.fromhex("0000000804d2162f")), b"S"),
    "ldap": Script(starts(bytes.fromhex("301d020101771880")), LDAP_OK),
}


@pytest.mark.parametrize("protocol", SCRIPTS)
async def test_tls_begins_in(protocol: str, authority: Authority, context: ssl.SSLContext) -> None:
    async with serving(SCRIPTS[protocol].handler(context)) as port:
        outcome = await ask(
            "tls", address=f"localhost:{port}", ca_file=str(authority.file), starttls=protocol
        )
    assert outcome.verdict is Verdict.OK, outcome.detail
    assert outcome.detail.startswith("TLS 1.3, the chain ends ")
    found = series(outcome)
    assert found["watchbill_check_phase_seconds:starttls"] > 0
    assert found["probe_ssl_earliest_cert_expiry"] > 0


async def test_tls_begins_in_mysql_behind_its_request_without_a_pause(
    authority: Authority, context: ssl.SSLContext
) -> None:
    heard: list[bytes] = []

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        connection.sendall(greeting_of_mysql(0xFFFF))
        heard.append(connection.recv(36, socket.MSG_WAITALL))
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        served = asyncio.create_task(asyncio.to_thread(serve, listening))
        address = f"localhost:{listening.getsockname()[1]}"
        outcome = await ask("tls", address=address, ca_file=str(authority.file), starttls="mysql")
        await served
    assert outcome.verdict is Verdict.OK, outcome.detail
    assert heard[0].startswith(b"\x20\0\0\x01")


REFUSALS = {
    "smtp": (b"220 here\r\n", b"250 nothing\r\n"),
    "imap": (b"* OK here\r\n", b"w1 BAD\r\n"),
    "pop3": (b"+OK here\r\n", b"-ERR\r\n"),
    "ftp": (b"220 here\r\n", b"502 no\r\n"),
    "postgres": (b"", b"N"),
    "mysql": (greeting_of_mysql(0xF7FF), b""),
    "ldap": (b"", LDAP_OK.replace(b"\x0a\x01\0", b"\x0a\x01\x02")),
}


@pytest.mark.parametrize("protocol", REFUSALS)
async def test_no_tls_in(protocol: str) -> None:
    first, then = REFUSALS[protocol]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        await reader.read(4096)
        writer.write(then)
        await reader.read(4096)

    before = descriptors()
    async with serving(handle) as port:
        outcome = await ask("tls", address=f"127.0.0.1:{port}", starttls=protocol)
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "starttls-missing"), outcome.detail
    await nothing_left(before)


@pytest.mark.parametrize("protocol", SCRIPTS)
@pytest.mark.parametrize(
    "said", [bytes(range(256)) * 4, b"\xff" * 9000, b"250-x\r\n" * 2000, b"", b"\n" * 9000]
)
async def test_garbage_instead_of(protocol: str, said: bytes) -> None:
    async with serving(saying(said)) as port:
        outcome = await ask("tls", 1.0, address=f"127.0.0.1:{port}", starttls=protocol)
    assert outcome.verdict is Verdict.CRITICAL
    assert outcome.reason in ("protocol", "closed", "answer-too-long", "starttls-missing", "reset")


async def test_what_is_said_before_tls_is_not_believed(context: ssl.SSLContext) -> None:
    script = Script(b"+OK here\r\n", starts(b"STLS"), b"+OK go\r\n+OK somebody in between\r\n")
    async with serving(script.handler(context)) as port:
        outcome = await ask("tls", address=f"127.0.0.1:{port}", starttls="pop3")
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "protocol"), outcome.detail


@pytest.mark.parametrize(
    ("days", "verdict", "reason"),
    [
        (90.0, Verdict.OK, ""),
        (10.0, Verdict.WARNING, "tls-expires-soon"),
        (1.0, Verdict.CRITICAL, "tls-expires-soon"),
        (-1.0, Verdict.CRITICAL, "tls-expired"),
    ],
)
async def test_the_days_of_a_certificate_decide(
    authority: Authority, days: float, verdict: Verdict, reason: str
) -> None:
    async with serving(silent, authority.issue(days=days).context()) as port:
        outcome = await ask("tls", address=f"localhost:{port}", ca_file=str(authority.file))
    assert (outcome.verdict, outcome.reason) == (verdict, reason), outcome.detail
    assert ("probe_ssl_last_chain_expiry_timestamp_seconds" in series(outcome)) == (days > 0)
