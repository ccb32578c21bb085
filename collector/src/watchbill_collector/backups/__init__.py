"""The judge of backups: what every job's records and its repository say, as one word with a reason. No clock, no
I/O."""

from watchbill_collector.backups.book import BackupBook
from watchbill_collector.backups.evidence import Evidence
from watchbill_collector.backups.facet_run import due_ms_of
from watchbill_collector.backups.runs import Run
from watchbill_collector.backups.state import judge
from watchbill_collector.backups.words import (
    Change,
    Facet,
    FacetName,
    JobKey,
    Level,
    Standing,
    State,
    Word,
    severity_of,
)

__all__ = [
    "BackupBook",
    "Change",
    "Evidence",
    "Facet",
    "FacetName",
    "JobKey",
    "Level",
    "Run",
    "Standing",
    "State",
    "Word",
    "due_ms_of",
    "judge",
    "severity_of",
]
