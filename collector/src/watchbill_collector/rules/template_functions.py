"""The functions that templates may call, by Go's and Prometheus' names."""

import ipaddress
import re
from collections.abc import Callable
from html import escape
from typing import Protocol
from urllib.parse import quote_plus, urlsplit

import re2

from watchbill_collector.matching import REGEX_MEMORY_BYTES_MAX
from watchbill_collector.promql.labelling import expanded
from watchbill_collector.rules import golang
from watchbill_collector.rules.template_queries import Sample, Samples
from watchbill_collector.rules.template_times import GoTime

TEXT_CHARS_MAX = 16_384
"""What one template may grow to; the rest is cut, visibly."""


class Failed(Exception):
    """Making the text failed."""


class Outside(Protocol):
    """What functions may know beside their arguments."""

    external_url: str
    now_s: float

    def ask(self, text: str) -> Samples:
        """What a query answers; raises Failed."""


def truth(value: object) -> bool:
    """Whether `if` takes a value for true."""
    return bool(value) if not isinstance(value, float) else value != 0


Function = tuple[int, int, Callable[[Outside, list[object]], object]]
"""Least and most arguments, and what is done with them."""


def _float(value: object) -> float:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise Failed(f"cannot read {value[:40]!r} as a number") from None
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise Failed(f"cannot take {golang.plain(value)[:40]!r} as a number")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Failed(f"cannot take {golang.plain(value)[:40]!r} as text")
    return value


def _numbers(function: Callable[[float], str]) -> Function:
    return 1, 1, lambda _, args: function(_float(args[0]))


def _texts(function: Callable[[str], str]) -> Function:
    return 1, 1, lambda _, args: function(_text(args[0]))


def _comparison(test: Callable[[float | str, float | str], bool]) -> Function:
    def run(_: Outside, args: list[object]) -> bool:
        left, right = args
        if isinstance(left, str) and isinstance(right, str):
            return test(left, right)
        if isinstance(left, str) or isinstance(right, str):
            raise Failed("incompatible types for comparison")
        return test(_float(left), _float(right))

    return 2, 2, run


def _equal(_: Outside, args: list[object]) -> bool:
    first, *others = args
    if any(isinstance(first, str) != isinstance(other, str) for other in others):
        raise Failed("incompatible types for comparison")
    return any(first == other for other in others)


def _pattern(text: str) -> "re2._Regexp[str]":
    options = re2.Options()
    options.log_errors = False
    options.max_mem = REGEX_MEMORY_BYTES_MAX
    try:
        return re2.compile(text, options)
    except re2.error:
        raise Failed(f"bad regular expression {text[:40]!r}") from None


def _replace(_: Outside, args: list[object]) -> str:
    pattern, replacement, text = _text(args[0]), _text(args[1]), _text(args[2])
    if (len(text) + 1) * len(replacement) > 64 * TEXT_CHARS_MAX:
        raise Failed("the text would grow too long")
    out, at, last = "", 0, -1
    for match in _pattern(pattern).finditer(text):
        # Nothing between two characters is no match where the match before it ended.
        if match.start() == match.end() == last:
            continue
        out += text[at : match.start()] + expanded(replacement, match)
        at = last = match.end()
        if len(out) > TEXT_CHARS_MAX:
            raise Failed("the text would grow too long")
    return out + text[at:]


def _index(_: Outside, args: list[object]) -> object:
    held, key = args
    if isinstance(held, tuple):
        if not isinstance(key, int) or isinstance(key, bool) or not 0 <= key < len(held):
            raise Failed(f"index out of range: {golang.plain(key)[:40]}")
        return held[key]
    if not isinstance(held, dict):
        raise Failed("can only index labels and what a query gave")
    return held.get(_text(key), "")


def _length(_: Outside, args: list[object]) -> int:
    held = args[0]
    if not isinstance(held, dict | str | tuple):
        raise Failed("has no length")
    return len(held.encode()) if isinstance(held, str) else len(held)


def _samples(value: object) -> Samples:
    if not isinstance(value, tuple):
        raise Failed(f"cannot take {golang.plain(value)[:40]!r} as what a query gave")
    return value


def _sample(value: object) -> Sample:
    if not isinstance(value, Sample):
        raise Failed(f"cannot take {golang.plain(value)[:40]!r} as a sample")
    return value


def _first(_: Outside, args: list[object]) -> Sample:
    samples = _samples(args[0])
    if not samples:
        raise Failed("first() called on vector with no elements")
    return samples[0]


def _sorted(_: Outside, args: list[object]) -> Samples:
    name = _text(args[0])
    return tuple(sorted(_samples(args[1]), key=lambda sample: sample.labels.get(name, "")))


