"""Everything that was done or refused, as rows of one chain: each row's hash covers the row before it.

    hash = SHA-256("watchbill/audit/v1" NUL, hash of the row before, canonical JSON of the row)

The first row follows `genesis(site)`. `seq` counts from 1 without holes, and it, not the time, is the order. A row
is appended in the transaction of the change that it tells about, by the store's one writing connection; two who
append at once (there must not be two) collide on `seq` and one of them fails whole. Triggers refuse to change or
remove rows; who can remove the triggers breaks the chain, and who mends the chain cannot mend the heads that agents
keep.

`Origin` says on whose request something happens: whoever serves a request sets it, the store's writer thread runs a
piece of work in the context of who submitted it, and so every row carries the address and the number of its request.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import sqlalchemy as sa

from watchbill.clock import Clock
from watchbill_collector.store import checkpoints
from watchbill_collector.store.checkpoints import Checkpoint
from watchbill_collector.store.schema import AUDIT
from watchbill_collector.store.text import canonical_json, harmless

HASH_BYTES: Final = 32
DETAIL_BYTES_MAX: Final = 64 * 1024
"""Longer details are replaced by their length and hash: an entry says what happened, it is no archive."""
ROWS_READ_MAX: Final = 10_000
ACTOR_MAX: Final = 128
SOURCE_MAX: Final = 64
ACTION_MAX: Final = 64
TARGET_MAX: Final = 300
REQUEST_MAX: Final = 32
_DOMAIN: Final = b"watchbill/audit/v1\x00"
HEAD_INFO: Final = "watchbill.audit.head"
"""Where a connection remembers the head of the transaction that is open."""
SIGNER_INFO: Final = "watchbill.audit.signer"
SIGNED_INFO: Final = "watchbill.audit.signed"
"""The same for the key that checkpoints are signed with, and for the newest checkpoint."""


class Outcome(StrEnum):
    """What became of it."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Head:
    """The newest row of the chain: what agents are told, and hold us to."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing somebody did or tried.

    `actor` is a user's name, "host", "system", or who is at the collector's own machine; `action` is one word with
    a point in it (`host.retire`); `target` what it was done to. `source` and `request` empty: the origin's.
    """

    actor: str
    action: str
    target: str
    outcome: Outcome = Outcome.DONE
    source: str = ""
    request: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An entry as recorded. `detail` is canonical JSON."""

    seq: int
    site: str
    at_ms: int
    boottime_ms: int
    actor: str
    source: str
    action: str
    target: str
    outcome: str
    request: str
    detail: str
    prev_hash: bytes
    hash: bytes


@dataclass(slots=True)
class Origin:
    """Where what happens now comes from. `rows` counts what was recorded on its behalf."""

    source: str = ""
    request: str = ""
    rows: int = 0


_ORIGIN: ContextVar[Origin | None] = ContextVar("watchbill_audit_origin", default=None)


def origin() -> Origin:
    """The origin of what happens now; an empty one where nobody asked."""
    return _ORIGIN.get() or Origin()


@contextlib.contextmanager
def on_behalf(of: Origin) -> Iterator[Origin]:
    """What happens inside was asked for by that origin."""
    before = _ORIGIN.set(of)
    try:
        yield of
    finally:
        _ORIGIN.reset(before)


def genesis(site: str) -> bytes:
    """What the first row of a site follows."""
    return hashlib.sha256(_DOMAIN + site.encode()).digest()


def row_hash(row: Row, *, seq: int | None = None, prev_hash: bytes | None = None) -> bytes:
    """The hash that a row must have; as if it stood elsewhere when `seq` or `prev_hash` are given."""
    return content_hash(
        row.prev_hash if prev_hash is None else prev_hash,
        {
            "seq": row.seq if seq is None else seq,
            "site": row.site,
            "at_ms": row.at_ms,
            "boottime_ms": row.boottime_ms,
            "actor": row.actor,
            "source": row.source,
            "action": row.action,
            "target": row.target,
            "outcome": row.outcome,
            "request": row.request,
            "detail": row.detail,
        },
    )


def content_hash(prev_hash: bytes, content: Mapping[str, object]) -> bytes:
    """The hash of a row's content after another row."""
    return hashlib.sha256(_DOMAIN + prev_hash + canonical_json(content).encode()).digest()


