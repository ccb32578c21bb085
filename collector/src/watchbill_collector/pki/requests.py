"""What a host sends to be signed: a PKCS#10 request, in which only the key counts.

Names are given by the collector, so a request that asks for any is refused rather than quietly not granted.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from watchbill.identity import IdentityRefused, RefusalReason
from watchbill_collector.pki.authority import describe_key, public_der

REQUEST_BYTES_MAX: Final = 4 * 1024


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """A request whose own signature was right: whoever sent it holds the key. `public_key` is DER."""

    public_key: bytes
    key_sha256: bytes
    csr_sha256: bytes


def read_request(der: bytes) -> SigningRequest:
    """Check a request. Raises IdentityRefused with the reason."""
    if len(der) > REQUEST_BYTES_MAX:
        raise IdentityRefused(
            RefusalReason.MALFORMED, f"the signing request is longer than {REQUEST_BYTES_MAX} bytes"
        )
    try:
        request = x509.load_der_x509_csr(der)
        key = request.public_key()
        extensions = len(request.extensions)
        # A request ends in its signature, a BIT STRING. Unused bits there would be a second spelling of the same one.
        right = request.is_signature_valid and der.endswith(b"\x00" + request.signature)
    except Exception as exc:
        raise IdentityRefused(RefusalReason.MALFORMED, "the signing request cannot be read") from exc
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityRefused(
            RefusalReason.KEY,
            f"the signing request has the wrong kind of key: got {describe_key(key)}, wanted ECDSA P-256",
        )
    if not right:
        raise IdentityRefused(RefusalReason.KEY, "the signing request is not signed by its own key")
    if extensions or request.subject.rdns:
        raise IdentityRefused(
            RefusalReason.KEY, "the signing request asks for names; names are given by the collector"
        )
    public_key = public_der(key)
    return SigningRequest(public_key, hashlib.sha256(public_key).digest(), hashlib.sha256(der).digest())


def signed_by(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (ECDSA, SHA-256, DER) over `message` is by `public_key` (DER)."""
    key = load_der_public_key(public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
