"""From a step to what would be run: on which hosts, which action, with which arguments. For plans and for runs alike.

Nothing is guessed: a host that is not known or has not said what it allows, a value that nobody has, an argument that
the action does not take, each is told, host by host.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from difflib import get_close_matches
from typing import Final, TypeVar

from watchbill.actions.definition import Action, Argument, ArgumentRefused, Effect, Kind
from watchbill.actions.definition import Value as ArgumentValue
from watchbill.actions.grants import UNCOUNTED, ProtectedEffect
from watchbill.config import ByteSize, Duration, NotWanted
from watchbill_collector.runbooks.expression import Facts, Known, Scope, Unknown, Value
from watchbill_collector.runbooks.expressions import NO_FACTS
from watchbill_collector.runbooks.fleet import Fleet, KnownHost
from watchbill_collector.runbooks.model import (
    Act,
    Call,
    Gate,
    Parallel,
    Parameter,
    ParameterKind,
    Runbook,
    Step,
    Target,
    Template,
)
from watchbill_collector.runbooks.parameters import Judged, judge_parameters
from watchbill_collector.runbooks.templates import plain, render

T = TypeVar("T")
_INT: Final = re.compile(r"-?[0-9]{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Bound:
    """An action on a host with all its arguments."""

    host: KnownHost
    action: Action
    arguments: Mapping[str, ArgumentValue]

    @property
    def argv(self) -> tuple[str, ...]:
        """Exactly what would be run there."""
        return self.action.command_line(self.arguments)

    def effect(self, step: str, retries: int = 0) -> ProtectedEffect:
        """As people agree to it, with so many further tries."""
        return ProtectedEffect(
            times=times_of(self.action.effect, retries),
            step=step,
            agent=self.host.agent,
            host=self.host.name,
            action=self.action.name,
            action_digest=self.action.digest(),
            arguments=dict(self.arguments),
        )


@dataclass(frozen=True, slots=True)
class Unbound:
    """What cannot be run, and why. `unknown`: only because values are missing, which may still come; `argv` then shows
    `{{...}}` in their places, `given` are the arguments that are known, `missing` says what the others are taken from.
    """

    host: str
    action: str
    message: str
    unknown: bool = False
    argv: tuple[str, ...] = ()
    known: Action | None = None
    given: Mapping[str, ArgumentValue] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resolved:
    """What would be run, and what cannot be."""

    bound: tuple[Bound, ...] = ()
    unbound: tuple[Unbound, ...] = ()


@dataclass(frozen=True, slots=True)
class Covered:
    """The protected effects behind a gate. `problems` name what could not be resolved: with any of them the gate must
    not open."""

    effects: tuple[ProtectedEffect, ...] = ()
    problems: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    """Those of the problems that are values which are not known yet."""


def resolve(act: Act, scope: Scope, fleet: Fleet, facts: Facts = NO_FACTS) -> Resolved:
    """What an action of a step, an undo or a clean-up comes to. A host that is named twice is meant once."""
    hosts, unbound = _hosts(act, scope, fleet, facts)
    values = {name: render(template, scope, facts) for name, template in act.arguments.items()}
    bound: list[Bound] = []
    for host in hosts:
        found = _bind(act, host, values)
        if isinstance(found, Bound):
            bound.append(found)
        else:
            unbound.append(found)
    return Resolved(tuple(bound), tuple(unbound))


def times_of(effect: Effect, retries: int) -> int:
    """How often something may begin once people have agreed: it, and as often as its step tries again by itself. What
    only looks is not counted."""
    return UNCOUNTED if effect is Effect.READ else 1 + retries


def probe_for(bound: Bound) -> Bound | Unbound | None:
    """The look that tells whether an action has happened: its probe, with those of its arguments that the probe takes.
    None when it has no probe."""
    name = bound.action.probe
    if not name:
        return None
    host = bound.host
    probe = (host.actions or {}).get(name)
    if probe is None or probe.effect is not Effect.READ:
        what = "does not allow" if probe is None else "has as no read action"
        return Unbound(host.name, name, f"{host.name} {what} {name}, the probe of {bound.action.name}")
    given = {one.name: bound.arguments[one.name] for one in probe.arguments if one.name in bound.arguments}
    try:
        return Bound(host, probe, probe.bind(given, host.name))
    except ArgumentRefused as error:
        return Unbound(host.name, name, f"the probe {name} of {bound.action.name}: {error}", known=probe)


def waves(target: Target, hosts: Sequence[T]) -> tuple[tuple[T, ...], ...]:
    """The hosts in the groups in which they are gone through: a share rounded down, and at least one."""
    size = target.wave_hosts or max(1, math.floor(target.wave_share * len(hosts) + 1e-9))
    return tuple(tuple(hosts[at : at + size]) for at in range(0, len(hosts), size))


def left_out(step: Step, *, drill: bool) -> bool:
    """Whether a step is not a part of this run at all."""
    return step.drill == ("skip" if drill else "only")


def call_parameters(
    call: Call,
    child: Runbook,
    scope: Scope,
    facts: Facts = NO_FACTS,
    *,
    drill: bool = False,
    now: datetime | None = None,
) -> Judged:
    """The parameters of a runbook that another one calls; in a drill what its own drill says goes before defaults."""
    given: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, template in call.parameters.items():
        value = render(template, scope, facts)
        if isinstance(value, Unknown):
            missing[name] = f"{template.text} is not known"
        else:
            given[name] = _text_for(child.parameter(name), value)
    judged = judge_parameters(child, given, now, drill=drill)
    return replace(judged, problems={**judged.problems, **missing})


def covering_gate(steps: Sequence[Step], at: int, approvals: int, role: str, *, drill: bool) -> str:
    """The gate that allows a protected action of the step at a position: the last one before it that asks for at least
    as many people of the same role; "" when there is none."""
    for step in reversed(steps[:at]):
        gate = step.what
        if not isinstance(gate, Gate) or left_out(step, drill=drill):
            continue
        # Hosts never count the vote of who asked, so a gate that does might open and allow nothing.
        if gate.role == role and gate.count >= approvals and not gate.own_vote:
            return step.id
    return ""


def protected_effects(
    runbook: Runbook,
    gate: str,
    scope: Scope,
    fleet: Fleet,
    facts: Facts = NO_FACTS,
    *,
    drill: bool = False,
    prefix: str = "",
) -> Covered:
    """What people agree to at a gate: every protected effect that it covers, of steps, their undos and the clean-up.

    Of a runbook that another one calls `prefix` stands before the names of steps.
    """
    effects: list[ProtectedEffect] = []
    problems: list[str] = []
    unknown: list[str] = []
    for at, name, act in acts_of(runbook, drill=drill):
        resolved = resolve(act, scope, fleet, facts)
        for one in resolved.bound:
            needs = one.action.needs
            covered_by = covering_gate(runbook.steps, at, needs.approvals, needs.role, drill=drill)
            if needs.approvals and covered_by == gate:
                effects.append(one.effect(prefix + name))
        for other in resolved.unbound:
            protected = other.known is not None and other.known.protected
            needs_of = None if other.known is None else other.known.needs
            if not protected or needs_of is None:
                continue
            if covering_gate(runbook.steps, at, needs_of.approvals, needs_of.role, drill=drill) == gate:
                text = f"{prefix}{name} on {other.host or '?'}: {other.message}"
                problems.append(text)
                if other.unknown:
                    unknown.append(text)
    return Covered(tuple(effects), tuple(problems), tuple(unknown))


def acts_of(runbook: Runbook, *, drill: bool) -> Iterator[tuple[int, str, Act]]:
    """Everything that may be run: the position of the step in the list, the step's id, and what. Undos after their
    steps, and the clean-up of a drill at the end."""
    for at, step in enumerate(runbook.steps):
        inner = step.what.steps if isinstance(step.what, Parallel) else ()
        if left_out(step, drill=drill):
            continue
        for one in (step, *inner):
            if left_out(one, drill=drill):
                continue
            if isinstance(one.what, Act):
                yield at, one.id, one.what
            if one.undo is not None:
                yield at, one.id, one.undo
    if drill and runbook.drill is not None:
        for number, act in enumerate(runbook.drill.cleanup, 1):
            yield len(runbook.steps), cleanup_id(number), act


def cleanup_id(number: int) -> str:
    """The name of a drill's clean-up, as a step; from 1."""
    return f"cleanup-{number}"


