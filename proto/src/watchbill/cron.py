"""When a cron line comes round in a time zone: of backups, of windows of maintenance, of the digest.

Five fields: minute, hour, day of month, month, day of week (0 and 7 are Sunday), each `*`, a number, a range
`1-5`, a list `1,3`, with a step `*/15`; months and days also by their English three letters, `L` for a month's last
day, `sun#1` for its first Sunday, `5L` for its last Friday. As in Vixie's cron, a day has to satisfy one of the two day
fields when both are restricted, else both.

cronsim reads the fields and knows the calendar. It is asked for times on a clock without a zone, because what happens
where clocks change is decided here: a time that a spring night skips comes as much later as the clock jumped (02:30 is
then 03:30; cronsim would have 03:00). A time that an autumn night has twice comes once, the first time, when the hour
is fixed; a line whose hour begins with `*` goes by real time and comes in both hours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

LINE_CHARACTERS_MAX: Final = 200
FIELDS: Final = (
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of month", "1 to 31"),
    ("month", "1 to 12 or jan to dec"),
    ("day of week", "0 to 7 or sun to sat"),
)
MARGIN: Final = timedelta(hours=26)
"""How far what a clock shows may be out of order: zones have jumped over a whole day."""
AGAIN: Final = timedelta(hours=3)
"""How far a change of the clock moves times against one another today."""
_ANY_DAY: Final = datetime(2000, 1, 1)


class BadCron(ValueError):
    """A line that is no cron line; the message names the field."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A line, read. `every_hour`: it goes by real time where clocks change."""

    text: str
    every_hour: bool

    def starts(self, zone: ZoneInfo, after_ms: int, until_ms: int) -> Iterator[int]:
        """The moments in (after, until], in UTC milliseconds; in order but for what a clock change repeats."""
        last = shown(until_ms, zone) + MARGIN
        for local in CronSim(self.text, shown(after_ms, zone) - MARGIN):
            if local > last:
                return
            for at_ms in moments(local, zone, every_hour=self.every_hour):
                if after_ms < at_ms <= until_ms:
                    yield at_ms

    def latest(self, zone: ZoneInfo, now_ms: int, within_ms: int) -> int:
        """The newest moment in (now - within, now]; 0 if there is none. Takes no longer for a line that comes often."""
        found = 0
        earliest = shown(now_ms - within_ms, zone) - MARGIN
        for local in CronSim(self.text, shown(now_ms, zone) + AGAIN, reverse=True):
            if local < earliest:
                break
            for at_ms in moments(local, zone, every_hour=self.every_hour):
                if now_ms - within_ms < at_ms <= now_ms and at_ms > found:
                    found = at_ms
                    earliest = max(earliest, local - AGAIN)
        return found

    def next(self, zone: ZoneInfo, after_ms: int, within_ms: int) -> int:
        """The first moment in (after, after + within]; 0 if there is none."""
        found = 0
        last = shown(after_ms + within_ms, zone) + MARGIN
        for local in CronSim(self.text, shown(after_ms, zone) - AGAIN):
            if local > last:
                break
            for at_ms in moments(local, zone, every_hour=self.every_hour):
                if after_ms < at_ms <= after_ms + within_ms and (not found or at_ms < found):
                    found = at_ms
                    last = min(last, local + AGAIN)
        return found


def moments(local: datetime, zone: ZoneInfo, *, every_hour: bool) -> Iterator[int]:
    """When a clock of that zone shows this, in UTC milliseconds: once as a rule, and never or twice in a night that it
    is changed."""
    there = local.replace(tzinfo=zone)
    first_ms = round(there.timestamp() * 1000)
    if not every_hour or _exists(there):
        yield first_ms
    again_ms = round(there.replace(fold=1).timestamp() * 1000)
    # Of a skipped time the second reading lies before the first: it is no second coming.
    if every_hour and again_ms > first_ms:
        yield again_ms


def shown(at_ms: int, zone: ZoneInfo) -> datetime:
    """What a clock of that zone shows."""
    return datetime.fromtimestamp(at_ms / 1000, zone).replace(tzinfo=None)


def _exists(there: datetime) -> bool:
    """Whether clocks show this time at all on that day."""
    return there.astimezone(UTC).astimezone(there.tzinfo).replace(tzinfo=None) == there.replace(tzinfo=None)


def read_cron(text: str) -> Cron:
    """Read a line. Raises BadCron."""
    if len(text) > LINE_CHARACTERS_MAX:
        raise BadCron(f"{len(text)} characters, at most {LINE_CHARACTERS_MAX}")
    parts = text.lower().split()
    if len(parts) != len(FIELDS):
        raise BadCron(f"{len(parts)} fields, wanted 5: minute hour day-of-month month day-of-week")
    for number, (part, (name, values)) in enumerate(zip(parts, FIELDS, strict=True)):
        if not part.isascii() or not _readable(" ".join([*"*" * number, part, *"*" * (4 - number)])):
            raise BadCron(f"{name}: {part[:20]!r}, wanted {values}, lists, ranges not backwards, steps")
    line = " ".join(parts)
    if not _readable(line):
        raise BadCron(f"day of month: {parts[2][:20]!r}, a day that none of these months has")
    return Cron(line, parts[1].startswith("*"))


def _readable(line: str) -> bool:
    try:
        CronSim(line, _ANY_DAY)
    except CronSimError:
        return False
    return True
