"""Backups that are files: dumps and archives that something writes into a directory, found by name.

The newest file counts, by its time and its size: one of no bytes, of another format, cut off, or still being written is
no backup. A checksum beside a file is compared, an archive read through to its end, a dump of PostgreSQL listed.
"""

import fnmatch
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Literal

from watchbill.backups.record import SNAPSHOTS_MAX, TEXT_CHARACTERS_MAX, Level, Outcome, Proof
from watchbill.config import Duration, Wrong, option
from watchbill_agent.backups.adapter import (
    Adapter,
    Check,
    Commands,
    Job,
    Observation,
    Reason,
    Snapshot,
    Verification,
    error_lines,
)
from watchbill_agent.backups.archive import (
    FILE_BAD,
    ArchiveKind,
    BadFile,
    Unproved,
    checksum_beside,
    compare_checksum,
    is_checksum,
    look_inside,
    read_through,
)

PATTERNS_MAX: Final = 20
ENTRIES_MAX: Final = 200_000
"""Names that are looked at for one observation; a pattern that meets more is a mistake."""
FALL_BACK: Final = 3
"""Files that are looked into, from the newest on, until one is good."""
FUTURE_MS_MAX: Final = 5 * 60_000
"""How far in the future a file's time may be before it is told: clocks of file servers differ."""
FILE_MARK: Final = "{file}"

FILE_EMPTY: Final = "file-empty"
FILE_IN_FUTURE: Final = "file-in-future"
FILES_TOO_MANY: Final = "files-too-many"
CHECKSUM_MISSING: Final = "checksum-missing"

