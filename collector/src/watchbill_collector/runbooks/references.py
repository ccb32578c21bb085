"""What the parts of a runbook refer to: parameters, and steps that are over by then."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from watchbill.errors import Problem
from watchbill_collector.runbooks.expression import Expression
from watchbill_collector.runbooks.expression_tree import uses
from watchbill_collector.runbooks.expressions import tree_of
from watchbill_collector.runbooks.model import (
    Act,
    Call,
    Check,
    Notify,
    Parallel,
    Runbook,
    Step,
    Target,
    Template,
)

OF_ACTIONS: Final = ("out", "ok", "rc", "took", "hosts")
"""What is known of a step that ran an action. With several hosts `out`, `rc` and `took` stand under each of `hosts`."""
OF_OTHERS: Final = ("ok",)


def reference_problems(runbook: Runbook) -> list[Problem]:
    """Names that stand for nothing, for two things, or for what comes later."""
    return list(_References(runbook).problems())


def expressions_of(step: Step) -> Iterator[tuple[str, Expression]]:
    """The expressions of one step by its keys, those of its undo and of steps in it left out."""
    if step.when is not None:
        yield "when", step.when
    match step.what:
        case Act() as act:
            yield from expressions_of_act(act)
        case Check(condition=condition):
            yield "check", condition
        case Notify(text=text) if text is not None:
            yield from _of_template("text", text)
        case Call(parameters=parameters):
            yield from _of_arguments(parameters)
        case _:
            pass


def expressions_of_act(act: Act) -> Iterator[tuple[str, Expression]]:
    """The expressions of an action's hosts and arguments."""
    yield from _of_target(act.on)
    yield from _of_arguments(act.arguments)


def _of_target(target: Target) -> Iterator[tuple[str, Expression]]:
    for host in target.hosts:
        yield from _of_template("on", host)


def _of_arguments(arguments: Mapping[str, Template]) -> Iterator[tuple[str, Expression]]:
    for name, template in arguments.items():
        yield from _of_template(f"with.{name}", template)


def _of_template(at: str, template: Template) -> Iterator[tuple[str, Expression]]:
    for piece in template.pieces:
        if isinstance(piece, Expression):
            yield at, piece


class _References:
    def __init__(self, runbook: Runbook) -> None:
        self._runbook = runbook
        self._parameters = {one.name for one in runbook.parameters}
        self._all = {step.id: step for step in runbook.walk()}
        self._over: dict[str, Step] = {}

    def problems(self) -> Iterator[Problem]:
        yield from self._twice()
        if self._runbook.lock is not None:
            for _, expression in _of_template("lock", self._runbook.lock):
                yield from self._judge("lock", expression)
        for step in self._runbook.steps:
            inner = step.what.steps if isinstance(step.what, Parallel) else ()
            for one in (step, *inner):
                for key, expression in expressions_of(one):
                    yield from self._judge(f"{one.id}.{key}", expression)
            for one in (step, *inner):
                self._over[one.id] = one
            for one in (step, *inner):
                if one.undo is not None:
                    for key, expression in expressions_of_act(one.undo):
                        yield from self._judge(f"{one.id}.undo.{key}", expression)
        if self._runbook.drill is not None:
            for number, act in enumerate(self._runbook.drill.cleanup, 1):
                for key, expression in expressions_of_act(act):
                    yield from self._judge(f"drill.cleanup[{number}].{key}", expression)

    def _twice(self) -> Iterator[Problem]:
        seen: dict[str, Step] = {}
        for step in self._runbook.walk():
            known = seen.setdefault(step.id, step)
            if known is not step:
                got = f'"{step.id}" again'
                yield self._problem(step.line, f"{step.id}.id", got, f"another id than in line {known.line}")
            if step.id in self._parameters:
                yield self._problem(step.line, f"{step.id}.id", "the name of a parameter", "another id")

    def _judge(self, at: str, expression: Expression) -> Iterator[Problem]:
        for name, fields in dict.fromkeys(uses(tree_of(expression))):
            part = fields[0] if fields else ""
            if name in self._parameters:
                continue
            step = self._over.get(name)
            if step is None:
                yield self._problem(expression.line, at, f'"{name}"', self._wanted(name))
                continue
            known = OF_ACTIONS if isinstance(step.what, Act) else OF_OTHERS
            if part not in known:
                got = f'"{name}.{part}"' if part not in ("", "[]") else f'"{name}" as a whole'
                wanted = " or ".join(f"{name}.{one}" for one in known)
                yield self._problem(expression.line, at, got, wanted)

    def _wanted(self, name: str) -> str:
        later = self._all.get(name)
        if later is not None:
            return f"a step that is over by then; {name} is in line {later.line}"
        near = get_close_matches(name, [*self._parameters, *self._over], 1)
        return f"{near[0]}?" if near else "a parameter or the id of an earlier step"

    def _problem(self, line: int, key: str, got: str, wanted: str) -> Problem:
        return Problem(self._runbook.file, line, key, got, wanted)
