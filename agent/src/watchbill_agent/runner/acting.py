"""Break-glass: root of this host has a step of a bundle carried out, without the collector.

What stands in for the order is the collector's signature under the bundle, made when it was still there, and that root
itself asks. Everything else is judged as for an order: the allow-list and the action's digest, arguments, approvals and
roster, cooldown, lock, ledger. The epoch is, too: once a newer collector was heard, bundles of the one before are void,
for the newer one can send orders itself.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from watchbill.actions.bounds import ARGUMENT_CHARACTERS_MAX, ARGUMENTS_MAX, VOTES_MAX
from watchbill.actions.bundle import ATTEMPTS_MAX, PURPOSES, Bundle, open_bundle
from watchbill.actions.definition import ArgumentRefused
from watchbill.actions.order import Command, Refusal
from watchbill.actions.outcomes import DETAIL_CHARACTERS_MAX
from watchbill.actions.signing import SignatureRefused
from watchbill.errors import Unreadable
from watchbill_agent.runner.job import Glass
from watchbill_agent.runner.judging import NOT_ENROLLED, Host, Judged, Now
from watchbill_agent.runner.ledger import Marks

RUN_CHARACTERS_MAX: Final = 64
STEP_CHARACTERS_MAX: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What root asks for. `run` goes on with that run, "" with the bundle's own; `values` are what was found out."""

    bundle: bytes
    step: str
    kind: str
    run: str
    attempt: int
    values: Mapping[str, str]
    votes: tuple[bytes, ...]
    uid: int
    reason: str


def read_act(asked: Mapping[str, Any], uid: int) -> Act:
    """From the socket. Raises ValueError, KeyError, TypeError."""
    values, votes = asked["values"], asked["votes"]
    if not isinstance(values, dict) or len(values) > ARGUMENTS_MAX or len(votes) > VOTES_MAX:
        raise ValueError("too many values or votes")
    attempt = int(asked["attempt"])
    if not 1 <= attempt <= ATTEMPTS_MAX or asked["kind"] not in PURPOSES:
        raise ValueError(f"attempt {attempt} of {asked['kind']!a:.20}")
    try:
        return Act(
            bundle=base64.b64decode(asked["bundle"], validate=True),
            step=_text(asked["step"], STEP_CHARACTERS_MAX),
            kind=asked["kind"],
            run=_text(asked["run"], RUN_CHARACTERS_MAX),
            attempt=attempt,
            values={
                _text(name, RUN_CHARACTERS_MAX): _text(value, ARGUMENT_CHARACTERS_MAX)
                for name, value in values.items()
            },
            votes=tuple(base64.b64decode(one, validate=True) for one in votes),
            uid=uid,
            reason=_text(asked["reason"], DETAIL_CHARACTERS_MAX),
        )
    except binascii.Error as exc:
        raise ValueError("no base64") from exc


def _text(found: object, characters_max: int) -> str:
    if not isinstance(found, str) or len(found) > characters_max:
        raise ValueError(f"wanted text of at most {characters_max} characters")
    return found


def hear_act(asked: Act, host: Host, now: Now) -> tuple[Bundle, Command]:
    """Whose bundle it is, whether it is for this host and in time, and what of it is to be done. Raises Judged."""
    if host.enrolled is None:
        raise Judged(Refusal.SIGNATURE, host.enrolled_fault or NOT_ENROLLED)
    own = host.enrolled
    try:
        bundle = open_bundle(own.command_key, asked.bundle)
    except SignatureRefused as exc:
        raise Judged(Refusal.SIGNATURE, str(exc)) from exc
    except Unreadable as exc:
        raise Judged(Refusal.FORM, str(exc)) from exc
    if bundle.site != own.site:
        raise Judged(Refusal.OTHER_HOST, f"a bundle of the site {bundle.site!a}, this is {own.site}")
    if fault := bundle.fault(now.wall_ms):
        raise Judged(Refusal.EXPIRED, fault)
    mine = bundle.of(asked.step, asked.kind, own.agent_id)
    if not mine or mine[0].host != own.instance:
        raise Judged(
            Refusal.OTHER_HOST,
            f"the bundle has nothing to {asked.kind} at the step {asked.step!a} on {own.instance} ({own.agent_id})",
        )
    stray = sorted(set(asked.values) - set(mine[0].missing))
    if stray:
        raise Judged(Refusal.ARGUMENTS, f"{stray[0]}: the bundle says it already, or the action takes none")
    if not asked.reason.strip():
        raise Judged(Refusal.FORM, "no reason was given: others read it")
    try:
        return bundle, bundle.command(mine[0], asked.attempt, asked.run, asked.values, asked.votes)
    except ArgumentRefused as exc:
        raise Judged(Refusal.ARGUMENTS, str(exc)) from exc
    except Unreadable as exc:
        raise Judged(Refusal.FORM, str(exc)) from exc


def check_bundle_epoch(bundle: Bundle, marks: Marks) -> None:
    """Raises Judged."""
    if bundle.epoch < marks.epoch:
        raise Judged(
            Refusal.EPOCH,
            f"from the collector's epoch {bundle.epoch}, and {marks.epoch} was heard: a newer collector is there",
        )


def glass_of(asked: Act, bundle: Bundle, command: Command) -> Glass:
    """What is told of it beside what is told of every command."""
    return Glass(
        bundle=bundle.id,
        runbook=command.runbook,
        attempt=command.attempt,
        uid=asked.uid,
        reason=asked.reason,
    )
