"""Runs as rows: a journal for each, only ever added to, and a line of summary for lists that follows from it.

    hash = SHA-256("watchbill/run-journal/v1" NUL, hash of the row before, canonical JSON of the row)

The first row follows `genesis(site, run_id)`; `n` counts from 1 without holes. Rows are appended to the head that their
writer knows: two who append to the same one (there must not be two) collide on `n`, and one of them fails whole.
Triggers refuse to change rows, and to remove them while their run is there.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from watchbill_collector.store.schema import RUN_JOURNAL, RUN_VOTES, RUNS
from watchbill_collector.store.text import canonical_json

ROWS_PER_RUN_MAX: Final = 100_000
"""A run with so many is held, and nothing of it is sent any more; people may still end it (`ROWS_FOR_PEOPLE`)."""
ROWS_FOR_PEOPLE: Final = 1_000
BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of one row. A step over a thousand hosts is the longest; who writes keeps well within it."""
RUNS_KEPT_MAX: Final = 20_000
"""That have ended; the oldest go, with their journals. The audit keeps the head of each."""
RUNS_KEPT_MS: Final = 3 * 366 * 86_400_000
RUNS_REMOVED_MAX: Final = 100
"""At once: the writer has others waiting."""
RUNS_READ_MAX: Final = 20_000
_DOMAIN: Final = b"watchbill/run-journal/v1\x00"
_ENDED: Final = ("succeeded", "failed", "undone", "cancelled", "expired")


@dataclass(frozen=True, slots=True)
class JournalHead:
    """The newest row of a run's journal: what the next one follows."""

    n: int
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRow:
    """A row as it was written. `body` is canonical JSON."""

    run_id: str
    n: int
    at_ms: int
    kind: str
    body: str
    prev_hash: bytes
    hash: bytes

    def document(self) -> Mapping[str, Any]:
        """What the body says."""
        found: Mapping[str, Any] = json.loads(self.body)
        return found


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row to append."""

    at_ms: int
    kind: str
    body: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What lists show of a run. `hosts` are agent ids; a moment that has not come is 0."""

    run_id: str
    runbook: str
    digest: str
    state: str
    state_detail: str
    drill: bool
    requester: str
    reason: str
    trigger: str
    parameters: Mapping[str, str]
    lock_name: str
    hosts: Sequence[str]
    created_ms: int
    started_ms: int = 0
    ended_ms: int = 0
    recovered_ms: int = 0
    changed_ms: int = 0
    rows_written: int = 0


def genesis(site: str, run_id: str) -> JournalHead:
    """What the first row of a run follows."""
    return JournalHead(0, hashlib.sha256(_DOMAIN + site.encode() + b"\x00" + run_id.encode()).digest())


def row_hash(site: str, run_id: str, n: int, at_ms: int, kind: str, body: str, prev_hash: bytes) -> bytes:
    """The hash that a row must have."""
    content = {"run_id": run_id, "n": n, "site": site, "at_ms": at_ms, "kind": kind, "body": body}
    return hashlib.sha256(_DOMAIN + prev_hash + canonical_json(content).encode()).digest()


# ---------------------------------------------------------------- writing


def append(
    connection: sa.Connection, site: str, run_id: str, head: JournalHead, new: Iterable[NewRow]
) -> JournalHead:
    """Add rows after `head`; the head that follows. Nothing may depend on them before this is committed."""
    return append_all(connection, site, [(run_id, head, new)])[0]


