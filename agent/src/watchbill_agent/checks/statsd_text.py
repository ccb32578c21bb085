"""What statsd clients say, read with care: plain statsd, and DogStatsD as far as its version 1.6.

    shop.orders:1|c|@0.1|#shop:berlin,beta        a metric; `1:2:3` are three values (1.1)
    ...|c:CONTAINER                               which container said it (1.2)
    ...|T1656581400                               when it was so (1.3)
    _e{5,4}:title|text|t:error|#env:prod          an event
    _sc|mysql|2|#env:prod|m:no answer             a service check

`|e:` and `|card:` (1.5, 1.6) are read and left. Pure: bytes in, values out; what is none of this raises Garbage, whose
`reason` is one of GARBAGE.
"""

import math
import re
from dataclasses import dataclass
from typing import Final

from watchbill.limits import LABEL_VALUE_BYTES_MAX

COUNTER: Final = b"c"
GAUGE: Final = b"g"
SET: Final = b"s"
TIMER: Final = b"ms"
HISTOGRAM: Final = b"h"
DISTRIBUTION: Final = b"d"
TYPES: Final = (COUNTER, GAUGE, SET, TIMER, HISTOGRAM, DISTRIBUTION)

NAME_BYTES_MAX: Final = 200
TAGS_MAX: Final = 16
"""Of one metric. Each distinct set of them is a series."""
TAG_NAME_BYTES_MAX: Final = 100
TITLE_CHARACTERS_MAX: Final = 200
TEXT_CHARACTERS_MAX: Final = 4_000
WORD_CHARACTERS_MAX: Final = 100
STATUS_MAX: Final = 3
BARE: Final = "true"
"""The value of a tag that has none."""
TAKEN: Final = ("le", "quantile", "check", "app", "instance", "job")
"""Labels that others put on; a tag so called becomes `exported_...`, as in a scrape."""
GARBAGE: Final = ("syntax", "name", "value", "type", "rate", "tags", "timestamp")

_NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WHOLE = re.compile(rb"\d{1,18}")
_EVENT = re.compile(rb"_e\{(\d{1,5}),(\d{1,5})\}:")
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_:]", re.ASCII)
_NOT_IN_A_LABEL = re.compile(r"[^a-zA-Z0-9_]", re.ASCII)

Tags = tuple[tuple[str, str], ...]


class Garbage(Exception):
    """Nothing that a statsd client says. `reason` is one of GARBAGE."""

    def __init__(self, reason: str, wanted: str) -> None:
        super().__init__(f"{reason}: wanted {wanted}")
        self.reason = reason
        self.wanted = wanted


@dataclass(frozen=True, slots=True)
class About:
    """What stands behind a metric's value: the same for every value of a series that one client sends."""

    type: bytes
    scale: float
    """What a value counts for: 1 / the sample rate."""
    tags: Tags
    container: str
    at_s: int | None
    """When it was so; None: now."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, for people."""

    title: str
    text: str
    words: dict[str, str]
    """What else it said: priority, alert_type, aggregation_key, source_type, host."""
    at_s: int | None
    tags: Tags


@dataclass(frozen=True, slots=True)
class ServiceCheck:
    """How a service is, by whoever looked: 0 ok, 1 warning, 2 critical, 3 unknown."""

    name: str
    status: int
    message: str
    host: str
    tags: Tags


def number(value: bytes) -> float:
    """A finite decimal number and nothing else that Python would read as one. Raises Garbage."""
    if _NUMBER.fullmatch(value):
        found = float(value)
        if math.isfinite(found):
            return found
    raise Garbage("value", "a decimal number")


def metric_name(name: bytes) -> str:
    """A valid one: dots and whatever else cannot be become underscores. Raises Garbage."""
    if not name or len(name) > NAME_BYTES_MAX:
        raise Garbage("name", f"a name of 1 to {NAME_BYTES_MAX} bytes")
    found = _NOT_IN_A_NAME.sub("_", _utf8(name, "name"))
    return f"_{found}" if found[0].isdigit() else found


def about(tail: bytes) -> About:
    """What stands behind the value, from its type on. Raises Garbage."""
    kind, *parts = tail.split(b"|")
    if kind not in TYPES:
        raise Garbage("type", "one of c, g, s, ms, h and d")
    scale, container, at_s = 1.0, "", None
    tags: Tags = ()
    for part in parts:
        first = part[:1]
        if first == b"#":
            tags = tags_of(part[1:])
        elif first == b"@":
            scale = _scale(part[1:])
        elif part.startswith(b"c:"):
            container = _word(part[2:])
        elif first == b"T":
            if kind not in (COUNTER, GAUGE):
                raise Garbage("timestamp", "a time on counters and gauges alone")
            at_s = _time(part[1:])
        elif not part.startswith((b"e:", b"card:")):
            raise Garbage("syntax", "|@rate, |#tags, |c:container, |Ttime, |e: or |card:")
    return About(kind, scale, tags, container, at_s)


