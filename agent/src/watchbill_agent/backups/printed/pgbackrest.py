"""What pgBackRest prints, as values: backups and log, why it said nothing, what was verified or backed up. Pure.

Its exit codes tell of itself alone: what is wrong with a backup stands in documents and reports.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from watchbill.backups.record import Outcome
from watchbill_agent.backups.adapter import Finished, Reason, RunFacts, error_lines, trouble
from watchbill_agent.backups.wal import Stored

BACKUPS_MAX: Final = 20_000
TIME_S_MAX: Final = 1 << 33
"""Later than this no time of a backup is: year 2242."""
SAID_MAX: Final = 8
"""Lines of a report that are told."""

PAGE_CHECKSUMS: Final = "page-checksums"

VERSION = re.compile(r"pgBackRest ((\d{1,3})\.(\d{1,3})[\w.]{0,12})", re.ASCII)
_LABEL = re.compile(r"\d{8}-\d{6}F(_\d{8}-\d{6}[DI])?", re.ASCII)
_STORED_SEGMENT = re.compile(r"([0-9A-F]{24})-([0-9a-f]{40})(\.(gz|lz4|zst|bz2))?", re.ASCII)
_ARCHIVE_ID = re.compile(r"[0-9.]{1,8}-\d{1,9}", re.ASCII)


class _Range(msgspec.Struct, frozen=True):
    start: str | None = None
    stop: str | None = None


class _Times(msgspec.Struct, frozen=True):
    start: int
    stop: int


class _InRepository(msgspec.Struct, frozen=True):
    size: int | None = None


class _Sizes(msgspec.Struct, frozen=True):
    size: int | None = None
    repository: _InRepository = _InRepository()


class _Database(msgspec.Struct, frozen=True, rename="kebab"):
    id: int
    repo_key: int = 1


class _Backrest(msgspec.Struct, frozen=True):
    version: str = ""


class Backup(msgspec.Struct, frozen=True):
    """One backup. `error` is None where pgBackRest does not know."""

    label: str
    timestamp: _Times
    database: _Database
    archive: _Range = _Range()
    lsn: _Range = _Range()
    info: _Sizes = _Sizes()
    backrest: _Backrest = _Backrest()
    reference: list[str] | None = None
    error: bool | None = None


class Archive(msgspec.Struct, frozen=True):
    """The log of one cluster in one repository."""

    id: str
    database: _Database


class _Db(msgspec.Struct, frozen=True, rename="kebab"):
    id: int
    system_id: int
    repo_key: int = 1


class _Held(msgspec.Struct, frozen=True):
    held: bool = False


class _Locks(msgspec.Struct, frozen=True):
    backup: _Held = _Held()


class _Status(msgspec.Struct, frozen=True):
    code: int
    message: str = ""
    lock: _Locks = _Locks()


class _Repo(msgspec.Struct, frozen=True):
    key: int
    status: _Status


class Stanza(msgspec.Struct, frozen=True):
    """All that `info` says of one."""

    name: str
    status: _Status
    backup: list[Backup] = []
    archive: list[Archive] = []
    db: list[_Db] = []
    repo: list[_Repo] = []


class Entry(msgspec.Struct, frozen=True):
    """Something that `repo-ls` lists; its time is when it was stored."""

    type: str
    time: int = 0


STATUS_OK: Final = 0
STATUS_NO_STANZA: Final = 1
STATUS_NO_BACKUP: Final = 2
STATUS_NO_DATA: Final = 3
STATUS_MIXED: Final = 4
STATUS_DATABASE_MISMATCH: Final = 5


def read_info(document: bytes, stanza: str) -> Stanza:
    """What `info --output=json` says of a stanza. Raises ValueError if that is not what it prints."""
    try:
        stanzas = msgspec.json.decode(document, type=list[Stanza])
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(f"what info printed cannot be read: {exc}") from exc
    found = next((each for each in stanzas if each.name == stanza), None)
    if found is None:
        raise ValueError(f"what info printed says nothing of the stanza {stanza}")
    if len(found.backup) > BACKUPS_MAX:
        raise ValueError(f"{len(found.backup)} backups, at most {BACKUPS_MAX}")
    for backup in found.backup:
        if not _LABEL.fullmatch(backup.label):
            raise ValueError(f"{backup.label[:60]!r} is no label of a backup")
        if not 0 < backup.timestamp.stop <= TIME_S_MAX:
            raise ValueError(f"the backup {backup.label} ended at {backup.timestamp.stop}, which is no time")
    if any(not _ARCHIVE_ID.fullmatch(archive.id) for archive in found.archive):
        raise ValueError("an archive's id is none")
    return found


def read_listing(document: bytes) -> dict[str, Entry]:
    """What `repo-ls --output=json` lists. Raises ValueError if that is not what it prints."""
    try:
        return msgspec.json.decode(document, type=dict[str, Entry])
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(f"what repo-ls printed cannot be read: {exc}") from exc


def tree_of(listing: Mapping[str, Entry], root: str) -> dict[str, dict[str, Entry]]:
    """What `repo-ls --recurse` lists below a directory, by the directories' paths as they are listed one by one."""
    found: dict[str, dict[str, Entry]] = {}
    for path, entry in listing.items():
        above, _, name = path.rpartition("/")
        found.setdefault(f"{root}/{above}" if above else root, {})[name] = entry
    return found


