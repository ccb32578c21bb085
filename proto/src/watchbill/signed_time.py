"""The collector's time, signed: for hosts whose own clock cannot judge certificates.

A box without a clock battery boots in 1970; every certificate in the world is then "not valid yet". It asks for the
time with a random number, the answer is signed over that number, and so nobody in between can make one up or use an
old one again. All that he can do is to hold an answer back: the true time is what was said at the earliest, and that
plus the time between question and answer at the latest. Whatever is judged by it has to hold at both ends, and an
answer that took longer than ANSWER_S_MAX is none.

The key is the one that seals the collector's envelopes. An enrolled host has it; one that is about to enrol knows only
the authority, whose signature over that key comes with the answer.
"""

import os
from dataclasses import dataclass
from typing import Final

from watchbill.errors import Refused

NONCE_BYTES: Final = 32
ANSWER_S_MAX: Final = 15.0
"""Between question and answer: what can be hidden from a certificate's end by holding an answer back."""
WALL_MS_MAX: Final = 253_402_300_799_000
"""The end of the year 9999; certificates know no later moment."""
_DOMAIN: Final = b"watchbill/time/v1\0"
_KEY_DOMAIN: Final = b"watchbill/time-key/v1\0"


class TimeRefused(Refused):
    """A time that is not believed. `reason` is one word: signature, late, floor or range."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Window:
    """The true time, UTC ms: not before the one, not after the other."""

    earliest_ms: int
    latest_ms: int


def new_nonce() -> bytes:
    """For one question."""
    return os.urandom(NONCE_BYTES)


def time_message(site: str, nonce: bytes, wall_ms: int) -> bytes:
    """What is signed of an answer."""
    return _DOMAIN + site.encode() + b"\0" + nonce + wall_ms.to_bytes(8, "big", signed=True)


def key_message(site: str, key: bytes) -> bytes:
    """What the authority signs: that this key tells the time of this site."""
    return _KEY_DOMAIN + site.encode() + b"\0" + key


def check_time(key: bytes, site: str, nonce: bytes, wall_ms: int, signature: bytes) -> None:
    """Raises TimeRefused for an answer that this key did not sign over this number."""
    import nacl.exceptions
    import nacl.signing

    if not 0 <= wall_ms <= WALL_MS_MAX:
        raise TimeRefused("range", f"the collector told a time that cannot be: {wall_ms} ms")
    try:
        nacl.signing.VerifyKey(key).verify(time_message(site, nonce, wall_ms), signature)
    except (nacl.exceptions.CryptoError, ValueError, TypeError):
        raise TimeRefused("signature", "the time that was told is not signed by the collector") from None
