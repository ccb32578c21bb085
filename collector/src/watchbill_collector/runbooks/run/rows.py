"""What the rows of a run's journal say. Times are UTC milliseconds of the collector, unless a host's is said.

A row is written before what follows from it: `intent` before anything is sent, `result` before the next step, a
person's word before its effect. Fields are only added, each with a default: old journals are folded for years.
"""

from typing import Any, Final, TypeAlias

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True, tag_field="row", omit_defaults=True):
    """One thing that happened."""


class Created(Row, frozen=True, kw_only=True, tag="created"):
    """The run is there. `called` are the digests of the runbooks that this one calls, by name; `notes` what whoever
    made it was told, `expires_ms` until when somebody may start what was only proposed."""

    runbook: str
    digest: str
    parameters: dict[str, str]
    requester: str
    reason: str
    trigger: str = ""
    drill: bool = False
    proposed: bool = False
    expires_ms: int = 0
    lock: str = ""
    rto_ms: int = 0
    hosts: list[str] = []
    called: dict[str, str] = {}
    notes: list[str] = []


class State(Row, frozen=True, kw_only=True, tag="state"):
    """The run does something else now; `step` is what a person is asked about."""

    state: str
    detail: str = ""
    step: str = ""


class PhaseBegan(Row, frozen=True, kw_only=True, tag="phase"):
    """The run goes through another list: undo, or clean-up. `ending` is what it will be afterwards."""

    phase: str
    ending: str
    detail: str = ""


class Resumed(Row, frozen=True, kw_only=True, tag="resumed"):
    """Another collector, or the same one after its death, goes on with this run."""

    epoch: int


class StepBegan(Row, frozen=True, kw_only=True, tag="step_began"):
    """A step begins. `targets` are what it runs on which host, in waves of these sizes."""

    step: str
    phase: str
    targets: list["Target"] = []
    waves: list[int] = []
    max_failures: int = 0
    effect: str = ""


