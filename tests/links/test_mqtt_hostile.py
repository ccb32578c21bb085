"""Somebody at the broker who may publish what he wants, and a broker that repeats, delays, loses and mixes up.

Everything of it is refused, counted under the right name, and costs nobody else anything.
"""

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from watchbill.codec import encode_beat, encode_bye, encode_hello
from watchbill.envelope import Envelope, Kind, Reason, Sealer, collector_uri
from watchbill.identity import AgentUri
from watchbill.limits import REQUEST_WITHIN_S
from watchbill.mqtt import BrokerDown, Connection
from watchbill.protocol.frames import (
    VERIFY,
    End,
    EndReason,
    Hello,
    Stream,
    StreamState,
    VerifyBackup,
    Welcome,
)
from watchbill.topics import Lane
from watchbill_agent.transports import LinkDown, LinkRefused
from watchbill_collector.ingest.mqtt_link import EARLY_MESSAGES_MAX, REFUSED_BURST
from watchbill_collector.ingest.mqtt_server import MqttPort
from watchbill_collector.ingest.ports import Reach

from .conftest import SITE, Keys, Mosquitto, MqttBench, RawAgent, schema_of, tls_lines, until

pytestmark = [pytest.mark.asyncio, pytest.mark.real("mosquitto")]


def sealer_of(agent_id: str) -> Sealer:
    import uuid

    return Sealer(uuid.UUID(agent_id).bytes * 2)


def envelope(agent_id: str, **changes: Any) -> Envelope:
    known: dict[str, Any] = {
        "kind": Kind.FRAME,
        "sender": str(AgentUri(SITE, agent_id)),
        "audience": collector_uri(SITE),
        "link": 1,
        "session": 2,
        "counter": 3,
        "created_ms": 0,
        "payload": encode_beat(1, 2),
    }
    return Envelope(**(known | changes))


def heard_of(connection: Connection) -> list[tuple[str, bytes]]:
    return connection.heard  # type: ignore[attr-defined, no-any-return]


async def still_works(bench: MqttBench, agent: RawAgent, seq: int = 1) -> None:
    """The host goes on as if nothing had been."""
    schema = schema_of("m")
    await agent.dictionary(schema)
    await agent.link.send(agent.batch(seq, schema, 5.0))
    await agent.acked(seq)
    assert bench.samples("m")[-1] == 5.0


def counted(bench: MqttBench, name: str) -> dict[str, int]:
    return {reason: n for (who, reason), n in bench.ingest.counters.refusals.items() if who == name}


async def test_garbage_on_an_agents_topics_changes_nothing_but_a_counter(mqtt: MqttBench) -> None:
    agent, stranger = await mqtt.linked(), await mqtt.stranger()
    for lane in (Lane.HELLO, Lane.UP, Lane.BEAT):
        for garbage in (b"", b"x", os.urandom(500), bytes(100_000)):
            stranger.publish(mqtt.topics.of(agent.agent_id, lane), garbage)
    stranger.publish(mqtt.topics.of(agent.agent_id, Lane.DOWN), b"garbage for the agent")
    await until(lambda: sum(counted(mqtt, "web01").values()) == 12)
    assert counted(mqtt, "web01") == {Reason.SIZE: 6, Reason.SIGNATURE: 6}
    await still_works(mqtt, agent)
    assert agent.link._count.refused == {Reason.SIZE: 1}  # type: ignore[attr-defined]


async def test_what_mosquitto_pub_sends_is_counted_under_the_hosts_name(mqtt: MqttBench, keys: Keys) -> None:
    agent = await mqtt.linked()
    await asyncio.to_thread(
        subprocess.run,
        [
            *("mosquitto_pub", "-V", "5", "-p", str(mqtt.mosquitto.port), "-h", "127.0.0.1"),
            *("--cafile", str(keys.directory / "ca.pem")),
            *("-t", mqtt.topics.of(agent.agent_id, Lane.UP), "-m", "no envelope"),
        ],
        check=True,
        timeout=20,
    )
    await until(lambda: counted(mqtt, "web01") == {Reason.SIZE: 1})
    await still_works(mqtt, agent)


