"""The dns check against unbound over UDP, TCP and TLS, and against servers that mean no good."""

import asyncio
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from watchbill_agent.checks.check import Verdict

from .asked import Authority, Handler, ask, descriptors, labels_of, nothing_left, series, serving

CONFIG = """
server:
    directory: "{place}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    interface: 127.0.0.1@{plain}
    interface: 127.0.0.1@{tls}
    tls-port: {tls}
    tls-service-key: "{place}/key"
    tls-service-pem: "{place}/chain"
    access-control: 127.0.0.0/8 allow
    module-config: "iterator"
    local-zone: "example." static
    local-data: "example. SOA ns.example. root.example. 2026112901 3600 900 86400 300"
    local-data: "www.example. A 192.0.2.10"
    local-data: "www.example. A 192.0.2.11"
    local-data: "www.example. AAAA 2001:db8::10"
    local-data: "example. MX 10 mail.example."
    local-data: 'example. TXT "v=spf1 -all"'
    local-data-ptr: "192.0.2.10 www.example"
{large}
remote-control:
    control-enable: no
"""


class Unbound:
    def __init__(self, authority: Authority) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="wb-tests-unbound-"))
        self.plain, self.tls = _free_port(), _free_port()
        pair = authority.issue()
        shutil.copy(pair.chain, self.place / "chain")
        shutil.copy(pair.key, self.place / "key")
        texts = (f"    local-data: 'large.example. TXT \"{number:0>100}\"'" for number in range(40))
        ports = {"plain": self.plain, "tls": self.tls}
        (self.place / "conf").write_text(CONFIG.format(place=self.place, large="\n".join(texts), **ports))
        users: dict[str, Any] = {}
        if Path("/proc/self").owner() == "root":
            nobody = pwd.getpwnam("nobody")
            users = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for path in (self.place, *self.place.iterdir()):
                shutil.chown(path, nobody.pw_uid, nobody.pw_gid)
        self.process = subprocess.Popen(["unbound", "-d", "-c", self.place / "conf"], **users)
        for _ in range(500):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", self.tls)) == 0:
                    return
            assert self.process.poll() is None
            time.sleep(0.02)
        raise AssertionError("unbound does not listen")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.place, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def unbound(authority: Authority) -> Iterator[Unbound]:
    made = Unbound(authority)
    yield made
    made.stop()


WWW = {"query_name": "www.example"}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "an address": (WWW, ""),
    "over TCP": ({**WWW, "transport_protocol": "tcp"}, ""),
    "all of it": ({**WWW, "expect": ["192.0.2.11", "192.0.2.10"]}, ""),
    "one that is missing": ({**WWW, "expect": ["192.0.2.10", "192.0.2.12"]}, "answer-unexpected"),
    "any of it": ({**WWW, "expect": ["192.0.2.12", "192.0.2.10"], "expect_mode": "any"}, ""),
    "none of it": ({**WWW, "expect": ["192.0.2.10"], "expect_mode": "none"}, "answer-unexpected"),
    "nothing else": ({**WWW, "expect": ["192.0.2.10"], "expect_mode": "exactly"}, "answer-unexpected"),
    "a pattern": ({**WWW, "fail_if_not_matches_regexp": [r"^192\.0\.2\."]}, ""),
    "a pattern that is missing": ({**WWW, "fail_if_not_matches_regexp": [r"^10\."]}, "answer-unexpected"),
    "a pattern that may not be": ({**WWW, "fail_if_matches_regexp": [r"\.11$"]}, "answer-unexpected"),
    "IPv6": ({**WWW, "query_type": "AAAA", "expect": ["2001:db8::10"]}, ""),
    "mail": ({"query_name": "example", "query_type": "MX", "expect": ["10 Mail.example"]}, ""),
    "text": ({"query_name": "example", "query_type": "TXT", "expect": ["v=spf1 -all"]}, ""),
    "whose address it is": ({"query_name": "192.0.2.10", "query_type": "PTR", "expect": ["www.example"]}, ""),
    "what is too large for UDP": (
        {"query_name": "large.example", "query_type": "TXT", "answers_min": 40},
        "",
    ),
    "a name that is not": ({"query_name": "none.example"}, "rcode-unexpected"),
    "a name that may not be": ({"query_name": "none.example", "valid_rcodes": ["NXDOMAIN"]}, ""),
    "a type that is not": ({**WWW, "query_type": "MX"}, "answer-unexpected"),
    "a type that may be missing": ({**WWW, "query_type": "MX", "answers_min": 0}, ""),
    "proof": ({**WWW, "authenticated": True}, "not-authenticated"),
    "slowness": ({**WWW, "fail_after": "1ms", "warn_after": "0s"}, "slow"),
}


@pytest.mark.real("unbound")
@pytest.mark.parametrize("name", CASES)
async def test_what_is_wanted_of_unbound(unbound: Unbound, name: str) -> None:
    values, reason = CASES[name]
    before = descriptors()
    outcome = await ask("dns", servers=[f"127.0.0.1:{unbound.plain}"], **values)
    assert outcome.reason == reason, outcome.detail
    found = series(outcome)
    assert found["probe_dns_query_succeeded"] == 1
    assert found["probe_dns_duration_seconds:request"] > 0
    await nothing_left(before)