def _time(_: Outside, args: list[object]) -> object:
    seconds = _float(args[0])
    try:
        return GoTime.of(seconds)
    except (OverflowError, ValueError):
        raise Failed(f"{golang.plain(seconds)} cannot be represented as a time") from None


def _print(_: Outside, args: list[object]) -> str:
    out = ""
    for number, arg in enumerate(args):
        # Go's Sprint puts a space between operands when neither is a string.
        both = number and not isinstance(arg, str) and not isinstance(args[number - 1], str)
        out += (" " if both else "") + golang.plain(arg)
    return out


def _port_less(text: str) -> str:
    return _host_port(text)[0]


def _host_port(text: str) -> tuple[str, str]:
    """Host and port, as Go's net.SplitHostPort has them; the text and nothing where that is not what it is."""
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, ""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or "[" in host:
        return text, ""
    return (text, "") if set("[]") & set(host + port) else (host, port)


def _domain_less(text: str) -> str:
    host, port = _host_port(text)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        first = host.split(".", 1)[0]
        return f"{first}:{port}" if port else first
    return text


def _title(text: str) -> str:
    """The first letter of each word in upper case. As Go's strings.Title, to which an apostrophe is no part of a word
    and an underscore is one."""
    return re.sub(r"(?<!\w)\w", lambda match: match.group().upper(), text)


def _link(tab: int) -> Function:
    """Where Prometheus shows an expression: a path under its external URL."""
    return _texts(lambda text: f"/graph?g0.expr={quote_plus(text)}&g0.tab={tab}")


def _duration(_: Outside, args: list[object]) -> float:
    text = _text(args[0])
    if not re.fullmatch(DURATION, text):
        raise Failed(f"not a valid duration string: {text[:40]!r}")
    return sum(float(count) * _UNITS_S[unit] for count, unit in re.findall(r"(\d+)(ms|[ywdhms])", text))


DURATION = r"(?=\d)(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?|0"
_UNITS_S = {"y": 31_536_000.0, "w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


_MANY = 64
FUNCTIONS: dict[str, Function] = {
    "humanize": _numbers(golang.humanize),
    "humanize1024": _numbers(golang.humanize1024),
    "humanizeDuration": _numbers(golang.humanize_duration),
    "humanizePercentage": _numbers(golang.humanize_percentage),
    "humanizeTimestamp": _numbers(golang.humanize_timestamp),
    "query": (1, 1, lambda scope, args: scope.ask(_text(args[0]))),
    "first": (1, 1, _first),
    "label": (2, 2, lambda _, args: _sample(args[1]).labels.get(_text(args[0]), "")),
    "value": (1, 1, lambda _, args: _sample(args[0]).value),
    "strvalue": (1, 1, lambda _, args: _sample(args[0]).labels.get("__value__", "")),
    "sortByLabel": (2, 2, _sorted),
    "toTime": (1, 1, _time),
    "urlQueryEscape": _texts(quote_plus),
    "title": _texts(_title),
    "toUpper": _texts(str.upper),
    "toLower": _texts(str.lower),
    "stripPort": _texts(_port_less),
    "stripDomain": _texts(_domain_less),
    "graphLink": _link(0),
    "tableLink": _link(1),
    "pathPrefix": (0, 0, lambda scope, _: urlsplit(scope.external_url).path.rstrip("/")),
    "parseDuration": (1, 1, _duration),
    "args": (0, _MANY, lambda _, args: {f"arg{number}": arg for number, arg in enumerate(args)}),
    # What leaves here as HTML is escaped by whoever makes it HTML; nothing in an annotation can lift that.
    "safeHtml": _texts(lambda text: text),
    "html": _texts(lambda text: escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")),
    "urlquery": _texts(quote_plus),
    "match": (2, 2, lambda _, args: _pattern(_text(args[0])).search(_text(args[1])) is not None),
    "reReplaceAll": (3, 3, _replace),
    "externalURL": (0, 0, lambda scope, _: scope.external_url),
    "now": (0, 0, lambda scope, _: scope.now_s),
    "printf": (1, _MANY, lambda _, args: golang.sprintf(_text(args[0]), args[1:])),
    "print": (0, _MANY, _print),
    "println": (0, _MANY, lambda _, args: " ".join(golang.plain(arg) for arg in args) + "\n"),
    "not": (1, 1, lambda _, args: not truth(args[0])),
    "len": (1, 1, _length),
    "index": (2, 2, _index),
    "eq": (2, _MANY, _equal),
    "ne": (2, 2, lambda scope, args: not _equal(scope, args)),
    "lt": _comparison(lambda left, right: left < right),  # type: ignore[operator]  # Both text or both numbers.
    "le": _comparison(lambda left, right: left <= right),  # type: ignore[operator]
    "gt": _comparison(lambda left, right: left > right),  # type: ignore[operator]
    "ge": _comparison(lambda left, right: left >= right),  # type: ignore[operator]
}
