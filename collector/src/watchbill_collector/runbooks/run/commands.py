"""Commands of a run: the row that intends one, and the order that is sent for it."""

import base64

from watchbill.actions.bounds import COMMAND_TTL_MS_MAX
from watchbill.actions.definition import ArgumentRefused, Effect
from watchbill.actions.order import Command, Purpose
from watchbill_collector.runbooks.run.flow import Flow
from watchbill_collector.runbooks.run.progress import Attempt, Run
from watchbill_collector.runbooks.run.rows import Intent, Target
from watchbill_collector.runbooks.run.words import Phase
from watchbill_collector.runbooks.run.world import COMMAND_MS, World

PURPOSES = {Phase.FORWARD: Purpose.STEP, Phase.UNDO: Purpose.UNDO, Phase.CLEANUP: Purpose.CLEANUP}


def intent(
    run: Run, step: str, phase: Phase, target: Target, world: World, now_ms: int, *, number: int = 0
) -> Intent:
    """An attempt of a step on a host, in the step itself or in a round of fresh premises."""
    return _intent(run, step, phase, target, PURPOSES[phase], world, now_ms, number=number)


def probe(run: Run, attempt: Attempt, target: Target, world: World, now_ms: int) -> Intent | str:
    """A question to a host whether another attempt has happened there, or why it cannot be asked."""
    host = world.fleet.host(target.host)
    action = None if host is None or host.actions is None else host.actions.get(target.probe)
    if action is None:
        return f"{target.host} does not allow its probe {target.probe}"
    if action.effect is not Effect.READ:
        return f"the probe {target.probe} is no read action"
    # It is asked about the same thing, so it is given those of the arguments that it takes.
    wanted = {one.name for one in action.arguments}
    try:
        arguments = action.bind(
            {name: value for name, value in attempt.arguments.items() if name in wanted}, target.host
        )
    except ArgumentRefused as exc:
        return f"the probe {target.probe}: {exc}"
    asked = Target(
        host=target.host,
        agent=target.agent,
        action=action.name,
        digest=action.digest(),
        effect=action.effect.value,
        arguments=arguments,
        output=action.output,
        timeout_s=action.timeout_s,
    )
    return _intent(run, attempt.step, attempt.phase, asked, Purpose.PROBE, world, now_ms, probes=attempt.key)


def _intent(
    run: Run,
    step: str,
    phase: Phase,
    target: Target,
    purpose: Purpose,
    world: World,
    now_ms: int,
    *,
    number: int = 0,
    probes: str = "",
) -> Intent:
    attempt = run.counts.get((purpose.value, step, target.host), 0) + 1
    command = _command(run, step, attempt, purpose, target)
    return Intent(
        key=command.key(world.site, target.agent),
        step=step,
        phase=phase.value,
        host=target.host,
        agent=target.agent,
        attempt=attempt,
        purpose=purpose.value,
        action=target.action,
        digest=target.digest,
        effect=target.effect,
        not_after_ms=now_ms + COMMAND_MS,
        arguments=dict(target.arguments),
        ledger=world.ledger(target.agent),
        probes=probes,
        round=number,
        output=target.output,
        timeout_s=target.timeout_s,
    )


def _command(run: Run, step: str, attempt: int, purpose: Purpose, target: Target) -> Command:
    return Command(
        run=run.run_id,
        runbook=run.created.runbook,
        runbook_digest=run.created.digest,
        step=step,
        attempt=attempt,
        purpose=purpose,
        host=target.host,
        action=target.action,
        action_digest=target.digest,
        arguments=dict(target.arguments),
        lock=run.created.lock,
    )


def command_of(run: Run, flow: Flow, attempt: Attempt) -> Command:
    """What is sent for an attempt: the same bytes of meaning every time, and what people have signed."""
    manifest = b""
    votes: tuple[bytes, ...] = ()
    gate = run.step(attempt.gate).gate if attempt.gate and attempt.gate in flow.steps else None
    if gate is not None:
        manifest = gate.opened.manifest.encode("utf-8")
        votes = tuple(
            base64.b64decode(vote.signed)
            for _, vote in gate.votes
            if vote.signed and vote.person not in gate.voided
        )
    return Command(
        run=run.run_id,
        runbook=run.created.runbook,
        runbook_digest=run.created.digest,
        step=attempt.step,
        attempt=attempt.number,
        purpose=Purpose(attempt.purpose),
        host=attempt.host,
        action=attempt.action,
        action_digest=attempt.digest,
        arguments=attempt.arguments,
        lock=run.created.lock,
        manifest=manifest,
        votes=votes,
    )


def shorten(timeout_s: float, not_after_ms: int, now_ms: int) -> int:
    """Until when a command may begin whose step says how long it may take."""
    if timeout_s <= 0:
        return not_after_ms
    return min(not_after_ms, now_ms + min(round(timeout_s * 1000), COMMAND_TTL_MS_MAX))
