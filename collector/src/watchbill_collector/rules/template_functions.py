"""The functions that templates may call, by Go's and Prometheus' names."""

import re
from collections.abc import Callable
from typing import Protocol

import re2

from watchbill_collector.rules import golang

TEXT_CHARS_MAX = 16_384
"""What one template may grow to; the rest is cut, visibly."""


class Failed(Exception):
    """Making the text failed."""


class Outside(Protocol):
    """What functions may know beside their arguments."""

    external_url: str
    now_s: float


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
    try:
        return re2.compile(text)
    except re2.error:
        raise Failed(f"bad regular expression {text[:40]!r}") from None


def _replace(_: Outside, args: list[object]) -> str:
    pattern, replacement, text = _text(args[0]), _text(args[1]), _text(args[2])
    if (len(text) + 1) * len(replacement) > 64 * TEXT_CHARS_MAX:
        raise Failed("the text would grow too long")
    replaced: str = _pattern(pattern).sub(re.sub(r"\$\{?(\d+)\}?", r"\\\1", replacement), text)
    return replaced


def _index(_: Outside, args: list[object]) -> object:
    held, key = args
    if not isinstance(held, dict):
        raise Failed("can only index labels")
    return held.get(_text(key), "")


def _length(_: Outside, args: list[object]) -> int:
    held = args[0]
    if not isinstance(held, dict | str):
        raise Failed("has no length")
    return len(held.encode()) if isinstance(held, str) else len(held)


def _print(_: Outside, args: list[object]) -> str:
    out = ""
    for number, arg in enumerate(args):
        # Go's Sprint puts a space between operands when neither is a string.
        both = number and not isinstance(arg, str) and not isinstance(args[number - 1], str)
        out += (" " if both else "") + golang.plain(arg)
    return out


def _port_less(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or (":" in host and not host.startswith("[")):
        return text
    return host.removeprefix("[").removesuffix("]")


def _domain_less(text: str) -> str:
    host = _port_less(text)
    rest = text[len(host) :] if text.startswith(host) else ""
    if re.fullmatch(r"[\d.]+|[0-9a-fA-F:]*:[0-9a-fA-F:]*", host):
        return text
    return host.split(".", 1)[0] + rest


_MANY = 64
FUNCTIONS: dict[str, Function] = {
    "humanize": _numbers(golang.humanize),
    "humanize1024": _numbers(golang.humanize1024),
    "humanizeDuration": _numbers(golang.humanize_duration),
    "humanizePercentage": _numbers(golang.humanize_percentage),
    "humanizeTimestamp": _numbers(golang.humanize_timestamp),
    "title": _texts(lambda text: re.sub(r"\b\w", lambda match: match.group().upper(), text)),
    "toUpper": _texts(str.upper),
    "toLower": _texts(str.lower),
    "stripPort": _texts(_port_less),
    "stripDomain": _texts(_domain_less),
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
