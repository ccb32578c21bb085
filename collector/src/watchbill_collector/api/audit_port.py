"""What the HTTP side needs of the audit: rows, the verdict on their chain, and a place for what is done or refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One thing that was done, refused or failed. `request` is the number of the HTTP request that caused it, as its
    answer's `X-Request-Id` said. `prev_hash` and `hash` are hexadecimal.
    """

    seq: int
    time: datetime
    actor: str
    source: str
    action: str
    target: str
    outcome: str
    request: str
    detail: Mapping[str, Any]
    prev_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which rows are wanted, newest first; what is empty does not narrow. `action` takes in what begins with it and
    a point. `before` is a row's number: rows older than that one.
    """

    actor: str = ""
    action: str = ""
    target: str = ""
    outcome: str = ""
    request: str = ""
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """One thing that is wrong with the chain: rows `seq` to `to` were edited, replaced, removed, reordered, inserted,
    cut off, rewritten or never signed, or a checkpoint there was forged.
    """

    fault: str
    seq: int
    to: int
    detail: str


@dataclass(frozen=True, slots=True)
class AuditWitness:
    """What one host says of the chain. `verdict` is agrees, disagrees or silent (it was told nothing yet, or has not
    said so); `seq` the newest row it vouches for, `disputed` the first that is not as it was told.
    """

    host: str
    verdict: str
    seq: int
    told: datetime | None
    disputed: int | None = None


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """Whether the chain is whole, and whether the witnesses agree. `hash` is the newest row's, hexadecimal. Of its
    signed `checkpoints` the newest is under row `signed_seq`.
    """

    ok: bool
    rows: int
    seq: int
    hash: str
    findings: tuple[AuditFinding, ...]
    findings_left_out: int
    witnesses: tuple[AuditWitness, ...]
    checkpoints: int = 0
    signed_seq: int = 0


class AuditService(Protocol):
    """Everything that was done or refused."""

    async def ready(self) -> None:
        """Raises StorageError while rows cannot be written: then nothing may be changed."""

    async def record(
        self, actor: str, action: str, target: str, outcome: str, detail: Mapping[str, object]
    ) -> None:
        """Record what was done, when it is done. Raises StorageError, Busy."""

    def refused(self, actor: str, source: str, action: str, target: str, reason: str) -> None:
        """Note that somebody was turned away; `actor` empty: a stranger. Returns at once, and many are added up."""

    async def rows(self, wanted: AuditQuery, limit: int) -> Sequence[AuditRow]:
        """Rows, newest first, at most `limit`."""

    async def export(self, after: int, limit: int) -> Sequence[AuditRow]:
        """Rows in the order of the chain, those after a number."""

    async def verify(self, witnesses: Sequence[str] | None) -> AuditVerdict:
        """Check the whole chain, and against these hosts' word; None: every host's that has spoken. NoSuch for a
        name that is no host's.
        """
