"""Break-glass: root of this host has a step of a bundle carried out, without the collector.

What stands in for the order is the collector's signature under the bundle, made when it was still there, and that root
itself asks. Everything else is judged as for an order: the allow-list and the action's digest, arguments, approvals and
roster, cooldown, lock, ledger. So is its turn: steps of the bundle with an effect go well on this host one after the
other, unless root says why not. The epoch is, too: once a newer collector was heard, bundles of the one before are
void, for the newer one can send orders itself.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from watchbill.actions.bounds import ARGUMENT_CHARACTERS_MAX, ARGUMENTS_MAX, VOTES_MAX
from watchbill.actions.bundle import ATTEMPTS_MAX, PURPOSES, Bundle, BundleStep, open_bundle
from watchbill.actions.definition import ArgumentRefused
from watchbill.actions.order import Command, Refusal
from watchbill.actions.outcomes import DETAIL_CHARACTERS_MAX, Outcome
from watchbill.actions.signing import SignatureRefused
from watchbill.errors import Unreadable
from watchbill_agent.runner.job import Glass
from watchbill_agent.runner.judging import NOT_ENROLLED, Host, Judged, Now
from watchbill_agent.runner.ledger import Entry, Ledger, Marks, Progress

RUN_CHARACTERS_MAX: Final = 64
STEP_CHARACTERS_MAX: Final = 128
ATTEMPTS_SOUGHT: Final = 100
"""Of a step before: by these numbers, bundles and runs count from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What root asks for. `run` goes on with that run, "" with the bundle's own; `values` are what was found out;
    `out_of_order` says why a step is done before its turn, "" for in its turn."""

    bundle: bytes
    step: str
    kind: str
    run: str
    attempt: int
    values: Mapping[str, str]
    votes: tuple[bytes, ...]
    uid: int
    reason: str
    out_of_order: str = ""


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
            out_of_order=_text(asked.get("out_of_order", ""), DETAIL_CHARACTERS_MAX),
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


def check_order(asked: Act, bundle: Bundle, own_id: str, ledger: Ledger) -> None:
    """Whether it is the step's turn, as far as this host's ledger knows: what is to change something here before it has
    gone well, and what is undone has begun. Other hosts' parts, checks and gates are people's. Raises Judged."""
    if asked.out_of_order.strip():
        return
    (mine, *_) = bundle.of(asked.step, asked.kind, own_id)
    override = "if it has to be done all the same, say why: --out-of-order TEXT"
    if asked.kind == "do":
        for other in bundle.before(mine):
            if not any(_ok(ledger, entry) for entry in _entries(asked, bundle, other, ledger)):
                raise Judged(
                    Refusal.ORDER,
                    f"{other.step} comes before it and has not gone well on this host; {override}",
                )
    elif asked.kind == "undo":
        done = bundle.of(asked.step, "do", own_id)
        if done and not any(_entries(asked, bundle, done[0], ledger)):
            raise Judged(Refusal.ORDER, f"{asked.step} has not begun on this host; {override}")


def _entries(asked: Act, bundle: Bundle, one: BundleStep, ledger: Ledger) -> list[Entry]:
    """What this host knows of a step: its attempts by their keys; where not all its values are said here, every run of
    its action since the bundle was made."""
    values = {name: value for name, value in asked.values.items() if name in one.missing}
    if set(values) != set(one.missing):
        return [entry for entry in ledger.runs_of(one.action) if entry.at_ms >= bundle.issued_ms]
    try:
        keys = [bundle.key(one, attempt, asked.run, values) for attempt in range(1, ATTEMPTS_SOUGHT + 1)]
    except ArgumentRefused:
        return []
    return [entry for key in keys if (entry := ledger.find(key)) is not None and not entry.reason]


def _ok(ledger: Ledger, entry: Entry) -> bool:
    progress = ledger.progress(entry)
    return isinstance(progress, Progress) and progress.outcome == Outcome.OK.value


def glass_of(asked: Act, bundle: Bundle, command: Command) -> Glass:
    """What is told of it beside what is told of every command."""
    return Glass(
        bundle=bundle.id,
        runbook=command.runbook,
        attempt=command.attempt,
        uid=asked.uid,
        reason=f"{asked.reason}; out of order: {asked.out_of_order}" if asked.out_of_order else asked.reason,
    )
