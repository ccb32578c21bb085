"""borg: the archives of a repository and who has it locked; its lists, its data, and a restore are verified.

borg 1.x is told to take no lock at all; borg 2 has no such option, and what is asked of it takes the lock that many may
have at once. The passphrase goes by a command that prints it, and what borg remembers is in a directory of this job's
own: its cache has a lock, too.

What borg says, and what is so (1.2 to 2.0):

1. Times have no zone before 2.0: they are the zone's of whoever asks. Only with TZ=UTC do they mean anything.
2. A source that is not there is a warning and exit code 1, or 107 where BORG_EXIT_CODES is `modern` (1.4), which 2.0
   always is. A warning is PARTIAL here, whatever its number.
3. Listing needs the key, and a lock: while a backup runs, who asks without --bypass-lock waits, and fails.
4. `borg check` is no observer. It wants the repository for itself; told to take no lock, it writes all the same (1.2.4:
   `config` anew, and in `nonce` it reserves numbers that a running backup counts on). So it is never run here: whole
   lists prove the structure, and `extract --dry-run`, which reads, decrypts and authenticates every chunk, the data.
5. A create that was interrupted leaves an archive NAME.checkpoint (before 2.0): half a backup, and never counted.
6. `borg info` reads every archive into a cache first: sizes are asked for only where the job says so.
"""

import re
import shlex
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from watchbill.backups.record import Level, Outcome, Proof
from watchbill.config import Wrong, option
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
)
from watchbill_agent.backups.manifest_check import DIFFERENT, unlike
from watchbill_agent.backups.restoring import NoPlace, count, restore_place
from watchbill_agent.backups.tool_answers import (
    Unusable,
    proved,
    read_document,
    readable,
    time_ms,
    usable,
)

T = TypeVar("T")

_ID: Final = re.compile(r"[0-9a-f]{1,64}")
VERSION_OLDEST: Final = (1, 1)
"""Before, there was no JSON."""
ROSTER_BYTES_MAX: Final = 256 * 1024
LOCKS_MAX: Final = 16
CONTENTS_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of an archive's list: ten million files."""
AHEAD_MS_MAX: Final = 10 * 60_000
"""How far an archive may be ahead of this host's clock."""

LOCK_STALE: Final = "lock-stale"
PASSWORD_MISSING: Final = "password-missing"  # noqa: S105 - a reason, no password.
KEY_MISSING: Final = "key-missing"
ACCESS_REFUSED: Final = "access-refused"
REPOSITORY_REPLACED: Final = "repository-replaced"
REPOSITORY_BUSY: Final = "repository-busy"
CLOCK_AHEAD: Final = "clock-ahead"
DRY_RUN: Final = "dry-run"
INTERRUPTED: Final = "interrupted"
SOURCE_CHANGED: Final = "source-changed"
WARNINGS: Final = "warnings"
RESTORE_DIFFERS: Final = "restore-differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How borg finds the repository, and which of its archives are this job's."""

    repository: str = option(help="Where the repository is, as BORG_REPO has it.", example='"/srv/borg"')
    passphrase_file: Path | None = option(None, help="File with the key's passphrase.")
    passcommand: str = option("", help="Command that prints the passphrase.")
    key_file: Path | None = option(None, help="The key, where it is not in the repository.")
    unencrypted: bool = option(
        False, help="The repository has no encryption, and is to be read all the same."
    )
    archives: str = option("*", help='Archives that count, by a pattern of their names: "web1-*".')
    sizes: bool = option(
        False, help="Measure the newest archive: borg reads the whole repository's lists once."
    )
    rsh: str = option("", help="Command that connects to a remote repository, in place of ssh.")
    remote_path: str = option("", help="borg on the remote side.")
    restore_dir: Path | None = option(
        None, help="Directory for verification by restore: an archive is extracted there, and removed again."
    )
    program: str = option("borg", help="The program's name or path.")

    def check(self) -> Iterable[Wrong]:
        """At most one passphrase."""
        if self.passphrase_file is not None and self.passcommand:
            yield Wrong("passphrase_file", "passcommand too", "either passphrase_file or passcommand")


# ---------------------------------------------------------------- what borg prints


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
_LOST: Final = frozenset(name for name, reason in _MESSAGES.items() if reason is Reason.REPOSITORY_DAMAGED)
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
    document, half = _document(stdout)
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
        bytes_source=_count(stats, "original_size"),
        bytes_added=_count(stats, "deduplicated_size"),
        bytes_stored=_count(stats, "compressed_size"),
        files=int(files[1]) if files else _count(stats, "nfiles"),
        files_failed=len(warned) if is_warning(exit_code) else (0 if exit_code == 0 and stats else None),
    )


def _document(stdout: bytes) -> tuple[Mapping[str, Any], bool]:
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