def segments_in(listing: Mapping[str, Entry]) -> dict[str, Stored]:
    """The segments among the files of a directory: a segment's name, its checksum, and how it is compressed."""
    found: dict[str, Stored] = {}
    for name, entry in listing.items():
        if entry.type == "file" and (stored := _STORED_SEGMENT.fullmatch(name)):
            times = found[stored[1]].times if stored[1] in found else 0
            found[stored[1]] = Stored(entry.time * 1000, times + 1)
    return found


# ---------------------------------------------------------------- why it says nothing

_UNREACHABLE: Final = frozenset({39, 49, 66, 72, 101})
"""pgBackRest's codes for: protocol, host connect, protocol timeout, host invalid, service."""
_DAMAGED: Final = frozenset({26, 28, 29})
"""Checksum, file invalid, format."""
LOCKED: Final = 50
OPTION_INVALID: Final = 31
_CRYPTO: Final = 95
_MISSING: Final = frozenset({55, 73})
"""File or path missing."""
_ERROR = re.compile(r"ERROR: \[(\d{3})\]: (.*)")
_NAMED: Final = {
    "ChecksumError": Reason.REPOSITORY_DAMAGED,
    "FormatError": Reason.REPOSITORY_DAMAGED,
    "FileInvalidError": Reason.REPOSITORY_DAMAGED,
    "CryptoError": Reason.PASSWORD_WRONG,
    "HostConnectError": Reason.REPOSITORY_UNREACHABLE,
    "ServiceError": Reason.REPOSITORY_UNREACHABLE,
    "ProtocolError": Reason.REPOSITORY_UNREACHABLE,
    "FileMissingError": Reason.REPOSITORY_MISSING,
    "PathMissingError": Reason.REPOSITORY_MISSING,
}
"""The names of its errors, as `info` gives them of one repository."""
_DENIED: Final = "permission denied"
RUNNER_TEXT: Final = (
    "the agent's user may not read this repository or its configuration: let it read both, or observe the job "
    "where it may"
)


def failure(finished: Finished, program: str) -> tuple[str, tuple[str, ...]]:
    """The reason and the errors of a command that did not end well."""
    if said := trouble(finished, program):
        return said
    text = (finished.stderr + b"\n" + finished.stdout).decode("utf-8", "replace")
    errors = error_lines(text)
    code = finished.exit_code
    if _DENIED in text.lower():
        return Reason.NEEDS_RUNNER, error_lines(text, RUNNER_TEXT)
    if code in _UNREACHABLE:
        return Reason.REPOSITORY_UNREACHABLE, errors
    if code in _DAMAGED:
        return Reason.REPOSITORY_DAMAGED, errors
    if code in _MISSING:
        return Reason.REPOSITORY_MISSING, errors
    if code == LOCKED:
        return Reason.REPOSITORY_LOCKED, errors
    if code == _CRYPTO:
        return Reason.PASSWORD_WRONG, errors
    return Reason.TOOL_FAILED, error_lines(text, f"{program} ended with {code}")


