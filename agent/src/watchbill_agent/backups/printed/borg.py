"""What borg prints, as values: archives, who holds a lock, why it failed, how a create went. Pure, but that a lock
looks for its process.

Errors have names, codes and texts, by version: `adapters/borg.py` says what is so.
"""

import re
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec

from watchbill.backups.record import Outcome
from watchbill_agent.backups.adapter import Reason, RunFacts, error_lines
from watchbill_agent.backups.tool_answers import read_document, time_ms

_ID: Final = re.compile(r"[0-9a-f]{1,64}")
LOCKS_MAX: Final = 16

PASSWORD_MISSING: Final = "password-missing"  # noqa: S105 - a reason, no password.
KEY_MISSING: Final = "key-missing"
ACCESS_REFUSED: Final = "access-refused"
REPOSITORY_REPLACED: Final = "repository-replaced"
DRY_RUN: Final = "dry-run"
INTERRUPTED: Final = "interrupted"
SOURCE_CHANGED: Final = "source-changed"
WARNINGS: Final = "warnings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An archive in the list. `start` is missing in 2.0, `time` before 1.2."""

    id: str
    name: str
    start: str = ""
    time: str = ""

    @property
    def time_ms(self) -> int:
        """When it began. Raises ValueError."""
        return time_ms(self.start or self.time)

    def part_of(self, parts: int) -> int:
        """Which part of so many it is in, from 1: the same one every day, whatever comes and goes beside it."""
        return int(sha256(self.id.encode()).hexdigest()[:8], 16) % parts + 1

    @property
    def whole(self) -> bool:
        """Whether its run came to its end."""
        return not re.search(r"\.checkpoint(\.\d+)?$", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """What every JSON document of borg says of the repository."""

    id: str
    last_modified: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """`borg list --json`, or `repo-list --json` of 2.0."""

    archives: list[Archive]
    repository: Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A lock in a repository's own files."""

    host_id: str
    process: int
    exclusive: bool

    def alive(self) -> bool:
        """False where it is known to be gone: a process of this host. What another host does cannot be seen."""
        return not is_here(self.host_id) or Path(f"/proc/{self.process}").exists()

    def __str__(self) -> str:
        return (
            f"{'exclusive' if self.exclusive else 'shared'} lock of process {self.process} on {self.host_id}"
        )


def is_here(host_id: str) -> bool:
    """Whether `web1.example@3281355014145` is this host: borg writes its name, long or short, and its first address."""
    name, _, node = host_id.rpartition("@")
    return node == str(uuid.getnode()) and name.partition(".")[0] == socket.gethostname().partition(".")[0]


def read_listing(document: bytes) -> Listing:
    """Raises ValueError."""
    listing = read_document(document, Listing, "borg")
    for archive in listing.archives:
        archive.time_ms  # noqa: B018 - one that cannot be read is told of now.
        if not _ID.fullmatch(archive.id):
            raise ValueError(f"an archive whose id is {archive.id[:80]!r}")
    return listing


def read_version(output: bytes) -> str:
    """`borg 1.2.4` is 1.2.4; "" if it is not like that."""
    found = re.search(rb"^borg2? (\d+\.\d+\S*)", output, re.MULTILINE)
    return found[1].decode() if found else ""


def read_holders(roster: bytes, exclusive: Iterable[str]) -> list[Holder]:
    """Who has a lock, by the roster and by the names in `lock.exclusive`; what is neither is left out."""
    found: dict[tuple[str, int], Holder] = {}
    try:
        document = msgspec.json.decode(roster) if roster else {}
    except msgspec.DecodeError:
        document = {}
    for kind in ("shared", "exclusive"):
        entries = document.get(kind) if isinstance(document, dict) else None
        for entry in entries if isinstance(entries, list) else []:
            match entry:
                case [str(host_id), int(process), *_]:
                    found[host_id, process] = Holder(
                        host_id=host_id, process=process, exclusive=kind == "exclusive"
                    )
    for name in exclusive:
        if match := re.fullmatch(r"(.+)\.(\d+)-[0-9a-f]+", name):
            host_id, process = match[1], int(match[2])
            found[host_id, process] = Holder(host_id=host_id, process=process, exclusive=True)
    return list(found.values())[:LOCKS_MAX]


def messages(output: bytes) -> Iterator[dict[str, Any]]:
    """The JSON lines in it; what else is there is left out. A question that nobody answers has no line end, so that a
    line may begin with one."""
    for line in output.splitlines():
        begin = line.find(b'{"')
        if begin >= 0:
            try:
                found = msgspec.json.decode(line[begin:])
            except msgspec.DecodeError:
                continue
            if isinstance(found, dict):
                yield found


def words(output: bytes) -> list[str]:
    """What stderr says to a person: lines of text as they are, JSON lines by their message, of a traceback the error
    alone, progress not at all."""
    said: list[str] = []
    for line in output.splitlines():
        message = next(messages(line), None)
        if message is None:
            said.append(line.decode("utf-8", "replace"))
        elif message.get("type", "log_message") in ("log_message", "question_prompt"):
            said.extend(_sense(str(message.get("message", ""))))
    return [line for line in said if line.strip()]


def _sense(text: str) -> list[str]:
    lines = text.splitlines()
    if not any(line.startswith("Traceback (most recent call last)") for line in lines):
        return lines
    end = next((at for at, line in enumerate(lines) if line.startswith("Platform: ")), len(lines))
    return [line for line in lines[:end] if re.match(r"[A-Za-z_][\w.]*: ", line)] or lines[:end][-1:]


_MESSAGES: Final = {
    "Repository.DoesNotExist": Reason.REPOSITORY_MISSING,
    "Repository.InvalidRepository": Reason.REPOSITORY_MISSING,
    "Repository.ParentPathDoesNotExist": Reason.REPOSITORY_MISSING,
    "Repository.InvalidRepositoryConfig": Reason.REPOSITORY_DAMAGED,
    "Repository.CheckNeeded": Reason.REPOSITORY_DAMAGED,
    "Repository.ObjectNotFound": Reason.REPOSITORY_DAMAGED,
    "Repository.PackNotFound": Reason.REPOSITORY_DAMAGED,
    "Repository.PackLocationUnknown": Reason.REPOSITORY_DAMAGED,
    "Repository.PathPermissionDenied": Reason.NEEDS_RUNNER,
    "Repository.PermissionDenied": Reason.NEEDS_RUNNER,
    "NoManifestError": Reason.REPOSITORY_DAMAGED,
    "IntegrityError": Reason.REPOSITORY_DAMAGED,
    "FileIntegrityError": Reason.REPOSITORY_DAMAGED,
    "DecompressionError": Reason.REPOSITORY_DAMAGED,
    "MandatoryFeatureUnsupported": Reason.TOOL_TOO_OLD,
    "UnsupportedManifestError": Reason.TOOL_TOO_OLD,
    "UnsupportedPayloadError": Reason.TOOL_TOO_OLD,
    "KeyfileInvalidError": KEY_MISSING,
    "KeyfileMismatchError": KEY_MISSING,
    "KeyfileNotFoundError": KEY_MISSING,
    "RepoKeyNotFoundError": KEY_MISSING,
    "NoPassphraseFailure": PASSWORD_MISSING,
    "PasscommandFailure": PASSWORD_MISSING,
    "PassphraseWrong": Reason.PASSWORD_WRONG,
    "PasswordRetriesExceeded": Reason.PASSWORD_WRONG,
    "RepositoryAccessAborted": ACCESS_REFUSED,
    "CacheInitAbortedError": ACCESS_REFUSED,
    "EncryptionMethodMismatch": REPOSITORY_REPLACED,
    "RepositoryIDNotUnique": REPOSITORY_REPLACED,
    "RepositoryReplay": REPOSITORY_REPLACED,
    "LockError": Reason.REPOSITORY_LOCKED,
    "LockErrorT": Reason.REPOSITORY_LOCKED,
    "LockTimeout": Reason.REPOSITORY_LOCKED,
    "LockFailed": Reason.NEEDS_RUNNER,
    "ConnectionClosed": Reason.REPOSITORY_UNREACHABLE,
    "ConnectionClosedWithHint": Reason.REPOSITORY_UNREACHABLE,
    "ConnectionBrokenWithHint": Reason.REPOSITORY_UNREACHABLE,
}
"""By what borg calls its errors, without the class of a cache in front."""
LOST: Final = frozenset(name for name, reason in _MESSAGES.items() if reason is Reason.REPOSITORY_DAMAGED)
_CODES: Final = {
    12: Reason.REPOSITORY_DAMAGED,
    13: Reason.REPOSITORY_MISSING,
    15: Reason.REPOSITORY_MISSING,
    16: Reason.REPOSITORY_DAMAGED,
    17: Reason.REPOSITORY_DAMAGED,
    18: Reason.REPOSITORY_MISSING,
    21: Reason.NEEDS_RUNNER,
    22: Reason.REPOSITORY_DAMAGED,
    23: Reason.REPOSITORY_DAMAGED,
    24: Reason.NEEDS_RUNNER,
    25: Reason.TOOL_TOO_OLD,
    26: Reason.REPOSITORY_DAMAGED,
    27: Reason.TOOL_TOO_OLD,
    40: KEY_MISSING,
    41: KEY_MISSING,
    42: KEY_MISSING,
    44: KEY_MISSING,
    50: PASSWORD_MISSING,
    51: PASSWORD_MISSING,
    52: Reason.PASSWORD_WRONG,
    53: Reason.PASSWORD_WRONG,
    60: ACCESS_REFUSED,
    62: ACCESS_REFUSED,
    61: REPOSITORY_REPLACED,
    63: REPOSITORY_REPLACED,
    64: REPOSITORY_REPLACED,
    70: Reason.REPOSITORY_LOCKED,
    71: Reason.REPOSITORY_LOCKED,
    72: Reason.NEEDS_RUNNER,
    73: Reason.REPOSITORY_LOCKED,
    80: Reason.REPOSITORY_UNREACHABLE,
    81: Reason.REPOSITORY_UNREACHABLE,
    87: Reason.REPOSITORY_UNREACHABLE,
    90: Reason.REPOSITORY_DAMAGED,
    91: Reason.REPOSITORY_DAMAGED,
    92: Reason.REPOSITORY_DAMAGED,
}
"""Of BORG_EXIT_CODES=modern."""
_TEXTS: Final = tuple(
    (reason, re.compile(pattern, re.IGNORECASE))
    for reason, pattern in (
        (Reason.PASSWORD_WRONG, r"passphrase supplied in .* is incorrect"),
        (Reason.REPOSITORY_LOCKED, r"failed to create/acquire the lock"),
        (Reason.NEEDS_RUNNER, r"permission denied|permissionerror"),
        (
            Reason.REPOSITORY_UNREACHABLE,
            (
                r"connection (closed|refused|reset|timed out)|could not resolve|no route to host"
                r"|host key verification|network is unreachable|stale file handle|transport endpoint"
            ),
        ),
        (Reason.REPOSITORY_MISSING, r"repository .* does not exist|is not a valid repository"),
        (Reason.TOOL_TOO_OLD, r"repository version|unsupported|unrecognized arguments|invalid choice"),
        (
            Reason.REPOSITORY_DAMAGED,
            (
                r"integrity ?error|segment .* \[|checksum|object with key|no manifest|inconsistency detected"
                r"|completed with errors|index .* (corrupt|mismatch)|configparser"
            ),
        ),
    )
)


_REMOTE: Final = re.compile(r"(?!file:)[^/:]+:")
"""How the address of a repository begins that another program leads to: `ssh://host/path`, `me@host:path`."""


def is_remote(repository: str) -> bool:
    """Whether borg talks to somebody in order to reach it."""
    return _REMOTE.match(repository) is not None


def why_failed(exit_code: int | None, stderr: bytes, *, remote: bool = False) -> str:
    """The word for a command that failed: by its message's name, else by its code, else by its text. Of a `remote`
    repository a broken pipe is what led there: it ended before borg had said what it wants."""
    for message in messages(stderr):
        if message.get("levelname") in ("ERROR", "CRITICAL"):
            name = str(message.get("msgid") or "")
            reason = _MESSAGES.get(name) or _MESSAGES.get(name.rpartition(".")[2])
            if reason:
                return reason
    if exit_code in _CODES:
        return _CODES[exit_code]
    said = "\n".join(words(stderr))
    reason = next((reason for reason, pattern in _TEXTS if pattern.search(said)), Reason.TOOL_FAILED)
    if reason is Reason.TOOL_FAILED and remote and "BrokenPipeError" in said:
        return Reason.REPOSITORY_UNREACHABLE
    return reason


# ---------------------------------------------------------------- a wrapped run


_WARNED: Final = tuple(
    (reason, re.compile(pattern))
    for reason, pattern in (
        (
            Reason.SOURCE_MISSING,
            r"BackupFileNotFoundError|No such file or directory|Include pattern .* never matched",
        ),
        (Reason.SOURCE_UNREADABLE, r"Backup\w*Error|Permission denied|Input/output error|Errno"),
        (SOURCE_CHANGED, r"FileChangedWarning|file changed while we backed it up"),
    )
)
_FINGERPRINT: Final = re.compile(r"Archive fingerprint: ([0-9a-f]{64})")
_FILES: Final = re.compile(r"Number of files: (\d+)")


def is_warning(exit_code: int) -> bool:
    """1, or what 1.4 and newer can say more precisely."""
    return exit_code == 1 or 100 <= exit_code <= 127


def read_create(exit_code: int, stdout: bytes, stderr: bytes, *, remote: bool = False) -> RunFacts:
    """What `borg create` printed, with `--json` and `--log-json` or without; of other commands how they ended."""
    said = words(stderr)
    document, half = document_in(stdout)
    archive = document.get("archive")
    archive = archive if isinstance(archive, dict) else {}
    stats = archive.get("stats")
    stats = stats if isinstance(stats, dict) else {}
    text = stdout.decode("utf-8", "replace") + "\n".join(said)
    fingerprint, files = _FINGERPRINT.search(text), _FILES.search(text)
    warned = [line for line in said if any(pattern.search(line) for _, pattern in _WARNED)]
    outcome, reason = _how_it_went(exit_code, document, stderr, remote)
    if outcome is Outcome.OK and half:
        outcome, reason = Outcome.UNKNOWN, Reason.OUTPUT_UNREADABLE
        said = [*said, "borg ended well, and printed half a JSON document"]
    return RunFacts(
        outcome=outcome,
        reason=reason,
        errors=error_lines(warned or said) if outcome is not Outcome.OK else (),
        snapshot_id=str(archive.get("id") or "") or (fingerprint[1] if fingerprint else ""),
        bytes_source=number(stats, "original_size"),
        bytes_added=number(stats, "deduplicated_size"),
        bytes_stored=number(stats, "compressed_size"),
        files=int(files[1]) if files else number(stats, "nfiles"),
        files_failed=len(warned) if is_warning(exit_code) else (0 if exit_code == 0 and stats else None),
    )


def document_in(stdout: bytes) -> tuple[Mapping[str, Any], bool]:
    """The JSON document in it, and whether there is one that does not end."""
    begin = stdout.find(b"{")
    if begin < 0:
        return {}, False
    try:
        found = msgspec.json.decode(stdout[begin:])
    except msgspec.DecodeError:
        return {}, b'"repository"' in stdout or b'"archive"' in stdout
    return (found if isinstance(found, dict) else {}), False


def _how_it_went(
    exit_code: int, document: Mapping[str, Any], stderr: bytes, remote: bool
) -> tuple[Outcome, str]:
    if exit_code == 0:
        return (Outcome.FAILED, DRY_RUN) if document.get("dry_run") is True else (Outcome.OK, "")
    if is_warning(exit_code):
        said = "\n".join((*words(stderr), *(str(each.get("msgid", "")) for each in messages(stderr))))
        return Outcome.PARTIAL, next(
            (reason for reason, pattern in _WARNED if pattern.search(said)), WARNINGS
        )
    if exit_code == 3 or exit_code > 127:
        return Outcome.FAILED, INTERRUPTED
    return Outcome.FAILED, why_failed(exit_code, stderr, remote=remote)


def number(stats: Mapping[str, Any], key: str) -> int | None:
    """A count that borg tells; None where it tells none."""
    value = stats.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def expected(listing: bytes) -> tuple[int, int]:
    """Regular files and their bytes in lines of `TYPE SIZE`; a further name of a file is not counted."""
    sizes = [
        int(size) for kind, _, size in (line.partition(b" ") for line in listing.splitlines()) if kind == b"-"
    ]
    return len(sizes), sum(sizes)
