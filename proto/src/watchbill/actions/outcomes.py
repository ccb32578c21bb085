"""What a host says about commands: critical events, synced on the host before the runner forgets, recorded once.

Each event is canonical JSON. `key` names the command; times are UTC milliseconds by the host's clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from watchbill.actions import bounds
from watchbill.actions.canonical import canonical, read_canonical
from watchbill.actions.definition import Action, read_action
from watchbill.actions.order import Refusal
from watchbill.errors import Unreadable

COMMAND_ACCEPTED: Final = "command.accepted"
COMMAND_FINISHED: Final = "command.finished"
COMMAND_REFUSED: Final = "command.refused"
COMMAND_BREAKGLASS: Final = "command.breakglass"
COMMAND_STATES: Final = "command.states"
ACTIONS_INVENTORY: Final = "actions.inventory"
DETAIL_CHARACTERS_MAX: Final = 500
TOLD_BYTES_MAX: Final = 40 * 1024
"""Of stdout and stderr together as they stand in an event's JSON; the runner keeps up to the action's `output_max`."""


class Outcome(StrEnum):
    """How a command ended."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """It began, and nobody knows how it ended: the host or the runner died. Never taken for not begun."""


class State(StrEnum):
    """What a runner's ledger knows of a key."""

    ABSENT = "absent"
    ACCEPTED = "accepted"
    """Written down, not provably begun: unknown when nothing follows."""
    RUNNING = "running"
    FINISHED = "finished"
    """Its result was, or will be, delivered as an event of its own."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The runner has written it down and will begin. `ledger` is drawn anew whenever a ledger is made, `boot` is the
    machine's."""

    key: str
    run: str
    step: str
    ledger: str
    boot: str
    at_ms: int
    approvers: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """For the event."""
        return canonical(
            {
                "key": self.key,
                "run": self.run,
                "step": self.step,
                "ledger": self.ledger,
                "boot": self.boot,
                "at_ms": self.at_ms,
                "approvers": list(self.approvers),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakglass:
    """Root of the host had a step of a bundle begun, without the collector: told in the place of Accepted, which it
    holds. `uid` is who asked at the runner's socket, `bundle` and `step` from what, `reason` in his words."""

    accepted: Accepted
    bundle: str
    runbook: str
    action: str
    attempt: int
    uid: int
    reason: str

    def to_json(self) -> bytes:
        """For the event."""
        return canonical(
            read_canonical(self.accepted.to_json())
            | {
                "bundle": self.bundle,
                "runbook": self.runbook,
                "action": self.action,
                "attempt": self.attempt,
                "uid": self.uid,
                "reason": self.reason[:DETAIL_CHARACTERS_MAX],
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How it ended. `output` is what it printed on stdout, `errors` on stderr, secrets replaced by ***, together so
    much that the event holds it (TOLD_BYTES_MAX); `output_bytes` is how much there was, `output_digest` SHA-256 of all
    of stdout. What is not `whole` is text for people and never read as JSON.
    """

    key: str
    run: str
    step: str
    ledger: str
    outcome: Outcome
    started_ms: int
    ended_ms: int
    exit_code: int | None = None
    signal: int | None = None
    output: str = ""
    errors: str = ""
    whole: bool = True
    output_bytes: int = 0
    output_digest: str = ""
    detail: str = ""

    def to_json(self) -> bytes:
        """For the event."""
        return canonical(
            {
                "key": self.key,
                "run": self.run,
                "step": self.step,
                "ledger": self.ledger,
                "outcome": self.outcome.value,
                "started_ms": self.started_ms,
                "ended_ms": self.ended_ms,
                "exit_code": self.exit_code,
                "signal": self.signal,
                "output": self.output,
                "errors": self.errors,
                "whole": self.whole,
                "output_bytes": self.output_bytes,
                "output_digest": self.output_digest,
                "detail": self.detail,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """It was not run and will not be. `key` is "" for an order of which nothing could be believed."""

    key: str
    run: str
    step: str
    reason: Refusal
    detail: str
    at_ms: int

    def to_json(self) -> bytes:
        """For the event."""
        return canonical(
            {
                "key": self.key,
                "run": self.run,
                "step": self.step,
                "reason": self.reason.value,
                "detail": self.detail[:DETAIL_CHARACTERS_MAX],
                "at_ms": self.at_ms,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """The answer to an Ask. Another `ledger` than the one that accepted a command: the host cannot know about it."""

    question: str
    ledger: str
    boot: str
    states: Mapping[str, State]

    def to_json(self) -> bytes:
        """For the event."""
        return canonical(
            {
                "question": self.question,
                "ledger": self.ledger,
                "boot": self.boot,
                "states": {key: state.value for key, state in self.states.items()},
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What a host can do: sent at connection and when it changed. `runner`: whether there is one that answers;
    `roster_serial` is the newest roster it has taken, 0 for none; `epoch` the highest it has seen; `faults` are files
    and actions that are not used, each with its reason.

    What does not fit one event comes in `parts` of the same `version`, a digest of the whole, each with some of the
    actions; only all of them together are an inventory.
    """

    version: str
    part: int = 0
    parts: int = 1
    runner: bool
    ledger: str
    epoch: int
    roster_serial: int
    roster_keys: tuple[str, ...]
    actions: tuple[Action, ...]
    faults: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """For the event."""
        return canonical(
            {
                "version": self.version,
                "part": self.part,
                "parts": self.parts,
                "runner": self.runner,
                "ledger": self.ledger,
                "epoch": self.epoch,
                "roster_serial": self.roster_serial,
                "roster_keys": list(self.roster_keys),
                "actions": [one.document() for one in self.actions],
                "faults": [one[:DETAIL_CHARACTERS_MAX] for one in self.faults],
            }
        )


def read_accepted(payload: bytes) -> Accepted:
    """From an event. Raises Unreadable."""
    found = _document(payload)
    try:
        return Accepted(
            key=str(found["key"]),
            run=str(found["run"]),
            step=str(found["step"]),
            ledger=str(found["ledger"]),
            boot=str(found["boot"]),
            at_ms=int(found["at_ms"]),
            approvers=tuple(str(one) for one in found.get("approvers", [])),
        )
    except (KeyError, ValueError, TypeError) as exc:
        raise Unreadable(f"{COMMAND_ACCEPTED}: {exc!r}") from exc


def read_breakglass(payload: bytes) -> Breakglass:
    """From an event. Raises Unreadable."""
    accepted, found = read_accepted(payload), _document(payload)
    try:
        return Breakglass(
            accepted=accepted,
            bundle=str(found["bundle"]),
            runbook=str(found["runbook"]),
            action=str(found["action"]),
            attempt=int(found["attempt"]),
            uid=int(found["uid"]),
            reason=str(found["reason"]),
        )
    except (KeyError, ValueError, TypeError) as exc:
        raise Unreadable(f"{COMMAND_BREAKGLASS}: {exc!r}") from exc


def read_finished(payload: bytes) -> Finished:
    """From an event. Raises Unreadable."""
    found = _document(payload)
    try:
        return Finished(
            key=str(found["key"]),
            run=str(found["run"]),
            step=str(found["step"]),
            ledger=str(found["ledger"]),
            outcome=Outcome(found["outcome"]),
            started_ms=int(found["started_ms"]),
            ended_ms=int(found["ended_ms"]),
            exit_code=None if found["exit_code"] is None else int(found["exit_code"]),
            signal=None if found["signal"] is None else int(found["signal"]),
            output=str(found["output"])[: bounds.OUTPUT_BYTES_MAX],
            errors=str(found["errors"])[: bounds.OUTPUT_BYTES_MAX],
            whole=found["whole"] is True,
            output_bytes=int(found["output_bytes"]),
            output_digest=str(found["output_digest"]),
            detail=str(found["detail"]),
        )
    except (KeyError, ValueError, TypeError) as exc:
        raise Unreadable(f"{COMMAND_FINISHED}: {exc!r}") from exc


def read_refused(payload: bytes) -> Refused:
    """From an event. Raises Unreadable."""
    found = _document(payload)
    try:
        return Refused(
            key=str(found["key"]),
            run=str(found["run"]),
            step=str(found["step"]),
            reason=Refusal(found["reason"]),
            detail=str(found["detail"]),
            at_ms=int(found["at_ms"]),
        )
    except (KeyError, ValueError, TypeError) as exc:
        raise Unreadable(f"{COMMAND_REFUSED}: {exc!r}") from exc


def read_states(payload: bytes) -> States:
    """From an event. Raises Unreadable."""
    found = _document(payload)
    try:
        return States(
            question=str(found["question"]),
            ledger=str(found["ledger"]),
            boot=str(found["boot"]),
            states={str(key): State(state) for key, state in dict(found["states"]).items()},
        )
    except (KeyError, ValueError, TypeError) as exc:
        raise Unreadable(f"{COMMAND_STATES}: {exc!r}") from exc


def read_inventory(payload: bytes) -> Inventory:
    """From an event. Raises Unreadable."""
    found = _document(payload)
    try:
        actions = list(found["actions"])
        if len(actions) > bounds.ACTIONS_MAX:
            raise ValueError(f"{len(actions)} actions, wanted at most {bounds.ACTIONS_MAX}")
        return Inventory(
            version=str(found["version"]),
            part=int(found["part"]),
            parts=int(found["parts"]),
            runner=found["runner"] is True,
            ledger=str(found["ledger"]),
            epoch=int(found["epoch"]),
            roster_serial=int(found["roster_serial"]),
            roster_keys=tuple(str(one) for one in found["roster_keys"]),
            actions=tuple(read_action(one) for one in actions),
            faults=tuple(str(one) for one in found["faults"]),
        )
    except (KeyError, ValueError, TypeError) as exc:
        raise Unreadable(f"{ACTIONS_INVENTORY}: {exc!r}") from exc


def _document(payload: bytes) -> dict[str, Any]:
    return read_canonical(payload)
