"""`/api/watchbill/v1/runbooks`, `runs` and `automation`: what would be done, what is being done, and who agreed.

Whose a runbook or a run is, the service decides by the caller's grants: what is outside is not found. Here stand the
roles, the shapes and the bounds.
"""

import base64
import binascii
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from starlette.responses import Response

from watchbill.actions.grants import VOTE_BYTES_MAX
from watchbill.actions.signing import SIGNATURE_BYTES
from watchbill.errors import Busy, Refused, UsageError
from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.guard import SECRET_CHARACTERS_MAX, NotAdmitted, source_of
from watchbill_collector.api.ours import decoded
from watchbill_collector.api.params import Fields, limit_field, read_fields
from watchbill_collector.api.routes import Call, Need, Parameter, Route, Within
from watchbill_collector.api.runbook_port import (
    REASON_CHARACTERS_MAX,
    RUNS_LISTED_MAX,
    Finding,
    JournalRow,
    Plan,
    RunbookView,
    RunVerb,
    RunView,
    no_run,
    no_runbook,
)

BASE: Final = "/api/watchbill/v1"
RUNS_DEFAULT: Final = 100
NAME_CHARACTERS_MAX: Final = 256
"""Of a runbook's name or a run's id in a path."""
STEP_CHARACTERS_MAX: Final = 256
COMMENT_CHARACTERS_MAX: Final = 500
"""Of a comment beside a vote: signed, it has to fit the vote."""
PARAMETERS_MAX: Final = 64
PARAMETER_CHARACTERS_MAX: Final = 1_024


# ---------------------------------------------------------------- what crosses


@dataclass(frozen=True, slots=True)
class RunbookList:
    """Every runbook, by name."""

    runbooks: Sequence[RunbookView]


@dataclass(frozen=True, slots=True)
class RunbookDetail:
    """One runbook, and its text as it lies in its file."""

    runbook: RunbookView
    text: str


@dataclass(frozen=True, slots=True)
class LintOrder:
    """The text of a runbook to be judged. `name` is its file's, for the findings."""

    text: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong with it; none: nothing."""

    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class PlanOrder:
    """With which parameters, and whether as a drill."""

    parameters: Mapping[str, str] = field(default_factory=dict)
    drill: bool = False


@dataclass(frozen=True, slots=True)
class AcceptOrder:
    """Of which text it is said that it may be run: the digest that was read."""

    digest: str


@dataclass(frozen=True, slots=True)
class ReasonOrder:
    """Why; others read it."""

    reason: str


@dataclass(frozen=True, slots=True)
class StartOrder:
    """What to run and why. `confirm` is what the plan wants to be typed."""

    runbook: str
    reason: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    drill: bool = False
    confirm: str = ""


@dataclass(frozen=True, slots=True)
class RunList:
    """Runs, the newest first, without their steps. `truncated`: there may be older ones."""

    runs: Sequence[RunView]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Journal:
    """Rows of a run's journal, the oldest first."""

    rows: Sequence[JournalRow]


@dataclass(frozen=True, slots=True)
class VerbOrder:
    """To which step, "" for the one that the run stands at, and why."""

    reason: str
    step: str = ""


@dataclass(frozen=True, slots=True)
class VoteOrder:
    """A vote as `watchbill approve` signs it, in base64."""

    step: str
    vote: str


@dataclass(frozen=True, slots=True)
class ApproveOrder:
    """A vote by who is logged in. With a session it shows again, by his `token`, who gives it."""

    step: str
    approve: bool = True
    comment: str = ""
    token: str = ""


@dataclass(frozen=True, slots=True)
class AutomationView:
    """Whether automation is paused; by whom, why and since when."""

    paused: bool
    by: str = ""
    reason: str = ""
    since: datetime | None = None


# ---------------------------------------------------------------- reading


def _said(text: str, what: str, longest: int = REASON_CHARACTERS_MAX) -> str:
    """What somebody says, checked. Raises UsageError."""
    said = text.strip()
    if not said or len(said) > longest:
        raise UsageError(f"`{what}` got {len(said)} characters, wanted 1 to {longest}: others read it")
    return said


def _short(text: str, what: str, longest: int) -> str:
    if len(text) > longest or not (text == "" or text.isprintable()):
        raise UsageError(f"`{what}` got {len(text)} characters, wanted at most {longest}, all printable")
    return text


