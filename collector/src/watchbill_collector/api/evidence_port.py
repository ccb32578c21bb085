"""What the HTTP side needs to hand out evidence; see `ports.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from watchbill.errors import UsageError
from watchbill_collector.api.backup_report import Asked
from watchbill_collector.api.ports import Caller


@dataclass(frozen=True, slots=True)
class Archive:
    """A signed archive under the name it is best kept by."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class EvidenceKey:
    """The public half, in hexadecimal, of the key that signs the audit and its archives."""

    key: str
    site: str


@dataclass(frozen=True, slots=True)
class WantedBackups:
    """Which jobs, by their ids, over which time; `only` says by what they were chosen, `hosts` whose they may be: all,
    or those of the caller's scope."""

    ids: Sequence[str]
    asked: Asked
    only: Mapping[str, str]
    hosts: str


class EvidenceService(Protocol):
    """Makes signed archives of what was. Each is recorded in the audit before it is handed out."""

    async def run(self, run_id: str, caller: Caller) -> Archive:
        """Of one run. Raises NoSuch, Busy, UsageError when it is too large."""

    async def period(self, since_ms: int | None, until_ms: int | None, caller: Caller) -> Archive:
        """Of a time: its runs, drills and backups. Raises Busy, UsageError."""

    async def backups(self, wanted: WantedBackups, caller: Caller) -> Archive:
        """The report on backups over a time. Raises Busy, UsageError."""

    async def key(self) -> EvidenceKey:
        """By which key archives are signed."""


class NoEvidence:
    """A collector without runs."""

    async def run(self, run_id: str, caller: Caller) -> Archive:  # noqa: ARG002
        """None."""
        raise UsageError(f"this collector makes no evidence, of the run {run_id[:80]!a} or any other")

    async def period(self, since_ms: int | None, until_ms: int | None, caller: Caller) -> Archive:  # noqa: ARG002
        """None."""
        raise UsageError("this collector makes no evidence")

    async def backups(self, wanted: WantedBackups, caller: Caller) -> Archive:  # noqa: ARG002
        """None."""
        raise UsageError("this collector makes no evidence")

    async def key(self) -> EvidenceKey:
        """None."""
        raise UsageError("this collector makes no evidence")
