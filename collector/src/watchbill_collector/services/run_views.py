"""Runs as people see them: a run with its steps, attempts and votes; rows of its journal."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from watchbill.actions.outcomes import Outcome
from watchbill_collector.api.ports import at
from watchbill_collector.api.runbook_port import (
    AttemptView,
    JournalRow,
    RunState,
    RunView,
    StepView,
    VoteView,
    exit_code,
)
from watchbill_collector.runbooks.fleet import Fleet
from watchbill_collector.runbooks.model import Gate
from watchbill_collector.runbooks.planning import kind_of
from watchbill_collector.runbooks.run.flow import FlatStep, Flow
from watchbill_collector.runbooks.run.gates import tally
from watchbill_collector.runbooks.run.heard import TAKEN_UP
from watchbill_collector.runbooks.run.progress import Attempt, GateProgress, Run, StepProgress
from watchbill_collector.runbooks.run.words import REFUSED, AttemptState, Phase, StepState, Verdict
from watchbill_collector.runbooks.run.world import World
from watchbill_collector.store.runs import JournalRow as StoredRow
from watchbill_collector.store.runs import RunSummary

ATTEMPTS_SHOWN_MAX: Final = 2_000
"""Of one step; the newest."""
UNASKED: Final = "unasked"
"""In the place of a purpose: not ours."""
_DETAIL_LEFT_OUT: Final = frozenset({"row", "step", "host", "person"})


def run_view(run: Run, flow: Flow, world: World, now_ms: int) -> RunView:
    """One run with everything that there is to see of it."""
    steps = [
        _step_view(run, one, run.step(one.id), world, now_ms)
        for unit in flow.units
        if not unit.ends_call
        for one in ((unit.head, *unit.steps) if unit.parallel else unit.steps)
    ]
    steps += [_cleanup_view(run, name, world) for name, _ in flow.cleanup()]
    created = run.created
    return RunView(
        id=run.run_id,
        runbook=created.runbook,
        digest=created.digest,
        state=run.state,
        state_detail=run.detail,
        drill=created.drill,
        requester=run.requester,
        reason=created.reason,
        trigger=created.trigger,
        parameters=created.parameters,
        lock=created.lock,
        created=at(run.created_ms),
        started=_moment(run.started_ms),
        ended=_moment(run.ended_ms),
        recovered=_moment(run.recovered_ms),
        recovery_s=(run.recovered_ms - run.created_ms) / 1000 if run.recovered_ms else None,
        rto_s=created.rto_ms / 1000,
        steps=steps,
        exit_code=exit_code(run.state, for_approval=asks_people(run)),
    )


def listed(summary: RunSummary, rto_s: float) -> RunView:
    """A run as lists show it: without its steps."""
    state = RunState(summary.state)
    return RunView(
        id=summary.run_id,
        runbook=summary.runbook,
        digest=summary.digest,
        state=state,
        state_detail=summary.state_detail,
        drill=summary.drill,
        requester=summary.requester,
        reason=summary.reason,
        trigger=summary.trigger,
        parameters=summary.parameters,
        lock=summary.lock_name,
        created=at(summary.created_ms),
        started=_moment(summary.started_ms),
        ended=_moment(summary.ended_ms),
        recovered=_moment(summary.recovered_ms),
        recovery_s=(summary.recovered_ms - summary.created_ms) / 1000 if summary.recovered_ms else None,
        rto_s=rto_s,
        steps=(),
        exit_code=exit_code(state, for_approval="to agree" in summary.state_detail),
    )


def asks_people(run: Run) -> bool:
    """Whether a gate of it is open."""
    return any(step.gate is not None and step.gate.closed is None for step in run.steps.values())


def _step_view(run: Run, flat: FlatStep, step: StepProgress, world: World, now_ms: int) -> StepView:
    undo = run.steps.get((Phase.UNDO, flat.id))
    gate = flat.step.what if isinstance(flat.step.what, Gate) else None
    progress = step.gate
    is_open = progress is not None and progress.closed is None
    return StepView(
        id=flat.id,
        kind=kind_of(flat.step),
        state=_word(run, step, undo),
        detail=_detail(run, step),
        started=_moment(step.began_ms),
        ended=_moment(step.ended_ms),
        attempts=[
            *_attempts([step] if undo is None else [step, undo], world.fleet),
            *_unasked(run, flat.id, world.fleet),
        ],
        role=gate.role if gate is not None else "",
        needed=gate.count if gate is not None else 0,
        votes=_votes(run, progress, world, now_ms) if progress is not None else (),
        manifest=progress.opened.manifest if progress is not None and is_open else "",
        manifest_digest=progress.opened.digest if progress is not None and is_open else "",
        gate_expires=at(progress.opened.expires_ms) if progress is not None and is_open else None,
        verified_on_host=progress is not None and progress.opened.on_host,
    )


def _cleanup_view(run: Run, name: str, world: World) -> StepView:
    step = run.step(name, Phase.CLEANUP)
    return StepView(
        id=name,
        kind="cleanup",
        state=_word(run, step, None),
        detail=_detail(run, step),
        started=_moment(step.began_ms),
        ended=_moment(step.ended_ms),
        attempts=_attempts([step], world.fleet),
        role="",
        needed=0,
        votes=(),
        manifest="",
        manifest_digest="",
        gate_expires=None,
        verified_on_host=False,
    )


def _word(run: Run, step: StepProgress, undo: StepProgress | None) -> str:
    """What a step does, in one word."""
    if undo is not None and undo.state is StepState.OK:
        return "undone"
    if step.state in {StepState.OK, StepState.SKIPPED}:
        return step.state.value
    if any(_unknown(step.newest(host)) for host in step.attempts):
        return "unknown"
    if run.state is RunState.HELD and run.held_step == step.id:
        return "held"
    if step.state is StepState.RUNNING and step.gate is not None and step.gate.closed is None:
        return "waiting"
    if step.state is StepState.RUNNING and run.state is RunState.WAITING:
        return "waiting"
    return step.state.value


def _unknown(attempt: Attempt | None) -> bool:
    return (
        attempt is not None and attempt.state is AttemptState.UNKNOWN and attempt.probed is not Verdict.TRUE
    )


def _detail(run: Run, step: StepProgress) -> str:
    if step.detail:
        return step.detail
    if run.state is RunState.HELD and run.held_step == step.id:
        return run.detail
    return f"{step.verdict_text} is {step.verdict.value}" if step.verdict is not None else ""


def _attempts(steps: Sequence[StepProgress], fleet: Fleet) -> list[AttemptView]:
    found = [one for step in steps for tries in step.attempts.values() for one in tries]
    found += [one for step in steps for probes in step.probes.values() for one in probes]
    found.sort(key=lambda one: one.n)
    return [_attempt(one, fleet) for one in found[-ATTEMPTS_SHOWN_MAX:]]


def _attempt(one: Attempt, fleet: Fleet) -> AttemptView:
    host = fleet.host(one.host)
    action = None if host is None or host.actions is None else host.actions.get(one.action)
    same = action is not None and action.digest() == one.digest
    known = one.started_ms or one.accepted_ms
    return AttemptView(
        host=one.host,
        attempt=one.number,
        key=one.key,
        purpose=one.purpose,
        state=one.state.value,
        outcome=Outcome.OK.value if one.ok else one.outcome,
        exit_code=one.exit_code,
        started=_moment(known),
        ended=_moment(one.ended_ms or one.done_ms),
        argv=action.command_line(one.arguments) if action is not None and same else (),
        output=one.output,
        errors=one.errors,
        detail=one.detail,
    )


def _unasked(run: Run, step: str, fleet: Fleet) -> list[AttemptView]:
    """What a host refused or took up in this run's name that this collector never ordered."""
    names = {host.agent: host.name for host in fleet.hosts.values()}
    return [
        AttemptView(
            host=names.get(one.agent, one.agent),
            attempt=0,
            key=one.key,
            purpose=UNASKED,
            state=(AttemptState.UNKNOWN if one.reason == TAKEN_UP else AttemptState.FINISHED).value,
            outcome="" if one.reason == TAKEN_UP else REFUSED,
            exit_code=None,
            started=None,
            ended=_moment(at_ms),
            argv=(),
            output="",
            errors="",
            detail=f"{one.reason}: {one.detail}; this collector did not order it",
        )
        for at_ms, one in run.unasked.values()
        if one.step == step
    ]


