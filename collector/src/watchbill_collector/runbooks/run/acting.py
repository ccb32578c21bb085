"""Steps that run an action: on all their hosts, wave after wave, until each is well or one too many is not."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Final

import msgspec

from watchbill.actions.definition import Effect
from watchbill.actions.order import Refusal
from watchbill_collector.runbooks.expression_parser import BadExpression, parse
from watchbill_collector.runbooks.model import HOSTS_MAX, Act, Step
from watchbill_collector.runbooks.outputs import happened
from watchbill_collector.runbooks.resolving import Bound, waves
from watchbill_collector.runbooks.run import slots
from watchbill_collector.runbooks.run.commands import intent, probe, shorten
from watchbill_collector.runbooks.run.flow import FlatStep, Flow
from watchbill_collector.runbooks.run.gates import covers, is_done, left, resolve_act
from watchbill_collector.runbooks.run.progress import Attempt, Run, StepProgress
from watchbill_collector.runbooks.run.rows import Intent, Probed, Row, StepBegan, Target, Timer
from watchbill_collector.runbooks.run.slots import Next, Slot
from watchbill_collector.runbooks.run.words import Phase, Verdict
from watchbill_collector.runbooks.run.world import DETAIL_MAX, World

TARGETS_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of a step's hosts with their arguments: they are one row of the journal."""


class Came(Enum):
    """What came of a step."""

    GOES_ON = "goes on"
    OK = "ok"
    FAILED = "failed"
    STUCK = "stuck"
    """A person decides, whatever the step says of failures."""


@dataclass(slots=True)
class Acted:
    """What came of looking at a step: rows, or what it waits for, or its end."""

    came: Came = Came.GOES_ON
    detail: str = ""
    rows: list[Row] = field(default_factory=list)
    wake_ms: int | None = None
    waiting: str = ""
    effect: bool = False
    """The rows intend an effect: premises have to be fresh, and nothing paused."""

    def wake(self, at_ms: int) -> None:
        """Look again then."""
        self.wake_ms = at_ms if self.wake_ms is None else min(self.wake_ms, at_ms)


# ---------------------------------------------------------------- beginning


def begin(
    run: Run, flow: Flow, name: str, phase: Phase, flat: FlatStep | None, act: Act, world: World
) -> StepBegan | str:
    """The row that begins a step, with all its hosts and arguments; or why it cannot."""
    resolved = resolve_act(run, flow, flat, act, world)
    if resolved.unbound:
        return "; ".join(f"{one.host or act.action}: {one.message}" for one in resolved.unbound[:5])[
            :DETAIL_MAX
        ]
    if not resolved.bound:
        return f"{act.action}: no host"
    if len(resolved.bound) > HOSTS_MAX:
        return f"{act.action}: {len(resolved.bound)} hosts, at most {HOSTS_MAX}"
    targets = [_target(one) for one in resolved.bound]
    if len(msgspec.json.encode(targets)) > TARGETS_BYTES_MAX:
        return f"{act.action}: its arguments on {len(targets)} hosts are more than {TARGETS_BYTES_MAX} bytes"
    fault = _limited(run, flow, targets) or _disagreed(run, flow, name, phase, targets)
    if fault:
        return fault
    groups = waves(act.on, targets)
    strongest = max(list(Effect).index(Effect(one.effect)) for one in targets)
    return StepBegan(
        step=name,
        phase=phase.value,
        targets=targets,
        waves=[len(group) for group in groups],
        max_failures=act.on.max_failures,
        effect=list(Effect)[strongest].value,
    )


def _target(bound: Bound) -> Target:
    action = bound.action
    return Target(
        host=bound.host.name,
        agent=bound.host.agent,
        action=action.name,
        digest=action.digest(),
        effect=action.effect.value,
        arguments=dict(bound.arguments),
        output=action.output,
        timeout_s=action.timeout_s,
        probe=action.probe,
        done_when=action.done_when,
        approvals=action.needs.approvals,
        role=action.needs.role,
    )


