"""What a run would do now: every step on every host, with the exact argv, and what stands in its way.

Pure. What has to be looked at is named (`PlanRow.look`), run by who asks, and handed back as `seen`; then the plan is
made again, and knows more. Only looks before the first effect are of use: after it the world is another one, so what
follows is shown and not judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from watchbill.actions.definition import Action, Effect
from watchbill.actions.definition import Value as ArgumentValue
from watchbill.actions.grants import ProtectedEffect
from watchbill_collector.runbooks.expression import Facts, Known, Unknown
from watchbill_collector.runbooks.expressions import NO_FACTS, evaluate, holds, show, truth
from watchbill_collector.runbooks.fleet import Fleet
from watchbill_collector.runbooks.model import (
    Act,
    Call,
    Check,
    Gate,
    Notify,
    OnFail,
    Parallel,
    Runbook,
    Step,
)
from watchbill_collector.runbooks.parameters import Judged
from watchbill_collector.runbooks.resolving import (
    Bound,
    Resolved,
    Unbound,
    call_parameters,
    cleanup_id,
    left_out,
    protected_effects,
    resolve,
    times_of,
)
from watchbill_collector.runbooks.templates import plain, render
from watchbill_collector.yamltree import printable

ROWS_MAX: Final = 20_000
"""Steps times hosts of one plan; what is beyond is a problem of its own."""

OK: Final = "ok"
BAD: Final = "bad"
UNSURE: Final = "unknown"
NOT_JUDGED: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """One step on one host, or a step that needs none.

    `kind` is that of the step, or undo or cleanup. `verdict` is ok, bad, unknown, or "" where there is nothing to judge
    yet. `look`: a read action whose output the plan has use for. `plan_argv` shows what the action itself says that it
    would do. `arguments` is None as long as some are not known; then `given` are the others, and `missing` says what
    these are taken from. `times` is how often it may begin once people have agreed to it, `group` the parallel
    group that it is in.
    """

    step: str
    kind: str
    host: str = ""
    agent: str = ""
    action: str = ""
    effect: str = ""
    argv: tuple[str, ...] = ()
    plan_argv: tuple[str, ...] = ()
    arguments: Mapping[str, ArgumentValue] | None = None
    given: Mapping[str, ArgumentValue] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    run_as: str = ""
    approvals: int = 0
    role: str = ""
    commit: bool = False
    look: bool = False
    verdict: str = NOT_JUDGED
    detail: str = ""
    seen: str = ""
    times: int = 1
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan. `covered` are the protected effects by the gate that people agree at, `hosts` those with an effect."""

    rows: tuple[PlanRow, ...] = ()
    problems: tuple[str, ...] = ()
    covered: Mapping[str, tuple[ProtectedEffect, ...]] = field(default_factory=dict)
    lock: str = ""
    hosts: tuple[str, ...] = ()

    @property
    def looks(self) -> tuple[PlanRow, ...]:
        """What to run live, to know more."""
        return tuple(row for row in self.rows if row.look)


def plan(
    runbook: Runbook,
    parameters: Judged,
    fleet: Fleet,
    facts: Facts = NO_FACTS,
    *,
    drill: bool = False,
    seen: Mapping[str, Known] | None = None,
    books: Mapping[str, Runbook] | None = None,
) -> Planned:
    """What a run would do. `seen` is what steps that were looked at have brought, by id, as `outputs.step_value` has
    it; `books` are the runbooks that may be called, by name."""
    planning = _Planning(fleet, facts, seen or {}, books or {}, drill=drill)
    planning.problems += [f"{name}: {text}" for name, text in parameters.problems.items()]
    lock = planning.runbook(runbook, parameters, "")
    hosts = sorted(planning.changed)
    if runbook.limits.hosts and len(hosts) > runbook.limits.hosts:
        planning.problems.append(
            f"changes {len(hosts)} hosts, its limit is {runbook.limits.hosts}: {', '.join(hosts[:20])}"
        )
    if len(planning.rows) > ROWS_MAX:
        planning.problems.append(f"{len(planning.rows)} rows, wanted at most {ROWS_MAX}")
    return Planned(
        rows=tuple(planning.rows[:ROWS_MAX]),
        problems=tuple(dict.fromkeys(map(printable, planning.problems))),
        covered=planning.covered,
        lock=lock,
        hosts=tuple(hosts),
    )


