"""What a run is, as it follows from its rows. Only `fold.py` changes it."""

from dataclasses import dataclass, field

from watchbill.actions.definition import Action, Effect
from watchbill.actions.outcomes import Finished, Outcome
from watchbill_collector.runbooks.outputs import HostResult, read_output
from watchbill_collector.runbooks.run.rows import (
    Called,
    Created,
    GateClosed,
    GateOpened,
    Target,
    Unasked,
    Voted,
)
from watchbill_collector.runbooks.run.words import (
    NEVER_RAN,
    AttemptState,
    Phase,
    RunState,
    StepState,
    Verdict,
)

OPEN_ATTEMPTS = frozenset({AttemptState.INTENDED, AttemptState.SENT, AttemptState.ACCEPTED})


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt of a step on one host, or of a probe. Moments are the collector's, of the rows that told of them;
    `started_ms` and `ended_ms` are its host's. `n` is the row of its intent."""

    key: str
    step: str
    phase: Phase
    host: str
    agent: str
    number: int
    purpose: str
    action: str
    digest: str
    effect: Effect
    arguments: dict[str, str | int]
    not_after_ms: int
    at_ms: int
    n: int
    ledger: str = ""
    commit: bool = False
    gate: str = ""
    probes: str = ""
    round: int = 0
    output_kind: str = "text"
    timeout_s: int = 0
    state: AttemptState = AttemptState.INTENDED
    outcome: str = ""
    detail: str = ""
    refused: str = ""
    """The word with which its host refused it."""
    sent_ms: int = 0
    unsent_ms: int = 0
    accepted_ms: int = 0
    boot: str = ""
    approvers: tuple[str, ...] = ()
    done_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    exit_code: int | None = None
    output: str = ""
    errors: str = ""
    whole: bool = True
    free_ms: int = 0
    probed: Verdict | None = None
    cancelled_ms: int = 0
    _value: HostResult | None = None

    @property
    def open(self) -> bool:
        """Whether its end is still to come."""
        return self.state in OPEN_ATTEMPTS

    @property
    def ok(self) -> bool:
        """Whether it is known to have gone well."""
        return self.outcome == Outcome.OK.value or self.probed is Verdict.TRUE

    @property
    def may_have_run(self) -> bool:
        """Whether it changed something, or could have."""
        return self.state is not AttemptState.INTENDED and self.outcome not in NEVER_RAN

    def result(self) -> HostResult:
        """What it brought, for expressions."""
        if self.state is not AttemptState.FINISHED:
            return HostResult(ok=True if self.probed is Verdict.TRUE else None)
        if self._value is None:
            self._value = self._read()
        return self._value

    def _read(self) -> HostResult:
        if self.outcome in NEVER_RAN:
            return HostResult(ok=False)
        finished = Finished(
            key=self.key,
            run="",
            step=self.step,
            ledger=self.ledger,
            outcome=Outcome(self.outcome),
            started_ms=self.started_ms,
            ended_ms=self.ended_ms,
            exit_code=self.exit_code,
            output=self.output,
            whole=self.whole,
        )
        action = Action(
            name=self.action,
            argv=("/",),
            effect=self.effect,
            output="json" if self.output_kind == "json" else "text",
        )
        return HostResult(
            out=read_output(action, finished),
            ok=self.ok,
            rc=self.exit_code,
            took_s=max(0, self.ended_ms - self.started_ms) / 1000,
        )


@dataclass(slots=True)
class GateProgress:
    """A gate that was opened, what was said, and how it closed."""

    opened: GateOpened
    opened_ms: int
    votes: list[tuple[int, Voted]] = field(default_factory=list)
    voided: dict[str, str] = field(default_factory=dict)
    closed: GateClosed | None = None
    closed_ms: int = 0
    opened_n: int = 0
    """The row that opened it: what was intended before, others had agreed to."""
    covers: dict[bytes, int] | None = None
    """The effects that its manifest names and how often each may begin, once somebody wanted to know."""


