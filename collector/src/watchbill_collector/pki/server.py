"""The collector's own certificate for 7443 and 7444: one for both, made and remade from its configured
names.

Key and chain are one file, so that they always fit. It is remade when a third of its life is left, when
the names changed, or when it is not this authority's; running servers take the new one at the next
handshake.
"""

import ipaddress
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from watchbill.errors import ConfigError, Permanent, Problem, Unreadable
from watchbill.files import FileMissing, write_atomic
from watchbill.grpc_environment import tls_1_2_is_off
from watchbill_collector.lifetimes import Lifetimes
from watchbill_collector.pki.authority import (
    Authority,
    describe_key,
    load_p256,
    private_pem,
    public_der,
)
from watchbill_collector.pki.keyfiles import milliseconds, read_private

if TYPE_CHECKING:
    import grpc

SERVER_FILE: Final = "server.pem"
NAMES_MAX: Final = 64
NAME_BYTES_MAX: Final = 253
RENEW_WHEN_LEFT: Final = 1 / 3


class ServerCertificate:
    """The present certificate, kept fresh by `refresh`; credentials made from it follow it."""

    def __init__(self, directory: Path, authority: Authority, lifetimes: Lifetimes) -> None:
        self.path = directory / SERVER_FILE
        self._authority = authority
        self._lifetimes = lifetimes
        self._guard = threading.Lock()
        self._key_pem = b""
        self._chain_pem = b""
        self.not_after_ms = 0
        self.generation = 0
        """Grows with every new certificate."""

    def refresh(self, names: Sequence[str], now_ms: int) -> bool:
        """Make sure there is a good certificate for `names`; True when a new one was made.

        Raises ConfigError for names no certificate can carry, Unreadable for a file that is not to be used
        (an RSA key, say), StorageError.
        """
        wanted = check_names(names)
        with self._guard:
            found = self._read()
            if found is not None and self._good(found[1], wanted, now_ms):
                if not self._chain_pem:
                    self._take(*found)
                return False
            key = ec.generate_private_key(ec.SECP256R1())
            leaf = self._authority.issue_server(wanted, key.public_key(), now_ms, self._lifetimes.server_s)
            write_atomic(self.path, private_pem(key) + leaf.public_bytes(Encoding.PEM) + self._authority.pem)
            self._take(key, leaf)
            return True

    def _read(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
        try:
            content = read_private(self.path)
        except FileMissing:
            return None
        key = load_p256(content, self.path)
        try:
            leaf = x509.load_pem_x509_certificate(content)
        except ValueError as exc:
            raise Unreadable(f"{self.path} holds no certificate that can be read: {exc}") from exc
        if not isinstance(leaf.public_key(), ec.EllipticCurvePublicKey):
            raise Unreadable(
                f"{self.path}: got a certificate with {describe_key(leaf.public_key())}, wanted ECDSA P-256"
            )
        if public_der(leaf.public_key()) != public_der(key.public_key()):
            raise Unreadable(
                f"{self.path}: its certificate is not for its key; remove the file to have it remade"
            )
        return key, leaf

    def _good(self, leaf: x509.Certificate, names: Sequence[str], now_ms: int) -> bool:
        start, end = milliseconds(leaf.not_valid_before_utc), milliseconds(leaf.not_valid_after_utc)
        fresh = start <= now_ms < end - self._lifetimes.server_s * 1000 * RENEW_WHEN_LEFT
        try:
            leaf.verify_directly_issued_by(self._authority.certificate)
            found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
            return False
        return fresh and sorted(str(one.value) for one in found) == sorted(names)

    def _take(self, key: ec.EllipticCurvePrivateKey, leaf: x509.Certificate) -> None:
        self._key_pem = private_pem(key)
        self._chain_pem = leaf.public_bytes(Encoding.PEM) + self._authority.pem
        self.not_after_ms = milliseconds(leaf.not_valid_after_utc)
        self.generation += 1

    def credentials(self, *, mutual: bool) -> "grpc.ServerCredentials":
        """For a gRPC port; with `mutual`, clients have to come with a certificate of this authority."""
        import grpc

        if not tls_1_2_is_off():
            raise Permanent("gRPC was imported before its environment was set and would take TLS 1.2")
        assert self._chain_pem, "refresh comes first"
        given = [-1]

        def configuration() -> "grpc.ServerCertificateConfiguration | None":
            # Asked at every handshake, in a thread of gRPC's; None: nothing changed since last time.
            with self._guard:
                if given[0] == self.generation:
                    return None
                given[0] = self.generation
                root = self._authority.pem if mutual else None
                return grpc.ssl_server_certificate_configuration([(self._key_pem, self._chain_pem)], root)

        # The type stubs do not know that the fetcher may answer None; gRPC's own documentation does.
        return grpc.dynamic_ssl_server_credentials(
            configuration(),  # type: ignore[arg-type]
            configuration,  # type: ignore[arg-type]
            require_client_authentication=mutual,
        )


def check_names(names: Sequence[str]) -> list[str]:
    """The names a server certificate can carry, each once. Raises ConfigError naming each that it cannot."""
    problems = []
    kept: list[str] = []
    for name in names:
        usable = name and name.isascii() and len(name) <= NAME_BYTES_MAX and name.isprintable()
        if not usable or any(c in " /*@[]" for c in name):
            problems.append(
                Problem("collector.toml", 0, "names", repr(name[:80]), "a host name or an address")
            )
        elif _canonical(name) not in kept:
            kept.append(_canonical(name))
    if not names or len(names) > NAMES_MAX:
        problems.append(Problem("collector.toml", 0, "names", f"{len(names)} names", f"1 to {NAMES_MAX}"))
    if problems:
        raise ConfigError(problems)
    return kept


def _canonical(name: str) -> str:
    """An address in its one spelling, a name in lower case: certificates are compared by these."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()
