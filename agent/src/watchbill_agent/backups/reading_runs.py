"""The adapter that reads what a wrapped run of a job's tool printed."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from watchbill.config import Table
from watchbill_agent.backups import adapters
from watchbill_agent.backups.adapter import Job, NoCommands
from watchbill_agent.backups.config import read_jobs

if TYPE_CHECKING:
    from watchbill_agent.backups.adapter import Adapter


def reader_of(etc: Path, name: str) -> "Adapter | None":
    """The adapter of this job; None when there is no such job. Raises ConfigError."""
    for config in read_jobs(etc):
        if config.name != name:
            continue
        kind = adapters.find(config.definition.tool)
        assert kind is not None, "it was judged when it was read"
        target = config.targets[0] if config.targets else None
        options = Table({} if target is None else dict(target.options), ("backup", kind.name))
        job = Job(name=name, definition=config.definition, source=config.source)
        if target is not None:
            job = replace(job, copy=target.copy)
        return kind(options.read(kind.options_type), job, NoCommands())
    return None
