"""Barman: backups of PostgreSQL servers with their write-ahead log, on the host that keeps them.

`list-backups`, `list-files` and `check` all go by barman's own list of the log (`xlog.db`) and say nothing when a
file of it is gone: so the files that a backup needs are looked for here. From the newest backup that can be restored
the log is followed to its end: that is the newest point.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from watchbill.backups.record import Level, Outcome, Proof
from watchbill.config import option
from watchbill_agent.backups.adapter import (
    Adapter,
    Check,
    Commands,
    Finished,
    Job,
    Observation,
    Reason,
    RunFacts,
    Snapshot,
    Verification,
    error_lines,
    trouble,
)
from watchbill_agent.backups.tool_answers import Unusable
from watchbill_agent.backups.wal import Segment, Shelf, Stored, follow, in_words, numbering_of, span

BACKUPS_MAX: Final = 20_000
TIME_S_MAX: Final = 1 << 33
"""Later than this no time of a backup is: year 2242."""
TRIED_MAX: Final = 5
"""Backups that one look goes back, to find one that can be restored: each costs two starts of barman, of 0.4 s of CPU.
For the same reason a look does not ask for its version. Verification looks at more."""
VERIFIED_MAX: Final = 200
SAID_MAX: Final = 8
CONFIG_USUAL: Final = Path("/etc/barman.conf")

WAL_MISSING: Final = "wal-missing"
WAL_GAP: Final = "wal-gap"
WAITING_FOR_WAL: Final = "waiting-for-wal"
BACKUP_FAILED: Final = "backup-failed"
CHECK_FAILED: Final = "check-failed"
SERVER_UNKNOWN: Final = "server-unknown"
NO_MANIFEST: Final = "no-manifest"

_DONE: Final = "DONE"
_WAITING: Final = "WAITING_FOR_WALS"
_FAILED: Final = "FAILED"
_RUNNING: Final = frozenset({"STARTED", "EMPTY", "SYNCING"})
_ID = re.compile(r"\d{8}T\d{6}", re.ASCII)
_SERVER = re.compile(r"[A-Za-z0-9_.@+][A-Za-z0-9_.@+-]{0,199}", re.ASCII)
_SEGMENT = re.compile(r"[0-9A-F]{24}", re.ASCII)


def _no_server(name: str) -> str | None:
    """`all` is barman's word for every server."""
    return None if _SERVER.fullmatch(name) and name != "all" else "the name of one server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which server. Credentials are where barman looks for them: in its own configuration."""

    server: str = option(check=_no_server, help="The server, as barman's configuration calls it.")
    config: Path | None = option(None, help="Barman's configuration, where it is not its usual file.")
    run_check: bool = option(
        True, help="Whether each look asks `barman check`, too, which connects to the server."
    )
    program: str = option("barman", help="The program, where it is not in the agent's PATH.")


# ---------------------------------------------------------------- what barman prints


class _Listed(msgspec.Struct, frozen=True):
    """A backup in `list-backups`. Numbers are strings in one version and numbers in another; those of a backup that
    is not done are left out."""

    backup_id: str
    status: str
    end_time_timestamp: str | int | None = None

    @property
    def end_ms(self) -> int:
        return _seconds(self.end_time_timestamp) * 1000


class _Base(msgspec.Struct, frozen=True):
    """`disk_usage*` is what versions before 3.11 call what is `backup_size*` since."""

    begin_wal: str
    end_wal: str
    begin_lsn: str = ""
    disk_usage_bytes: int | None = None
    disk_usage_with_wals_bytes: int | None = None
    backup_size_bytes: int | None = None
    backup_size_with_wals_bytes: int | None = None


class _Shown(msgspec.Struct, frozen=True):
    base_backup_information: _Base
    cluster_size_bytes: int | None = None
    system_id: str | int | None = None

    @property
    def bytes_source(self) -> int | None:
        base = self.base_backup_information
        return self.cluster_size_bytes or base.backup_size_bytes or base.disk_usage_bytes

    @property
    def bytes_stored(self) -> int | None:
        base = self.base_backup_information
        return base.backup_size_with_wals_bytes or base.disk_usage_with_wals_bytes


class _Checked(msgspec.Struct, frozen=True):
    status: str
    hint: str = ""