def _limited(run: Run, flow: Flow, targets: Sequence[Target]) -> str:
    """Why a run may not change something on so many hosts, or ""."""
    most = flow.runbook.limits.hosts
    if not most:
        return ""
    touched = {
        target.host
        for step in run.steps.values()
        for target in step.targets
        if target.effect != Effect.READ.value
    }
    touched |= {target.host for target in targets if target.effect != Effect.READ.value}
    return f"it would change {len(touched)} hosts, limits.hosts is {most}" if len(touched) > most else ""


def _disagreed(run: Run, flow: Flow, name: str, phase: Phase, targets: Sequence[Target]) -> str:
    """Why something protected may not run: nobody was asked for exactly this. Hosts would refuse it, too."""
    for target in targets:
        if not target.approvals or is_done(run.step(name, phase), target.host):
            continue
        gate = gate_of(flow, name, phase, target)
        progress = run.step(gate).gate if gate else None
        if progress is None or progress.closed is None or not progress.closed.passed:
            return f"{target.action} on {target.host} needs {target.approvals} of {target.role} to agree, and none did"
        if not covers(progress, name, target):
            return (
                f"{target.action} on {target.host} is not what was agreed to at {gate}: it has changed since"
            )
    return ""


def gate_of(flow: Flow, name: str, phase: Phase, target: Target) -> str:
    """The gate at which a protected effect is agreed to, "" for none."""
    if not target.approvals:
        return ""
    position = len(flow.units) if phase is Phase.CLEANUP else flow.position.get(name, 0)
    return flow.covering_gate(position, target.approvals, target.role)


def used_up(run: Run, flow: Flow, step: StepProgress, target: Target) -> str:
    """The gate whose agreement lets something begin no more on this host, as we count or as the host says, or to which
    nobody agreed; "" for none."""
    name = gate_of(flow, step.id, step.phase, target)
    gate = run.step(name).gate if name else None
    if gate is None or gate.closed is None or is_done(step, target.host):
        return ""
    newest = step.newest(target.host)
    said = newest is not None and newest.refused == Refusal.SPENT.value and newest.n > gate.opened_n
    if said or not gate.closed.passed:
        return name
    more = left(run, gate, step.id, target)
    return name if more is not None and more < 1 else ""


# ---------------------------------------------------------------- going on


def go_on(
    run: Run,
    flow: Flow,
    step: StepProgress,
    what: Step | None,
    world: World,
    now_ms: int,
    *,
    number: int = 0,
) -> Acted:
    """What a step that began needs now, in itself or in a round of fresh premises."""
    acted = Acted()
    found = [
        (target, slots.judge(step, what, target, number, world.connected(target.agent), now_ms))
        for target in step.targets
    ]
    found = _rationed(run, flow, step, found)
    failed = [slot for _, slot in found if slot.next is Next.FAILED]
    stuck = [slot for _, slot in found if slot.next is Next.STUCK]
    over = bool(stuck) or len(failed) > step.max_failures
    for target, slot in _wave(step, found):
        _serve(run, flow, step, what, target, slot, world, now_ms, acted, over, number)
    if acted.rows:
        return acted
    busy = any(slot.next is Next.BUSY for _, slot in found)
    if busy:
        return acted
    if stuck:
        acted.came, acted.detail = Came.STUCK, _shown(stuck)
    elif over:
        acted.came, acted.detail = Came.FAILED, _shown(failed)
    elif all(slot.next in {Next.OK, Next.FAILED} for _, slot in found):
        acted.came = Came.OK
        acted.detail = f"{len(failed)} of {len(found)} hosts failed: {_shown(failed)}" if failed else ""
    return acted