_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the files are, and what one has to look like."""

    paths: list[str] = option(
        length_max=PATTERNS_MAX,
        help="Absolute paths with * ? [a-z]; none of them goes across a /.",
        example='["/srv/dumps/shop-*.dump"]',
    )
    ignore: list[str] = option(
        ["*.tmp", "*.part", "*.partial", "*.incomplete", ".*"],
        length_max=PATTERNS_MAX,
        help="Names that are no backup: what is still being written.",
    )
    settle: Duration = option(
        Duration(60),
        help="A file that was changed more recently is still being written.",
        at_least=Duration(0),
    )
    lag: Duration = option(
        Duration(0),
        help="How much older the data is than the last change of its file: as long as the dump takes.",
        at_least=Duration(0),
    )
    kind: ArchiveKind = option("auto", help='The format: "auto" goes by the name, "any" takes everything.')
    checksum: Literal["auto", "required", "none"] = option(
        "auto",
        help="Whether a checksum lies beside each file, as NAME.sha256 (or .sha512, .sha1, .md5); "
        '"auto" compares where one is.',
    )
    test: list[str] = option(
        [],
        length_max=PATTERNS_MAX,
        help=f"A command that exits 0 for a file whose data is whole; {FILE_MARK} stands for its path.",
        example='["/usr/bin/7z", "t", "{file}"]',
    )

    def check(self) -> Iterator[Wrong]:
        """Paths that begin somewhere, a command that is one."""
        if not self.paths:
            yield Wrong("paths", "nothing", "at least one path")
        for number, path in enumerate(self.paths):
            if not path.startswith("/") or "\0" in path or path.endswith("/"):
                yield Wrong(("paths", number), f'"{path[:80]}"', "an absolute path of files")
            elif "**" in path:
                yield Wrong(("paths", number), f'"{path[:80]}"', "no **: name the directories")
        if self.test and (not self.test[0].startswith("/") or FILE_MARK not in self.test):
            yield Wrong(
                "test", f'"{self.test[0][:80]}", ...', f'an absolute program, and "{FILE_MARK}" after it'
            )


@dataclass(frozen=True, slots=True)
class Found:
    """One file, as it was when it was looked at."""

    path: str
    time_ms: int
    size: int

    @property
    def id(self) -> str:
        """Its path, as far as that is text and fits; else with a digest of it in its end."""
        text = self.path.encode("utf-8", "backslashreplace").decode()
        if len(text) <= TEXT_CHARACTERS_MAX:
            return text
        mark = f"~{zlib.crc32(text.encode()):08x}"
        return text[: TEXT_CHARACTERS_MAX - len(mark)] + mark


@dataclass(slots=True)
class _Listing:
    """What patterns found, and what kept them from finding more."""

    files: dict[tuple[int, int], Found] = field(default_factory=dict)
    """By device and inode: a link beside a file is no second backup."""
    missing: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    entries: int = 0
    more: int = 0


class Files(Adapter):
    """Reads directories and the files in them."""

    name: ClassVar[str] = "files"
    options_type: ClassVar[type[Options]] = Options
    levels: ClassVar[frozenset[Level]] = frozenset({Level.STRUCTURE, Level.DATA})

    def __init__(self, options: Options, job: Job, commands: Commands) -> None:
        self._options = options
        self._job = job
        self._commands = commands

    # ------------------------------------------------------------ a look

    def observe(self, now_ms: int) -> Observation:
        """List them, look into the newest, and say what the newest good one is."""
        listing = self._list()
        unread = _unread(listing)
        if unread is not None:
            return unread
        files = sorted(listing.files.values(), key=lambda each: (each.time_ms, each.path))
        future = [each for each in files if each.time_ms > now_ms + FUTURE_MS_MAX]
        settled_ms = now_ms - self._options.settle.ms
        ready = [each for each in files if each.time_ms <= settled_ms]
        running = len(ready) + len(future) < len(files)
        good, faults = self._newest_good(ready)
        snapshots = tuple(Snapshot(id=each.id, time_ms=each.time_ms) for each in files[-SNAPSHOTS_MAX:])
        outcome, reason, errors = _judged(good, faults, future, now_ms)
        if listing.more:
            outcome, reason = Outcome.PARTIAL, reason or FILES_TOO_MANY
            errors = (*errors, f"{listing.more} more files than {SNAPSHOTS_MAX} were not looked at")
        if not files:
            reason = Reason.NO_SNAPSHOTS
        return Observation(
            outcome=outcome,
            reason=reason,
            errors=error_lines(errors),
            snapshots=snapshots,
            point_ms=0 if good is None else good.time_ms - self._options.lag.ms,
            running=running,
            bytes_stored=None if good is None else good.size,
        )

    def _list(self) -> _Listing:
        listing = _Listing()
        for pattern in self._options.paths:
            parts = pattern.split("/")[1:]
            _expand("/", parts, self._options.ignore, listing, asked=pattern)
        return listing

    def _newest_good(self, files: Sequence[Found]) -> tuple[Found | None, list[tuple[Found, BadFile]]]:
        """The newest that is whole as far as a look tells, and what is wrong with the newer ones."""
        faults: list[tuple[Found, BadFile]] = []
        for each in reversed(files[-FALL_BACK:]):
            try:
                self._look_into(each)
            except BadFile as exc:
                faults.append((each, exc))
            else:
                return each, faults
        return None, faults

    def _look_into(self, found: Found) -> None:
        """What costs little: its size, its first and last bytes, whether its checksum is there. Raises BadFile."""
        if not found.size:
            raise BadFile(FILE_EMPTY, "it has no bytes")
        look_inside(found.path, self._options.kind)
        if self._options.checksum == "required" and checksum_beside(found.path) is None:
            raise BadFile(CHECKSUM_MISSING, "no checksum lies beside it")

    # ------------------------------------------------------------ a verification

    def verify(self, check: Check, now_ms: int) -> Verification:
        """Structure: the newest, as a look sees it, and by its table of contents. Data: the newest and this part of the
        others, each read to its end."""
        listing = self._list()
        unread = _unread(listing)
        if unread is not None:
            return Verification(outcome=Outcome.UNKNOWN, reason=unread.reason, errors=unread.errors)
        settled_ms = now_ms - self._options.settle.ms
        files = sorted(
            (each for each in listing.files.values() if each.time_ms <= settled_ms),
            key=lambda each: (each.time_ms, each.path),
        )
        if not files:
            text = "there is no file to verify"
            return Verification(outcome=Outcome.UNKNOWN, reason=Reason.NO_SNAPSHOTS, errors=(text,))
        if check.level is Level.STRUCTURE:
            return self._verified(check, files[-1:], self._prove_structure)
        part = [each for each in files[:-1] if zlib.crc32(each.id.encode()) % check.parts == check.part - 1]
        return self._verified(check, [files[-1], *part], self._prove_data)

    def _verified(self, check: Check, files: Sequence[Found], prove: Callable[[Found], None]) -> Verification:
        bad: list[str] = []
        for number, each in enumerate(files):
            if self._commands.left_s() <= 0:
                text = f"the time was up after {number} of {len(files)} files"
                return Verification(
                    outcome=Outcome.UNKNOWN, reason=Reason.TIMED_OUT, errors=error_lines(bad, text)
                )
            try:
                prove(each)
            except BadFile as exc:
                if _still(each):
                    bad.append(f"{each.id}: {exc}")
            except Unproved as exc:
                text = f"{each.id}: {exc}"
                return Verification(outcome=Outcome.UNKNOWN, reason=exc.reason, errors=error_lines(bad, text))
        return Verification(
            outcome=Outcome.FAILED if bad else Outcome.OK,
            proof=Proof(level=check.level, ok=not bad, fraction=check.fraction, bad=len(bad)),
            reason=FILE_BAD if bad else "",
            errors=error_lines(bad),
        )

    def _prove_structure(self, found: Found) -> None:
        self._look_into(found)
        read_through(found.path, self._options.kind, self._commands, contents=False)

    def _prove_data(self, found: Found) -> None:
        """Raises BadFile; Unproved when it cannot be known."""
        self._look_into(found)
        beside = checksum_beside(found.path) if self._options.checksum != "none" else None
        if beside is not None:
            compare_checksum(found.path, beside, self._commands)
        read_through(found.path, self._options.kind, self._commands, contents=True)
        if self._options.test:
            argv = [found.path if each == FILE_MARK else each for each in self._options.test]
            _own_test(self._commands, argv)


def _still(found: Found) -> bool:
    """Whether the file is the one that was found: one that is being replaced reads as if it were broken."""
    try:
        now = Path(found.path).stat()
    except OSError:
        return False
    return (now.st_mtime_ns // 1_000_000, now.st_size) == (found.time_ms, found.size)


def _own_test(commands: Commands, argv: Sequence[str]) -> None:
    from watchbill_agent.backups.adapter import trouble

    finished = commands.run(argv)
    said = trouble(finished, argv[0])
    if said is not None:
        raise Unproved(said[0], " ".join(said[1]))
    if finished.exit_code:
        words = " ".join(error_lines(finished.stderr or finished.stdout)[-2:])
        raise BadFile(FILE_BAD, f"{argv[0]} exits {finished.exit_code}: {words}")


def _judged(
    good: Found | None, faults: Sequence[tuple[Found, BadFile]], future: Sequence[Found], now_ms: int
) -> tuple[Outcome, str, tuple[str, ...]]:
    errors = [f"{found.id}: {fault}" for found, fault in faults]
    reason = faults[0][1].reason if faults else ""
    outcome = Outcome.OK if not faults else Outcome.PARTIAL if good is not None else Outcome.FAILED
    if any(fault.reason == Reason.NEEDS_RUNNER for _, fault in faults) and good is None:
        outcome = Outcome.UNKNOWN
    if future:
        ahead_s = (future[-1].time_ms - now_ms) / 1000
        errors.append(f"{future[-1].id}: its time is {ahead_s:.0f} s in the future, by a clock that is wrong")
        outcome = Outcome.PARTIAL if outcome is Outcome.OK else outcome
        reason = reason or FILE_IN_FUTURE
    return outcome, reason, tuple(errors)


def _unread(listing: _Listing) -> Observation | None:
    """Why the directories could not be read, if they could not: then nothing is known, whatever else was found."""
    if listing.closed:
        reason, text = Reason.NEEDS_RUNNER, "may not be read by this agent's user: give it a group, or an ACL"
        paths = listing.closed
    elif listing.entries > ENTRIES_MAX:
        text = f"more than {ENTRIES_MAX} names: name the directories of the backups"
        return Observation(outcome=Outcome.UNKNOWN, reason=FILES_TOO_MANY, errors=(text,))
    elif listing.broken:
        reason, text, paths = Reason.REPOSITORY_UNREACHABLE, "cannot be read", listing.broken
    elif listing.missing and not listing.files:
        reason, text, paths = Reason.REPOSITORY_MISSING, "is not there", listing.missing
    else:
        return None
    return Observation(
        outcome=Outcome.UNKNOWN, reason=reason, errors=error_lines([f"{path} {text}" for path in paths])
    )


def _expand(base: str, parts: Sequence[str], ignore: Sequence[str], into: _Listing, *, asked: str) -> None:
    """Find what a pattern means below `base`. Unlike glob, a directory that may not be read is told, not skipped:
    it would look like one without backups."""
    part, rest = parts[0], parts[1:]
    if not _WILD.search(part):
        path = f"{base.rstrip('/')}/{part}"
        if rest:
            _expand(path, rest, ignore, into, asked=asked)
        else:
            _take(path, into)
        return
    try:
        with os.scandir(base) as entries:
            names = []
            for entry in entries:
                into.entries += 1
                if into.entries > ENTRIES_MAX:
                    return
                if fnmatch.fnmatchcase(entry.name, part) and (
                    not entry.name.startswith(".") or part[0] == "."
                ):
                    names.append(entry.name)
    except NotADirectoryError:
        return
    except FileNotFoundError:
        into.missing.append(base)
        return
    except PermissionError:
        into.closed.append(base)
        return
    except OSError as exc:
        into.broken.append(f"{base} ({(exc.strerror or 'unreadable').lower()})")
        return
    for name in sorted(names):
        path = f"{base.rstrip('/')}/{name}"
        if rest:
            _expand(path, rest, ignore, into, asked=asked)
        elif not is_checksum(name) and not any(fnmatch.fnmatchcase(name, each) for each in ignore):
            _take(path, into)


def _take(path: str, into: _Listing) -> None:
    try:
        found = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        # It was removed a moment ago, is a link to nothing, or there is no such directory.
        directory = Path(path).parent
        if not directory.is_dir():
            into.missing.append(str(directory))
        return
    except PermissionError:
        into.closed.append(path)
        return
    except OSError as exc:
        into.broken.append(f"{path} ({(exc.strerror or 'unreadable').lower()})")
        return
    if not stat.S_ISREG(found.st_mode):
        return
    key = (found.st_dev, found.st_ino)
    if key not in into.files and len(into.files) >= SNAPSHOTS_MAX:
        into.more += 1
    elif key not in into.files or Path(into.files[key].path).is_symlink():
        into.files[key] = Found(path, found.st_mtime_ns // 1_000_000, found.st_size)