def tags_of(text: bytes) -> Tags:
    """`k:v,bare` as labels, sorted; the last of two with one name counts. Raises Garbage."""
    found: dict[str, str] = {}
    for part in text.split(b","):
        name, colon, value = part.partition(b":")
        if not name:
            if part:
                raise Garbage("tags", "a name before the colon")
            continue  # A comma too many is what many clients send.
        if len(name) > TAG_NAME_BYTES_MAX or len(value) > LABEL_VALUE_BYTES_MAX:
            raise Garbage(
                "tags", f"names up to {TAG_NAME_BYTES_MAX} bytes, values up to {LABEL_VALUE_BYTES_MAX}"
            )
        label = label_name(_utf8(name, "tags"))
        found[label] = _utf8(value, "tags") if colon else BARE
    if len(found) > TAGS_MAX:
        raise Garbage("tags", f"at most {TAGS_MAX} tags")
    return tuple(sorted((name, value) for name, value in found.items() if value))


def label_name(text: str) -> str:
    """A valid one that nobody else puts on."""
    name = _NOT_IN_A_LABEL.sub("_", text)
    if name[0].isdigit():
        name = f"_{name}"
    if name.startswith("__"):
        name = f"_{name.lstrip('_')}"
    return f"exported_{name}" if name in TAKEN else name


def event(line: bytes) -> Event:
    """`_e{title bytes,text bytes}:title|text|...`. Raises Garbage."""
    head = _EVENT.match(line)
    wanted = "_e{TITLE BYTES,TEXT BYTES}:TITLE|TEXT"
    if head is None:
        raise Garbage("syntax", wanted)
    title_ends = head.end() + int(head[1])
    text_ends = title_ends + 1 + int(head[2])
    title, text, rest = (
        line[head.end() : title_ends],
        line[title_ends + 1 : text_ends],
        line[text_ends:],
    )
    complete = len(text) == int(head[2]) and line[title_ends : title_ends + 1] in (b"|", b"")
    if not title or not complete or rest[:1] not in (b"", b"|"):
        raise Garbage("syntax", wanted)
    words: dict[str, str] = {}
    tags: Tags = ()
    at_s = None
    for part in rest.split(b"|")[1:]:
        if part[:1] == b"#":
            tags = tags_of(part[1:])
        elif part[:2] == b"d:":
            at_s = _time(part[2:])
        elif part[:2] in _EVENT_WORDS:
            words[_EVENT_WORDS[part[:2]]] = _word(part[2:])
        elif not part.startswith((b"c:", b"e:", b"card:")):
            raise Garbage("syntax", "d:, h:, k:, p:, s:, t: or # behind the text of an event")
    return Event(_lines(title, TITLE_CHARACTERS_MAX), _lines(text, TEXT_CHARACTERS_MAX), words, at_s, tags)


_EVENT_WORDS: Final = {
    b"h:": "host",
    b"k:": "aggregation_key",
    b"p:": "priority",
    b"s:": "source_type",
    b"t:": "alert_type",
}


def service_check(line: bytes) -> ServiceCheck:
    """`_sc|name|status|...`; its message comes last and may hold anything. Raises Garbage."""
    line, _, message = line.partition(b"|m:")
    _, *parts = line.split(b"|")
    if len(parts) < 2 or not 0 < len(parts[0]) <= NAME_BYTES_MAX:
        raise Garbage("syntax", "_sc|NAME|STATUS")
    name, status, *rest = parts
    if not _WHOLE.fullmatch(status) or int(status) > STATUS_MAX:
        raise Garbage("value", f"a status of 0 to {STATUS_MAX}")
    tags: Tags = ()
    host = ""
    for part in rest:
        if part[:1] == b"#":
            tags = tags_of(part[1:])
        elif part[:2] == b"h:":
            host = _word(part[2:])
        elif not part.startswith((b"d:", b"c:", b"e:", b"card:")):
            raise Garbage("syntax", "d:, h:, # or m: behind a status")
    return ServiceCheck(_utf8(name, "name"), int(status), _lines(message, TEXT_CHARACTERS_MAX), host, tags)


def _scale(rate: bytes) -> float:
    try:
        found = number(rate)
    except Garbage:
        found = 0.0
    # A rate of 1e-300 would make one packet outweigh everything that was ever counted.
    if not 1e-6 <= found <= 1:
        raise Garbage("rate", "a sample rate above 0 and at most 1")
    return 1 / found


def _time(text: bytes) -> int:
    if not _WHOLE.fullmatch(text):
        raise Garbage("timestamp", "a UTC time in whole seconds")
    return int(text)


def _utf8(text: bytes, reason: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise Garbage(reason, "UTF-8") from None


def _word(text: bytes) -> str:
    return _utf8(text, "syntax")[:WORD_CHARACTERS_MAX]


def _lines(text: bytes, characters_max: int) -> str:
    r"""Text for people: `\n` stands for the end of a line, as these clients write it; other controls are left out."""
    shown = _utf8(text, "syntax").replace("\\n", "\n")
    return "".join(one for one in shown if one.isprintable() or one == "\n")[:characters_max]
