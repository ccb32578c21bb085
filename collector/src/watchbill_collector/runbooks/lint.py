"""Whether a runbook that can be read can be done, and is wise: for `lint`, and for whoever is to accept it.

`Around` holds what is known of the world; what is None is not known and not judged, as when a file is checked without a
collector. What depends on the hosts is in `lint_hosts.py`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from watchbill_collector.runbooks.expression import Expression
from watchbill_collector.runbooks.expression_tree import Ask, Literal, Name, parts, uses
from watchbill_collector.runbooks.expressions import tree_of
from watchbill_collector.runbooks.findings import ERROR, WARNING, Finding, from_problem, in_order
from watchbill_collector.runbooks.fleet import Fleet
from watchbill_collector.runbooks.lint_apps import Apps, app_findings
from watchbill_collector.runbooks.lint_hosts import host_findings
from watchbill_collector.runbooks.model import (
    Act,
    Call,
    Check,
    Gate,
    Notify,
    ParameterKind,
    Runbook,
    Step,
    Target,
    Trigger,
)
from watchbill_collector.runbooks.parameters import read_value
from watchbill_collector.runbooks.reading import read_runbook
from watchbill_collector.runbooks.references import expressions_of, expressions_of_act
from watchbill_collector.runbooks.resolving import left_out
from watchbill_collector.runbooks.views import COLLECTOR


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What is known around a runbook; None for what is not. `books` are the other runbooks by name."""

    fleet: Fleet | None = None
    books: Mapping[str, Runbook] | None = None
    alerts: Collection[str] | None = None
    backups: Collection[str] | None = None
    channels: Collection[str] | None = None
    roles: Collection[str] | None = None
    apps: Apps | None = None


OFFLINE = Around()


def judge_text(file: str, content: bytes, around: Around = OFFLINE) -> tuple[Runbook | None, list[Finding]]:
    """A runbook's text: the runbook when it can be read, and everything wrong or odd with it."""
    runbook, problems = read_runbook(file, content)
    if runbook is None:
        return None, [from_problem(problem) for problem in problems]
    return runbook, lint(runbook, around)


def lint(runbook: Runbook, around: Around = OFFLINE) -> list[Finding]:
    """Everything wrong or odd with a runbook, from top to end."""
    found = [*_Lint(runbook, around).findings()]
    if around.fleet is not None:
        found += host_findings(runbook, around.fleet)
    if around.apps is not None:
        found += app_findings(runbook, around.apps)
    return in_order(found, runbook.file)


