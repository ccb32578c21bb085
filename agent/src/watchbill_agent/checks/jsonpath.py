"""Conditions on JSON, in a language small enough to be known by heart:

    $.status == "ok"        the same JSON value; a number is a number, however it is written
    $.queue.depth < 100     < <= > >= between two numbers, or two texts
    $.nodes[0].role != "x"  also false when there is no such value
    $["odd key"].a          names that are no plain words
    $.version               there is such a value, whatever it is
    !$.error                there is none

One condition, one line. Nothing is ever evaluated but these.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

TEXT_CHARACTERS_MAX: Final = 512
STEPS_MAX: Final = 32
WANTED: Final = (
    'a path, alone or with a comparison: $.status == "ok", $.queue.depth < 100, $.nodes[0].role, !$.error'
)

_STEP: Final = re.compile(
    r"""\.(?P<word>[A-Za-z_][A-Za-z0-9_-]*)|\[(?P<index>-?\d{1,9})\]|\[(?P<text>"(?:[^"\\]|\\.)*")\]""",
    re.ASCII,
)
_COMPARISON: Final = re.compile(r"\s*(?P<operator>==|!=|<=|>=|<|>)\s*(?P<value>.*?)\s*", re.DOTALL)
_MISSING: Final = object()

_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": lambda got, wanted: got < wanted,
    "<=": lambda got, wanted: got <= wanted,
    ">": lambda got, wanted: got > wanted,
    ">=": lambda got, wanted: got >= wanted,
}


class NoCondition(ValueError):
    """The text says no condition; the message says why."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One, read."""

    text: str
    steps: tuple[str | int, ...]
    operator: str = ""
    """Empty: there is such a value; "!": there is none."""
    wanted: Any = None

    def fault(self, document: Any) -> str:
        """What was got instead, for people; empty when it holds."""
        got = self._value(document)
        if self.operator == "!":
            return "" if got is _MISSING else f"got {_short(got)}, wanted no such value"
        if got is _MISSING:
            return "there is no such value"
        if self._holds(got):
            return ""
        return f"got {_short(got)}"

    def _value(self, document: Any) -> Any:
        at = document
        for step in self.steps:
            if isinstance(step, str):
                if not isinstance(at, dict) or step not in at:
                    return _MISSING
                at = at[step]
            elif isinstance(at, list) and -len(at) <= step < len(at):
                at = at[step]
            else:
                return _MISSING
        return at

    def _holds(self, got: Any) -> bool:
        if not self.operator:
            return True
        if self.operator == "==":
            return _same(got, self.wanted)
        if self.operator == "!=":
            return not _same(got, self.wanted)
        alike = (_is_number(got) and _is_number(self.wanted)) or (
            isinstance(got, str) and isinstance(self.wanted, str)
        )
        return alike and _ORDERS[self.operator](got, self.wanted)


def read_condition(text: str) -> Condition:
    """The condition that a text says. Raises NoCondition."""
    said = text.strip()
    if len(said) > TEXT_CHARACTERS_MAX:
        raise NoCondition(f"at most {TEXT_CHARACTERS_MAX} characters")
    absent = said.startswith("!")
    path = said[1:].lstrip() if absent else said
    if not path.startswith("$"):
        raise NoCondition("it begins with $")
    steps: list[str | int] = []
    at = 1
    while match := _STEP.match(path, at):
        steps.append(_step(match))
        at = match.end()
    if len(steps) > STEPS_MAX:
        raise NoCondition(f"at most {STEPS_MAX} steps")
    rest = path[at:]
    if not rest.strip():
        return Condition(said, tuple(steps), "!" if absent else "")
    comparison = _COMPARISON.fullmatch(rest)
    if comparison is None or absent:
        raise NoCondition(f"what is this: {rest.strip()[:40]}")
    return Condition(said, tuple(steps), comparison["operator"], _wanted(comparison))


def _step(match: re.Match[str]) -> str | int:
    if match["index"] is not None:
        return int(match["index"])
    if match["text"] is not None:
        try:
            return str(msgspec.json.decode(match["text"]))
        except msgspec.DecodeError:
            raise NoCondition(f"{match['text'][:40]} is no JSON text") from None
    return match["word"]


def _wanted(comparison: re.Match[str]) -> Any:
    try:
        wanted = msgspec.json.decode(comparison["value"])
    except (msgspec.DecodeError, RecursionError):
        raise NoCondition(f'{comparison["value"][:40]} is no JSON value; text stands in "') from None
    if comparison["operator"] in _ORDERS and not (_is_number(wanted) or isinstance(wanted, str)):
        raise NoCondition(f"{comparison['operator']} compares numbers or texts")
    return wanted


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(got: Any, wanted: Any) -> bool:
    if isinstance(got, bool) or isinstance(wanted, bool):
        return got is wanted
    return bool(got == wanted)


def _short(value: Any) -> str:
    """Of what kind, and a number or a word itself: a body is nobody's to repeat."""
    if value is None or isinstance(value, bool) or _is_number(value):
        return str(msgspec.json.encode(value), "ascii")[:40]
    if isinstance(value, str):
        short = value[:40].encode("unicode_escape").decode("ascii").replace('"', '\\"')
        return f'"{short[:60]}{"..." if len(value) > 40 else ""}"'
    return f"a list of {len(value)}" if isinstance(value, list) else "an object"
