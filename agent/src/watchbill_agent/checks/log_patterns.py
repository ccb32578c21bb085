"""Lines that somebody wants to hear of: how many matched, which number stood in them, and whether they were too
many."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

from watchbill.config import Duration, option
from watchbill_agent.checks.check import Samples
from watchbill_agent.checks.searching import Searching, expression, expression_wanted, literal_of

PATTERNS_MAX: Final = 32
RECENT_MAX: Final = 120
"""Looks with a match that a pattern remembers for `fail_if`; older ones are put together."""
VALUE_MAX: Final = 1e15
BOUNDS_DEFAULT: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 3.0, 5.0, 10.0)
BOUNDS_MAX: Final = 32


def bounds_wanted(bounds: Sequence[float]) -> str | None:
    """For `option(check=...)`."""
    rising = all(low < high for low, high in pairwise(bounds))
    return None if bounds and rising else "at least one number, each greater than the one before"


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternOptions:
    """Lines to count."""

    name: str = option(help="Label `pattern`; unique in the check.", length_max=64, example='"oom"')
    regex: str = option(
        check=expression_wanted,
        help="What a line holds, searched in its first 8 KiB.",
        example="'timed out after (\\d+) ms'",
    )
    severity: Literal["critical", "major", "minor", "info"] = option(
        "minor",
        help="Label `severity`. With `fail_if`, critical and major make the check CRITICAL, others WARNING.",
    )
    value: Literal["", "gauge", "histogram"] = option(
        "",
        help="What becomes of the number in the first group: the last one is kept, or all are put into buckets.",
    )
    bounds: list[float] = option(
        list(BOUNDS_DEFAULT), length_max=BOUNDS_MAX, check=bounds_wanted, help="Buckets of a histogram."
    )
    fail_if: int = option(
        0,
        help="The check fails at so many lines within `fail_within`; 0: never.",
        at_least=0,
        at_most=1_000_000_000,
    )
    fail_within: Duration = option(
        Duration(300), help="The time for `fail_if`.", at_least=Duration(1), at_most=Duration(86_400)
    )


class Pattern:
    """One of them, with what it has seen since the first look."""

    def __init__(self, options: PatternOptions) -> None:
        self.options = options
        self._compiled = expression(options.regex)
        self._literal = literal_of(options.regex)
        self.matched = 0
        self.abandoned = 0
        self._last: float | None = None
        self._buckets = [0] * (len(options.bounds) + 1)
        self._sum = 0.0
        self._recent: list[tuple[int, int]] = []
        self._now = 0

    def add(self, chunk: bytes, searching: Searching) -> None:
        """Look at the lines of a chunk."""
        found, abandoned = searching.search_all(self._compiled, list(self._candidates(chunk)))
        self.abandoned += abandoned
        self.matched += len(found)
        self._now += len(found)
        if self.options.value and self._compiled.groups:
            for one in found:
                self._value(one[1])

    def _candidates(self, chunk: bytes) -> Iterator[bytes]:
        literal = self._literal
        if not literal:
            yield from chunk.split(b"\n")[:-1]
            return
        at = chunk.find(literal)
        while at >= 0:
            start, end = chunk.rfind(b"\n", 0, at) + 1, chunk.find(b"\n", at)
            yield chunk[start:end]
            at = chunk.find(literal, end)

    def _value(self, text: bytes | None) -> None:
        try:
            number = float(text or b"")
        except ValueError:
            return
        if not -VALUE_MAX <= number <= VALUE_MAX:
            return
        self._last = number
        self._sum += number
        self._buckets[bisect_left(self.options.bounds, number)] += 1

    def judge(self, now_ms: int) -> int:
        """Lines within `fail_within`, when they are too many; 0 otherwise. Ends the look."""
        if self._now and self.options.fail_if:
            self._recent.append((now_ms, self._now))
        self._now = 0
        since_ms = now_ms - round(float(self.options.fail_within) * 1000)
        # A clock that was set back must not keep an alarm for ever.
        self._recent = [one for one in self._recent if since_ms < one[0] <= now_ms]
        if len(self._recent) > RECENT_MAX:
            (_, first), (at_ms, second) = self._recent[:2]
            self._recent[:2] = [(at_ms, first + second)]
        count = sum(count for _, count in self._recent)
        return count if self.options.fail_if and count >= self.options.fail_if else 0

    def put(self, samples: Samples) -> None:
        """Counts and values."""
        pairs = {"pattern": self.options.name}
        severity = self.options.severity
        samples.counter(
            "log_lines_matched_total", "Lines that match a pattern.", self.matched, **pairs, severity=severity
        )
        help_ = "Lines that a pattern took too long for; whether they match is not known."
        samples.counter("log_lines_abandoned_total", help_, self.abandoned, **pairs)
        if self.options.value == "gauge" and self._last is not None:
            samples.gauge(
                "log_pattern_value", "The number in the last line that matched.", self._last, **pairs
            )
        if self.options.value == "histogram":
            total = 0
            counts = [total := total + count for count in self._buckets]
            help_ = "The numbers in lines that matched."
            samples.histogram("log_pattern_values", help_, self.options.bounds, counts, self._sum, **pairs)

    def memory(self) -> list[Any]:
        """Everything, as JSON."""
        options = self.options
        shape = [options.regex, list(options.bounds)]
        return [shape, self.matched, self.abandoned, self._last, self._buckets, self._sum, self._recent]

    def recall(self, memory: Sequence[Any]) -> None:
        """Go on from there; of another expression, from nothing. Raises ValueError or TypeError for what is none."""
        shape, matched, abandoned, last, buckets, total, recent = memory
        if shape != [self.options.regex, list(self.options.bounds)]:
            return
        kept = [int(count) for count in buckets], [(int(at_ms), int(count)) for at_ms, count in recent]
        if len(kept[0]) != len(self._buckets):
            raise ValueError("buckets that do not fit their bounds")
        self.matched, self.abandoned, self._sum = int(matched), int(abandoned), float(total)
        self._last = None if last is None else float(last)
        self._buckets, self._recent = kept
        self._now = 0


class Patterns:
    """All of a check."""

    def __init__(self, options: Sequence[PatternOptions]) -> None:
        self._all = [Pattern(one) for one in options]

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, chunk: bytes, searching: Searching) -> None:
        """Look at the lines of a chunk."""
        for pattern in self._all:
            pattern.add(chunk, searching)

    def judge(self, now_ms: int) -> list[tuple[PatternOptions, int]]:
        """Those with too many lines, and how many."""
        judged = [(pattern.options, pattern.judge(now_ms)) for pattern in self._all]
        return [(options, count) for options, count in judged if count]

    def put(self, samples: Samples) -> None:
        """Everything as families."""
        for pattern in self._all:
            pattern.put(samples)

    def memory(self) -> Mapping[str, Any]:
        """By name, as JSON."""
        return {pattern.options.name: pattern.memory() for pattern in self._all}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from there. Raises ValueError or TypeError for what is none."""
        for pattern in self._all:
            if pattern.options.name in memory:
                pattern.recall(memory[pattern.options.name])
