"""What the collector asks of a host's runner, signed by its command key; the agent and the broker only carry it.

An order names its site, its host by `agent_id`, the collector's epoch, a counter that grows, and until when it may be
taken up. The runner judges in this order and refuses with the first word that fits (`Refusal`):

    signature, form, site and host, epoch, times, the key already known (then the stored answer is given again),
    counter, action and its digest, arguments, approvals, how often they let it begin, cooldown, parallel, lock

`Command` has an effect, the others have none: `Ask` wants to know what became of commands, `Cancel` ends one that runs,
`RosterCopy` carries the roster that its own keys sign.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from watchbill.actions import bounds
from watchbill.actions.canonical import canonical
from watchbill.actions.definition import DIGEST_CHARACTERS, Value
from watchbill.actions.signing import Domain, open_signed, sign
from watchbill.errors import Unreadable

ASKED_KEYS_MAX: Final = 256
"""Commands that one Ask may name."""
KEY_CHARACTERS: Final = 64


class Purpose(StrEnum):
    """Why a command is sent."""

    STEP = "step"
    UNDO = "undo"
    CLEANUP = "cleanup"
    """After a drill."""
    PROBE = "probe"
    """Whether another command has happened. Read actions only."""
    PLAN = "plan"
    """What would happen: a read action, or the `plan_argv` of another."""
    PREFLIGHT = "preflight"
    """Whether the runbook could run now: as PLAN."""


LOOKS: Final = frozenset({Purpose.PROBE, Purpose.PLAN, Purpose.PREFLIGHT})
"""Purposes that change nothing, so nobody has to agree."""


class Refusal(StrEnum):
    """Why a runner does not do what it was asked. Counted under these words; each is an event."""

    SIGNATURE = "signature"
    FORM = "form"
    OTHER_HOST = "other_host"
    EPOCH = "epoch"
    EXPIRED = "expired"
    CLOCK = "clock"
    """The command comes from the future: one of the clocks is wrong."""
    COUNTER = "counter"
    NOT_ALLOWED = "not_allowed"
    """No such action in actions.d, or one that must not be used: a file that others may write."""
    CHANGED = "changed"
    """The action is another than the one that was planned and agreed to."""
    ARGUMENTS = "arguments"
    PURPOSE = "purpose"
    """An action with an effect where only looking is allowed."""
    APPROVALS = "approvals"
    SPENT = "spent"
    """It has begun as often as people agreed to, or this ledger cannot know how often."""
    ROSTER = "roster"
    """There is no roster that could say who may approve, or it is too old."""
    COOLDOWN = "cooldown"
    PARALLEL = "parallel"
    LOCKED = "locked"
    EXECUTABLE = "executable"
    """It is not there, others may write it, or it is not the one that was pinned."""
    LEDGER = "ledger"
    """The runner cannot write down what it does, so it does nothing."""
    ORDER = "order"
    """A step of a bundle before which another has to go well on this host, and has not."""
    RUNNER = "runner"
    """There is no runner on this host, or it does not answer."""
    BUSY = "busy"
    """More commands at a time than the runner takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """For whom an order is, from whom, and for how long. Times are UTC milliseconds of the collector."""

    site: str
    agent: str
    epoch: int
    counter: int
    issued_ms: int
    not_after_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Run one action once. `manifest` and `votes` are what people signed, where the action asks for it (`grants.py`).

    `lock` names what no other run may touch on this host meanwhile, "" for nothing.
    """

    run: str
    runbook: str
    runbook_digest: str
    step: str
    attempt: int
    purpose: Purpose
    host: str
    action: str
    action_digest: str
    arguments: Mapping[str, Value]
    lock: str = ""
    manifest: bytes = b""
    votes: tuple[bytes, ...] = ()

    def key(self, site: str, agent: str) -> str:
        """The name of this attempt: the same one sent again has the same key, a retry another."""
        identity = {
            "site": site,
            "agent": agent,
            "run": self.run,
            "step": self.step,
            "attempt": self.attempt,
            "purpose": self.purpose.value,
            "action": self.action,
            "action_digest": self.action_digest,
            "arguments": dict(self.arguments),
        }
        return hashlib.sha256(b"watchbill/command-key/v1\0" + canonical(identity)).hexdigest()


@dataclass(frozen=True, slots=True)
class Ask:
    """What became of these commands? Answered by one event that names each (`outcomes.States`)."""

    question: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """End what runs under this key: SIGTERM, and after the action's grace SIGKILL. Not undone."""

    key: str


@dataclass(frozen=True, slots=True)
class RosterCopy:
    """A roster, signed by its own keys."""

    signed: bytes


Order = Command | Ask | Cancel | RosterCopy


