"""Attempts that are under way: sent when their host is there, given up when their time is over."""

from watchbill_collector.runbooks.model import Step
from watchbill_collector.runbooks.run.flow import Flow
from watchbill_collector.runbooks.run.progress import Attempt, Run
from watchbill_collector.runbooks.run.rows import CancelSent, Lapsed, Lost, Sent
from watchbill_collector.runbooks.run.words import AttemptState, Phase, RunState
from watchbill_collector.runbooks.run.world import (
    AWAY_POLL_MS,
    LATE_MS,
    MARGIN_MS,
    RESEND_MS,
    Cancel,
    Move,
    Send,
    World,
)


def keep(run: Run, flow: Flow, world: World, now_ms: int) -> Move:
    """What is due for attempts that are under way."""
    move = Move()
    for attempt in run.open_attempts():
        match attempt.state:
            case AttemptState.INTENDED:
                _unsent(run, attempt, world, now_ms, move)
            case AttemptState.SENT:
                free_ms = attempt.not_after_ms + MARGIN_MS
                if now_ms >= free_ms:
                    why = "its host did not say whether it took it up"
                    move.rows.append(Lost(key=attempt.key, why=why, free_ms=free_ms))
                else:
                    move.wake(free_ms)
                    _cancelling(run, attempt, "the run was aborted", move)
            case _:
                _accepted(run, flow, attempt, now_ms, move)
    return move


def _unsent(run: Run, attempt: Attempt, world: World, now_ms: int, move: Move) -> None:
    if _ends(run, attempt):
        move.rows.append(Lapsed(key=attempt.key, why="not sent: the run was aborted"))
    elif _asked_again(run, attempt):
        why = f"not sent: what was agreed to at {attempt.gate} is asked again"
        move.rows.append(Lapsed(key=attempt.key, why=why))
    elif now_ms >= attempt.not_after_ms:
        move.rows.append(Lapsed(key=attempt.key, why=f"not sent: {attempt.host} was away"))
    elif attempt.unsent_ms and now_ms < attempt.unsent_ms + RESEND_MS:
        move.wake(attempt.unsent_ms + RESEND_MS)
        move.waiting = f"{attempt.host} is away"
    elif world.connected(attempt.agent):
        move.rows.append(Sent(key=attempt.key))
        move.effects.append(Send(attempt.key))
    else:
        move.wake(min(attempt.not_after_ms, now_ms + AWAY_POLL_MS))
        move.waiting = f"{attempt.host} is away"


def _accepted(run: Run, flow: Flow, attempt: Attempt, now_ms: int, move: Move) -> None:
    flat = flow.steps.get(attempt.step)
    limit_ms = _limit_ms(flat.step if flat is not None else None, attempt)
    if limit_ms and now_ms >= attempt.accepted_ms + limit_ms:
        if not attempt.cancelled_ms:
            why = f"it took longer than {limit_ms // 1000} s"
            move.rows.append(CancelSent(key=attempt.key, why=why))
            move.effects.append(Cancel(attempt.key))
    elif limit_ms:
        move.wake(attempt.accepted_ms + limit_ms)
    _cancelling(run, attempt, "the run was aborted", move)
    gone_ms = attempt.accepted_ms + max(limit_ms, attempt.timeout_s * 1000) + LATE_MS
    if now_ms >= gone_ms:
        move.rows.append(Lost(key=attempt.key, why="its host took it up and never said how it ended"))
    else:
        move.wake(gone_ms)


def _cancelling(run: Run, attempt: Attempt, why: str, move: Move) -> None:
    if _ends(run, attempt) and not attempt.cancelled_ms:
        move.rows.append(CancelSent(key=attempt.key, why=why))
        move.effects.append(Cancel(attempt.key))


def _ends(run: Run, attempt: Attempt) -> bool:
    """Whether somebody wants it to end. The clean-up after an abort is no part of what was aborted."""
    return run.state is RunState.CANCELLING and attempt.phase is not Phase.CLEANUP


def _asked_again(run: Run, attempt: Attempt) -> bool:
    """Whether what it was intended by is not what holds now."""
    if not attempt.gate:
        return False
    gate = run.step(attempt.gate).gate
    return gate is None or attempt.n < gate.opened_n


def _limit_ms(step: Step | None, attempt: Attempt) -> int:
    """How long its step lets it take; 0: as long as the action may."""
    if step is None or attempt.phase is not Phase.FORWARD or attempt.probes:
        return 0
    return round(step.timeout_s * 1000)