def append_all(
    connection: sa.Connection, site: str, added: Iterable[tuple[str, JournalHead, Iterable[NewRow]]]
) -> list[JournalHead]:
    """The same for several runs: their heads, in order."""
    rows: list[dict[str, object]] = []
    heads: list[JournalHead] = []
    for run_id, head, new in added:
        last = head
        for one in new:
            body = canonical_json(one.body)
            assert len(body) <= BODY_BYTES_MAX, f"{one.kind}: {len(body)} bytes"
            n = last.n + 1
            following = JournalHead(n, row_hash(site, run_id, n, one.at_ms, one.kind, body, last.hash))
            rows.append(
                {
                    "run_id": run_id,
                    "n": n,
                    "site": site,
                    "at_ms": one.at_ms,
                    "kind": one.kind,
                    "body": body,
                    "prev_hash": last.hash,
                    "hash": following.hash,
                }
            )
            last = following
        heads.append(last)
    if rows:
        connection.execute(RUN_JOURNAL.insert(), rows)
    return heads


def save_summary(connection: sa.Connection, site: str, summary: RunSummary) -> None:
    """Put a run's line in place of the one before."""
    known = connection.execute(sa.select(sa.literal(1)).where(RUNS.c.run_id == summary.run_id)).first()
    save_summaries(connection, site, [summary], new=known is None)


def save_summaries(
    connection: sa.Connection, site: str, summaries: Sequence[RunSummary], *, new: bool
) -> None:
    """Put the lines of several runs in place of those before; `new`: there are none yet."""
    if not summaries:
        return
    if new:
        connection.execute(RUNS.insert(), [{"run_id": one.run_id, **_values(site, one)} for one in summaries])
    else:
        rows = [{"key": one.run_id, **_values(site, one)} for one in summaries]
        connection.execute(RUNS.update().where(RUNS.c.run_id == sa.bindparam("key")), rows)


def _values(site: str, summary: RunSummary) -> dict[str, object]:
    values: dict[str, object] = {name: getattr(summary, name) for name in RunSummary.__slots__}
    values["site"] = site
    values["drill"] = int(summary.drill)
    values["parameters"] = canonical_json(dict(summary.parameters))
    values["hosts"] = json.dumps(list(summary.hosts), separators=(",", ":"))
    del values["run_id"]
    return values


# ---------------------------------------------------------------- reading


def journal(
    connection: sa.Connection, run_id: str, after: int = 0, limit: int = ROWS_PER_RUN_MAX + ROWS_FOR_PEOPLE
) -> list[JournalRow]:
    """A run's rows in order, those after row number `after`."""
    table = RUN_JOURNAL.c
    query = _journal_query().where(table.run_id == run_id, table.n > after).order_by(table.n).limit(limit)
    return [_journal_row(row) for row in connection.execute(query)]


def journals(connection: sa.Connection, run_ids: Sequence[str]) -> dict[str, list[JournalRow]]:
    """The whole journals of several runs."""
    table = RUN_JOURNAL.c
    query = _journal_query().where(table.run_id.in_(run_ids)).order_by(table.run_id, table.n)
    found: dict[str, list[JournalRow]] = {run_id: [] for run_id in run_ids}
    for row in connection.execute(query):
        found[row.run_id].append(_journal_row(row))
    return found


def _journal_query() -> "sa.Select[Any]":
    return sa.select(*(RUN_JOURNAL.c[name] for name in JournalRow.__slots__))


def _journal_row(row: Any) -> JournalRow:
    return JournalRow(
        run_id=row.run_id,
        n=row.n,
        at_ms=row.at_ms,
        kind=row.kind,
        body=row.body,
        prev_hash=bytes(row.prev_hash),
        hash=bytes(row.hash),
    )


def summary(connection: sa.Connection, run_id: str) -> RunSummary | None:
    """One run's line."""
    row = connection.execute(_summary_query().where(RUNS.c.run_id == run_id)).first()
    return None if row is None else _summary(row)


def is_open() -> sa.ColumnElement[bool]:
    """The condition that a run has not ended."""
    return RUNS.c.state.not_in(_ENDED)


