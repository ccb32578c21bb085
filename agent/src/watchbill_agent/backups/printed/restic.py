"""What restic prints, as values: snapshots, locks, sizes, why it failed, how a backup went. Pure, but that a lock looks
for its process.

restic mixes text and lines of JSON, by version and by command: `adapters/restic.py` says what is so.
"""

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from watchbill.backups.record import Outcome
from watchbill_agent.backups.adapter import Reason, RunFacts, error_lines
from watchbill_agent.backups.tool_answers import read_document, time_ms

_ID: Final = re.compile(r"[0-9a-f]{8,64}")
LOCK_AGE_S_MAX: Final = 30 * 60
"""restic refreshes a lock every 5 minutes, and calls one of this age stale itself."""

PASSWORD_MISSING: Final = "password-missing"  # noqa: S105 - a reason, no password.
DRY_RUN: Final = "dry-run"
INTERRUPTED: Final = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a snapshot of 0.17 or newer knows of its run."""

    total_files_processed: int | None = None
    total_bytes_processed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A snapshot in `restic snapshots --json`."""

    id: str
    time: str
    hostname: str = ""
    tags: list[str] | None = None
    paths: list[str] | None = None
    summary: Summary | None = None

    @property
    def time_ms(self) -> int:
        """Raises ValueError."""
        return time_ms(self.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A lock in `restic cat lock`."""

    time: str
    exclusive: bool = False
    hostname: str = ""
    username: str = ""
    pid: int = 0

    def alive(self, now_ms: int) -> bool:
        """By restic's own rule: refreshed lately, and if its host is this one, its process is there."""
        if now_ms - time_ms(self.time) > LOCK_AGE_S_MAX * 1000:
            return False
        return self.hostname != socket.gethostname() or Path(f"/proc/{self.pid}").exists()

    def __str__(self) -> str:
        kind = "exclusive lock" if self.exclusive else "lock"
        return f"{kind} of {self.username or 'somebody'} on {self.hostname}, process {self.pid}, since {self.time}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """`restic stats --json`. Its count of files is one of directories, too."""

    total_size: int


def read_snapshots(document: bytes) -> list[Listed]:
    """All snapshots; an empty repository is `null` in some versions and `[]` in others. Raises ValueError."""
    listed = read_document(document, list[Listed] | None, "restic") or []  # type: ignore[arg-type]
    for each in listed:
        each.time_ms  # noqa: B018 - one that cannot be read is told of now.
        if not _ID.fullmatch(each.id):
            raise ValueError(f"a snapshot whose id is {each.id[:80]!r}")
    return listed


def read_lock(document: bytes) -> Lock:
    """Raises ValueError."""
    lock = read_document(document, Lock, "restic")
    time_ms(lock.time)
    return lock


def read_version(output: bytes) -> str:
    """`restic 0.14.0 compiled with go1.19.8 on linux/amd64` is 0.14.0; "" if it is not like that."""
    found = re.match(rb"restic (\d+\.\d+\.\d+\S*)", output)
    return found[1].decode() if found else ""


def messages(output: bytes) -> Iterator[dict[str, Any]]:
    """The JSON lines in it; what else is there is left out: restic mixes both."""
    for line in output.splitlines():
        if line.lstrip().startswith(b"{"):
            try:
                found = msgspec.json.decode(line)
            except msgspec.DecodeError:
                continue
            if isinstance(found, dict):
                yield found


def words(output: bytes) -> list[str]:
    """What stderr says to a person: lines of text as they are, JSON lines by their message."""
    said: list[str] = []
    for line in output.splitlines():
        message = next(messages(line), None)
        said.append(line.decode("utf-8", "replace") if message is None else _message(message))
    return [re.sub(r"://[^/\s@]*@", "://***@", line) for line in said if line.strip()]


def _message(message: Mapping[str, Any]) -> str:
    """The text of one JSON line on stderr. An `error` is an object without any text in some versions."""
    error = message.get("error")
    text = message.get("message") or (error.get("message") if isinstance(error, dict) else error)
    item = message.get("item")
    if not text and isinstance(error, dict):
        text = " ".join(str(error[key]) for key in ("Op", "Path") if key in error)
        text = f"{text} failed" if text else "failed"
    return f"{item}: {text}" if item else str(text or message)


_TEXTS: Final = tuple(
    (reason, re.compile(pattern, re.IGNORECASE))
    for reason, pattern in (
        (Reason.PASSWORD_WRONG, r"wrong password|no key found"),
        (Reason.REPOSITORY_LOCKED, r"already locked|unable to create lock"),
        (Reason.NEEDS_RUNNER, r"permission denied|access denied|operation not permitted"),
        (PASSWORD_MISSING, r"resolving password failed|empty password|an empty password"),
        (
            Reason.REPOSITORY_UNREACHABLE,
            (
                r"connection refused|no such host|i/o timeout|connection reset|no route to host|could not resolve"
                r"|network is unreachable|tls: |x509: |connection closed|unable to start the sftp|broken pipe"
                r"|host key|context deadline exceeded|\b5\d\d (internal|bad|service|gateway)|\(5\d\d\)"
                r"|stale (nfs )?file handle|transport endpoint"
            ),
        ),
        (
            Reason.REPOSITORY_MISSING,
            r"unable to open config file|repository does not exist|is there a repository at|bucket does not exist",
        ),
        (
            Reason.REPOSITORY_DAMAGED,
            (
                r"ciphertext verification failed|invalid data returned|hash mismatch|does not match|is damaged"
                r"|loadindex returned errors|repository contains errors|not found in (repository|index)|truncated"
                r"|invalid character|unexpected eof|unexpected end of|unmarshal|no such file or directory"
                r"|there were \d+ errors"
            ),
        ),
    )
)
SNAPSHOT_LOST: Final = re.compile(r"(could not|failed to) load snapshot|ignoring .*snapshot", re.IGNORECASE)
_CODES: Final = {10: Reason.REPOSITORY_MISSING, 11: Reason.REPOSITORY_LOCKED, 12: Reason.PASSWORD_WRONG}
"""Since 0.17."""


def why_failed(exit_code: int | None, stderr: bytes) -> str:
    """The word for a command that failed: by its exit code where that says it, else by its text."""
    if exit_code in _CODES:
        return _CODES[exit_code]
    said = "\n".join(words(stderr))
    return next((reason for reason, pattern in _TEXTS if pattern.search(said)), Reason.TOOL_FAILED)


# ---------------------------------------------------------------- a wrapped run


_SKIPPED: Final = re.compile(
    r"does not exist, skipping|does not match any files, skipping|cannot access", re.IGNORECASE
)
_SAVED: Final = re.compile(rb"^snapshot ([0-9a-f]{8,64}) saved", re.MULTILINE)
_NO_SOURCE: Final = re.compile(r"all (target|source) (directories|paths|directories/files)", re.IGNORECASE)


def read_backup(exit_code: int, stdout: bytes, stderr: bytes) -> RunFacts:
    """What `restic backup` printed, with `--json` or without; of other commands no more than how they ended."""
    said = words(stderr)
    printed = list(messages(stdout))
    summary: Mapping[str, Any] = next((each for each in reversed(printed) if _is_summary(each)), {})
    skipped = [line for line in said if _SKIPPED.search(line)]
    failed = sum(1 for each in messages(stderr) if each.get("message_type") == "error")
    saved = _SAVED.findall(stdout)
    outcome, reason = _how_it_went(exit_code, summary, skipped, said)
    if (
        outcome is Outcome.OK
        and not summary
        and any(each.get("message_type") == "status" for each in printed)
    ):
        outcome, reason = Outcome.UNKNOWN, Reason.OUTPUT_UNREADABLE
        said = [*said, "restic ended well, and its last line, the summary, did not come"]
    return RunFacts(
        outcome=outcome,
        reason=reason,
        errors=error_lines(skipped or said) if outcome is not Outcome.OK else (),
        snapshot_id=_text(summary, "snapshot_id") or (saved[-1].decode() if saved else ""),
        bytes_source=_count(summary, "total_bytes_processed"),
        bytes_added=_count(summary, "data_added"),
        bytes_stored=_count(summary, "data_added_packed"),
        files=_count(summary, "total_files_processed"),
        files_failed=failed or (0 if summary and exit_code == 0 else None),
    )


def _is_summary(message: Mapping[str, Any]) -> bool:
    """Of a backup: `check` and `restore` in the same script end with one of their own."""
    return message.get("message_type") == "summary" and "total_files_processed" in message


def _how_it_went(
    exit_code: int, summary: Mapping[str, Any], skipped: Sequence[str], said: Sequence[str]
) -> tuple[Outcome, str]:
    if exit_code == 0 and summary.get("dry_run") is True:
        return Outcome.FAILED, DRY_RUN
    if exit_code in (0, 3) and skipped:
        return Outcome.PARTIAL, Reason.SOURCE_MISSING
    if exit_code == 0:
        return Outcome.OK, ""
    if exit_code == 3:
        return Outcome.PARTIAL, Reason.SOURCE_UNREADABLE
    if exit_code == 130:
        return Outcome.FAILED, INTERRUPTED
    if any(_NO_SOURCE.search(line) for line in said):
        return Outcome.FAILED, Reason.SOURCE_MISSING
    return Outcome.FAILED, why_failed(exit_code, "\n".join(said).encode())


def _count(summary: Mapping[str, Any], key: str) -> int | None:
    value = summary.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _text(summary: Mapping[str, Any], key: str) -> str:
    value = summary.get(key)
    return value if isinstance(value, str) else ""


def read_environment(text: bytes) -> dict[str, str]:
    """Lines of NAME=VALUE, as systemd's EnvironmentFile has them; quotes around a value are taken off."""
    found = {}
    for line in text.decode("utf-8", "replace").splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            found[name] = value[1:-1] if quoted else value
    return found
