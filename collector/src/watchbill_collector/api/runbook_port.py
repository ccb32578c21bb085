"""What the HTTP side needs from the runbooks and their runs, and the values that cross; see `ports.py`.

When a run's state changes, the bus is told `run` with its id, runbook and state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from watchbill_collector.api.ports import Caller, NoSuch
from watchbill_collector.runbooks.findings import Finding
from watchbill_collector.runbooks.run.words import ENDED, RunState, RunVerb

__all__ = [
    "ENDED",
    "JOURNAL_ROWS_MAX",
    "NAME_SHOWN_MAX",
    "REASON_CHARACTERS_MAX",
    "RUNS_LISTED_MAX",
    "AttemptView",
    "Finding",
    "JournalRow",
    "Plan",
    "PlanStep",
    "RunState",
    "RunVerb",
    "RunView",
    "RunbookService",
    "RunbookView",
    "StepView",
    "VoteView",
    "event_of",
    "exit_code",
    "no_run",
    "no_runbook",
    "shown",
]

REASON_CHARACTERS_MAX: Final = 2_000
"""Of the reason for a run or a change to it; every one needs some."""
RUNS_LISTED_MAX: Final = 1_000
JOURNAL_ROWS_MAX: Final = 1_000
"""Rows of one answer; later ones come with `after`."""
NAME_SHOWN_MAX: Final = 80
"""Characters of a wanted name that an answer repeats."""


def exit_code(state: RunState, for_approval: bool = False) -> int:
    """What `watchbill run` ends with where a run stands so; `for_approval`: people have to agree first."""
    match state:
        case RunState.HELD:
            return 3
        case RunState.PROPOSED:
            return 4
        case RunState.FAILED | RunState.UNDONE | RunState.CANCELLED | RunState.EXPIRED:
            return 1
        case _:
            return 4 if for_approval and state is RunState.WAITING else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunbookView:
    """A runbook as it is listed. `accepted_by` is who accepted this digest, "" for nobody: it then cannot be run but
    as a drill. `ready` is the newest preflight: None before the first; `not_ready` says why.
    """

    name: str
    digest: str
    about: str
    file: str
    accepted_by: str
    accepted: datetime | None
    ready: bool | None
    not_ready: Sequence[str]
    preflight: datetime | None
    rto_s: float
    rpo_s: float
    trigger: str
    automatic: bool
    breaker_open: bool
    drill_every_s: float
    last_drill: datetime | None
    last_drill_state: str
    drill_due: datetime | None
    recovery_p90_s: float | None
    findings: Sequence[Finding]
    open_runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStep:
    """One step of a plan on one host. `argv` is what would be run there, exactly; `seen` what a look brought, or what
    `plan_argv` printed; `verdict` is ok, bad, unknown or "" where there is nothing to judge yet."""

    step: str
    kind: str
    host: str
    action: str
    effect: str
    argv: Sequence[str]
    run_as: str
    approvals: int
    role: str
    commit: bool
    verdict: str
    detail: str
    seen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do now. `problems` are why it could not; nothing was changed to find out. `confirm` is what has
    to be typed to start it, "" for nothing."""

    runbook: str
    digest: str
    drill: bool
    parameters: Mapping[str, str]
    confirm: str
    lock: str
    steps: Sequence[PlanStep]
    problems: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """One attempt of a step on one host. `state` is pending, intended, sent, accepted, finished or unknown."""

    host: str
    attempt: int
    key: str
    purpose: str
    state: str
    outcome: str
    exit_code: int | None
    started: datetime | None
    ended: datetime | None
    argv: Sequence[str]
    output: str
    errors: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteView:
    """Who has said what of a gate. `counted`: whether it holds, else `why_not`."""

    person: str
    approve: bool
    at: datetime
    counted: bool
    why_not: str
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """One step of a run. `state` is pending, running, waiting, ok, failed, skipped, held, undone or unknown."""

    id: str
    kind: str
    state: str
    detail: str
    started: datetime | None
    ended: datetime | None
    attempts: Sequence[AttemptView]
    role: str
    needed: int
    votes: Sequence[VoteView]
    manifest: str
    """Of a gate that is open: the canonical JSON that is voted on."""
    manifest_digest: str
    gate_expires: datetime | None
    verified_on_host: bool
    """Whether hosts look at the votes themselves: then only signatures count, and the page shows the command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run. `exit_code` is what `watchbill run --wait` ends with in this state."""

    id: str
    runbook: str
    digest: str
    state: RunState
    state_detail: str
    drill: bool
    requester: str
    reason: str
    trigger: str
    parameters: Mapping[str, str]
    lock: str
    created: datetime
    started: datetime | None
    ended: datetime | None
    recovered: datetime | None
    recovery_s: float | None
    rto_s: float
    steps: Sequence[StepView]
    exit_code: int


