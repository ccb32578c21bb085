"""Connections of probes: which address takes it, and what an error of the network means."""

import asyncio
import errno
import os
import socket

import pytest

from watchbill_agent.checks.addresses import Place
from watchbill_agent.checks.check import Failed, Verdict
from watchbill_agent.checks.connection import Connection, failure

FOUR = Place(socket.AF_INET, "127.0.0.1")
SIX = Place(socket.AF_INET6, "::1")


async def test_the_next_address_is_tried_when_one_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        connection = await Connection.open([SIX, FOUR], port, asyncio.get_running_loop().time() + 30)
        assert connection.place == FOUR
        connection.close()
    with pytest.raises(Failed) as caught:
        await Connection.open([SIX, FOUR], port, asyncio.get_running_loop().time() + 30)
    assert (caught.value.reason, caught.value.detail) == ("refused", f"127.0.0.1:{port}: connection refused")


async def test_an_address_that_does_not_answer_has_its_share_of_the_time_and_no_more() -> None:
    with socket.socket() as deaf, socket.create_server(("127.0.0.1", 0)) as listening:
        deaf.bind(("127.0.0.2", listening.getsockname()[1]))
        deaf.listen(0)
        queue = [
            _knocking(deaf.getsockname()) for _ in range(4)
        ]  # Nobody takes them, and then no more are let in.
        place, until_s = Place(socket.AF_INET, "127.0.0.2"), asyncio.get_running_loop().time() + 0.4
        connection = await Connection.open([place, FOUR], listening.getsockname()[1], until_s)
        assert connection.place == FOUR
        connection.close()
        for one in queue:
            one.close()


def _knocking(address: tuple[str, int]) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    made.connect_ex(address)
    return made


@pytest.mark.parametrize(
    ("number", "reason", "verdict"),
    [
        (errno.ECONNREFUSED, "refused", Verdict.CRITICAL),
        (errno.ECONNRESET, "reset", Verdict.CRITICAL),
        (errno.EHOSTUNREACH, "unreachable", Verdict.CRITICAL),
        (errno.ETIMEDOUT, "timeout", Verdict.CRITICAL),
        (errno.EIO, "failed", Verdict.CRITICAL),
        (errno.EMFILE, "no-descriptors", Verdict.UNKNOWN),
        (errno.EPERM, "not-permitted", Verdict.UNKNOWN),
    ],
)
def test_what_is_ours_is_unknown_and_what_is_theirs_has_failed(
    number: int, reason: str, verdict: Verdict
) -> None:
    failed = failure(OSError(number, os.strerror(number)), "db1:22")
    assert (failed.reason, failed.verdict) == (reason, verdict)
    assert failed.detail == f"db1:22: {os.strerror(number).lower()}"
