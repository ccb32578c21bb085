# ruff: noqa: ARG002 - The twins take what the contract gives them, and need less of it.
"""In-memory twins of the runbooks: one that runs scripts of steps at once, and one of a collector that has none.

A `TwinBook` says in plain values what a runbook's file would: its steps, on which hosts, and how they end. Who may see
and change what, who counts at a gate, locks, the pause and every refusal are as the contract wants them; signed votes
are counted as on a host, by a real roster. There is no host, so nothing happens between two calls.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from watchbill.actions import grants
from watchbill.actions.grants import Manifest, ProtectedEffect
from watchbill.actions.signing import SignatureRefused
from watchbill.clock import Clock
from watchbill.errors import Refused, Unreadable
from watchbill_collector.api.ports import Caller, NoSuch, Role, at
from watchbill_collector.api.runbook_port import (
    ENDED,
    JOURNAL_ROWS_MAX,
    AttemptView,
    Finding,
    JournalRow,
    Plan,
    PlanStep,
    RunbookView,
    RunState,
    RunVerb,
    RunView,
    StepView,
    VoteView,
    event_of,
    exit_code,
    no_run,
    no_runbook,
)
from watchbill_collector.scopes import Bindings, View

if TYPE_CHECKING:
    from watchbill.actions.roster import Roster

RUNNING_ROLES: Final = frozenset({Role.OPERATOR, Role.APPROVER})
GATE_S: Final = 1_800.0
SITE: Final = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinStep:
    """One step. `kind` is do, check or approve; `ends` what its first attempts come to, then ok: ok, failed, unknown.

    `protected`: its host looks at the votes of the gate before it.
    """

    id: str
    kind: str = "do"
    host: str = ""
    action: str = ""
    argv: tuple[str, ...] = ()
    effect: str = "repeat"
    run_as: str = "root"
    role: str = ""
    needed: int = 0
    protected: bool = False
    commit: bool = False
    ends: tuple[str, ...] = ()
    output: str = ""
    seen: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinBook:
    """One runbook. `view` carries what only is shown; name, digest, acceptance and open runs are the twin's."""

    text: str
    author: str
    steps: tuple[TwinStep, ...]
    view: RunbookView
    parameters: Mapping[str, str | None] = field(default_factory=dict)
    """Each with its default; None: it has to be given."""
    confirm: str = ""
    """The parameter whose value has to be typed."""
    lock: str = ""

    @property
    def hosts(self) -> frozenset[str]:
        """Where it acts."""
        return frozenset(step.host for step in self.steps if step.host)


@dataclass(slots=True)
class _Run:
    view: RunView
    book: TwinBook
    at: int = 0
    """The number of the step it stands at."""
    tries: dict[str, int] = field(default_factory=dict)
    rows: list[JournalRow] = field(default_factory=list)
    signed: dict[str, list[bytes]] = field(default_factory=dict)
    said: dict[str, list[VoteView]] = field(default_factory=dict)


def blank(name: str, **more: object) -> RunbookView:
    """A runbook of which nothing is known but its name."""
    given: dict[str, object] = {
        "name": name,
        "digest": "",
        "about": "",
        "file": f"{name}.yaml",
        "accepted_by": "",
        "accepted": None,
        "ready": None,
        "not_ready": (),
        "preflight": None,
        "rto_s": 0.0,
        "rpo_s": 0.0,
        "trigger": "",
        "automatic": False,
        "breaker_open": False,
        "drill_every_s": 0.0,
        "last_drill": None,
        "last_drill_state": "",
        "drill_due": None,
        "recovery_p90_s": None,
        "findings": (),
        "open_runs": 0,
    }
    return RunbookView(**(given | more))  # type: ignore[arg-type]  # Fields by name, from a table.


