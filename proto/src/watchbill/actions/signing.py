"""Signed documents: Ed25519 over a domain and canonical JSON, the signature first.

The domain says what a document is, so that none can be taken for another kind: a vote is never a command.
"""

import hashlib
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import nacl.bindings
import nacl.exceptions

from watchbill.actions.canonical import DOCUMENT_BYTES_MAX, canonical, read_canonical
from watchbill.errors import Refused

SIGNATURE_BYTES: Final = 64
PUBLIC_KEY_BYTES: Final = 32
SEED_BYTES: Final = 32
KEY_ID_CHARACTERS: Final = 16
"""Of a key's SHA-256, in hexadecimal: names it in documents and for people."""


class Domain(Enum):
    """What is signed."""

    ORDER = b"watchbill/order/v1\0"
    """By the collector's command key: what it asks of a host's runner."""
    VOTE = b"watchbill/vote/v1\0"
    """By a person's own key: yes or no to a manifest."""
    ROSTER = b"watchbill/roster/v1\0"
    """By an offline roster key: who may approve."""
    BUNDLE = b"watchbill/bundle/v1\0"
    """By the collector's command key: a runbook to be carried out without it."""
    EVIDENCE = b"watchbill/evidence/v1\0"
    """By the collector's audit key: what a run was."""


class SignatureRefused(Refused):
    """A signature that does not hold, or a document that is not the one it claims to be."""


def key_id(public_key: bytes) -> str:
    """A short name of a key."""
    return hashlib.sha256(public_key).hexdigest()[:KEY_ID_CHARACTERS]


def public_key(seed: bytes) -> bytes:
    """The half of a key that others may know."""
    return bytes(nacl.bindings.crypto_sign_seed_keypair(seed)[0])


def sign(domain: Domain, seed: bytes, document: Mapping[str, Any]) -> bytes:
    """A document with its signature before it. Raises Unreadable when it has no canonical form."""
    _, secret = nacl.bindings.crypto_sign_seed_keypair(seed)
    content = canonical(document)
    signature: bytes = nacl.bindings.crypto_sign(domain.value + content, secret)[:SIGNATURE_BYTES]
    return signature + content


def open_signed(
    domain: Domain, key: bytes, signed: bytes, bytes_max: int = DOCUMENT_BYTES_MAX
) -> dict[str, Any]:
    """The document of a signature that holds; nothing is parsed before it does.

    Raises SignatureRefused; Unreadable when what was signed is no canonical JSON.
    """
    if not SIGNATURE_BYTES < len(signed) <= SIGNATURE_BYTES + bytes_max:
        raise SignatureRefused(f"a signed document of {len(signed)} bytes")
    if len(key) != PUBLIC_KEY_BYTES:
        raise SignatureRefused(f"a key of {len(key)} bytes, wanted {PUBLIC_KEY_BYTES}")
    signature, content = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
    try:
        nacl.bindings.crypto_sign_open(signature + domain.value + content, key)
    except (nacl.exceptions.CryptoError, ValueError, TypeError) as exc:
        raise SignatureRefused("the signature does not hold") from exc
    return read_canonical(content, bytes_max)


def unverified(signed: bytes, bytes_max: int = DOCUMENT_BYTES_MAX) -> dict[str, Any]:
    """What a signed document says of itself, to find the key that must have signed it. Raises Unreadable.

    Nothing of it is true before `open_signed` said so.
    """
    return read_canonical(signed[SIGNATURE_BYTES:], bytes_max)
