"""Tells the time, signed: see `watchbill.signed_time`. Anybody may ask; what is said is known to everybody."""

from dataclasses import dataclass

from watchbill.clock import Clock
from watchbill.identity import IdentityRefused, RefusalReason
from watchbill.signed_time import NONCE_BYTES, key_message, time_message
from watchbill_collector.pki.authority import Authority
from watchbill_collector.pki.keys import SigningKeys


@dataclass(frozen=True, slots=True)
class ToldTime:
    """One answer."""

    wall_ms: int
    signature: bytes
    key: bytes
    key_signature: bytes


class TimeSigner:
    """The authority's key signs once, for the key that signs every answer."""

    def __init__(self, site: str, clock: Clock, authority: Authority, keys: SigningKeys) -> None:
        self._site = site
        self._clock = clock
        self._key = keys.envelope
        self._public = bytes(keys.envelope.verify_key)
        self._key_signature = authority.sign(key_message(site, self._public))

    def tell(self, nonce: bytes) -> ToldTime:
        """The time now, for this question. Raises IdentityRefused for what is no question."""
        if len(nonce) != NONCE_BYTES:
            raise IdentityRefused(RefusalReason.MALFORMED, f"wanted {NONCE_BYTES} random bytes to sign over")
        wall_ms = self._clock.wall_ms()
        signature = self._key.sign(time_message(self._site, nonce, wall_ms)).signature
        return ToldTime(wall_ms, signature, self._public, self._key_signature)
