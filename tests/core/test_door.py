"""Questions through a broker that nobody but the collector can read, and answers that nobody else can give."""

import pytest

from watchbill.door import ASK_BYTES_MAX, Doorkeeper, MqttDoor, Question, parse_door
from watchbill.errors import Unreadable
from watchbill.identity import EnrolmentToken, parse_token
from watchbill.topics import MqttUrl

KEEPER = Doorkeeper(b"\7" * 32)
DOOR = MqttDoor(MqttUrl("broker.example", 8884, "plant/wb"), "main", KEEPER.public_key)


def test_a_question_is_read_by_the_collector_alone_and_answered_to_who_asked() -> None:
    question = Question(DOOR)
    sealed = question.seal(b"the token's secret")
    assert b"secret" not in sealed
    asked = KEEPER.open(question.request, sealed)
    assert asked.message == b"the token's secret"
    answer = asked.answer(b"a certificate")
    assert b"certificate" not in answer
    assert question.open(answer) == b"a certificate"
    with pytest.raises(Unreadable):
        Question(DOOR).open(answer)


def test_a_broker_can_neither_send_a_question_back_nor_move_or_change_it() -> None:
    question, other = Question(DOOR), Question(DOOR)
    sealed = question.seal(b"x")
    # The box holds in both directions: only the word inside says which this is.
    with pytest.raises(Unreadable, match="another question"):
        question.open(sealed[len(b"watchbill/ask/v1\0") + 32 :])
    with pytest.raises(Unreadable, match="another question"):
        KEEPER.open(other.request, sealed)
    with pytest.raises(Unreadable):
        Doorkeeper(b"\1" * 32).open(question.request, sealed)
    for at in range(0, len(sealed), 7):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(Unreadable):
            KEEPER.open(question.request, bytes(changed))


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", b"watchbill/ask/v1\0", b"watchbill/ask/v1\0" + bytes(32) * 4, bytes(ASK_BYTES_MAX + 1)],
)
def test_what_is_no_question_is_refused(data: bytes) -> None:
    with pytest.raises(Unreadable):
        KEEPER.open("0" * 32, data)


def test_a_question_larger_than_may_be_is_refused() -> None:
    question = Question(DOOR)
    with pytest.raises(Unreadable):
        KEEPER.open(question.request, question.seal(bytes(ASK_BYTES_MAX)))


def test_a_token_carries_the_door() -> None:
    text = DOOR.encode()
    assert text.startswith("mqtts://broker.example:8884/plant/wb/main#")
    assert parse_door(text) == DOOR
    token = EnrolmentToken("abcdefghijkl", b"s" * 20, b"h" * 32, text)
    assert parse_door(parse_token(token.encode()).endpoint) == DOOR


@pytest.mark.parametrize(
    "text",
    [
        "mqtts://b:1/p/main",
        "mqtts://b:1/p/main#short",
        "mqtts://b:1/p/MAIN#" + "A" * 43,
        "mqtts://b:1/+/main#" + "A" * 43,
        "mqtts://u:p@b:1/p/main#" + "A" * 43,
        "mqtt://b:1/p/main#" + "A" * 43,
        "mqtts://b:0/p/main#" + "A" * 43,
    ],
)
def test_a_door_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Unreadable, match="no broker"):
        parse_door(text)


def test_the_box_key_is_not_the_signing_key() -> None:
    import nacl.signing

    signing = nacl.signing.SigningKey(b"\7" * 32)
    assert KEEPER.public_key not in (
        bytes(signing.verify_key),
        bytes(signing.verify_key.to_curve25519_public_key()),
    )