class RunbooksTwin:
    """Runbooks by name and their runs. `roster` is who may sign; `publish` the bus."""

    def __init__(
        self,
        clock: Clock,
        bindings: Bindings,
        publish: Callable[[str, object], None] = lambda _kind, _document: None,
    ) -> None:
        self._clock = clock
        self._bindings = bindings
        self.publish = publish
        self.roster: Roster | None = None
        self._books: dict[str, TwinBook] = {}
        self._runs: dict[str, _Run] = {}
        self._paused: tuple[str, str, datetime] | None = None
        self.journal_of_people: list[tuple[str, str, str]] = []
        """Who did what to which."""

    def put(self, book: TwinBook) -> RunbookView:
        """Have a runbook, or another text of it, which nobody has accepted."""
        digest = hashlib.sha256(book.text.encode()).hexdigest()
        view = dataclasses.replace(book.view, digest=digest)
        self._books[view.name] = dataclasses.replace(book, view=view)
        return view

    # ------------------------------------------------------------ runbooks

    async def runbooks(self, caller: Caller) -> Sequence[RunbookView]:
        """All that he sees, by name."""
        return [
            self._standing(book) for _, book in sorted(self._books.items()) if self._sees(caller, book.hosts)
        ]

    async def runbook(self, name: str, caller: Caller) -> tuple[RunbookView, str]:
        """One, and its text."""
        book = self._book(name, caller)
        return self._standing(book), book.text

    async def lint(self, name: str, content: str, caller: Caller) -> Sequence[Finding]:
        """A text without a name is none."""
        if any(line.startswith("runbook:") for line in content.splitlines()):
            return ()
        return (
            Finding(
                file=name or "runbook.yaml",
                line=1,
                where="runbook",
                severity="error",
                message="got nothing, wanted the runbook's name",
            ),
        )

    async def plan(self, name: str, given: Mapping[str, str], drill: bool, caller: Caller) -> Plan:
        """Its steps as they are."""
        book = self._book(name, caller)
        self._may_change(caller, book.hosts, f"plan {name}")
        values, problems = _values(book, given)
        if not book.view.accepted_by and not drill:
            problems.append(f"nobody has accepted this text: watchbill runbooks accept {name}")
        return Plan(
            runbook=name,
            digest=book.view.digest,
            drill=drill,
            parameters=values,
            confirm="" if drill else values.get(book.confirm, ""),
            lock=book.lock,
            steps=[_planned(step) for step in book.steps],
            problems=problems,
        )

    async def accept(self, name: str, digest: str, caller: Caller) -> RunbookView:
        """By somebody else than its author, and of the text that he has read."""
        book = self._book(name, caller)
        self._may_change(caller, book.hosts, f"accept {name}", frozenset({Role.APPROVER}))
        if digest != book.view.digest:
            raise Refused(f"{name} has another text by now: read it again, its digest is {book.view.digest}")
        if caller.name == book.author:
            raise Refused(f"{caller.name} wrote this text of {name}: somebody else has to accept it")
        accepted = dataclasses.replace(book.view, accepted_by=caller.name, accepted=self._now())
        self._books[name] = dataclasses.replace(book, view=accepted)
        self.journal_of_people.append(("accept", name, caller.name))
        return self._standing(self._books[name])

    async def reset_breaker(self, name: str, reason: str, caller: Caller) -> RunbookView:
        """It is closed again."""
        book = self._book(name, caller)
        self._may_change(caller, book.hosts, f"reset the breaker of {name}")
        if not book.view.breaker_open:
            raise Refused(f"the breaker of {name} is not open")
        self._books[name] = dataclasses.replace(book, view=dataclasses.replace(book.view, breaker_open=False))
        self.journal_of_people.append(("breaker", name, caller.name))
        return self._standing(self._books[name])

    # ------------------------------------------------------------ runs

    async def start(
        self, name: str, given: Mapping[str, str], reason: str, drill: bool, confirm: str, caller: Caller
    ) -> RunView:
        """Begin, and go as far as it goes by itself."""
        plan = await self.plan(name, given, drill, caller)
        if plan.problems:
            raise Refused("; ".join(plan.problems))
        if confirm != plan.confirm:
            raise Refused(f"this needs {plan.confirm!r} to be typed, got {confirm!r}")
        return self._new(self._books[name], plan, reason, caller, RunState.QUEUED)

    def propose(self, name: str, reason: str, trigger: str) -> RunView:
        """What an alert does: a run that waits for somebody to start it."""
        book = self._books[name]
        values, _ = _values(book, {})
        plan = Plan(
            runbook=name,
            digest=book.view.digest,
            drill=False,
            parameters=values,
            confirm="",
            lock=book.lock,
            steps=(),
            problems=(),
        )
        return self._new(book, plan, reason, Caller("alert", via=trigger), RunState.PROPOSED)

    async def runs(
        self, caller: Caller, open_only: bool, drills_only: bool, runbook: str, limit: int
    ) -> Sequence[RunView]:
        """The newest first."""
        return [
            run.view
            for run in reversed(self._runs.values())
            if self._sees(caller, run.book.hosts)
            and (not open_only or run.view.state not in ENDED)
            and (not drills_only or run.view.drill)
            and runbook in ("", run.view.runbook)
        ][:limit]

    async def run(self, run_id: str, caller: Caller) -> RunView:
        """One."""
        return self._run(run_id, caller).view

    async def journal(self, run_id: str, after: int, caller: Caller) -> Sequence[JournalRow]:
        """Its rows."""
        return [row for row in self._run(run_id, caller).rows if row.n > after][:JOURNAL_ROWS_MAX]

    async def change(self, run_id: str, verb: RunVerb, step: str, reason: str, caller: Caller) -> RunView:
        """What a person decides."""
        run = self._run(run_id, caller)
        self._may_change(caller, run.book.hosts, f"{verb} {run_id}")
        state = run.view.state
        if state in ENDED:
            raise Refused(f"the run {run_id} has ended: it is {state}")
        if verb is RunVerb.START and state is not RunState.PROPOSED:
            raise Refused(f"the run {run_id} is {state}, and only what is proposed is started")
        here = run.book.steps[run.at].id
        if verb in (RunVerb.RETRY, RunVerb.SKIP, RunVerb.MARK_DONE):
            if state is not RunState.HELD:
                raise Refused(f"the run {run_id} is {state}, and only what is held can be told to {verb}")
            if step not in ("", here):
                raise Refused(f"the run {run_id} is held at {here}, not at {step}")
        self._write(run, "verb", caller.name, here, verb=verb.value, reason=reason)
        self.journal_of_people.append((verb.value, run_id, caller.name))
        match verb:
            case RunVerb.ABORT:
                return self._set(run, RunState.CANCELLED, f"aborted by {caller.name}: {reason}")
            case RunVerb.UNDO:
                return self._set(run, RunState.UNDONE, f"undone by {caller.name}: {reason}")
            case RunVerb.SKIP:
                self._step(run, here, state="skipped", detail=f"skipped by {caller.name}: {reason}")
                run.at += 1
            case RunVerb.MARK_DONE:
                self._step(run, here, state="ok", detail=f"marked done by {caller.name}: {reason}")
                run.at += 1
        return self._go(run)

    async def vote(self, run_id: str, step: str, signed: bytes, caller: Caller) -> RunView:
        """Count it as a host would."""
        run, gate = self._gate(run_id, step, caller)
        if self.roster is None:
            raise Refused("there is no roster, so no signed vote can be judged")
        try:
            vote, person = grants.open_vote(self.roster, signed)
        except (SignatureRefused, Unreadable) as exc:
            raise Refused(str(exc)) from exc
        manifest = gate.manifest.encode()
        votes = [*run.signed.get(step, ()), signed]
        agreed, left_out = grants.count_votes(
            self.roster, manifest, votes, gate.role, self._labels(run), self._clock.wall_ms()
        )
        if vote.approve and person.name not in agreed:
            raise Refused("; ".join(left_out) or f"{person.name} does not count here")
        if vote.manifest != gate.manifest_digest:
            raise Refused(f"{person.name} voted on something else")
        run.signed[step] = votes
        return self._voted(run, gate, person.name, vote.approve, vote.comment)

    async def approve(self, run_id: str, step: str, yes: bool, comment: str, caller: Caller) -> RunView:
        """By who is logged in."""
        run, gate = self._gate(run_id, step, caller)
        if gate.verified_on_host:
            raise Refused(f"hosts look at this gate themselves: watchbill approve {run_id} {step}")
        if yes and caller.name == run.view.requester:
            raise Refused(f"{caller.name} asked for it himself: somebody else has to agree")
        return self._voted(run, gate, caller.name, yes, comment)

    # ------------------------------------------------------------ automation

    async def pause(self, reason: str, caller: Caller) -> None:
        """From now on."""
        self._paused = (caller.name, reason, self._now())
        self.journal_of_people.append(("pause", "", caller.name))

    async def resume(self, reason: str, caller: Caller) -> None:
        """Everything goes on."""
        if self._paused is None:
            raise Refused("automation is not paused")
        self._paused = None
        self.journal_of_people.append(("resume", "", caller.name))
        for run in self._runs.values():
            if run.view.state is RunState.WAITING:
                self._go(run)

    async def paused(self) -> tuple[str, str, datetime] | None:
        """Whether."""
        return self._paused

    # ------------------------------------------------------------ how a run goes

    def _new(self, book: TwinBook, plan: Plan, reason: str, caller: Caller, state: RunState) -> RunView:
        number = len(self._runs) + 1
        view = RunView(
            id=f"r{number:05}",
            runbook=plan.runbook,
            digest=plan.digest,
            state=state,
            state_detail="" if state is RunState.QUEUED else "waits for somebody to start it",
            drill=plan.drill,
            requester=caller.name,
            reason=reason,
            trigger="" if state is RunState.QUEUED else caller.via,
            parameters=plan.parameters,
            lock=plan.lock,
            created=self._now(),
            started=None,
            ended=None,
            recovered=None,
            recovery_s=None,
            rto_s=book.view.rto_s,
            steps=[_pending(step, self._on_host(book, at)) for at, step in enumerate(book.steps)],
            exit_code=exit_code(state),
        )
        run = self._runs[view.id] = _Run(view, book)
        self._write(run, "created", caller.name, "", reason=reason, digest=plan.digest)
        self.journal_of_people.append(("start", view.id, caller.name))
        if state is RunState.PROPOSED:
            return view
        return self._go(run)

    def _go(self, run: _Run) -> RunView:
        """As far as it goes without a person."""
        for other in self._runs.values():
            if other is not run and other.view.lock == run.view.lock != "" and _holds_lock(other):
                return self._set(run, RunState.QUEUED, f"{other.view.id} holds the lock {run.view.lock}")
        if run.view.started is None:
            run.view = dataclasses.replace(run.view, started=self._now())
        while run.at < len(run.book.steps):
            step = run.book.steps[run.at]
            if step.kind == "approve":
                if self._step_view(run, step.id).state != "ok":
                    return self._open_gate(run, step)
            elif step.kind == "do" and step.effect != "read" and self._paused is not None:
                return self._set(run, RunState.WAITING, f"automation is paused by {self._paused[0]}")
            elif (ended := self._try(run, step)) != "ok":
                return self._set(
                    run, RunState.HELD, f"{step.id} {ended}: retry, skip, mark-done, undo or abort"
                )
            run.at += 1
        return self._set(run, RunState.SUCCEEDED, "")

    def _try(self, run: _Run, step: TwinStep) -> str:
        tried = run.tries.get(step.id, 0)
        ended = step.ends[tried] if tried < len(step.ends) else "ok"
        run.tries[step.id] = tried + 1
        now = self._now()
        old = self._step_view(run, step.id)
        attempts = list(old.attempts)
        if step.kind == "do":
            self._write(run, "intent", "", step.id, host=step.host)
            attempts.append(
                AttemptView(
                    host=step.host,
                    attempt=tried + 1,
                    key=hashlib.sha256(f"{run.view.id} {step.id} {tried}".encode()).hexdigest(),
                    purpose="step",
                    state="unknown" if ended == "unknown" else "finished",
                    outcome="" if ended == "unknown" else ended,
                    exit_code=None if ended == "unknown" else int(ended != "ok"),
                    started=now,
                    ended=now,
                    argv=step.argv,
                    output=step.output,
                    errors="",
                    detail="",
                )
            )
            self._write(run, "result", "", step.id, host=step.host, outcome=ended)
        self._step(
            run,
            step.id,
            state="held" if ended != "ok" else "ok",
            started=old.started or now,
            ended=now,
            attempts=attempts,
        )
        return ended

    def _open_gate(self, run: _Run, step: TwinStep) -> RunView:
        gate = self._step_view(run, step.id)
        if not gate.manifest:
            now_ms = self._clock.wall_ms()
            manifest = Manifest(
                site=SITE,
                run=run.view.id,
                runbook=run.view.runbook,
                runbook_digest=run.view.digest,
                gate=step.id,
                requester=run.view.requester,
                reason=run.view.reason,
                drill=run.view.drill,
                opened_ms=now_ms,
                expires_ms=now_ms + int(1000 * GATE_S),
                effects=tuple(
                    ProtectedEffect(
                        step=one.id,
                        agent=f"id-of-{one.host}",
                        host=one.host,
                        action=one.action,
                        action_digest=hashlib.sha256(one.action.encode()).hexdigest(),
                        arguments=dict(run.view.parameters),
                    )
                    for one in run.book.steps[run.at :]
                    if one.protected
                ),
            ).content()
            self._write(run, "gate", "", step.id, manifest=grants.digest(manifest))
            self._step(
                run,
                step.id,
                state="waiting",
                started=self._now(),
                manifest=manifest.decode(),
                manifest_digest=grants.digest(manifest),
                gate_expires=self._now() + timedelta(seconds=GATE_S),
            )
        text = f"{step.id}: {step.needed} of {step.role} have to agree"
        return self._set(run, RunState.WAITING, text, for_approval=True)

    def _voted(self, run: _Run, gate: StepView, person: str, yes: bool, comment: str) -> RunView:
        made = VoteView(person=person, approve=yes, at=self._now(), counted=True, why_not="", comment=comment)
        votes = [one for one in gate.votes if one.person != person] + [made]
        self._write(run, "vote", person, gate.id, approve=yes, comment=comment)
        self.journal_of_people.append(("vote", run.view.id, person))
        agreed = sum(1 for one in votes if one.approve)
        if not yes:
            self._step(run, gate.id, votes=votes, state="held", detail=f"{person} said no", ended=self._now())
            return self._set(run, RunState.HELD, f"{gate.id}: {person} said no")
        if agreed < gate.needed:
            self._step(run, gate.id, votes=votes)
            left = f"{gate.id}: {agreed} of {gate.needed} of {gate.role} have agreed"
            return self._set(run, RunState.WAITING, left, for_approval=True)
        self._step(run, gate.id, votes=votes, state="ok", ended=self._now())
        return self._go(run)

    def _set(self, run: _Run, state: RunState, detail: str, *, for_approval: bool = False) -> RunView:
        ended = state in ENDED
        run.view = dataclasses.replace(
            run.view,
            state=state,
            state_detail=detail,
            ended=self._now() if ended else None,
            recovered=self._now() if state is RunState.SUCCEEDED else None,
            recovery_s=(
                (self._now() - run.view.created).total_seconds() if state is RunState.SUCCEEDED else None
            ),
            exit_code=exit_code(state, for_approval),
        )
        self._write(run, "state", "", "", state=state.value)
        self.publish("run", event_of(run.view))
        if ended:
            for other in list(self._runs.values()):
                if other.view.state is RunState.QUEUED and other.view.lock == run.view.lock:
                    self._go(other)
        return run.view

    # ------------------------------------------------------------ who, which, when

    def _sees(self, caller: Caller, hosts: frozenset[str]) -> bool:
        view = View.of(grant.scope for grant in caller.grants)
        if caller.via == "anonymous" or view.whole:
            return True
        return any(self._within(view, host) for host in hosts)

    def _may_change(
        self, caller: Caller, hosts: frozenset[str], what: str, roles: frozenset[Role] = RUNNING_ROLES
    ) -> None:
        view = View.of(grant.scope for grant in caller.grants if grant.role in roles)
        outside = [] if view.whole else sorted(host for host in hosts if not self._within(view, host))
        if outside or (not view.whole and not hosts):
            # Whoever may not change them may not see them all either: they are not named.
            raise Refused(
                f"{caller.name} may do this to {view.text} alone, and to {what} means hosts outside of it"
            )

    def _within(self, view: View, host: str) -> bool:
        bound = self._bindings.bound(host)
        return bound is not None and view.host(host, bound)

    def _book(self, name: str, caller: Caller) -> TwinBook:
        book = self._books.get(name)
        if book is None or not self._sees(caller, book.hosts):
            raise no_runbook(name)
        return book

    def _run(self, run_id: str, caller: Caller) -> _Run:
        run = self._runs.get(run_id)
        if run is None or not self._sees(caller, run.book.hosts):
            raise no_run(run_id)
        return run

    def _gate(self, run_id: str, step: str, caller: Caller) -> tuple[_Run, StepView]:
        run = self._run(run_id, caller)
        self._may_change(caller, run.book.hosts, f"vote on {run_id}", frozenset({Role.APPROVER}))
        gate = next((one for one in run.view.steps if one.id == step and one.kind == "approve"), None)
        if gate is None:
            raise NoSuch(f"the run {run_id} has no gate {step[:40]!a}")
        if gate.state != "waiting":
            raise Refused(f"the gate {step} of {run_id} is not open: it is {gate.state}")
        return run, gate

    def _labels(self, run: _Run) -> Mapping[str, str]:
        host = next((one.host for one in run.book.steps[run.at :] if one.protected), "")
        return self._bindings.bound(host) or {}

    def _on_host(self, book: TwinBook, number: int) -> bool:
        step = book.steps[number]
        return step.kind == "approve" and any(one.protected for one in book.steps[number:])

    def _standing(self, book: TwinBook) -> RunbookView:
        counted = sum(
            1
            for run in self._runs.values()
            if run.view.runbook == book.view.name and run.view.state not in ENDED
        )
        return dataclasses.replace(book.view, open_runs=counted)

    def _step_view(self, run: _Run, step_id: str) -> StepView:
        return next(one for one in run.view.steps if one.id == step_id)

    def _step(self, run: _Run, step_id: str, **change: object) -> None:
        steps = [
            dataclasses.replace(one, **change) if one.id == step_id else one  # type: ignore[arg-type]
            for one in run.view.steps
        ]
        run.view = dataclasses.replace(run.view, steps=steps)

    def _write(self, run: _Run, kind: str, actor: str, step: str, host: str = "", **detail: object) -> None:
        before = run.rows[-1].hash if run.rows else ""
        content = json.dumps([before, len(run.rows) + 1, kind, actor, step, host, detail])
        run.rows.append(
            JournalRow(
                n=len(run.rows) + 1,
                at=self._now(),
                kind=kind,
                step=step,
                host=host,
                actor=actor,
                detail=detail,
                hash=hashlib.sha256(content.encode()).hexdigest(),
            )
        )

    def _now(self) -> datetime:
        return at(self._clock.wall_ms())


