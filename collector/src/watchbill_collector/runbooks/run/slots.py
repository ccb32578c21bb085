"""What comes next for one host of a step, from the attempts so far. The table of the crash cases is here:

nothing sent, its time is up                    it has failed: it never ran
sent, and the host's ledger does not have it    sent again under the same key, or it never ran
unknown, `read` or `repeat`                     another attempt, when its host is there
unknown, `once` with a probe                    the probe is asked: it happened, or another attempt
unknown, `once` without a probe                 a person decides
"""

from dataclasses import dataclass
from enum import Enum

from watchbill.actions.definition import Effect
from watchbill.actions.outcomes import Outcome
from watchbill_collector.runbooks.model import Step
from watchbill_collector.runbooks.run.progress import Attempt, StepProgress
from watchbill_collector.runbooks.run.rows import Target
from watchbill_collector.runbooks.run.words import NEVER_RAN, AttemptState, Verdict
from watchbill_collector.runbooks.run.world import AWAY_POLL_MS, PROBES_MAX, UNKNOWNS_MAX, UNREACHABLE_MS


class Next(Enum):
    """What a host's slot needs."""

    BEGIN = "begin"
    BUSY = "busy"
    OK = "ok"
    FAILED = "failed"
    STUCK = "stuck"
    """Nobody knows, and nothing may be tried: a person decides."""
    TIMER = "timer"
    """A retry is due later; that is to be written down."""
    WAIT = "wait"
    PROBE = "probe"
    PROBED = "probed"
    """The probe has answered; what that means is to be written down."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What a host needs; until when or since when, and why. `attempt` is the one that it is about."""

    next: Next
    detail: str = ""
    at_ms: int = 0
    attempt: Attempt | None = None


def judge(
    step: StepProgress, what: Step | None, target: Target, number: int, connected: bool, now_ms: int
) -> Slot:
    """One host of a step, in the step itself (round 0) or a round of fresh premises."""
    tries = step.tries(target.host, number)
    if not tries:
        done = step.newest(target.host)
        if number == 0 and done is not None and done.ok and done.round == 0:
            return Slot(Next.OK)
        if done is not None and done.state is AttemptState.UNKNOWN and now_ms < done.free_ms:
            return Slot(Next.WAIT, "the attempt before could still begin", done.free_ms, done)
        return Slot(Next.BEGIN)
    last = tries[-1]
    if last.open:
        return Slot(Next.BUSY, attempt=last)
    if last.ok:
        return Slot(Next.OK)
    if last.state is AttemptState.UNKNOWN:
        return _of_unknown(step, target, tries, connected, now_ms)
    return _of_failure(step, what, target, tries, now_ms)


def _of_failure(
    step: StepProgress, what: Step | None, target: Target, tries: list[Attempt], now_ms: int
) -> Slot:
    last = tries[-1]
    why = f"{target.action} on {target.host}: {_how(last)}"
    failures = sum(one.state is AttemptState.FINISHED for one in tries)
    retries = what.retry_times if what is not None else 0
    # What was cut off half-way is another thing than what said no: twice half is not once.
    clear = last.outcome == Outcome.FAILED.value or last.outcome in NEVER_RAN
    if failures > retries or (target.effect == Effect.ONCE.value and not clear):
        return Slot(Next.FAILED, why, attempt=last)
    timer = step.timers.get(("retry", target.host))
    if timer is None:
        delay_ms = round(what.retry_delay_s * 1000) if what is not None else 0
        return Slot(Next.TIMER, why, last.done_ms + delay_ms, last)
    if now_ms < timer[0]:
        return Slot(Next.WAIT, f"{why}; tried again later", timer[0], last)
    return Slot(Next.BEGIN, attempt=last)


def _of_unknown(
    step: StepProgress, target: Target, tries: list[Attempt], connected: bool, now_ms: int
) -> Slot:
    last = tries[-1]
    why = f"whether {target.action} ran on {target.host} is unknown: {last.detail}"
    once = target.effect == Effect.ONCE.value
    if once and not target.probe:
        return Slot(Next.STUCK, f"{why}; it has no probe", attempt=last)
    if last.probed is Verdict.UNKNOWN:
        return Slot(Next.STUCK, f"{why}; its probe {target.probe} does not tell", attempt=last)
    if not connected:
        if now_ms >= last.done_ms + UNREACHABLE_MS:
            return Slot(Next.STUCK, f"{why}; the host is away", attempt=last)
        again_ms = min(now_ms + AWAY_POLL_MS, last.done_ms + UNREACHABLE_MS)
        return Slot(Next.WAIT, f"{why}; the host is away", again_ms, last)
    if now_ms < last.free_ms:
        return Slot(Next.WAIT, f"{why}; it could still begin", last.free_ms, last)
    if sum(one.state is AttemptState.UNKNOWN for one in tries) >= UNKNOWNS_MAX and not (
        once and last.probed is None
    ):
        return Slot(Next.STUCK, f"{why}; that was so {UNKNOWNS_MAX} times", attempt=last)
    if not once or last.probed is Verdict.FALSE:
        return Slot(Next.BEGIN, attempt=last)
    probes = step.probes.get(last.key, [])
    if not probes:
        return Slot(Next.PROBE, attempt=last)
    asked = probes[-1]
    if asked.open:
        return Slot(Next.BUSY, attempt=asked)
    if asked.ok:
        return Slot(Next.PROBED, attempt=last)
    if len(probes) < PROBES_MAX:
        return Slot(Next.PROBE, attempt=last)
    return Slot(Next.STUCK, f"{why}; its probe {target.probe}: {_how(asked)}", attempt=last)


def _how(attempt: Attempt) -> str:
    """How an attempt ended, for people."""
    word = attempt.outcome or attempt.state.value
    code = f", exit code {attempt.exit_code}" if attempt.exit_code else ""
    return f"{word}{code}{': ' + attempt.detail if attempt.detail else ''}"
