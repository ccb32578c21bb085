"""What is wrong, or odd, with a runbook: told with its place."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from watchbill.errors import Problem
from watchbill_collector.yamltree import printable

ERROR: Final = "error"
"""It must not be run so."""
WARNING: Final = "warning"
"""It may be meant."""
FINDINGS_MAX: Final = 200
"""Of one runbook; the rest is counted in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with a runbook. `severity` is error or warning; `line` 0 where none can be named."""

    file: str
    line: int
    where: str
    severity: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        where = f" {self.where}:" if self.where else ""
        return f"{place}: {self.severity}:{where} {self.message}"


def from_problem(problem: Problem) -> Finding:
    """A mistake that reading found."""
    return Finding(
        file=problem.file,
        line=problem.line,
        where=problem.key,
        severity=ERROR,
        message=f"got {problem.got}, wanted {problem.wanted}",
    )


def in_order(found: Iterable[Finding], file: str) -> list[Finding]:
    """Each once, from the top of the file to its end, bounded."""
    clean = (replace(one, message=printable(one.message)) for one in found)
    every = sorted(dict.fromkeys(clean), key=lambda one: (one.line, one.severity))
    if len(every) <= FINDINGS_MAX:
        return every
    more = f"{len(every) - FINDINGS_MAX} more findings"
    last = Finding(file=file, line=0, where="", severity=ERROR, message=more)
    return [*every[:FINDINGS_MAX], last]
