"""Who an agent is: its name in certificates, the token that makes it, and the file that holds what it was
given.

An agent is its `agent_id`, a random UUID that is never used twice; `instance` is only a label. The
certificate carries the id as one URI, `spiffe://watchbill/<site>/agent/<uuid>`.

Everything a host was given at enrolment is one file, `identity.json`, replaced as a whole by a rename: a key
can never stand beside the certificate of another key, whatever moment the machine loses power. This module
imports no cryptography; making keys is the business of short-lived children.
"""

import base64
import binascii
import hashlib
import re
import stat
import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from watchbill.errors import Refused, Unreadable
from watchbill.files import FileMissing, make_directory, read_bounded, sync_directory, write_atomic

TRUST_DOMAIN: Final = "watchbill"
SITE_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
INSTANCE_PATTERN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:@-]{0,252}", re.ASCII)

TOKEN_PREFIX: Final = "wb1"  # noqa: S105 - A format, not a password.
TOKEN_ID_PATTERN: Final = re.compile(r"[a-z2-7]{12}", re.ASCII)
TOKEN_SECRET_BYTES: Final = 20
TOKEN_TEXT_BYTES_MAX: Final = 1_024
ENDPOINT_BYTES_MAX: Final = 300
SHA256_BYTES: Final = 32
_CHECK_BYTES: Final = 4

IDENTITY_FILE: Final = "identity.json"
IDENTITY_BYTES_MAX: Final = 256 * 1024
IDENTITY_VERSION: Final = 1
ENVELOPE_SEED_BYTES: Final = 32


class RefusalReason(StrEnum):
    """Why the collector, or the host itself, would not go on; both ends use these words, in answers and
    counters.
    """

    MALFORMED = "malformed"
    UNKNOWN_TOKEN = "unknown-token"  # noqa: S105 - No such id, or the secret is wrong: the asker is not told which.
    USED_UP = "used-up"
    EXPIRED = "expired"
    DEAD = "dead"
    WITHDRAWN = "withdrawn"
    OTHER_HOST = "other-host"
    ADDRESS = "address"
    NAME_TAKEN = "name-taken"
    DENIED = "denied"
    KEY = "key"
    KEY_TAKEN = "key-taken"
    CLOCK_SUSPECT = "clock-suspect"
    RATE_LIMITED = "rate-limited"
    WRONG_CA = "wrong-ca"
    CERTIFICATE = "certificate"
    UNKNOWN_AGENT = "unknown-agent"
    REVOKED = "revoked"
    RETIRED = "retired"
    TOO_LONG_EXPIRED = "too-long-expired"
    PENDING = "pending"
    LIMIT = "limit"