def repo_failure(status: _Status) -> str:
    """Why one repository could not be read, from what `info` says of it: `[FileOpenError] unable to ...`."""
    if _DENIED in status.message.lower():
        return Reason.NEEDS_RUNNER
    if "terminated unexpectedly" in status.message:  # The far end of ssh, which has no error of its own.
        return Reason.REPOSITORY_UNREACHABLE
    named = next((reason for name, reason in _NAMED.items() if f"[{name}]" in status.message), None)
    return named or Reason.TOOL_FAILED


# ---------------------------------------------------------------- verify and backup, as they print


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found: how many things are bad, and which."""

    bad: int
    errors: tuple[str, ...]


_STATUS_LINE = re.compile(r"^status: (\w{1,20})", re.MULTILINE)
_COUNTED = re.compile(r"(?:missing|checksum invalid|size invalid|other): (\d{1,12})")
_BACKUP_STATUS = re.compile(r"backup: (\S{1,60}), status: ([a-z -]{1,30}), total")
_WAL_STATUS = re.compile(r"archiveId: (\S{1,30}), total WAL checked: (\d{1,12}), total valid WAL: (\d{1,12})")
_BAD_FILE = re.compile(
    r"^(?:INFO|WARN|ERROR): ((?:invalid|file missing|duplicate|unable|no |\[).{1,400})", re.MULTILINE
)
_FINE: Final = frozenset({"valid", "in-progress"})


def read_verify(report: str, log: str) -> VerifyReport:
    """What `verify --output=text --verbose` reports and logs. It ends with 0 whatever it finds. Without `--verbose` it
    prints nothing when it found nothing, which looks like having printed nothing at all. Raises ValueError then."""
    statuses = _STATUS_LINE.findall(report)
    if not statuses:
        raise ValueError("verify printed no report")
    backups = [
        f"backup {label} is {status}"
        for label, status in _BACKUP_STATUS.findall(report)
        if status not in _FINE
    ]
    log_bad = [
        (archive, int(checked) - int(valid), checked)
        for archive, checked, valid in _WAL_STATUS.findall(report)
        if checked != valid
    ]
    files = sum(map(int, _COUNTED.findall(report)))
    errors = backups + [
        f"log of {archive}: {bad} of {checked} segments are not valid" for archive, bad, checked in log_bad
    ]
    errors += _BAD_FILE.findall(log)
    said_error = any(status != "ok" for status in statuses)
    bad = max(files, len(backups) + sum(bad for _, bad, _ in log_bad), int(said_error))
    if said_error and not errors:
        errors = ["verify says that something is wrong, and not what"]
    return VerifyReport(bad, error_lines((), *errors[:SAID_MAX]))


_NEW_LABEL = re.compile(r"new backup label = (\S{1,60})")
_FILE_TOTAL = re.compile(r"backup size = [^,]{1,40}, file total = (\d{1,15})")
_BEGAN = re.compile(r"backup command begin (\d+\.\d+[.\w]{0,10})")
_LOG_START = re.compile(r"backup start archive = ([0-9A-F]{24})")
_LOG_STOP = re.compile(r"backup stop archive = ([0-9A-F]{24})")
_BAD_PAGE = re.compile(r"invalid page checksum", re.IGNORECASE)


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def read_backup_run(exit_code: int, text: str) -> RunFacts:
    """What `pgbackrest backup` logged on its console; at its default level that is warnings and errors alone."""
    errors = [f"[{code}] {message}" for code, message in _ERROR.findall(text)]
    warnings = [line.partition("WARN:")[2].strip() for line in text.splitlines() if "WARN:" in line]
    outcome, reason = Outcome.OK if exit_code == 0 else Outcome.FAILED, ""
    if exit_code == 0 and _BAD_PAGE.search(text):
        outcome, reason = Outcome.PARTIAL, PAGE_CHECKSUMS
    elif exit_code == LOCKED:
        reason = Reason.REPOSITORY_LOCKED
    files = _first(_FILE_TOTAL, text)
    label = _first(_NEW_LABEL, text)
    return RunFacts(
        outcome=outcome,
        reason=reason,
        errors=error_lines((), *errors[:SAID_MAX], *warnings[: SAID_MAX - len(errors[:SAID_MAX])]),
        snapshot_id=label if _LABEL.fullmatch(label) else "",
        files=int(files) if files else None,
        log_from=_first(_LOG_START, text),
        log_to=_first(_LOG_STOP, text),
        tool_version=_first(_BEGAN, text),
    )
