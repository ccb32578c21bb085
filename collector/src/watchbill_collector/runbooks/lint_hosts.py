"""What a runbook wants of hosts, against what they allow: actions, arguments, probes, undos, approvals.

Hosts are those that the defaults of the parameters name, in earnest and in a drill. A host that is named by a parameter
without a default may be any; then an action has to be allowed by some host.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Final

from watchbill.actions import bounds
from watchbill.actions.definition import Action, Effect
from watchbill_collector.runbooks.expression import Known
from watchbill_collector.runbooks.expression_tree import uses
from watchbill_collector.runbooks.expressions import BadExpression, parse, tree_of
from watchbill_collector.runbooks.findings import ERROR, WARNING, Finding
from watchbill_collector.runbooks.fleet import Fleet
from watchbill_collector.runbooks.model import Act, Gate, OnFail, Parallel, Runbook, Step
from watchbill_collector.runbooks.parameters import is_now, read_value
from watchbill_collector.runbooks.references import expressions_of, expressions_of_act
from watchbill_collector.runbooks.resolving import (
    Resolved,
    Unbound,
    acts_of,
    covering_gate,
    left_out,
    probe_for,
    resolve,
)


def host_findings(runbook: Runbook, fleet: Fleet) -> list[Finding]:
    """Everything that hosts would refuse, or that only looks as if it were safe."""
    found = [*_HostLint(runbook, fleet, drill=False).findings()]
    if runbook.drill is None:
        return found
    # What is wrong in earnest and in a drill is told once.
    told = {(one.line, one.where, one.message) for one in found}
    found += [
        replace(one, message=f"in a drill: {one.message}")
        for one in _HostLint(runbook, fleet, drill=True).findings()
        if (one.line, one.where, one.message) not in told
    ]
    return found


SOME_TIME: Final = "2026-01-01T00:00:00Z"
"""In the place of the moment at which a run would begin: nothing is judged by when it is linted."""


class _HostLint:
    def __init__(self, runbook: Runbook, fleet: Fleet, *, drill: bool) -> None:
        self._runbook = runbook
        self._fleet = fleet
        self._drill = drill
        self._scope = _defaults(runbook, drill=drill)
        self._outputs: dict[str, str] = {}
        """What the actions of steps print, text or json, by the id of the step."""
        self._digests: dict[int, str] = {}
        """Of actions that the fleet holds, by their identity: a thousand hosts have each its own copies."""

    def findings(self) -> Iterator[Finding]:
        behind: dict[str, int] = {}
        changed: set[str] = set()
        for at, name, act in acts_of(self._runbook, drill=self._drill):
            resolved = resolve(act, self._scope, self._fleet)
            step = self._runbook.step(name)
            own = step is not None and step.what is act
            actions = self._actions(act, resolved)
            if own and actions:
                self._outputs[name] = "json" if any(one.output == "json" for one in actions) else "text"
            yield from self._targets(name, act, resolved)
            for action in actions:
                yield from self._action(at, name, act, action, step if own else None)
                gate = covering_gate(
                    self._runbook.steps, at, action.needs.approvals, action.needs.role, drill=self._drill
                )
                if action.protected:
                    digest = self._digest(action)
                    count = sum(self._digest(one.action) == digest for one in resolved.bound)
                    behind[gate] = behind.get(gate, 0) + count
            for bound in resolved.bound:
                if own and bound.action.effect is not Effect.READ:
                    changed.add(bound.host.name)
                probe = probe_for(bound) if bound.action.effect is Effect.ONCE else None
                if isinstance(probe, Unbound):
                    yield self._finding(act.line, name, probe.message)
        yield from self._amounts(behind, changed)
        yield from self._texts()

    # Hosts.

    def _actions(self, act: Act, resolved: Resolved) -> list[Action]:
        """The different actions that are meant by one name: of the hosts it runs on, or of any when those are open."""
        found = [one.action for one in resolved.bound]
        found += [one.known for one in resolved.unbound if one.known is not None]
        if not found and any(one.unknown for one in resolved.unbound):
            found = [(host.actions or {})[act.action] for host in self._fleet.allowing(act.action)]
        return list({self._digest(action): action for action in found}.values())

    def _targets(self, name: str, act: Act, resolved: Resolved) -> Iterator[Finding]:
        for one in resolved.unbound:
            if act.on.select and not one.host:
                yield self._finding(act.on.line, f"{name}.on", one.message, WARNING)
            elif not one.unknown:
                yield self._finding(act.line, f"{name}.do", one.message)
        open_hosts = any(one.unknown and not one.host for one in resolved.unbound)
        if open_hosts and not any(True for _ in self._fleet.allowing(act.action)):
            known = sorted({action for host in self._fleet.hosts.values() for action in host.actions or {}})
            close = get_close_matches(act.action, known, 1)
            hint = f"; {close[0]}?" if close else ""
            yield self._finding(act.line, f"{name}.do", f"no host allows {act.action}{hint}")
        elif open_hosts:
            yield from self._arguments(name, act)
        if act.on.select and len(self._fleet.selected(act.on.select)) == len(self._fleet.hosts) > 1:
            message = f"{{{act.on.select}}} takes in all {len(self._fleet.hosts)} hosts"
            yield self._finding(act.on.line, f"{name}.on", message, WARNING)
        digests = {self._digest(one.action) for one in resolved.bound}
        if len(digests) > 1:
            message = f"{act.action} is {len(digests)} different actions on {len(resolved.bound)} hosts"
            yield self._finding(act.line, f"{name}.do", message, WARNING)
        changes = any(one.action.effect is not Effect.READ for one in resolved.bound)
        if self._drill and act.on.select and changes:
            message = f"a drill would change every host of {{{act.on.select}}}; wanted drill: skip"
            yield self._finding(act.on.line, f"{name}.on", message, WARNING)

    def _arguments(self, name: str, act: Act) -> Iterator[Finding]:
        """Of an action on a host that is not known before the run: the names, at least."""
        some = next(self._fleet.allowing(act.action))
        action = (some.actions or {})[act.action]
        for argument in act.arguments:
            if action.argument(argument) is None:
                message = f"{act.action} has no argument {argument}"
                yield self._finding(act.line, f"{name}.with.{argument}", message)
        for one in action.arguments:
            if one.default is None and one.name not in act.arguments:
                yield self._finding(act.line, f"{name}.with", f"{act.action} needs {one.name}")

    # Actions.

    def _action(self, at: int, name: str, act: Act, action: Action, step: Step | None) -> Iterator[Finding]:
        read = action.effect is Effect.READ
        if step is not None and read and (step.commit or step.undo is not None):
            what = "commit" if step.commit else "undo"
            yield self._finding(act.line, f"{name}.{what}", f"{action.name} only looks", WARNING)
        gated = any(isinstance(one.what, Gate) for one in self._before(at))
        if action.effect is Effect.ONCE and not action.probe and not gated:
            message = (
                f"{action.name} runs once and nothing tells whether it did; wanted a probe or a gate before"
            )
            yield self._finding(act.line, f"{name}.do", message)
        yield from self._done_when(name, act, action)
        if step is not None and not read:
            yield from self._undo(at, step, action)
        if action.protected:
            yield from self._protected(at, name, act, action)

    def _done_when(self, name: str, act: Act, action: Action) -> Iterator[Finding]:
        if not action.probe and not action.done_when:
            return
        if not action.probe or not action.done_when:
            got, wanted = ("probe", "done_when") if action.probe else ("done_when", "probe")
            yield self._finding(act.line, f"{name}.do", f"{action.name} has {got} and no {wanted}")
            return
        try:
            expression = parse(action.done_when)
        except BadExpression as error:
            yield self._finding(act.line, f"{name}.do", f"done_when of {action.name}: {error}")
            return
        stray = sorted(expression.names - {"out"})
        if stray:
            message = f"done_when of {action.name} says {stray[0]}; wanted out, what the probe printed"
            yield self._finding(act.line, f"{name}.do", message)

    def _undo(self, at: int, step: Step, action: Action) -> Iterator[Finding]:
        """Before the point of no return an effect has an undo. It is an error where an undo may be asked for."""
        if step.undo is not None or step.commit or any(one.commit for one in self._before(at)):
            return
        message = f"{action.name} has an effect; wanted undo or commit"
        asked = self._runbook.on_fail is OnFail.UNDO or any(
            one.on_fail is OnFail.UNDO for one in self._runbook.walk()
        )
        if asked:
            yield self._finding(step.line, step.id, message)
        elif action.effect is Effect.ONCE:
            yield self._finding(step.line, step.id, message, WARNING)

    def _protected(self, at: int, name: str, act: Act, action: Action) -> Iterator[Finding]:
        needs = action.needs
        gate = covering_gate(self._runbook.steps, at, needs.approvals, needs.role, drill=self._drill)
        if not gate:
            message = (
                f"{action.name} needs {needs.approvals} of {needs.role}; wanted approve: {needs.role} with count: "
                f"{needs.approvals} before it"
            )
            yield self._finding(act.line, f"{name}.do", message)
            return
        before = set()
        for one in self._runbook.steps:
            if one.id == gate:
                break
            before |= (
                {one.id, *(inner.id for inner in one.what.steps)}
                if isinstance(one.what, Parallel)
                else {one.id}
            )
        for key, expression in expressions_of_act(act):
            for used, _ in dict.fromkeys(uses(tree_of(expression))):
                if self._runbook.parameter(used) is None and used not in before:
                    message = f"{used} is not known yet at the gate {gate}, where people agree to it"
                    yield self._finding(expression.line, f"{name}.{key}", message)
            if expression.calls:
                message = f"what {', '.join(sorted(expression.calls))} says may change between the gate {gate} and this"
                yield self._finding(expression.line, f"{name}.{key}", message, WARNING)

    def _amounts(self, behind: Mapping[str, int], changed: set[str]) -> Iterator[Finding]:
        limit = self._runbook.limits.hosts
        if limit and len(changed) > limit:
            message = f"changes {len(changed)} hosts, its limit is {limit}"
            yield self._finding(0, "limits.hosts", message)
        for gate, count in behind.items():
            step = self._runbook.step(gate)
            if step is not None and count > bounds.EFFECTS_MAX:
                message = f"{count} protected effects behind it, wanted at most {bounds.EFFECTS_MAX}"
                yield self._finding(step.line, gate, message)

    def _texts(self) -> Iterator[Finding]:
        """A part is taken of what is text: it would stay unknown for ever."""
        for step in self._runbook.walk():
            for where, expression in expressions_of(step):
                for used, fields in dict.fromkeys(uses(tree_of(expression))):
                    inner = fields[:1] == ("out",) and len(fields) > 1
                    if inner and self._outputs.get(used) == "text":
                        message = (
                            f'{used} prints text, which has no parts; wanted an action with output = "json"'
                        )
                        yield self._finding(expression.line, f"{step.id}.{where}", message)

    def _digest(self, action: Action) -> str:
        found = self._digests.get(id(action))
        if found is None:
            found = self._digests[id(action)] = action.digest()
        return found

    def _before(self, at: int) -> Iterator[Step]:
        return (one for one in self._runbook.steps[:at] if not left_out(one, drill=self._drill))

    def _finding(self, line: int, where: str, message: str, severity: str = ERROR) -> Finding:
        return Finding(
            file=self._runbook.file,
            line=line,
            where=where,
            severity=severity,
            message=message,
        )


def _defaults(runbook: Runbook, *, drill: bool) -> dict[str, Known]:
    rehearsed = runbook.drill.parameters if drill and runbook.drill is not None else {}
    found: dict[str, Known] = {}
    for one in runbook.parameters:
        text = rehearsed.get(one.name, one.default)
        if text is not None:
            found[one.name], _ = read_value(one, SOME_TIME if is_now(one, text) else text)
    return found
