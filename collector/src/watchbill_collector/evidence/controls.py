"""What auditors ask for, and which document of an archive answers it.

The labels say which question a document helps to answer, not that a control is met: that is the auditor's to judge.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_RUN: Final = ("run.json", "journal.jsonl")
_APPROVED: Final = ("gates.json", "acceptances.json", "rosters.json")
_PERIOD: Final = ("period.json", "drills.json")

CONTROLS: Final[Sequence[tuple[str, str, str, tuple[str, ...]]]] = (
    ("SOC 2", "A1.2", "Recovery infrastructure and backups are operated and monitored.", ("backups.json",)),
    (
        "SOC 2",
        "A1.3",
        "Recovery plan procedures are tested; the time it took against the objective.",
        (*_RUN, *_PERIOD),
    ),
    (
        "ISO 27001",
        "A.5.29",
        "Information security during disruption: who agreed to what, what was refused.",
        (*_APPROVED, "refusals.json", "audit.jsonl"),
    ),
    (
        "ISO 27001",
        "A.5.30",
        "ICT readiness for business continuity, planned, tested, against objectives.",
        ("runbook.yaml", *_RUN, *_PERIOD),
    ),
    ("ISO 27001", "A.8.13", "Backups are made, kept and tested.", ("backups.json",)),
    (
        "ISO 22301",
        "8.5",
        "Exercise programme: exercises, their results, and what followed.",
        (*_RUN, *_PERIOD, "gates.json"),
    ),
    (
        "NIST SP 800-53",
        "CP-4",
        "Contingency plan testing: the plan, the test, its outcome.",
        ("runbook.yaml", "acceptances.json", *_RUN, *_PERIOD),
    ),
    ("NIST SP 800-53", "CP-9", "System backup: made, protected, tested.", ("backups.json",)),
    (
        "NIST SP 800-53",
        "CP-10",
        "Recovery and reconstitution to a known state, in the time that was set.",
        (*_RUN, "outputs.json"),
    ),
)
"""Framework, control, what it asks in a sentence of ours, and documents by their last names."""


def controls(files: Sequence[str]) -> list[Mapping[str, Any]]:
    """Each control with those documents of an archive that serve it; none is left out for having none."""
    return [
        {
            "framework": framework,
            "control": control,
            "asks": asks,
            "served_by": sorted(name for name in files if name.rpartition("/")[2] in last_names),
        }
        for framework, control, asks, last_names in CONTROLS
    ]
