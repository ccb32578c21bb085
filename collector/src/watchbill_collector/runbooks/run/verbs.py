"""What people do to a run, as rows; or why it cannot be done now. Each verb with a person and a reason.

    start      begins what was proposed          undo    takes back what the finished steps did
    retry      the step once more                abort   ends the run; twice: at once, without clean-up
    skip       as if the step were not there     mark-done   a person says that it has happened

A gate is neither skipped nor marked done: it is passed by those who may agree, or asked again by `retry`. A retry that
would begin something protected once more than was agreed to asks its gate again, too.
"""

from watchbill.errors import Refused
from watchbill_collector.runbooks.model import Gate
from watchbill_collector.runbooks.run.acting import used_up
from watchbill_collector.runbooks.run.flow import Flow
from watchbill_collector.runbooks.run.progress import Run
from watchbill_collector.runbooks.run.rows import Operator, PhaseBegan, Row, State
from watchbill_collector.runbooks.run.words import ENDED, Phase, RunState, RunVerb, StepState

_OF_STEPS = frozenset({RunVerb.RETRY, RunVerb.SKIP, RunVerb.MARK_DONE})


def obey(run: Run, flow: Flow, verb: RunVerb, step: str, person: str, reason: str) -> list[Row]:
    """The rows of what a person does. `step` "": the one that the run is held at. Raises Refused."""
    if run.state in ENDED:
        raise Refused(f"run {run.run_id} has ended: it is {run.state.value}")
    if verb in _OF_STEPS:
        step = _judged_step(run, flow, verb, step)
    said = Operator(verb=verb.value, person=person, reason=reason, step=step if verb in _OF_STEPS else "")
    match verb:
        case RunVerb.START:
            if run.state is not RunState.PROPOSED:
                raise Refused(f"run {run.run_id} is {run.state.value}: only what is proposed is started")
            return [said, State(state=RunState.QUEUED.value)]
        case RunVerb.ABORT:
            return [said, *_abort(run, person)]
        case RunVerb.UNDO:
            return [said, *_undo(run, person)]
        case RunVerb.RETRY:
            asked = [
                Operator(verb=verb.value, person=person, reason=f"{reason}; used up by {step}", step=gate)
                for gate in _used_up(run, flow, step)
            ]
            return [*asked, said, State(state=resumed_state(run).value)]
        case _:
            return [said, State(state=resumed_state(run).value)]


def _used_up(run: Run, flow: Flow, step: str) -> list[str]:
    """Gates that have to be asked again before a step may begin once more on all its hosts."""
    progress = run.step(step, run.phase)
    found = (used_up(run, flow, progress, target) for target in progress.targets)
    return list(dict.fromkeys(gate for gate in found if gate))


def resumed_state(run: Run) -> RunState:
    """What a run that was held goes on as."""
    if run.phase is Phase.FORWARD:
        return RunState.RUNNING
    if run.phase is Phase.UNDO or run.ending is RunState.UNDONE:
        return RunState.UNDOING
    return RunState.CANCELLING if run.ending is RunState.CANCELLED else RunState.RUNNING


def _judged_step(run: Run, flow: Flow, verb: RunVerb, step: str) -> str:
    unknown = {one.step for one in run.unknown_attempts()}
    step = step or run.held_step or (next(iter(unknown)) if len(unknown) == 1 else "")
    if run.state is not RunState.HELD and not (run.state is RunState.WAITING and step in unknown):
        raise Refused(
            f"run {run.run_id} is {run.state.value}: {verb.value} is for steps of a run that is held, or whose "
            "outcome is unknown"
        )
    if not step:
        raise Refused("which step? The run is held at none")
    cleanup = {name for name, _ in flow.cleanup()}
    if step not in flow.steps and step not in cleanup:
        raise Refused(
            f"the run has no step {step[:80]!a}, wanted one of {', '.join([*flow.steps, *cleanup])[:400]}"
        )
    flat = flow.steps.get(step)
    progress = run.step(step, run.phase)
    gate = flat is not None and isinstance(flat.step.what, Gate)
    if gate and verb is not RunVerb.RETRY:
        raise Refused(f"{step} is a gate: it is passed by those who may agree; retry asks them again")
    if any(one.open and one.step == step and one.may_have_run for one in run.open_attempts()):
        raise Refused(f"{step} is still at work on a host")
    if progress.state in {StepState.OK, StepState.SKIPPED} and not gate:
        raise Refused(f"{step} is over: it is {progress.state.value}")
    return step


def _abort(run: Run, person: str) -> list[Row]:
    detail = f"aborted by {person}"
    if run.state in {RunState.PROPOSED, RunState.QUEUED}:
        return [State(state=RunState.CANCELLED.value, detail=detail)]
    if run.state is RunState.CANCELLING:
        return []
    if run.phase is Phase.CLEANUP:
        ending = run.ending or RunState.CANCELLED
        return [
            State(state=ending.value, detail=f"{run.ending_detail}; not cleaned up, {detail}".lstrip("; "))
        ]
    return [State(state=RunState.CANCELLING.value, detail=detail)]


def _undo(run: Run, person: str) -> list[Row]:
    if run.phase is not Phase.FORWARD:
        raise Refused(f"run {run.run_id} is in its {run.phase.value} already")
    if run.state not in {RunState.HELD, RunState.WAITING} or any(
        one.may_have_run for one in run.open_attempts()
    ):
        raise Refused(
            f"run {run.run_id} is {run.state.value}, and at work: abort it, or wait until it is held"
        )
    detail = f"undone by {person}"
    return [
        PhaseBegan(phase=Phase.UNDO.value, ending=RunState.UNDONE.value, detail=detail),
        State(state=RunState.UNDOING.value, detail=detail),
    ]
