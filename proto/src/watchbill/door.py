"""Asking the collector through a broker, as a host that is no agent yet: sealed boxes in both directions.

A token for MQTT carries, in place of the enrolment port's address, where to ask and the collector's box key:

    mqtts://host:port/<prefix>/<site>#<X25519 key, base64url>

The question is sealed to that key, because the broker must not read the token's secret: whoever has that first is
the host. The answer is sealed to a key that the host made for this one question. Both name the question and the
direction, so neither can be sent back, or passed off as the answer to another. What the answer says is judged by the
token's second pin, the hash of the authority, like an answer over gRPC.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from typing import Final

import nacl.exceptions
import nacl.public
import nacl.utils

from watchbill.errors import Unreadable
from watchbill.identity import SITE_PATTERN
from watchbill.topics import MqttUrl, Topics, parse_mqtt_url

BOX_KEY_BYTES: Final = 32
ASK_BYTES_MAX: Final = 32 * 1024
"""Of a sealed question or answer."""
_DOMAIN: Final = b"watchbill/ask/v1\0"
_ASK: Final = b"ask\0"
_ANSWER: Final = b"answer\0"


@dataclass(frozen=True, slots=True)
class MqttDoor:
    """Where to ask, and to whom."""

    url: MqttUrl
    site: str
    key: bytes

    @property
    def topics(self) -> Topics:
        """The site's topics."""
        return Topics(self.site, self.url.prefix)

    def encode(self) -> str:
        """As a token carries it."""
        key = base64.urlsafe_b64encode(self.key).decode().rstrip("=")
        return f"mqtts://{self.url.endpoint}/{self.url.prefix}/{self.site}#{key}"


def parse_door(text: str) -> MqttDoor:
    """Read one back. Raises Unreadable."""
    where, _, packed = text.partition("#")
    url, _, site = where.rpartition("/")
    found = parse_mqtt_url(url)
    try:
        key = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if found is None or not SITE_PATTERN.fullmatch(site) or len(key) != BOX_KEY_BYTES:
        raise Unreadable("the enrolment token names no broker that could be asked")
    return MqttDoor(found, site, key)


class Question:
    """The host's side of one question."""

    def __init__(self, door: MqttDoor) -> None:
        self._own = nacl.public.PrivateKey.generate()
        self._box = nacl.public.Box(self._own, nacl.public.PublicKey(door.key))
        self.request = nacl.utils.random(16).hex()
        """What it is called on topics."""

    def seal(self, message: bytes) -> bytes:
        """The question as it travels."""
        plain = _ASK + self.request.encode() + message
        return _DOMAIN + bytes(self._own.public_key) + self._box.encrypt(plain)

    def open(self, data: bytes) -> bytes:
        """The answer. Raises Unreadable for what is none to this question."""
        return _opened(self._box, data, _ANSWER + self.request.encode())


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was opened."""

    request: str
    message: bytes
    _box: nacl.public.Box = field(repr=False)

    def answer(self, message: bytes) -> bytes:
        """The answer as it travels."""
        return bytes(self._box.encrypt(_ANSWER + self.request.encode() + message))


class Doorkeeper:
    """The collector's side. Its key is made from the seed of the envelope key, and is used for nothing else."""

    def __init__(self, seed: bytes) -> None:
        self._key = nacl.public.PrivateKey(hashlib.sha256(b"watchbill/enrol-box/v1\0" + seed).digest())
        self.public_key = bytes(self._key.public_key)

    def open(self, request: str, data: bytes) -> Asked:
        """Open a question. Raises Unreadable."""
        begins = len(_DOMAIN) + BOX_KEY_BYTES
        if not data.startswith(_DOMAIN) or not begins < len(data) <= ASK_BYTES_MAX:
            raise Unreadable("no sealed question")
        try:
            box = nacl.public.Box(self._key, nacl.public.PublicKey(data[len(_DOMAIN) : begins]))
        except (nacl.exceptions.CryptoError, ValueError, TypeError) as exc:
            raise Unreadable("no sealed question: its key is none") from exc
        return Asked(request, _opened(box, data[begins:], _ASK + request.encode()), box)


def _opened(box: nacl.public.Box, data: bytes, expected: bytes) -> bytes:
    try:
        plain = box.decrypt(data) if len(data) <= ASK_BYTES_MAX else b""
    except (nacl.exceptions.CryptoError, ValueError, TypeError) as exc:
        raise Unreadable("sealed with another key, or changed on the way") from exc
    if not plain.startswith(expected):
        raise Unreadable("sealed for another question")
    return plain[len(expected) :]
