"""What somebody says of a backup by hand: a script, a hook of another tool, a scheduler.

    watchbill-agent backup report nightly --outcome running --run-of $$     # as it begins; may be left out
    watchbill-agent backup report nightly --outcome ok --run-of $$ --bytes 123456

Both name the same process, and are one run by it; or have the same `--run`. Pure but for that: words in, a record out.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from watchbill.backups.record import (
    ERROR_CHARACTERS_MAX,
    ERRORS_MAX,
    NUMBER_MAX,
    TEXT_CHARACTERS_MAX,
    Kind,
    Level,
    Outcome,
    Proof,
    Record,
    Source,
    new_id,
)
from watchbill.errors import UsageError
from watchbill_agent.backups.redact import Redactor
from watchbill_agent.backups.words import job_name_fault, shown, tail_of

TIME_WANTED: Final = "a time with its zone, such as 2026-05-04T02:15:00+02:00, or seconds since 1970"
EPOCH_S_MAX: Final = 253_402_300_799
"""The last second of the year 9999."""
RUN_CHARACTERS_MAX: Final = 256
PID_DIGITS_MAX: Final = 10

_REASON = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the command line says; "" and None where it says nothing."""

    job: str
    outcome: str
    kind: str = "run"
    run: str = ""
    copy: str = ""
    started: str = ""
    finished: str = ""
    point: str = ""
    exit_code: int | None = None
    tool: str = ""
    tool_version: str = ""
    snapshot: str = ""
    bytes_source: int | None = None
    bytes_added: int | None = None
    bytes_stored: int | None = None
    files: int | None = None
    files_failed: int | None = None
    reason: str = ""
    errors: Sequence[str] = ()
    tail: str = ""
    level: str = ""


def record_of(said: Said, now_ms: int, redact: Redactor) -> Record:
    """The record that says it. Raises UsageError."""
    if fault := job_name_fault(said.job):
        raise UsageError(f"JOB: {fault}")
    kind, outcome = Kind(said.kind), Outcome(said.outcome)
    started_ms = read_time("--started", said.started)
    ended = outcome is not Outcome.RUNNING
    finished_ms = read_time("--finished", said.finished) or (now_ms if ended else 0)
    if not ended:
        started_ms = started_ms or now_ms
    if started_ms and finished_ms and finished_ms < started_ms:
        raise UsageError("--finished: got a time before --started")
    return Record(
        record_id=new_id(),
        job=said.job,
        kind=kind,
        source=Source.REPORT,
        outcome=outcome,
        observed_ms=now_ms,
        run_id=run_id_of(said.job, said.run),
        copy=_text("--copy", said.copy),
        started_ms=started_ms,
        finished_ms=finished_ms,
        exit_code=said.exit_code,
        tool=_text("--tool", said.tool),
        tool_version=_text("--tool-version", said.tool_version),
        point_ms=read_time("--point", said.point) or (started_ms if kind is Kind.RUN else 0),
        snapshot_id=_text("--snapshot", said.snapshot),
        bytes_source=_count("--bytes", said.bytes_source),
        bytes_added=_count("--bytes-added", said.bytes_added),
        bytes_stored=_count("--bytes-stored", said.bytes_stored),
        files=_count("--files", said.files),
        files_failed=_count("--files-failed", said.files_failed),
        reason=_reason(said.reason),
        errors=tuple(shown(redact(error), ERROR_CHARACTERS_MAX) for error in said.errors[:ERRORS_MAX]),
        tail=tail_of(redact(said.tail)),
        verify=_proof(said, kind, outcome),
    )


def run_id_of(job: str, run: str) -> str:
    """The id of a run that its reporter calls `run`; one of its own where it has no name."""
    if not run:
        return new_id()
    if len(run) > RUN_CHARACTERS_MAX:
        raise UsageError(f"--run: got {len(run)} characters, wanted at most {RUN_CHARACTERS_MAX}")
    if _ID.fullmatch(run):
        return run
    return hashlib.sha256(f"{job}\0{run}".encode("utf-8", "surrogateescape")).hexdigest()[:32]


def process_run(text: str, proc: Path = Path("/proc")) -> str:
    """A name for a run that is that of a process: a number alone is reused. Raises UsageError."""
    try:
        if not (text.isascii() and text.isdigit() and len(text) <= PID_DIGITS_MAX):
            raise ValueError(text)
        began = (proc / text / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
        boot = (proc / "sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, ValueError, IndexError) as exc:
        raise UsageError(f"--run-of: got {text[:20]!r}, wanted the number of a process that runs") from exc
    return f"{boot} {text} {began}"


def _proof(said: Said, kind: Kind, outcome: Outcome) -> Proof | None:
    """A verification or a restore that ended proves something, or the contrary."""
    if kind not in (Kind.VERIFY, Kind.RESTORE):
        if said.level:
            raise UsageError("--level: only --kind verify and restore prove something")
        return None
    level = Level(said.level) if said.level else Level.RESTORE if kind is Kind.RESTORE else Level.DATA
    if outcome is Outcome.RUNNING:
        return None
    return Proof(level=level, ok=outcome is Outcome.OK, bad=0 if outcome is Outcome.OK else 1)


def read_time(option: str, text: str) -> int:
    """What an option says, in ms; 0 for nothing said. Raises UsageError."""
    if not text:
        return 0
    try:
        if text.isascii() and text.isdigit():
            seconds = int(text)
            if not 0 < seconds <= EPOCH_S_MAX:
                raise ValueError(text)
            return seconds * 1000
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise ValueError(text)
        found_ms = round(found.astimezone(UTC).timestamp() * 1000)
        if found_ms <= 0:
            raise ValueError(text)
    except (ValueError, OverflowError) as exc:
        raise UsageError(f"{option}: got {text[:64]!r}, wanted {TIME_WANTED}") from exc
    return found_ms


def _text(option: str, text: str) -> str:
    if len(text) > TEXT_CHARACTERS_MAX or not text.isprintable():
        raise UsageError(
            f"{option}: got {text[:64]!r}, wanted at most {TEXT_CHARACTERS_MAX} printable characters"
        )
    return text


def _reason(text: str) -> str:
    if text and not _REASON.fullmatch(text):
        raise UsageError(f"--reason: got {text[:64]!r}, wanted a short word such as repository-locked")
    return text


def _count(option: str, number: int | None) -> int | None:
    if number is not None and not 0 <= number <= NUMBER_MAX:
        raise UsageError(f"{option}: got {number}, wanted 0 to {NUMBER_MAX}")
    return number