def _holds_lock(run: _Run) -> bool:
    return run.view.state not in ENDED and run.view.state not in (RunState.QUEUED, RunState.PROPOSED)


def _values(book: TwinBook, given: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What the parameters are, and what is wrong with what was given."""
    unknown = sorted(given.keys() - book.parameters.keys())
    problems = [f"there is no parameter {name[:40]!a}" for name in unknown]
    values: dict[str, str] = {}
    for name, default in book.parameters.items():
        value = given.get(name, default)
        if value is None:
            problems.append(f"the parameter {name} has to be given")
        else:
            values[name] = value
    return values, problems


def _planned(step: TwinStep) -> PlanStep:
    return PlanStep(
        step=step.id,
        kind=step.kind,
        host=step.host,
        action=step.action,
        effect=step.effect if step.kind == "do" else "",
        argv=step.argv,
        run_as=step.run_as if step.kind == "do" else "",
        approvals=step.needed,
        role=step.role,
        commit=step.commit,
        verdict="ok" if step.seen else "",
        detail="",
        seen=step.seen,
    )


def _pending(step: TwinStep, verified_on_host: bool) -> StepView:
    return StepView(
        id=step.id,
        kind=step.kind,
        state="pending",
        detail="",
        started=None,
        ended=None,
        attempts=(),
        role=step.role,
        needed=step.needed,
        votes=(),
        manifest="",
        manifest_digest="",
        gate_expires=None,
        verified_on_host=verified_on_host,
    )


class NoRunbooks:
    """The twin of a collector without runbooks."""

    async def runbooks(self, caller: Caller) -> Sequence[RunbookView]:
        """None."""
        return ()

    async def runbook(self, name: str, caller: Caller) -> tuple[RunbookView, str]:
        """There is none."""
        raise no_runbook(name)

    async def lint(self, name: str, content: str, caller: Caller) -> Sequence[Finding]:
        """Not here."""
        raise Refused("this collector runs no runbooks: watchbill-collector runbooks lint FILE")

    async def plan(self, name: str, given: Mapping[str, str], drill: bool, caller: Caller) -> Plan:
        """There is none."""
        raise no_runbook(name)

    async def accept(self, name: str, digest: str, caller: Caller) -> RunbookView:
        """There is none."""
        raise no_runbook(name)

    async def reset_breaker(self, name: str, reason: str, caller: Caller) -> RunbookView:
        """There is none."""
        raise no_runbook(name)

    async def start(
        self, name: str, given: Mapping[str, str], reason: str, drill: bool, confirm: str, caller: Caller
    ) -> RunView:
        """There is none."""
        raise no_runbook(name)

    async def runs(
        self, caller: Caller, open_only: bool, drills_only: bool, runbook: str, limit: int
    ) -> Sequence[RunView]:
        """None."""
        return ()

    async def run(self, run_id: str, caller: Caller) -> RunView:
        """There is none."""
        raise no_run(run_id)

    async def journal(self, run_id: str, after: int, caller: Caller) -> Sequence[JournalRow]:
        """There is none."""
        raise no_run(run_id)

    async def change(self, run_id: str, verb: RunVerb, step: str, reason: str, caller: Caller) -> RunView:
        """There is none."""
        raise no_run(run_id)

    async def vote(self, run_id: str, step: str, signed: bytes, caller: Caller) -> RunView:
        """There is none."""
        raise no_run(run_id)

    async def approve(self, run_id: str, step: str, yes: bool, comment: str, caller: Caller) -> RunView:
        """There is none."""
        raise no_run(run_id)

    async def pause(self, reason: str, caller: Caller) -> None:
        """Nothing would ever start."""
        raise Refused("this collector runs no runbooks")

    async def resume(self, reason: str, caller: Caller) -> None:
        """Nothing is paused."""
        raise Refused("this collector runs no runbooks")

    async def paused(self) -> tuple[str, str, datetime] | None:
        """Never."""
        return None
