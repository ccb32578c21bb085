"""When things are sent: the send grid and the beats. Pure arithmetic.

At sparse arrivals the collector pays for wake-ups, not for bytes: a message alone costs it about three times
what the same message costs in a burst. So agents send at multiples of a small step of the *collector's* time.
Only the phase matters, so the estimate of the collector's clock may be off by a round trip.
"""

from dataclasses import dataclass, field

from watchbill.limits import ACK_INTERVAL_MS, BEAT_INTERVAL_MS_MAX, RECONNECT_SPREAD_MS_MAX
from watchbill.protocol.frames import Settings

EVALUATION_LEAD_MS = 500
"""A beat with values leaves this long before the rules look."""
HOLD_SHARE = 0.6
"""A message that is full waits for the rules' next look when that comes before so much of another one is collected:
then both leave as one. At 1 s, ten ticks a message and rules every 15 s that is one message in 15 s instead of two."""
HOLD_SLACK_S = 0.25
"""How long after the expected look it leaves all the same."""
RECORDS_SLACK_S = 0.5
"""How much later than expected records may be before a beat goes in their place."""
ACK_INTERVALS_MISSED_MAX = 3
"""A session in which no acknowledgement came for so many of the collector's intervals is dead."""
DRIFT_MAX = 1e-4
"""Seconds a second by which the host's clock and the collector's may drift apart."""
SEND_GRID_MS_MAX = 5_000
"""A collector that asks for a coarser grid than this is not believed: alerts would wait for it."""


@dataclass(frozen=True, slots=True)
class CollectorTime:
    """An estimate of the collector's clock, from the Welcome: its time in ms at our monotonic second
    `at_s`."""

    server_ms: float
    at_s: float

    def heard(self, server_time_ms: int, now_s: float) -> "CollectorTime":
        """A message written at `server_time_ms` has just come: the estimate after it.

        The quickest message is the best one, so an estimate is raised at once, and lowered only as fast as
        two clocks may drift apart.
        """
        ours_ms = self.ms(now_s) - (now_s - self.at_s) * DRIFT_MAX * 1000
        return CollectorTime(max(ours_ms, float(server_time_ms)), now_s)

    def ms(self, now_s: float) -> float:
        """The collector's time now."""
        return self.server_ms + (now_s - self.at_s) * 1000

    def until(self, now_s: float, period_ms: int, phase_ms: int = 0) -> float:
        """Seconds until its time modulo `period_ms` next is `phase_ms`: in (0, period]."""
        past = (self.ms(now_s) - phase_ms) % period_ms
        return (period_ms - past) / 1000


@dataclass(slots=True)
class Pacer:
    """When the messages of one session leave. All times are monotonic seconds of the agent.

    Records wait for the grid, and a single one for the rules' next look when that is near: `collects` says whether
    more will have been collected by then, `held_until_s` until when one is waiting so, 0 while none is. A beat leaves
    when nothing else did for the beat interval; and shortly before the rules look, one with values leaves when the
    newest tick has not been sent.
    """

    time: CollectorTime
    settings: Settings = field(default_factory=Settings)
    last_sent_s: float = 0.0
    last_heard_s: float = 0.0
    last_records_s: float = 0.0
    records_every_s: float = 0.0
    collects: bool = False
    held_until_s: float = 0.0
    paused_until_s: float = 0.0
    beat_interval_ms_max: int = BEAT_INTERVAL_MS_MAX

    def grid_in(self, now_s: float) -> float:
        """Seconds until the next point of the grid, 0 without one."""
        grid_ms = min(self.settings.send_grid_ms, SEND_GRID_MS_MAX)
        return self.time.until(now_s, grid_ms) if grid_ms else 0.0

    def release_in(self, now_s: float) -> float:
        """Seconds until records that wait may leave: at the next point of the grid, or when a beat with
        values would.

        So however coarse the grid is, what was sampled before that moment is there when the rules look.
        """
        looks_s = self.evaluation_in(now_s)
        grid_s = self.grid_in(now_s)
        return grid_s if looks_s is None else min(grid_s, looks_s)

    def hold(self, now_s: float) -> bool:
        """Whether a single record that waits had better leave with what is being collected, at the rules' next look;
        then `held_until_s` is set."""
        looks_s = self.evaluation_in(now_s) if self.collects else None
        if looks_s is None or looks_s > self.records_every_s * HOLD_SHARE:
            return False
        self.held_until_s = now_s + looks_s + HOLD_SLACK_S
        return True

    def beat_in(self, now_s: float) -> float:
        """Seconds until a beat is due if nothing else is sent; 0 or less when it is.

        When records are expected, or held back, within half a beat interval after it would be due, they do its work.
        """
        most_ms = self.beat_interval_ms_max
        interval_s = min(self.settings.beat_interval_ms or most_ms, most_ms) / 1000
        due_s = self.last_sent_s + interval_s
        expected_s = max(self.last_records_s + self.records_every_s + RECORDS_SLACK_S, self.held_until_s)
        if due_s < expected_s <= due_s + interval_s / 2 + RECORDS_SLACK_S:
            due_s = expected_s
        return due_s - now_s

    def evaluation_in(self, now_s: float) -> float | None:
        """Seconds until the moment for a beat with values before the rules look next; None: they never do."""
        period_ms = self.settings.evaluation_period_ms
        if not period_ms or not self.settings.beat_metrics:
            return None
        return self.time.until(now_s, period_ms, self.settings.evaluation_phase_ms - EVALUATION_LEAD_MS)

    def ack_patience_s(self) -> float:
        """How long a session may be without an acknowledgement while something is in flight."""
        return (self.settings.ack_interval_ms or ACK_INTERVAL_MS) * ACK_INTERVALS_MISSED_MAX / 1000

    def spread_s(self) -> float:
        """The spread for the next connection, as the collector asked."""
        return min(self.settings.reconnect_spread_ms, RECONNECT_SPREAD_MS_MAX) / 1000
