"""Matchers: conditions on one label, decided on codes.

A selector is decided on label *codes*, each distinct one once, however many series carry it. Regular
expressions are RE2 (linear time, so a query cannot stall the collector) and match the whole value, a newline
included, as Prometheus 3 has it. Most of those that people write are plain alternations ("a|b|c"): they
become a set and no regular expression runs.
"""

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
import re2

from watchbill.errors import WatchbillError
from watchbill_collector.labels import STRINGS, Codes

REGEX_MEMORY_BYTES_MAX = 1 << 23
"""What one compiled expression may take; a larger one is refused."""
REGEX_CACHE_MAX = 1_024
"""Compiled expressions kept; the least recently used goes."""
META = frozenset(r"\.+*?()[]{}^$|")


class InvalidRegex(WatchbillError):
    """A regular expression that RE2 does not take."""

    def __init__(self, pattern: str, reason: str) -> None:
        super().__init__(f"invalid regular expression {pattern!r}: {reason}")
        self.pattern = pattern
        self.reason = reason


class MatchOp(Enum):
    """How a matcher compares, in PromQL's spelling."""

    EQUAL = "="
    NOT_EQUAL = "!="
    REGEX = "=~"
    NOT_REGEX = "!~"


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label. A missing label has the value "". Regexes are RE2, on the whole value."""

    name: str
    op: MatchOp
    value: str

    def matches(self, text: str) -> bool:
        """Whether a label of this value is wanted. Raises InvalidRegex."""
        return self._wants(text) == self._positive

    def matches_codes(self, codes: Codes) -> npt.NDArray[np.bool_]:
        """The same for many labels by their codes, each distinct one decided once. Raises InvalidRegex."""
        hits = self._hits(codes)
        return hits if self._positive else ~hits

    def check(self) -> None:
        """Raises InvalidRegex now rather than at the first label."""
        self.matches("")

    @property
    def _positive(self) -> bool:
        return self.op in (MatchOp.EQUAL, MatchOp.REGEX)

    def _wants(self, text: str) -> bool:
        if self.op in (MatchOp.EQUAL, MatchOp.NOT_EQUAL):
            return text == self.value
        plain = alternatives(self.value)
        return text in plain if plain is not None else _compiled(self.value).fullmatch(text) is not None

    def _hits(self, codes: Codes) -> npt.NDArray[np.bool_]:
        if self.op in (MatchOp.EQUAL, MatchOp.NOT_EQUAL):
            return _among(codes, (self.value,))
        plain = alternatives(self.value)
        if plain is not None:
            return _among(codes, tuple(plain))
        if self.value == ".*":
            return np.ones(len(codes), np.bool_)
        if self.value == ".+":
            return np.not_equal(codes, 0)
        fullmatch = _compiled(self.value).fullmatch
        distinct, position = np.unique(codes, return_inverse=True)
        wanted = [fullmatch(STRINGS.text(code)) is not None for code in distinct.tolist()]
        return np.array(wanted, np.bool_)[position.reshape(-1)]


def _among(codes: Codes, texts: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    wanted = [code for code in map(STRINGS.find, texts) if code is not None]
    if len(wanted) == 1:
        return np.equal(codes, wanted[0])
    return np.isin(codes, np.array(wanted, np.int32))


@lru_cache(REGEX_CACHE_MAX)
def alternatives(pattern: str) -> frozenset[str] | None:
    """The values that a plain alternation such as "a|b" or "(a|b)" names; None for anything cleverer."""
    inner = pattern[1:-1] if pattern.startswith("(") and pattern.endswith(")") else pattern
    parts = inner.split("|")
    return None if any(META.intersection(part) for part in parts) else frozenset(parts)


class _Pattern(Protocol):
    def fullmatch(self, text: str) -> object | None: ...


@lru_cache(REGEX_CACHE_MAX)
def _compiled(pattern: str) -> _Pattern:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.dot_nl = True
    options.max_mem = REGEX_MEMORY_BYTES_MAX
    try:
        compiled: _Pattern = re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as exc:
        reason = exc.args[0] if exc.args else "not UTF-8"
        raise InvalidRegex(pattern, reason.decode() if isinstance(reason, bytes) else str(reason)) from exc
    return compiled
