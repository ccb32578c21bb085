"""The words of a run: its states, those of its steps and attempts, and what people may do to it."""

from enum import StrEnum
from typing import Final


class RunState(StrEnum):
    """What a run does. The last five are its ends."""

    PROPOSED = "proposed"
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    HELD = "held"
    UNDOING = "undoing"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNDONE = "undone"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


ENDED: Final = frozenset(
    {RunState.SUCCEEDED, RunState.FAILED, RunState.UNDONE, RunState.CANCELLED, RunState.EXPIRED}
)
HOLDS_LOCK: Final = frozenset(
    {RunState.RUNNING, RunState.WAITING, RunState.HELD, RunState.UNDOING, RunState.CANCELLING}
)
"""In these states nobody else may touch what the run's lock names: who waits or is held counts, too."""


class RunVerb(StrEnum):
    """What a person does to a run. Each with a reason."""

    RETRY = "retry"
    SKIP = "skip"
    MARK_DONE = "mark-done"
    UNDO = "undo"
    ABORT = "abort"
    START = "start"
    """Begin what was proposed."""


class Phase(StrEnum):
    """Which list of things a run goes through."""

    FORWARD = "forward"
    UNDO = "undo"
    CLEANUP = "cleanup"
    """After a drill, however it went."""


class StepState(StrEnum):
    """What a step does."""

    PENDING = "pending"
    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


class AttemptState(StrEnum):
    """How far an attempt on a host has come."""

    INTENDED = "intended"
    """Written down; nothing has left the collector."""
    SENT = "sent"
    """It may have left. Whether it arrived is its host's to say."""
    ACCEPTED = "accepted"
    FINISHED = "finished"
    UNKNOWN = "unknown"


REFUSED: Final = "refused"
"""How an attempt ended that its host did not take up."""
LAPSED: Final = "lapsed"
"""How an attempt ended that never began and never can: its time was up."""
NEVER_RAN: Final = frozenset({REFUSED, LAPSED})


class Verdict(StrEnum):
    """What an expression came to."""

    TRUE = "true"
    FALSE = "false"
    UNKNOWN = "unknown"
