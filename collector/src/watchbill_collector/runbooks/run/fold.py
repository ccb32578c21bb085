"""A run from its rows: each row changes it in one way, and nothing else does."""

from collections.abc import Iterable
from typing import Final

from watchbill.actions.definition import Effect
from watchbill.actions.order import Purpose
from watchbill_collector.runbooks.run import rows as row
from watchbill_collector.runbooks.run.progress import Attempt, FreshRound, GateProgress, Run, StepProgress
from watchbill_collector.runbooks.run.words import (
    ENDED,
    LAPSED,
    REFUSED,
    AttemptState,
    Phase,
    RunState,
    RunVerb,
    StepState,
    Verdict,
)

_WAITS: Final = frozenset({RunState.WAITING, RunState.HELD})


def begin(run_id: str, first: row.AnyRow, at_ms: int) -> Run:
    """A run from its first row."""
    assert isinstance(first, row.Created), "a journal begins with its run"
    run = Run(run_id, first, created_ms=at_ms, requester=first.requester)
    run.n, run.changed_ms = 1, at_ms
    run.state = RunState.PROPOSED if first.proposed else RunState.QUEUED
    run.queued_ms = 0 if first.proposed else at_ms
    return run


def fold(run_id: str, rows: Iterable[tuple[int, row.AnyRow]]) -> Run | None:
    """A run from all its rows with their times; None for none."""
    run: Run | None = None
    for at_ms, one in rows:
        if run is None:
            run = begin(run_id, one, at_ms)
        else:
            apply(run, at_ms, one)
    return run


def apply(run: Run, at_ms: int, one: row.AnyRow) -> None:
    """One row more."""
    run.n += 1
    run.changed_ms = at_ms
    match one:
        case row.Intent():
            _intend(run, at_ms, one)
        case row.Sent() | row.Unsent() | row.Accepted() | row.CancelSent() | row.Probed():
            _attempt_goes_on(run, at_ms, one)
        case row.Result() | row.Refused() | row.Lapsed() | row.Lost():
            _attempt_ends(run, at_ms, one)
        case row.State():
            _turn(run, at_ms, one)
        case row.PhaseBegan():
            run.phase, run.ending, run.ending_detail = Phase(one.phase), RunState(one.ending), one.detail
            run.fresh = None
        case row.Resumed():
            run.resumed_n = run.stale_n = run.n
            run.epoch = one.epoch
        case row.Operator():
            _obey(run, at_ms, one)
        case row.Unasked():
            run.unasked[one.key] = (at_ms, one)
        case row.Refresh():
            run.fresh = FreshRound(one.round, one.steps, one.for_step, run.n)
            run.rounds = max(run.rounds, one.round)
            run.rounds_for[one.for_step] = run.rounds_for.get(one.for_step, 0) + 1
        case row.Refreshed():
            run.fresh = None
            run.fresh_failed = None if one.ok else (one.step, one.why)
        case row.Recovered():
            run.recovered_ms = run.recovered_ms or at_ms
        case _:
            _step_goes_on(run, at_ms, one)


def _turn(run: Run, at_ms: int, one: row.State) -> None:
    run.state, run.detail, run.held_step = RunState(one.state), one.detail, one.step
    if run.state in _WAITS:
        run.stale_n = run.n
    if run.state is RunState.QUEUED:
        run.queued_ms = run.queued_ms or at_ms
    elif run.state not in ENDED and not run.started_ms:
        run.started_ms = at_ms
    if run.state in ENDED:
        run.ended_ms = at_ms


# ---------------------------------------------------------------- steps


def _progress(run: Run, step_id: str, phase: Phase) -> StepProgress:
    return run.steps.setdefault((phase, step_id), StepProgress(step_id, phase))


def _step_goes_on(run: Run, at_ms: int, one: row.AnyRow) -> None:
    match one:
        case row.StepBegan():
            step = _progress(run, one.step, Phase(one.phase))
            step.state, step.began_ms, step.began_n = StepState.RUNNING, at_ms, run.n
            step.targets, step.waves, step.max_failures = one.targets, one.waves, one.max_failures
        case row.StepEnded():
            step = _progress(run, one.step, Phase(one.phase))
            step.state, step.detail, step.noted = StepState(one.state), one.detail, one.noted
            step.ended_ms = at_ms
            step.began_ms = step.began_ms or at_ms
        case row.Called():
            run.called[one.step] = one
        case row.Judged():
            step = _progress(run, one.step, Phase.FORWARD)
            step.verdict, step.verdict_text, step.verdict_round = Verdict(one.verdict), one.text, one.round
            step.verdict_n = run.n
            step.verdicts += 1
            if step.verdict is not Verdict.TRUE:
                step.timers.pop(("hold", ""), None)
        case row.Timer():
            step = _progress(run, one.step, Phase(one.phase))
            step.timers[one.what, one.host] = (one.at_ms, run.n)
            run.stale_n = run.n
        case row.Notified():
            _progress(run, one.step, Phase.FORWARD).notified_n = run.n
        case row.GateOpened():
            _progress(run, one.step, Phase.FORWARD).gate = GateProgress(one, at_ms, opened_n=run.n)
        case row.Voted() | row.GateClosed() | row.VotesVoided():
            _gate_goes_on(run, at_ms, one)
        case _:
            raise AssertionError(f"a row of an unexpected kind: {row.kind_of(one)}")


