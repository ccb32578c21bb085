"""An adapter's words as records: one look at a repository, or one verification of it. Pure.

A list of snapshots is sent when it is another one than was told last. It goes in parts that fit an event; of a list
that is too long for all of them the newest are told, and all are counted.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from watchbill.backups.record import (
    ERROR_CHARACTERS_MAX,
    ERRORS_MAX,
    PARTS_MAX,
    SNAPSHOTS_PER_RECORD_MAX,
    TEXT_CHARACTERS_MAX,
    Kind,
    Outcome,
    Record,
    Snapshots,
    Source,
    new_id,
)
from watchbill_agent.backups.adapter import Observation, Snapshot, Verification, error_lines

LISTED_BYTES_MAX: Final = 44 * 1024
"""Of the snapshots in one record: with all else in it an event has 64 KiB."""
TIME_BYTES: Final = 24
"""Of a snapshot's time, and what stands around it."""
FUTURE_MS: Final = 5 * 60_000
"""A snapshot that is later than this by our clock is no newest point; the collector calls it what it is."""
ID_CHARACTERS_MAX: Final = TEXT_CHARACTERS_MAX

Redact = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """Which repository was looked at, from when to when by this host's clock, and what was told of it last."""

    job: str
    tool: str
    copy: str = ""
    began_ms: int = 0
    ended_ms: int = 0
    told_digest: str = ""


def observed(looked: Looked, found: Observation, redact: Redact = str) -> tuple[Record, ...]:
    """The records of one look: one, or as many as the list of snapshots needs."""
    record = _record(looked, Kind.OBSERVE, found.outcome, found, redact)
    running = found.running and found.outcome is Outcome.OK
    record = msgspec.structs.replace(
        record,
        outcome=Outcome.RUNNING if running else found.outcome,
        point_ms=_point_ms(found, looked.ended_ms),
        bytes_source=found.bytes_source,
        bytes_stored=found.bytes_stored,
        files=found.files,
        log_from=_text(found.log_from),
        log_to=_text(found.log_to),
        repo_locked=found.repo_locked,
        repo_id=_text(found.repo_id),
    )
    if found.outcome is Outcome.UNKNOWN:
        return (record,)
    return tuple(
        msgspec.structs.replace(
            record, record_id=record.record_id if not number else new_id(), snapshots=part
        )
        for number, part in enumerate(snapshot_parts(found.snapshots, looked.told_digest))
    )


def verified(looked: Looked, found: Verification, redact: Redact = str) -> Record:
    """The record of one verification: of the time at which it was found, where that is earlier."""
    record = msgspec.structs.replace(
        _record(looked, Kind.VERIFY, found.outcome, found, redact), verify=found.proof
    )
    if 0 < found.proved_ms < looked.ended_ms:
        return msgspec.structs.replace(
            record, started_ms=min(looked.began_ms, found.proved_ms), finished_ms=found.proved_ms
        )
    return record


def _record(
    looked: Looked, kind: Kind, outcome: Outcome, found: Observation | Verification, redact: Redact
) -> Record:
    errors = error_lines(redact(line) for line in found.errors[:ERRORS_MAX])
    return Record(
        record_id=new_id(),
        job=looked.job,
        kind=kind,
        source=Source.REPO,
        outcome=outcome,
        observed_ms=looked.ended_ms,
        copy=looked.copy,
        started_ms=looked.began_ms,
        finished_ms=looked.ended_ms,
        tool=looked.tool,
        tool_version=_text(found.tool_version),
        reason=_text(found.reason),
        errors=tuple(line[:ERROR_CHARACTERS_MAX] for line in errors),
        raw_digest=_text(found.raw_digest),
    )


def _point_ms(found: Observation, now_ms: int) -> int:
    """The newest point that can be restored, as the adapter says it or else as its snapshots do."""
    if found.outcome in (Outcome.UNKNOWN, Outcome.FAILED):
        return 0
    if found.point_ms:
        return found.point_ms
    past = [each.time_ms for each in found.snapshots if each.time_ms <= now_ms + FUTURE_MS]
    return max(past, default=0)


def ids_digest(snapshots: Sequence[Snapshot]) -> str:
    """Of all ids, sorted."""
    digest = hashlib.sha256()
    for each in sorted(each.id for each in snapshots):
        digest.update(each.encode("utf-8", "backslashreplace") + b"\n")
    return digest.hexdigest()[:32]


def snapshot_parts(snapshots: Sequence[Snapshot], told_digest: str) -> list[Snapshots]:
    """What the records of one look say of the snapshots: one that counts them, when their ids are those that were told
    last; else the list, the newest in the last part."""
    digest = ids_digest(snapshots)
    times = [each.time_ms for each in snapshots]
    counted = Snapshots(
        count=len(snapshots),
        oldest_ms=min(times, default=0),
        newest_ms=max(times, default=0),
        ids_digest=digest,
    )
    if digest == told_digest or not snapshots:
        return [counted]
    parts = _divided(sorted(snapshots, key=lambda each: (-each.time_ms, each.id)))
    parts.reverse()
    return [
        msgspec.structs.replace(counted, part=number, parts=len(parts), listed=tuple(reversed(part)))
        for number, part in enumerate(parts)
    ]


def _divided(newest_first: Sequence[Snapshot]) -> list[list[tuple[str, int]]]:
    parts: list[list[tuple[str, int]]] = [[]]
    size = 0
    for each in newest_first:
        name = each.id.encode("utf-8", "backslashreplace").decode()[:ID_CHARACTERS_MAX]
        # As an event has it: what is not ASCII is longer there.
        needs = len(json.dumps(name)) + TIME_BYTES
        if len(parts[-1]) >= SNAPSHOTS_PER_RECORD_MAX or size + needs > LISTED_BYTES_MAX:
            if len(parts) >= PARTS_MAX:
                break
            parts.append([])
            size = 0
        parts[-1].append((name, each.time_ms))
        size += needs
    return parts


def _text(value: str) -> str:
    """Bounded also in an event, where a character that is not ASCII takes up to twelve bytes."""
    return value.encode("ascii", "backslashreplace").decode()[:TEXT_CHARACTERS_MAX]
