"""What a host tells of its backups: one run, or one look at a repository. Append-only; made on the host, kept there
until the collector has it, recorded there once by `record_id`.

Times are UTC milliseconds by the host's clock; the collector corrects them as it corrects the event they come in.
0 stands for "not known" in times, None elsewhere.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from watchbill.backups import bounds
from watchbill.backups.bounds import JOB_NAME_CHARACTERS_MAX
from watchbill.errors import Unreadable

BACKUP_JOBS: Final = "backup.jobs"
"""`jobs`: the digest of each job's definition by its name: all that this host has now. Others are gone."""
BACKUP_DEFINED: Final = "backup.defined"
"""`definition` and its `digest`."""
BACKUP_RECORD: Final = "backup.record"
"""A `Record`."""

ERRORS_MAX: Final = bounds.ERRORS_MAX
ERROR_CHARACTERS_MAX: Final = bounds.ERROR_CHARACTERS_MAX
TAIL_CHARACTERS_MAX: Final = bounds.TAIL_CHARACTERS_MAX
TEXT_CHARACTERS_MAX: Final = bounds.TEXT_CHARACTERS_MAX
NUMBER_MAX: Final = bounds.NUMBER_MAX
SNAPSHOTS_PER_RECORD_MAX: Final = 1_000
"""More come in parts: an event has a bound."""
SNAPSHOTS_MAX: Final = 20_000
"""Snapshots that are listed, the newest ones; all are counted."""
PARTS_MAX: Final = SNAPSHOTS_MAX // SNAPSHOTS_PER_RECORD_MAX

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Kind(StrEnum):
    """What a record tells of."""

    RUN = "run"
    OBSERVE = "observe"
    VERIFY = "verify"
    RESTORE = "restore"


class Outcome(StrEnum):
    """How it went. An observation is `unknown` when the repository could not be read: `reason` says why."""

    OK = "ok"
    PARTIAL = "partial"
    FAILED = "failed"
    RUNNING = "running"
    UNKNOWN = "unknown"


class Source(StrEnum):
    """Who says so."""

    WRAP = "wrap"
    REPO = "repo"
    PING = "ping"
    REPORT = "report"
    UNIT = "unit"


class Level(StrEnum):
    """What a proof proves: the repository hangs together, its data reads back whole, it was restored."""

    STRUCTURE = "structure"
    DATA = "data"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a verification found. `fraction` of all data was looked at, of 1; `bad` things were found."""

    level: Level
    ok: bool
    fraction: float = 1.0
    bad: int = 0


class Snapshots(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a repository holds. `ids_digest` is of all ids, sorted. `listed` are (id, time in ms) of this part of
    `parts`, sent when the digest is not the one that was told last; else it is empty and `parts` is 0.
    """

    count: int
    oldest_ms: int = 0
    newest_ms: int = 0
    ids_digest: str = ""
    part: int = 0
    parts: int = 0
    listed: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a wrapped command used."""

    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    rss_bytes_max: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One run or observation. A run has several, with one `run_id`: when it begins, while it goes on, and at its end.

    `point_ms` is the time that the data stands for: the start of the run, since what is read later may be newer, and
    nobody may claim more. `reason` is a word in the manner of `repository-locked`; `errors` say it to a person.

    A struct, as `Snapshots` is: a million of them are read back at a collector's start, in a third of the time that
    frozen dataclasses take.
    """

    record_id: str
    job: str
    kind: Kind
    source: Source
    outcome: Outcome
    observed_ms: int
    run_id: str = ""
    copy: str = ""
    started_ms: int = 0
    finished_ms: int = 0
    exit_code: int | None = None
    signal: int | None = None
    tool: str = ""
    tool_version: str = ""
    point_ms: int = 0
    snapshot_id: str = ""
    bytes_source: int | None = None
    bytes_added: int | None = None
    bytes_stored: int | None = None
    files: int | None = None
    files_failed: int | None = None
    log_from: str = ""
    log_to: str = ""
    reason: str = ""
    errors: tuple[str, ...] = ()
    tail: str = ""
    manifest_digest: str = ""
    verify: Proof | None = None
    snapshots: Snapshots | None = None
    repo_locked: bool | None = None
    repo_id: str = ""
    usage: Usage | None = None
    raw_digest: str = ""

    def to_json(self) -> bytes:
        """Canonical, and without what is as it is when nothing is known."""
        document = {
            key: value
            for key, value in msgspec.to_builtins(self).items()
            if value is not None and (key in _ALWAYS or value not in ("", 0, (), []))
        }
        return msgspec.json.encode(document, order="deterministic")


