"""Steps that run nothing: checks, gates, messages, calls."""

from datetime import UTC, datetime

from watchbill_collector.runbooks.expression import Scope
from watchbill_collector.runbooks.expressions import evaluate, show, truth
from watchbill_collector.runbooks.model import Call, Check, Gate, Notify
from watchbill_collector.runbooks.resolving import call_parameters
from watchbill_collector.runbooks.run.acting import Acted, Came
from watchbill_collector.runbooks.run.flow import FlatStep, Flow
from watchbill_collector.runbooks.run.gates import opening, tally
from watchbill_collector.runbooks.run.progress import Run, StepProgress
from watchbill_collector.runbooks.run.rows import (
    Called,
    GateClosed,
    Judged,
    Notified,
    StepBegan,
    Timer,
)
from watchbill_collector.runbooks.run.scope import scope_of
from watchbill_collector.runbooks.run.words import Phase, StepState, Verdict
from watchbill_collector.runbooks.run.world import DETAIL_MAX, POLL_MS, VERDICTS_MAX, Tell, World
from watchbill_collector.runbooks.templates import plain, render

SEEN_CHARACTERS_MAX = 400
"""Of each value that a verdict shows."""


def verdict_of(value: object) -> Verdict:
    """A truth in the words of the journal."""
    return Verdict.TRUE if value is True else Verdict.FALSE if value is False else Verdict.UNKNOWN


def judge_when(run: Run, flow: Flow, flat: FlatStep, world: World) -> tuple[Verdict, str]:
    """Whether a step is to be done at all."""
    when = flat.step.when
    if when is None:
        return Verdict.TRUE, ""
    value = truth(evaluate(when, scope_of(run, flow, flat.caller), world.facts))
    return verdict_of(value), when.text


def look(run: Run, flow: Flow, flat: FlatStep, world: World, number: int = 0) -> Judged:
    """What a check comes to now, with what it saw."""
    what = flat.step.what
    assert isinstance(what, Check), "a check"
    scope = scope_of(run, flow, flat.caller)
    verdict = verdict_of(truth(evaluate(what.condition, scope, world.facts)))
    return Judged(
        step=flat.id, verdict=verdict.value, text=show(what.condition), seen=_seen(what, scope), round=number
    )


def _seen(what: Check, scope: Scope) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in sorted(what.condition.names):
        value = scope.get(name)
        shown = value.get("out", value) if isinstance(value, dict) else value
        found[name] = "unknown" if name not in scope else plain(shown)[:SEEN_CHARACTERS_MAX]
    return found


def check(run: Run, flow: Flow, flat: FlatStep, step: StepProgress, world: World, now_ms: int) -> Acted:
    """A check that began. `within` it may become true; for `hold` it has to stay so, anew after every resumption."""
    what = flat.step.what
    assert isinstance(what, Check), "a check"
    acted = Acted()
    seen = look(run, flow, flat, world)
    verdict = Verdict(seen.verdict)
    changed = verdict is not step.verdict or step.verdict_n < step.began_n
    deadline = step.timers.get(("within", ""))
    if what.within_s and deadline is None and (verdict is not Verdict.TRUE or what.hold_s):
        acted.rows.append(Timer(step=flat.id, what="within", at_ms=now_ms + round(what.within_s * 1000)))
        if changed:
            acted.rows.append(seen)
        return acted
    over = deadline is None or now_ms >= deadline[0]
    if verdict is Verdict.TRUE:
        return _true(run, flat, step, what, seen, changed, over, now_ms)
    acted.detail = f"{seen.text} is {verdict.value}: {_told(seen)}"[:DETAIL_MAX]
    held = ("hold", "") in step.timers
    if over or (held and not what.within_s):
        acted.came = Came.FAILED
        if changed:
            acted.rows.append(seen)
        return acted
    if changed and step.verdicts < VERDICTS_MAX:
        acted.rows.append(seen)
    assert deadline is not None
    acted.waiting = f"{flat.id} waits for {seen.text}"
    acted.wake(min(deadline[0], now_ms + POLL_MS))
    return acted


