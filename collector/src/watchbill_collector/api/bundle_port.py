"""What the HTTP side needs to hand out bundles; see `ports.py`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from watchbill.errors import UsageError
from watchbill_collector.api.ports import Caller


@dataclass(frozen=True, slots=True)
class ExportOrder:
    """With which parameters; `run` has the bundle go on with an open run, whose parameters they then are."""

    parameters: Mapping[str, str]
    run: str = ""


@dataclass(frozen=True, slots=True)
class BundleView:
    """A signed bundle in base64 (`watchbill.actions.bundle`), and its SHA-256."""

    id: str
    bundle: str
    sha256: str


class BundleService(Protocol):
    """Makes bundles: runbooks to be carried out without the collector."""

    async def export(self, name: str, given: Mapping[str, str], run: str, caller: Caller) -> BundleView:
        """One, signed. Raises NoSuch, Refused with why not."""


class NoBundles:
    """A collector without runbooks."""

    async def export(self, name: str, given: Mapping[str, str], run: str, caller: Caller) -> BundleView:  # noqa: ARG002
        """None."""
        raise UsageError(f"this collector makes no bundles, of {name[:80]!a} or anything else")
