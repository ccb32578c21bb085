"""Mutual TLS 1.3: credentials for gRPC's channels, and what a plain TLS connection can tell that gRPC does
not.

gRPC says of every failed handshake only that the connection closed. `diagnose` opens the same connection with
the standard library and puts the reason into words; `served_chain` fetches what a server presents,
unverified, for an enrolling host that knows no more than the hash of the authority's key.
"""

import base64
import os
import socket
import ssl
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from watchbill.errors import Permanent, Refused, Unreachable, Unreadable
from watchbill.grpc_environment import tls_1_2_is_off
from watchbill.identity import AgentIdentity, Endpoint, parse_endpoint

if TYPE_CHECKING:
    import grpc

CONNECT_TIMEOUT_S: Final = 10.0
CHAIN_CERTIFICATES_MAX: Final = 8
CERTIFICATE_BYTES_MAX: Final = 16 * 1024
PROXY_REPLY_BYTES_MAX: Final = 8 * 1024
ENVIRONMENT_PROXY: Final = "env"
_ALPN: Final = ["h2"]

# OpenSSL's X509_V_ERR_* of what a person can do something about.
_NOT_YET_VALID: Final = 9
_HAS_EXPIRED: Final = 10
_HOSTNAME_MISMATCH: Final = 62
_ADDRESS_MISMATCH: Final = 64


# ---------------------------------------------------------------- gRPC


def channel_credentials(identity: AgentIdentity) -> "grpc.ChannelCredentials":
    """An agent's side of mutual TLS."""
    import grpc

    _require_tls_1_3()
    return grpc.ssl_channel_credentials(identity.trust_pem, identity.key_pem, identity.chain_pem)


def server_only_credentials(trust_pem: bytes) -> "grpc.ChannelCredentials":
    """A client without a certificate of its own: enrolment, and renewal of an expired certificate."""
    import grpc

    _require_tls_1_3()
    return grpc.ssl_channel_credentials(trust_pem)


def channel_options(proxy: str = "") -> list[tuple[str, str | int]]:
    """Channel arguments both ends' limits assume, and the proxy: "" none, "env" the environment's, or its
    address.
    """
    options: list[tuple[str, str | int]] = [
        ("grpc.use_local_subchannel_pool", 1),  # A new identity must not be given the old one's connection.
        ("grpc.http2.bdp_probe", 0),
    ]
    if proxy == ENVIRONMENT_PROXY:
        return options
    if proxy:
        options.append(("grpc.http_proxy", proxy))
        return options
    options.append(("grpc.enable_http_proxy", 0))
    return options


def _require_tls_1_3() -> None:
    if not tls_1_2_is_off():
        raise Permanent(
            "gRPC was imported before its environment was set and would take TLS 1.2: "
            "import watchbill_agent or watchbill_collector before grpc"
        )


# ---------------------------------------------------------------- plain connections


def served_chain(endpoint: Endpoint, proxy: str = "", timeout_s: float = CONNECT_TIMEOUT_S) -> list[bytes]:
    """What the server presents, DER, leaf first, believed by nobody yet. Nothing secret is sent.

    Raises Unreachable when there is no TLS 1.3 server, Unreadable when what it presents is out of all
    proportion.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _tls(context, endpoint, proxy, timeout_s) as connection:
        chain = _unverified_chain(connection)
    if len(chain) > CHAIN_CERTIFICATES_MAX or any(len(one) > CERTIFICATE_BYTES_MAX for one in chain):
        raise Unreadable(f"{endpoint} presents {len(chain)} certificates, or one out of all proportion")
    return chain


def _unverified_chain(connection: ssl.SSLSocket) -> list[bytes]:
    # Public from Python 3.13 on; the same method is there, one object deeper, in 3.11 and 3.12.
    public = getattr(connection, "get_unverified_chain", None)
    if public is not None:
        return list(public())
    inner = connection._sslobj.get_unverified_chain() or []  # type: ignore[attr-defined]  # noqa: SLF001
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner]


class Handshake(StrEnum):
    """How a connection attempt ended."""

    OK = "ok"
    UNREACHABLE = "unreachable"
    CLOCK_SUSPECT = "clock-suspect"
    WRONG_CA = "wrong-ca"
    WRONG_NAME = "wrong-name"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_REFUSED = "certificate-refused"
    SERVER_EXPIRED = "server-expired"
    """By the collector's signed time, which this host judges by when its own clock cannot."""
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The outcome, and a sentence for the person who has to mend it."""

    outcome: Handshake
    text: str


def diagnose(
    endpoint: Endpoint,
    trust_pem: bytes,
    chain_pem: bytes = b"",
    key_pem: bytes = b"",
    proxy: str = "",
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> Diagnosis:
    """Shake hands as gRPC would, with a certificate or without, and say what happened. Never raises for the
    network.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=trust_pem.decode("ascii"))
        if chain_pem:
            load_chain(context, chain_pem, key_pem)
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as exc:
        return Diagnosis(Handshake.TLS, f"the identity on this host cannot be used: {exc}; enrol it again")
    try:
        with _tls(context, endpoint, proxy, timeout_s, mapped=False) as connection:
            # TLS 1.3 tells a client that its certificate was refused only when it reads.
            if not connection.recv(1):
                return Diagnosis(
                    Handshake.CERTIFICATE_REFUSED, f"{endpoint} closed the connection after the handshake"
                )
    except (OSError, Unreachable) as exc:
        return diagnosed(endpoint, exc)
    return Diagnosis(Handshake.OK, f"{endpoint} answers over TLS 1.3")


