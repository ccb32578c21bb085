"""What the collector asks of its agents: how often they beat, what with, when they send, how they come back."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from watchbill.limits import (
    ACK_INTERVAL_MS,
    ACK_RECORDS_MAX,
    BEAT_INTERVAL_MS_MAX,
    BEAT_METRICS_MAX,
    CREDIT_BYTES_DEFAULT,
    RECONNECT_SPREAD_MS_MAX,
    SEND_GRID_BUSY_AGENTS,
    SEND_GRID_BUSY_MS,
    SEND_GRID_MS,
    SESSIONS_MAX,
)
from watchbill.protocol.frames import Settings

AGENTS_PER_SPREAD_SECOND = 200
"""The reconnect spread that agents are given is one second for this many of them."""


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What the collector asks of its agents, and its bounds."""

    sessions_max: int = SESSIONS_MAX
    beat_interval_ms: int = BEAT_INTERVAL_MS_MAX
    ack_interval_ms: int = ACK_INTERVAL_MS
    ack_records: int = ACK_RECORDS_MAX
    send_grid_ms: int = SEND_GRID_MS
    send_grid_busy_ms: int = SEND_GRID_BUSY_MS


def spread_ms(agents: int) -> int:
    """Over how long so many agents should spread their next connections."""
    return min(RECONNECT_SPREAD_MS_MAX, agents * 1000 // AGENTS_PER_SPREAD_SECOND)


class AgentSettings:
    """The settings in force: they follow from the options, what rules read, and how many hosts there are."""

    def __init__(self, options: IngestOptions) -> None:
        self._options = options
        self._beat_metrics: tuple[str, ...] = ()
        self._evaluation = (0, 0)
        self._settings = Settings()
        self.renew(0)

    def rules_read(self, metrics: Iterable[str], period_ms: int, phase_ms: int, hosts: int) -> bool:
        """Rules read these now, and look at t with t mod period = phase. Whether any setting is another."""
        self._beat_metrics = tuple(sorted(set(metrics)))[:BEAT_METRICS_MAX]
        self._evaluation = (period_ms, phase_ms % period_ms if period_ms else 0)
        before = self._settings
        self.renew(hosts)
        return self._settings != before

    def renew(self, hosts: int) -> bool:
        """So many hosts are there now. Whether they are to send by another grid, which they have to be told; a spread
        that is another is worth no message."""
        options, grid_ms = self._options, self._settings.send_grid_ms
        self._settings = replace(
            self._settings,
            credit_bytes=CREDIT_BYTES_DEFAULT,
            reconnect_spread_ms=spread_ms(hosts),
            beat_interval_ms=options.beat_interval_ms,
            beat_metrics=self._beat_metrics,
            send_grid_ms=options.send_grid_busy_ms
            if hosts >= SEND_GRID_BUSY_AGENTS
            else options.send_grid_ms,
            evaluation_period_ms=self._evaluation[0],
            evaluation_phase_ms=self._evaluation[1],
            ack_interval_ms=options.ack_interval_ms,
        )
        return self._settings.send_grid_ms != grid_ms

    def told(self, beat_interval_ms: int, ack_interval_ms: int) -> Settings:
        """What one session is told: how often it beats and is acknowledged may be its own."""
        own = (beat_interval_ms, ack_interval_ms)
        if own == (self._settings.beat_interval_ms, self._settings.ack_interval_ms):
            return self._settings
        return replace(self._settings, beat_interval_ms=own[0], ack_interval_ms=own[1])
