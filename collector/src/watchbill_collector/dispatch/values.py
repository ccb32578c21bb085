"""What dispatch speaks of: an alert as it stands, how it is told, and the words for both.

Times are UTC milliseconds. An alert is named by its *fingerprint*, 16 hexadecimal digits of its label set, so
two rules that give the same labels are one alert, as in Alertmanager.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

Labels = tuple[tuple[str, str], ...]
"""A label set: pairs sorted by name."""

UNIT_SEPARATOR = "\x1f"


class Way(Enum):
    """How an alert reaches people."""

    PAGE = "page"
    """A notice of its own, at once."""
    DIGEST = "digest"
    """A line in the collected news, once a day."""
    NONE = "none"
    """Recorded, and sent nowhere."""


class Severity(Enum):
    """How bad it is; the worst comes first."""

    CRITICAL = "critical"
    MAJOR = "major"
    MINOR = "minor"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return _RANKS[self]

    @property
    def way(self) -> Way:
        """How alerts of this severity are told where neither route nor rule says."""
        return _WAYS[self]


_RANKS = {severity: rank for rank, severity in enumerate(Severity)}
_WAYS = {
    Severity.CRITICAL: Way.PAGE,
    Severity.MAJOR: Way.PAGE,
    Severity.MINOR: Way.DIGEST,
    Severity.INFO: Way.NONE,
}
_WORDS = {
    "critical": Severity.CRITICAL,
    "page": Severity.CRITICAL,
    "major": Severity.MAJOR,
    "minor": Severity.MINOR,
    "warning": Severity.MINOR,
    "info": Severity.INFO,
}


def severity_of(labels: Mapping[str, str]) -> Severity:
    """The severity that labels say; a word that nobody knows, or none, reads as minor."""
    return _WORDS.get(labels.get("severity", ""), Severity.MINOR)


@dataclass(frozen=True, slots=True)
class Service:
    """What an alert belongs to. `depends` names other services; notices go to `channel` too."""

    name: str
    owner: str = ""
    depends: tuple[str, ...] = ()
    channel: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """An alert that fires, or that has resolved of late. `source` is whatever `describe` needs.

    `host_down`: it says that the host of its `instance` label is not heard. `way` is what its rule says
    about the way, None where the rule is silent. `quiet`: it judges the past, and must not page.
    """

    fingerprint: str
    labels: Mapping[str, str]
    firing: bool
    fired_ms: int
    resolved_ms: int = 0
    rule: str = ""
    severity: Severity = Severity.MINOR
    way: Way | None = None
    host_down: bool = False
    quiet: bool = False
    source: object = None


@dataclass(frozen=True, slots=True)
class Described:
    """What a notice says of an alert beside its labels."""

    annotations: Mapping[str, str] = field(default_factory=dict)
    value: float | None = None
    generator_url: str = ""
    incomplete: bool = False


def fingerprint_of(labels: Labels) -> str:
    """16 hexadecimal digits of a label set."""
    text = UNIT_SEPARATOR.join(part for pair in labels for part in pair)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