async def test_other_topics_and_unknown_hosts_are_counted(mqtt: MqttBench) -> None:
    stranger, root = await mqtt.stranger(), mqtt.topics.root
    unknown = "6f1b2a34-0000-4000-8000-00000000dead"
    for level in ("$SYS", "..", "x", unknown.upper(), unknown):
        stranger.publish(f"{root}/{level}/up", b"x")
    await until(lambda: mqtt.refusals("mqtt_topic") == 4)
    await until(lambda: mqtt.ingest.counters.refusals.get((unknown, "unknown_agent")) == 1)
    # Brokers keep wildcards out of the topics that are published to.
    with pytest.raises(ValueError, match="wildcards"):
        stranger.publish(f"{root}/+/up", b"x")


async def test_retained_messages_are_not_taken_by_either_end(mqtt: MqttBench) -> None:
    agent_id = mqtt.enrol("web01")
    topics = [mqtt.topics.of(agent_id, lane) for lane in (Lane.UP, Lane.DOWN)]
    genuine = sealer_of(agent_id).seal(envelope(agent_id))
    stranger = await mqtt.stranger()
    for topic in topics:
        stranger._client._client.publish(topic, genuine, 1, retain=True)
    try:
        await until(lambda: mqtt.ingest.counters.refusals)
        # What is retained is not sent to those who subscribe as we do; a live message has no such mark.
        agent = await mqtt.opened(agent_id)
        assert isinstance(await agent.hello(), Welcome)
        mqtt.port._receive(topics[0], genuine, True)
        agent.link._receive(topics[1], genuine, True)  # type: ignore[attr-defined]
        assert counted(mqtt, "web01")["mqtt_retained"] == 1
        assert agent.link._count.refused["mqtt_retained"] == 1  # type: ignore[attr-defined]
        await still_works(mqtt, agent)
    finally:
        for topic in topics:
            stranger._client._client.publish(topic, b"", 1, retain=True)


async def test_envelopes_of_others_and_for_others_are_refused(mqtt: MqttBench) -> None:
    agent, other = await mqtt.linked("web01"), await mqtt.linked("web02")
    stranger = await mqtt.stranger()
    up = mqtt.topics.of(agent.agent_id, Lane.BEAT)
    own = sealer_of(agent.agent_id)
    for sealed in (
        sealer_of(other.agent_id).seal(envelope(other.agent_id)),  # Another host's, moved to this topic.
        own.seal(envelope(other.agent_id)),
        own.seal(envelope(agent.agent_id, audience=collector_uri("other"))),
        own.seal(envelope(agent.agent_id)),  # A session that does not exist.
        own.seal(envelope(agent.agent_id, kind=Kind.KNOCK)),
    ):
        stranger.publish(up, sealed)
    await until(lambda: sum(counted(mqtt, "web01").values()) == 5)
    assert counted(mqtt, "web01") == {
        Reason.SIGNATURE: 1,
        Reason.SENDER: 1,
        Reason.AUDIENCE: 1,
        Reason.SESSION: 1,
        Reason.KIND: 1,
    }
    await still_works(mqtt, agent)
    await still_works(mqtt, other)


