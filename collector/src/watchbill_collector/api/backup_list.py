"""Which backups are told of, and in which order: the worst first, and never more than was asked for. Pure.

A hundred thousand jobs that are well are one thing to know: all are counted by word, and listed in pages.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from watchbill.errors import UsageError
from watchbill_collector.api.backup_port import WORDS, BackupJob, no_backup, shown

JOBS_DEFAULT: Final = 500
JOBS_MAX: Final = 5_000
"""Jobs of one page; the rest is counted, and comes with `offset`."""
SEARCHED_MAX: Final = 16
"""Words of a search; more narrow nothing."""
NAMED_MAX: Final = 5
"""Jobs that a message names."""
RETIRED: Final = "RETIRED"
_MILDER: Final = {
    "UNKNOWN": 1,
    "PARTIAL": 2,
    "LATE": 2,
    "RUNNING": 3,
    "NEW": 3,
    "OK": 3,
    "PAUSED": 4,
    RETIRED: 5,
}
"""Words in the order in which somebody wants to read of them; all others come first. What is paused or gone is waited
for by nobody, however bad it would be.
"""
_SEVERITIES: Final = {"critical": 0, "major": 1, "minor": 2, "info": 3}
_MILDEST: Final = 4


@dataclass(frozen=True, slots=True)
class BackupList:
    """Jobs, the worst first: what is bad, what nobody knows, what is late; in each by severity, word, name and host.

    `total` is how many there are of what was asked for; `truncated`: some are not in `backups`. `words` counts what
    was asked for by word, whichever words were asked for.
    """

    backups: Sequence[BackupJob]
    total: int
    truncated: bool
    words: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class WantedJobs:
    """Which jobs; what is empty does not narrow. `said` have to be there, each somewhere in what a job says."""

    words: frozenset[str] = frozenset()
    host: str = ""
    service: str = ""
    job: str = ""
    said: tuple[str, ...] = ()

    def takes(self, job: BackupJob) -> bool:
        """Whether a job is among them, whatever its word."""
        return (
            self.host in ("", job.host)
            and self.service in ("", job.service)
            and self.job in ("", job.name)
            and (not self.said or _says_all(job, self.said))
        )


def listed(jobs: Iterable[BackupJob], wanted: WantedJobs, *, limit: int, offset: int = 0) -> BackupList:
    """The page: `limit` jobs after the first `offset` ones."""
    found = [job for job in jobs if wanted.takes(job)]
    counts: dict[str, int] = {}
    for job in found:
        counts[job.word] = counts.get(job.word, 0) + 1
    if wanted.words:
        found = [job for job in found if job.word in wanted.words]
    found.sort(key=order)
    page = found[offset : offset + limit]
    words = {word: counts[word] for word in sorted(counts, key=_word_rank)}
    return BackupList(page, len(found), len(page) < len(found), words)


def order(job: BackupJob) -> tuple[int, int, int, str, str]:
    """The worst first."""
    severity = _SEVERITIES.get(job.severity, _MILDEST)
    return _MILDER.get(job.word, 0), severity, _word_rank(job.word), job.name, job.host


def named(jobs: Iterable[BackupJob], name: str) -> BackupJob:
    """The job that is meant by its id, by HOST/JOB, or by its own name where one host alone has it; those of hosts that
    are gone are meant where there is no other. Raises NoSuch, and UsageError where several are meant.
    """
    every = list(jobs)
    exact = [job for job in every if job.id == name]
    alike = [job for job in every if name in (job.name, f"{job.host}/{job.name}")]
    found = exact or [job for job in alike if job.word != RETIRED] or alike
    if not found:
        raise no_backup(name)
    if len(found) > 1:
        which = ", ".join(f"{shown(job.host)}/{shown(job.name)} ({job.id})" for job in found[:NAMED_MAX])
        more = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
        raise UsageError(f"{shown(name)!r} is {len(found)} backups: say which, {which}{more}")
    return found[0]


def _word_rank(word: str) -> int:
    return WORDS.index(word) if word in WORDS else 0


def _says_all(job: BackupJob, said: Iterable[str]) -> bool:
    text = " ".join(
        (job.name, job.host, job.service, job.tool, job.word, job.why, *job.labels.values())
    ).casefold()
    return all(word in text for word in said)