def parameters_of(given: Mapping[str, str]) -> dict[str, str]:
    """What somebody gives, within bounds. Raises UsageError."""
    if len(given) > PARAMETERS_MAX:
        raise UsageError(f"got {len(given)} parameters, wanted at most {PARAMETERS_MAX}")
    return {
        _short(name, "parameters", NAME_CHARACTERS_MAX): _short(value, name[:40], PARAMETER_CHARACTERS_MAX)
        for name, value in given.items()
    }


def runbook_of(call: Call) -> str:
    """The runbook that the path names. Raises NoSuch for what cannot be one's name."""
    name: str = call.request.path_params["name"]
    if len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        raise no_runbook(name)
    return name


def _run_id(call: Call) -> str:
    run_id: str = call.request.path_params["name"]
    if len(run_id) > NAME_CHARACTERS_MAX or not run_id.isprintable():
        raise no_run(run_id)
    return run_id


def run_named(run_id: str) -> str:
    """A run that a body names, "" for none. Raises NoSuch for what cannot be one's id."""
    if len(run_id) > NAME_CHARACTERS_MAX or not (run_id == "" or run_id.isprintable()):
        raise no_run(run_id)
    return run_id


def _flag(fields: Fields, name: str) -> bool:
    text = fields.one(name)
    if text not in ("", "0", "1", "true", "false"):
        raise UsageError(f"`{name}` got {text[:40]!r}, wanted 1 or 0")
    return text in ("1", "true")


async def _runbooks(call: Call) -> Response:
    return json_answer(RunbookList(await call.house.services.runbooks.runbooks(call.caller)))


async def _one_runbook(call: Call) -> Response:
    view, text = await call.house.services.runbooks.runbook(runbook_of(call), call.caller)
    return json_answer(RunbookDetail(view, text))


async def _lint(call: Call) -> Response:
    order = decoded(call.body, LintOrder)
    name = _short(order.name, "name", NAME_CHARACTERS_MAX)
    return json_answer(Findings(await call.house.services.runbooks.lint(name, order.text, call.caller)))


async def _plan(call: Call) -> Response:
    order = decoded(call.body, PlanOrder)
    runbooks = call.house.services.runbooks
    made: Plan = await runbooks.plan(
        runbook_of(call), parameters_of(order.parameters), order.drill, call.caller
    )
    return json_answer(made)


async def _runs(call: Call) -> Response:
    fields = read_fields(call.request.scope["query_string"])
    limit = min(limit_field(fields) or RUNS_DEFAULT, RUNS_LISTED_MAX)
    runbook = _short(fields.one("runbook"), "runbook", NAME_CHARACTERS_MAX)
    found = await call.house.services.runbooks.runs(
        call.caller, _flag(fields, "open"), _flag(fields, "drill"), runbook, limit
    )
    return json_answer(RunList([dataclasses.replace(run, steps=()) for run in found], len(found) >= limit))


async def _one_run(call: Call) -> Response:
    return json_answer(await call.house.services.runbooks.run(_run_id(call), call.caller))


async def _journal(call: Call) -> Response:
    text = read_fields(call.request.scope["query_string"]).one("after") or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise UsageError(f"`after` got {text[:40]!r}, wanted the number of a row")
    rows = await call.house.services.runbooks.journal(_run_id(call), int(text), call.caller)
    return json_answer(Journal(rows))


async def _automation(call: Call) -> Response:
    return json_answer(await _standing(call))


async def _standing(call: Call) -> AutomationView:
    paused = await call.house.services.runbooks.paused()
    if paused is None:
        return AutomationView(False)
    by, reason, since = paused
    return AutomationView(True, by, reason, since)


# ---------------------------------------------------------------- changing


async def _accept(call: Call) -> Response:
    digest = decoded(call.body, AcceptOrder).digest.strip().lower()
    return json_answer(await call.house.services.runbooks.accept(runbook_of(call), digest, call.caller))


async def _breaker(call: Call) -> Response:
    reason = _said(decoded(call.body, ReasonOrder).reason, "reason")
    return json_answer(
        await call.house.services.runbooks.reset_breaker(runbook_of(call), reason, call.caller)
    )


