"""Regular expressions over what strangers say: RE2's, which cannot run for ever whatever the text.

Python's own backtrack: a body that a server chooses could stop every check of the host. RE2 takes time in proportion
to the text (1 to 3 ms for 1 MB, at the very worst 1.4 s) and a bounded memory, and is the syntax that
blackbox_exporter's users write. Patterns see bytes; ^ and $ match at lines, as people mean who write them for answers
of many lines.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from watchbill.config.convert import show_value
from watchbill_agent.names import WrongOption

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

PATTERN_CHARACTERS_MAX: Final = 1_024
PATTERN_MEMORY_BYTES_MAX: Final = 1 << 20
"""Of one compiled pattern and of what a search with it may take. One that needs more is refused when it is read."""

APART_BYTES: Final = 32 * 1024
"""A longer text is searched beside the event loop: a pattern such as a.{100}z takes 1.3 s for 1 MB of chosen text."""
THREADS_MAX: Final = 2
"""That search beside it. RE2 lets Python go on meanwhile; who waits longer than his deadline is told so."""

_THREADS: Final = ThreadPoolExecutor(THREADS_MAX, "patterns")


class Regex:
    """One pattern, compiled once."""

    __slots__ = ("_compiled", "text")

    def __init__(self, text: str, compiled: Any) -> None:
        self.text = text
        self._compiled = compiled

    def found_in(self, said: bytes) -> bool:
        """Whether it matches anywhere."""
        return self._compiled.search(said) is not None

    def end_in(self, said: bytes) -> int:
        """Where its first match ends; -1 if there is none."""
        match = self._compiled.search(said)
        return -1 if match is None else int(match.end())


def compiled(text: str, check: str, field: str) -> Regex | None:
    """The pattern, judged; None where RE2 is not installed, of which a look says so. Raises WrongOption."""
    if len(text) > PATTERN_CHARACTERS_MAX:
        got = f"{len(text)} characters"
        raise WrongOption(check, field, got, f"at most {PATTERN_CHARACTERS_MAX} characters")
    try:
        import re2
    except ImportError:
        return None
    options = re2.Options()
    options.log_errors = False
    options.max_mem = PATTERN_MEMORY_BYTES_MAX
    try:
        # One flag in front: RE2's own option for lines works in its other syntax alone.
        return Regex(text, re2.compile(b"(?m)" + text.encode("utf-8", "surrogatepass"), options))
    except re2.error as exc:
        why = (
            exc.args[0].decode("utf-8", "replace")
            if exc.args and isinstance(exc.args[0], bytes)
            else str(exc)
        )
        got = f"{show_value(text)}, which is none ({why})"
        raise WrongOption(check, field, got, "a regular expression in RE2's syntax") from exc


def all_compiled(texts: "Sequence[str]", check: str, field: str) -> "tuple[Regex | None, ...]":
    """Each of a list; the fault is told of `field[number]`."""
    return tuple(compiled(text, check, f"{field}[{number}]") for number, text in enumerate(texts))


async def judged(text: bytes, judge: "Callable[[], T]") -> T:
    """What `judge` says of the text, in a thread where the text is long."""
    if len(text) <= APART_BYTES:
        return judge()
    return await asyncio.get_running_loop().run_in_executor(_THREADS, judge)
