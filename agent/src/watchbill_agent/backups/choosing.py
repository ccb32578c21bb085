"""Which verification is made when the collector asks for one, if any: decided here, done by the service.

Of those that the job's own file declares, of the level that is asked for, the one that is due first, of the copies that
can be looked at. Nothing that is asked for widens that.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from watchbill.backups.requests import (
    ALREADY_RUNNING,
    BUSY,
    NEEDS_RUNNER,
    NOT_DECLARED,
    NOT_VERIFIABLE,
    STUCK,
)
from watchbill_agent.backups.adapter import Check, Reason
from watchbill_agent.backups.config import JobConfig
from watchbill_agent.backups.requests import Refused
from watchbill_agent.backups.verifying import Progress, declares, next_check

if TYPE_CHECKING:
    from watchbill.backups.record import Level
    from watchbill_agent.backups.repository import Repository

Found = tuple["Repository", Check]


def choose(
    job: JobConfig,
    level: str,
    repositories: "Iterable[tuple[Repository, Mapping[Level, Progress]]]",
    now_ms: int,
) -> Found | Refused:
    """The verification, of the repositories of this job with how far their verifications are; `level` is "" for any."""
    found: list[tuple[int, Repository, Check]] = []
    for one, progress in repositories:
        levels = {each for each in one.target.levels if level in ("", each)}
        due = next_check(levels, job.definition.verify, progress, now_ms)
        if due is not None:
            found.append((due[0], one, due[1]))
    if not found:
        return _nothing(job, level)
    found.sort(key=lambda each: (each[0], each[1].key))
    hindered = [_hindrance(one) for _, one, _ in found]
    for (_, one, check), why in zip(found, hindered, strict=True):
        if why is None:
            return one, check
    first = hindered[0]
    assert first is not None, "else it was chosen"
    return first


def _nothing(job: JobConfig, level: str) -> Refused:
    what = f"of the level {level}" if level else "at all"
    if not declares(level, job.definition.verify):
        return Refused(NOT_DECLARED, f"its file in backups.d asks for no proof {what}")
    return Refused(NOT_VERIFIABLE, f"nothing here makes a proof {what}: see its tool, and `verify.run`")


def _hindrance(one: "Repository") -> Refused | None:
    if one.is_stuck():
        return Refused(STUCK, "a look at its repository could not be ended")
    if one.last is not None and one.last.reason == Reason.NEEDS_RUNNER:
        return Refused(NEEDS_RUNNER, "the agent's user may not read its repository")
    return None


def occupied(name: str, running: str, wanted: str) -> Refused | None:
    """Why the job waits for no other: this one is verified, or is about to be; "" where there is none."""
    if name in (running, wanted):
        return Refused(ALREADY_RUNNING, f"{name} is being verified")
    other = running or wanted
    return Refused(BUSY, f"{other} is being verified, and one goes on at a time") if other else None