class _Lint:
    def __init__(self, runbook: Runbook, around: Around) -> None:
        self._runbook = runbook
        self._around = around

    def findings(self) -> Iterator[Finding]:
        yield from self._trigger()
        yield from self._drill()
        for step in self._runbook.walk():
            yield from self._step(step)
            for key, expression in expressions_of(step):
                yield from self._expression(f"{step.id}.{key}", step, expression)
            if step.undo is not None:
                for key, expression in expressions_of_act(step.undo):
                    yield from self._expression(f"{step.id}.undo.{key}", None, expression)
        for one in self._runbook.parameters:
            if one.kind is ParameterKind.BACKUP and one.default is not None:
                yield from self._known(one.line, f"params.{one.name}", "backup", one.default)

    def _trigger(self) -> Iterator[Finding]:
        trigger, limits = self._runbook.trigger, self._runbook.limits
        if trigger is None:
            return
        if trigger.alert:
            yield from self._known(trigger.line, "trigger.alert", "alert", trigger.alert)
        if trigger.schedule:
            for one in self._runbook.parameters:
                if one.default is None:
                    message = f"nobody gives {one.name} when a schedule starts it; wanted a default"
                    yield self._finding(one.line, f"params.{one.name}", message)
        yield from self._views(trigger)
        if not trigger.auto:
            return
        missing = [
            name
            for name, there in (
                ("hosts", limits.hosts),
                ("cooldown or max", limits.cooldown_s or limits.max_runs),
                ("breaker", limits.breaker),
            )
            if not there
        ]
        if missing:
            # Half of the restraint is no restraint: each bounds what the others let through.
            message = f"mode: auto needs limits; wanted limits with {', '.join(missing)}"
            yield self._finding(trigger.line, "trigger.mode", message)

    def _views(self, trigger: Trigger) -> Iterator[Finding]:
        """A view says what checks ask of its host (`views.py`): one that is asked nothing never agrees."""
        for view in trigger.agree:
            if view.text == COLLECTOR:
                continue
            looks = {
                step.id
                for step in self._runbook.walk()
                if isinstance(step.what, Act) and any(one.text == view.text for one in step.what.on.hosts)
            }
            name = view.text.strip("{}").strip()
            asked = any(
                (isinstance(node, Name) and node.name in {name, *looks})
                or (isinstance(node, Literal) and node.value == name)
                for step in self._runbook.walk()
                if isinstance(step.what, Check)
                for node in parts(tree_of(step.what.condition))
            )
            if not asked:
                message = (
                    f"no check asks anything of {name}, so it never agrees; wanted a check of a look on it"
                )
                yield self._finding(trigger.line, "trigger.agree", message, WARNING)

    def _drill(self) -> Iterator[Finding]:
        drill = self._runbook.drill
        committing = [step for step in self._runbook.walk() if step.commit]
        if drill is None:
            for step in committing[:1]:
                message = "there is no drill of a runbook with a point of no return"
                yield self._finding(step.line, f"{step.id}.commit", message, WARNING)
            return
        for step in committing:
            if isinstance(step.what, Act) and not left_out(step, drill=True):
                same = self._same_in_drill(step.what.on)
                if same:
                    wanted = "drill: skip, or another host by drill.params"
                    message = f"a drill would commit on {same} as in earnest; wanted {wanted}"
                    yield self._finding(step.line, f"{step.id}.commit", message)
        stop = self._runbook.step(drill.clock_stop) if drill.clock_stop else None
        if stop is not None and left_out(stop, drill=True):
            message = f"{stop.id} is left out in drills, so their clock never stops there"
            yield self._finding(stop.line, "drill.clock.stop", message)
        for number, act in enumerate(drill.cleanup, 1):
            for key, expression in expressions_of_act(act):
                yield from self._expression(f"drill.cleanup[{number}].{key}", None, expression)

    def _same_in_drill(self, target: Target) -> str:
        """What of a target is the same in a drill and in earnest, "" when nothing is."""
        assert self._runbook.drill is not None, "asked for drills"
        if target.select:
            return f"{{{target.select}}}"
        rehearsed = self._runbook.drill.parameters
        for host in target.hosts:
            if host.expression is None:
                return host.text
            for name in sorted(host.expression.names):
                parameter = self._runbook.parameter(name)
                if parameter is not None and rehearsed.get(name, parameter.default) == parameter.default:
                    return host.text
        return ""

    def _step(self, step: Step) -> Iterator[Finding]:
        if step.commit and step.undo is not None:
            message = "from its intent on nothing is undone by itself; wanted commit or undo"
            yield self._finding(step.line, f"{step.id}.undo", message, WARNING)
        match step.what:
            case Notify(channel=channel):
                yield from self._known(step.line, f"{step.id}.notify", "channel", channel)
            case Gate(role=role) if self._around.roles is not None and role not in self._around.roles:
                message = f"nobody on the roster has the role {role}"
                yield self._finding(step.line, f"{step.id}.approve", message, WARNING)
            case Call() as call:
                yield from self._call(step, call)
            case _:
                pass

    def _call(self, step: Step, call: Call) -> Iterator[Finding]:
        where = f"{step.id}.call"
        if call.runbook == self._runbook.name:
            yield self._finding(step.line, where, "a runbook calls itself; wanted another")
            return
        if self._around.books is None:
            return
        child = self._around.books.get(call.runbook)
        if child is None:
            yield self._finding(step.line, where, f"there is no runbook {call.runbook}")
            return
        if any(isinstance(one.what, Call) for one in child.walk()):
            yield self._finding(step.line, where, f"{child.name} calls another; wanted one level")
        for name, template in call.parameters.items():
            parameter = child.parameter(name)
            if parameter is None:
                message = f"{child.name} has no parameter {name}"
                yield self._finding(template.line, f"{step.id}.with.{name}", message)
            elif template.expression is None:
                _, fault = read_value(parameter, template.text)
                if fault is not None:
                    message = f"got {fault[0]}, wanted {fault[1]}"
                    yield self._finding(template.line, f"{step.id}.with.{name}", message)
        for one in child.parameters:
            if one.default is None and one.name not in call.parameters:
                yield self._finding(step.line, f"{step.id}.with", f"{child.name} needs {one.name}")

    def _expression(self, where: str, user: Step | None, expression: Expression) -> Iterator[Finding]:
        for node in parts(tree_of(expression)):
            if isinstance(node, Ask) and node.function in ("alert", "backup"):
                first = node.arguments[0]
                if isinstance(first, Literal) and isinstance(first.value, str):
                    yield from self._known(expression.line, where, node.function, first.value)
        for name, fields in dict.fromkeys(uses(tree_of(expression))):
            step = self._runbook.step(name)
            if step is None:
                continue
            if fields[:1] and fields[0] in ("out", "rc", "took") and _several(step):
                message = f"{name} may run on several hosts; wanted {name}.hosts[NAME].{fields[0]}"
                yield self._finding(expression.line, where, message)
            for drill in (False, True) if self._runbook.drill is not None else (False,):
                gone = left_out(step, drill=drill)
                if user is not None and gone and not left_out(user, drill=drill):
                    message = f"{name} is left out {'in a drill' if drill else 'but in drills'}, so it stays unknown"
                    yield self._finding(expression.line, where, message)

    def _known(self, line: int, where: str, what: str, name: str) -> Iterator[Finding]:
        known = {
            "alert": self._around.alerts,
            "backup": self._around.backups,
            "channel": self._around.channels,
        }[what]
        if known is not None and name not in known:
            yield self._finding(line, where, f"there is no {what} {name}")

    def _finding(self, line: int, where: str, message: str, severity: str = ERROR) -> Finding:
        return Finding(file=self._runbook.file, line=line, where=where, severity=severity, message=message)


def _several(step: Step) -> bool:
    return isinstance(step.what, Act) and (bool(step.what.on.select) or len(step.what.on.hosts) > 1)
