"""The chains of hashes, worked out anew from what the archive says: by nobody's code but what is written here.

    journal row   SHA-256("watchbill/run-journal/v1" NUL, hash of the row before, canonical JSON of the row)
    audit row     SHA-256("watchbill/audit/v1" NUL, hash of the row before, canonical JSON of the row)
    checkpoint    Ed25519("watchbill/audit/checkpoint/v1" NUL, canonical JSON of the checkpoint)

Canonical here is what the store writes: sorted keys, no spaces, ASCII.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from watchbill_collector.evidence.archive import signature_holds

JOURNAL: Final = b"watchbill/run-journal/v1\x00"
AUDIT: Final = b"watchbill/audit/v1\x00"
CHECKPOINT: Final = b"watchbill/audit/checkpoint/v1\x00"
AUDIT_FIELDS: Final = (
    "seq", "site", "at_ms", "boottime_ms", "actor", "source", "action", "target", "outcome", "request", "detail",
)  # fmt: skip
CHECKPOINT_FIELDS: Final = ("seq", "site", "at_ms", "hash", "before", "key")

Row = Mapping[str, Any]


def line(row: Row) -> bytes:
    """One row as a line of its file."""
    return _canonical(row) + b"\n"


def _canonical(row: Row) -> bytes:
    return json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _hash(domain: bytes, before: str, content: Row) -> str:
    return hashlib.sha256(domain + bytes.fromhex(before) + _canonical(content)).hexdigest()


def journal_genesis(site: str, run_id: str) -> str:
    """What the first row of a run follows."""
    return hashlib.sha256(JOURNAL + site.encode() + b"\x00" + run_id.encode()).hexdigest()


def journal_faults(site: str, run_id: str, rows: Sequence[Row]) -> Iterator[str]:
    """Rows of a journal that are not what was written."""
    before = journal_genesis(site, run_id)
    for number, row in enumerate(rows, 1):
        if row["n"] != number:
            yield f"row {number} is missing: the next one is {row['n']}"
            return
        if row["prev_hash"] != before:
            yield f"row {number} does not follow row {number - 1}"
        content = {
            "run_id": run_id,
            "n": row["n"],
            "site": site,
            "at_ms": row["at_ms"],
            "kind": row["kind"],
            "body": row["body"],
        }
        if row["hash"] != _hash(JOURNAL, row["prev_hash"], content):
            yield f"row {number} ({row['kind']}) was changed"
        before = row["hash"]


def audit_faults(rows: Sequence[Row], *, whole: bool) -> Iterator[str]:
    """Rows of the audit that are not what was written. `whole`: they are a piece of the chain without holes."""
    before: Row | None = None
    for row in rows:
        if row["hash"] != _hash(AUDIT, row["prev_hash"], {name: row[name] for name in AUDIT_FIELDS}):
            yield f"row {row['seq']} ({row['action']}) was changed"
        if whole and before is not None:
            if row["seq"] != before["seq"] + 1:
                yield f"rows {before['seq'] + 1} to {row['seq'] - 1} are missing"
            elif row["prev_hash"] != before["hash"]:
                yield f"row {row['seq']} does not follow row {before['seq']}"
        before = row


def checkpoint_holds(checkpoint: Row) -> bool:
    """Whether whoever has the private half of its key signed it."""
    message = CHECKPOINT + _canonical({name: checkpoint[name] for name in CHECKPOINT_FIELDS})
    return signature_holds(bytes.fromhex(checkpoint["key"]), bytes.fromhex(checkpoint["signature"]), message)
