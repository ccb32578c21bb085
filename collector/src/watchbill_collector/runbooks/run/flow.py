"""The steps of a run in the order in which they are gone through, those of a called runbook in their caller's place.

A called runbook's steps are named `CALL/STEP`. They see its parameters and its own steps, and nothing of their caller.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from watchbill_collector.runbooks.model import Act, Call, Gate, OnFail, Parallel, Runbook, Step
from watchbill_collector.runbooks.resolving import left_out

UNITS_MAX: Final = 1_000
"""Of a run, those of called runbooks counted; more is refused when it is to begin."""


@dataclass(frozen=True, slots=True)
class FlatStep:
    """A step by its full name. `caller` is the step that called its runbook, "" for the run's own; `group` the parallel
    group it is in."""

    id: str
    step: Step
    runbook: Runbook
    caller: str = ""
    group: str = ""

    @property
    def on_fail(self) -> OnFail:
        """What its failure does: as it says, else as its runbook does."""
        return self.step.on_fail or self.runbook.on_fail


@dataclass(frozen=True, slots=True)
class Unit:
    """What is gone through before the next: a step, or those of a parallel group. `ends_call`: the end of a call, whose
    steps came before."""

    head: FlatStep
    steps: tuple[FlatStep, ...]
    ends_call: bool = False

    @property
    def parallel(self) -> bool:
        """Whether it is a group."""
        return isinstance(self.head.step.what, Parallel)


class Flow:
    """A runbook with those it calls, as one run goes through them."""

    def __init__(self, runbook: Runbook, called: Mapping[str, Runbook], *, drill: bool) -> None:
        self.runbook = runbook
        self.called = dict(called)
        self.drill = drill
        self.units = tuple(self._units(runbook, ""))
        self.steps = {one.id: one for unit in self.units for one in (unit.head, *unit.steps)}
        self.position = {one.id: at for at, unit in enumerate(self.units) for one in unit.steps}
        self.gates = [unit.head for unit in self.units if isinstance(unit.head.step.what, Gate)]

    def _units(self, runbook: Runbook, caller: str) -> Iterator[Unit]:
        prefix = f"{caller}/" if caller else ""
        for step in runbook.steps:
            if left_out(step, drill=self.drill):
                continue
            head = FlatStep(prefix + step.id, step, runbook, caller)
            match step.what:
                case Parallel(steps=inner):
                    kept = (one for one in inner if not left_out(one, drill=self.drill))
                    yield Unit(
                        head,
                        tuple(FlatStep(prefix + one.id, one, runbook, caller, head.id) for one in kept),
                    )
                case Call(runbook=name) if not caller and name in self.called:
                    yield Unit(head, (head,))
                    yield from self._units(self.called[name], head.id)
                    yield Unit(head, (head,), ends_call=True)
                case _:
                    yield Unit(head, (head,))

    @property
    def clock_stop(self) -> str:
        """The step with which the recovery time ends, "" for the end of the run."""
        if self.drill and self.runbook.drill is not None and self.runbook.drill.clock_stop:
            return self.runbook.drill.clock_stop
        return next((name for name, one in self.steps.items() if one.step.clock_stop), "")

    def acts(self) -> Iterator[tuple[int, str, FlatStep | None, Act]]:
        """Everything that may be run, with its position, its step's name and its step: actions, undos, the clean-up."""
        for at, unit in enumerate(self.units):
            if unit.ends_call:
                continue
            for one in unit.steps:
                if isinstance(one.step.what, Act):
                    yield at, one.id, one, one.step.what
                if one.step.undo is not None:
                    yield at, one.id, one, one.step.undo
        for name, act in self.cleanup():
            yield len(self.units), name, None, act

    def cleanup(self) -> list[tuple[str, Act]]:
        """What follows a drill, by name."""
        if not self.drill or self.runbook.drill is None:
            return []
        return [(cleanup_name(number), act) for number, act in enumerate(self.runbook.drill.cleanup, 1)]

    def covering_gate(self, position: int, approvals: int, role: str) -> str:
        """The gate that allows a protected action at a position: the last one before it that asks for at least as many
        other people of the same role; "" when there is none."""
        for unit in reversed(self.units[:position]):
            gate = unit.head.step.what
            if isinstance(gate, Gate) and gate.role == role and gate.count >= approvals and not gate.own_vote:
                return unit.head.id
        return ""


def cleanup_name(number: int) -> str:
    """How a drill's clean-up is named as a step; from 1."""
    return f"cleanup-{number}"