async def test_everything_recorded_and_played_again_is_refused(mqtt: MqttBench) -> None:
    stranger = await mqtt.stranger("recorder")
    await stranger.subscribe([f"{mqtt.topics.root}/#"])
    agent = await mqtt.linked()
    await still_works(mqtt, agent)
    await agent.link.send(encode_beat(1, 2))
    await until(lambda: any(topic.endswith("/beat") for topic, _ in heard_of(stranger)))
    recorded = [one for one in heard_of(stranger) if not one[0].endswith("/down")]
    down = [one for one in heard_of(stranger) if one[0].endswith("/down")]
    before = mqtt.ingest.counters.records, mqtt.ingest.counters.beats
    for topic, payload in recorded + down:
        stranger.publish(topic, payload)
    # A knock that was recorded is answered once more; what follows it is not.
    await until(lambda: counted(mqtt, "web01").get(Reason.REPLAYED, 0) == len(recorded) - 1)
    await agent.link.send(encode_beat(3, 4))
    await until(lambda: mqtt.ingest.counters.beats == before[1] + 1)
    assert mqtt.ingest.counters.records == before[0]
    assert mqtt.ingest.sessions == 1
    refused = agent.link._count.refused  # type: ignore[attr-defined]
    # The challenge that came again, and the answer to the recorded knock.
    await until(lambda: refused == {Reason.REPLAYED: len(down) - 1, Reason.SESSION: 2})
    # Yesterday's session: the same envelopes once the link is closed.
    await agent.link.close()
    await until(lambda: mqtt.ingest.sessions == 0)
    for topic, payload in recorded:
        stranger.publish(topic, payload)
    await until(lambda: counted(mqtt, "web01").get(Reason.SESSION, 0) >= 3)
    await asyncio.sleep(0.1)
    assert mqtt.ingest.sessions == 0
    assert mqtt.ingest.counters.records == before[0]


async def test_a_hello_with_a_session_of_its_own_making_opens_nothing(mqtt: MqttBench) -> None:
    agent_id, stranger = mqtt.enrol("web01"), await mqtt.stranger()
    state = (StreamState(Stream.CRIT), StreamState(Stream.BULK))
    hello = encode_hello(Hello("0.1.0", b"s" * 16, b"r" * 16, "boot", state, 1, 1))
    for session in (0, 1, 2**64 - 1):
        sealed = sealer_of(agent_id).seal(envelope(agent_id, session=session, payload=hello))
        stranger.publish(mqtt.topics.of(agent_id, Lane.HELLO), sealed)
    await until(lambda: counted(mqtt, agent_id) == {Reason.SESSION: 3})
    assert mqtt.ingest.sessions == 0


async def test_a_flood_of_forgeries_is_not_even_verified_and_hurts_nobody_else(mqtt: MqttBench) -> None:
    flooded, other, stranger = await mqtt.linked("web01"), await mqtt.linked("web02"), await mqtt.stranger()
    topic = mqtt.topics.of(flooded.agent_id, Lane.UP)
    for _ in range(int(REFUSED_BURST) + 200):
        await stranger.room()
        stranger.publish(topic, bytes(2_000))
    await until(lambda: counted(mqtt, "web01").get("envelope_flood", 0) > 50)
    await still_works(mqtt, other)
    assert set(counted(mqtt, "web02")) == set()


# ---------------------------------------------------------------- a broker that loses and mixes up


class Mangler:
    """Between the broker and the port: what arrives passes `order` first, a list of (topic, payload)."""

    def __init__(self, port: MqttPort) -> None:
        self.port = port
        self.held: list[tuple[str, bytes]] | None = None
        self._receive = port._receive
        port._receive = self.receive  # type: ignore[method-assign]

    def receive(self, topic: str, payload: bytes, retained: bool) -> None:
        if self.held is not None and topic.endswith("/up"):
            self.held.append((topic, payload))
        else:
            self._receive(topic, payload, retained)

    def hold(self) -> None:
        self.held = []

    def release(self, order: list[int]) -> None:
        held, self.held = self.held or [], None
        for at in order:
            self._receive(*held[at], False)


@pytest.fixture
def mangler(mqtt: MqttBench) -> Mangler:
    mangler = Mangler(mqtt.port)
    if mqtt.port._connection is not None:
        mqtt.port._connection._received = mangler.receive
    return mangler


