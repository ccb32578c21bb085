"""Signed envelopes and topics: what is refused, under which word, and that nothing is parsed before."""

import os
import struct
import zlib

import nacl.bindings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill.envelope import (
    DOMAIN,
    ENVELOPE_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    SIGNATURE_BYTES,
    Counter,
    Envelope,
    EnvelopeRefused,
    Kind,
    Opener,
    Reason,
    Sealer,
    collector_uri,
)
from watchbill.errors import Unreadable
from watchbill.topics import Lane, Topics, lane_of, prefix_wanted

AGENT = "spiffe://watchbill/main/agent/6f1b2a34-0000-4000-8000-000000000001"
OTHER = "spiffe://watchbill/main/agent/6f1b2a34-0000-4000-8000-000000000002"
COLLECTOR = collector_uri("main")
AGENT_ID = AGENT.rpartition("/")[2]
SEALER = Sealer(b"\1" * 32)
OPENER = Opener(SEALER.public_key, sender=AGENT, audience=COLLECTOR)


def frame(payload: bytes = b"payload", **changes: object) -> Envelope:
    known = {
        "kind": Kind.FRAME,
        "sender": AGENT,
        "audience": COLLECTOR,
        "link": 7,
        "session": 8,
        "counter": 9,
    }
    return Envelope(**(known | {"created_ms": 10, "payload": payload} | changes))  # type: ignore[arg-type]


def refused(data: bytes, opener: Opener = OPENER) -> Reason:
    with pytest.raises(EnvelopeRefused) as caught:
        opener.open(data)
    return caught.value.reason


