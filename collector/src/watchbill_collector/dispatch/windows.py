"""Maintenance windows: times that come round, in which some alerts tell nobody."""

from dataclasses import dataclass
from zoneinfo import ZoneInfo

from watchbill.cron import Cron
from watchbill_collector.dispatch.matchers import Match


@dataclass(frozen=True, slots=True)
class Window:
    """`match` None: it mutes only the routes that name it. Durations are milliseconds of real time."""

    name: str
    cron: Cron
    zone: ZoneInfo
    duration_ms: int
    match: Match | None = None

    def until_ms(self, now_ms: int) -> int:
        """When the window that is open now closes; 0 while it is shut. One that opens again while it is open
        goes on."""
        start_ms = self.cron.latest(self.zone, now_ms, self.duration_ms)
        return start_ms + self.duration_ms if start_ms else 0

    def opens_ms(self, now_ms: int, within_ms: int) -> int:
        """When it opens next, 0 if not so soon."""
        return self.cron.next(self.zone, now_ms, within_ms)


@dataclass(frozen=True, slots=True)
class OpenWindows:
    """The windows that are open at one moment, by name."""

    muted: tuple[tuple[str, Match], ...]
    """Those that mute by matchers."""
    names: frozenset[str]


def open_windows(windows: tuple[Window, ...], now_ms: int) -> OpenWindows:
    """Which windows are open."""
    found = [window for window in windows if window.until_ms(now_ms) > now_ms]
    muted = tuple((window.name, window.match) for window in found if window.match is not None)
    return OpenWindows(muted, frozenset(window.name for window in found))