def _gate_goes_on(run: Run, at_ms: int, one: "row.Voted | row.GateClosed | row.VotesVoided") -> None:
    if isinstance(one, row.VotesVoided):
        for step in run.steps.values():
            if step.gate is not None:
                step.gate.voided[one.person] = one.why
        return
    gate = _progress(run, one.step, Phase.FORWARD).gate
    assert gate is not None, "a gate is opened first"
    if isinstance(one, row.Voted):
        gate.votes.append((at_ms, one))
        # Only what he had said before is void.
        gate.voided.pop(one.person, None)
    else:
        gate.closed, gate.closed_ms = one, at_ms
        run.stale_n = run.n


def _obey(run: Run, at_ms: int, one: row.Operator) -> None:
    run.stale_n = run.n
    run.fresh_failed = None
    match RunVerb(one.verb):
        case RunVerb.START:
            run.requester = one.person
        case RunVerb.ABORT:
            run.aborts += 1
        case RunVerb.UNDO:
            pass
        case RunVerb.RETRY:
            _try_again(run, one.step)
        case RunVerb.SKIP:
            _decide_step(run, at_ms, one, StepState.SKIPPED)
        case RunVerb.MARK_DONE:
            _decide_step(run, at_ms, one, StepState.OK)


def _try_again(run: Run, step_id: str) -> None:
    run.rounds_for.clear()
    forward = run.steps.get((Phase.FORWARD, step_id))
    # Gates are there once for all phases.
    is_gate = forward is not None and forward.gate is not None
    step = forward if is_gate else run.steps.get((run.phase, step_id))
    if step is None:
        return  # It had not begun.
    step.ended_ms, step.detail, step.noted, step.verdict = 0, "", False, None
    step.timers.clear()
    step.gate = None
    step.again, step.again_in = True, run.phase
    # It begins anew, with the hosts and actions as they are now; on hosts where it went well it is not done again.
    step.state = StepState.PENDING
    for host, tries in step.attempts.items():
        if tries and not tries[-1].ok:
            step.retried[host] = len(tries)


def _decide_step(run: Run, at_ms: int, one: row.Operator, state: StepState) -> None:
    step = _progress(run, one.step, run.phase)
    step.state, step.noted, step.by = state, False, one.person
    step.detail = f"{one.verb} by {one.person}: {one.reason}"
    step.began_ms, step.ended_ms = step.began_ms or at_ms, at_ms


# ---------------------------------------------------------------- attempts


def _intend(run: Run, at_ms: int, one: row.Intent) -> None:
    phase = Phase(one.phase)
    step = _progress(run, one.step, phase)
    target = next((found for found in step.targets if found.host == one.host), None)
    attempt = Attempt(
        key=one.key,
        step=one.step,
        phase=phase,
        host=one.host,
        agent=one.agent,
        number=one.attempt,
        purpose=one.purpose,
        action=one.action,
        digest=one.digest,
        effect=Effect(one.effect),
        arguments=one.arguments,
        not_after_ms=one.not_after_ms,
        at_ms=at_ms,
        n=run.n,
        ledger=one.ledger,
        commit=one.commit,
        gate=one.gate,
        probes=one.probes,
        round=one.round,
        output_kind=one.output,
        timeout_s=target.timeout_s if target is not None and not one.probes else one.timeout_s,
    )
    run.keys[one.key] = attempt
    run.open_keys[one.key] = None
    place = (one.purpose, one.step, one.host)
    run.counts[place] = max(run.counts.get(place, 0), one.attempt)
    if one.probes:
        step.probes.setdefault(one.probes, []).append(attempt)
    else:
        step.attempts.setdefault(one.host, []).append(attempt)
        step.timers.pop(("retry", one.host), None)
    if one.commit and attempt.purpose == Purpose.STEP.value:
        run.committed = True


def _attempt_goes_on(
    run: Run, at_ms: int, one: "row.Sent | row.Unsent | row.Accepted | row.CancelSent | row.Probed"
) -> None:
    attempt = run.keys[one.key]
    match one:
        case row.Sent():
            attempt.state, attempt.sent_ms = AttemptState.SENT, at_ms
        case row.Unsent():
            attempt.state, attempt.unsent_ms = AttemptState.INTENDED, at_ms
        case row.Accepted():
            attempt.state, attempt.accepted_ms = AttemptState.ACCEPTED, at_ms
            attempt.ledger, attempt.boot, attempt.approvers = one.ledger, one.boot, tuple(one.approvers)
            run.open_keys[one.key] = None
            run.unknown_keys.pop(one.key, None)
        case row.CancelSent():
            attempt.cancelled_ms = at_ms
        case row.Probed():
            attempt.probed = Verdict(one.happened)


def _attempt_ends(run: Run, at_ms: int, one: "row.Result | row.Refused | row.Lapsed | row.Lost") -> None:
    attempt = run.keys[one.key]
    attempt.done_ms = at_ms
    run.open_keys.pop(one.key, None)
    if isinstance(one, row.Lost):
        attempt.state, attempt.detail, attempt.free_ms = AttemptState.UNKNOWN, one.why, one.free_ms
        if not attempt.probes:
            run.unknown_keys[one.key] = None
        return
    run.unknown_keys.pop(one.key, None)
    attempt.state = AttemptState.FINISHED
    match one:
        case row.Result():
            attempt.outcome, attempt.detail = one.outcome, one.detail
            attempt.exit_code = one.exit_code
            attempt.started_ms, attempt.ended_ms = one.started_ms, one.ended_ms
            attempt.output, attempt.errors, attempt.whole = one.output, one.errors, one.whole
        case row.Refused():
            attempt.outcome, attempt.detail = REFUSED, f"{one.reason}: {one.detail}"
            attempt.refused = one.reason
        case row.Lapsed():
            attempt.outcome, attempt.detail = LAPSED, one.why