def _votes(run: Run, gate: GateProgress, world: World, now_ms: int) -> list[VoteView]:
    found = tally(run, gate, world, now_ms)
    newest = {vote.person: (at_ms, vote) for at_ms, vote in gate.votes}
    # What was counted when the gate closed stays so, whoever has left since.
    agreed = found.agreed if gate.closed is None else frozenset(gate.closed.people)
    return [
        VoteView(
            person=person,
            approve=vote.approve,
            at=at(at_ms),
            counted=person in agreed or person == found.denied,
            why_not="" if person in agreed or person == found.denied else found.left_out.get(person, ""),
            comment=vote.comment,
        )
        for person, (at_ms, vote) in newest.items()
    ]


def journal_row(row: StoredRow) -> JournalRow:
    """A row of a journal, for people."""
    body: Mapping[str, object] = row.document()
    return JournalRow(
        n=row.n,
        at=at(row.at_ms),
        kind=row.kind,
        step=str(body.get("step", "")),
        host=str(body.get("host", "")),
        actor=str(body.get("person", body.get("requester", ""))),
        detail={name: value for name, value in body.items() if name not in _DETAIL_LEFT_OUT},
        hash=row.hash.hex(),
    )


def _moment(at_ms: int) -> datetime | None:
    return at(at_ms) if at_ms else None
