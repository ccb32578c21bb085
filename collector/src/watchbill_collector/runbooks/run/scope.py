"""What expressions of a run see: its parameters, and what its steps have brought."""

from watchbill_collector.runbooks.expression import Known, Scope, Value
from watchbill_collector.runbooks.model import Act, Runbook
from watchbill_collector.runbooks.outputs import plain_value, step_value
from watchbill_collector.runbooks.parameters import judge_parameters
from watchbill_collector.runbooks.run.flow import Flow
from watchbill_collector.runbooks.run.progress import Run, StepProgress
from watchbill_collector.runbooks.run.words import Phase, StepState, Verdict


def scope_of(run: Run, flow: Flow, caller: str) -> Scope:
    """For steps of the run's own runbook (`caller` ""), or of the one that a step calls."""
    runbook: Runbook = flow.runbook
    given = run.created.parameters
    if caller:
        called = run.called.get(caller)
        if called is None:
            return {}
        runbook, given = flow.called[called.runbook], called.parameters
    values: dict[str, Value] = dict(judge_parameters(runbook, given, drill=flow.drill).values)
    prefix = f"{caller}/" if caller else ""
    for (phase, name), progress in run.steps.items():
        flat = flow.steps.get(name)
        if phase is Phase.FORWARD and flat is not None and flat.caller == caller:
            values[name.removeprefix(prefix)] = _value(progress, isinstance(flat.step.what, Act))
    return values


def _value(step: StepProgress, acted: bool) -> Known:
    if acted and step.state is not StepState.SKIPPED:
        results = {host: tries[-1].result() for host, tries in step.attempts.items() if tries}
        return step_value(results)
    match step.state:
        case StepState.OK:
            return plain_value(True)
        case StepState.FAILED:
            return plain_value(False)
        case _:
            return plain_value(None if step.verdict is None else step.verdict is Verdict.TRUE)
