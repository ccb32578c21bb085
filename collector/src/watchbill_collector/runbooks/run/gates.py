"""Gates: what people are asked to agree to, and whether enough have.

A gate's manifest names every protected effect that it covers, with host, action, digest and arguments. Where it names
any, hosts look at the votes themselves: then only signed votes count, and each has to count on every host.

It also says how often each may begin: once, and as often more as its step is tried again by itself. Hosts count, and so
do we (`left`), by the rows since the gate was opened: what is used up is not sent, and a person's retry asks again.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from watchbill.actions.bounds import AGREED_DAYS_MAX, DAY_MS
from watchbill.actions.definition import Effect
from watchbill.actions.grants import Manifest, ProtectedEffect, count_votes, open_vote, read_manifest
from watchbill.actions.grants import digest as manifest_digest
from watchbill.actions.signing import SignatureRefused
from watchbill.errors import Unreadable
from watchbill_collector.runbooks.model import Act, Gate
from watchbill_collector.runbooks.resolving import Bound, Resolved, resolve
from watchbill_collector.runbooks.run.flow import FlatStep, Flow
from watchbill_collector.runbooks.run.progress import Attempt, GateProgress, Run, StepProgress
from watchbill_collector.runbooks.run.rows import GateOpened, Target, VotesVoided
from watchbill_collector.runbooks.run.scope import scope_of
from watchbill_collector.runbooks.run.words import NEVER_RAN, Phase
from watchbill_collector.runbooks.run.world import AGREED_MS, GATE_MS, World

PROBLEMS_SHOWN: Final = 5
LET_OUT: Final = "was disabled on the collector"


def covered(run: Run, flow: Flow, gate: str, world: World) -> tuple[list[ProtectedEffect], list[str]]:
    """The protected effects that a gate covers and that are still to come, and why some could not be told: then it must
    not open. Of a gate that is asked again, what has gone well is left out: nobody has to allow it once more."""
    effects: dict[bytes, ProtectedEffect] = {}
    problems: list[str] = []
    for position, name, step, act in flow.acts():
        phase, retries = _of(step, act)
        if _behind(run.phase, phase):
            continue
        progress = run.step(name, phase)
        for needs, bound, problem in _protected(resolve_act(run, flow, step, act, world)):
            if flow.covering_gate(position, *needs) != gate:
                continue
            if bound is None:
                problems += [] if progress.ended else [f"{name}: {problem}"]
                continue
            done = progress.ended or is_done(progress, bound.host.name)
            if done and bound.action.effect is not Effect.READ:
                continue  # What looks is looked at again, before the first effect after a wait.
            effect = bound.effect(name, retries)
            same = effects.get(effect.identity)
            # Done and undone by the same action: it may begin for both.
            times = effect.times + (0 if same is None else same.times)
            effects[effect.identity] = replace(effect, times=times)
    return list(effects.values()), problems


def _of(step: FlatStep | None, act: Act) -> tuple[Phase, int]:
    """In which list something is run, and how often it is tried again there by itself."""
    if step is None:
        return Phase.CLEANUP, 0
    return (Phase.FORWARD, step.step.retry_times) if act is step.step.what else (Phase.UNDO, 0)


def _behind(now: Phase, phase: Phase) -> bool:
    """Whether a run that has come so far goes through that list any more."""
    phases = list(Phase)
    return phases.index(phase) < phases.index(now)


def is_done(progress: StepProgress, host: str) -> bool:
    """Whether a step has gone well on a host: then it is not done again there."""
    newest = progress.newest(host)
    return newest is not None and newest.ok and newest.round == 0


def resolve_act(run: Run, flow: Flow, step: FlatStep | None, act: Act, world: World) -> Resolved:
    """What an act comes to now."""
    scope = scope_of(run, flow, step.caller if step is not None else "")
    return resolve(act, scope, world.fleet, world.facts)


def _protected(resolved: Resolved) -> Iterable[tuple[tuple[int, str], Bound | None, str]]:
    for one in resolved.bound:
        if one.action.protected:
            yield (one.action.needs.approvals, one.action.needs.role), one, ""
    for other in resolved.unbound:
        if other.known is not None and other.known.protected:
            needs = other.known.needs
            yield (needs.approvals, needs.role), None, f"{other.host}: {other.message}"


def opening(run: Run, flow: Flow, gate: FlatStep, world: World, now_ms: int) -> GateOpened | str:
    """The row that opens a gate, or why it cannot be opened."""
    what = gate.step.what
    assert isinstance(what, Gate), "a gate"
    effects, problems = covered(run, flow, gate.id, world)
    if problems:
        return f"what is to be agreed to is not known: {'; '.join(problems[:PROBLEMS_SHOWN])}"
    longest_ms = AGREED_DAYS_MAX * DAY_MS - AGREED_MS
    expires_ms = now_ms + min(round(gate.step.timeout_s * 1000) or GATE_MS, longest_ms)
    manifest = Manifest(
        site=world.site,
        run=run.run_id,
        runbook=run.created.runbook,
        runbook_digest=run.created.digest,
        gate=gate.id,
        requester=run.requester,
        reason=run.created.reason,
        drill=run.created.drill,
        opened_ms=now_ms,
        expires_ms=expires_ms + AGREED_MS,
        effects=tuple(effects),
        # By the row: who has agreed before has not agreed to this, should nothing else of it differ.
        asked=run.n,
    )
    try:
        content = manifest.content()
    except Unreadable as exc:
        return str(exc)
    return GateOpened(
        step=gate.id,
        role=what.role,
        count=what.count,
        expires_ms=expires_ms,
        manifest=content.decode("utf-8"),
        digest=manifest_digest(content),
        own_vote=what.own_vote,
        on_host=bool(effects),
    )


# ---------------------------------------------------------------- how often what was agreed to may begin


def covers(gate: GateProgress, step: str, target: Target) -> bool:
    """Whether what was agreed to names this effect."""
    return _effect(step, target).identity in _agreed(gate)


def left(run: Run, gate: GateProgress, step: str, target: Target) -> int | None:
    """How often something may still begin by what was agreed to, None for what is not counted. As its host counts:
    whatever was sent and not refused may have begun."""
    if target.effect == Effect.READ.value:
        return None
    times = _agreed(gate).get(_effect(step, target).identity, 0)
    began = sum(
        _by(gate, one, target)
        for phase in Phase
        for one in run.step(step, phase).attempts.get(target.host, ())
    )
    return times - began


def _by(gate: GateProgress, one: Attempt, target: Target) -> bool:
    """Whether an attempt counts for an effect under the agreement that holds now."""
    return (
        one.gate == gate.opened.step
        and one.n > gate.opened_n
        and one.outcome not in NEVER_RAN
        and (one.action, one.digest, one.arguments) == (target.action, target.digest, target.arguments)
    )


def _agreed(gate: GateProgress) -> dict[bytes, int]:
    if gate.covers is None:
        gate.covers = {}
        for one in read_manifest(gate.opened.manifest.encode("utf-8")).effects:
            gate.covers[one.identity] = gate.covers.get(one.identity, 0) + one.times
    return gate.covers


def _effect(step: str, target: Target) -> ProtectedEffect:
    return ProtectedEffect(
        step=step,
        agent=target.agent,
        host=target.host,
        action=target.action,
        action_digest=target.digest,
        arguments=dict(target.arguments),
    )


# ---------------------------------------------------------------- who was let out


def is_out(person: str, world: World) -> bool:
    """Whether somebody was disabled on this collector; names of users are the same in capitals and small letters."""
    return bool(world.disabled) and person.lower() in world.disabled


def to_void(run: Run, world: World) -> list[VotesVoided]:
    """Rows for what people said who are disabled since: it stays void also when they are let in again."""
    if not world.disabled:
        return []
    gone = {
        vote.person
        for step in run.steps.values()
        if step.gate is not None
        for _, vote in step.gate.votes
        if vote.person not in step.gate.voided and is_out(vote.person, world)
    }
    return [VotesVoided(person=one, why=LET_OUT) for one in sorted(gone)]


def lapsed(gate: GateProgress) -> str:
    """Why a gate that was passed allows nothing more, or "": too few of those who agreed are left."""
    closed = gate.closed
    if closed is None or not closed.passed:
        return ""
    gone = [one for one in closed.people if one in gate.voided]
    left = len(closed.people) - len(gone)
    if not gone or left >= gate.opened.count:
        return ""
    why = "; ".join(f"{one} {gate.voided[one]}" for one in gone)
    opened = gate.opened
    return f"{left} of {opened.count} of {opened.role} still agree: {why}; retry {opened.step} to ask again"


# ---------------------------------------------------------------- counting


@dataclass(frozen=True, slots=True)
class Tally:
    """Who has agreed and counts, who said no ("" for nobody), and why each other vote does not count, by person."""

    agreed: frozenset[str]
    denied: str
    left_out: dict[str, str]


def tally(run: Run, gate: GateProgress, world: World, now_ms: int) -> Tally:
    """The votes of a gate as they stand; of each person the last word."""
    opened = gate.opened
    left_out: dict[str, str] = {}
    said: dict[str, tuple[bool, str]] = {}
    for _, vote in gate.votes:
        if vote.person in gate.voided:
            left_out[vote.person] = gate.voided[vote.person]
        elif is_out(vote.person, world):
            left_out[vote.person] = LET_OUT
        elif vote.digest != opened.digest:
            left_out[vote.person] = "agreed to something else"
        elif opened.on_host and not vote.signed and vote.approve:
            left_out[vote.person] = "hosts look at the votes themselves: it has to be signed"
        elif vote.approve and not opened.own_vote and vote.person == run.requester:
            left_out[vote.person] = "asked for it himself"
        else:
            said[vote.person] = (vote.approve, vote.signed)
    denied = next((person for person, (approve, _) in said.items() if not approve), "")
    if denied:
        return Tally(frozenset(), denied, left_out)
    agreed = frozenset(person for person, (_, signed) in said.items() if not signed)
    signed = [base64.b64decode(one) for _, one in said.values() if one]
    if signed:
        counted, refused = _count_signed(gate, signed, world, now_ms)
        agreed |= counted
        left_out |= {person: why for person, why in refused.items() if person not in agreed}
    return Tally(agreed, "", left_out)


def _count_signed(
    gate: GateProgress, signed: list[bytes], world: World, now_ms: int
) -> tuple[frozenset[str], dict[str, str]]:
    """Signed votes have to count on every host that will look at them."""
    if world.roster is None:
        return frozenset(), {"": "no roster is published that says who may approve"}
    fault = world.roster.fault(now_ms)
    if fault:
        return frozenset(), {"": fault}
    content = gate.opened.manifest.encode("utf-8")
    hosts = sorted({one.agent for one in read_manifest(content).effects})
    everywhere = [dict(world.labels.get(agent, {})) for agent in hosts] or [{}]
    agreed: frozenset[str] | None = None
    left_out: dict[str, str] = {}
    for labels in everywhere:
        counted, refused = count_votes(world.roster, content, signed, gate.opened.role, labels, now_ms)
        agreed = counted if agreed is None else agreed & counted
        for text in refused:
            person, _, why = text.partition(": ")
            left_out[person] = why
    return agreed or frozenset(), left_out


def judge_signed(gate: GateProgress, signed: bytes, world: World, now_ms: int) -> tuple[str, bool, str]:
    """Of a vote that is handed in: whose it is, whether it is a yes, and why it does not count, or "".

    Raises SignatureRefused, Unreadable for one that nobody on the roster has signed.
    """
    if world.roster is None:
        raise SignatureRefused("no roster is published that says who may approve")
    vote, person = open_vote(world.roster, signed)
    if is_out(person.name, world):
        return person.name, vote.approve, LET_OUT
    counted, left_out = _count_signed(gate, [signed], world, now_ms)
    if vote.approve:
        return (
            person.name,
            True,
            "" if person.name in counted else left_out.get(person.name, "; ".join(left_out.values())),
        )
    fault = next((why for name, why in left_out.items() if name == person.name and why != ""), "")
    return person.name, False, fault
