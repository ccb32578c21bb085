"""Signed checkpoints of the audit: every so many rows the collector puts its name under the chain as it is.

    signature = Ed25519("watchbill/audit/checkpoint/v1" NUL, canonical JSON of the checkpoint)

A checkpoint names a row by number and hash, and by `before` the checkpoint before it, so that none can be taken out.
Whoever can write to the database, but does not have the collector's key, can make a chain of hashes that fits; he
cannot make the signatures that fit it. Who has the key as well is found by what agents were told (`audit.witnesses`).

`append` of `store.audit` signs in the transaction of the row, so of any ROWS_UNSIGNED_MAX rows in a row one is
signed; what is left after a quiet minute is signed by whoever runs the collector.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import sqlalchemy as sa

from watchbill_collector.store.schema import AUDIT_CHECKPOINTS
from watchbill_collector.store.text import canonical_json

ROWS_UNSIGNED_MAX: Final = 100
"""Rows behind the newest checkpoint at most: the next one is signed when it is written."""
NONE_BEFORE: Final = bytes(32)
CHECKPOINTS_READ_MAX: Final = 10_000
_DOMAIN: Final = b"watchbill/audit/checkpoint/v1\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Row `seq` has this `hash`, says whoever holds the private half of `key`. `before` is the mark of the checkpoint
    before.
    """

    seq: int
    site: str
    at_ms: int
    hash: bytes
    before: bytes
    key: bytes
    signature: bytes

    @property
    def mark(self) -> bytes:
        """What the next checkpoint calls this one."""
        return hashlib.sha256(self.signature).digest()


class Signer(Protocol):
    """The collector's key for the audit."""

    @property
    def public(self) -> bytes:
        """Its public half."""

    def sign(self, message: bytes) -> bytes:
        """The signature of a message."""


def message_of(checkpoint: Checkpoint) -> bytes:
    """What is signed."""
    content = {
        "seq": checkpoint.seq,
        "site": checkpoint.site,
        "at_ms": checkpoint.at_ms,
        "hash": checkpoint.hash.hex(),
        "before": checkpoint.before.hex(),
        "key": checkpoint.key.hex(),
    }
    return _DOMAIN + canonical_json(content).encode()


def signed(
    signer: Signer, site: str, seq: int, hash_: bytes, at_ms: int, before: Checkpoint | None
) -> Checkpoint:
    """A new checkpoint."""
    bare = Checkpoint(
        seq=seq,
        site=site,
        at_ms=at_ms,
        hash=hash_,
        before=before.mark if before is not None else NONE_BEFORE,
        key=signer.public,
        signature=b"",
    )
    return replace(bare, signature=signer.sign(message_of(bare)))


def insert(connection: sa.Connection, checkpoint: Checkpoint) -> None:
    """Keep it."""
    connection.execute(AUDIT_CHECKPOINTS.insert().values(**_values(checkpoint)))


def newest(connection: sa.Connection) -> Checkpoint | None:
    """The newest one; None before the first."""
    query = sa.select(AUDIT_CHECKPOINTS).order_by(AUDIT_CHECKPOINTS.c.seq.desc()).limit(1)
    found = connection.execute(query).mappings().first()
    return None if found is None else _checkpoint(found)


def between(connection: sa.Connection, after: int, until: int | None = None) -> Sequence[Checkpoint]:
    """Those of the rows after `after` up to `until`, in order, at most CHECKPOINTS_READ_MAX."""
    query = sa.select(AUDIT_CHECKPOINTS).where(AUDIT_CHECKPOINTS.c.seq > after)
    if until is not None:
        query = query.where(AUDIT_CHECKPOINTS.c.seq <= until)
    query = query.order_by(AUDIT_CHECKPOINTS.c.seq).limit(CHECKPOINTS_READ_MAX)
    return [_checkpoint(found) for found in connection.execute(query).mappings()]


def _values(checkpoint: Checkpoint) -> dict[str, object]:
    return {name: getattr(checkpoint, name) for name in Checkpoint.__slots__}


def _checkpoint(found: sa.RowMapping) -> Checkpoint:
    values = {name: found[name] for name in Checkpoint.__slots__}
    for name in ("hash", "before", "key", "signature"):
        values[name] = bytes(values[name])
    return Checkpoint(**values)
