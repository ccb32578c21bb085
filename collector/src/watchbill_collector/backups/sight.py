"""What can be known of a job at a moment: which deadlines have passed, and how far its host was heard.

A deadline counts as passed once its host has been heard through it. A host that lags a little is waited for; of one
that is silent for longer nothing is claimed: not heard is not missed.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from watchbill.backups.definition import Definition
from watchbill_collector.backups.due import NEVER_MS, DueTimes
from watchbill_collector.backups.evidence import Evidence
from watchbill_collector.backups.words import Standing

SILENT_MS: Final = 5 * 60_000
"""How long a host that was not heard through a deadline is waited for before it is called silent."""


class Passed(Enum):
    """Whether a deadline has passed. SILENT: by the clock it has, and who could say so was not heard."""

    NO = "no"
    YES = "yes"
    SILENT = "silent"


@dataclass(slots=True)
class Sight:
    """One look at one job. `known_ms`: its host was heard through this moment; `listening_ms`: nobody could be heard
    before. `next_ms` and `wants_ms` are gathered while looking: when the answer may change by itself, and what the
    host has to be heard through for it to change."""

    definition: Definition
    evidence: Evidence
    standing: Standing
    known_ms: int
    now_ms: int
    listening_ms: int
    dues: DueTimes
    next_ms: int = NEVER_MS
    wants_ms: int = NEVER_MS
    silent: bool = field(default=False)

    def passed(self, deadline_ms: int) -> Passed:
        """Whether nothing that was done before this deadline can still become known."""
        if deadline_ms > self.now_ms:
            if deadline_ms < self.next_ms:
                self.next_ms = deadline_ms
            return Passed.NO
        if deadline_ms <= self.known_ms:
            return Passed.YES
        self.wants_ms = min(self.wants_ms, deadline_ms)
        silent_ms = max(self.known_ms, self.listening_ms) + SILENT_MS
        if self.now_ms < silent_ms:
            self.next_ms = min(self.next_ms, silent_ms)
            return Passed.NO
        self.silent = True
        return Passed.SILENT

    def seen_after(self, deadline_ms: int, seen_ms: int) -> Passed:
        """The same of something that only a look at the repository tells, which was looked at last at `seen_ms`."""
        if deadline_ms > self.now_ms:
            if deadline_ms < self.next_ms:
                self.next_ms = deadline_ms
            return Passed.NO
        if deadline_ms <= seen_ms:
            return Passed.YES
        given_up_ms = max(seen_ms, self.listening_ms) + self.patience_ms
        if self.now_ms < given_up_ms:
            self.next_ms = min(self.next_ms, given_up_ms)
            return Passed.NO
        return Passed.SILENT

    @property
    def patience_ms(self) -> int:
        """How long after a look at the repository the next one may take: two of them, since they wait for each
        other."""
        return SILENT_MS + round(2000 * self.definition.observe_every_s)

    def later(self, at_ms: int) -> bool:
        """Whether this moment is still to come; then the job is looked at again when it has."""
        if at_ms > self.now_ms:
            if at_ms < self.next_ms:
                self.next_ms = at_ms
            return True
        return False