class IdentityRefused(Refused):
    """An enrolment, a renewal or a certificate that was refused. `retry_after_s` is set where waiting
    helps.
    """

    def __init__(self, reason: RefusalReason, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


# ---------------------------------------------------------------- names


@dataclass(frozen=True, slots=True)
class AgentUri:
    """The name in an agent's certificate."""

    site: str
    agent_id: str

    def __str__(self) -> str:
        return f"spiffe://{TRUST_DOMAIN}/{self.site}/agent/{self.agent_id}"


def parse_agent_uri(text: str) -> AgentUri:
    """Read `spiffe://watchbill/<site>/agent/<uuid>`; only the one canonical spelling. Raises Unreadable."""
    parts = text.split("/")
    if len(parts) != 6 or parts[:3] != ["spiffe:", "", TRUST_DOMAIN] or parts[4] != "agent":
        raise Unreadable(f"not an agent's name: {text[:200]!r}")
    site, agent_id = parts[3], parts[5]
    if not SITE_PATTERN.fullmatch(site) or not is_agent_id(agent_id):
        raise Unreadable(f"not an agent's name: {text[:200]!r}")
    return AgentUri(site, agent_id)


def is_agent_id(text: str) -> bool:
    """A UUID as we write it: lower case, with hyphens."""
    try:
        return len(text) == 36 and str(uuid.UUID(text)) == text
    except ValueError:
        return False


def fingerprint(public_key_der: bytes) -> str:
    """What two people read to each other: SHA-256 of the SubjectPublicKeyInfo, in eight groups of eight
    digits.
    """
    digest = hashlib.sha256(public_key_der).hexdigest()
    return " ".join(digest[i : i + 8] for i in range(0, 64, 8))


# ---------------------------------------------------------------- the token


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """What an operator pastes on a host: which token, its secret, whom to trust, and where to go.

    `ca_sha256` is the SHA-256 of the authority's SubjectPublicKeyInfo; `endpoint` is host:port of the
    enrolment port.
    """

    token_id: str
    secret: bytes = field(repr=False)
    ca_sha256: bytes
    endpoint: str

    def encode(self) -> str:
        """The token as one URL-safe word: `wb1.<id>.<base64url of secret, CA hash, endpoint, check>`.

        The check (four bytes of SHA-256 over all before it) tells a token cut in pasting from a wrong one.
        """
        assert TOKEN_ID_PATTERN.fullmatch(self.token_id)
        assert len(self.secret) == TOKEN_SECRET_BYTES
        assert len(self.ca_sha256) == SHA256_BYTES
        body = self.secret + self.ca_sha256 + self.endpoint.encode()
        packed = base64.urlsafe_b64encode(body + _check(self.token_id, body)).decode().rstrip("=")
        return f"{TOKEN_PREFIX}.{self.token_id}.{packed}"


def parse_token(text: str) -> EnrolmentToken:
    """Read a pasted token; white space around it does not matter. Raises Unreadable, never showing the
    secret.
    """
    if len(text) > TOKEN_TEXT_BYTES_MAX:
        raise Unreadable(f"not an enrolment token: longer than {TOKEN_TEXT_BYTES_MAX} characters")
    prefix, _, rest = text.strip().partition(".")
    token_id, _, packed = rest.partition(".")
    if prefix != TOKEN_PREFIX or not TOKEN_ID_PATTERN.fullmatch(token_id):
        raise Unreadable(
            f"not an enrolment token: it has to begin with {TOKEN_PREFIX}. and an id of 12 letters"
        )
    try:
        blob = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Unreadable("not an enrolment token: characters that no token has") from exc
    body, check = blob[:-_CHECK_BYTES], blob[-_CHECK_BYTES:]
    if len(body) <= TOKEN_SECRET_BYTES + SHA256_BYTES or check != _check(token_id, body):
        raise Unreadable("the enrolment token is incomplete or was changed; copy it again, whole")
    try:
        endpoint = body[TOKEN_SECRET_BYTES + SHA256_BYTES :].decode("ascii")
    except UnicodeDecodeError as exc:
        raise Unreadable("the enrolment token names no usable address") from exc
    check_door(endpoint)
    return EnrolmentToken(
        token_id,
        body[:TOKEN_SECRET_BYTES],
        body[TOKEN_SECRET_BYTES : TOKEN_SECRET_BYTES + SHA256_BYTES],
        endpoint,
    )


def _check(token_id: str, body: bytes) -> bytes:
    return hashlib.sha256(token_id.encode() + b"\0" + body).digest()[:_CHECK_BYTES]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a port is: `host` without brackets, a name or an address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """Read `host:port`, `192.0.2.1:port` or `[2001:db8::1]:port`. Raises Unreadable."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""  # An IPv6 address without brackets: where would its port begin?
    usable = host and host.isascii() and host.isprintable() and not any(c in " /@[]" for c in host)
    if not colon or not usable or len(text) > ENDPOINT_BYTES_MAX:
        raise Unreadable(f"got {text[:ENDPOINT_BYTES_MAX]!r}, wanted HOST:PORT")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65_536):
        raise Unreadable(f"got port {port[:20]!r} in {text[:ENDPOINT_BYTES_MAX]!r}, wanted 1 to 65535")
    return Endpoint(host, int(port))


def check_door(text: str) -> None:
    """Where enrolment is asked for: host:port, or a broker (`watchbill.door`, which judges the rest). Raises
    Unreadable.
    """
    if not text.startswith("mqtts://"):
        parse_endpoint(text)
    elif len(text) > ENDPOINT_BYTES_MAX or not text.isprintable():
        raise Unreadable("the address of the broker is too long, or none")


# ---------------------------------------------------------------- the file


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentIdentity:
    """What a host holds after enrolment. Times are UTC milliseconds by the collector's clock.

    `chain_pem` is the certificate, leaf first; `trust_pem` the authorities to believe. `labels` were bound by
    the operator; `enrol_endpoint` is host:port, or a broker's; `mqtt_url` is where the collector said that agents
    speak MQTT, of a host that was enrolled that way.
    `renewals` counts certificates since enrolment: the key changes with every second one.
    """

    agent_id: str
    instance: str
    site: str
    labels: dict[str, str]
    key_pem: bytes = field(repr=False)
    chain_pem: bytes
    trust_pem: bytes
    not_before_ms: int
    not_after_ms: int
    stream_endpoint: str
    enrol_endpoint: str
    envelope_seed: bytes = field(repr=False)
    collector_envelope_key: bytes
    command_key: bytes
    token_id: str
    enrolled_ms: int
    renewals: int = 0
    mqtt_url: str = ""
    version: int = IDENTITY_VERSION

    @property
    def uri(self) -> AgentUri:
        """The name in the certificate."""
        return AgentUri(self.site, self.agent_id)

    def renewal_due_ms(self) -> int:
        """When to ask for the next certificate: at 40 % to 60 % of this one's life.

        The point within that is drawn from the certificate itself, so a fleet that was enrolled in one minute
        does not renew in one minute, and a restarted agent does not draw again.
        """
        draw = int.from_bytes(hashlib.sha256(self.chain_pem).digest()[:4]) / 2**32
        return self.not_before_ms + round((self.not_after_ms - self.not_before_ms) * (0.4 + 0.2 * draw))


class IdentityFile:
    """`identity.json` in the agent's state directory: readable by its owner alone, replaced as a whole."""

    def __init__(self, state_directory: Path) -> None:
        self.path = state_directory / IDENTITY_FILE

    def load(self) -> AgentIdentity | None:
        """What this host was given, None before enrolment. Raises Unreadable."""
        try:
            content = read_bounded(self.path, IDENTITY_BYTES_MAX)
        except FileMissing:
            return None
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & 0o077:
            raise Unreadable(
                f"{self.path} holds a private key and others may read it (mode {mode:04o}): "
                f"chmod 600 {self.path}, and revoke this host if somebody could have"
            )
        return decode_identity(content, str(self.path))

    def save(self, identity: AgentIdentity) -> None:
        """Replace the identity; durable when this returns. Raises StorageError."""
        make_directory(self.path.parent)
        write_atomic(self.path, encode_identity(identity))

    def forget(self) -> bool:
        """Remove the identity, as before making an image of the machine. False when there was none."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        sync_directory(self.path.parent)
        return True


def encode_identity(identity: AgentIdentity) -> bytes:
    """The file's content: one JSON object, bytes as base64."""
    return msgspec.json.format(msgspec.json.encode(identity), indent=1)


def decode_identity(content: bytes, source: str) -> AgentIdentity:
    """Read the file's content; `source` names it in errors. Raises Unreadable."""
    try:
        identity = msgspec.json.decode(content, type=AgentIdentity)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Unreadable(f"{source} is not an identity: {exc}; enrol this host again") from exc
    if identity.version != IDENTITY_VERSION:
        raise Unreadable(
            f"{source}: got version {identity.version}, wanted {IDENTITY_VERSION}: a newer agent wrote it"
        )
    if not is_agent_id(identity.agent_id) or not SITE_PATTERN.fullmatch(identity.site):
        raise Unreadable(f"{source} names no agent; enrol this host again")
    if identity.not_after_ms <= identity.not_before_ms or len(identity.envelope_seed) != ENVELOPE_SEED_BYTES:
        raise Unreadable(f"{source} is damaged; enrol this host again")
    parse_endpoint(identity.stream_endpoint)
    check_door(identity.enrol_endpoint)
    return identity
