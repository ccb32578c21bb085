"""Pings of real kernels: in a network of a thread's own where we are root, otherwise where the host permits them."""

import asyncio
import ctypes
import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from watchbill_agent.checks.check import Outcome, Verdict

from .asked import ask, descriptors, series

CLONE_NEWNET = 0x4000_0000
REASON = "needs root, for a network namespace in which anybody may ping"
SETTINGS = Path("/proc/sys/net/ipv4")


class Network:
    """A network that only one thread is in; what is asked of it runs there."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self.call(_enter)

    def call(self, asked: Callable[[], Any]) -> Any:
        """In that network."""
        return self._thread.submit(asked).result()

    def run(self, looking: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """With a loop of its own."""
        return self.call(lambda: asyncio.run(looking()))

    def set(self, name: str, value: str) -> None:
        """A setting of this network alone."""
        self.call(lambda: (SETTINGS / name).write_text(value))

    def close(self) -> None:
        """The network goes with its thread."""
        self._thread.shutdown()


def _enter() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    try:
        made = Network()
        made.set("ping_group_range", "0 2147483647")
    except OSError as exc:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{REASON}: {exc}", pytrace=False)
        pytest.skip(f"{REASON}: {exc}")
    yield made
    made.close()


@pytest.mark.parametrize(("target", "protocol"), [("127.0.0.1", 4), ("::1", 6), ("localhost", 4)])
def test_this_host_answers_its_pings(network: Network, target: str, protocol: int) -> None:
    before = descriptors()
    values = {"target": target, "every": "10ms", "payload_size": 1000, "dont_fragment": True}
    outcome = network.run(
        lambda: ask("icmp", **values, preferred_ip_protocol="ip4" if protocol == 4 else "ip6")
    )
    assert outcome.verdict is Verdict.OK, outcome.detail
    found = series(outcome)
    assert (found["watchbill_check_icmp_sent"], found["watchbill_check_icmp_received"]) == (3, 3)
    assert found["probe_ip_protocol"] == protocol
    assert 0 < found["probe_icmp_duration_seconds:rtt"] < 5
    assert found["probe_icmp_reply_hop_limit"] == 64
    assert descriptors() == before


def test_many_pings_of_one_process_are_not_mixed_up(network: Network) -> None:
    async def many() -> list[Outcome]:
        targets = ("127.0.0.1", "127.0.0.2", "::1")
        looks = (ask("icmp", target=target, count=5, every="10ms") for target in targets for _ in range(20))
        return await asyncio.gather(*looks)

    outcomes = network.run(many)
    assert len(outcomes) == 60
    assert {(one.verdict, series(one)["watchbill_check_icmp_received"]) for one in outcomes} == {
        (Verdict.OK, 5)
    }


def test_a_host_that_does_not_answer_has_failed(network: Network) -> None:
    network.set("icmp_echo_ignore_all", "1")
    try:
        outcome = network.run(lambda: ask("icmp", 0.3, target="127.0.0.1", every="10ms"))
    finally:
        network.set("icmp_echo_ignore_all", "0")
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "no-answer")
    assert series(outcome)["watchbill_check_icmp_loss_ratio"] == 1


@pytest.mark.parametrize(
    ("limits", "verdict"), [({}, Verdict.WARNING), ({"loss_fail": 20.0}, Verdict.CRITICAL)]
)
def test_some_loss_is_judged_by_its_limits(
    network: Network, limits: dict[str, float], verdict: Verdict
) -> None:
    async def losing() -> Outcome:
        looking = asyncio.create_task(ask("icmp", 1.0, target="127.0.0.1", count=4, every="100ms", **limits))
        await asyncio.sleep(0.05)
        (SETTINGS / "icmp_echo_ignore_all").write_text("1")
        return await looking

    try:
        outcome = network.run(losing)
    finally:
        network.set("icmp_echo_ignore_all", "0")
    assert (outcome.verdict, outcome.reason) == (verdict, "loss"), outcome.detail
    assert series(outcome)["watchbill_check_icmp_received"] == 1


def test_no_way_there_is_said_at_once(network: Network) -> None:
    outcome = network.run(lambda: ask("icmp", target="192.0.2.1", every="10ms"))
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "unreachable")


def test_where_nobody_may_ping_it_says_what_to_set(network: Network) -> None:
    network.set("ping_group_range", "1 0")
    try:
        outcome = network.run(lambda: ask("icmp", target="127.0.0.1"))
    finally:
        network.set("ping_group_range", "0 2147483647")
    assert (outcome.verdict, outcome.reason) == (Verdict.UNKNOWN, "not-permitted")
    assert "net.ipv4.ping_group_range" in outcome.detail
    assert "watchbill_check_icmp_loss_ratio" not in series(outcome)