class Target(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One host of a step: the action with its digest and its arguments, as they were when the step began."""

    host: str
    agent: str
    action: str
    digest: str
    effect: str
    arguments: dict[str, str | int] = {}
    output: str = "text"
    timeout_s: int = 0
    probe: str = ""
    done_when: str = ""
    approvals: int = 0
    role: str = ""


class Called(Row, frozen=True, kw_only=True, tag="called"):
    """A step calls another runbook, with these parameters."""

    step: str
    runbook: str
    digest: str
    parameters: dict[str, str]


class StepEnded(Row, frozen=True, kw_only=True, tag="step_ended"):
    """A step is over: ok, failed or skipped. `noted`: it failed, and the run goes on."""

    step: str
    phase: str
    state: str
    detail: str = ""
    noted: bool = False


class Intent(Row, frozen=True, kw_only=True, tag="intent"):
    """A command will be sent. `ledger` is the host's as it was last told; `probes` the key that it asks about."""

    key: str
    step: str
    phase: str
    host: str
    agent: str
    attempt: int
    purpose: str
    action: str
    digest: str
    effect: str
    not_after_ms: int
    arguments: dict[str, str | int] = {}
    ledger: str = ""
    commit: bool = False
    gate: str = ""
    probes: str = ""
    round: int = 0
    """Of fresh premises; 0: the step itself."""
    output: str = "text"
    timeout_s: int = 0


class Sent(Row, frozen=True, kw_only=True, tag="sent"):
    """The command is about to leave."""

    key: str


class Unsent(Row, frozen=True, kw_only=True, tag="unsent"):
    """It did not leave: its host was away."""

    key: str


class Accepted(Row, frozen=True, kw_only=True, tag="accepted"):
    """The host has written it down. `host_ms` is its own time."""

    key: str
    ledger: str
    boot: str
    host_ms: int = 0
    approvers: list[str] = []


class Result(Row, frozen=True, kw_only=True, tag="result"):
    """How a command ended, as its host said."""

    key: str
    outcome: str
    exit_code: int | None = None
    signal: int | None = None
    started_ms: int = 0
    ended_ms: int = 0
    output: str = ""
    errors: str = ""
    whole: bool = True
    output_bytes: int = 0
    output_digest: str = ""
    detail: str = ""


class Refused(Row, frozen=True, kw_only=True, tag="refused"):
    """The host did not take it up."""

    key: str
    reason: str
    detail: str = ""


class Unasked(Row, frozen=True, kw_only=True, tag="unasked"):
    """A host refused a command of this run that the journal does not have, or took it up (`reason` is `accepted`):
    somebody else has ordered it, or root of the host has done it by a bundle."""

    key: str
    step: str
    agent: str
    reason: str
    detail: str = ""
    host_ms: int = 0


class Lapsed(Row, frozen=True, kw_only=True, tag="lapsed"):
    """It never began, and never will: it was not sent in time, or its host's ledger does not have it."""

    key: str
    why: str


class Lost(Row, frozen=True, kw_only=True, tag="unknown"):
    """Whether it ran, nobody knows. Nothing of it can begin after `free_ms`."""

    key: str
    why: str
    free_ms: int = 0


class Probed(Row, frozen=True, kw_only=True, tag="probed"):
    """What the probe of a lost command says: it has happened, it has not, or that cannot be told."""

    key: str
    probe: str
    happened: str


class CancelSent(Row, frozen=True, kw_only=True, tag="cancel"):
    """What runs under this key is to be ended."""

    key: str
    why: str


class Judged(Row, frozen=True, kw_only=True, tag="verdict"):
    """What a check came to, with the values it saw."""

    step: str
    verdict: str
    text: str
    seen: dict[str, str] = {}
    round: int = 0


class Timer(Row, frozen=True, kw_only=True, tag="timer"):
    """Something waits until a moment: `what` is retry, within or hold."""

    step: str
    what: str
    at_ms: int
    host: str = ""
    phase: str = "forward"


class GateOpened(Row, frozen=True, kw_only=True, tag="gate_opened"):
    """People are asked. `manifest` is the document they agree to, `digest` its digest."""

    step: str
    role: str
    count: int
    expires_ms: int
    manifest: str
    digest: str
    own_vote: bool = False
    on_host: bool = False


class Voted(Row, frozen=True, kw_only=True, tag="vote"):
    """Somebody said yes or no. `signed` is base64; "" for who was logged in at the page."""

    step: str
    person: str
    approve: bool
    digest: str
    signed: str = ""
    comment: str = ""


class VotesVoided(Row, frozen=True, kw_only=True, tag="votes_voided"):
    """What somebody said does not hold any more."""

    person: str
    why: str


class GateClosed(Row, frozen=True, kw_only=True, tag="gate_closed"):
    """Enough have agreed, somebody did not, or the time is over."""

    step: str
    passed: bool
    why: str
    people: list[str] = []


class Refresh(Row, frozen=True, kw_only=True, tag="refresh"):
    """What was looked at before is looked at again, before the first effect after a wait."""

    round: int
    steps: list[str]
    for_step: str


class Refreshed(Row, frozen=True, kw_only=True, tag="refreshed"):
    """It was, and still holds, or does not."""

    round: int
    ok: bool
    step: str = ""
    why: str = ""


class Operator(Row, frozen=True, kw_only=True, tag="operator"):
    """What a person did."""

    verb: str
    person: str
    reason: str
    step: str = ""


class Recovered(Row, frozen=True, kw_only=True, tag="recovered"):
    """The service is back: the recovery time ends here."""

    step: str


class Notified(Row, frozen=True, kw_only=True, tag="notified"):
    """A message is handed over. Whether it arrives changes nothing."""

    step: str
    channel: str
    text: str


AnyRow: TypeAlias = (
    Created
    | State
    | PhaseBegan
    | Resumed
    | StepBegan
    | Called
    | StepEnded
    | Intent
    | Sent
    | Unsent
    | Accepted
    | Result
    | Refused
    | Unasked
    | Lapsed
    | Lost
    | Probed
    | CancelSent
    | Judged
    | Timer
    | GateOpened
    | Voted
    | VotesVoided
    | GateClosed
    | Refresh
    | Refreshed
    | Operator
    | Recovered
    | Notified
)

_read: Final = msgspec.json.Decoder(AnyRow).decode


def kind_of(row: Row) -> str:
    """Its kind, in one word."""
    return str(row.__struct_config__.tag)


def body_of(row: Row) -> dict[str, Any]:
    """As the journal keeps it."""
    found: dict[str, Any] = msgspec.to_builtins(row)
    return found


def read_row(body: str | bytes) -> AnyRow:
    """From the journal. Raises msgspec.ValidationError, which says that this journal is of a newer version."""
    found: AnyRow = _read(body)
    return found
