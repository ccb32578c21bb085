"""What the HTTP side asks of how the collector itself does; as in `ports.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """One store on disk. `ok` false: its last write failed; `detail` says how."""

    name: str
    path: str
    ok: bool
    bytes_used: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """The filesystem under the stores."""

    path: str
    bytes_total: int
    bytes_free: int


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """A certificate that the collector lives by."""

    name: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class PortStatus:
    """A port the collector serves. `tls` false is plain text."""

    name: str
    address: str
    tls: bool


@dataclass(frozen=True, slots=True)
class Status:
    """How the collector does: what `doctor` judges.

    `commit_pending` is the number of batches received and not yet durable, `commit_oldest_s` how long the
    oldest has waited. `clock_synchronised` None: the kernel does not say.
    """

    version: str
    started: datetime
    now: datetime
    site: str
    stores: tuple[StoreStatus, ...]
    disks: tuple[DiskStatus, ...]
    certificates: tuple[CertificateStatus, ...]
    ports: tuple[PortStatus, ...]
    sessions: int
    series: int
    commit_pending: int
    commit_oldest_s: float
    clock_synchronised: bool | None
    rules_failing: int
    rules_late_s: float
    refused: Mapping[str, int] = field(default_factory=dict)
    channels_failing: Mapping[str, str] = field(default_factory=dict)
    """Why channels fail, by name; those that work are not in it."""
    outbox_unwritten: str = ""
    """Why the outbox cannot be written, empty as a rule."""
    roster_disabled: tuple[str, ...] = ()
    """People on the newest roster who are disabled here."""


class StatusService(Protocol):
    """How the collector does."""

    async def status(self) -> Status:
        """A snapshot."""

    async def ready(self) -> str:
        """Why it cannot answer queries yet, empty when it can."""