def sign_order(seed: bytes, address: Address, order: Order) -> bytes:
    """As it travels. Raises Unreadable when it has no canonical form or is too large."""
    return sign(Domain.ORDER, seed, order_document(address, order))


def open_order(key: bytes, signed: bytes) -> tuple[Address, Order]:
    """An order whose signature holds. Whether it is for this host, and in time, is the runner's to judge.

    Raises SignatureRefused, Unreadable.
    """
    return read_order(open_signed(Domain.ORDER, key, signed))


def order_document(address: Address, order: Order) -> dict[str, Any]:
    """What is signed."""
    document: dict[str, Any] = {
        "v": 1,
        "site": address.site,
        "agent": address.agent,
        "epoch": address.epoch,
        "counter": address.counter,
        "issued_ms": address.issued_ms,
        "not_after_ms": address.not_after_ms,
    }
    match order:
        case Command():
            document |= {
                "kind": "command",
                "run": order.run,
                "runbook": order.runbook,
                "runbook_digest": order.runbook_digest,
                "step": order.step,
                "attempt": order.attempt,
                "purpose": order.purpose.value,
                "host": order.host,
                "action": order.action,
                "action_digest": order.action_digest,
                "arguments": dict(order.arguments),
                "lock": order.lock,
                "manifest": order.manifest.decode("utf-8"),
                "votes": [base64.b64encode(vote).decode("ascii") for vote in order.votes],
            }
        case Ask():
            document |= {"kind": "ask", "question": order.question, "keys": list(order.keys)}
        case Cancel():
            document |= {"kind": "cancel", "key": order.key}
        case RosterCopy():
            document |= {"kind": "roster", "roster": base64.b64encode(order.signed).decode("ascii")}
    return document


def read_order(document: Mapping[str, Any]) -> tuple[Address, Order]:
    """An order from what was signed. Raises Unreadable."""
    try:
        address = Address(
            site=_text(document["site"]),
            agent=_text(document["agent"]),
            epoch=_count(document["epoch"]),
            counter=_count(document["counter"]),
            issued_ms=_count(document["issued_ms"]),
            not_after_ms=_count(document["not_after_ms"]),
        )
        return address, _order(document)
    except (KeyError, ValueError, TypeError) as exc:
        raise Unreadable(f"an order: {exc!r}") from exc


def _order(document: Mapping[str, Any]) -> Order:
    match document["kind"]:
        case "command":
            arguments = document["arguments"]
            if not isinstance(arguments, dict) or len(arguments) > bounds.ARGUMENTS_MAX:
                raise ValueError(f"arguments, wanted at most {bounds.ARGUMENTS_MAX}")
            votes = document["votes"]
            if not isinstance(votes, list) or len(votes) > bounds.VOTES_MAX:
                raise ValueError(f"votes, wanted at most {bounds.VOTES_MAX}")
            return Command(
                run=_text(document["run"]),
                runbook=_text(document["runbook"]),
                runbook_digest=_text(document["runbook_digest"], DIGEST_CHARACTERS),
                step=_text(document["step"], 2 * bounds.NAME_CHARACTERS_MAX),
                attempt=_count(document["attempt"]),
                purpose=Purpose(document["purpose"]),
                host=_text(document["host"], bounds.ARGUMENT_CHARACTERS_MAX),
                action=_text(document["action"]),
                action_digest=_text(document["action_digest"], DIGEST_CHARACTERS),
                arguments={_text(name): _value(value) for name, value in arguments.items()},
                lock=_text(document["lock"], bounds.ARGUMENT_CHARACTERS_MAX),
                manifest=str(document["manifest"]).encode("utf-8"),
                votes=tuple(_base64(vote) for vote in votes),
            )
        case "ask":
            keys = document["keys"]
            if not isinstance(keys, list) or len(keys) > ASKED_KEYS_MAX:
                raise ValueError(f"keys, wanted at most {ASKED_KEYS_MAX}")
            return Ask(_text(document["question"]), tuple(_text(key, KEY_CHARACTERS) for key in keys))
        case "cancel":
            return Cancel(_text(document["key"], KEY_CHARACTERS))
        case "roster":
            return RosterCopy(_base64(document["roster"]))
        case other:
            raise ValueError(f"the kind {other!r:.40}")


def _text(found: object, characters_max: int = bounds.NAME_CHARACTERS_MAX) -> str:
    if not isinstance(found, str) or len(found) > characters_max:
        raise ValueError(f"wanted text of at most {characters_max} characters")
    return found


def _count(found: object) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ValueError("wanted a whole number from 0")
    return found


def _value(found: object) -> Value:
    if not isinstance(found, (str, int)) or isinstance(found, bool):
        raise ValueError("wanted text or a whole number")
    return found


def _base64(found: object) -> bytes:
    try:
        return base64.b64decode(str(found).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise ValueError("wanted base64") from exc
