"""What hosts say of commands, as rows. What is known already makes none: events may come twice, late, in any order.

A host's word about a command counts as long as its ledger is the one that took the command up. Another ledger cannot
know, so nobody does; and after another boot nothing is running that was before.
"""

from typing import Final

from watchbill.actions.order import Refusal
from watchbill.actions.outcomes import Accepted, Finished, Outcome, States
from watchbill.actions.outcomes import Refused as HostRefused
from watchbill.actions.outcomes import State as LedgerState
from watchbill_collector.runbooks.run import rows as row
from watchbill_collector.runbooks.run.progress import Attempt, Run
from watchbill_collector.runbooks.run.words import AttemptState
from watchbill_collector.runbooks.run.world import MARGIN_MS, Move, Send

Event = Accepted | Finished | HostRefused
UNASKED_MAX: Final = 50
"""Of a run; the audit has every one that was refused."""
TAKEN_UP: Final = "accepted"
"""In the place of a refusal's word."""


def heard(run: Run, agent: str, event: Event) -> list[row.Row]:
    """Rows for an event of a host. One for a key that is not this run's, or not this host's, is none of ours; that it
    was taken up or refused is noted all the same, for then somebody else orders in the run's name."""
    attempt = run.keys.get(event.key)
    if attempt is None:
        return _unasked(run, agent, event)
    if attempt.agent != agent:
        return []
    match event:
        case Accepted():
            return _accepted(attempt, event)
        case Finished():
            return _finished(attempt, event)
        case _:
            return _refused(attempt, event)


def _accepted(attempt: Attempt, event: Accepted) -> list[row.Row]:
    if attempt.state not in {AttemptState.INTENDED, AttemptState.SENT, AttemptState.UNKNOWN}:
        return []
    return [
        row.Accepted(
            key=event.key,
            ledger=event.ledger,
            boot=event.boot,
            host_ms=event.at_ms,
            approvers=list(event.approvers),
        )
    ]


def _finished(attempt: Attempt, event: Finished) -> list[row.Row]:
    if attempt.state is AttemptState.FINISHED:
        return []
    if event.outcome is Outcome.INTERRUPTED:
        if attempt.state is AttemptState.UNKNOWN:
            return []
        why = f"it began and was interrupted{': ' + event.detail if event.detail else ''}"
        return [row.Lost(key=event.key, why=why)]
    return [
        row.Result(
            key=event.key,
            outcome=event.outcome.value,
            exit_code=event.exit_code,
            signal=event.signal,
            started_ms=event.started_ms,
            ended_ms=event.ended_ms,
            output=event.output,
            errors=event.errors,
            whole=event.whole,
            output_bytes=event.output_bytes,
            output_digest=event.output_digest,
            detail=event.detail,
        )
    ]


def _refused(attempt: Attempt, event: HostRefused) -> list[row.Row]:
    # A refusal of the same command after it was taken up tells of a second copy, not of the first.
    if attempt.state not in {AttemptState.INTENDED, AttemptState.SENT}:
        return []
    if event.reason is Refusal.COUNTER:
        # Said by a ledger that was made after the order, too: what the one before it did, nobody can tell.
        why = f"its host refuses it as an old one: {event.detail}"
        free_ms = attempt.not_after_ms + MARGIN_MS
        return [row.Lost(key=event.key, why=why, free_ms=free_ms)]
    return [row.Refused(key=event.key, reason=event.reason.value, detail=event.detail)]


def _unasked(run: Run, agent: str, event: Event) -> list[row.Row]:
    if not event.key or event.key in run.unasked or len(run.unasked) >= UNASKED_MAX:
        return []
    match event:
        case Accepted():
            people = ", ".join(event.approvers)
            reason, detail = TAKEN_UP, f"{people} had agreed" if people else "it began"
        case HostRefused():
            reason, detail = event.reason.value, event.detail
        case _:
            return []
    return [
        row.Unasked(
            key=event.key, step=event.step, agent=agent, reason=reason, detail=detail, host_ms=event.at_ms
        )
    ]


# ---------------------------------------------------------------- what a ledger knows


def answered(run: Run, agent: str, states: States, now_ms: int) -> Move:
    """What an answer means for the attempts that it names."""
    move = Move()
    for key, state in states.states.items():
        attempt = run.keys.get(key)
        if attempt is not None and attempt.agent == agent and attempt.open:
            _answer(attempt, states, state, now_ms, move)
    return move


def _answer(attempt: Attempt, states: States, state: LedgerState, now_ms: int, move: Move) -> None:
    other_ledger = bool(attempt.ledger) and states.ledger != attempt.ledger
    if attempt.state is AttemptState.ACCEPTED:
        if state in {LedgerState.FINISHED, LedgerState.REFUSED}:
            return  # Its event is under way.
        if other_ledger or state is LedgerState.ABSENT:
            move.rows.append(
                _lost(attempt, "its host's ledger is another one, or lost what it had taken up", now_ms)
            )
        elif states.boot != attempt.boot:
            move.rows.append(_lost(attempt, "its host was started anew, and there is no result", now_ms))
        return
    if attempt.state is not AttemptState.SENT:
        return
    if state is LedgerState.ABSENT:
        _absent(attempt, other_ledger, now_ms, move)
    elif state in {LedgerState.ACCEPTED, LedgerState.RUNNING}:
        move.rows.append(row.Accepted(key=attempt.key, ledger=states.ledger, boot=states.boot))


def _absent(attempt: Attempt, other_ledger: bool, now_ms: int, move: Move) -> None:
    if other_ledger:
        move.rows.append(_lost(attempt, "its host's ledger is a new one and cannot know", now_ms))
    elif now_ms < attempt.not_after_ms:
        # The same key: should the first copy arrive after all, it is known there by then.
        move.rows.append(row.Sent(key=attempt.key))
        move.effects.append(Send(attempt.key))
    elif now_ms >= attempt.not_after_ms + MARGIN_MS:
        why = "its host's ledger does not have it, and its time is over: it never ran"
        move.rows.append(row.Lapsed(key=attempt.key, why=why))


def _lost(attempt: Attempt, why: str, now_ms: int) -> row.Lost:
    # A copy that is still under way could be taken up by a ledger that never saw the first.
    return row.Lost(key=attempt.key, why=why, free_ms=max(now_ms, attempt.not_after_ms + MARGIN_MS))