def _seconds(given: str | int | None) -> int:
    """Seconds since 1970. Raises ValueError."""
    found = int(str(given)[:20]) if str(given).isdigit() else 0
    if not 0 < found <= TIME_S_MAX:
        raise ValueError(f"{str(given)[:40]!r} is no time of a backup")
    return found


_Found = TypeVar("_Found")


def _of_server(document: bytes, server: str, kind: type[_Found]) -> _Found:
    """What a document says of a server: beside it are `_INFO`, `_WARNING` and the like. Raises ValueError."""
    try:
        parts = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
        if server not in parts:
            raise ValueError(f"what barman printed says nothing of the server {server}")
        return msgspec.json.decode(parts[server], type=kind)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(f"what barman printed cannot be read: {exc}") from exc


def read_list(document: bytes, server: str) -> list[_Listed]:
    """What `list-backups` says, the newest first. Raises ValueError if that is not what it prints."""
    found = _of_server(document, server, list[_Listed])
    if len(found) > BACKUPS_MAX:
        raise ValueError(f"{len(found)} backups, at most {BACKUPS_MAX}")
    for backup in found:
        if not _ID.fullmatch(backup.backup_id):
            raise ValueError(f"{backup.backup_id[:60]!r} is no backup's id")
        if backup.status == _DONE:
            _seconds(backup.end_time_timestamp)
    return sorted(found, key=lambda backup: backup.backup_id, reverse=True)


def read_show(document: bytes, server: str) -> _Shown:
    """What `show-backup` says of a backup that is done. Raises ValueError if that is not what it prints."""
    return _of_server(document, server, _Shown)


def read_check(document: bytes, server: str) -> list[str]:
    """What failed of `check`. Raises ValueError if that is not what it prints."""
    checks = _of_server(document, server, dict[str, _Checked])
    return [
        f"barman check: {name.replace('_', ' ')}: {check.hint or check.status}"
        for name, check in checks.items()
        if check.status != "OK"
    ]


_LOCK_DENIED = re.compile(r"_EXCEPTION\": \[\"/[^\"\n]{1,4096}\.lock\\n")
_RUNNER_TEXT: Final = (
    "the agent's user may not ask barman, or not read its directories: observe the job where it may"
)


def failure(finished: Finished, program: str, config: Path | None = None) -> tuple[str, tuple[str, ...]]:
    """The reason and the errors of a command that did not end well. All of barman's errors end it with 1."""
    if said := trouble(finished, program):
        return said
    text = (finished.stderr + b"\n" + finished.stdout).decode("utf-8", "replace")
    # Of a configuration that it may not open it says that it is empty, of a lock its path and no more; beside that it
    # prints a list of no backups.
    closed = "No section: 'barman'" in text and (config or CONFIG_USUAL).exists()
    if closed or _LOCK_DENIED.search(text) or "Permission denied" in text or "please run barman as" in text:
        return Reason.NEEDS_RUNNER, error_lines(text, _RUNNER_TEXT)
    if "Unknown server" in text:
        return SERVER_UNKNOWN, error_lines(text)
    if "Another process" in text or "another action is in progress" in text or "is already running" in text:
        return Reason.REPOSITORY_LOCKED, error_lines(text)
    return Reason.TOOL_FAILED, error_lines(text, f"{program} ended with {finished.exit_code}")


# ---------------------------------------------------------------- the log


def read_files(text: str) -> dict[str, Path]:
    """The segments that `list-files` names, by name: one path a line."""
    paths = (Path(line) for line in text.splitlines() if line.startswith("/"))
    return {path.name: path for path in paths if _SEGMENT.fullmatch(path.name)}


def stored(paths: Mapping[str, Path]) -> dict[str, Stored]:
    """Those that are there and hold something. Raises PermissionError."""
    found: dict[str, Stored] = {}
    for name, path in paths.items():
        try:
            facts = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if facts.st_size:
            found[name] = Stored(int(facts.st_mtime * 1000))
    return found


def shelf_of(segments: Mapping[str, Stored], base: _Base) -> Shelf:
    """A shelf of what is there. The log's directories are the first 16 digits of its names."""
    directories: dict[str, dict[str, Stored]] = {}
    for name, segment in segments.items():
        directories.setdefault(name[:16], {})[name] = segment
    numbering = numbering_of([(base.begin_wal, base.begin_lsn)])
    return Shelf(numbering, lambda: frozenset(directories), lambda directory: directories[directory])


