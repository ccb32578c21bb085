"""Looks for lines in what a command prints: `fail_if`, `partial_if`, `ok_if`, regular expressions of the job.

A regular expression may take for ever on a line that it was not made for, and Python cannot be interrupted in it. So
the search is a process of its own, forked before the command starts: it is given everything that is printed, and
whoever prints waits for it WAIT_S_MAX in all. When it does not keep up it is ended, and the run's record says that the
search is not whole; the backup goes on.
"""

import contextlib
import json
import os
import re
import resource
import select
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

FAIL_IF: Final = "fail_if"
PARTIAL_IF: Final = "partial_if"
OK_IF: Final = "ok_if"
KINDS: Final = (FAIL_IF, PARTIAL_IF, OK_IF)

PATTERNS_MAX: Final = 150
LINE_BYTES_MAX: Final = 8 * 1024
"""A longer line is looked at in pieces."""
READ_BYTES: Final = 64 * 1024
WAIT_S_MAX: Final = 5.0
"""How long a command's output may be held up by the search, all in all."""
FINISH_S: Final = 5.0
"""How long the search may take after the end of the output."""
CPU_S_MAX: Final = 600
SHOWN_CHARACTERS_MAX: Final = 500
"""Of the line that was found."""
RESULT_BYTES_MAX: Final = 64 * 1024


class Found(NamedTuple):
    """The first line that each kind found. `whole` is False when not everything was looked at."""

    lines: Mapping[str, str] = MappingProxyType({})
    whole: bool = True


class UnusablePattern(ValueError):
    """No regular expression."""


Compiled = Mapping[str, Sequence["re.Pattern[str]"]]


def compiled(patterns: Mapping[str, Sequence[str]]) -> dict[str, list["re.Pattern[str]"]]:
    """Ready to search. Raises UnusablePattern, which names the first that is none."""
    found: dict[str, list[re.Pattern[str]]] = {}
    for kind in KINDS:
        texts = patterns.get(kind, ())
        if len(texts) > PATTERNS_MAX:
            raise UnusablePattern(f"{kind}: got {len(texts)} patterns, wanted at most {PATTERNS_MAX}")
        for text in texts:
            try:
                found.setdefault(kind, []).append(re.compile(text, re.MULTILINE))
            except (re.error, RecursionError, OverflowError) as exc:
                raise UnusablePattern(
                    f"{kind}: got {text[:80]!r}, wanted a regular expression: {exc}"
                ) from exc
    return found


class Search:
    """The process that searches, as the one that feeds it sees it. Several threads may feed."""

    def __init__(self, patterns: Compiled, streams: int = 2) -> None:
        pipes = [os.pipe() for _ in range(streams)]
        result, answer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _search_and_end(patterns, pipes, result, answer)
        os.close(answer)
        for reading, writing in pipes:
            os.close(reading)
            os.set_blocking(writing, False)
        self._writing = [writing for _, writing in pipes]
        self._result = result
        self._lock = threading.Lock()
        self._left_s = WAIT_S_MAX
        self._whole = True

    def feed(self, stream: int, data: bytes) -> None:
        """What was printed. Waits as long as the bound allows; afterwards nothing is fed any more."""
        with self._lock:
            view = memoryview(data)
            while view and self._whole:
                try:
                    view = view[os.write(self._writing[stream], view) :]
                except BlockingIOError:
                    self._wait(self._writing[stream])
                except OSError:
                    self._whole = False  # It is gone.

    def _wait(self, writing: int) -> None:
        before_s = time.monotonic()
        poll = select.poll()
        poll.register(writing, select.POLLOUT)
        poll.poll(max(0.0, self._left_s) * 1000)
        self._left_s -= time.monotonic() - before_s
        self._whole = self._left_s > 0

    def finish(self) -> Found:
        """What it found; it is ended."""
        for writing in self._writing:
            os.close(writing)
        lines: Mapping[str, str] = {}
        if self._whole:
            lines, self._whole = self._answer()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        os.close(self._result)
        return Found(lines, self._whole)

    def _answer(self) -> tuple[Mapping[str, str], bool]:
        content, until_s = b"", time.monotonic() + FINISH_S
        poll = select.poll()
        poll.register(self._result, select.POLLIN)
        while (left_s := until_s - time.monotonic()) > 0 and len(content) < RESULT_BYTES_MAX:
            if not poll.poll(left_s * 1000):
                break
            piece = os.read(self._result, RESULT_BYTES_MAX)
            if not piece:
                break
            content += piece
        try:
            found = json.loads(content)
        except ValueError:
            return {}, False
        return {str(kind): str(line) for kind, line in found.items()}, True


# ---------------------------------------------------------------- in the process that searches


def _search_and_end(patterns: Compiled, pipes: Sequence[tuple[int, int]], result: int, answer: int) -> None:
    code = 1
    try:
        os.close(result)
        for _, writing in pipes:
            os.close(writing)
        _stand_aside()
        search = _Lines(patterns)
        _read_all({reading: b"" for reading, _ in pipes}, search)
        os.write(answer, json.dumps(search.found).encode())
        code = 0
    finally:
        os._exit(code)  # Nothing of the process that was forked may happen twice.


def _stand_aside() -> None:
    """No output that others wait for the end of, no signals of a terminal, the least claim to the processor."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(10)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S_MAX, CPU_S_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read_all(rests: dict[int, bytes], search: "_Lines") -> None:
    """Until all are at their end; `rests` holds what of each is no whole line yet."""
    poll = select.poll()
    for reading in rests:
        poll.register(reading, select.POLLIN)
    while rests:
        for reading, _ in poll.poll():
            piece = os.read(reading, READ_BYTES)
            if not piece:
                poll.unregister(reading)
                search.look(rests.pop(reading))
                continue
            whole, newline, rest = (rests[reading] + piece).rpartition(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                whole, newline, rest = whole + newline + rest, b"", b""
            search.look(whole + newline)
            rests[reading] = rest


class _Lines:
    """Keeps the first line that each kind finds."""

    def __init__(self, patterns: Compiled) -> None:
        self._left = dict(patterns)
        self.found: dict[str, str] = {}

    def look(self, block: bytes) -> None:
        """Search whole lines."""
        if not block or not self._left:
            return
        text = block.decode("utf-8", "replace").replace("\r\n", "\n")
        for kind, patterns in list(self._left.items()):
            hits = (pattern.search(text) for pattern in patterns)
            hit = next((one for one in hits if one is not None), None)
            if hit is not None:
                begin = text.rfind("\n", 0, hit.start()) + 1
                end = text.find("\n", hit.end())
                self.found[kind] = text[begin : end if end >= 0 else len(text)][:SHOWN_CHARACTERS_MAX]
                del self._left[kind]
