"""What the views of an `agree` quorum say, so that one mistaken observer starts nothing.

`collector` agrees when the alert fires on data of which nothing is missing. Any other view is a host, and says what the
runbook asks of it anyway before its first effect: of every check there, the parts (between its `and`s) that speak of
looks on this host alone, or ask a fact about it. It

    agrees       when there is such a part, and all of them are true now
    contradicts  when one is false
    is unsure    else: it is away, did not answer, answered with something else, or is asked nothing

So a view is never an older reading, and never what somebody else says of that host: the looks are run on it for this
question. Two that contradict each other are a sign of a network that is cut, not of a primary that is gone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from watchbill_collector.runbooks.expression import Expression, Facts, Known, Unknown
from watchbill_collector.runbooks.expression_tree import All, Ask, Node, parts, uses
from watchbill_collector.runbooks.expressions import evaluate, show, tree_of, truth
from watchbill_collector.runbooks.model import Check, Runbook, Trigger
from watchbill_collector.runbooks.planning import Planned
from watchbill_collector.runbooks.templates import render

COLLECTOR: Final = "collector"
_HOST_ARGUMENT: Final = {"metric": 0, "alert": 1, "host": 0}
"""Which argument of a function names the host that it is about."""


class Opinion(StrEnum):
    """What a view says."""

    AGREES = "agrees"
    CONTRADICTS = "contradicts"
    UNSURE = "is unsure"


@dataclass(frozen=True, slots=True)
class View:
    """One view. `why` is why it does not agree."""

    name: str
    opinion: Opinion
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.opinion.value}{': ' if self.why else ''}{self.why}"


def collector_view(incomplete: str) -> View:
    """What this collector's own evidence says of an alert that fires."""
    if incomplete:
        return View(COLLECTOR, Opinion.UNSURE, incomplete)
    return View(COLLECTOR, Opinion.AGREES)


def asks_hosts(trigger: Trigger) -> bool:
    """Whether any view is a host's."""
    return any(one.text != COLLECTOR for one in trigger.agree)


def host_views(
    runbook: Runbook, values: Mapping[str, Known], planned: Planned, seen: Mapping[str, Known], facts: Facts
) -> list[View]:
    """What the hosts among the views say. `planned` and `seen` are the plan with what its looks have brought; a host
    that is named twice has one voice."""
    names: dict[str, None] = {}
    found: list[View] = []
    for template in runbook.trigger.agree if runbook.trigger is not None else ():
        if template.text == COLLECTOR:
            continue
        name = render(template, values, facts)
        if isinstance(name, str):
            names[name] = None
        else:
            found.append(View(template.text.strip("{}"), Opinion.UNSURE, "nobody has said which host it is"))
    looks: dict[str, set[str]] = {}
    for row in planned.looks:
        looks.setdefault(row.step, set()).add(row.host)
    scope = {**values, **seen}
    asked = list(_asked(runbook, planned))
    return [*(_view(name, asked, looks, scope, facts) for name in names), *found]


def _asked(runbook: Runbook, planned: Planned) -> Iterator[Node]:
    """The parts of the checks before the first effect: those that a plan has judged."""
    judged = {row.step for row in planned.rows if row.kind == "check" and row.verdict}
    for step in runbook.walk():
        if isinstance(step.what, Check) and step.id in judged:
            yield from _parts(tree_of(step.what.condition))


def _parts(node: Node) -> Iterator[Node]:
    if isinstance(node, All):
        for one in node.parts:
            yield from _parts(one)
    else:
        yield node


def _view(
    name: str,
    asked: Sequence[Node],
    looks: Mapping[str, set[str]],
    scope: Mapping[str, Known],
    facts: Facts,
) -> View:
    unsure, agreed = "", False
    for node in asked:
        if _hosts(node, looks, scope, facts) != {name}:
            continue
        expression = Expression("", node)
        verdict = truth(evaluate(expression, scope, facts))
        if verdict is False:
            return View(name, Opinion.CONTRADICTS, f"{show(expression)} is false")
        if isinstance(verdict, Unknown):
            unsure = unsure or f"{show(expression)} is unknown"
        else:
            agreed = True
    if unsure:
        return View(name, Opinion.UNSURE, unsure)
    if not agreed:
        return View(name, Opinion.UNSURE, "the runbook asks it nothing before its first effect")
    return View(name, Opinion.AGREES)


def _hosts(node: Node, looks: Mapping[str, set[str]], scope: Mapping[str, Known], facts: Facts) -> set[str]:
    """The hosts that a part of a check speaks of."""
    found: set[str] = set()
    for name, _ in uses(node):
        found |= looks.get(name, set())
    for one in parts(node):
        if isinstance(one, Ask) and one.function in _HOST_ARGUMENT:
            host = evaluate(Expression("", one.arguments[_HOST_ARGUMENT[one.function]]), scope, facts)
            found.add(host if isinstance(host, str) else "")
    return found