async def _start(call: Call) -> Response:
    order = decoded(call.body, StartOrder)
    if not order.runbook or len(order.runbook) > NAME_CHARACTERS_MAX or not order.runbook.isprintable():
        raise no_runbook(order.runbook)
    begun = await call.house.services.runbooks.start(
        order.runbook,
        parameters_of(order.parameters),
        _said(order.reason, "reason"),
        order.drill,
        _short(order.confirm, "confirm", PARAMETER_CHARACTERS_MAX),
        call.caller,
    )
    return json_answer(begun, 201)


async def _change(call: Call) -> Response:
    word: str = call.request.path_params["verb"]
    if word not in [verb.value for verb in RunVerb]:
        raise UsageError(f"got the verb {word[:40]!a}, wanted one of {', '.join(RunVerb)}")
    order = decoded(call.body, VerbOrder)
    step, reason = _short(order.step, "step", STEP_CHARACTERS_MAX), _said(order.reason, "reason")
    changed = await call.house.services.runbooks.change(
        _run_id(call), RunVerb(word), step, reason, call.caller
    )
    return json_answer(changed)


async def _vote(call: Call) -> Response:
    order = decoded(call.body, VoteOrder)
    try:
        signed = base64.b64decode(order.vote.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise UsageError("`vote` is no base64: `watchbill approve` makes one") from exc
    if not SIGNATURE_BYTES < len(signed) <= SIGNATURE_BYTES + VOTE_BYTES_MAX:
        raise UsageError(f"`vote` got {len(signed)} bytes, wanted a signed vote of at most {VOTE_BYTES_MAX}")
    step = _said(order.step, "step", STEP_CHARACTERS_MAX)
    return json_answer(await call.house.services.runbooks.vote(_run_id(call), step, signed, call.caller))


async def _approve(call: Call) -> Response:
    order = decoded(call.body, ApproveOrder)
    step = _said(order.step, "step", STEP_CHARACTERS_MAX)
    comment = order.comment.strip()
    if len(comment) > COMMENT_CHARACTERS_MAX:
        raise UsageError(f"`comment` got {len(comment)} characters, wanted at most {COMMENT_CHARACTERS_MAX}")
    await _shown_again(call, order.token)
    runbooks = call.house.services.runbooks
    return json_answer(await runbooks.approve(_run_id(call), step, order.approve, comment, call.caller))


async def _shown_again(call: Call, token: str) -> None:
    """Who approves with a session shows his token once more: a browser left open approves nothing.

    Raises UsageError, NotAdmitted, Busy.
    """
    if call.caller.via != "session":
        return
    if not token or len(token) > SECRET_CHARACTERS_MAX:
        raise UsageError("`token` is missing: an approval shows again who gives it")
    try:
        shown = await call.house.services.users.bearer(token.strip(), source_of(call.request))
    except Busy:
        raise
    except Refused as exc:
        raise NotAdmitted(403, "forbidden", "token", str(exc), by=call.caller) from exc
    if shown.name != call.caller.name:
        message = f"the token is not that of {call.caller.name}, who is logged in"
        raise NotAdmitted(403, "forbidden", "token", message, by=call.caller)


async def _pause(call: Call) -> Response:
    reason = _said(decoded(call.body, ReasonOrder).reason, "reason")
    await call.house.services.runbooks.pause(reason, call.caller)
    return json_answer(await _standing(call))


async def _resume(call: Call) -> Response:
    reason = _said(decoded(call.body, ReasonOrder).reason, "reason")
    await call.house.services.runbooks.resume(reason, call.caller)
    return json_answer(await _standing(call))


_NAME = Parameter("name", "The runbook's name.", required=True)
_RUN = Parameter("name", "The run's id.", required=True)

RUNBOOK_ROUTES: tuple[Route, ...] = (
    Route(
        ("GET",),
        f"{BASE}/runbooks",
        Need.READ,
        _runbooks,
        "Every runbook: whether it is accepted and ready, its objective and its last drill.",
        gives=RunbookList,
        within=Within.FILTERED,
    ),
    Route(
        ("POST",),
        f"{BASE}/runbooks/lint",
        Need.KNOWN,
        _lint,
        "Judge the text of a runbook against the hosts that are here, without keeping it.",
        takes=LintOrder,
        gives=Findings,
        within=Within.FILTERED,
    ),
    Route(
        ("POST",),
        f"{BASE}/runbooks/{{name}}/plan",
        Need.RUN,
        _plan,
        "What a run would do now: exact arguments on each host, looks on them, nothing changed.",
        (_NAME,),
        takes=PlanOrder,
        gives=Plan,
        within=Within.OBJECT,
    ),
    Route(
        ("POST",),
        f"{BASE}/runbooks/{{name}}/accept",
        Need.APPROVE,
        _accept,
        "Say that this text may be run; not by who wrote it.",
        (_NAME,),
        takes=AcceptOrder,
        gives=RunbookView,
        within=Within.OBJECT,
    ),
    Route(
        ("POST",),
        f"{BASE}/runbooks/{{name}}/breaker",
        Need.RUN,
        _breaker,
        "Let its trigger act again after runs that did not end well.",
        (_NAME,),
        takes=ReasonOrder,
        gives=RunbookView,
        within=Within.OBJECT,
    ),
    Route(
        ("GET",),
        f"{BASE}/runbooks/{{name}}",
        Need.READ,
        _one_runbook,
        "One runbook with its text.",
        (_NAME,),
        gives=RunbookDetail,
        within=Within.OBJECT,
    ),
    Route(
        ("GET",),
        f"{BASE}/runs",
        Need.READ,
        _runs,
        "Runs, the newest first, without their steps.",
        (
            Parameter("open", "1: those alone that have not ended."),
            Parameter("drill", "1: drills alone."),
            Parameter("runbook", "Of this runbook."),
            Parameter("limit", f"At most so many, {RUNS_DEFAULT} without it."),
        ),
        gives=RunList,
        within=Within.FILTERED,
    ),
    Route(
        ("POST",),
        f"{BASE}/runs",
        Need.RUN,
        _start,
        "Begin a run, or a drill.",
        takes=StartOrder,
        gives=RunView,
        within=Within.OBJECT,
    ),
    Route(
        ("GET",),
        f"{BASE}/runs/{{name}}/journal",
        Need.READ,
        _journal,
        "What was decided, sent and answered, as it was written down.",
        (_RUN, Parameter("after", "Rows after this number.")),
        gives=Journal,
        within=Within.OBJECT,
    ),
    Route(
        ("POST",),
        f"{BASE}/runs/{{name}}/vote",
        Need.APPROVE,
        _vote,
        "Hand in a vote that a person signed with his own key.",
        (_RUN,),
        takes=VoteOrder,
        gives=RunView,
        within=Within.OBJECT,
    ),
    Route(
        ("POST",),
        f"{BASE}/runs/{{name}}/approve",
        Need.APPROVE,
        _approve,
        "Agree, or not, to a gate that the collector alone checks; not by who asked for the run.",
        (_RUN,),
        takes=ApproveOrder,
        gives=RunView,
        within=Within.OBJECT,
    ),
    Route(
        ("POST",),
        f"{BASE}/runs/{{name}}/{{verb}}",
        Need.RUN,
        _change,
        f"Steer a run: {', '.join(RunVerb)}.",
        (_RUN, Parameter("verb", f"One of {', '.join(RunVerb)}.", required=True)),
        takes=VerbOrder,
        gives=RunView,
        within=Within.OBJECT,
    ),
    Route(
        ("GET",),
        f"{BASE}/runs/{{name}}",
        Need.READ,
        _one_run,
        "One run with its steps, attempts and votes.",
        (_RUN,),
        gives=RunView,
        within=Within.OBJECT,
    ),
    Route(
        ("GET",),
        f"{BASE}/automation",
        Need.READ,
        _automation,
        "Whether automation is paused.",
        gives=AutomationView,
        within=Within.NO_HOSTS,
    ),
    Route(
        ("POST",),
        f"{BASE}/automation/pause",
        Need.RUN,
        _pause,
        "No trigger starts anything and no run begins a step with an effect, until it is resumed.",
        takes=ReasonOrder,
        gives=AutomationView,
        within=Within.WHOLE,
    ),
    Route(
        ("POST",),
        f"{BASE}/automation/resume",
        Need.RUN,
        _resume,
        "The end of the pause.",
        takes=ReasonOrder,
        gives=AutomationView,
        within=Within.WHOLE,
    ),
)
