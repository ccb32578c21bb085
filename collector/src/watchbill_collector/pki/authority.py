"""The root: made once, then it signs."""

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from watchbill.errors import Unreadable
from watchbill.files import read_bounded, write_atomic
from watchbill.identity import AgentUri
from watchbill_collector.lifetimes import DAY_S
from watchbill_collector.pki.keyfiles import KEY_FILE_BYTES_MAX, milliseconds, moment, read_private

CA_KEY_FILE: Final = "ca.key"
CA_FILE: Final = "ca.pem"

CA_LIFE_S: Final = 20 * 365 * DAY_S
BACKDATED_S: Final = 86_400
"""Servers' and the root's certificates begin this much before they are made: a host whose clock is slow by
less can verify them. An agent's certificate is judged by the collector's own clock and needs no more than
AGENT_BACKDATED_S.
"""
AGENT_BACKDATED_S: Final = 300


@dataclass(frozen=True, slots=True)
class Issued:
    """An agent's new certificate. Times in UTC ms; `serial` in hexadecimal."""

    serial: str
    der: bytes
    not_before_ms: int
    not_after_ms: int


class Authority:
    """The certificate authority of a site."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self.certificate = certificate
        self.der = certificate.public_bytes(Encoding.DER)
        self.pem = certificate.public_bytes(Encoding.PEM)
        self.spki_sha256 = hashlib.sha256(public_der(key.public_key())).digest()
        """What enrolment tokens carry."""

    @classmethod
    def create(cls, directory: Path, site: str, now_ms: int) -> "Authority":
        """Make a root in `directory`, which must have none. Raises StorageError."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Watchbill {site}")])
        start = now_ms - BACKDATED_S * 1000
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment(start))
            .not_valid_after(moment(start + CA_LIFE_S * 1000))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        # The key first: a certificate without its key could not be told from a lost key.
        write_atomic(directory / CA_KEY_FILE, private_pem(key))
        write_atomic(directory / CA_FILE, certificate.public_bytes(Encoding.PEM), 0o644)
        return cls(key, certificate)

    @classmethod
    def load(cls, directory: Path) -> "Authority":
        """Read the root back. Raises Unreadable when it is missing, readable by others, not P-256, or does
        not fit.
        """
        key = load_p256(read_private(directory / CA_KEY_FILE), directory / CA_KEY_FILE)
        path = directory / CA_FILE
        try:
            certificate = x509.load_pem_x509_certificate(read_bounded(path, KEY_FILE_BYTES_MAX))
        except ValueError as exc:
            raise Unreadable(f"{path} is not a certificate: {exc}") from exc
        if public_der(certificate.public_key()) != public_der(key.public_key()):
            raise Unreadable(f"{path} is not the certificate of {CA_KEY_FILE} beside it")
        return cls(key, certificate)

    def issue_agent(self, uri: AgentUri, public_key: bytes, now_ms: int, life_s: float) -> Issued:
        """Certify that `public_key` (SubjectPublicKeyInfo) is the agent `uri`; for TLS clients only."""
        certificate = (
            self._leaf(load_der_public_key(public_key), now_ms, AGENT_BACKDATED_S, life_s)
            # An MQTT broker takes the common name for the user's; here the URI says who it is.
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, uri.agent_id)]))
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(uri))]), critical=True
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            serial=f"{certificate.serial_number:x}",
            der=certificate.public_bytes(Encoding.DER),
            not_before_ms=milliseconds(certificate.not_valid_before_utc),
            not_after_ms=milliseconds(certificate.not_valid_after_utc),
        )

    def issue_server(
        self, names: Sequence[str], public_key: ec.EllipticCurvePublicKey, now_ms: int, life_s: float
    ) -> x509.Certificate:
        """A certificate for TLS servers under `names`: host names and addresses."""
        return (
            self._leaf(public_key, now_ms, BACKDATED_S, life_s)
            .subject_name(x509.Name([]))
            .add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=True
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def sign(self, message: bytes) -> bytes:
        """ECDSA with SHA-256, DER, over a message that begins with a domain of its own: no certificate does."""
        assert message.startswith(b"watchbill/"), "what is signed has to say what it is"
        return self._key.sign(message, ec.ECDSA(hashes.SHA256()))

    def _leaf(
        self, public_key: object, now_ms: int, backdated_s: int, life_s: float
    ) -> x509.CertificateBuilder:
        assert isinstance(public_key, ec.EllipticCurvePublicKey), "checked where the request was read"
        return (
            x509.CertificateBuilder()
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment(now_ms - backdated_s * 1000))
            .not_valid_after(moment(now_ms + round(life_s * 1000) + 999))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )


def load_p256(pem: bytes, source: Path) -> ec.EllipticCurvePrivateKey:
    """A private key that these ports can use. Raises Unreadable naming what it is instead."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as exc:
        raise Unreadable(f"{source} holds no private key that can be read: {exc}") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Unreadable(
            f"{source}: got {describe_key(key.public_key())}, wanted ECDSA P-256: "
            "with an RSA key these ports would accept TLS 1.2 too"
        )
    return key


def describe_key(key: object) -> str:
    """What kind of key it is, for a message."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA {key.curve.name}"
    return type(key).__name__.removeprefix("_").removesuffix("PublicKey") or "no key"


def public_der(key: object) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    assert isinstance(encoded, bytes)
    return encoded


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8, not encrypted: the file's mode protects it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
