"""Logging for daemons: one line per event a person would act on, to standard error, bounded and harmless.

Under the journal (JOURNAL_STREAM names our standard error) lines carry `<N>` priorities and no time;
elsewhere they carry the time. What comes from outside is escaped, so that no host name writes a second line;
a line is at most 4 KiB. Each kind of line has a token bucket: a storm becomes a few lines and a count.

    log.warning("collector refused us", extra=fields(address=address, reason=reason))
"""

import logging
import os
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TextIO

LINE_BYTES_MAX = 4096
TRACE_LINES_MAX = 60
BURST_LINES = 10
"""Lines of one kind that may come at once."""
REFILL_S = 10.0
"""After this long one more line of the kind may come."""
KINDS_MAX = 512
"""Kinds of lines whose buckets are kept; the one unused for longest is forgotten."""

_FIELDS = "watchbill_fields"
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7


def fields(**values: object) -> dict[str, object]:
    """For a logging call's `extra`: what the line is about, printed as key=value."""
    return {_FIELDS: values}


def setup(
    level: int = logging.INFO,
    stream: TextIO | None = None,
    env: Mapping[str, str] = os.environ,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> "RateLimit":
    """Send every log line of the process to `stream` (standard error); returns the limiter and its count."""
    stream = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(journal=_is_journal(stream, env)))
    limit = RateLimit(monotonic_s)
    handler.addFilter(limit)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # A line that cannot be written (closed or full standard error) must not become a traceback.
    logging.raiseExceptions = False
    return limit


def _is_journal(stream: TextIO, env: Mapping[str, str]) -> bool:
    device, _, inode = env.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class LineFormatter(logging.Formatter):
    """`LEVEL name: message key=value ...`, then the lines of a traceback when there is one."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Whole lines without the last newline, each bounded and prefixed."""
        lines = [self._message(record)]
        if record.exc_info and record.exc_info[1] is not None:
            text = "".join(traceback.format_exception(record.exc_info[1]))
            lines += text.splitlines()[-TRACE_LINES_MAX:]
        prefix = self._prefix(record)
        return "\n".join(_bounded(prefix + escape(line)) for line in lines)

    def _message(self, record: logging.LogRecord) -> str:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = f"{record.msg} {record.args!r}"  # Wrong holes are no reason to lose the line.
        values = dict(getattr(record, _FIELDS, None) or {})
        suppressed = getattr(record, _SUPPRESSED, 0)
        if suppressed:
            values["suppressed"] = suppressed
        pairs = "".join(f" {key}={_field_text(value)}" for key, value in values.items())
        return f"{record.name.removeprefix('watchbill_')}: {message}{pairs}"

    def _prefix(self, record: logging.LogRecord) -> str:
        if self._journal:
            number = next(
                (number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG_PRIORITY
            )
            return f"<{number}>"
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return f"{when} {record.levelname} "


def escape(text: str) -> str:
    """The text without anything that moves a cursor, ends a line or turns writing around."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _field_text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    if text and not any(char in ' "=\n\t' for char in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _bounded(line: str) -> str:
    data = line.encode("utf-8", "backslashreplace")
    if len(data) <= LINE_BYTES_MAX:
        return line
    return data[: LINE_BYTES_MAX - 3].decode("utf-8", "ignore") + "…"


_SUPPRESSED = "watchbill_suppressed"


class RateLimit(logging.Filter):
    """A token bucket for each kind of line: logger, level and the message before its holes are filled."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic_s = monotonic_s
        self._buckets: OrderedDict[tuple[str, int, str], _Bucket] = OrderedDict()
        self.suppressed_total = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line may go out; the one after a silence says how many did not."""
        kind = (record.name, record.levelno, str(record.msg)[:200])
        bucket = self._buckets.get(kind)
        now_s = self._monotonic_s()
        if bucket is None:
            bucket = self._buckets[kind] = _Bucket(now_s)
            if len(self._buckets) > KINDS_MAX:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(kind)
        if not bucket.take(now_s):
            self.suppressed_total += 1
            return False
        setattr(record, _SUPPRESSED, bucket.suppressed)
        bucket.suppressed = 0
        return True


class _Bucket:
    __slots__ = ("_at_s", "_tokens", "suppressed")

    def __init__(self, now_s: float) -> None:
        self._tokens = float(BURST_LINES)
        self._at_s = now_s
        self.suppressed = 0

    def take(self, now_s: float) -> bool:
        self._tokens = min(BURST_LINES, self._tokens + (now_s - self._at_s) / REFILL_S)
        self._at_s = now_s
        if self._tokens < 1:
            self.suppressed += 1
            return False
        self._tokens -= 1
        return True


class Presence:
    """Something that goes away and comes back: one line for each, the second with how long it was gone."""

    def __init__(
        self, log: logging.Logger, what: str, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._what = what
        self._monotonic_s = monotonic_s
        self._since_s: float | None = None
        self._tries = 0

    @property
    def away(self) -> bool:
        """Whether it is gone now."""
        return self._since_s is not None

    def lost(self, reason: object, **more: object) -> None:
        """It is not there; said the first time only."""
        self._tries += 1
        if self._since_s is None:
            self._since_s = self._monotonic_s()
            self._log.warning("%s went away", self._what, extra=fields(reason=reason, **more))

    def found(self, **more: object) -> None:
        """It is there; said only when it had been gone."""
        if self._since_s is None:
            return
        away_s = self._monotonic_s() - self._since_s
        self._log.warning("%s came back", self._what, extra=fields(after_s=away_s, tries=self._tries, **more))
        self._since_s = None
        self._tries = 0
