"""Times in templates, as Go prints and formats them: what `toTime` gives. All are UTC."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAYOUT = re.compile(
    r"January|Jan|Monday|Mon|MST|2006|-07:00|-0700|Z07:00|Z0700|15|01|02|03|04|05|06|_2|PM|pm|1|2|3|4|5"
    r"|[.,]0+|[.,]9+"
)
"""What means something in a layout: Go spells layouts as the 2nd of January 2006, 15:04:05."""
_DIRECTIVES = {
    "January": "%B",
    "Jan": "%b",
    "Monday": "%A",
    "Mon": "%a",
    "MST": "UTC",
    "-07:00": "+00:00",
    "-0700": "+0000",
    "Z07:00": "Z",
    "Z0700": "Z",
    "15": "%H",
    "01": "%m",
    "02": "%d",
    "03": "%I",
    "04": "%M",
    "05": "%S",
    "PM": "%p",
}
_MONTHS_AND_DAYS = ("Month", "Weekday")


@dataclass(frozen=True, slots=True)
class GoTime:
    """A moment."""

    at: datetime

    @staticmethod
    def of(seconds: float) -> "GoTime":
        """Seconds since 1970; raises OverflowError or ValueError where no calendar reaches."""
        return GoTime(_EPOCH + timedelta(milliseconds=int(seconds * 1000)))

    def __str__(self) -> str:
        return self.format("2006-01-02 15:04:05.999999999 -0700 MST")

    def field(self, name: str) -> object:
        """What a method without arguments gives; a name that is none shows as missing."""
        at = self.at
        known: dict[str, object] = {
            "Year": at.year,
            "Day": at.day,
            "Hour": at.hour,
            "Minute": at.minute,
            "Second": at.second,
            "Month": f"{at:%B}",
            "Weekday": f"{at:%A}",
            "YearDay": at.timetuple().tm_yday,
            "Unix": int(at.timestamp() // 1),
            "UnixMilli": round(at.timestamp() * 1000),
            "UTC": self,
        }
        return known.get(name)

    def format(self, layout: str) -> str:
        """The moment in Go's layout."""
        return _LAYOUT.sub(lambda found: self._part(found.group()), layout)

    def _part(self, part: str) -> str:
        at = self.at
        if part in _DIRECTIVES:
            return at.strftime(_DIRECTIVES[part])
        if part == "2006":
            return f"{at.year:04d}"
        if part[0] in ".,":
            digits = f"{at.microsecond:06d}000"[: len(part) - 1]
            digits = digits.rstrip("0") if part[1] == "9" else digits
            return part[0] + digits if digits else ""
        short = {"06": f"{at.year % 100:02d}", "_2": f"{at.day:2d}", "pm": f"{at:%p}".lower(), "1": at.month}
        short |= {"2": at.day, "3": (at.hour + 11) % 12 + 1, "4": at.minute, "5": at.second}
        return str(short[part])