def _hosts(act: Act, scope: Scope, fleet: Fleet, facts: Facts) -> tuple[list[KnownHost], list[Unbound]]:
    if act.on.select:
        selected = list(fleet.selected(act.on.select))
        if not selected:
            return [], [Unbound("", act.action, f"{{{act.on.select}}} takes in no host")]
        return selected, []
    found: dict[str, KnownHost] = {}
    unbound: list[Unbound] = []
    for template in act.on.hosts:
        value = render(template, scope, facts)
        if isinstance(value, Unknown):
            unbound.append(Unbound("", act.action, f"{template.text} is not known", unknown=True))
            continue
        name = value if isinstance(value, str) else plain(value)
        host = fleet.host(name)
        if host is None:
            close = get_close_matches(name, fleet.hosts, 1)
            hint = f"; {close[0]}?" if close else ""
            unbound.append(Unbound(name, act.action, f"there is no host {name[:100]!a}{hint}"))
        else:
            found[name] = host
    return list(found.values()), unbound


def _bind(act: Act, host: KnownHost, values: Mapping[str, Value]) -> Bound | Unbound:
    if host.actions is None:
        return Unbound(host.name, act.action, f"{host.name} has not said which actions it allows")
    action = host.actions.get(act.action)
    if action is None:
        close = get_close_matches(act.action, host.actions, 1)
        hint = f"; {close[0]}?" if close else ""
        return Unbound(host.name, act.action, f"{host.name} does not allow {act.action}{hint}")
    given: dict[str, object] = {}
    missing: dict[str, str] = {}
    for name, template in act.arguments.items():
        value = values[name]
        if isinstance(value, Unknown):
            missing[name] = template.text
        else:
            given[name] = argument_value(action.argument(name), template, value)
    if missing:
        return _waiting(action, host, given, missing)
    try:
        return Bound(host, action, action.bind(given, host.name))
    except ArgumentRefused as error:
        return Unbound(host.name, act.action, str(error), known=action)


