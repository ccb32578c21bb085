"""What collector.toml says of the digest and the watchdog: light, because every start reads it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from watchbill.config import Duration, Wrong, option

DAY_S = 86_400
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])", re.ASCII)


def zone_known(name: str) -> str | None:
    """What is wanted instead, when this machine knows no such time zone."""
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # Not found is a KeyError.
        return 'a time zone of this machine, such as "Europe/Berlin" or "UTC"'
    return None


def _time_of_day(text: str) -> str | None:
    return None if _TIME.fullmatch(text) else 'a time of day, such as "08:00"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """When the collected news go out."""

    at: str = option("08:00", check=_time_of_day, help="Time of day.")
    zone: str = option("UTC", check=zone_known, help="The time zone of that.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog:
    """A ping to somebody who misses it when this collector is dead."""

    url: str = option(
        "", help="Where the ping goes; healthchecks-style services work.", example='"https://hc.example/ID"'
    )
    every: Duration = option(Duration(60), at_least=5, at_most=DAY_S, help="How often.")
    timeout: Duration = option(Duration(10), at_least=1, at_most=60, help="How long one ping may take.")
    method: Literal["GET", "HEAD", "POST"] = option("GET", help="The HTTP method.")
    headers_file: Path | None = option(
        None, help="File with one `Name: value` a line, such as a token; readable by its owner alone."
    )

    def check(self) -> Iterator[Wrong]:
        """A web address, without a secret that logs would show."""
        if self.url and not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", self.url):
            yield Wrong("url", "something else", "an http:// or https:// address without user and password")