def diagnosed(endpoint: Endpoint, error: Exception) -> Diagnosis:
    """What went wrong with a connection, by name."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _server_refused(endpoint, error)
    if isinstance(error, ssl.SSLError):
        return _refused_by_server(endpoint, error)
    return Diagnosis(Handshake.UNREACHABLE, f"{endpoint}: {error}")


def _server_refused(endpoint: Endpoint, error: ssl.SSLCertVerificationError) -> Diagnosis:
    code = error.verify_code
    if code in {_NOT_YET_VALID, _HAS_EXPIRED}:
        when = "not valid yet" if code == _NOT_YET_VALID else "expired"
        return Diagnosis(
            Handshake.CLOCK_SUSPECT,
            f"by this host's clock the certificate of {endpoint} is {when}: check the date here, then there",
        )
    if code in {_HOSTNAME_MISMATCH, _ADDRESS_MISMATCH}:
        return Diagnosis(
            Handshake.WRONG_NAME,
            f"the certificate of {endpoint} is not for that name: add it to the collector's names",
        )
    return Diagnosis(
        Handshake.WRONG_CA,
        f"{endpoint} is not a server of the collector that enrolled this host ({error.verify_message})",
    )


def _refused_by_server(endpoint: Endpoint, error: ssl.SSLError) -> Diagnosis:
    reason = (error.reason or str(error)).upper()
    if "CERTIFICATE_EXPIRED" in reason:
        return Diagnosis(
            Handshake.CERTIFICATE_EXPIRED, f"{endpoint} says that this host's certificate has expired"
        )
    if any(
        word in reason
        for word in ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_REQUIRED", "CERTIFICATE_UNKNOWN")
    ):
        return Diagnosis(
            Handshake.CERTIFICATE_REFUSED,
            f"{endpoint} does not take this host's certificate ({reason.lower()})",
        )
    return Diagnosis(Handshake.TLS, f"{endpoint}: TLS failed ({reason.lower()}); both ends need TLS 1.3")


def load_chain(context: ssl.SSLContext, chain_pem: bytes, key_pem: bytes) -> None:
    """Give a context its own certificate and key. Raises ssl.SSLError."""
    # The standard library reads keys from files only; this one has no name and never touches a disk.
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, chain_pem + b"\n" + key_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


@contextmanager
def _tls(
    context: ssl.SSLContext, endpoint: Endpoint, proxy: str, timeout_s: float, mapped: bool = True
) -> Iterator[ssl.SSLSocket]:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(_ALPN)
    try:
        with (
            connect(endpoint, proxy, timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=endpoint.host) as secured,
        ):
            yield secured
    except ssl.SSLError as exc:
        if not mapped:
            raise
        raise Unreachable(f"{endpoint} does not speak TLS 1.3: {(exc.reason or str(exc)).lower()}") from exc
    except OSError as exc:
        if not mapped:
            raise
        raise Unreachable(f"{endpoint} could not be reached: {exc}") from exc


def connect(endpoint: Endpoint, proxy: str = "", timeout_s: float = CONNECT_TIMEOUT_S) -> socket.socket:
    """A TCP connection, through an HTTP proxy where one is configured. Raises OSError, Unreachable,
    Refused.
    """
    via = _proxy_url(proxy, endpoint)
    if via is None:
        return socket.create_connection((endpoint.host, endpoint.port), timeout_s)
    connection = socket.create_connection((via.hostname or "", via.port or 3128), timeout_s)
    try:
        _ask_proxy(connection, via, endpoint)
    except BaseException:
        connection.close()
        raise
    return connection


def _proxy_url(proxy: str, endpoint: Endpoint) -> urllib.parse.SplitResult | None:
    if proxy == ENVIRONMENT_PROXY:
        import urllib.request

        if urllib.request.proxy_bypass(str(endpoint)):
            return None
        found = urllib.request.getproxies_environment()
        proxy = found.get("grpc") or found.get("https") or found.get("http") or ""
    if not proxy:
        return None
    return check_proxy(proxy)


def check_proxy(proxy: str) -> urllib.parse.SplitResult:
    """Read `http://[user:password@]host:port`. Raises Unreadable, without showing a password."""
    try:
        url = urllib.parse.urlsplit(proxy)
        usable = url.scheme == "http" and url.hostname and (url.port is None or url.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise Unreadable("proxy: got something else, wanted http://HOST:PORT")
    return url


def _ask_proxy(connection: socket.socket, via: urllib.parse.SplitResult, endpoint: Endpoint) -> None:
    head = f"CONNECT {endpoint} HTTP/1.1\r\nHost: {endpoint}\r\n"
    if via.username is not None:
        words = f"{urllib.parse.unquote(via.username)}:{urllib.parse.unquote(via.password or '')}"
        head += f"Proxy-Authorization: Basic {base64.b64encode(words.encode()).decode()}\r\n"
    connection.sendall(f"{head}\r\n".encode())
    reply = b""
    while b"\r\n\r\n" not in reply:
        # One byte at a time near the end: what follows the blank line already belongs to the server behind.
        piece = connection.recv(1)
        if not piece or len(reply) >= PROXY_REPLY_BYTES_MAX:
            raise Unreachable(f"the proxy {via.hostname}:{via.port} gave no answer that could be read")
        reply += piece
    status = reply.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    if len(status) < 2 or not status[0].startswith("HTTP/"):
        raise Unreachable(f"the proxy {via.hostname}:{via.port} gave no answer that could be read")
    if not status[1].startswith("2"):
        raise Refused(f"the proxy {via.hostname}:{via.port} refused {endpoint}: {' '.join(status[1:])[:200]}")


def host_of(endpoint: str) -> str:
    """The host of a `host:port` text. Raises Unreadable."""
    return parse_endpoint(endpoint).host
