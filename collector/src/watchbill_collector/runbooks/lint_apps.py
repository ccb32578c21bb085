"""Which applications a runbook asks of, against those that hosts have told of: `host(h).app[a].healthy`.

A host that is named by a parameter without a default may be any: then any host may have the application. An application
that nobody has told of is a warning: it may be installed tomorrow. Until then what asks of it stays unknown.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from watchbill_collector.runbooks.expression import Expression
from watchbill_collector.runbooks.expression_tree import Ask, Field, Index, Literal, Name, Node, Path, parts
from watchbill_collector.runbooks.expressions import tree_of
from watchbill_collector.runbooks.findings import WARNING, Finding
from watchbill_collector.runbooks.model import Runbook
from watchbill_collector.runbooks.references import expressions_of

APP: Final = "app"
OF_APPS: Final = ("healthy", "state")
"""What is known of an application."""

Apps = Mapping[str, frozenset[str]]
"""The names of applications by host."""


def app_findings(runbook: Runbook, apps: Apps) -> list[Finding]:
    """Applications that no host has told of, and what is asked of them that nobody says."""
    return [
        Finding(
            file=runbook.file,
            line=expression.line,
            where=f"{step.id}.{key}",
            severity=WARNING,
            message=message,
        )
        for step in runbook.walk()
        for key, expression in expressions_of(step)
        for message in dict.fromkeys(_odd(runbook, expression, apps))
    ]


def _odd(runbook: Runbook, expression: Expression, apps: Apps) -> Iterator[str]:
    for node in parts(tree_of(expression)):
        if not isinstance(node, Path) or not isinstance(node.base, Ask) or node.base.function != "host":
            continue
        if node.steps[0] != Field(APP) or len(node.steps) < 2:
            continue
        host, app = _said(runbook, node.base.arguments[0]), _key(runbook, node.steps[1])
        if app is not None:
            yield from _unknown(app, host, apps)
        what = _key(runbook, node.steps[2]) if len(node.steps) > 2 else None
        if what is not None and what not in OF_APPS:
            yield f"nobody says {what} of an application; wanted {' or '.join(OF_APPS)}"


def _unknown(app: str, host: str | None, apps: Apps) -> Iterator[str]:
    if host is not None and host not in apps:
        return  # That is said where the host is asked for.
    known = apps[host] if host is not None else frozenset().union(*apps.values())
    if app in known:
        return
    close = get_close_matches(app, sorted(known), 1)
    hint = f"; {close[0]}?" if close else ""
    yield f"{host or 'no host'} has {'told of no' if host else 'an'} application {app}{hint}"


def _key(runbook: Runbook, step: Field | Index) -> str | None:
    return step.name if isinstance(step, Field) else _said(runbook, step.of)


def _said(runbook: Runbook, node: Node) -> str | None:
    """The text that stands there, or the default of the parameter; None where only a run knows."""
    if isinstance(node, Literal):
        return node.value if isinstance(node.value, str) else None
    parameter = runbook.parameter(node.name) if isinstance(node, Name) else None
    return None if parameter is None else parameter.default