def _rationed(
    run: Run, flow: Flow, step: StepProgress, found: list[tuple[Target, Slot]]
) -> list[tuple[Target, Slot]]:
    """Those whose turn it is and that would begin once more than people agreed to are stuck: a person's retry asks."""
    spent: dict[str, str] = {}
    for target, slot in _wave(step, found):
        if target.approvals and slot.next in {Next.BEGIN, Next.TIMER}:
            gate = used_up(run, flow, step, target)
            if gate:
                spent[target.host] = gate
    if not spent:
        return found
    return [
        (target, _spent(target, slot, spent[target.host]) if target.host in spent else slot)
        for target, slot in found
    ]


def _spent(target: Target, slot: Slot, gate: str) -> Slot:
    why = f"{target.action} on {target.host} has begun as often as was agreed to at {gate}; retry asks again"
    return Slot(Next.STUCK, f"{slot.detail}; {why}" if slot.detail else why, attempt=slot.attempt)


def _wave(step: StepProgress, found: list[tuple[Target, Slot]]) -> list[tuple[Target, Slot]]:
    """Those whose turn it is: the first wave in which not all have ended."""
    edges = [0]
    for size in step.waves:
        edges.append(edges[-1] + size)
    for start, end in pairwise(edges):
        wave = found[start:end]
        if not all(slot.next in {Next.OK, Next.FAILED, Next.STUCK} for _, slot in wave):
            return wave
    return []


def _serve(
    run: Run,
    flow: Flow,
    step: StepProgress,
    what: Step | None,
    target: Target,
    slot: Slot,
    world: World,
    now_ms: int,
    acted: Acted,
    over: bool,
    number: int,
) -> None:
    match slot.next:
        case Next.BEGIN if not over:
            acted.rows.append(_begin(run, flow, step, what, target, world, now_ms, number))
            acted.effect = acted.effect or target.effect != Effect.READ.value
        case Next.TIMER if not over:
            acted.rows.append(
                Timer(step=step.id, what="retry", at_ms=slot.at_ms, host=target.host, phase=step.phase.value)
            )
        case Next.PROBE:
            assert slot.attempt is not None
            asked = probe(run, slot.attempt, target, world, now_ms)
            if isinstance(asked, Intent):
                acted.rows.append(asked)
            else:
                acted.rows.append(_told(slot.attempt, "", Verdict.UNKNOWN))
        case Next.PROBED:
            assert slot.attempt is not None
            acted.rows.append(_happened(step, slot.attempt, target))
        case Next.WAIT:
            acted.wake(slot.at_ms)
            acted.waiting = acted.waiting or slot.detail
        case _:
            pass


def _begin(
    run: Run,
    flow: Flow,
    step: StepProgress,
    what: Step | None,
    target: Target,
    world: World,
    now_ms: int,
    number: int,
) -> Intent:
    made = intent(run, step.id, step.phase, target, world, now_ms, number=number)
    return msgspec.structs.replace(
        made,
        commit=bool(what is not None and what.commit and step.phase is Phase.FORWARD and not number),
        gate=gate_of(flow, step.id, step.phase, target),
        not_after_ms=shorten(what.timeout_s if what is not None else 0, made.not_after_ms, now_ms),
    )


def _happened(step: StepProgress, attempt: Attempt, target: Target) -> Probed:
    asked = step.probes[attempt.key][-1]
    try:
        said = happened(parse(target.done_when), asked.result().out)
    except BadExpression:
        return _told(attempt, asked.key, Verdict.UNKNOWN)
    if said is True:
        return _told(attempt, asked.key, Verdict.TRUE)
    return _told(attempt, asked.key, Verdict.FALSE if said is False else Verdict.UNKNOWN)


def _told(attempt: Attempt, asked: str, verdict: Verdict) -> Probed:
    return Probed(key=attempt.key, probe=asked, happened=verdict.value)


def _shown(found: Sequence[Slot]) -> str:
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ("; ".join(slot.detail for slot in found[:3]) + more)[:DETAIL_MAX]
