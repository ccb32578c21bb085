"""Signed envelopes: what a message is wrapped in where a broker carries it.

A broker may drop, delay, repeat and reorder; with envelopes it can neither forge, change nor redirect. Everything
is verified before a byte of the payload is parsed, in this order: size, signature, form, key, sender, audience, kind.
Whether the link and the session are current, and whether the counter goes on, `Counter` and the two ends judge.

On the wire, integers big endian:

    signature   64 bytes    Ed25519 over all that follows, as sent
    domain      22 bytes    "watchbill/envelope/v1\\0"
    kind         1 byte     what the payload is
    flags        1 byte     1: the payload is compressed (zlib)
    link         8 bytes    chosen at random by the agent for every connection it opens
    session      8 bytes    chosen by the collector in its challenge, not to be guessed; 0 before
    counter      8 bytes    grows with every message of a link and lane, in each direction, from 1
    created      8 bytes    UTC ms by the sender's clock: for people, nothing is judged by it
    key          8 bytes    the beginning of SHA-256 of the key that verifies this
    sender      2 + n       who signed: an agent's or the collector's URI
    audience    2 + n       for whom it is
    payload     4 + n

A link begins so: the agent knocks, the collector challenges with a session, the agent's Hello names both. A Hello
that somebody recorded yesterday names a session that nobody has, so it opens nothing; no clock is needed for that.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final

import nacl.bindings
import nacl.exceptions

from watchbill.errors import Refused
from watchbill.identity import TRUST_DOMAIN
from watchbill.limits import MESSAGE_BYTES_MAX

DOMAIN: Final = b"watchbill/envelope/v1\0"
SIGNATURE_BYTES: Final = 64
PUBLIC_KEY_BYTES: Final = 32
SEED_BYTES: Final = 32
NAME_BYTES_MAX: Final = 160
"""Of a sender's or an audience's URI."""
PAYLOAD_BYTES_MAX: Final = MESSAGE_BYTES_MAX
"""Of a payload, compressed and not; a larger one is refused before it is decompressed any further."""
ENVELOPE_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + 1024
COMPRESS_FROM_BYTES: Final = 128
"""Smaller payloads gain nothing."""
COMPRESSION_LEVEL: Final = 6

_COMPRESSED: Final = 1
_HEAD: Final = struct.Struct(f">{len(DOMAIN)}sBBQQQq8s")
_NAME: Final = struct.Struct(">H")
_PAYLOAD: Final = struct.Struct(">I")

assert SIGNATURE_BYTES + _HEAD.size + 2 * (_NAME.size + NAME_BYTES_MAX) + _PAYLOAD.size <= 1024


class Kind(IntEnum):
    """What a payload is; the numbers travel."""

    KNOCK = 1
    """Agent: I have connected. Empty."""
    CHALLENGE = 2
    """Collector: say hello in this session. Empty."""
    FRAME = 3
    """An Up or a Down message."""
    CLOSED = 4
    """Either: this link is over, in order. The payload says why, for people."""
    GONE = 5
    """Collector: there is no such link here (any more). Empty."""
    WILL = 6
    """The broker, in the agent's name: its connection broke. Empty."""
    RENEW = 7
    """Agent: a RenewRequest."""
    RENEWED = 8
    """Collector: a RenewReply, or a refusal."""


class Reason(StrEnum):
    """Why an envelope is refused; counted under these words."""

    SIZE = "envelope_size"
    SIGNATURE = "envelope_signature"
    FORM = "envelope_form"
    SENDER = "envelope_sender"
    AUDIENCE = "envelope_audience"
    KIND = "envelope_kind"
    COMPRESSION = "envelope_compression"
    SESSION = "envelope_session"
    REPLAYED = "envelope_replayed"


class EnvelopeRefused(Refused):
    """An envelope that is not taken. `reason` is for counters, the text for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an envelope says. `payload` is not compressed, here."""

    kind: Kind
    sender: str
    audience: str
    link: int
    session: int
    counter: int
    created_ms: int
    payload: bytes = b""


def collector_uri(site: str) -> str:
    """How the collector of a site is called in envelopes."""
    return f"spiffe://{TRUST_DOMAIN}/{site}/collector"


class Sealer:
    """Signs with one key."""

    def __init__(self, seed: bytes) -> None:
        assert len(seed) == SEED_BYTES
        self.public_key, self._secret_key = nacl.bindings.crypto_sign_seed_keypair(seed)
        self._key_id = key_id(self.public_key)

    def seal(self, envelope: Envelope, *, compress: bool = False) -> bytes:
        """The envelope as it travels. A payload that does not get smaller is left as it is."""
        payload, flags = envelope.payload, 0
        assert len(payload) <= PAYLOAD_BYTES_MAX, "whoever sends knows the limit"
        if compress and len(payload) >= COMPRESS_FROM_BYTES:
            smaller = zlib.compress(payload, COMPRESSION_LEVEL)
            if len(smaller) < len(payload):
                payload, flags = smaller, _COMPRESSED
        head = _HEAD.pack(
            DOMAIN,
            envelope.kind,
            flags,
            envelope.link,
            envelope.session,
            envelope.counter,
            envelope.created_ms,
            self._key_id,
        )
        sender, audience = envelope.sender.encode("ascii"), envelope.audience.encode("ascii")
        assert max(len(sender), len(audience)) <= NAME_BYTES_MAX
        message = b"".join(
            (
                head,
                _NAME.pack(len(sender)),
                sender,
                _NAME.pack(len(audience)),
                audience,
                _PAYLOAD.pack(len(payload)),
                payload,
            )
        )
        return nacl.bindings.crypto_sign(message, self._secret_key)


