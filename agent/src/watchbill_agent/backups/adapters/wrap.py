"""A backup of which nothing is known but its runs: a command under `backup wrap`, or something that reports.

Where a repository can be read, an adapter that reads it says more: a job's word proves the job, not the copy.
"""

from dataclasses import dataclass
from typing import ClassVar

from watchbill.backups.record import Outcome
from watchbill_agent.backups.adapter import Adapter, Commands, Job, Observation, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """There is nothing to configure: which output means what is said by the job's own ok_if, partial_if, fail_if."""


class Wrap(Adapter):
    """Reads nothing."""

    name: ClassVar[str] = "wrap"
    options_type: ClassVar[type[Options]] = Options
    observes: ClassVar[bool] = False

    def __init__(self, options: Options, job: Job, commands: Commands) -> None:  # noqa: ARG002 - There are none.
        self._job = job

    def observe(self, now_ms: int) -> Observation:  # noqa: ARG002 - Nothing is looked at.
        """There is nothing to look at."""
        return Observation(
            outcome=Outcome.UNKNOWN,
            reason=Reason.NOT_OBSERVABLE,
            errors=(f"{self._job.name} is known by its runs alone",),
        )
