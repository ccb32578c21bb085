"""What can be wrong with the audit, and how it is said."""

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What was done to rows, or to the checkpoints under them."""

    EDITED = "edited"
    REPLACED = "replaced"
    REMOVED = "removed"
    REORDERED = "reordered"
    INSERTED = "inserted"
    CUT = "cut"
    REWRITTEN = "rewritten"
    FORGED = "forged"
    UNSIGNED = "unsigned"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `seq` is the number it stands at, `to` the last one of a range (else the same).
    `detail` is a sentence.
    """

    fault: Fault
    seq: int
    to: int
    detail: str
