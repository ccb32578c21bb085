"""Reads log files and the journal as they grow: requests, error codes and response times from access logs, and lines
that match patterns.

    [[check]]
    name = "shop-log"
    kind = "log"
    files = ["/var/log/nginx/shop*.log"]
    format = "combined"

Where it has read to and what it has counted are remembered together, so a restart neither loses a line nor counts one
twice, as long as the file is there; what is known to be lost is counted. What a look does not come to, the next one
reads: a series says how much that is.

Reasons: `no-file`, `not-permitted`, `not-installed`, `journal-failed`, `format-mismatch` (UNKNOWN: nothing is known),
`pattern` (too many lines match; how bad, the pattern says), `unreadable` (WARNING: some of the files).
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from watchbill.config import ByteSize, Wrong, option
from watchbill.config.convert import show_value
from watchbill_agent.checks.check import About, Failed, Outcome, Samples, Task, Verdict
from watchbill_agent.checks.log_counts import OTHER, Counts
from watchbill_agent.checks.log_format import (
    DURATION,
    FIELDS,
    FORMAT_CHARACTERS_MAX,
    PATH,
    STATUS,
    Reader,
    WrongFormat,
    compile_format,
)
from watchbill_agent.checks.log_patterns import (
    BOUNDS_DEFAULT,
    BOUNDS_MAX,
    PATTERNS_MAX,
    PatternOptions,
    Patterns,
    bounds_wanted,
)
from watchbill_agent.checks.searching import Searching, expression, expression_wanted, literal_of
from watchbill_agent.journal import JournalUnreadable, end_of_journal, entries_after, message_of
from watchbill_agent.names import WrongOption
from watchbill_agent.tail import FILES_MAX, Tail

PATHS_MAX: Final = 32
UNITS_MAX: Final = 16
GLOBS_MAX: Final = 16
TIME_SHARE: Final = 0.6
"""Of the deadline, for reading: the rest is for one more chunk and for the answer."""
JOURNAL_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of a look, as JSON: it is held in memory until it is counted."""
MISMATCH_LINES_MIN: Final = 10
"""So many lines and none of the format: it is another one."""

_UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.@\\*-]{0,254}", re.ASCII)
_FIELD_NAME = re.compile(r"[A-Za-z0-9_.^{}-]{1,128}", re.ASCII)


def _files(patterns: Sequence[str]) -> Iterator[Wrong]:
    for number, pattern in enumerate(patterns):
        if not pattern.startswith("/") or "\0" in pattern or "**" in pattern:
            yield Wrong((number,), show_value(pattern), 'an absolute path, with * and ? but without "**"')


def _units(units: Sequence[str]) -> Iterator[Wrong]:
    for number, unit in enumerate(units):
        if not _UNIT.fullmatch(unit):
            yield Wrong((number,), show_value(unit), "the name of a unit, such as nginx.service")


def _fields(names: Mapping[str, str]) -> Iterator[Wrong]:
    for name, variable in names.items():
        if name not in FIELDS:
            yield Wrong((name,), show_value(variable), f"one of: {', '.join(FIELDS)}")
        elif not _FIELD_NAME.fullmatch(variable):
            yield Wrong((name,), show_value(variable), "the name of a variable or key, without $ or %")