class Opener:
    """Opens what one sender signed for one audience."""

    def __init__(self, public_key: bytes, *, sender: str, audience: str) -> None:
        """Raises ValueError for what is no key."""
        if len(public_key) != PUBLIC_KEY_BYTES:
            raise ValueError("an Ed25519 key has 32 bytes")
        self._public_key = public_key
        self._key_id = key_id(public_key)
        self._sender = sender.encode("ascii")
        self._audience = audience.encode("ascii")
        self._names = (sender, audience)

    def open(self, data: bytes) -> Envelope:
        """What was signed. Raises EnvelopeRefused; nothing of the payload is looked at before."""
        if not SIGNATURE_BYTES + _HEAD.size <= len(data) <= ENVELOPE_BYTES_MAX:
            raise EnvelopeRefused(Reason.SIZE, f"an envelope of {len(data)} bytes")
        try:
            message = nacl.bindings.crypto_sign_open(data, self._public_key)
        except (nacl.exceptions.CryptoError, ValueError):
            raise EnvelopeRefused(Reason.SIGNATURE, "not signed by the key of this sender") from None
        return self._read(message)

    def _read(self, message: bytes) -> Envelope:
        domain, kind, flags, link, session, counter, created_ms, key = _HEAD.unpack_from(message)
        if domain != DOMAIN or key != self._key_id or flags & ~_COMPRESSED:
            raise EnvelopeRefused(Reason.FORM, "signed, and no envelope of a version that is known here")
        sender, at = _field(message, _HEAD.size, _NAME, NAME_BYTES_MAX)
        audience, at = _field(message, at, _NAME, NAME_BYTES_MAX)
        payload, at = _field(message, at, _PAYLOAD, PAYLOAD_BYTES_MAX)
        if at != len(message):
            raise EnvelopeRefused(Reason.FORM, f"{len(message) - at} bytes after the payload")
        if sender != self._sender:
            raise EnvelopeRefused(Reason.SENDER, f"sent in the name of {sender[:NAME_BYTES_MAX]!a}")
        if audience != self._audience:
            raise EnvelopeRefused(Reason.AUDIENCE, f"meant for {audience[:NAME_BYTES_MAX]!a}")
        try:
            known = Kind(kind)
        except ValueError:
            raise EnvelopeRefused(Reason.KIND, f"kind {kind} is not known here") from None
        if flags & _COMPRESSED:
            payload = _decompressed(payload)
        return Envelope(known, *self._names, link, session, counter, created_ms, payload)


def key_id(public_key: bytes) -> bytes:
    """How a key is called in envelopes."""
    return hashlib.sha256(public_key).digest()[:8]


def _field(message: bytes, at: int, length: struct.Struct, most: int) -> tuple[bytes, int]:
    """A length-prefixed field at `at`, and where the next begins."""
    begins = at + length.size
    if begins <= len(message):
        size = length.unpack_from(message, at)[0]
        if size <= most and begins + size <= len(message):
            return message[begins : begins + size], begins + size
    raise EnvelopeRefused(Reason.FORM, "a field is longer than the envelope, or than it may be")


def _decompressed(payload: bytes) -> bytes:
    """The payload, bounded: of what would be larger nothing beyond the bound is made."""
    inflating = zlib.decompressobj()
    try:
        content = inflating.decompress(payload, PAYLOAD_BYTES_MAX + 1)
    except zlib.error as exc:
        raise EnvelopeRefused(Reason.COMPRESSION, f"cannot be decompressed: {exc}") from None
    if len(content) > PAYLOAD_BYTES_MAX or not inflating.eof or inflating.unused_data:
        raise EnvelopeRefused(
            Reason.COMPRESSION, f"not one whole compressed payload of at most {PAYLOAD_BYTES_MAX} bytes"
        )
    return content


@dataclass(slots=True)
class Counter:
    """The numbers of one lane of one link, in one direction."""

    last: int = field(default=0)

    def next(self) -> int:
        """For the next envelope that is sent."""
        self.last += 1
        return self.last

    def take(self, counter: int) -> None:
        """An envelope came. Raises EnvelopeRefused (REPLAYED) unless its number is higher than all before."""
        if counter <= self.last:
            raise EnvelopeRefused(
                Reason.REPLAYED, f"number {counter} came already, or was passed by {self.last}"
            )
        self.last = counter