def event_of(run: RunView) -> dict[str, str]:
    """What the bus is told when the state of a run or of one of its steps changes: read it again."""
    return {"id": run.id, "runbook": run.runbook, "state": run.state.value, "detail": run.state_detail[:200]}


def no_runbook(name: str) -> NoSuch:
    """The answer where there is none of that name for the caller."""
    return NoSuch(f"there is no runbook {shown(name)}: watchbill runbooks lists them")


def no_run(run_id: str) -> NoSuch:
    """The answer where there is no such run for the caller."""
    return NoSuch(f"there is no run {shown(run_id)}: watchbill runs lists them")


def shown(text: str) -> str:
    """What somebody typed, cut and printable, in quotes."""
    return ascii(text if len(text) <= NAME_SHOWN_MAX else f"{text[:NAME_SHOWN_MAX]}...")


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRow:
    """One row of a run's journal, as it was written. `hash` closes the chain over it and the row before."""

    n: int
    at: datetime
    kind: str
    step: str
    host: str
    actor: str
    detail: Mapping[str, Any]
    hash: str


class RunbookService(Protocol):
    """Runbooks and runs, as one caller may see and change them.

    What is outside his scope is NoSuch, what his role may not do Refused. A run is seen by who may see one of its hosts
    and changed by who may change all of them.
    """

    async def runbooks(self, caller: Caller) -> Sequence[RunbookView]:
        """All, by name."""

    async def runbook(self, name: str, caller: Caller) -> tuple[RunbookView, str]:
        """One, and its text. Raises NoSuch."""

    async def lint(self, name: str, content: str, caller: Caller) -> Sequence[Finding]:
        """Judge a text against the hosts that are here."""

    async def plan(self, name: str, given: Mapping[str, str], drill: bool, caller: Caller) -> Plan:
        """What a run would do now; live looks, nothing changed. Raises NoSuch, Refused."""

    async def accept(self, name: str, digest: str, caller: Caller) -> RunbookView:
        """Say that this text may be run. Not by who wrote it. Raises NoSuch, Refused."""

    async def reset_breaker(self, name: str, reason: str, caller: Caller) -> RunbookView:
        """Let its trigger act again."""

    async def start(
        self, name: str, given: Mapping[str, str], reason: str, drill: bool, confirm: str, caller: Caller
    ) -> RunView:
        """Begin a run. Raises NoSuch, Refused with why not."""

    async def runs(
        self, caller: Caller, open_only: bool, drills_only: bool, runbook: str, limit: int
    ) -> Sequence[RunView]:
        """The newest first."""

    async def run(self, run_id: str, caller: Caller) -> RunView:
        """One. Raises NoSuch."""

    async def journal(self, run_id: str, after: int, caller: Caller) -> Sequence[JournalRow]:
        """Its rows after row number `after`, at most JOURNAL_ROWS_MAX. Raises NoSuch."""

    async def change(self, run_id: str, verb: RunVerb, step: str, reason: str, caller: Caller) -> RunView:
        """Retry, skip, mark done, undo, abort, start. Raises NoSuch, Refused."""

    async def vote(self, run_id: str, step: str, signed: bytes, caller: Caller) -> RunView:
        """Hand in a signed vote. Raises NoSuch, Refused with why it does not count."""

    async def approve(self, run_id: str, step: str, yes: bool, comment: str, caller: Caller) -> RunView:
        """A vote of a gate that only the collector checks, by who is logged in. Raises NoSuch, Refused."""

    async def pause(self, reason: str, caller: Caller) -> None:
        """No trigger starts anything and no run begins a step with an effect, until `resume`."""

    async def resume(self, reason: str, caller: Caller) -> None:
        """The end of `pause`."""

    async def paused(self) -> tuple[str, str, datetime] | None:
        """By whom, why and since when; None when nothing is paused."""