def missing_log(shelf: Shelf, base: _Base) -> str:
    """Which segments a backup lacks, in words; "" when none."""
    first, last = shelf.numbering.read(base.begin_wal), shelf.numbering.read(base.end_wal)
    needed = span(first, last) if first and last else None
    if needed is None:
        return f"{base.begin_wal[:30]} to {base.end_wal[:30]}, which is no range,"
    gone = [segment for segment in needed if not shelf.whole(segment)]
    return in_words(gone, shelf.numbering) if gone else ""


# ---------------------------------------------------------------- a run of `barman backup`

_RUN_ID = re.compile(r"Starting backup using .{1,60} /base/(\d{8}T\d{6})|/base/(\d{8}T\d{6})\b")
_RUN_BEGIN = re.compile(r"Backup start at LSN: \S+ \(([0-9A-F]{24}),")
_RUN_END = re.compile(r"Backup end at LSN: \S+ \(([0-9A-F]{24}),")


def read_backup_run(exit_code: int, text: str) -> RunFacts:
    """What `barman backup` printed. A backup that waits for its log is not to be restored yet, and ends with 0."""
    lines = text.splitlines()
    errors = [line for line in lines if line.startswith(("ERROR:", "EXCEPTION:"))]
    warnings = [line for line in lines if line.startswith("WARNING:")]
    outcome, reason = Outcome.OK if exit_code == 0 else Outcome.FAILED, ""
    if exit_code == 0 and _WAITING in text:
        outcome, reason = Outcome.PARTIAL, WAITING_FOR_WAL
    begin, end, found = _RUN_BEGIN.search(text), _RUN_END.search(text), _RUN_ID.search(text)
    return RunFacts(
        outcome=outcome,
        reason=reason,
        errors=error_lines((), *(errors + warnings)[:SAID_MAX]),
        snapshot_id=(found[1] or found[2]) if found else "",
        log_from=begin[1] if begin else "",
        log_to=end[1] if end else "",
    )


# ---------------------------------------------------------------- the adapter


@dataclass
class _Judged:
    """What backups and log come to. `best` is the newest backup that can be restored."""

    faults: list[tuple[str, str]] = field(default_factory=list)
    best: _Listed | None = None
    shown: _Shown | None = None
    bad: int = 0
    point_ms: int = 0
    log_to: str = ""

    def errors(self) -> tuple[str, ...]:
        return error_lines((), *[text for _, text in self.faults][:SAID_MAX])