_ALWAYS: Final = frozenset(
    {
        "record_id",
        "job",
        "kind",
        "source",
        "outcome",
        "observed_ms",
        "exit_code",
        "bytes_source",
        "bytes_added",
        "bytes_stored",
        "files",
        "files_failed",
        "repo_locked",
    }
)
"""Here 0 says something, and so does no."""


def new_id() -> str:
    """For a record or a run."""
    return os.urandom(16).hex()


def read_record(document: bytes) -> Record:
    """A record as it was sent; what a newer agent says beyond it is left out. Raises Unreadable."""
    try:
        found = msgspec.json.decode(document, type=Record)
    except (msgspec.DecodeError, ValueError) as exc:
        raise Unreadable(f"a backup's record: {exc}") from exc
    fault = record_fault(found)
    if fault:
        raise Unreadable(f"a backup's record: {fault}")
    return found


def record_fault(record: Record) -> str:
    """What is impossible about it; "" when nothing is."""
    if not _ID.fullmatch(record.record_id) or (record.run_id and not _ID.fullmatch(record.run_id)):
        return "an id that is not 32 hexadecimal digits"
    if not 0 < len(record.job) <= JOB_NAME_CHARACTERS_MAX:
        return f"a job's name of {len(record.job)} characters, wanted 1 to {JOB_NAME_CHARACTERS_MAX}"
    if not (record.job.isprintable() and record.copy.isprintable()):
        return "a name that cannot be printed"
    if len(record.errors) > ERRORS_MAX or any(len(error) > ERROR_CHARACTERS_MAX for error in record.errors):
        return f"more than {ERRORS_MAX} errors of {ERROR_CHARACTERS_MAX} characters"
    if len(record.tail) > TAIL_CHARACTERS_MAX:
        return f"a tail of {len(record.tail)} characters, at most {TAIL_CHARACTERS_MAX}"
    texts = (
        record.copy,
        record.tool,
        record.tool_version,
        record.snapshot_id,
        record.log_from,
        record.log_to,
        record.reason,
        record.manifest_digest,
        record.repo_id,
        record.raw_digest,
    )
    if any(len(text) > TEXT_CHARACTERS_MAX for text in texts):
        return f"a text of more than {TEXT_CHARACTERS_MAX} characters"
    if not all(0 <= number <= NUMBER_MAX for number in _numbers(record)):
        return f"a time, a size or a count outside 0 to {NUMBER_MAX}"
    if record.verify is not None and not 0 <= record.verify.fraction <= 1:
        return f"a proof of {record.verify.fraction:g} of all data, wanted 0 to 1"
    snapshots = record.snapshots
    if snapshots is not None:
        if len(snapshots.listed) > SNAPSHOTS_PER_RECORD_MAX:
            return f"{len(snapshots.listed)} snapshots, at most {SNAPSHOTS_PER_RECORD_MAX} in a record"
        if not 0 <= snapshots.parts <= PARTS_MAX or (snapshots.parts and snapshots.part >= snapshots.parts):
            return f"part {snapshots.part} of {snapshots.parts}, at most {PARTS_MAX}"
    return ""


def _numbers(record: Record) -> Iterator[int]:
    yield from (record.observed_ms, record.started_ms, record.finished_ms, record.point_ms)
    sizes = (record.bytes_source, record.bytes_added, record.bytes_stored, record.files, record.files_failed)
    yield from (size for size in sizes if size is not None)
    snapshots = record.snapshots
    if snapshots is not None:
        yield from (snapshots.count, snapshots.oldest_ms, snapshots.newest_ms, snapshots.part)
        yield from (at_ms for _, at_ms in snapshots.listed)
    if record.verify is not None:
        yield record.verify.bad