def _waiting(
    action: Action, host: KnownHost, given: Mapping[str, object], missing: Mapping[str, str]
) -> Unbound:
    """An action some of whose arguments are not known; the others are judged all the same."""
    shown: dict[str, ArgumentValue] = {}
    for one in action.arguments:
        if one.name in missing:
            shown[one.name] = missing[one.name]
            continue
        value = given.get(one.name, one.default)
        try:
            shown[one.name] = one.judge(value, host.name)
        except ArgumentRefused as error:
            return Unbound(host.name, action.name, str(error), known=action)
    stray = sorted({*given, *missing} - {one.name for one in action.arguments})
    if stray:
        message = f"{stray[0]}: {action.name} has no such argument"
        return Unbound(host.name, action.name, message, known=action)
    what = ", ".join(f"{name} = {text}" for name, text in missing.items())
    return Unbound(
        host.name,
        action.name,
        f"not known: {what}",
        unknown=True,
        argv=action.command_line(shown),
        known=action,
        given={name: value for name, value in shown.items() if name not in missing},
        missing=missing,
    )


def argument_value(argument: Argument | None, template: Template, value: Known) -> object:
    """A value as its argument wants it: what is written in a runbook is text, and becomes the number it says; what
    comes out of an expression stays what it is, but for fractions that are whole."""
    if argument is None:
        return value
    if template.expression is not None:
        whole = isinstance(value, float) and value.is_integer()
        return int(value) if whole and isinstance(value, float) else value
    try:
        match argument.kind:
            case Kind.INT if _INT.fullmatch(template.text):
                return int(template.text)
            case Kind.SIZE:
                return int(ByteSize.from_config(template.text))
            case Kind.DURATION:
                seconds = Duration.from_config(template.text)
                return int(seconds) if seconds.is_integer() else template.text
            case _:
                return value
    except NotWanted:
        return value


def _text_for(parameter: Parameter | None, value: Known) -> str:
    """A value as the text that its parameter reads back."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if parameter is not None and number and isinstance(value, (int, float)):
        match parameter.kind:
            case ParameterKind.SIZE:
                return ByteSize(int(value)).to_config()
            case ParameterKind.DURATION:
                return Duration(value).to_config()
            case _:
                pass
    return plain(value)
