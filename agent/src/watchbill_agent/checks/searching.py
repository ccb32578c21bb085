"""Searching with expressions of operators in text of strangers, without running for ever.

Python's `re` backtracks: a careless expression and a chosen line keep it busy for ever. It listens to signals while
it does, so a timer of CPU time ends a search that took too long. The line counts as abandoned; after a few of them an
expression rests until the next look. Where there is no timer (a thread that is not the first), the process that looks
is killed at its deadline.
"""

import re
import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Final, Self

SEARCH_CPU_S_MAX: Final = 0.1
"""A thousand times what a line takes."""
TOGETHER_CPU_S_MAX: Final = 0.25
"""Of many short searches that are timed together first; a timer for each would cost more than most of them."""
ABANDONED_PER_LOOK_MAX: Final = 20
TEXT_BYTES_MAX: Final = 8 * 1024
"""Of one line; what is beyond is not looked at."""
EXPRESSION_CHARACTERS_MAX: Final = 1_024

_TOKEN: Final = re.compile(
    r"(?P<escape>\\.)|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<group>\((?:\?[^:=!<>)a-zA-Z#(]|\?[:=!>]|\?<[=!]|\?P<\w+>)?)"
    r"|(?P<close>\))|(?P<least>[*?]|\{[^}]*\})|(?P<more>\+)|(?P<other>[|^$.])|(?P<plain>.)",
    re.DOTALL,
)


class TooLong(Exception):
    """A search that was ended."""


def expression(text: str) -> "re.Pattern[bytes]":
    """Compiled for bytes: `\\w` and ignoring case know ASCII alone. Raises ValueError with what is wrong."""
    if not text or len(text) > EXPRESSION_CHARACTERS_MAX:
        raise ValueError(f"1 to {EXPRESSION_CHARACTERS_MAX} characters")
    try:
        return re.compile(text.encode("utf-8", "surrogateescape"))
    except (re.error, RecursionError, OverflowError) as exc:
        raise ValueError(f"a regular expression: {exc}") from exc


def expression_wanted(text: str) -> str | None:
    """For `option(check=...)`: what is wanted instead; None when it is right."""
    try:
        expression(text)
    except ValueError as exc:
        return str(exc)
    return None


def literal_of(text: str) -> bytes:
    """The longest text that stands in whatever the expression finds; empty when that cannot be said simply. Lines
    without it need no search."""
    if "(?i" in text or "(?x" in text or "(?s" in text or "(?a" in text or "(?L" in text or "(?m" in text:
        return b""
    runs, run, depth = [""], "", 0
    for token in _TOKEN.finditer(text):
        if token["other"] == "|" and depth == 0:
            return b""
        plain = token["plain"] or (
            token["escape"][1] if token["escape"] and not token["escape"][1].isalnum() else ""
        )
        if depth == 0 and plain:
            run += plain
            continue
        if token["least"]:
            run = run[:-1]  # It may be missing.
        runs.append(run)
        run = ""
        depth += bool(token["group"]) - bool(token["close"])
    return max([*runs, run], key=len).encode("utf-8", "surrogateescape")


class Searching:
    """As long as the block runs, searches are timed.

    with Searching() as searching:
        found = searching.search(compiled, line)
    """

    def __init__(self) -> None:
        self._timed = threading.current_thread() is threading.main_thread()
        self._abandoned: dict[int, int] = {}
        self._before: object = None

    def __enter__(self) -> Self:
        if self._timed:
            self._before = signal.signal(signal.SIGVTALRM, _end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timed:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, self._before)  # type: ignore[arg-type]

    def search(self, compiled: "re.Pattern[bytes]", text: bytes) -> "re.Match[bytes] | None":
        """What it finds in the first TEXT_BYTES_MAX. Raises TooLong when it was ended, or rests."""
        key = id(compiled)
        if self._abandoned.get(key, 0) >= ABANDONED_PER_LOOK_MAX:
            raise TooLong
        if not self._timed:
            return compiled.search(text, 0, TEXT_BYTES_MAX)
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, SEARCH_CPU_S_MAX)
            found = compiled.search(text, 0, TEXT_BYTES_MAX)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        except TooLong:
            self._abandoned[key] = self._abandoned.get(key, 0) + 1
            raise
        return found

    def search_all(
        self, compiled: "re.Pattern[bytes]", texts: Sequence[bytes]
    ) -> tuple[list["re.Match[bytes]"], int]:
        """What it finds in those in which it finds something, and in how many that is not known."""
        if self._timed and self._abandoned.get(id(compiled), 0) < ABANDONED_PER_LOOK_MAX:
            try:
                signal.setitimer(signal.ITIMER_VIRTUAL, TOGETHER_CPU_S_MAX)
                search = compiled.search
                found = [one for text in texts if (one := search(text, 0, TEXT_BYTES_MAX)) is not None]
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            except TooLong:
                pass  # One by one, then: nothing came of it yet.
            else:
                return found, 0
        found, abandoned = [], 0
        for text in texts:
            try:
                match = self.search(compiled, text)
            except TooLong:
                abandoned += 1
                continue
            if match is not None:
                found.append(match)
        return found, abandoned

    def first_of(
        self, several: Sequence[tuple[bytes, "re.Pattern[bytes]"]], texts: Sequence[bytes]
    ) -> list[int | None]:
        """For each text, which of several finds something in it first; one that takes too long finds nothing. Each
        comes with what `literal_of` says of it."""
        if self._timed and not self._abandoned:
            try:
                signal.setitimer(signal.ITIMER_VIRTUAL, TOGETHER_CPU_S_MAX)
                firsts = [_first(several, text) for text in texts]
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            except TooLong:
                pass  # One by one, then.
            else:
                return firsts
        return [self._careful_first(several, text) for text in texts]

    def _careful_first(self, several: Sequence[tuple[bytes, "re.Pattern[bytes]"]], text: bytes) -> int | None:
        for number, (_, compiled) in enumerate(several):
            try:
                if self.search(compiled, text) is not None:
                    return number
            except TooLong:
                continue
        return None


def _first(several: Sequence[tuple[bytes, "re.Pattern[bytes]"]], text: bytes) -> int | None:
    for number, (literal, compiled) in enumerate(several):
        if literal in text and compiled.search(text, 0, TEXT_BYTES_MAX) is not None:
            return number
    return None


def _end(_number: int, _frame: FrameType | None) -> None:
    raise TooLong
