"""What the collector may ask of a host: its form has bounds, and an agent of before this was added takes no notice."""

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from watchbill.codec import decode_down, decode_hello, encode_down, encode_hello
from watchbill.errors import Unreadable
from watchbill.limits import ORDER_BYTES_MAX, TAKES_CHARACTERS_MAX, TAKES_MAX
from watchbill.protocol.client import Asked, Client
from watchbill.protocol.frames import (
    VERIFY,
    Hello,
    Request,
    RunnerOrder,
    Settings,
    Stream,
    StreamState,
    VerifyBackup,
    Welcome,
)
from watchbill.v1 import link_pb2 as pb
from watchbill_agent.spool import MemorySpool

REQUEST = VerifyBackup(b"r" * 16, "nightly", "data")
WELCOME = Welcome(7, 0, (), Settings(credit_bytes=1000))


def before_this() -> Any:
    """`Down` and `Hello` as agents knew them before hosts could be asked to verify."""
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    file.message_type.remove(next(one for one in file.message_type if one.name == "VerifyBackup"))
    for message in file.message_type:
        for field in list(message.field):
            if (message.name, field.name) in {("Down", "verify"), ("Hello", "takes")}:
                message.field.remove(field)
    del file.service[:]
    pool = descriptor_pool.DescriptorPool()  # Its own: both can be there side by side.
    pool.Add(file)  # type: ignore[no-untyped-call]
    return lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"watchbill.v1.{name}"))


def hello(**more: Any) -> Hello:
    streams = (StreamState(Stream.CRIT), StreamState(Stream.BULK))
    return Hello("0.1.0", b"s" * 16, b"r" * 16, "boot", streams, 1, 1, **more)


def test_a_request_arrives_as_it_was_made() -> None:
    for request in (
        REQUEST,
        VerifyBackup(b"\0" * 16, "ü" * 64),
        VerifyBackup(b"r" * 16, "x", "of tomorrow"),
        RunnerOrder(b"\xff" * ORDER_BYTES_MAX, 2**32 - 1),
    ):
        assert decode_down(encode_down(request)) == request


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (VerifyBackup(b"", "nightly"), "got 0 bytes, wanted 16"),
        (VerifyBackup(b"r" * 17, "nightly"), "got 17 bytes, wanted 16"),
        (VerifyBackup(b"r" * 16, ""), "a name of 1 to 64 characters"),
        (VerifyBackup(b"r" * 16, "x" * 65), "a name of 1 to 64 characters"),
        (VerifyBackup(b"r" * 16, "a\nb"), "a name of 1 to 64 characters"),
        (VerifyBackup(b"r" * 16, "nightly", "x" * 17), "a word of at most 16 characters"),
        (VerifyBackup(b"r" * 16, "nightly", "\x1b"), "a word of at most 16 characters"),
        (RunnerOrder(b"", 1), "got 0 bytes"),
        (RunnerOrder(b"x" * (ORDER_BYTES_MAX + 1), 1), "wanted 1 to"),
    ],
)
def test_one_that_has_no_form_is_refused_with_what_is_wanted(request_: Request, words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        decode_down(encode_down(request_))


def test_only_an_open_session_carries_a_request() -> None:
    client = Client(MemorySpool())
    assert client.receive(REQUEST, 7) == []
    client.hello()
    assert client.receive(REQUEST, 0) == []
    client.receive(WELCOME, 0)
    assert client.receive(REQUEST, 8) == [], "of another session"
    assert client.receive(REQUEST, 7) == [Asked(REQUEST)]
    client.lost()
    assert client.receive(REQUEST, 7) == []


def test_an_agent_of_before_takes_no_notice_of_a_request() -> None:
    down = before_this()("Down").FromString(encode_down(REQUEST))
    assert down.WhichOneof("message") is None, "what `decode_down` makes nothing of"
    assert before_this()("Down").FromString(encode_down(WELCOME)).WhichOneof("message") == "welcome"
    # And so with what is newer than this agent.
    unknown = b"\xc2\x3e\x03new"
    assert decode_down(unknown) is None


def test_an_agent_of_before_says_hello_and_takes_nothing() -> None:
    said = pb.Up.FromString(encode_hello(hello(takes=(VERIFY,)))).hello
    assert decode_hello(said).takes == (VERIFY,)
    old = before_this()("Hello").FromString(said.SerializeToString())
    old.DiscardUnknownFields()
    assert decode_hello(pb.Hello.FromString(old.SerializeToString())).takes == ()


def test_what_an_agent_says_it_takes_has_a_bound() -> None:
    said = pb.Up.FromString(encode_hello(hello(takes=tuple("x" * 1000 for _ in range(1000))))).hello
    takes = decode_hello(said).takes
    assert (len(takes), {len(one) for one in takes}) == (TAKES_MAX, {TAKES_CHARACTERS_MAX})