def append(connection: sa.Connection, site: str, clock: Clock, entry: Entry) -> Head:
    """Record `entry` in the transaction of what it tells about. The transaction has to be a writing one."""
    before = connection.info.get(HEAD_INFO) or read_head(connection)
    asked = origin()
    content: dict[str, object] = {
        "seq": (before.seq if before else 0) + 1,
        "site": site,
        "at_ms": clock.wall_ms(),
        "boottime_ms": clock.boottime_ms(),
        "actor": harmless(entry.actor, ACTOR_MAX),
        "source": harmless(entry.source or asked.source, SOURCE_MAX),
        "action": harmless(entry.action, ACTION_MAX),
        "target": harmless(entry.target, TARGET_MAX),
        "outcome": entry.outcome.value,
        "request": harmless(entry.request or asked.request, REQUEST_MAX),
        "detail": _detail(entry.detail),
    }
    prev_hash = before.hash if before else genesis(site)
    head = Head((before.seq if before else 0) + 1, content_hash(prev_hash, content))
    connection.execute(AUDIT.insert().values(**content, prev_hash=prev_hash, hash=head.hash))
    connection.info[HEAD_INFO] = head
    asked.rows += 1
    _sign_when_due(connection, site, clock, head)
    return head


def _sign_when_due(connection: sa.Connection, site: str, clock: Clock, head: Head) -> None:
    before: Checkpoint | None = connection.info.get(SIGNED_INFO)
    if head.seq - (before.seq if before is not None else 0) >= checkpoints.ROWS_UNSIGNED_MAX:
        sign(connection, site, clock)


def sign(connection: sa.Connection, site: str, clock: Clock) -> Checkpoint | None:
    """Put a checkpoint under the newest row, if it has none and this connection has a key; the new one."""
    signer: checkpoints.Signer | None = connection.info.get(SIGNER_INFO)
    before: Checkpoint | None = connection.info.get(SIGNED_INFO)
    head = connection.info.get(HEAD_INFO) or read_head(connection)
    if signer is None or head is None or (before is not None and before.seq >= head.seq):
        return None
    made = checkpoints.signed(signer, site, head.seq, head.hash, clock.wall_ms(), before)
    checkpoints.insert(connection, made)
    connection.info[SIGNED_INFO] = made
    return made


def _detail(detail: Mapping[str, object]) -> str:
    text = canonical_json(detail)
    if len(text) <= DETAIL_BYTES_MAX:
        return text
    return canonical_json({"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()})


def take_head(connection: sa.Connection) -> Head | None:
    """The head that the transaction just ended has written, if it wrote any; forgotten with this call."""
    head: Head | None = connection.info.pop(HEAD_INFO, None)
    return head


def read_head(connection: sa.Connection) -> Head | None:
    """The newest row's number and hash; None in an empty chain."""
    query = sa.select(AUDIT.c.seq, AUDIT.c.hash).order_by(AUDIT.c.seq.desc()).limit(1)
    found = connection.execute(query).first()
    return Head(found[0], bytes(found[1])) if found else None


def hashes_of(connection: sa.Connection, numbers: Sequence[int]) -> dict[int, bytes]:
    """The stored hashes of some rows."""
    query = sa.select(AUDIT.c.seq, AUDIT.c.hash).where(AUDIT.c.seq.in_(numbers))
    return {row[0]: bytes(row[1]) for row in connection.execute(query)}


def rows_from(connection: sa.Connection, after: int, limit: int) -> list[Row]:
    """Rows in order, those after `after`."""
    query = sa.select(AUDIT).where(AUDIT.c.seq > after).order_by(AUDIT.c.seq).limit(limit)
    return [_row(found) for found in connection.execute(query).mappings()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which rows are wanted; what is empty or None does not narrow. `action` takes in what begins with it and a
    point: `host` finds `host.retire`.
    """

    actor: str = ""
    action: str = ""
    target: str = ""
    outcome: str = ""
    request: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    before: int | None = None


def rows_newest(connection: sa.Connection, site: str, wanted: Filter, limit: int) -> list[Row]:
    """The newest rows that fit, newest first, at most ROWS_READ_MAX."""
    query = sa.select(AUDIT).where(AUDIT.c.site == site)
    for column, value in (
        (AUDIT.c.actor, wanted.actor),
        (AUDIT.c.target, wanted.target),
        (AUDIT.c.outcome, wanted.outcome),
        (AUDIT.c.request, wanted.request),
    ):
        if value:
            query = query.where(column == value)
    if wanted.action:
        begins = AUDIT.c.action.startswith(wanted.action + ".", autoescape=True)
        query = query.where(sa.or_(AUDIT.c.action == wanted.action, begins))
    if wanted.since_ms is not None:
        query = query.where(AUDIT.c.at_ms >= wanted.since_ms)
    if wanted.until_ms is not None:
        query = query.where(AUDIT.c.at_ms <= wanted.until_ms)
    if wanted.before is not None:
        query = query.where(AUDIT.c.seq < wanted.before)
    query = query.order_by(AUDIT.c.seq.desc()).limit(min(limit, ROWS_READ_MAX))
    return [_row(found) for found in connection.execute(query).mappings()]


def _row(found: sa.RowMapping) -> Row:
    values = {name: found[name] for name in Row.__slots__}
    values["prev_hash"], values["hash"] = bytes(values["prev_hash"]), bytes(values["hash"])
    return Row(**values)
