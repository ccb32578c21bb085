"""The certificate a client came with, read strictly.

gRPC has verified the chain, the dates and the purpose in the handshake; everything is judged again here
but the signature, because a resumed TLS session is not verified a second time, and because the root itself
passes for a client certificate there.
"""

from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from watchbill.errors import Unreadable
from watchbill.identity import IdentityRefused, RefusalReason, parse_agent_uri
from watchbill_collector.pki.keyfiles import milliseconds

PEER_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class Peer:
    """Who a certificate says its holder is. Times in UTC ms, `serial` in hexadecimal."""

    agent_id: str
    serial: str
    not_before_ms: int
    not_after_ms: int


def read_peer(pem: bytes, site: str, now_ms: int) -> Peer:
    """Read a client's certificate. Raises IdentityRefused (CERTIFICATE) saying what is wrong with it."""
    if len(pem) > PEER_BYTES_MAX:
        raise _refused(f"longer than {PEER_BYTES_MAX} bytes")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound as exc:
        raise _refused("it is no agent's certificate: a name or a purpose is missing") from exc
    except Exception as exc:
        raise _refused("it cannot be read") from exc
    if authority or list(purposes) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        raise _refused("it is not for an agent")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(list(names)) != 1 or len(uris) != 1:
        raise _refused("it has more than one name, or none that is an agent's")
    try:
        uri = parse_agent_uri(uris[0])
    except Unreadable as exc:
        raise _refused(str(exc)) from exc
    if uri.site != site:
        raise _refused(f"it is for site {uri.site}, this is {site}")
    peer = Peer(
        uri.agent_id,
        f"{certificate.serial_number:x}",
        milliseconds(certificate.not_valid_before_utc),
        milliseconds(certificate.not_valid_after_utc),
    )
    if not peer.not_before_ms <= now_ms < peer.not_after_ms:
        raise _refused("it has expired" if now_ms >= peer.not_after_ms else "it is not valid yet")
    return peer


def _refused(what: str) -> IdentityRefused:
    return IdentityRefused(RefusalReason.CERTIFICATE, f"the client certificate was refused: {what}")
