"""What of the day files is too old or too much, and goes. `retention` decides; here it is asked, and files unlinked."""

from collections.abc import Mapping

from watchbill_collector.history import retention
from watchbill_collector.history.days import Days, day_of, hour_of
from watchbill_collector.history.tail import Tail
from watchbill_collector.history.values import HistoryOptions, Tier


class Expiry:
    """For the writer's thread. What it knows of time and of the first whole day survives in the tail."""

    def __init__(
        self,
        options: HistoryOptions,
        tail: Tail,
        raw: Days,
        tiers: Mapping[Tier, Days],
        *,
        believed_ms: int,
        boottime_ms: int,
    ) -> None:
        """`believed_ms`: the time for a directory that has none written down yet."""
        self._options = options
        self._raw = raw
        self._all_days = [raw, *tiers.values()]
        at = tail.meta("retention")
        self._reference = retention.Reference(at if isinstance(at, int) else believed_ms, boottime_ms)
        known = tail.meta("raw_from")
        self.raw_from = known if isinstance(known, int) else 0
        """The first day whose readings are all there still."""

    @property
    def doubted(self) -> bool:
        """Whether the clock claims so much that nothing is unlinked for its sake."""
        return self._reference.doubted_since_ms is not None

    def unlink(self, now_ms: int, newest_ms: int, boottime_ms: int) -> list[str]:
        """Unlink what is too old or too much; the names of what went."""
        self._reference = self._reference.moved(now_ms, newest_ms, boottime_ms)
        gone: list[str] = []
        raw_ms, minute_ms = self._options.raw_ms, self._options.minute_ms
        if raw_ms:
            self.raw_from = max(self.raw_from, retention.first_kept(raw_ms, self._reference.at_ms))
        # Readings of slow lists are in the minute tier's files, whichever of the two is to be kept longer.
        keeps = (raw_ms, max(raw_ms, minute_ms) if raw_ms and minute_ms else 0, self._options.hour_ms)
        for days, keep_ms in zip(self._all_days, keeps, strict=True):
            for day in retention.too_old(days.days, keep_ms, self._reference.at_ms):
                gone += days.unlink(day)
        return gone + self._shrink(newest_ms)

    def _shrink(self, newest_ms: int) -> list[str]:
        """Keep to the size cap, oldest readings first, then the tiers'."""
        gone: list[str] = []
        if self._options.size_bytes_max is None:
            return gone
        total = sum(days.size() for days in self._all_days)
        newest = day_of(hour_of(max(newest_ms, 1)))
        for days in self._all_days:
            sizes = {day: days.size(day) for day in days.days}
            rest = total - sum(sizes.values())
            for day in retention.over_size(sizes, self._options.size_bytes_max - rest, newest):
                total -= sizes[day]
                gone += days.unlink(day)
                if days is self._raw:
                    self.raw_from = max(self.raw_from, day + 1)
        return gone

    def note(self, tail: Tail) -> None:
        """Write down what has to survive. In a transaction of the tail."""
        tail.set_meta("retention", self._reference.at_ms)
        tail.set_meta("raw_from", self.raw_from)
