"""What a backup job is judged by, as its host says it. The collector keeps every version by its digest.

How the tool is called, and with which credentials, stays on the host: none of it is here. Durations are seconds,
sizes bytes, shares fractions of 1; 0 stands for "not asked for".
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from watchbill.backups import bounds
from watchbill.backups.schedule import NO_SCHEDULE, Schedule
from watchbill.errors import Unreadable

JOBS_MAX: Final = 500
"""Jobs of one host: their names and digests fit one event."""
JOB_NAME_CHARACTERS_MAX: Final = bounds.JOB_NAME_CHARACTERS_MAX
COPIES_MAX: Final = 16
DIGEST_CHARACTERS: Final = 32
"""Of a definition's SHA-256, in hexadecimal: enough to tell versions apart."""
SPAN_S_MAX: Final = 10 * 366 * 86_400.0
"""The longest duration that a job may ask for."""
SIZE_WINDOW_MAX: Final = 100
"""Runs that the median of sizes is taken of, at most."""
OFFSITE: Final = "offsite"
"""The location of a copy that survives the loss of this place."""

Severity = Literal["critical", "major", "minor", "info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLimits:
    """`drop` is judged against the median of the last `window` good runs."""

    min_bytes: int = 0
    drop: float = 0.0
    window: int = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long a snapshot is kept, and how many there are at least."""

    keep_s: float = 0.0
    min_copies: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofAges:
    """How old each proof may be: that the repository hangs together, that its data is whole, that it was restored."""

    structure_s: float = 0.0
    data_s: float = 0.0
    restore_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One place where the data is kept."""

    name: str
    location: str = ""
    media: str = ""
    immutable: bool = False

    @property
    def offsite(self) -> bool:
        """Whether it survives the loss of this place."""
        return self.location == OFFSITE


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """How many copies there have to be, and of which kind: 3-2-1-1-0 is copies 3, media 2, offsite 1, immutable 1."""

    copies: int = 0
    media: int = 0
    offsite: int = 0
    immutable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Severities:
    """How bad each is: no good point inside the RPO, a failed or missed run, an odd size or duration, a missing proof,
    copies that are missing, snapshots that vanished."""

    rpo: Severity = "critical"
    failed: Severity = "minor"
    anomaly: Severity = "major"
    verify: Severity = "major"
    copies: Severity = "major"
    ledger: Severity = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One job. `observed`: its tool reads the repository itself, every `observe_every_s`; else runs are all there is
    to know of it."""

    name: str
    tool: str
    service: str = ""
    schedule: Schedule = NO_SCHEDULE
    start_grace_s: float = 1800.0
    max_duration_s: float = 0.0
    min_duration_s: float = 0.0
    rpo_s: float = 0.0
    size: SizeLimits = SizeLimits()
    retention: Retention = Retention()
    verify: ProofAges = ProofAges()
    copies: tuple[Copy, ...] = ()
    require: Requirement = Requirement()
    severity: Severities = Severities()
    observed: bool = False
    observe_every_s: float = 0.0

    def to_json(self) -> bytes:
        """Canonical: the same job is the same bytes."""
        return msgspec.json.encode(self, order="deterministic")

    def digest(self) -> str:
        """Of this version."""
        return hashlib.sha256(self.to_json()).hexdigest()[:DIGEST_CHARACTERS]


def read_definition(document: bytes) -> Definition:
    """A definition as it was sent; what a newer agent says beyond it is left out. Raises Unreadable."""
    try:
        found = msgspec.json.decode(document, type=Definition)
    except (msgspec.DecodeError, ValueError) as exc:
        raise Unreadable(f"a backup's definition: {exc}") from exc
    fault = definition_fault(found)
    if fault:
        raise Unreadable(f"a backup's definition: {fault}")
    return found


def definition_fault(definition: Definition) -> str:
    """What is impossible about it; "" when nothing is. Hosts that are right send nothing of the kind."""
    if not 0 < len(definition.name) <= JOB_NAME_CHARACTERS_MAX:
        return f"a name of {len(definition.name)} characters, wanted 1 to {JOB_NAME_CHARACTERS_MAX}"
    if not all(name.isprintable() for name in (definition.name, *(copy.name for copy in definition.copies))):
        return "a name that cannot be printed"
    if len(definition.copies) > COPIES_MAX:
        return f"{len(definition.copies)} copies, at most {COPIES_MAX}"
    if len({copy.name for copy in definition.copies}) != len(definition.copies):
        return "two copies of one name"
    spans = (
        definition.start_grace_s,
        definition.max_duration_s,
        definition.min_duration_s,
        definition.rpo_s,
        definition.observe_every_s,
        definition.retention.keep_s,
        definition.verify.structure_s,
        definition.verify.data_s,
        definition.verify.restore_s,
        definition.schedule.every_s,
    )
    if not all(0 <= span <= SPAN_S_MAX for span in spans):
        return f"a duration outside 0 to {SPAN_S_MAX:.0f} s"
    if not 0 <= definition.size.drop <= 1 or not 1 <= definition.size.window <= SIZE_WINDOW_MAX:
        return "limits of its size that cannot be"
    return definition.schedule.fault()
