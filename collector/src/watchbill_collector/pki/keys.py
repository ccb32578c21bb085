"""The collector's Ed25519 keys: one seals envelopes, one signs commands, one signs checkpoints of the audit. Never
the same key for two of them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import nacl.exceptions
import nacl.signing

from watchbill.errors import Unreadable
from watchbill.files import write_atomic
from watchbill_collector.pki.keyfiles import read_private

ENVELOPE_KEY_FILE: Final = "envelope.key"
COMMAND_KEY_FILE: Final = "command.key"
AUDIT_KEY_FILE: Final = "audit.key"
SEED_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """Both keys; their public halves go to every agent at enrolment."""

    envelope: nacl.signing.SigningKey = field(repr=False)
    command: nacl.signing.SigningKey = field(repr=False)

    @classmethod
    def create(cls, directory: Path) -> "SigningKeys":
        """Make both in `directory`. Raises StorageError."""
        keys = cls(nacl.signing.SigningKey.generate(), nacl.signing.SigningKey.generate())
        write_atomic(directory / ENVELOPE_KEY_FILE, bytes(keys.envelope).hex().encode() + b"\n")
        write_atomic(directory / COMMAND_KEY_FILE, bytes(keys.command).hex().encode() + b"\n")
        return keys

    @classmethod
    def load(cls, directory: Path) -> "SigningKeys":
        """Read both back. Raises Unreadable."""
        return cls(_read(directory / ENVELOPE_KEY_FILE), _read(directory / COMMAND_KEY_FILE))


class AuditKey:
    """Signs what the audit says; nobody but this collector reads it."""

    def __init__(self, key: nacl.signing.SigningKey) -> None:
        self._key = key

    @classmethod
    def open(cls, directory: Path) -> "AuditKey":
        """Read it, or make it where there is none yet: a store that an older version began has none. Raises
        Unreadable, StorageError.
        """
        path = directory / AUDIT_KEY_FILE
        if not path.exists():
            write_atomic(path, bytes(nacl.signing.SigningKey.generate()).hex().encode() + b"\n")
        return cls(_read(path))

    @property
    def public(self) -> bytes:
        """The public half."""
        return bytes(self._key.verify_key)

    def sign(self, message: bytes) -> bytes:
        """The signature of a message."""
        return self._key.sign(message).signature


def _read(path: Path) -> nacl.signing.SigningKey:
    try:
        seed = bytes.fromhex(read_private(path).decode("ascii").strip())
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise Unreadable(
            f"{path}: got something else, wanted an Ed25519 key: {2 * SEED_BYTES} hexadecimal digits"
        )
    return nacl.signing.SigningKey(seed)


def signature_is_right(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature holds; wrong lengths and bad points are simply wrong."""
    try:
        nacl.signing.VerifyKey(public_key).verify(message, signature)
    except (nacl.exceptions.CryptoError, ValueError, TypeError):
        return False
    return True
