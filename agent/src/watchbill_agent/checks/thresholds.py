"""Limits on the numbers that a check finds: what is too much is a warning, or a failure.

warn = ["connections_used_ratio > 0.8", "query_seconds > 500ms"]
fail = ["connections_used_ratio > 95%"]
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from watchbill.config import ByteSize, Duration, NotWanted, Wrong
from watchbill.config.convert import show_value
from watchbill_agent.checks.check import Outcome, Samples, Verdict
from watchbill_agent.names import WrongOption

LIMITS_MAX: Final = 32
WANTED: Final = 'a number of the check and a limit, such as "query_seconds > 500ms" or "used_ratio >= 80%"'
WARN, FAIL = "over-warn", "over-fail"
"""The reasons."""

_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}
_LIMIT = re.compile(r"\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(>=|<=|==|!=|>|<)\s*(\S{1,32})\s*", re.ASCII)
_NUMBER = re.compile(r"(-?\d{1,18}(?:\.\d{1,18})?)(%?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Limit:
    """What must not be."""

    name: str
    comparison: str
    bound: float
    text: str

    def crossed(self, numbers: Mapping[str, float]) -> bool:
        """Whether it is. A number that is not there crosses nothing."""
        value = numbers.get(self.name)
        return value is not None and _COMPARE[self.comparison](value, self.bound)


def read_limit(text: str) -> Limit | None:
    """None when it is none."""
    match = _LIMIT.fullmatch(text)
    bound = _bound(match[3]) if match is not None else None
    if match is None or bound is None:
        return None
    return Limit(match[1], match[2], bound, f"{match[1]} {match[2]} {match[3]}")


def _bound(word: str) -> float | None:
    match = _NUMBER.fullmatch(word)
    if match is not None:
        return float(match[1]) / (100 if match[2] else 1)
    for unit in (Duration, ByteSize):
        try:
            return float(unit.from_config(word))
        except NotWanted:
            continue
    return None


def limits_wrong(values: Sequence[str]) -> Iterator[Wrong]:
    """For `option(check=...)`."""
    for number, value in enumerate(values):
        if read_limit(value) is None:
            yield Wrong((number,), show_value(value), WANTED)


class Thresholds:
    """The limits of a check. `names`: the numbers that it has; None where only looking tells. Raises WrongOption."""

    def __init__(self, kind: str, options: Any, names: Sequence[str] | None) -> None:
        self._warn = _read(options.warn)
        self._fail = _read(options.fail)
        for key, limits in (("warn", self._warn), ("fail", self._fail)):
            for limit in limits:
                if names is not None and limit.name not in names:
                    wanted = f"one of its numbers: {', '.join(names)}"
                    raise WrongOption(kind, key, show_value(limit.name), wanted)

    def judge(self, numbers: Mapping[str, float], found: Samples, detail: str = "") -> Outcome:
        """The verdict on these numbers; `detail` is told when nothing is over a limit."""
        for limits, verdict, reason in (
            (self._fail, Verdict.CRITICAL, FAIL),
            (self._warn, Verdict.WARNING, WARN),
        ):
            over = [limit for limit in limits if limit.crossed(numbers)]
            if over:
                said = "; ".join(
                    f"{one.name}: got {numbers[one.name]:g}, wanted not {one.text}" for one in over
                )
                return Outcome(verdict, reason, said, found)
        return Outcome(Verdict.OK, "", detail, found)


def _read(texts: Sequence[str]) -> tuple[Limit, ...]:
    limits = [read_limit(text) for text in texts]
    assert None not in limits, "the option was judged"
    return tuple(limit for limit in limits if limit is not None)