@pytest.mark.real("unbound")
async def test_the_serial_of_a_zone_is_told(unbound: Unbound) -> None:
    outcome = await ask("dns", servers=[f"127.0.0.1:{unbound.plain}"], query_name="example", query_type="SOA")
    assert outcome.verdict is Verdict.OK, outcome.detail
    assert series(outcome)["probe_dns_serial"] == 2026112901
    assert series(outcome)["probe_dns_answer_rrs"] == 1


@pytest.mark.real("unbound")
async def test_over_tls_the_servers_certificate_counts(unbound: Unbound, authority: Authority) -> None:
    values = {**WWW, "servers": [f"localhost:{unbound.tls}"], "transport_protocol": "tls"}
    outcome = await ask("dns", ca_file=str(authority.file), **values)
    assert outcome.verdict is Verdict.OK, outcome.detail
    assert labels_of(outcome, "probe_tls_version_info") == {"version": "TLS 1.3"}
    outcome = await ask("dns", ca_file=str(authority.file), server_name="other.example", **values)
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "tls-wrong-host")


@pytest.mark.real("unbound")
async def test_the_next_server_is_asked_when_one_is_not_there(unbound: Unbound) -> None:
    servers = [f"127.0.0.1:{_free_port()}", f"127.0.0.1:{unbound.plain}"]
    outcome = await ask("dns", servers=servers, **WWW)
    assert outcome.verdict is Verdict.OK, outcome.detail


# ---------------------------------------------------------------- servers that mean no good

Answering = Callable[[bytes], list[bytes]]


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for answer in self._answering(data):
            self._transport.sendto(answer, addr)


@asynccontextmanager
async def datagrams(answering: Answering) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Datagrams(answering), local_addr=("127.0.0.1", 0)
    )
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()
        await asyncio.sleep(0)


def other(asked: bytes) -> bytes:
    """An answer to another question, with the right number."""
    return asked[:2] + b"\x84\0\0\1\0\0\0\0\0\0\3foo\0\0\1\0\1"


def wrong(asked: bytes) -> bytes:
    return bytes([asked[0] ^ 1]) + asked[1:2] + b"\x80\0" + asked[4:]


LOOP = b"\x84\0\0\1\0\0\0\0\0\0" + b"\xc0\x0c" + b"\0\1\0\1"
DATAGRAMS: dict[str, tuple[Answering, str]] = {
    "says nothing": (lambda asked: [], "timeout"),
    "answers others": (lambda asked: [wrong(asked)], "timeout"),
    "answers something else": (lambda asked: [other(asked)], "timeout"),
    "floods with answers to others": (lambda asked: [wrong(asked)] * 200, "protocol"),
    "says garbage": (lambda asked: [asked[:2] + b"\x84\0\0\1" + bytes(6) + b"\xbf" * 200], "protocol"),
    "points at itself": (lambda asked: [asked[:2] + LOOP], "protocol"),
    "asks back": (lambda asked: [asked], "timeout"),
    "is cut off": (lambda asked: [asked[:5]], "protocol"),
}


@pytest.mark.parametrize("name", DATAGRAMS)
async def test_a_server_that(name: str) -> None:
    answering, reason = DATAGRAMS[name]
    before = descriptors()
    async with datagrams(answering) as port:
        outcome = await ask("dns", 0.15 if reason == "timeout" else 30, servers=[f"127.0.0.1:{port}"], **WWW)
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, reason), outcome.detail
    assert series(outcome)["probe_dns_query_succeeded"] == 0
    await nothing_left(before)


async def test_a_question_that_got_lost_is_asked_again() -> None:
    asked: list[bytes] = []

    def answering(said: bytes) -> list[bytes]:
        asked.append(said)
        return [] if len(asked) == 1 else [said[:2] + b"\x80\x03" + said[4:6] + bytes(6) + said[12:-11]]

    async with datagrams(answering) as port:
        outcome = await ask("dns", 1.0, servers=[f"127.0.0.1:{port}"], valid_rcodes=["NXDOMAIN"], **WWW)
    assert outcome.verdict is Verdict.OK, outcome.detail
    assert len(asked) == 2


async def test_an_answer_that_is_marked_is_authenticated() -> None:
    async with datagrams(lambda said: [said[:2] + b"\x81\xa0" + said[4:6] + bytes(6) + said[12:-11]]) as port:
        values = {"servers": [f"127.0.0.1:{port}"], "authenticated": True, "answers_min": 0}
        outcome = await ask("dns", **values, **WWW)
    assert outcome.verdict is Verdict.OK, outcome.detail


def streaming(answer: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(512)
        writer.write(answer)
        await writer.drain()
        writer.write_eof()
        await reader.read()

    return handle


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed"),
        (b"\0", "closed"),
        (b"\xff\xff\0\0", "closed"),
        (b"\0\0", "protocol"),
        (b"\0\x0c" + bytes(12), "protocol"),
        (b"\xff\xf8" + bytes(4) + b"\0\0\xff\xff" + bytes(65528), "answer-too-long"),
    ],
)
async def test_over_tcp_a_server_that_says(answer: bytes, reason: str) -> None:
    before = descriptors()
    async with serving(streaming(answer)) as port:
        values = {"servers": [f"127.0.0.1:{port}"], "transport_protocol": "tcp"}
        outcome = await ask("dns", **values, **WWW)
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, reason), outcome.detail
    await nothing_left(before)
