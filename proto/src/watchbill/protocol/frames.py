"""The frames of the delivery protocol as plain values. `watchbill.codec` turns them into messages and
back."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

PROTOCOL_VERSION = 1

SPOOL_ID_BYTES = 16
RUN_ID_BYTES = 16

SEQ_MAX = 2**62
"""Sequence numbers end here; far away, and safely inside a signed 64-bit column."""

NO_DIGEST = 0
"""The digest of nothing: no record yet, or a gap that has none. It compares with nothing."""


class Stream(IntEnum):
    """What kind of records a sequence of numbers counts; the numbers of the enum travel."""

    CRIT = 1
    """Events that are never dropped: backup results, action results, state changes."""
    BULK = 2
    """Samples: the oldest go first when the spool is full, and are counted."""


class GapReason(IntEnum):
    """Why records are missing; the numbers travel and are stored."""

    UNSPECIFIED = 0
    OVERFLOW = 1
    CORRUPT = 2
    COLLECTOR_REWIND = 3
    SPOOL_RETIRED = 4
    TAIL_UNKNOWN = 5
    REFUSED = 6
    RESTART = 7
    SUSPENDED = 8
    REBOOT = 9
    STALLED = 10


NOTICES = frozenset({GapReason.RESTART, GapReason.SUSPENDED, GapReason.REBOOT, GapReason.STALLED})
"""Reasons of gaps in which no record was lost: nothing could run, so nothing was recorded."""


class EndReason(IntEnum):
    """Why the collector ends a session; the numbers travel."""

    UNSPECIFIED = 0
    SHUTDOWN = 1
    REVOKED = 2
    DUPLICATE_IDENTITY = 3
    PROTOCOL = 4
    UNKNOWN_AGENT = 5
    BUSY = 6
    INSTANCE_TAKEN = 7
    VERSION = 8

    @property
    def final(self) -> bool:
        """Whether trying again without a person's help is pointless; it is still tried, seldom."""
        return self in (
            EndReason.REVOKED,
            EndReason.UNKNOWN_AGENT,
            EndReason.INSTANCE_TAKEN,
            EndReason.VERSION,
        )


def digest_of(record: bytes) -> int:
    """The digest of a record's bytes: the first 8 bytes of SHA-256, big endian, never NO_DIGEST."""
    return int.from_bytes(hashlib.sha256(record).digest()[:8], "big") or 1


@dataclass(frozen=True, slots=True)
class StreamState:
    """What an agent holds of one stream.

    `first_retained` is `last_durable + 1` when nothing is retained. `acked_digest` is the digest of record
    `acked`.
    """

    stream: Stream
    first_retained: int = 1
    last_durable: int = 0
    acked: int = 0
    acked_digest: int = NO_DIGEST


@dataclass(frozen=True, slots=True)
class RetiredSpool:
    """A spool the agent no longer uses. Records up to `last_seq` that the collector lacks will never come."""

    spool_id: bytes
    stream: Stream
    last_seq: int


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The newest row of the collector's audit, as the collector tells it and an agent remembers it."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """The agent's first frame. Times in ms: `wall_ms` and `boottime_ms` were read together."""

    agent_version: str
    spool_id: bytes
    run_id: bytes
    boot_id: str
    streams: tuple[StreamState, ...]
    wall_ms: int
    boottime_ms: int
    retired: tuple[RetiredSpool, ...] = ()
    instance: str = ""
    job: str = "node"
    labels: Mapping[str, str] = field(default_factory=dict)
    interval_ms: int = 10_000
    ticks_per_message: int = 1
    protocol: int = PROTOCOL_VERSION
    beat_interval_ms: int = 0
    audit: tuple[AuditHead, ...] = ()
    takes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamMark:
    """Everything of `stream` up to `committed` is in a committed transaction; `digest` is the last
    record's."""

    stream: Stream
    committed: int
    digest: int = NO_DIGEST


@dataclass(frozen=True, slots=True)
class Settings:
    """What the collector asks of its agents. Zero means: as the agent likes."""

    credit_bytes: int = 0
    reconnect_spread_ms: int = 0
    beat_interval_ms: int = 0
    beat_metrics: tuple[str, ...] = ()
    send_grid_ms: int = 0
    evaluation_period_ms: int = 0
    evaluation_phase_ms: int = 0
    ack_interval_ms: int = 0


@dataclass(frozen=True, slots=True)
class Welcome:
    """The collector's answer to Hello: what it holds, and the limits."""

    session: int
    server_time_ms: int
    marks: tuple[StreamMark, ...]
    settings: Settings
    message_bytes_max: int = 0
    batch_records_max: int = 0
    series_max: int = 0
    instance: str = ""
    audit: AuditHead | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """Committed this far; `credit_bytes` may be unacknowledged in flight from now on."""

    marks: tuple[StreamMark, ...]
    credit_bytes: int
    server_time_ms: int = 0
    audit: AuditHead | None = None


@dataclass(frozen=True, slots=True)
class Nack:
    """A record was missing: go on from `expected`."""

    stream: Stream
    expected: int


@dataclass(frozen=True, slots=True)
class Busy:
    """Nothing can be taken now: wait, then go on after the last acknowledged record."""

    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class End:
    """The collector ends the session."""

    reason: EndReason
    detail: str = ""
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Part of what was sent is refused for good; the rest goes on. For the agent's log and counters."""

    reason: str
    count: int
    detail: str = ""


VERIFY = "verify"
"""What an agent that knows `VerifyBackup` says that it takes."""


@dataclass(frozen=True, slots=True)
class VerifyBackup:
    """A backup is to be verified now. `level` is a word of `watchbill.backups.record.Level`, or of a newer collector's;
    "": the one that is due first."""

    request_id: bytes
    job: str
    level: str = ""


ORDER = "order"
"""What an agent that hands a `RunnerOrder` over says that it takes."""


@dataclass(frozen=True, slots=True)
class RunnerOrder:
    """For the host's runner (`watchbill.actions.order`): signed, and opaque to whoever carries it."""

    body: bytes
    ttl_ms: int


Request = VerifyBackup | RunnerOrder
"""What the collector asks a host to do: now, or not at all."""


def word_of(request: Request) -> str:
    """What an agent that knows this request says that it takes."""
    return VERIFY if isinstance(request, VerifyBackup) else ORDER


Down = Welcome | Ack | Nack | Settings | Busy | End | Refusal | Request
"""What the collector says."""