@dataclass(slots=True)
class StepProgress:
    """One step in one phase. `attempts` are those of the step itself and of fresh premises, by host; `retried` is, by
    host, how many there were when a person last said retry."""

    id: str
    phase: Phase
    state: StepState = StepState.PENDING
    detail: str = ""
    noted: bool = False
    by: str = ""
    """The person who decided it."""
    began_ms: int = 0
    began_n: int = 0
    ended_ms: int = 0
    targets: list[Target] = field(default_factory=list)
    waves: list[int] = field(default_factory=list)
    max_failures: int = 0
    attempts: dict[str, list[Attempt]] = field(default_factory=dict)
    retried: dict[str, int] = field(default_factory=dict)
    probes: dict[str, list[Attempt]] = field(default_factory=dict)
    timers: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """By what and host: the moment, and the row that said so."""
    verdict: Verdict | None = None
    verdict_n: int = 0
    verdict_text: str = ""
    verdict_round: int = 0
    verdicts: int = 0
    gate: GateProgress | None = None
    notified_n: int = 0
    again: bool = False
    """A person said retry."""
    again_in: Phase | None = None
    """Where the run was then: a gate is asked again also by what is undone or cleaned up."""

    @property
    def ended(self) -> bool:
        """Whether the run goes on behind it."""
        return self.state in {StepState.OK, StepState.SKIPPED} or (
            self.state is StepState.FAILED and self.noted
        )

    def tries(self, host: str, number: int = 0) -> list[Attempt]:
        """Attempts on a host since a person last said retry; of a round of fresh premises, if one is given."""
        found = self.attempts.get(host, [])[self.retried.get(host, 0) :]
        return [one for one in found if one.round == number]

    def newest(self, host: str) -> Attempt | None:
        """The last attempt on a host."""
        found = self.attempts.get(host)
        return found[-1] if found else None

    @property
    def looked_n(self) -> int:
        """The row since which what it looked at is known."""
        if self.attempts:
            return min((found[-1].n for found in self.attempts.values() if found), default=0)
        return self.verdict_n


@dataclass(slots=True)
class FreshRound:
    """A round in which earlier premises are looked at again, on behalf of a step."""

    number: int
    steps: list[str]
    for_step: str
    n: int


@dataclass(slots=True)
class Run:
    """A run. `n` is its newest row, `stale_n` the newest one that stands for a wait."""

    run_id: str
    created: Created
    created_ms: int = 0
    requester: str = ""
    state: RunState = RunState.PROPOSED
    detail: str = ""
    held_step: str = ""
    phase: Phase = Phase.FORWARD
    ending: RunState | None = None
    ending_detail: str = ""
    steps: dict[tuple[Phase, str], StepProgress] = field(default_factory=dict)
    keys: dict[str, Attempt] = field(default_factory=dict)
    open_keys: dict[str, None] = field(default_factory=dict)
    unknown_keys: dict[str, None] = field(default_factory=dict)
    unasked: dict[str, tuple[int, Unasked]] = field(default_factory=dict)
    """What hosts refused or took up in its name that it never ordered, by key, each with its time."""
    counts: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """Attempts so far, by purpose, step and host."""
    called: dict[str, Called] = field(default_factory=dict)
    fresh: FreshRound | None = None
    rounds: int = 0
    rounds_for: dict[str, int] = field(default_factory=dict)
    fresh_failed: tuple[str, str] | None = None
    """The step whose premise did not hold any more, and why."""
    committed: bool = False
    started_ms: int = 0
    ended_ms: int = 0
    changed_ms: int = 0
    recovered_ms: int = 0
    queued_ms: int = 0
    aborts: int = 0
    resumed_n: int = 0
    stale_n: int = 0
    n: int = 0
    epoch: int = 0

    def step(self, step_id: str, phase: Phase = Phase.FORWARD) -> StepProgress:
        """A step's progress; one that has not begun is pending."""
        found = self.steps.get((phase, step_id))
        return StepProgress(step_id, phase) if found is None else found

    @property
    def is_open(self) -> bool:
        """Whether its end is still to come."""
        return not self.ended_ms

    def open_attempts(self) -> list[Attempt]:
        """Those whose end is still to come."""
        return [self.keys[key] for key in self.open_keys]

    def unknown_attempts(self) -> list[Attempt]:
        """Those of which nobody knows whether they ran, the last on their host."""
        found = (self.keys[key] for key in self.unknown_keys)
        return [
            one
            for one in found
            if one.probed is not Verdict.TRUE and self.step(one.step, one.phase).newest(one.host) is one
        ]