async def held_batches(mqtt: MqttBench, mangler: Mangler, count: int) -> RawAgent:
    agent, schema = await mqtt.linked(), schema_of("m")
    await agent.dictionary(schema)
    await until(lambda: mqtt.ingest.counters.dictionaries)
    mangler.hold()
    for seq in range(1, count + 1):
        await agent.link.send(agent.batch(seq, schema, float(seq)))
    await until(lambda: mangler.held is not None and len(mangler.held) == count)
    return agent


async def test_messages_out_of_order_and_twice_are_put_right(mqtt: MqttBench, mangler: Mangler) -> None:
    agent = await held_batches(mqtt, mangler, 6)
    mangler.release([1, 3, 2, 2, 0, 5, 0, 4, 4])
    await agent.acked(6)
    assert mqtt.samples("m") == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert mqtt.ingest.counters.holes == mqtt.ingest.counters.duplicates == 0
    assert counted(mqtt, "web01") == {Reason.REPLAYED: 3}


async def test_a_message_that_was_lost_ends_the_link_so_that_it_is_sent_again(
    mqtt: MqttBench, mangler: Mangler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchbill_collector.ingest.mqtt_link.EARLY_WAIT_S", 0.1)
    agent = await held_batches(mqtt, mangler, 3)
    mangler.release([0, 2])
    end = await agent.hear_kind(End)
    assert end.reason is EndReason.SHUTDOWN
    assert "lost" in end.detail
    assert mqtt.samples("m") == [1.0]
    assert mqtt.port.facts.lost == 1


async def test_only_so_many_messages_wait_for_an_earlier_one(mqtt: MqttBench, mangler: Mangler) -> None:
    count = EARLY_MESSAGES_MAX + 2
    agent = await held_batches(mqtt, mangler, count)
    mangler.release(list(range(1, count)))
    assert (await agent.hear_kind(End)).reason is EndReason.SHUTDOWN
    assert not mqtt.samples("m")


# ---------------------------------------------------------------- a broker that says no, or goes away


@pytest.fixture
def strict(keys: Keys, tmp_path: Path) -> Any:
    """A broker with passwords and access rules; the agent `denied` may not publish."""
    (tmp_path / "passwords").touch()
    for user in ("collector", "agent", "mute", "deaf"):
        subprocess.run(["mosquitto_passwd", "-b", str(tmp_path / "passwords"), user, "secret"], check=True)
    (tmp_path / "acl").write_text(
        "user collector\ntopic readwrite #\nuser agent\ntopic readwrite #\n"
        "user mute\ntopic read #\nuser deaf\ntopic write #\n"
    )
    (tmp_path / "passwords").chmod(0o644)
    tmp_path.chmod(0o755)
    broker = Mosquitto(
        tmp_path,
        *tls_lines(keys),
        "allow_anonymous false",
        f"password_file {tmp_path}/passwords",
        f"acl_file {tmp_path}/acl",
    )
    yield broker
    broker.kill()


async def test_a_broker_that_says_no_is_heard(strict: Mosquitto, keys: Keys) -> None:
    from dataclasses import replace

    class Strict(MqttBench):
        def broker(self) -> Any:
            return replace(super().broker(), user="collector", password="secret")

    bench = Strict(keys, strict)
    await bench.start()
    try:
        for user, password, reason, words in (
            ("agent", "wrong", "broker-denied", "refused the connection: not authorized"),
            ("mute", "secret", "broker-denied", "refused a message to .*/hello: not authorized"),
        ):
            with pytest.raises(LinkRefused, match=words) as refused:
                await bench.transport(bench.enrol(user), user=user, password=password).open()
            assert refused.value.reason == reason
        link = await bench.transport(bench.enrol("ok"), user="agent", password="secret").open()
        await link.close()
        # mosquitto takes a subscription that it will never serve: silence is the only sign.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("watchbill_agent.transports.over_mqtt.CHALLENGE_TIMEOUT_S", 0.5)
            with pytest.raises(LinkDown, match="no collector of site main answers") as down:
                await bench.transport(bench.enrol("deaf"), user="deaf", password="secret").open()
            assert down.value.reason == "no-collector"
    finally:
        await bench.stop()


async def test_without_a_collector_the_broker_says_that_nobody_listens(mqtt: MqttBench) -> None:
    agent = await mqtt.linked()
    await mqtt.port.stop()
    mqtt.running.cancel()
    await asyncio.wait({mqtt.running})
    await agent.link.send(encode_beat(1, 2))
    with pytest.raises(LinkDown, match="nobody listens") as down:
        await agent.hear()
    assert down.value.reason == "no-collector"
    with pytest.raises(LinkDown, match="nobody listens"):
        await mqtt.transport(agent.agent_id).open()


async def test_a_collector_that_came_back_tells_its_agents_to_begin_anew(mqtt: MqttBench) -> None:
    agent = await mqtt.linked()
    assert mqtt.port._connection is not None
    mqtt.port._connection._lose(BrokerDown("test", "cut"))
    await until(lambda: mqtt.port.facts.connections == 2 and mqtt.port.facts.connected)
    await agent.link.send(encode_beat(1, 2))
    with pytest.raises(LinkDown, match="does not know this link any more"):
        await agent.hear()
    again = await mqtt.opened(agent.agent_id)
    assert isinstance(await again.hello(run_id=agent.run_id, spool_id=agent.spool_id), Welcome)


async def test_a_killed_broker_is_survived_by_both_ends(mqtt: MqttBench, keys: Keys, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # noqa: ASYNC240
    broker = Mosquitto(tmp_path, *tls_lines(keys), "allow_anonymous true")
    bench = MqttBench(keys, broker)
    await bench.start()
    try:
        agent = await bench.linked()
        broker.kill()
        with pytest.raises(LinkDown):
            await agent.hear()
        await until(lambda: not bench.port.facts.connected and bench.ingest.sessions == 0)
        with pytest.raises(LinkDown) as down:
            await bench.transport(agent.agent_id).open()
        # The proxy takes the connection and hangs up; whether the handshake had begun is chance.
        assert down.value.reason in ("unreachable", "tls")
        broker.start()
        await until(lambda: bench.port.facts.connected)
        again = await bench.opened(agent.agent_id)
        assert isinstance(await again.hello(run_id=agent.run_id, spool_id=agent.spool_id), Welcome)
    finally:
        await bench.stop()
        broker.kill()


async def test_a_broker_that_stands_still_does_not_hold_up_closing(
    mqtt: MqttBench, keys: Keys, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)  # noqa: ASYNC240
    broker = Mosquitto(tmp_path, *tls_lines(keys), "allow_anonymous true")
    bench = MqttBench(keys, broker)
    await bench.start()
    try:
        agent = await bench.linked()
        broker.signal(signal.SIGSTOP)
        await agent.link.send(encode_beat(1, 2))
        async with asyncio.timeout(10):
            await agent.link.close()
    finally:
        broker.signal(signal.SIGCONT)
        await bench.stop()
        broker.kill()


async def test_a_broker_that_is_not_trusted_gets_nothing(mqtt: MqttBench, keys: Keys, tmp_path: Path) -> None:
    other = Keys(tmp_path)
    with pytest.raises(LinkRefused, match="not trusted") as refused:
        await mqtt.transport(mqtt.enrol("web01"), ca_pem=other.authority.pem).open()
    assert refused.value.reason == "wrong-ca"
    with pytest.raises(LinkRefused, match="not trusted"):
        await mqtt.transport(mqtt.enrol("web02"), ca_pem=b"").open()


async def test_two_sites_share_a_broker(mqtt: MqttBench, keys: Keys, mosquitto: Mosquitto) -> None:
    second = MqttBench(keys, mosquitto, prefix="plant-7/wb")
    await second.start()
    try:
        here, there = await mqtt.linked("web01"), await second.linked("web01")
        await still_works(mqtt, here)
        await still_works(second, there)
        assert not mqtt.ingest.counters.refusals
        assert not second.ingest.counters.refusals
    finally:
        await second.stop()


async def test_somebody_with_the_collectors_client_name_throws_it_out_visibly(
    mqtt: MqttBench, caplog: pytest.LogCaptureFixture
) -> None:
    # mosquitto 2.0.11 closes without the reason that MQTT 5 has for it, so there is no better word.
    stranger = await mqtt.stranger(mqtt.port.client_id)
    await until(lambda: mqtt.port.facts.connections == 2)
    assert "no connection to the broker" in caplog.text
    await until(lambda: stranger.lost.done())


async def test_a_sender_that_is_too_fast_is_slowed_and_then_sent_away(mqtt: MqttBench) -> None:
    fast, other = await mqtt.linked("fast"), await mqtt.linked("other")
    fast_agent = mqtt.ingest.agent(fast.agent_id)
    fast_agent.bytes.take(64 << 20, mqtt.clock.monotonic_s())
    beat = encode_beat(1, 2) + b"\xc2\x3e\xff\xff\x0f" + bytes(0x3FFFF)
    with contextlib.suppress(LinkDown):
        for _ in range(12):
            await fast.link.send(beat)
    end = await fast.hear_kind(End)
    assert end.reason is EndReason.BUSY
    assert end.retry_after_ms >= 1_000
    await still_works(mqtt, other)


async def test_nothing_of_grpc_comes_with_mqtt_and_nothing_of_mqtt_with_grpc() -> None:
    code = "import sys; import watchbill_agent.transports.{}; print(any(m.split('.')[0] in {!r} for m in sys.modules))"
    for module, others in (
        ("over_mqtt", ("grpc", "cryptography", "numpy")),
        ("over_grpc", ("aiomqtt", "paho", "nacl", "cryptography")),
    ):
        argv = [sys.executable, "-c", code.format(module, others)]
        done = await asyncio.to_thread(
            subprocess.run, argv, capture_output=True, text=True, check=True, timeout=30
        )
        assert done.stdout.strip() == "False", module


async def test_a_request_is_dropped_by_the_broker_in_time_never_kept_and_of_no_use_to_others(
    mqtt: MqttBench,
) -> None:
    """At least once, not retained, with an end; sent again by a stranger it is one that came already."""
    agent = await mqtt.opened(mqtt.enrol("web01"))
    await agent.hello(takes=(VERIFY,))
    topic = mqtt.topics.of(agent.agent_id, Lane.DOWN)
    other = mqtt.enrol("web02")
    async with aiomqtt.Client(
        "127.0.0.1",
        mqtt.mosquitto.port,
        protocol=aiomqtt.ProtocolVersion.V5,
        tls_context=ssl.create_default_context(cadata=mqtt.keys.authority.pem.decode()),
    ) as listener:
        await listener.subscribe(topic, qos=1)
        request = VerifyBackup(b"r" * 16, "nightly")
        assert mqtt.ingest.ask(agent.agent_id, request) is Reach.ASKED
        async with asyncio.timeout(30):
            message = await anext(aiter(listener.messages))
        assert await agent.hear_kind(VerifyBackup) == request
        assert (message.qos, message.retain) == (1, False)
        assert message.properties is not None
        assert 0 < message.properties.MessageExpiryInterval <= REQUEST_WITHIN_S
        for where in (topic, mqtt.topics.of(other, Lane.DOWN)):
            await listener.publish(where, message.payload, 1)
    await agent.link.send(encode_bye("shutdown"))
    assert isinstance(await agent.hear(), End), "it was heard once"
    async with aiomqtt.Client(
        "127.0.0.1",
        mqtt.mosquitto.port,
        protocol=aiomqtt.ProtocolVersion.V5,
        tls_context=ssl.create_default_context(cadata=mqtt.keys.authority.pem.decode()),
    ) as late:
        await late.subscribe(topic, qos=1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await anext(aiter(late.messages))
