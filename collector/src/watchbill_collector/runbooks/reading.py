"""A runbook's YAML to the runbook, every mistake of the file at once: `FILE:LINE: KEY: got X, wanted Y`.

What is read here can be understood; whether it can be done, and whether it is wise, is `lint.py`'s to say. What it
refers to is judged here as far as the file itself tells: names that stand for nothing, steps that come later, a key
that belongs to another kind of step. Steps are read in `reading_steps.py`.
"""

import hashlib
import re
from typing import Final
from zoneinfo import ZoneInfo

from watchbill.cron import BadCron, read_cron
from watchbill.errors import Problem
from watchbill_collector.runbooks.expression_parser import BadExpression
from watchbill_collector.runbooks.model import (
    PARAMETERS_MAX,
    Act,
    Drill,
    Limits,
    OnFail,
    Parameter,
    ParameterKind,
    Runbook,
    Step,
    Template,
    Trigger,
)
from watchbill_collector.runbooks.parameters import NAME, parameter_fault, read_value
from watchbill_collector.runbooks.reading_steps import StepReading
from watchbill_collector.runbooks.references import reference_problems
from watchbill_collector.runbooks.templates import parse_template
from watchbill_collector.yamlreading import Found
from watchbill_collector.yamltree import BadDocument, Tree, parse, shown

FILE_BYTES_MAX: Final = 256 * 1024
"""Of one runbook: two hundred steps are a tenth of it."""
ABOUT_CHARACTERS_MAX: Final = 2_000
RUNBOOK_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
ALERT_NAME: Final = re.compile(r"[A-Za-z_:][A-Za-z0-9_:.-]{0,127}", re.ASCII)
AGREE_MAX: Final = 16
"""Views that may be asked whether an alert is right."""

_KEYS: Final = (
    "runbook",
    "about",
    "params",
    "lock",
    "limits",
    "trigger",
    "objectives",
    "drill",
    "on_fail",
    "confirm",
    "steps",
)
_AGREE: Final = re.compile(r"\s*([0-9]{1,2})\s+of\s+\[([^\[\]]*)\]\s*", re.ASCII)
_PER: Final = re.compile(r"\s*([0-9]{1,6})\s+per\s+([0-9a-z]{1,20})\s*", re.ASCII)


def read_runbook(file: str, content: bytes) -> tuple[Runbook | None, list[Problem]]:
    """The runbook, and every mistake in it; there is none without the other: with mistakes it is None."""
    if len(content) > FILE_BYTES_MAX:
        return None, [Problem(file, 0, "", f"{len(content)} bytes", f"at most {FILE_BYTES_MAX}")]
    try:
        tree = parse(file, content)
    except BadDocument as error:
        return None, [error.problem]
    found = Found()
    if tree is None:
        found.add(file, 1, "", "an empty file", "a runbook")
        return None, found.all()
    runbook = _Reader(file, found).runbook(tree, hashlib.sha256(content).hexdigest())
    if runbook is not None and not found.problems:
        for problem in reference_problems(runbook):
            found.add(problem.file, problem.line, problem.key, problem.got, problem.wanted)
    return (None if found.problems else runbook), found.all()


