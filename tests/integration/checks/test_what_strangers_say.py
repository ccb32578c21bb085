"""Whatever bytes come, what reads HTTP, STARTTLS and DNS ends with an answer or with what failed, and nothing else."""

import asyncio
import socket

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from watchbill_agent.checks import httpwire, starttls
from watchbill_agent.checks.check import Failed
from watchbill_agent.checks.connection import Connection
from watchbill_agent.checks.httpwire import Request
from watchbill_agent.checks.kinds.dns import Options, _question
from watchbill_agent.checks.probing import Phases
from watchbill_agent.checks.talk import Talk

BODY_BYTES_MAX = 1000
ASKED = Request("GET", "http", "a.example", "/", [], b"")
LENIENT = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

head = st.sampled_from(
    [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 301 \r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
field = st.sampled_from(
    [
        b"Content-Length: 5\r\n",
        b"Content-Length: -5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Connection: close\r\n",
        b" folded\r\n",
        b"\r\n",
        b"5\r\nabcde\r\n",
        b"0\r\n\r\n",
        b"fffffffffffffffffff\r\n",
    ]
)
http_1 = st.lists(head | field | st.binary(max_size=30), max_size=8).map(b"".join)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


http_2 = st.lists(
    st.builds(
        frame,
        st.integers(0, 10),
        st.sampled_from([0, 1, 4, 5, 8, 32, 255]),
        st.sampled_from([0, 1, 2, 3]),
        st.binary(max_size=40) | st.just(b"\x88") | st.just(b"\x88\x5c\x01\x35"),
    ),
    max_size=8,
).map(lambda frames: frame(4, 0, 0, b"") + b"".join(frames))


async def hearing(said: bytes) -> Connection:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    theirs.close()
    return Connection(ours, "somebody", None)


def asked(said: bytes, version: str) -> httpwire.Answer | Failed:
    async def ask() -> httpwire.Answer | Failed:
        connection = await hearing(said)
        speak = httpwire.ask_2 if version == "2" else httpwire.ask_1
        try:
            async with asyncio.timeout(30):
                return await speak(
                    connection, ASKED, BODY_BYTES_MAX, Phases("processing", "transfer"), keep=True
                )
        except Failed as exc:
            return exc
        finally:
            connection.close()

    return asyncio.run(ask())


@LENIENT
@given(http_1)
def test_an_answer_over_http_1_is_one_or_has_failed(said: bytes) -> None:
    answer = asked(said, "1.1")
    assert isinstance(answer, Failed) or (200 <= answer.status < 600 and len(answer.body) <= BODY_BYTES_MAX)


@LENIENT
@given(http_2)
def test_an_answer_over_http_2_is_one_or_has_failed(said: bytes) -> None:
    answer = asked(said, "2")
    assert isinstance(answer, Failed) or len(answer.body) <= BODY_BYTES_MAX


words = st.binary(max_size=200) | st.text("25 -+OKok*\r\nw1S", max_size=60).map(str.encode)


@LENIENT
@given(st.sampled_from(sorted(starttls.WAYS)), words)
def test_words_before_tls_are_understood_or_have_failed(protocol: str, said: bytes) -> None:
    async def begin() -> None:
        connection = await hearing(said)
        try:
            async with asyncio.timeout(30):
                await starttls.begin(Talk(connection), protocol)
        except Failed:
            pass
        finally:
            connection.close()

    asyncio.run(begin())


QUESTION = _question(Options(query_name="www.example"), "tried")


@LENIENT
@given(
    st.binary(max_size=120), st.sampled_from([b"", b"\x84\0\0\1\0\2\0\0\0\0\3www\7example\0\0\1\0\1\xc0\x0c"])
)
def test_a_message_of_dns_is_an_answer_or_none_or_has_failed(said: bytes, before: bytes) -> None:
    assert QUESTION is not None
    wire = b"\x12\x34" + QUESTION.wire
    try:
        answer = QUESTION.answer(wire[:2] + before + said, wire, "somebody", passing=True)
    except Failed:
        return
    if answer is not None:
        QUESTION.records(answer)
