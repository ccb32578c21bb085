"""One repository of a job, as the daemon knows it, and the directory in which its tool may keep a cache."""

import logging
import os
import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from watchbill.backups.record import Level, Record
from watchbill.logs import fields
from watchbill_agent.backups.config import JobConfig, Target

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

log = logging.getLogger(__name__)

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(slots=True)
class Repository:
    """One target of a job, and when it is looked at next, by the monotonic clock."""

    job: JobConfig
    target: Target
    due_s: float
    left: "asyncio.subprocess.Process | None" = None
    last: Record | None = None
    unproved: dict[Level, str] = field(default_factory=dict)
    """Why the last verifications came to nothing: said once."""

    @property
    def key(self) -> str:
        """Its name on this host; neither name holds a slash."""
        return f"{self.job.name}/{self.target.copy}"

    def is_stuck(self) -> bool:
        """Whether a child that could not be ended is still there."""
        if self.left is not None and self.left.returncode is not None:
            log.info("a look at a backup ended after all", extra=fields(repository=self.key))
            self.left = None
        return self.left is not None


def scratch_name(key: str) -> str:
    """A directory's name for a repository: job and copy, as they are."""
    return _UNSAFE.sub("@", key)


def tidy(scratch: "Path", wanted: set[str]) -> None:
    """Remove what tools kept for repositories that are gone: a cache may be large. What cannot be removed stays."""
    try:
        names = [entry.name for entry in os.scandir(scratch)]
    except OSError:
        return
    for name in names:
        if name not in wanted:
            shutil.rmtree(scratch / name, ignore_errors=True)
