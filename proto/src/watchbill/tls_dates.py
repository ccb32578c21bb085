"""TLS whose certificates are judged by another clock than the system's.

OpenSSL judges dates by the system's clock. With `leave_dates` it judges everything else, and `presented` tells the
dates of the chain that it verified, root included, to be judged by whoever knows the time.
"""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from watchbill.signed_time import Window

_NO_CHECK_TIME: Final = 0x20_0000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which the standard library has no name for."""
DATE_ERRORS: Final = frozenset({9, 10})
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when a certificate is valid, UTC ms, and whose it is, for people."""

    from_ms: int
    until_ms: int
    subject: str = ""

    def holds(self, window: Window) -> bool:
        """Whether it is valid whatever moment of `window` it is."""
        return self.from_ms <= window.earliest_ms and window.latest_ms < self.until_ms


def leave_dates(
    context: ssl.SSLContext, noted: "Callable[[list[Validity]], None] | None" = None
) -> ssl.SSLContext:
    """Judge no dates in handshakes with this context: whoever asks for it has to. `noted` is called after every
    handshake of a socket with the dates of the chain, before anything is sent; what it raises ends the connection.
    """
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    if noted is not None:
        context.sslsocket_class = _noting(noted)
    return context


def _noting(noted: "Callable[[list[Validity]], None]") -> type[ssl.SSLSocket]:
    class Noting(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            noted(presented(self))

    return Noting


def is_about_dates(error: BaseException | None) -> bool:
    """Whether a handshake failed because of a date alone."""
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in DATE_ERRORS


def presented(connection: ssl.SSLSocket | ssl.SSLObject) -> list[Validity]:
    """The dates of the chain that was verified, leaf first."""
    # Public from Python 3.13 on, as bytes; the object below has it in every version, read already.
    chain = connection._sslobj.get_verified_chain() or []  # type: ignore[union-attr]  # noqa: SLF001
    assert chain, "there is a chain after a handshake that verified one"
    return [_validity(one.get_info()) for one in chain]


def _validity(info: "dict[str, object]") -> Validity:
    start, end = str(info["notBefore"]), str(info["notAfter"])
    return Validity(
        round(ssl.cert_time_to_seconds(start) * 1000),
        round(ssl.cert_time_to_seconds(end) * 1000) + 1000,  # Its last second belongs to it.
        str(info.get("subject", ""))[:200],
    )


def ended(chain: Sequence[Validity], window: Window) -> Validity | None:
    """The first of a chain that is not valid; None when all are."""
    return next((one for one in chain if not one.holds(window)), None)