def _count(stats: Mapping[str, Any], key: str) -> int | None:
    value = stats.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


# ---------------------------------------------------------------- the adapter


class Borg(Adapter):
    """Reads a borg repository with the host's own borg, and keeps nobody out of it."""

    name = "borg"
    options_type = Options
    levels = frozenset(Level)

    def __init__(self, options: Options, job: Job, commands: Commands) -> None:
        self._options = options
        self._job = job
        self._commands = commands
        self._env: dict[str, str] = {}
        self._version = ""
        self._second = False

    def observe(self, now_ms: int) -> Observation:
        """Look once."""
        try:
            self._open()
            return self._look(now_ms)
        except Unusable as no:
            return Observation(
                outcome=no.outcome, reason=no.reason, errors=no.errors, tool_version=self._version
            )

    def proves(self) -> frozenset[Level]:
        """A restore needs a place."""
        return self.levels if self._options.restore_dir is not None else self.levels - {Level.RESTORE}

    def verify(self, check: Check, now_ms: int) -> Verification:  # noqa: ARG002 - a borg repository tells its own time.
        """Verify once. What was found while somebody else changed the repository proves nothing."""
        verify = {
            Level.STRUCTURE: self._read_lists,
            Level.DATA: self._read_data,
            Level.RESTORE: self._restore,
        }
        try:
            self._open()
            before = self._listing()
            found = verify[check.level](self._ours(before), check)
            if found.outcome is not Outcome.OK and self._changed_since(before):
                said = "the repository was written meanwhile: what was found proves nothing, it is looked at again"
                raise Unusable(REPOSITORY_BUSY, error_lines(found.errors, said))
            return found
        except Unusable as no:
            damaged = no.outcome is Outcome.FAILED
            return Verification(
                outcome=no.outcome,
                proof=Proof(level=check.level, ok=False, bad=1) if damaged else None,
                reason=no.reason,
                errors=no.errors,
                tool_version=self._version,
            )

    def read_run(self, exit_code: int, stdout: bytes, stderr: bytes) -> RunFacts:
        """What a wrapped `borg create` printed."""
        return read_create(exit_code, stdout, stderr, remote=is_remote(self._options.repository))

    # ------------------------------------------------------------ looking

    def _look(self, now_ms: int) -> Observation:
        finished = self._run(self._list_words())
        listing = self._parsed(finished, read_listing)
        ours = self._ours(listing)
        holders = self._holders()
        bytes_source, files, bytes_stored = self._sizes(ours)
        outcome, reason, errors = self._judge(ours, listing, holders or [], now_ms)
        return Observation(
            outcome=outcome,
            reason=reason,
            errors=error_lines(errors),
            snapshots=tuple(Snapshot(id=each.id, time_ms=each.time_ms) for each in ours),
            running=any(holder.exclusive and holder.alive() for holder in holders or ()),
            repo_locked=None if holders is None else bool(holders),
            repo_id=listing.repository.id,
            tool_version=self._version,
            bytes_source=bytes_source,
            bytes_stored=bytes_stored,
            files=files,
            raw_digest=sha256(finished.stdout).hexdigest(),
        )

    def _judge(
        self, ours: Sequence[Archive], listing: Listing, holders: Sequence[Holder], now_ms: int
    ) -> tuple[Outcome, str, list[str]]:
        """The worst first."""
        if ours and ours[-1].time_ms > now_ms + AHEAD_MS_MAX:
            said = f"archive {ours[-1].name} is of {ours[-1].start or ours[-1].time}, which is yet to come"
            return Outcome.OK, CLOCK_AHEAD, [said]
        stale = [holder for holder in holders if not holder.alive()]
        if stale:
            said = "a lock whose process is gone: the next borg of this host removes it, others wait for it in vain"
            return Outcome.OK, LOCK_STALE, [said, *map(str, stale)]
        if ours:
            return Outcome.OK, "", []
        if not listing.archives:
            return Outcome.OK, Reason.NO_SNAPSHOTS, ["this repository holds no archive at all"]
        names = ", ".join(archive.name for archive in listing.archives[-5:])
        return (
            Outcome.OK,
            Reason.REPOSITORY_FOREIGN,
            [f"no archive called {self._options.archives}; there are {names}"],
        )

    def _ours(self, listing: Listing) -> list[Archive]:
        pattern = self._options.archives
        ours = [each for each in listing.archives if each.whole and fnmatchcase(each.name, pattern)]
        return sorted(ours, key=lambda each: each.time_ms)

    def _holders(self) -> list[Holder] | None:
        """None where the repository's own files cannot be looked at, such as a remote one's."""
        place = self._place()
        if place is None or self._second:
            return None
        try:
            exclusive = [path.name for path in (place / "lock.exclusive").iterdir()]
        except FileNotFoundError:
            exclusive = []
        except OSError:
            return None
        try:
            with (place / "lock.roster").open("rb") as file:
                roster = file.read(ROSTER_BYTES_MAX)
        except OSError:
            roster = b""
        return read_holders(roster, exclusive)

    def _sizes(self, ours: Sequence[Archive]) -> tuple[int | None, int | None, int | None]:
        """Of the newest archive: bytes and files; all that is stored. None where it could not be had."""
        if not self._options.sizes or not ours:
            return None, None, None
        finished = self._run(("info", "--json", *self._info_of(ours[-1])), must=False)
        document, _ = _document(finished.stdout) if finished.ok else ({}, False)
        cache = document.get("cache")
        stored = cache.get("stats") if isinstance(cache, dict) else None
        match document.get("archives"):
            case [{"stats": dict(stats)}, *_]:
                pass
            case _:
                stats = {}
        return _count(stats, "original_size"), _count(stats, "nfiles"), _count(stored or {}, "unique_csize")

    # ------------------------------------------------------------ verifying

    def _read_lists(self, ours: Sequence[Archive], check: Check) -> Verification:
        """The list of every file of every archive: what says which chunks make a file."""
        return self._read_each(ours, check, "list", "--format", "")

    def _read_data(self, ours: Sequence[Archive], check: Check) -> Verification:
        """Every chunk of the archives of this part is read, decrypted and authenticated."""
        return self._read_each(ours, check, "extract", "--dry-run")

    def _read_each(self, ours: Sequence[Archive], check: Check, *command: str) -> Verification:
        for archive in reversed(self._some(ours)):
            if archive.part_of(check.parts) != check.part:
                continue
            finished = self._run((*command, *self._named(archive)), must=False)
            if not finished.ok:
                return self._failed(finished, check.level, check.fraction)
        return self._proved(Proof(level=check.level, ok=True, fraction=check.fraction))

    def _restore(self, ours: Sequence[Archive], check: Check) -> Verification:
        """The newest archive, whole, into a directory that is removed again."""
        newest = self._some(ours)[-1]
        name = self._named(newest)
        listed = self._run(
            ("list", "--format", "{type} {size}{NL}", *name), must=False, keep=CONTENTS_BYTES_MAX
        )
        if not listed.ok:
            return self._failed(listed, check.level, 1.0)
        wanted_files, wanted_bytes = expected(listed.stdout)
        try:
            with restore_place(self._options.restore_dir, self._job.name, wanted_bytes) as place:
                finished = self._run(("extract", *name), must=False, cwd=place)
                back = count(place)
                different = unlike(self._job.manifests, place, newest.time_ms)
        except NoPlace as exc:
            raise Unusable(exc.reason, (str(exc),)) from exc
        if not finished.ok and not is_warning(finished.exit_code or 0):
            return self._failed(finished, check.level, 1.0)
        # A warning may be an owner that only root can set: what came back is counted.
        if back.files < max(wanted_files, self._job.source.min_files) or back.bytes < wanted_bytes:
            said = f"{back.files} files of {back.bytes} bytes came back, wanted {wanted_files} of {wanted_bytes} bytes"
            proof = Proof(level=check.level, ok=False, bad=max(1, wanted_files - back.files))
            return self._proved(proof, [said, *words(finished.stderr)], RESTORE_DIFFERS)
        if different is not None:
            bad = different.bad + different.missing
            return self._proved(Proof(level=check.level, ok=False, bad=bad), different.errors, DIFFERENT)
        return self._proved(Proof(level=check.level, ok=True))

    def _some(self, ours: Sequence[Archive]) -> Sequence[Archive]:
        if not ours:
            raise Unusable(Reason.NO_SNAPSHOTS, ("there is no archive of this job to verify",))
        return ours

    def _failed(self, finished: Finished, level: Level, fraction: float) -> Verification:
        """What a reading that failed proves. Raises Unusable where it says nothing of the data."""
        reason = self._why_failed(finished)
        if reason not in (Reason.REPOSITORY_DAMAGED, Reason.TOOL_FAILED):
            raise Unusable(reason, error_lines(words(finished.stderr)))
        bad = max(1, sum(1 for each in messages(finished.stderr) if each.get("msgid") in _LOST))
        return self._proved(Proof(level=level, ok=False, fraction=fraction, bad=bad), words(finished.stderr))

    def _changed_since(self, before: Listing) -> bool:
        holders = self._holders() or ()
        if any(holder.exclusive and holder.alive() for holder in holders):
            return True
        try:
            return self._listing().repository != before.repository
        except Unusable:
            return False

    def _proved(
        self, proof: Proof, said: Sequence[str] = (), reason: str = Reason.REPOSITORY_DAMAGED
    ) -> Verification:
        return proved(proof, said, reason, self._version)

    # ------------------------------------------------------------ asking

    def _open(self) -> None:
        """What every command needs. Raises Unusable."""
        if self._version:
            return
        finished = usable(self._commands.run((self._options.program, "--version")), self._options.program)
        self._version = read_version(finished.stdout + finished.stderr)
        found = re.match(r"(\d+)\.(\d+)", self._version)
        version = (int(found[1]), int(found[2])) if found else VERSION_OLDEST
        if version < VERSION_OLDEST:
            raise Unusable(
                Reason.TOOL_TOO_OLD, (f"borg {self._version} prints no JSON, wanted 1.1 or newer",)
            )
        self._second = version[0] >= 2
        self._env = self._environment()

    def _environment(self) -> dict[str, str]:
        options = self._options
        env = {"BORG_REPO": options.repository, "BORG_EXIT_CODES": "modern"}
        if options.passphrase_file is not None:
            readable(options.passphrase_file, 1, PASSWORD_MISSING)
            env["BORG_PASSCOMMAND"] = f"cat {shlex.quote(str(options.passphrase_file))}"
        elif options.passcommand:
            env["BORG_PASSCOMMAND"] = options.passcommand
        if options.key_file is not None:
            readable(options.key_file, 1, PASSWORD_MISSING)
            env["BORG_KEY_FILE"] = str(options.key_file)
        if options.unencrypted:
            env["BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK"] = "yes"
        if options.rsh:
            env["BORG_RSH"] = options.rsh
        if options.remote_path:
            env["BORG_REMOTE_PATH"] = options.remote_path
        if self._job.scratch is not None:
            env["BORG_BASE_DIR"] = str(self._job.scratch / "borg")
        return env

    def _list_words(self) -> tuple[str, ...]:
        return ("repo-list", "--json") if self._second else ("list", "--json")

    def _named(self, archive: Archive) -> tuple[str, ...]:
        """How a command is told of an archive; names need not be unique in 2.0. Braces in a name are borg's to fill in,
        unless they are doubled."""
        if self._second:
            return (f"aid:{archive.id}",)
        return ("::" + archive.name.replace("{", "{{").replace("}", "}}"),)

    def _info_of(self, archive: Archive) -> tuple[str, ...]:
        return ("-a", f"aid:{archive.id}") if self._second else self._named(archive)

    def _listing(self) -> Listing:
        listing: Listing = self._parsed(self._run(self._list_words()), read_listing)
        return listing

    def _parsed(self, finished: Finished, parse: Callable[[bytes], T]) -> T:
        try:
            return parse(finished.stdout)
        except ValueError as exc:
            said = f"borg {self._version or 'of an unknown version'} printed {exc}"
            raise Unusable(Reason.OUTPUT_UNREADABLE, error_lines(words(finished.stderr), said)) from exc

    def _run(
        self, arguments: Sequence[str], *, must: bool = True, keep: int | None = None, cwd: Path | None = None
    ) -> Finished:
        """One command. `must`: raises Unusable also where it ended with an error."""
        common = ("--log-json",) if self._second else ("--log-json", "--bypass-lock")
        argv = (self._options.program, *common, *arguments)
        more: dict[str, Any] = {} if keep is None else {"stdout_bytes_max": keep}
        finished = usable(self._commands.run(argv, env=self._env, cwd=cwd, **more), self._options.program)
        if must and not finished.ok:
            reason = self._why_failed(finished)
            raise Unusable(reason, error_lines(words(finished.stderr), *_ADVICE.get(reason, ())))
        return finished

    def _why_failed(self, finished: Finished) -> str:
        remote = is_remote(self._options.repository)
        return why_failed(finished.exit_code, finished.stderr, remote=remote)

    def _place(self) -> Path | None:
        """The repository's directory, where it is on this host."""
        address = self._options.repository.removeprefix("file://")
        return Path(address) if address.startswith("/") else None


_ADVICE: Final[Mapping[str, tuple[str, ...]]] = {
    Reason.NEEDS_RUNNER: ("this agent may not read the repository: give its user the right to read it",),
    Reason.REPOSITORY_MISSING: ("there is no repository here: is the place mounted, is the address right?",),
    ACCESS_REFUSED: (
        "borg wants to be told that this repository is meant: set unencrypted, if it has no encryption",
    ),
    REPOSITORY_REPLACED: ("this is not the repository that was read before: find out who put it here",),
    KEY_MISSING: ("the key is not in the repository: set key_file",),
}


def expected(listing: bytes) -> tuple[int, int]:
    """Regular files and their bytes in lines of `TYPE SIZE`; a further name of a file is not counted."""
    sizes = [
        int(size) for kind, _, size in (line.partition(b" ") for line in listing.splitlines()) if kind == b"-"
    ]
    return len(sizes), sum(sizes)
