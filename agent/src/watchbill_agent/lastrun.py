"""What one run of the agent leaves for the next: when it sampled last, and which records will never come.

Written when the agent ends in order. Losing it costs nothing but exactness: the collector then only knows
that something may be missing, not how much.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from watchbill.errors import StorageError
from watchbill.files import FileMissing, UnreadableFile, read_bounded, write_atomic
from watchbill.limits import RETIRED_SPOOLS_KEPT
from watchbill.logs import fields
from watchbill.protocol.frames import SPOOL_ID_BYTES, RetiredSpool, Stream

log = logging.getLogger(__name__)

FILE_NAME = "last-run.json"
FILE_BYTES_MAX = 64 * 1024
VERSION = 1
NUMBER_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class LastRun:
    """`last_boottime_ms` is the boot time of its last tick, in the boot `boot_id`."""

    boot_id: str
    last_boottime_ms: int
    retired: tuple[RetiredSpool, ...]


def load(directory: Path) -> LastRun | None:
    """What the run before left; None when it left nothing that can be read, which is logged and no error."""
    path = directory / FILE_NAME
    try:
        return parse(read_bounded(path, FILE_BYTES_MAX))
    except FileMissing:
        return None
    except (UnreadableFile, ValueError) as exc:
        log.warning("what the last run left cannot be used", extra=fields(path=path, reason=exc))
        return None


def save(directory: Path, last: LastRun) -> None:
    """Keep it for the next run. A disk that refuses is logged: ending must not fail for it."""
    try:
        write_atomic(directory / FILE_NAME, serialize(last))
    except StorageError as exc:
        log.warning("the next run will not know where this one ended", extra=fields(reason=exc))


def ended(last: LastRun | None, boot_id: str) -> str:
    """How the run before ended, in a word: what it left tells, also when that is nothing."""
    if last is None:
        return "nothing"
    if last.last_boottime_ms:
        return "stop"
    return "kill" if last.boot_id == boot_id else "reboot"


def forget(directory: Path) -> None:
    """Remove it, before imaging."""
    (directory / FILE_NAME).unlink(missing_ok=True)


def serialize(last: LastRun) -> bytes:
    """As JSON."""
    retired = [
        {"spool": one.spool_id.hex(), "stream": int(one.stream), "last": one.last_seq} for one in last.retired
    ]
    document = {
        "version": VERSION,
        "boot_id": last.boot_id,
        "last_boottime_ms": last.last_boottime_ms,
        "retired": retired,
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def parse(content: bytes) -> LastRun:
    """From JSON. Raises ValueError, which says what is wrong."""
    document = json.loads(content)
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ValueError("not a file of this version")
    boot_id, last_ms, retired = (document.get(key) for key in ("boot_id", "last_boottime_ms", "retired"))
    if not isinstance(boot_id, str) or not _is_number(last_ms) or not isinstance(retired, list):
        raise ValueError("not what a run leaves")
    spools = tuple(_retired(one) for one in retired[-RETIRED_SPOOLS_KEPT:])
    return LastRun(boot_id[:64], last_ms, spools)


def _retired(one: object) -> RetiredSpool:
    if not isinstance(one, dict):
        raise ValueError("a retired spool is no table")
    spool_id, stream, last = one.get("spool"), one.get("stream"), one.get("last")
    if not isinstance(spool_id, str) or not isinstance(stream, int) or not _is_number(last):
        raise ValueError("a retired spool without its number")
    number = bytes.fromhex(spool_id)
    if len(number) != SPOOL_ID_BYTES:
        raise ValueError("a retired spool with a wrong id")
    return RetiredSpool(number, Stream(stream), last)


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= NUMBER_MAX
