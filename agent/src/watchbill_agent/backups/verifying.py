"""Which verification of a repository is due, and which part of the data it reads. Pure.

Structure is one check. Data is read a part at a time, so that all of it is read within the age that the job asks for:
one part a day, up to PARTS_MAX. Everything is due a little sooner than the job wants it, at SOONER of the age: a
verification takes time, hosts sleep, and a part may have to be tried again.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from watchbill.backups.definition import ProofAges
from watchbill.backups.record import Level, Proof
from watchbill_agent.backups.adapter import Check

PART_EVERY_S: Final = 86_400.0
PARTS_MAX: Final = 100
"""The collector counts back through four times as many."""
SOONER: Final = 0.8
AGAIN_S: Final = 3600.0
"""After a verification that came to nothing: sooner than the next, and not at once."""
HOPELESS_AGAIN_S: Final = 86_400.0
"""After one that cannot be made here at all: somebody may have changed that, and it is told once a day."""
WHOLE: Final = 0.999
"""A proof of so much is one of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the verifications of one level are: the part that was proved last of how many, and when the next is
    due, by wall time."""

    part: int = 0
    parts: int = 1
    due_ms: int = 0


def next_check(
    levels: Collection[Level], ages: ProofAges, progress: Mapping[Level, Progress], now_ms: int
) -> tuple[int, Check] | None:
    """The verification that is due first, and when. None when none ever is. What is due later than its age allows was
    noted by a clock that was wrong: it is due now."""
    found: list[tuple[int, Check]] = []
    for level in levels:
        age_s = age_of(level, ages)
        if age_s:
            before = progress.get(level, Progress())
            parts = parts_of(level, age_s)
            # Another number of parts divides the data anew: what was read of it counts no more.
            part = before.part % parts + 1 if before.parts == parts else 1
            due_ms = before.due_ms if before.due_ms <= now_ms + age_s * 1000 else now_ms
            found.append((due_ms, Check(level=level, part=part, parts=parts)))
    return min(found, key=lambda each: (each[0], each[1].level), default=None)


def proved(check: Check, proof: Proof, age_s: float, now_ms: int) -> Progress:
    """After a verification that found something, good or bad. One that read all of it, whatever it was asked for, is
    the last of its round."""
    parts = 1 if proof.fraction >= WHOLE else check.parts
    part = check.parts if proof.fraction >= WHOLE else check.part
    return Progress(part=part, parts=check.parts, due_ms=now_ms + round(age_s * 1000 * SOONER / parts))


def unproved(
    check: Check, before: Progress, age_s: float, now_ms: int, *, hopeless: bool = False
) -> Progress:
    """After one that came to nothing: the same part again. `hopeless`: it cannot be made here at all."""
    wait_s = min(HOPELESS_AGAIN_S, age_s * SOONER) if hopeless else min(AGAIN_S, age_s * SOONER / check.parts)
    kept = before if before.parts == check.parts else Progress(parts=check.parts)
    return Progress(part=kept.part, parts=kept.parts, due_ms=now_ms + round(wait_s * 1000))


def age_of(level: Level, ages: ProofAges) -> float:
    """How old a proof of this level may be; 0 when none is asked for."""
    return {Level.STRUCTURE: ages.structure_s, Level.DATA: ages.data_s, Level.RESTORE: ages.restore_s}[level]


def declares(level: str, ages: ProofAges) -> bool:
    """Whether a proof of this level is asked for, or of any ("")."""
    return any(age_of(each, ages) for each in Level if level in ("", each))


def parts_of(level: Level, age_s: float) -> int:
    """In how many parts the data is read."""
    return min(PARTS_MAX, max(1, int(age_s // PART_EVERY_S))) if level is Level.DATA else 1
