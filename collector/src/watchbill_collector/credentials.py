"""Secrets that we hand out: `<prefix>.<id>.<secret>`, kept as SHA-256 of the secret, found by the id.

Looking up by the id and comparing hashes in constant time, nobody learns from the time an answer takes how
much of a secret was right. The secrets are random and long, so a slow password hash would add nothing.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

from watchbill.errors import Unreadable

ID_PATTERN: Final = re.compile(r"[a-z2-7]{12}", re.ASCII)
SECRET_BYTES: Final = 32
TEXT_BYTES_MAX: Final = 256


def new_id() -> str:
    """Twelve letters and digits, 60 random bits: enough to tell apart, short enough to read out."""
    return base64.b32encode(secrets.token_bytes(8)).decode().lower()[:12]


def secret_hash(secret: bytes) -> bytes:
    """What the store keeps."""
    return hashlib.sha256(secret).digest()


def same_hash(one: bytes, other: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(one, other)


@dataclass(frozen=True, slots=True)
class Credential:
    """One secret with its id; `prefix` says what it opens."""

    prefix: str
    credential_id: str
    secret: bytes = field(repr=False)

    @staticmethod
    def new(prefix: str) -> "Credential":
        """A fresh one, from the system's random numbers."""
        return Credential(prefix, new_id(), secrets.token_bytes(SECRET_BYTES))

    def encode(self) -> str:
        """As it is handed out."""
        packed = base64.urlsafe_b64encode(self.secret).decode().rstrip("=")
        return f"{self.prefix}.{self.credential_id}.{packed}"

    @property
    def hash(self) -> bytes:
        """As it is kept."""
        return secret_hash(self.secret)


def parse_credential(text: str, prefix: str) -> Credential:
    """Read one back. Raises Unreadable, which never shows the secret."""
    if len(text) > TEXT_BYTES_MAX:
        raise Unreadable(f"not a {prefix} token: too long")
    found, _, rest = text.strip().partition(".")
    credential_id, _, packed = rest.partition(".")
    if found != prefix or not ID_PATTERN.fullmatch(credential_id):
        raise Unreadable(f"not a {prefix} token: it has to begin with {prefix}. and an id")
    try:
        secret = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Unreadable(f"not a {prefix} token: characters that no token has") from exc
    if len(secret) != SECRET_BYTES:
        raise Unreadable(f"the {prefix} token is incomplete; copy it again, whole")
    return Credential(prefix, credential_id, secret)