class Barman(Adapter):
    """Asks barman, and looks at the files of the log. Barman itself tries its lock of receive-wal for a moment."""

    name: ClassVar[str] = "barman"
    options_type: ClassVar[type[Any]] = Options
    levels: ClassVar[frozenset[Level]] = frozenset({Level.STRUCTURE, Level.DATA})

    def __init__(self, options: Options, job: Job, commands: Commands) -> None:  # noqa: ARG002 - The tool knows.
        self._options = options
        self._commands = commands
        self._version = ""
        self._digest = ""

    def observe(self, now_ms: int) -> Observation:  # noqa: ARG002 - Ages are judged elsewhere.
        """Which backups there are, the newest that can be restored, and up to when."""
        try:
            listed = self._list()
            judged = self._judge(listed, [backup for backup in listed if backup.status == _DONE][:TRIED_MAX])
            if self._options.run_check:
                judged.faults += [(CHECK_FAILED, text) for text in self._check()]
        except Unusable as silent:
            return Observation(
                outcome=Outcome.UNKNOWN,
                reason=silent.reason,
                errors=silent.errors,
                raw_digest=self._digest,
            )
        return self._seen(listed, judged)

    def verify(self, check: Check, now_ms: int) -> Verification:  # noqa: ARG002 - The same.
        """STRUCTURE: all backups have the log that they need. DATA: that, and the files of some of them read back with
        the checksums that PostgreSQL gave them (`verify-backup`)."""
        try:
            version = self._ask("--version").decode("ascii", "replace")
            self._version = version.partition(" ")[0][:20].strip() if version[:1].isdigit() else ""
            done = [backup for backup in self._list() if backup.status == _DONE]
            if not done:
                raise Unusable(
                    Reason.NO_SNAPSHOTS, (f"the server {self._options.server} has no backup that is done",)
                )
            if check.level is Level.DATA:
                done = done[check.part - 1 :: check.parts] or done[:1]
            faults = [text for backup in done[:VERIFIED_MAX] for _, text in self._faults_of(backup)]
            if check.level is Level.DATA:
                faults += [text for backup in done[:VERIFIED_MAX] for text in self._verify_backup(backup)]
        except Unusable as silent:
            return Verification(
                outcome=Outcome.UNKNOWN,
                reason=silent.reason,
                errors=silent.errors,
                tool_version=self._version,
            )
        return Verification(
            outcome=Outcome.FAILED if faults else Outcome.OK,
            proof=Proof(
                level=check.level,
                ok=not faults,
                fraction=check.fraction if check.level is Level.DATA else 1.0,
                bad=len(faults),
            ),
            reason=Reason.REPOSITORY_DAMAGED if faults else "",
            errors=error_lines((), *faults[:SAID_MAX]),
            tool_version=self._version,
        )

    def read_run(self, exit_code: int, stdout: bytes, stderr: bytes) -> RunFacts:
        """What `barman backup` printed."""
        return read_backup_run(exit_code, (stdout + b"\n" + stderr).decode("utf-8", "replace"))

    # ---- asking

    def _run(self, *arguments: str) -> Finished:
        config = ("-c", str(self._options.config)) if self._options.config else ()
        return self._commands.run((self._options.program, *config, *arguments))

    def _ask(self, *arguments: str) -> bytes:
        finished = self._run(*arguments)
        if not finished.ok:
            raise Unusable(*failure(finished, self._options.program, self._options.config))
        return finished.stdout

    def _list(self) -> list[_Listed]:
        document = self._ask("-f", "json", "list-backups", self._options.server)
        self._digest = hashlib.sha256(document).hexdigest()
        with _readable():
            return read_list(document, self._options.server)

    def _show(self, backup: _Listed) -> _Shown:
        document = self._ask("-f", "json", "show-backup", self._options.server, backup.backup_id)
        with _readable():
            return read_show(document, self._options.server)

    def _check(self) -> list[str]:
        finished = self._run("-f", "json", "check", self._options.server)
        if said := trouble(finished, self._options.program):
            raise Unusable(*said)
        if finished.exit_code not in (0, 1) or not finished.stdout.startswith(b"{"):
            raise Unusable(*failure(finished, self._options.program, self._options.config))
        with _readable():
            return read_check(finished.stdout, self._options.server)

    def _shelf(self, backup: _Listed, shown: _Shown) -> Shelf:
        text = self._ask("list-files", "--target", "wal", self._options.server, backup.backup_id)
        try:
            segments = stored(read_files(os.fsdecode(text)))
        except PermissionError as exc:
            raise Unusable(Reason.NEEDS_RUNNER, error_lines((), _RUNNER_TEXT, str(exc))) from exc
        except OSError as exc:
            raise Unusable(Reason.REPOSITORY_UNREACHABLE, error_lines((), str(exc))) from exc
        return shelf_of(segments, shown.base_backup_information)

    def _verify_backup(self, backup: _Listed) -> list[str]:
        """What is wrong with the files of a backup. Raises Unusable where nothing can be said."""
        finished = self._run("verify-backup", self._options.server, backup.backup_id)
        if finished.ok:
            return []
        text = (finished.stderr + b"\n" + finished.stdout).decode("utf-8", "replace")
        if _NO_MANIFEST_FILE.search(text):
            hint = f"if it was made by rsync, run barman generate-manifest {self._options.server} {backup.backup_id}"
            raise Unusable(
                NO_MANIFEST, error_lines(text, f"backup {backup.backup_id} has no manifest: {hint}")
            )
        if "verify backup failure on directory" in text:
            return list(
                error_lines((), f"backup {backup.backup_id}: its files are not what they were", *_said(text))
            )
        raise Unusable(*failure(finished, self._options.program, self._options.config))

    # ---- judging

    def _faults_of(self, backup: _Listed) -> list[tuple[str, str]]:
        shown = self._show(backup)
        gone = missing_log(self._shelf(backup, shown), shown.base_backup_information)
        text = f"backup {backup.backup_id} cannot be restored: its log {gone} is gone: take a new backup"
        return [(WAL_MISSING, text)] if gone else []

    def _judge(self, listed: list[_Listed], tried: Iterable[_Listed]) -> _Judged:
        judged = _Judged()
        for backup in tried:
            shown = self._show(backup)
            shelf = self._shelf(backup, shown)
            gone = missing_log(shelf, shown.base_backup_information)
            if not gone:
                judged.best, judged.shown = backup, shown
                _follow_log(judged, backup, shown.base_backup_information, shelf)
                break
            text = f"backup {backup.backup_id} cannot be restored: its log {gone} is gone: take a new backup"
            judged.faults.append((WAL_MISSING, text))
        judged.faults += _unfinished(listed, judged.best)
        return judged

    # ---- saying

    def _seen(self, listed: list[_Listed], judged: _Judged) -> Observation:
        done = [backup for backup in listed if backup.status == _DONE]
        waiting = any(backup.status == _WAITING for backup in listed)
        outcome = Outcome.PARTIAL if judged.faults else Outcome.OK
        if not judged.best and (done or not waiting):
            outcome = Outcome.FAILED
        if not listed:
            judged.faults.insert(
                0, (Reason.NO_SNAPSHOTS, f"the server {self._options.server} has no backups")
            )
        base = judged.shown.base_backup_information if judged.shown else None
        return Observation(
            outcome=outcome,
            reason=judged.faults[0][0] if judged.faults else "",
            errors=judged.errors(),
            snapshots=tuple(Snapshot(id=backup.backup_id, time_ms=backup.end_ms) for backup in done),
            point_ms=judged.point_ms,
            running=bool(listed) and listed[0].status in _RUNNING,
            repo_id=str(judged.shown.system_id or "")[:64] if judged.shown else "",
            bytes_source=judged.shown.bytes_source if judged.shown else None,
            bytes_stored=judged.shown.bytes_stored if judged.shown else None,
            log_from=base.begin_wal if base else "",
            log_to=judged.log_to,
            raw_digest=self._digest,
        )


