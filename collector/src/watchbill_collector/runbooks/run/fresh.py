"""Fresh premises: what was looked at before a wait is looked at again before the first effect after it."""

from watchbill.actions.definition import Effect
from watchbill_collector.runbooks.model import Act, Check
from watchbill_collector.runbooks.run.acting import Acted, Came, go_on
from watchbill_collector.runbooks.run.checking import look
from watchbill_collector.runbooks.run.flow import FlatStep, Flow
from watchbill_collector.runbooks.run.progress import Run, StepProgress
from watchbill_collector.runbooks.run.rows import Refresh, Refreshed
from watchbill_collector.runbooks.run.words import AttemptState, Phase, StepState, Verdict
from watchbill_collector.runbooks.run.world import DETAIL_MAX, FRESH_ROUNDS_MAX, World


def stale(run: Run, flow: Flow, position: int, for_step: str) -> Refresh | str | None:
    """The row that begins a round of looks before an effect at a position; None when all are fresh; or why there will
    be no more rounds."""
    premises = _premises(run, flow, position)
    if not any(run.step(one.id).looked_n < run.stale_n for one in premises):
        return None
    if run.rounds_for.get(for_step, 0) >= FRESH_ROUNDS_MAX:
        return f"what it depends on was looked at {FRESH_ROUNDS_MAX} times and was old again each time"
    return Refresh(round=run.rounds + 1, steps=[one.id for one in premises], for_step=for_step)


def took_effect(step: StepProgress) -> bool:
    """Whether a step has changed something, or could have: then it does not begin any more."""
    return any(
        one.may_have_run
        and (one.ok or one.open or (one.state is AttemptState.UNKNOWN and one.probed is not Verdict.FALSE))
        for tries in step.attempts.values()
        for one in tries
        if one.effect is not Effect.READ
    )


def _premises(run: Run, flow: Flow, position: int) -> list[FlatStep]:
    """Every read action and check since the last effect, in their order."""
    found: list[FlatStep] = []
    for unit in reversed(flow.units[:position]):
        if any(_changed(run.step(one.id)) for one in unit.steps):
            break
        found[:0] = [one for one in unit.steps if not unit.ends_call and _looks(run.step(one.id), one)]
    return found


def _changed(step: StepProgress) -> bool:
    return any(
        one.may_have_run and one.effect is not Effect.READ
        for tries in step.attempts.values()
        for one in tries
    )


def _looks(step: StepProgress, flat: FlatStep) -> bool:
    if step.state is not StepState.OK or step.by:
        return False  # What a person decided is not looked at again.
    if isinstance(flat.step.what, Check):
        return True
    return isinstance(flat.step.what, Act) and all(one.effect == Effect.READ.value for one in step.targets)


def go_through(run: Run, flow: Flow, world: World, now_ms: int) -> tuple[Acted, str]:
    """A round that began: what it needs now, and the step that does not hold any more, "" for none."""
    assert run.fresh is not None, "a round that began"
    acted = Acted()
    for name in run.fresh.steps:
        flat, step = flow.steps[name], run.step(name)
        if isinstance(flat.step.what, Check):
            if step.verdict_round != run.fresh.number:
                acted.rows.append(look(run, flow, flat, world, run.fresh.number))
                return acted, ""
            if step.verdict is not Verdict.TRUE:
                why = (
                    f"{step.verdict_text} does not hold any more: it is {step.verdict and step.verdict.value}"
                )
                return _over(run, name, why), name
            continue
        acted = go_on(run, flow, step, flat.step, world, now_ms, number=run.fresh.number)
        if acted.came in {Came.FAILED, Came.STUCK}:
            return _over(run, name, acted.detail), name
        if acted.came is not Came.OK:
            return acted, ""
    acted = Acted(came=Came.OK)
    acted.rows.append(Refreshed(round=run.fresh.number, ok=True))
    return acted, ""


def _over(run: Run, name: str, why: str) -> Acted:
    assert run.fresh is not None, "a round that began"
    acted = Acted(came=Came.FAILED, detail=why[:DETAIL_MAX])
    acted.rows.append(Refreshed(round=run.fresh.number, ok=False, step=name, why=acted.detail))
    return acted


def is_forward(phase: Phase) -> bool:
    """Only there are premises: what is undone or cleaned up was decided already."""
    return phase is Phase.FORWARD
