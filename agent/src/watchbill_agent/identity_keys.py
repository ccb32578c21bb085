"""Keys, signing requests and certificates, for the children that enrol and renew. Imports the cryptography
package: nothing of the daemon imports this.
"""

import hashlib
import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from watchbill.errors import ProtocolError, Unreadable
from watchbill.identity import AgentUri, Endpoint, IdentityRefused, RefusalReason

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    """A fresh ECDSA P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    """As files keep it: PKCS#8, protected by the file's mode."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """As TLS libraries read it."""
    return certificate.public_bytes(Encoding.PEM)


def read_key(pem: bytes) -> Key:
    """Read one back. Raises Unreadable."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as exc:
        raise Unreadable(
            "the key on this host cannot be read; watchbill-agent seal, then enroll again"
        ) from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Unreadable("the key on this host is of the wrong kind; watchbill-agent seal, then enroll again")
    return key


def public_der(key: Key) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signing_request(key: Key) -> bytes:
    """A PKCS#10 request, DER, that asks for no name: the collector gives it."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def sign(key: Key, message: bytes) -> bytes:
    """ECDSA with SHA-256, DER."""
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def pinned_authority(chain: Sequence[bytes], spki_sha256: bytes) -> x509.Certificate:
    """The certificate of `chain` whose key the token names. Raises IdentityRefused (WRONG_CA)."""
    for der in chain:
        try:
            certificate = x509.load_der_x509_certificate(der)
            spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        except ValueError:
            continue
        if hashlib.sha256(spki).digest() == spki_sha256:
            return certificate
    raise IdentityRefused(
        RefusalReason.WRONG_CA,
        "the server is not the collector that made this token (its authority is another): nothing was sent",
    )


def check_server(leaf_der: bytes, authority: x509.Certificate, endpoint: Endpoint, now_ms: int) -> None:
    """Judge the server's certificate before anything secret is sent. Raises IdentityRefused with the
    reason.
    """
    try:
        leaf = x509.load_der_x509_certificate(leaf_der)
        leaf.verify_directly_issued_by(authority)
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as exc:
        raise IdentityRefused(
            RefusalReason.WRONG_CA,
            f"{endpoint}: the pinned authority did not issue its certificate: nothing was sent",
        ) from exc
    if ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
        raise IdentityRefused(RefusalReason.WRONG_CA, f"{endpoint}: its certificate is not for a server")
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    for one in (leaf, authority):
        if not one.not_valid_before_utc <= now < one.not_valid_after_utc:
            raise IdentityRefused(
                RefusalReason.CLOCK_SUSPECT,
                f"this host's clock says {now:%Y-%m-%d %H:%M} UTC; {endpoint} has a certificate valid from "
                f"{one.not_valid_before_utc:%Y-%m-%d} to {one.not_valid_after_utc:%Y-%m-%d}: set the clock",
            )
    if not _named(names, endpoint.host):
        raise IdentityRefused(
            RefusalReason.WRONG_CA,
            f"the server's certificate is not for {endpoint.host}; add that name to names in collector.toml",
        )


def check_time_key(authority: x509.Certificate, message: bytes, signature: bytes) -> None:
    """Raises IdentityRefused unless the pinned authority signed for the key that tells the time."""
    key = authority.public_key()
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as exc:
        raise IdentityRefused(
            RefusalReason.WRONG_CA, "the time that was told is not the pinned authority's: nothing was sent"
        ) from exc


def _named(names: x509.SubjectAlternativeName, host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() in {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    return address in names.get_values_for_type(x509.IPAddress)


def check_certificate(
    chain: Sequence[bytes], trust: Sequence[bytes], key: Key, uri: AgentUri
) -> tuple[int, int, bytes, bytes]:
    """What the collector gave: for our key, in our name, by an authority it asks us to trust.

    Returns not-before and not-after in UTC ms, the chain and the trust bundle as PEM. Raises ProtocolError.
    """
    try:
        leaf = x509.load_der_x509_certificate(chain[0])
        authorities = [x509.load_der_x509_certificate(der) for der in trust]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, IndexError, x509.ExtensionNotFound) as exc:
        raise ProtocolError("the collector's answer holds no certificate that can be read") from exc
    if spki != public_der(key) or uris != [str(uri)]:
        raise ProtocolError("the collector's answer is a certificate for another key or another name")
    if not any(_issued(leaf, authority) for authority in authorities):
        raise ProtocolError("the certificate was not issued by an authority of the collector's own bundle")
    return (
        round(leaf.not_valid_before_utc.timestamp() * 1000),
        round(leaf.not_valid_after_utc.timestamp() * 1000),
        b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain),
        b"".join(one.public_bytes(Encoding.PEM) for one in authorities),
    )


def _issued(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
