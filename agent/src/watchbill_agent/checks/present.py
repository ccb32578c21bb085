"""Whether this host has checks at all: a daemon without them imports nothing more than this."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchbill_agent.present import any_files

DIRECTORY: Final = "checks.d"
FILE: Final = "checks.toml"
"""Beside the directory, for who has one check only; it need not be there."""
VAR_DIRECTORY: Final = "checks"


@dataclass(slots=True)
class Counts:
    """Since the start, but for `checks`."""

    checks: int = 0
    looks: int = 0
    looks_failed: int = 0
    """Whose verdict was not OK."""
    timeouts: int = 0
    late: int = 0
    """Looks that began more than half a second after they were due."""
    late_s_max: float = 0.0
    """The worst since the last report."""
    killed: int = 0
    """Processes of checks that were killed at their deadline."""
    files_unanswered: int = 0
    """Readings of secrets, certificates and the like that did not end in time, or were not begun since one had not."""
    child_restarts: int = 0
    samples_dropped: int = 0
    happenings_dropped: int = 0
    told: int = 0
    """Changes of a verdict, told as events."""
    untold: int = 0
    """Changes that were too many to be told one by one."""


def any_checks(etc: Path) -> bool:
    """Whether any file may define a check."""
    return any_files(etc, FILE, DIRECTORY)
