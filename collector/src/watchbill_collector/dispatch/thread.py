"""A thread of notices: one route, channel and group, and what that channel was told of it.

What the channel believes is `told`, and what it believes once the notice that is queued has been accepted is
`queued.after`. At most one notice of a thread waits at a time. Before an attempt is made, it is written down
that it is made (`attempts` in the store), so after a crash the channel may believe either.

A thread is kept as JSON through zlib. Of alerts beyond those that notices list only fingerprint and time are
kept: 50,000 of them are 600 kB.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from watchbill_collector.dispatch.values import Labels, Way

VERSION = 1
STATE_BYTES_MAX = 64 * 1024 * 1024
"""What a thread unpacks to at most; more is not ours."""


@dataclass(frozen=True, slots=True)
class Told:
    """An alert that a channel was told. `labels` is empty beyond the alerts that notices list.

    `ends_ms` 0: it fires; only a digest's lines have an end. `sure` false: a notice with it was tried, nobody
    knows how that went, and the notice is no longer wanted.
    """

    starts_ms: int
    labels: Labels = ()
    annotations: Labels = ()
    ends_ms: int = 0
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Queued:
    """The notice of a thread that waits. `after` is what the channel believes once it has it, `ended` the alerts
    whose end it tells."""

    key: str
    kind: str
    after: Mapping[str, Told]
    ended: frozenset[str]
    created_ms: int


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread. `life` is when it began, in UTC milliseconds; `number` counts its notices."""

    key: str
    channel: str
    route: str
    way: Way
    group: Labels
    told: Mapping[str, Told] = field(default_factory=dict)
    queued: Queued | None = None
    told_ms: int = 0
    """When the channel accepted a notice last, or gave a final no."""
    refused_ms: int = 0
    """When it gave a final no, if that was the last that came of a notice."""
    changed_ms: int = 0
    life: int = 0
    number: int = 0
    left_out: int = 0
    """Lines that a digest had no room for."""

    @property
    def group_key(self) -> str:
        """Names this life of the group: a PagerDuty incident, a thread of mails."""
        return f"{self.key}-{self.life}"

    @property
    def idle(self) -> bool:
        """Whether the channel knows of nothing that fires and nothing waits."""
        return not self.told and self.queued is None


def packed(thread: Thread) -> bytes:
    """A thread as the store keeps it; its key, channel and time have columns of their own."""
    queued = thread.queued
    document = {
        "v": VERSION,
        "route": thread.route,
        "way": thread.way.value,
        "group": thread.group,
        "told": _rows(thread.told),
        "told_ms": thread.told_ms,
        "refused_ms": thread.refused_ms,
        "life": thread.life,
        "number": thread.number,
        "left_out": thread.left_out,
        "queued": None
        if queued is None
        else [queued.key, queued.kind, _rows(queued.after), sorted(queued.ended), queued.created_ms],
    }
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1)


def unpacked(key: str, channel: str, changed_ms: int, state: bytes) -> Thread:
    """Back from the store. Raises ValueError for what makes no sense."""
    engine = zlib.decompressobj()
    try:
        text = engine.decompress(state, STATE_BYTES_MAX)
        document = json.loads(text)
        if document["v"] != VERSION:
            raise ValueError(f"version {document['v']}, wanted {VERSION}")
        return Thread(
            key=key,
            channel=channel,
            route=document["route"],
            way=Way(document["way"]),
            group=_pairs(document["group"]),
            told=_told(document["told"]),
            queued=_queued(document["queued"]),
            told_ms=document["told_ms"],
            refused_ms=document["refused_ms"],
            changed_ms=changed_ms,
            life=document["life"],
            number=document["number"],
            left_out=document["left_out"],
        )
    except (zlib.error, KeyError, TypeError, IndexError) as exc:
        raise ValueError(f"thread {key}: {exc}") from exc


def _rows(told: Mapping[str, Told]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for fingerprint, one in told.items():
        if one.labels:
            rows.append([fingerprint, one.starts_ms, one.ends_ms, one.sure, one.labels, one.annotations])
        else:
            rows.append([fingerprint, one.starts_ms, one.ends_ms, one.sure])
    return rows


def _told(rows: list[list[Any]]) -> dict[str, Told]:
    found = {}
    for fingerprint, starts_ms, ends_ms, sure, *more in rows:
        labels, annotations = more or ((), ())
        found[fingerprint] = Told(starts_ms, _pairs(labels), _pairs(annotations), ends_ms, bool(sure))
    return found


def _queued(row: list[Any] | None) -> Queued | None:
    if row is None:
        return None
    key, kind, after, ended, created_ms = row
    return Queued(key, kind, _told(after), frozenset(ended), created_ms)


def _pairs(rows: Any) -> Labels:
    return tuple((str(name), str(text)) for name, text in rows)
