"""The collector's two Ed25519 keys: one seals envelopes, the other signs commands. Never the same key for
both.
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


def envelope_signature_is_right(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature holds; wrong lengths and bad points are simply wrong."""
    try:
        nacl.signing.VerifyKey(public_key).verify(message, signature)
    except (nacl.exceptions.CryptoError, ValueError, TypeError):
        return False
    return True
