"""The collector's own mosquitto: what it opens, whom it lets do what, and that it lives and ends as it should."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from watchbill.codec import encode_beat
from watchbill.errors import Permanent
from watchbill.mqtt import Broker, Connection
from watchbill.topics import Lane, Topics
from watchbill_agent.transports import LinkRefused
from watchbill_collector.ingest.mosquitto import (
    BrokerPlan,
    EmbeddedBroker,
    agent_rules,
    configuration,
    version,
)

from .conftest import SITE, Keys, MqttBench, free_port, until

pytestmark = [pytest.mark.asyncio, pytest.mark.real("mosquitto")]


class OwnBroker(MqttBench):
    """A site whose broker is the collector's child."""

    def __init__(self, keys: Keys, directory: Path) -> None:
        (directory / "server.pem").write_bytes(keys.server_key + keys.server_chain + keys.authority.pem)
        self.plan = BrokerPlan(
            directory / "broker",
            ("127.0.0.1", free_port()),
            ("127.0.0.1", free_port()),
            Topics(SITE),
            keys.directory / "ca.pem",
            directory / "server.pem",
            100,
        )
        self.child = EmbeddedBroker(self.plan)
        super().__init__(keys, self)  # type: ignore[arg-type] # Has a port, as the mosquitto of other benches.

    def broker(self) -> Broker:
        return self.child.address

    async def start(self) -> None:
        self.keeping = asyncio.create_task(self.child.run())
        await self.child.ready()
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        await self.child.stop()
        async with asyncio.timeout(10):
            await self.keeping


class _Port:
    def __init__(self, port: int) -> None:
        self.port = port


@pytest_asyncio.fixture
async def own(keys: Keys, tmp_path: Path) -> AsyncIterator[OwnBroker]:
    made = OwnBroker(keys, tmp_path)
    made.mosquitto = _Port(made.plan.listen[1])  # type: ignore[assignment]
    await made.start()
    yield made
    await made.stop()


def listening(pid: int) -> set[int]:
    """TCP ports on which a process listens."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        target = str(fd.readlink())
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A" and parts[9] in inodes:
                ports.add(int(parts[1].rpartition(":")[2], 16))
    return ports


async def test_it_opens_its_two_ports_and_no_other(own: OwnBroker) -> None:
    assert own.child.pid is not None
    assert listening(own.child.pid) == {own.plan.listen[1], own.plan.enroll_listen[1]}
    assert own.plan.directory.stat().st_mode & 0o077 == 0, "the socket is the collector's alone"


async def test_an_agent_may_use_its_own_topics_and_no_others(own: OwnBroker) -> None:
    agent, other = await own.linked("web01"), own.enrol("web02")
    connection: Connection = agent.link._connection  # type: ignore[attr-defined]
    await connection.subscribe([own.topics.of(other, Lane.DOWN), "#"])  # Taken, and nothing is delivered.
    heard: list[str] = []
    receive = connection._received
    connection._received = lambda topic, payload, kept: (heard.append(topic), receive(topic, payload, kept))[
        1
    ]
    second = await own.opened(other)
    await second.hello()
    await agent.link.send(encode_beat(1, 2))
    own.ingest.agent(agent.agent_id).session.busy(1.0)  # type: ignore[union-attr]
    await until(lambda: heard)
    assert set(heard) == {own.topics.of(agent.agent_id, Lane.DOWN)}
    connection.publish(own.topics.of(other, Lane.UP), b"x")
    await until(lambda: connection.lost.done())
    assert connection.lost.result().reason == "broker-denied"
    assert not own.ingest.counters.refusals


async def test_who_is_shut_out_may_do_nothing_within_moments(own: OwnBroker) -> None:
    agent, other = await own.linked("web01"), await own.linked("web02")
    own.child.shut_out([agent.agent_id])
    for _ in range(50):
        await asyncio.sleep(0.1)
        try:
            await agent.link.send(encode_beat(1, 2))
        except LinkRefused as exc:
            assert exc.reason == "broker-denied"  # noqa: PT017 - It may come with any of them.
            break
    else:
        pytest.fail("it can still publish")
    with pytest.raises(LinkRefused, match="not authorized"):
        await own.opened(agent.agent_id)
    await other.link.send(encode_beat(1, 2))


async def test_a_certificate_of_another_authority_does_not_get_in(own: OwnBroker, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = Keys(tmp_path / "other")
    agent_id = own.enrol("web01")
    forged = stranger.identity(agent_id, 1)
    from watchbill_agent.transports import LinkDown
    from watchbill_agent.transports.over_mqtt import MqttTransport

    options = own.options(ca_pem=own.keys.authority.pem)
    with pytest.raises(LinkDown, match="does it take this certificate"):
        await MqttTransport(lambda: forged, lambda: options, own.clock).open()


async def test_it_is_started_again_when_it_dies_and_everything_goes_on(own: OwnBroker) -> None:
    agent = await own.linked()
    first = own.child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: own.child.pid not in (None, first) and own.port.facts.connected)
    again = await own.opened(agent.agent_id)
    await again.hello(run_id=agent.run_id, spool_id=agent.spool_id)
    assert own.child.starts == 2


async def test_a_port_that_is_taken_is_said_and_nothing_is_left(keys: Keys, tmp_path: Path) -> None:
    bench = OwnBroker(keys, tmp_path)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", bench.plan.listen[1])
    keeping = asyncio.create_task(bench.child.run())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("watchbill_collector.ingest.mosquitto.READY_S", 1.0)
        with pytest.raises(Permanent, match="Address already in use"):
            await bench.child.ready()
    keeping.cancel()
    await asyncio.wait({keeping})
    assert bench.child.pid is None
    server.close()


async def test_the_configuration_is_made_for_two_and_says_so_for_others(keys: Keys, tmp_path: Path) -> None:
    plan = OwnBroker(keys, tmp_path).plan
    text = configuration(plan, "watchbill")
    listeners = [line for line in text.splitlines() if line.startswith("listener")]
    assert len(listeners) == 3
    assert listeners[-1] == f"listener 0 {plan.directory}/broker.sock"
    assert agent_rules(plan.topics, ["a"]).endswith("user a\ntopic deny #\n")
    for said, fault in (
        ("mosquitto version 1.6.9", "1.6.9, wanted 2"),
        ("mosquitto version 3.0.0", "3.0.0, wanted 2"),
        ("", "version"),
    ):
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\necho '{said}'\nexit 3\n")
        program.chmod(0o755)
        with pytest.raises(Permanent, match=fault):
            version(str(program))
