"""What a host may spend on the wire a day, where every byte is paid for. Pure: the time is an argument.

The budget grows evenly; a quarter of a day's may be saved up, for a new connection or a backlog. What is shed when it
is used up, in this order, and how one sees it:

1. beats go on without values (below `THRIFTY_SHARE` of what may be saved up): rules look at older readings;
2. records wait in the spool (below nothing) until the budget has grown: they come late, at their true time;
3. the spool is full: the oldest go, into a counted gap with the reason OVERFLOW, as when the collector is away.

Beats and acknowledgements never wait: they are what says that this host is alive. `crit` records never wait either.
Connections that do not come about are paid for too: without a collector a host that tries all day stays in its budget.
"""

from typing import Final

DAY_S: Final = 86_400.0
SAVED_SHARE: Final = 0.25
THRIFTY_SHARE: Final = 0.1
BYTES_PER_DAY_MIN: Final = 1_000_000
"""Beats of a minute alone, without values, cost about 0.6 MB a day."""
PUBLISH_BYTES: Final = 250
"""What a publish costs beside its payload: topic, TLS record, the broker's answer, TCP and IP both ways."""
RECEIVED_BYTES: Final = 200
CONNECT_BYTES: Final = 6_000
"""What opening a connection costs: TLS with two certificates, CONNECT, SUBSCRIBE, knock and challenge."""
WAIT_S_MAX: Final = 3_600.0
"""The longest that a host stays away because its budget is used up: by then it has grown enough to connect."""


class Budget:
    """Bytes that may be spent."""

    def __init__(self, bytes_per_day: int, now_s: float) -> None:
        self._rate = bytes_per_day / DAY_S
        self._most = bytes_per_day * SAVED_SHARE
        self._level = self._most
        self._at_s = now_s
        self.spent_bytes = 0
        self.waits = 0
        """How often records had to wait."""

    def level(self, now_s: float) -> float:
        """What is left now; below zero what was spent too much."""
        self._level = min(self._most, self._level + max(0.0, now_s - self._at_s) * self._rate)
        self._at_s = now_s
        return self._level

    def spend(self, size: int) -> None:
        """Bytes went over the wire, or came."""
        self._level -= size
        self.spent_bytes += size

    def thrifty(self, now_s: float) -> bool:
        """Whether beats have to do without values."""
        return self.level(now_s) < self._most * THRIFTY_SHARE

    def wait_s(self, now_s: float) -> float:
        """Seconds until records may be sent again; 0 when they may."""
        return min(WAIT_S_MAX, max(0.0, -self.level(now_s) / self._rate))
