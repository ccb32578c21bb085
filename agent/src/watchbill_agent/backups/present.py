"""Whether this host has backups at all: most have none, and a daemon without them imports nothing more than this."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from watchbill_agent.present import any_files

if TYPE_CHECKING:
    from watchbill_agent.backups.config import JobConfig

DIRECTORY: Final = "backups.d"
FILE: Final = "backups.toml"
"""Beside the directory, for who has one job only; it need not be there."""
VAR_DIRECTORY: Final = "backups"
MEMORY: Final = "memory.json"


@dataclass(slots=True)
class Counts:
    """Since the start."""

    jobs: int = 0
    looks: int = 0
    looks_failed: int = 0
    """Looks and verifications that found nothing out."""
    verifications: int = 0
    records: int = 0
    refused: int = 0
    """Records that the spool did not take; they are made anew by the next look."""
    stuck: int = 0
    """Children that could not be ended and are still there."""


def load_jobs(etc: Path) -> "tuple[JobConfig, ...]":
    """Every job of this host. Raises ConfigError with every problem, StorageError when nobody could read them."""
    if not any_files(etc, FILE, DIRECTORY):
        return ()
    from watchbill_agent.backups.asked import read_jobs_apart

    return read_jobs_apart(etc)


def was_told(var: Path) -> bool:
    """Whether the collector was ever told of jobs of this host: it has to hear when they are gone."""
    return (var / VAR_DIRECTORY / MEMORY).exists()