@dataclass(frozen=True, slots=True, kw_only=True)
class PathOptions:
    """Requests that belong together."""

    name: str = option(help="Label `path`.", length_max=64, example='"checkout"')
    regex: str = option(check=expression_wanted, help="What their path holds.", example="'^/cart/|^/pay'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is read, and what of it is counted."""

    files: list[str] = option(
        [],
        length_max=GLOBS_MAX,
        check=_files,
        help="Files to follow, with * and ?; rotated ones are read to their end, compressed ones are not.",
        example='["/var/log/nginx/*access.log"]',
    )
    journal: list[str] = option(
        [],
        length_max=UNITS_MAX,
        check=_units,
        help="Units to read in the journal instead.",
        example='["shop.service"]',
    )
    format: str = option(
        "",
        length_max=FORMAT_CHARACTERS_MAX,
        help="Of an access log: common, combined, combined_time, json, or as nginx or Apache write it. Empty: none.",
        example="'$remote_addr [$time_local] \"$request\" $status $request_time'",
    )
    fields: dict[str, str] = option(
        {},
        check=_fields,
        help="Which variable, or key of a JSON line (dots look within), holds what, where it is not the usual one.",
        example='{ duration = "upstream_response_time", client = "http_x_forwarded_for" }',
    )
    duration_unit: Literal["", "s", "ms", "us", "ns"] = option(
        "", help="Of durations; empty: as the format has it (json: s)."
    )
    light: bool = option(False, help="Count statuses and durations alone, which is twice as fast.")
    bounds: list[float] = option(
        list(BOUNDS_DEFAULT),
        length_max=BOUNDS_MAX,
        check=bounds_wanted,
        help="Buckets of durations, in seconds.",
    )
    paths: list[PathOptions] = option(
        [], length_max=PATHS_MAX, help="Count by path as well: the first that matches, else `other`."
    )
    patterns: list[PatternOptions] = option([], length_max=PATTERNS_MAX, help="Lines to count.")
    from_start: bool = option(
        False, help="Read files that are there at the very first look from their start."
    )
    look_bytes: ByteSize = option(
        ByteSize(256 * 1024 * 1024),
        help="How much one look reads at most.",
        at_least=ByteSize(1024 * 1024),
        at_most=ByteSize(16 * 1024**3),
    )

    def check(self) -> Iterator[Wrong]:
        """Something is read, and something is looked for."""
        if bool(self.files) == bool(self.journal):
            yield Wrong("files", show_value(self.files), "files, or units of the journal, and not both")
        if not self.format and not self.patterns:
            yield Wrong("format", show_value(self.format), "a format, or patterns")
        for key, names in (
            ("paths", [one.name for one in self.paths]),
            ("patterns", [one.name for one in self.patterns]),
        ):
            for number, name in enumerate(names):
                if not name or name in names[:number]:
                    yield Wrong((key, number, "name"), show_value(name), "a name of its own")


class Log(Task):
    """Reads on from where the last look ended."""

    kind = "log"
    options_type = Options
    retries = 0  # A second look reads other lines.

    options: Options

    def __init__(self, options: Options, about: About) -> None:
        super().__init__(options, about)
        self._tail = Tail(options.files, from_start=options.from_start)
        self._patterns = Patterns(options.patterns)
        self._paths = [(literal_of(one.regex), expression(one.regex)) for one in options.paths]
        self._reader = self._reader_of(options)
        self._counts = self._new_counts()
        self._cursor: str | None = None
        self._oversized = 0
        self._behind = False
        self._searching: Searching | None = None

    def _reader_of(self, options: Options) -> Reader | None:
        if not options.format:
            return None
        wanted = [STATUS, DURATION] if options.light else [one for one in FIELDS if one != PATH]
        if options.paths:
            wanted.append(PATH)
        try:
            reader = compile_format(options.format, wanted, options.fields, options.duration_unit)
        except WrongFormat as exc:
            raise WrongOption(self.about.name, "format", show_value(options.format), str(exc)) from exc
        if options.paths and PATH not in reader.fields:
            wanted_words = "a format with the request, or no paths"
            raise WrongOption(self.about.name, "format", show_value(options.format), wanted_words)
        return reader

    def _new_counts(self) -> Counts | None:
        if self._reader is None:
            return None
        group: Callable[[Sequence[bytes]], list[str]] | None = self._group if self._paths else None
        return Counts(self.options.bounds, self._reader.duration_unit_s, group)

    def _group(self, paths: Sequence[bytes]) -> list[str]:
        assert self._searching is not None, "paths are looked at while a look reads"
        options = self.options.paths
        numbers = self._searching.first_of(self._paths, paths)
        return [OTHER if number is None else options[number].name for number in numbers]

    # ------------------------------------------------------------ memory

    def memory(self) -> Mapping[str, Any] | None:
        """Where it has read to, and what it has counted until there."""
        counts = None if self._counts is None else self._counts.memory()
        return {
            "tail": self._tail.memory(),
            "cursor": self._cursor,
            "oversized": self._oversized,
            "counts": counts,
            "patterns": self._patterns.memory(),
        }

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from there. Of what does not fit, the counts begin anew: as counters do after a restart."""
        if memory["tail"]["places"] or self.options.files:
            self._tail.recall(memory["tail"])
        cursor = memory["cursor"]
        self._cursor = None if cursor is None else str(cursor)
        self._oversized = int(memory["oversized"])
        self._counts = self._new_counts()
        if self._counts is not None and memory["counts"] is not None:
            self._counts.recall(memory["counts"])
        self._patterns = Patterns(self.options.patterns)
        self._patterns.recall(memory["patterns"])

    # ------------------------------------------------------------ looking

    def look(self, within_s: float) -> Outcome:
        """Read what came since the last look."""
        until_s = time.monotonic() + within_s * TIME_SHARE
        lines = unparsed = 0
        if self._counts is not None:
            self._counts.begin()
            lines, unparsed = self._counts.lines, self._counts.unparsed
        with Searching() as searching:
            self._searching = searching
            if self.options.journal:
                self._read_journal(until_s)
            else:
                self._read_files(until_s)
        self._searching = None
        failing = self._patterns.judge(time.time_ns() // 1_000_000)
        samples = self._samples()
        if self._counts is not None:
            lines, unparsed = self._counts.lines - lines, self._counts.unparsed - unparsed
        return self._outcome(samples, failing, lines, unparsed)

    def _read_files(self, until_s: float) -> None:
        tail = self._tail
        tail.find()
        begun = tail.counts.bytes
        while (chunk := tail.read()) is not None:
            self._take(chunk.data)
            tail.advance(chunk)
            if time.monotonic() >= until_s or tail.counts.bytes - begun >= self.options.look_bytes:
                break
        tail.settle()

    def _read_journal(self, until_s: float) -> None:
        """The first look only finds the end, like that of files."""
        left_s = until_s - time.monotonic()
        try:
            if self._cursor is None:
                self._cursor = end_of_journal(left_s)
                return
            units = [f"--unit={unit}" for unit in self.options.journal]
            bytes_max = min(JOURNAL_BYTES_MAX, int(self.options.look_bytes))
            found = entries_after(self._cursor, units, left_s, bytes_max)
        except JournalUnreadable as exc:
            samples = self._samples()
            raise Failed(exc.reason, str(exc), verdict=Verdict.UNKNOWN, samples=samples) from exc
        self._take(b"".join(message_of(entry) + b"\n" for entry in found.entries))
        self._cursor, self._behind = found.cursor, found.behind
        self._oversized += found.oversized

    def _take(self, chunk: bytes) -> None:
        if not chunk:
            return
        assert self._searching is not None
        if self._counts is not None and self._reader is not None:
            self._counts.add(self._reader.read(chunk))
        self._patterns.add(chunk, self._searching)

    # ------------------------------------------------------------ saying

    def _samples(self) -> Samples:
        samples = Samples()
        if self._counts is not None and self._reader is not None:
            self._counts.put(samples, self._reader.fields)
            _counter(samples, "lines_total", "Lines of the access log.", self._counts.lines)
            help_ = "Lines that are not of the format; they are counted nowhere else."
            _counter(samples, "lines_unparsed_total", help_, self._counts.unparsed)
        self._patterns.put(samples)
        counts = self._tail.counts
        oversized = counts.oversized + self._oversized
        _counter(
            samples, "lines_oversized_total", "Lines of more than 64 KiB, which were skipped.", oversized
        )
        if self.options.journal:
            help_ = "1 when a look could not read everything."
            samples.gauge("watchbill_log_behind", help_, float(self._behind))
            return samples
        _counter(samples, "read_bytes_total", "Bytes read.", counts.bytes)
        _counter(samples, "truncations_total", "Files that were truncated.", counts.truncations)
        _counter(
            samples, "rotations_total", "Files that were renamed, or copied before that.", counts.rotations
        )
        help_ = "Bytes that are known to have gone with their file before they were read."
        _counter(samples, "lost_bytes_total", help_, counts.lost_bytes)
        samples.gauge("watchbill_log_backlog_bytes", "Bytes that wait to be read.", self._tail.backlog_bytes)
        samples.gauge("watchbill_log_files", "Files that are followed.", self._tail.files)
        help_ = f"Files that match and are not followed: more than {FILES_MAX}."
        samples.gauge("watchbill_log_files_left_out", help_, self._tail.left_out)
        return samples

    def _outcome(
        self, samples: Samples, failing: Sequence[tuple[PatternOptions, int]], lines: int, unparsed: int
    ) -> Outcome:
        def unknown(reason: str, detail: str) -> Outcome:
            return Outcome(Verdict.UNKNOWN, reason, detail, samples)

        if failing:
            bad = any(options.severity in ("critical", "major") for options, _ in failing)
            words = ", ".join(f"{one.name}: {n} lines in {one.fail_within:g} s" for one, n in failing)
            return Outcome(Verdict.CRITICAL if bad else Verdict.WARNING, "pattern", words[:300], samples)
        unreadable = self._tail.unreadable
        if unreadable:
            path, why = next(iter(unreadable.items()))
            detail = f"{os.fsencode(path).decode('utf-8', 'replace')}: {why}"[:300]
            if not self._tail.files:
                return unknown("not-permitted", detail)
            return Outcome(Verdict.WARNING, "unreadable", detail, samples)
        if self.options.files and not self._tail.files:
            return unknown("no-file", f"got no file, wanted {', '.join(self.options.files)}"[:300])
        if lines >= MISMATCH_LINES_MIN and unparsed == lines:
            return unknown("format-mismatch", f"got {lines} lines, none of them of the format")
        return Outcome(Verdict.OK, samples=samples)


def _counter(samples: Samples, name: str, help_: str, value: float) -> None:
    samples.counter(f"watchbill_log_{name}", help_, value)