def signed_by_hand(message: bytes, seed: bytes = b"\1" * 32) -> bytes:
    """A signature that holds, over bytes that no sealer would write."""
    return nacl.bindings.crypto_sign(message, nacl.bindings.crypto_sign_seed_keypair(seed)[1])


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("size", [0, 1, 127, 5_000, PAYLOAD_BYTES_MAX])
def test_what_is_sealed_opens_unchanged(size: int, compress: bool) -> None:
    envelope = frame(b"ab" * (size // 2) + b"a" * (size % 2))
    assert OPENER.open(SEALER.seal(envelope, compress=compress)) == envelope


def test_compression_makes_envelopes_smaller_and_never_larger() -> None:
    noise = os.urandom(4_000)
    assert len(SEALER.seal(frame(bytes(4_000)), compress=True)) < 400
    assert len(SEALER.seal(frame(noise), compress=True)) == len(SEALER.seal(frame(noise)))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_changed_bit_anywhere_is_refused(data: st.DataObject) -> None:
    sealed = bytearray(SEALER.seal(frame()))
    at = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[at // 8] ^= 1 << at % 8
    assert refused(bytes(sealed)) is Reason.SIGNATURE


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600))
def test_garbage_is_refused(garbage: bytes) -> None:
    assert refused(garbage) in (Reason.SIZE, Reason.SIGNATURE)


def test_cut_anywhere_it_is_refused() -> None:
    sealed = SEALER.seal(frame())
    for length in range(len(sealed)):
        assert refused(sealed[:length]) in (Reason.SIZE, Reason.SIGNATURE)


def test_longer_than_an_envelope_may_be_it_is_not_even_verified() -> None:
    assert refused(bytes(ENVELOPE_BYTES_MAX + 1)) is Reason.SIZE


def test_another_hosts_key_another_sender_and_another_audience_are_told_apart() -> None:
    assert refused(Sealer(b"\2" * 32).seal(frame())) is Reason.SIGNATURE
    assert refused(SEALER.seal(frame(sender=OTHER))) is Reason.SENDER
    assert refused(SEALER.seal(frame(audience=collector_uri("other")))) is Reason.AUDIENCE
    # What an agent signed for the collector cannot be sent back to it as the collector's word.
    assert refused(SEALER.seal(frame(sender=COLLECTOR, audience=AGENT))) is Reason.SENDER


def test_signed_by_the_right_key_and_no_envelope_it_is_refused() -> None:
    body = SEALER.seal(frame())[SIGNATURE_BYTES:]
    for message in (
        bytes(len(body)),
        b"watchbill/envelope/v2\0" + body[len(DOMAIN) :],
        body + b"more",
        body[:-1],
        body[: len(DOMAIN) + 1] + b"\x80" + body[len(DOMAIN) + 2 :],  # A flag that does not exist.
        body[: len(DOMAIN) + 34] + bytes(8) + body[len(DOMAIN) + 42 :],  # Another key's name.
    ):
        assert refused(signed_by_hand(message)) is Reason.FORM
    assert refused(signed_by_hand(body[: len(DOMAIN)] + b"\xff" + body[len(DOMAIN) + 1 :])) is Reason.KIND


def test_a_length_beyond_the_envelope_is_refused() -> None:
    payload_at = len(SEALER.seal(frame(b""))) - 4
    sealed = SEALER.seal(frame(b"x"))
    for length in (2, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX + 1, 2**32 - 1):
        body = sealed[SIGNATURE_BYTES:payload_at] + struct.pack(">I", length) + b"x"
        assert refused(signed_by_hand(body)) is Reason.FORM


def compressed_by_hand(payload: bytes) -> bytes:
    body = bytearray(SEALER.seal(frame(b""))[SIGNATURE_BYTES:-4])
    body[len(DOMAIN) + 1] = 1
    return signed_by_hand(bytes(body) + struct.pack(">I", len(payload)) + payload)


def test_a_compression_bomb_is_refused_without_being_unpacked() -> None:
    assert refused(compressed_by_hand(zlib.compress(bytes(64 << 20), 9))) is Reason.COMPRESSION
    assert (
        len(OPENER.open(compressed_by_hand(zlib.compress(bytes(PAYLOAD_BYTES_MAX)))).payload)
        == PAYLOAD_BYTES_MAX
    )


@pytest.mark.parametrize(
    "payload", [b"", b"not zlib", zlib.compress(b"x")[:-1], zlib.compress(b"x") + b"more"], ids=range(4)
)
def test_what_is_not_one_whole_compressed_payload_is_refused(payload: bytes) -> None:
    assert refused(compressed_by_hand(payload)) is Reason.COMPRESSION


def test_signatures_by_weak_keys_are_refused() -> None:
    # The neutral element as a key: without a check, one signature would hold for every message.
    neutral = b"\1" + bytes(31)
    opener = Opener(neutral, sender=AGENT, audience=COLLECTOR)
    body = SEALER.seal(frame())[SIGNATURE_BYTES:]
    assert refused(neutral + bytes(32) + body, opener) is Reason.SIGNATURE
    with pytest.raises(ValueError, match="32 bytes"):
        Opener(b"short", sender=AGENT, audience=COLLECTOR)


def test_a_counter_only_goes_on() -> None:
    counter = Counter()
    counter.take(1)
    counter.take(5)
    for passed in (5, 4, 1, 0):
        with pytest.raises(EnvelopeRefused) as caught:
            counter.take(passed)
        assert caught.value.reason is Reason.REPLAYED
    counter.take(6)


# ---------------------------------------------------------------- topics


def test_topics_of_an_agent_are_read_back() -> None:
    topics = Topics("main")
    assert topics.of(AGENT_ID, Lane.UP) == f"watchbill/1/main/{AGENT_ID}/up"
    for lane in (Lane.HELLO, Lane.UP, Lane.BEAT):
        assert topics.read(topics.of(AGENT_ID, lane)) == (AGENT_ID, lane)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        f"watchbill/1/main/{AGENT_ID}",
        f"watchbill/1/main/{AGENT_ID}/down",
        f"watchbill/1/main/{AGENT_ID}/up/",
        f"watchbill/1/main/{AGENT_ID}/up/up",
        f"watchbill/1/main//{AGENT_ID}/up",
        f"watchbill/1/other/{AGENT_ID}/up",
        f"watchbill/1/main/{AGENT_ID.upper()}/up",
        "watchbill/1/main/+/up",
        "watchbill/1/main/#",
        "watchbill/1/main/$SYS/up",
        "$SYS/broker/uptime",
        f"$share/x/watchbill/1/main/{AGENT_ID}/up",
        f"watchbill/1/main/{AGENT_ID}\0/up",
        "x" * 65_535,
    ],
)
def test_anything_else_is_no_agents_topic(topic: str) -> None:
    with pytest.raises(Unreadable):
        Topics("main").read(topic)


def test_an_enrolment_topic_is_no_agents_and_the_other_way_round() -> None:
    topics, request = Topics("main", "plant/wb"), "0f" * 16
    assert topics.read_ask(topics.ask(request)) == request
    for other in (topics.answer(request), topics.of(AGENT_ID, Lane.UP), topics.ask(request) + "/x", ""):
        assert topics.read_ask(other) is None
    with pytest.raises(Unreadable):
        topics.read(topics.ask(request))


@pytest.mark.parametrize("prefix", ["", "/", "a//b", "a/", "/a", "a/+", "#", "$SYS", "a b", "ä", "x" * 129])
def test_prefixes_that_a_broker_would_read_otherwise_are_refused(prefix: str) -> None:
    assert prefix_wanted(prefix) is not None
    assert prefix_wanted("plant-7/wb_1.x") is None


def test_the_lane_is_told_by_the_first_byte() -> None:
    from watchbill.codec import encode_batch, encode_beat, encode_bye
    from watchbill.protocol.frames import Stream
    from watchbill.v1 import link_pb2 as pb

    assert lane_of(encode_beat(1, 2)) is Lane.BEAT
    assert lane_of(pb.Up(hello=pb.Hello(protocol=1)).SerializeToString()) is Lane.HELLO
    for message in (encode_batch(Stream.BULK, [b"x"]), encode_bye("x"), b"", b"\xff"):
        assert lane_of(message) is Lane.UP