def summaries(
    connection: sa.Connection,
    site: str,
    *,
    open_only: bool = False,
    drills_only: bool = False,
    runbook: str = "",
    since_ms: int = 0,
    limit: int = RUNS_READ_MAX,
) -> list[RunSummary]:
    """The newest first."""
    query = _summary_query().where(RUNS.c.site == site)
    if open_only:
        query = query.where(RUNS.c.state.not_in(_ENDED))
    if drills_only:
        query = query.where(RUNS.c.drill == 1)
    if runbook:
        query = query.where(RUNS.c.runbook == runbook)
    if since_ms:
        query = query.where(RUNS.c.created_ms >= since_ms)
    query = query.order_by(RUNS.c.created_ms.desc(), RUNS.c.run_id.desc()).limit(limit)
    return [_summary(row) for row in connection.execute(query)]


def drills(connection: sa.Connection, site: str) -> list[RunSummary]:
    """Rehearsals alone, the newest first."""
    query = _summary_query().where(RUNS.c.site == site, RUNS.c.drill == 1)
    query = query.order_by(RUNS.c.created_ms.desc(), RUNS.c.run_id.desc()).limit(RUNS_READ_MAX)
    return [_summary(row) for row in connection.execute(query)]


def outlines(connection: sa.Connection, site: str, since_ms: int = 0) -> list[Any]:
    """Of each run what others are bound by, the newest first: run_id, runbook, lock_name, state, drill, created_ms,
    started_ms, ended_ms."""
    table = RUNS.c
    names = ("run_id", "runbook", "lock_name", "state", "drill", "created_ms", "started_ms", "ended_ms")
    query = sa.select(*(table[name] for name in names)).where(
        table.site == site, table.created_ms >= since_ms
    )
    query = query.order_by(table.created_ms.desc(), table.run_id.desc()).limit(RUNS_READ_MAX)
    return list(connection.execute(query))


def _summary_query() -> "sa.Select[Any]":
    return sa.select(*(RUNS.c[name] for name in RunSummary.__slots__))


def _summary(row: Any) -> RunSummary:
    values = {name: getattr(row, name) for name in RunSummary.__slots__}
    values["drill"] = bool(values["drill"])
    values["parameters"] = json.loads(values["parameters"])
    values["hosts"] = tuple(json.loads(values["hosts"]))
    return RunSummary(**values)


# ---------------------------------------------------------------- checking


def fault(site: str, run_id: str, rows: Sequence[JournalRow]) -> str:
    """What is wrong with a whole journal as it was read: the first row that does not follow; "" for nothing."""
    head = genesis(site, run_id)
    for row in rows:
        if row.n != head.n + 1:
            return f"row {head.n + 1} is missing"
        if row.prev_hash != head.hash:
            return f"row {row.n} does not follow row {head.n}"
        if row.hash != row_hash(site, run_id, row.n, row.at_ms, row.kind, row.body, row.prev_hash):
            return f"row {row.n} was changed"
        head = JournalHead(row.n, row.hash)
    return ""


# ---------------------------------------------------------------- what may go


def surplus(connection: sa.Connection, site: str, now_ms: int) -> list[str]:
    """Runs that ended and are too old or too many, RUNS_REMOVED_MAX at most."""
    ended = sa.select(RUNS.c.run_id).where(RUNS.c.site == site, RUNS.c.state.in_(_ENDED))
    old = ended.where(RUNS.c.ended_ms < now_ms - RUNS_KEPT_MS).limit(RUNS_REMOVED_MAX)
    beyond = ended.order_by(RUNS.c.ended_ms.desc()).offset(RUNS_KEPT_MAX).limit(RUNS_REMOVED_MAX)
    found: dict[str, None] = {}
    for query in (old, beyond):
        found.update(dict.fromkeys(connection.execute(query).scalars()))
    return list(found)[:RUNS_REMOVED_MAX]


def remove(connection: sa.Connection, run_ids: Sequence[str]) -> None:
    """Let go of runs as a whole."""
    for table in (RUNS, RUN_JOURNAL, RUN_VOTES):
        connection.execute(table.delete().where(table.c.run_id.in_(run_ids)))