def _true(
    run: Run,
    flat: FlatStep,
    step: StepProgress,
    what: Check,
    seen: Judged,
    changed: bool,
    over: bool,
    now_ms: int,
) -> Acted:
    acted = Acted()
    if not what.hold_s:
        acted.came, acted.rows = Came.OK, [seen] if changed else []
        return acted
    timer = step.timers.get(("hold", ""))
    if timer is None or timer[1] < run.resumed_n or changed:
        if over and what.within_s:
            acted.came = Came.FAILED
            acted.detail = f"{seen.text} became true too late to hold for {what.hold_s:g} s"
            return acted
        at_ms = now_ms + round(what.hold_s * 1000)
        acted.rows = [seen] if changed else []
        acted.rows.append(Timer(step=flat.id, what="hold", at_ms=at_ms))
        return acted
    if now_ms >= timer[0]:
        acted.came = Came.OK
        return acted
    acted.waiting = f"{flat.id} waits that {seen.text} stays true"
    acted.wake(min(timer[0], now_ms + POLL_MS))
    return acted


def _told(seen: Judged) -> str:
    return ", ".join(f"{name} = {value}" for name, value in seen.seen.items()) or "nothing is known"


def gate(run: Run, flow: Flow, flat: FlatStep, step: StepProgress, world: World, now_ms: int) -> Acted:
    """A gate: opened, waited for, closed."""
    acted = Acted()
    what = flat.step.what
    assert isinstance(what, Gate), "a gate"
    progress = step.gate
    if progress is None:
        opened = opening(run, flow, flat, world, now_ms)
        if isinstance(opened, str):
            acted.came, acted.detail = Came.FAILED, opened[:DETAIL_MAX]
        else:
            acted.rows.append(opened)
        return acted
    if progress.closed is not None:
        acted.came = Came.OK if progress.closed.passed else Came.FAILED
        acted.detail = progress.closed.why
        return acted
    opened = progress.opened
    found = tally(run, progress, world, now_ms)
    if found.denied:
        acted.rows.append(GateClosed(step=flat.id, passed=False, why=f"{found.denied} said no"))
    elif len(found.agreed) >= opened.count:
        people = sorted(found.agreed)
        acted.rows.append(
            GateClosed(step=flat.id, passed=True, why=f"{', '.join(people)} agreed", people=people)
        )
    elif now_ms >= opened.expires_ms:
        why = f"{len(found.agreed)} of {opened.count} of {opened.role} agreed in time"
        acted.rows.append(GateClosed(step=flat.id, passed=False, why=why))
    else:
        acted.wake(opened.expires_ms)
        acted.waiting = f"{flat.id} waits for {opened.count} of {opened.role} to agree"
    return acted


def tell(run: Run, flow: Flow, flat: FlatStep, step: StepProgress, world: World) -> tuple[Acted, Tell | None]:
    """A message: once handed over the run goes on. Who died between the two hands it over again."""
    what = flat.step.what
    assert isinstance(what, Notify), "a message"
    acted = Acted()
    if step.notified_n > max(run.resumed_n, step.began_n):
        acted.came = Came.OK
        return acted, None
    text = f"runbook {run.created.runbook}, run {run.run_id}: {flat.id}"
    if what.text is not None:
        value = render(what.text, scope_of(run, flow, flat.caller), world.facts)
        text = plain(value)
    acted.rows.append(Notified(step=flat.id, channel=what.channel, text=text[:DETAIL_MAX]))
    return acted, Tell(flat.id, what.channel, text[:DETAIL_MAX])


def call(run: Run, flow: Flow, flat: FlatStep, step: StepProgress, world: World) -> Acted:
    """A call: its parameters are fixed, then its steps follow."""
    acted = Acted()
    what = flat.step.what
    assert isinstance(what, Call), "a call"
    child = flow.called.get(what.runbook)
    if child is None:
        acted.came, acted.detail = Came.FAILED, f"there is no runbook {what.runbook} that this run could call"
        return acted
    if flat.id not in run.called or step.state is StepState.PENDING:
        scope = scope_of(run, flow, flat.caller)
        now = datetime.fromtimestamp(run.created_ms / 1000, UTC)
        judged = call_parameters(what, child, scope, world.facts, drill=flow.drill, now=now)
        if judged.problems:
            acted.came = Came.FAILED
            acted.detail = "; ".join(f"{name}: {why}" for name, why in judged.problems.items())[:DETAIL_MAX]
            return acted
        called = Called(step=flat.id, runbook=child.name, digest=child.digest, parameters=dict(judged.texts))
        acted.rows += [called, StepBegan(step=flat.id, phase=Phase.FORWARD.value)]
    return acted


def began(name: str) -> StepBegan:
    """The row that begins a step without hosts."""
    return StepBegan(step=name, phase=Phase.FORWARD.value)
