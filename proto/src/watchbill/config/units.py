"""What a configuration value may be beyond TOML's own types: durations, sizes, addresses, selectors.

Each knows how to read itself from a file (`from_config`) and how to print itself back (`to_config`), so the
sample file, the reference and the error messages speak the same words. Any other class with these two methods
can be used as a field type in the same way.
"""

import re
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable


class NotWanted(ValueError):
    """The value does not say what is wanted; the message names what is."""


@runtime_checkable
class FromConfig(Protocol):
    """A type that a configuration file can hold."""

    @classmethod
    def from_config(cls, value: object) -> Self:
        """Read a TOML value; raises NotWanted."""

    def to_config(self) -> str:
        """The text that reads back as this value."""


_DURATION_UNITS_MS = {
    "y": 365 * 86_400_000,
    "w": 7 * 86_400_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1_000,
    "ms": 1,
}
_DURATION = re.compile(
    r"(?:(\d{1,9})y)?(?:(\d{1,9})w)?(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?(?:(\d{1,9})ms)?",
    re.ASCII,
)
_DURATION_WANTED = 'a duration with its unit, such as "10s", "1h30m" or "15d"'


class Duration(float):
    """Seconds, written as Prometheus writes durations: `y w d h m s ms`, largest first, whole numbers."""

    __slots__ = ()

    @classmethod
    def from_config(cls, value: object) -> "Duration":
        """Read "1h30m"; a number without a unit is refused: seconds or milliseconds?"""
        if not isinstance(value, str) or not (match := _DURATION.fullmatch(value)) or not value:
            raise NotWanted(_DURATION_WANTED)
        units = zip(match.groups(), _DURATION_UNITS_MS.values(), strict=True)
        return cls(sum(int(count) * unit_ms for count, unit_ms in units if count) / 1000)

    def to_config(self) -> str:
        """The shortest spelling."""
        rest_ms = round(self * 1000)
        text = ""
        for unit, unit_ms in _DURATION_UNITS_MS.items():
            # Weeks are read but not written, years only when whole: "15d" is what people say.
            if unit == "w" or (unit == "y" and rest_ms % unit_ms):
                continue
            count, rest_ms = divmod(rest_ms, unit_ms)
            text += f"{count}{unit}" if count else ""
        return text or "0s"

    @property
    def ms(self) -> int:
        """Whole milliseconds."""
        return round(self * 1000)


_SIZE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SIZE = re.compile(r"(\d{1,12}) ?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)", re.ASCII)
_SIZE_WANTED = 'a size with its unit, such as "512MiB" or "10GB"'


class ByteSize(int):
    """Bytes, written with a unit: powers of 1024 (KiB MiB GiB TiB) or of 1000 (kB MB GB TB)."""

    __slots__ = ()

    @classmethod
    def from_config(cls, value: object) -> "ByteSize":
        """Read "512MiB"."""
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise NotWanted(_SIZE_WANTED)
        return cls(int(match[1]) * _SIZE_UNITS[match[2]])

    def to_config(self) -> str:
        """In the unit that leaves the smallest whole number."""
        whole = [(self // size, unit) for unit, size in _SIZE_UNITS.items() if self and self % size == 0]
        count, unit = min(whole, default=(int(self), "B"))
        return f"{count}{unit}"


_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%a-z]{2,64})\]|([A-Za-z0-9_.-]{1,253})):(\d{1,5})", re.ASCII)
_ADDRESS_WANTED = 'an address with its port, such as "collector.example:7443" or "[::1]:7443"'
PORT_MAX = 65_535


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or address, and a TCP port (0 as a listening address: any free one)."""

    host: str
    port: int

    @classmethod
    def from_config(cls, value: object) -> "Address":
        """Read "host:port"; IPv6 addresses stand in brackets."""
        match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
        if match is None or int(match[3]) > PORT_MAX:
            raise NotWanted(_ADDRESS_WANTED)
        return cls(match[1] or match[2], int(match[3]))

    def to_config(self) -> str:
        """As it is read."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return self.to_config()

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


_MATCHER = re.compile(
    r"""\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)\s*""",
    re.ASCII,
)
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
_SELECTOR_WANTED = 'PromQL matchers, such as \'role="db",site=~"b.*"\''
SELECTOR_MATCHERS_MAX = 64


@dataclass(frozen=True, slots=True)
class Condition:
    """One matcher of a selector; `op` is one of = != =~ !~."""

    name: str
    op: str
    value: str


@dataclass(frozen=True, slots=True)
class Selector:
    """PromQL matchers joined by commas; all of them must hold. Regexes are judged where they are compiled."""

    text: str
    conditions: tuple[Condition, ...]

    @classmethod
    def from_config(cls, value: object) -> "Selector":
        """Read 'role="db",site=~"b.*"', in braces or not."""
        if not isinstance(value, str):
            raise NotWanted(_SELECTOR_WANTED)
        body = value.strip()
        if body.startswith("{") and body.endswith("}"):
            body = body[1:-1]
        conditions: list[Condition] = []
        place = 0
        while place < len(body):
            match = _MATCHER.match(body, place)
            if match is None or len(conditions) == SELECTOR_MATCHERS_MAX:
                raise NotWanted(_SELECTOR_WANTED)
            conditions.append(Condition(match[1], match[2], _unquote(match[3])))
            place = match.end()
            if place < len(body) and body[place] != ",":
                raise NotWanted(_SELECTOR_WANTED)
            place += 1
        return cls(value, tuple(conditions))

    def to_config(self) -> str:
        """As it was written."""
        return self.text


def _unquote(text: str) -> str:
    if text[0] == "`":
        return text[1:-1]

    def escape(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPES:
            raise NotWanted(f"{_SELECTOR_WANTED}; in a regex write \\\\{match[1]}")
        return _ESCAPES[match[1]]

    return _ESCAPE.sub(escape, text[1:-1])
