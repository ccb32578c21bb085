"""Whether this host has checks at all: a daemon without them imports nothing more than this."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
    child_restarts: int = 0
    samples_dropped: int = 0
    happenings_dropped: int = 0
    told: int = 0
    """Changes of a verdict, told as events."""
    untold: int = 0
    """Changes that were too many to be told one by one."""


def any_checks(etc: Path) -> bool:
    """Whether any file may define a check."""
    if (etc / FILE).exists():
        return True
    try:
        with os.scandir(etc / DIRECTORY) as entries:
            return any(entry.name.endswith(".toml") and not entry.name.startswith(".") for entry in entries)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # Whoever reads it says what is wrong with it.