class _Planning:
    def __init__(
        self,
        fleet: Fleet,
        facts: Facts,
        seen: Mapping[str, Known],
        books: Mapping[str, Runbook],
        *,
        drill: bool,
    ) -> None:
        self._fleet = fleet
        self._facts = facts
        self._seen = seen
        self._books = books
        self._drill = drill
        self._after = ""
        """The first step with an effect, once it has been passed."""
        self._digests: dict[int, str] = {}
        """Of actions that the fleet holds, by their identity."""
        self.rows: list[PlanRow] = []
        self.problems: list[str] = []
        self.covered: dict[str, tuple[ProtectedEffect, ...]] = {}
        self.changed: set[str] = set()

    def runbook(self, book: Runbook, parameters: Judged, prefix: str) -> str:
        """Rows of one runbook; its lock. A called one has the id of the step that calls it before its own."""
        scope: dict[str, Known] = dict(parameters.values)
        for step in book.steps:
            if left_out(step, drill=self._drill):
                continue
            inner = step.what.steps if isinstance(step.what, Parallel) else ()
            changed = False
            for one in (step, *inner):
                if not left_out(one, drill=self._drill):
                    first = len(self.rows)
                    changed |= self._step(book, one, scope, prefix, parameters.now)
                    group = "" if one is step else prefix + step.id
                    self.rows[first:] = [replace(row, group=row.group or group) for row in self.rows[first:]]
            for one in (step, *inner):
                name = prefix + one.id
                if not self._after and name in self._seen:
                    scope[one.id] = self._seen[name]
            if changed and not self._after:
                self._after = prefix + step.id
        if self._drill and book.drill is not None:
            for number, act in enumerate(book.drill.cleanup, 1):
                self._act(prefix + cleanup_id(number), "cleanup", act, scope)
        self._gates(book, scope, prefix)
        lock = "" if book.lock is None else render(book.lock, scope, self._facts)
        if isinstance(lock, Unknown):
            self.problems.append(f"the lock {book.lock.text if book.lock else ''} is not known")
            return ""
        return plain(lock)

    def _step(
        self, book: Runbook, step: Step, scope: dict[str, Known], prefix: str, now: datetime | None
    ) -> bool:
        """The rows of one step; whether it changes anything."""
        name = prefix + step.id
        condition = ""
        if step.when is not None:
            verdict = truth(evaluate(step.when, scope, self._facts))
            if verdict is False and not self._after:
                self.rows.append(
                    PlanRow(step=name, kind=kind_of(step), detail=f"left out: {show(step.when)} is false")
                )
                return False
            condition = f"when {show(step.when)}"
        match step.what:
            case Act() as act:
                changed = self._act(name, "do", act, scope, step, condition)
                if step.undo is not None:
                    self._act(name, "undo", step.undo, scope)
                return changed
            case Check() as check:
                self._check(name, check, scope, condition)
            case Gate(role=role, count=count):
                self.rows.append(
                    PlanRow(step=name, kind="approve", approvals=count, role=role, detail=condition)
                )
            case Notify(channel=channel):
                self.rows.append(PlanRow(step=name, kind="notify", detail=f"to {channel}"))
            case Call() as call:
                self._call(name, call, scope, now, called_from=book.name, nested=bool(prefix))
            case Parallel(steps=steps):
                detail = "together: " + ", ".join(one.id for one in steps)
                self.rows.append(PlanRow(step=name, kind="parallel", detail=detail))
        return False

    def _act(
        self,
        name: str,
        kind: str,
        act: Act,
        scope: Mapping[str, Known],
        step: Step | None = None,
        condition: str = "",
    ) -> bool:
        resolved: Resolved = resolve(act, scope, self._fleet, self._facts)
        commit = step is not None and step.commit
        retries = step.retry_times if step is not None else 0
        changed = False
        for one in resolved.bound:
            row = self._row(name, kind, one, condition, commit=commit)
            row = replace(row, times=times_of(one.action.effect, retries))
            self.rows.append(row)
            if row.verdict == BAD and not (step is not None and step.on_fail is OnFail.CONTINUE):
                self.problems.append(f"{name}: {row.action} fails on {row.host}")
            if kind == "do" and one.action.effect is not Effect.READ:
                changed = True
                self.changed.add(one.host.name)
        for other in resolved.unbound:
            waits = _unbound_row(name, kind, other, condition, commit=commit)
            known = Effect.ONCE if other.known is None else other.known.effect
            self.rows.append(replace(waits, times=times_of(known, retries)))
            changed |= kind == "do" and other.known is not None and other.known.effect is not Effect.READ
            if not other.unknown:
                self.problems.append(f"{name}: {other.message}")
        return changed

    def _row(self, name: str, kind: str, one: Bound, condition: str, *, commit: bool) -> PlanRow:
        action = one.action
        read = action.effect is Effect.READ
        result = _part(self._seen.get(name), one.host.name) if kind == "do" else None
        verdict, text = NOT_JUDGED, ""
        if result is not None and not self._after:
            verdict = UNSURE if "ok" not in result else OK if result["ok"] is True else BAD
            text = plain(result["out"]) if "out" in result else ""
        return PlanRow(
            step=name,
            kind=kind,
            host=one.host.name,
            agent=one.host.agent,
            action=action.name,
            effect=action.effect.value,
            argv=one.argv,
            plan_argv=action.command_line(one.arguments, plan=True) if action.plan_argv else (),
            arguments=one.arguments,
            digest=self._digest(action),
            run_as=action.run_as,
            approvals=action.needs.approvals,
            role=action.needs.role,
            commit=commit,
            look=kind == "do" and read and not self._after,
            verdict=verdict,
            detail=condition,
            seen=text,
        )

    def _digest(self, action: Action) -> str:
        found = self._digests.get(id(action))
        if found is None:
            found = self._digests[id(action)] = action.digest()
        return found

    def _check(self, name: str, check: Check, scope: Mapping[str, Known], condition: str) -> None:
        text = show(check.condition)
        if self._after:
            self.rows.append(PlanRow(step=name, kind="check", detail=f"{text}; judged after {self._after}"))
            return
        value = truth(evaluate(check.condition, scope, self._facts))
        verdict = UNSURE if isinstance(value, Unknown) else OK if holds(value) else BAD
        if verdict == BAD and not check.within_s:
            self.problems.append(f"{name}: {text} is false")
        detail = f"{text}; {condition}" if condition else text
        self.rows.append(PlanRow(step=name, kind="check", verdict=verdict, detail=detail))

    def _call(
        self,
        name: str,
        call: Call,
        scope: Mapping[str, Known],
        now: datetime | None,
        *,
        called_from: str,
        nested: bool,
    ) -> None:
        child = self._books.get(call.runbook)
        self.rows.append(PlanRow(step=name, kind="call", detail=call.runbook))
        if nested or call.runbook == called_from:
            self.problems.append(f"{name}: a runbook that is called calls {call.runbook}")
        elif child is None:
            self.problems.append(f"{name}: there is no runbook {call.runbook}")
        else:
            judged = call_parameters(call, child, scope, self._facts, drill=self._drill, now=now)
            self.problems += [f"{name}: {one}: {text}" for one, text in judged.problems.items()]
            self.runbook(child, judged, f"{name}/")

    def _gates(self, book: Runbook, scope: Mapping[str, Known], prefix: str) -> None:
        for step in book.steps:
            if not isinstance(step.what, Gate) or left_out(step, drill=self._drill):
                continue
            found = protected_effects(
                book, step.id, scope, self._fleet, self._facts, drill=self._drill, prefix=prefix
            )
            self.covered[prefix + step.id] = found.effects


def kind_of(step: Step) -> str:
    """The word of a step's kind."""
    words = {Act: "do", Check: "check", Gate: "approve", Notify: "notify", Call: "call", Parallel: "parallel"}
    return words[type(step.what)]


def _unbound_row(name: str, kind: str, one: Unbound, condition: str, *, commit: bool) -> PlanRow:
    action: Action | None = one.known
    detail = f"{one.message}; {condition}" if condition else one.message
    return PlanRow(
        step=name,
        kind=kind,
        host=one.host,
        action=one.action,
        effect="" if action is None else action.effect.value,
        argv=one.argv,
        given=one.given,
        missing=one.missing,
        run_as="" if action is None else action.run_as,
        approvals=0 if action is None else action.needs.approvals,
        role="" if action is None else action.needs.role,
        digest="" if action is None else action.digest(),
        commit=commit,
        verdict=NOT_JUDGED if one.unknown else BAD,
        detail=detail,
    )


def _part(value: Known, host: str) -> dict[str, Known] | None:
    """What a step has brought on one host."""
    hosts = value.get("hosts") if isinstance(value, dict) else None
    found = hosts.get(host) if isinstance(hosts, dict) else None
    return found if isinstance(found, dict) else None