class _Reader(StepReading):
    """One file."""

    def runbook(self, tree: Tree, digest: str) -> Runbook | None:
        """The runbook; None where it cannot even be begun."""
        top = self.mapping(tree, "", _KEYS)
        if top is None:
            return None
        name = self.name(top.get("runbook"), tree, "runbook", RUNBOOK_NAME, "the runbook's name")
        parameters = self._parameters(top.get("params"))
        objectives = self._part(top.get("objectives"), "objectives", ("rto", "rpo"))
        steps = self.steps(top.get("steps"), tree)
        made = Runbook(
            name=name,
            digest=digest,
            about=self.long_text(top.get("about"), "about", ABOUT_CHARACTERS_MAX),
            parameters=parameters,
            lock=self.template(top.get("lock"), "lock", joined=True),
            rto_s=self.seconds(objectives.get("rto"), "objectives.rto"),
            rpo_s=self.seconds(objectives.get("rpo"), "objectives.rpo"),
            limits=self._limits(top.get("limits")),
            trigger=self._trigger(top.get("trigger"), parameters),
            drill=self._drill(top.get("drill"), parameters),
            on_fail=self.on_fail(top.get("on_fail"), "on_fail") or OnFail.HOLD,
            confirm=self._confirm(top.get("confirm"), parameters, steps),
            steps=steps,
            file=self.file,
        )
        if made.drill is not None and made.drill.clock_stop and made.step(made.drill.clock_stop) is None:
            self.bad(
                top["drill"],
                "drill.clock.stop",
                shown(made.drill.clock_stop),
                self._one_of([step.id for step in made.walk()], made.drill.clock_stop),
            )
        return made

    # Parameters.

    def _parameters(self, node: Tree | None) -> tuple[Parameter, ...]:
        pairs = {} if node is None else self.mapping(node, "params", None) or {}
        if node is not None and len(pairs) > PARAMETERS_MAX:
            self.bad(node, "params", f"{len(pairs)} parameters", f"at most {PARAMETERS_MAX}")
        made = [self._parameter(name, one) for name, one in list(pairs.items())[:PARAMETERS_MAX]]
        return tuple(one for one in made if one is not None)

    def _parameter(self, name: str, node: Tree) -> Parameter | None:
        at = f"params.{name}"
        if not NAME.fullmatch(name):
            self.bad(
                node, "params", shown(name), "a name: a letter, then letters, digits and _; in lower case"
            )
            return None
        keys = self.mapping(node, at, ("type", "default", "enum", "match", "min", "max", "about"))
        if keys is None:
            return None
        word = self.word(keys.get("type"), f"{at}.type")
        if word not in list(ParameterKind):
            self.bad(
                keys.get("type", node), f"{at}.type", shown(word), self._one_of(list(ParameterKind), word)
            )
            return None
        made = Parameter(
            name=name,
            kind=ParameterKind(word),
            default=self.word(keys["default"], f"{at}.default") if "default" in keys else None,
            choices=tuple(self.word(one, f"{at}.enum") for one in self.items(keys.get("enum"), f"{at}.enum")),
            match=self.word(keys.get("match"), f"{at}.match"),
            least=self.word(keys.get("min"), f"{at}.min"),
            most=self.word(keys.get("max"), f"{at}.max"),
            about=self.long_text(keys.get("about"), f"{at}.about", ABOUT_CHARACTERS_MAX),
            line=node.line,
        )
        fault = parameter_fault(made)
        if fault is not None:
            key, got, wanted = fault
            self.bad(keys.get(key, node), f"{at}.{key}", got, wanted)
        return made

    def _confirm(self, node: Tree | None, parameters: tuple[Parameter, ...], steps: tuple[Step, ...]) -> str:
        """The parameter to be typed: the one that is named, else the host of the first step that commits."""
        names = [one.name for one in parameters]
        if node is not None:
            name = self.word(node, "confirm")
            if name not in names:
                self.bad(node, "confirm", shown(name), self._one_of(names, name))
            return name
        hosts = [one.name for one in parameters if one.kind is ParameterKind.HOST]
        committing = [step for step in steps if step.commit]
        for step in committing:
            for host in step.what.on.hosts if isinstance(step.what, Act) else ():
                if host.expression is not None:
                    return next((name for name in hosts if name in host.expression.names), "")
        return hosts[0] if committing and hosts else ""

    # Limits, trigger and drill.

    def _limits(self, node: Tree | None) -> Limits:
        keys = self._part(node, "limits", ("hosts", "cooldown", "max", "breaker"))
        runs, within_s = 0, 0.0
        if "max" in keys:
            text = self.word(keys["max"], "limits.max")
            match = _PER.fullmatch(text)
            within_s = self.duration_of(match[2]) if match else -1.0
            if match is None or within_s <= 0:
                self.bad(
                    keys["max"], "limits.max", shown(text), 'how many within how long, such as "3 per 1d"'
                )
            else:
                runs = int(match[1])
        return Limits(
            hosts=self.whole(keys.get("hosts"), "limits.hosts", 1, 100_000),
            cooldown_s=self.seconds(keys.get("cooldown"), "limits.cooldown"),
            max_runs=runs,
            max_within_s=max(within_s, 0.0),
            breaker=self.whole(keys.get("breaker"), "limits.breaker", 1, 1_000),
        )

    def _trigger(self, node: Tree | None, parameters: tuple[Parameter, ...]) -> Trigger | None:
        if node is None:
            return None
        keys = self._part(node, "trigger", ("alert", "for", "agree", "mode", "schedule", "zone"))
        if ("alert" in keys) == ("schedule" in keys):
            got = "both alert and schedule" if "alert" in keys else "neither alert nor schedule"
            self.bad(node, "trigger", got, "one of them")
        mode = self.word(keys.get("mode"), "trigger.mode") if "mode" in keys else "propose"
        if mode not in ("propose", "auto"):
            self.bad(keys["mode"], "trigger.mode", shown(mode), "propose or auto")
        for key in ("for", "agree") if "schedule" in keys else ("zone",):
            if key in keys:
                self.bad(
                    keys[key],
                    f"trigger.{key}",
                    f'"{key}" without {"an alert" if "schedule" in keys else "a schedule"}',
                    "no such key",
                )
        least, views = self._agree(keys.get("agree"), {one.name for one in parameters})
        alert = ""
        if "alert" in keys:
            alert = self.name(keys["alert"], node, "trigger.alert", ALERT_NAME, "the name of an alert")
        return Trigger(
            alert=alert,
            for_s=self.seconds(keys.get("for"), "trigger.for"),
            agree=views,
            agree_least=least,
            auto=mode == "auto",
            schedule=self._schedule(keys.get("schedule")),
            zone=self._zone(keys.get("zone")),
            line=node.line,
        )

    def _agree(self, node: Tree | None, parameters: set[str]) -> tuple[int, tuple[Template, ...]]:
        """`2 of [collector, standby, host-7]`: parameters by their names, else `collector` or a host."""
        if node is None:
            return 0, ()
        text = self.word(node, "trigger.agree")
        match = _AGREE.fullmatch(text)
        names = [one.strip() for one in match[2].split(",")] if match else []
        wanted = 'such as "2 of [collector, standby, witness]"'
        if match is None or not all(names) or len(names) > AGREE_MAX or len(set(names)) < len(names):
            self.bad(node, "trigger.agree", shown(text), f"{wanted}, each once, at most {AGREE_MAX}")
            return 0, ()
        least = int(match[1])
        if not 1 <= least <= len(names):
            self.bad(node, "trigger.agree", f"{least} of {len(names)}", f"1 to {len(names)}")
        views: list[Template] = []
        for name in names:
            try:
                place = f"{{{{{name}}}}}" if name in parameters else name
                views.append(parse_template(place, node.line))
            except BadExpression as error:
                self.bad(node, "trigger.agree", error.got, error.wanted)
        return least, tuple(views)

    def _schedule(self, node: Tree | None) -> str:
        if node is None:
            return ""
        text = self.word(node, "trigger.schedule")
        try:
            read_cron(text)
        except BadCron as error:
            self.bad(node, "trigger.schedule", shown(text), f"a cron line: {error}")
        return text

    def _zone(self, node: Tree | None) -> str:
        if node is None:
            return ""
        text = self.word(node, "trigger.zone")
        try:
            ZoneInfo(text)
        except (KeyError, ValueError, OSError):
            self.bad(node, "trigger.zone", shown(text), 'a time zone, such as "Europe/Vienna"')
        return text

    def _drill(self, node: Tree | None, parameters: tuple[Parameter, ...]) -> Drill | None:
        if node is None:
            return None
        keys = self._part(node, "drill", ("every", "auto", "params", "clock", "cleanup"))
        given = self._part(keys.get("params"), "drill.params", tuple(one.name for one in parameters))
        values: dict[str, str] = {}
        for one in parameters:
            if one.name in given:
                at = f"drill.params.{one.name}"
                values[one.name] = self.word(given[one.name], at)
                _, fault = read_value(one, values[one.name])
                if fault:
                    self.bad(given[one.name], at, *fault)
        clock = self._part(keys.get("clock"), "drill.clock", ("stop",))
        if "auto" in keys and "every" not in keys:
            self.bad(keys["auto"], "drill.auto", "auto without every", "how often, such as every: 30d")
        return Drill(
            every_s=self.seconds(keys.get("every"), "drill.every"),
            auto=self._truth(keys.get("auto"), "drill.auto"),
            parameters=values,
            clock_stop=self.word(clock["stop"], "drill.clock.stop") if "stop" in clock else "",
            cleanup=tuple(
                act
                for number, one in enumerate(self.items(keys.get("cleanup"), "drill.cleanup"), 1)
                if (act := self.act(one, f"drill.cleanup[{number}]")) is not None
            ),
        )

    def _part(self, node: Tree | None, at: str, keys: tuple[str, ...]) -> dict[str, Tree]:
        return {} if node is None else self.mapping(node, at, keys) or {}
