"""Failures are limited by where they come from; successes never are.

Four hundred hosts may enrol from behind one address in a minute. Somebody who guesses from there gets a
few answers a minute, and after that "later", which costs a lookup.
"""

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from watchbill.clock import Clock
from watchbill.errors import Busy

SOURCES_MAX: Final = 10_000
"""Addresses remembered; the one that failed longest ago is forgotten first."""
WINDOW_S: Final = 60.0
IPV6_PREFIX: Final = 64
"""Whoever has one IPv6 address has a whole /64 of them."""


@dataclass(slots=True)
class _Failures:
    since_s: float
    count: int


class FailureLimiter:
    """At most `per_minute` failures from one source in a minute."""

    def __init__(self, clock: Clock, per_minute: int) -> None:
        self._clock = clock
        self._per_minute = per_minute
        self._sources: OrderedDict[str, _Failures] = OrderedDict()
        self.refused = 0
        """How often somebody was told to come later."""

    def retry_after_s(self, source: str) -> float | None:
        """None while `source` may fail again, otherwise in how many seconds it may."""
        found = self._sources.get(group(source))
        if found is None:
            return None
        left = found.since_s + WINDOW_S - self._clock.monotonic_s()
        return left if left > 0 and found.count >= self._per_minute else None

    def check(self, source: str) -> None:
        """Raises Busy while `source` has failed too often."""
        left = self.retry_after_s(source)
        if left is not None:
            self.refused += 1
            raise Busy(f"too many failures from {source}: try again in {left:.0f} s", left)

    def failed(self, source: str) -> None:
        """Count a failure."""
        now = self._clock.monotonic_s()
        key = group(source)
        found = self._sources.get(key)
        if found is None or now - found.since_s >= WINDOW_S:
            self._sources[key] = _Failures(now, 1)
        else:
            found.count += 1
        self._sources.move_to_end(key)
        if len(self._sources) > SOURCES_MAX:
            self._sources.popitem(last=False)


def group(source: str) -> str:
    """The one whom an address belongs to: an IPv4 address itself, of an IPv6 address its /64."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return source[:64]
    if address.version == 6:
        return str(ipaddress.ip_network((int(address), IPV6_PREFIX), strict=False))
    return str(address)
