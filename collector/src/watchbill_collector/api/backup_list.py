"""Which backups are told of, and in which order: the worst first, and never more than was asked for. Pure.

A hundred thousand jobs that are well are one thing to know: all are counted by word, and listed in pages.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from operator import attrgetter
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
_NAMES: Final = attrgetter("name", "host")


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

    @property
    def everything(self) -> bool:
        """Whether all are among them, whatever their word."""
        return not (self.host or self.service or self.job or self.said)

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
    found = list(jobs) if wanted.everything else [job for job in jobs if wanted.takes(job)]
    piles: dict[tuple[str, str], list[BackupJob]] = {}
    for job in found:
        piles.setdefault((job.word, job.severity), []).append(job)
    counts: dict[str, int] = {}
    for (word, _), pile in piles.items():
        counts[word] = counts.get(word, 0) + len(pile)
    words = {word: counts[word] for word in sorted(counts, key=_word_rank)}
    if wanted.words:
        piles = {key: pile for key, pile in piles.items() if key[0] in wanted.words}
    total = sum(map(len, piles.values()))
    page = list(islice(_in_order(piles, offset + limit), offset, offset + limit))
    return BackupList(page, total, len(page) < total, words)


def _in_order(piles: Mapping[tuple[str, str], Sequence[BackupJob]], most: int) -> Iterator[BackupJob]:
    """The worst first, `most` of them. Of a large pile, of those that are well as a rule, only as many are sorted."""
    for key in sorted(piles, key=_pile_rank):
        yield from nsmallest(most, piles[key], key=_NAMES)


def _pile_rank(key: tuple[str, str]) -> tuple[int, int, int]:
    word, severity = key
    return _MILDER.get(word, 0), _SEVERITIES.get(severity, _MILDEST), _word_rank(word)


def named(jobs: Iterable[BackupJob], name: str) -> BackupJob:
    """The job that is meant by its id, by HOST/JOB, or by its own name where one host alone has it; those of hosts that
    are gone are meant where there is no other. Raises NoSuch, and UsageError where several are meant.
    """
    every = list(jobs)
    exact = next((job for job in every if job.id == name), None)
    if exact is not None:
        return exact
    alike = [job for job in every if name.endswith(job.name) and name in (job.name, f"{job.host}/{job.name}")]
    found = [job for job in alike if job.word != RETIRED] or alike
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
