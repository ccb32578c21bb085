"""The site's certificate authority: whom the ports trust, and what it signs.

One ECDSA P-256 root, made by `init`, kept 0600 beside the state, signs agents' and servers' certificates
directly; the hash of its public key is in every enrolment token. Agents get seven days, or what their
token says, and renew at half of it.
"""

from watchbill_collector.lifetimes import Lifetimes
from watchbill_collector.pki.authority import Authority, Issued
from watchbill_collector.pki.keys import AuditKey, SigningKeys
from watchbill_collector.pki.peer import Peer, read_peer
from watchbill_collector.pki.requests import SigningRequest, read_request
from watchbill_collector.pki.server import ServerCertificate

__all__ = [
    "AuditKey",
    "Authority",
    "Issued",
    "Lifetimes",
    "Peer",
    "ServerCertificate",
    "SigningKeys",
    "SigningRequest",
    "read_peer",
    "read_request",
]