_NO_MANIFEST_FILE = re.compile(r"backup_manifest\W.{0,40}(No such file|not exist|not found)", re.IGNORECASE)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """What barman printed is read in here."""
    try:
        yield
    except ValueError as exc:
        raise Unusable(Reason.OUTPUT_UNREADABLE, error_lines((), str(exc))) from exc


def _said(text: str) -> list[str]:
    return [
        line.partition("pg_verifybackup: ")[2] for line in text.splitlines() if "pg_verifybackup: " in line
    ]


def _unfinished(listed: list[_Listed], best: _Listed | None) -> list[tuple[str, str]]:
    """Backups after the last good one that are not to be restored, or not yet."""
    found = []
    for backup in listed:
        if best and backup.backup_id <= best.backup_id:
            break
        if backup.status == _WAITING:
            text = f"backup {backup.backup_id} waits for log that it needs: is the server's log received?"
            found.append((WAITING_FOR_WAL, text))
        elif backup.status == _FAILED:
            found.append((BACKUP_FAILED, f"backup {backup.backup_id} failed: barman show-backup says why"))
        elif backup.status not in (_DONE, *_RUNNING):
            found.append(
                (BACKUP_FAILED, f"backup {backup.backup_id} is {backup.status[:40]}, which is no known state")
            )
    return found


def _follow_log(judged: _Judged, backup: _Listed, base: _Base, shelf: Shelf) -> None:
    """How far the log goes on from the end of a backup without a gap, and whether there is more behind a gap."""
    judged.point_ms = backup.end_ms
    judged.log_to = base.end_wal
    begin = shelf.numbering.read(base.end_wal)
    if begin is None:
        return
    end = follow(begin, shelf.timelines(), shelf.whole)
    judged.point_ms = max(judged.point_ms, shelf.find(end).stored_ms)
    judged.log_to = shelf.numbering.name(end)
    last = shelf.newest(end.timeline)
    if last and last.number > end.number:
        gone = shelf.numbering.name(Segment(last.timeline, end.number + 1))
        text = f"nothing after {judged.log_to} can be restored: the log {gone} is gone: take a new backup"
        judged.faults.append((WAL_GAP, text))
