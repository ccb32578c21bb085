"""`watchbill rules`: what is loaded and how it does, and whether a file could be."""

from pathlib import Path
from typing import Any

import click

from watchbill_collector.cli.errors import USAGE
from watchbill_collector.cli.options import Session, talks
from watchbill_collector.cli.rules_test import backtest, read_text, test
from watchbill_collector.cli.screen import ago, clean

QUERY_CHARACTERS = 70
_COLUMNS = ("GROUP", "RULE", "STATE", "SEVERITY", "FOR", "SERIES", "RAN", "TOOK", "HEALTH", "QUERY")


@click.group(invoke_without_command=True)
@talks
@click.pass_context
def rules(ctx: click.Context, session: Session) -> None:
    """List rules; check, test or backtest a rule file."""
    if ctx.invoked_subcommand is None:
        _list(session, failing=False)


@rules.command("list")
@click.option("--failing", is_flag=True, help="Only rules that fail to evaluate.")
@talks
def list_rules(session: Session, failing: bool) -> None:
    """Rules by group, with their PromQL and their health."""
    _list(session, failing=failing)


def _list(session: Session, *, failing: bool) -> None:
    groups = session.client.prometheus_get("/rules")["data"]["groups"]
    if failing:
        for group in groups:
            group["rules"] = [rule for rule in group["rules"] if rule["health"] == "err"]
        groups = [group for group in groups if group["rules"]]
    if session.as_json:
        session.screen.json({"groups": groups})
        return
    rows = [row for group in groups for rule in group["rules"] for row in _rows(group, rule)]
    if not rows:
        session.screen.line("No rule fails." if failing else "No rules are loaded.")
        return
    session.screen.table(_COLUMNS, rows, (4, 5, 6, 7))
    for group in groups:
        for rule in group["rules"]:
            if rule.get("lastError"):
                session.screen.line(f"{clean(rule['name'])}: {clean(rule['lastError'], 400)}")
            if warming := rule.get("warming"):
                hosts = f"{warming['hosts']} of {warming['of']} hosts: " if warming["of"] else ""
                session.screen.line(
                    f"{clean(rule['name'])} is warming until {clean(warming['until'])[:19]}Z, "
                    f"{hosts}{clean(warming['why'], 400)}"
                )


def _rows(group: dict[str, Any], rule: dict[str, Any]) -> list[tuple[str, ...]]:
    """A line for the rule; one more for the PromQL of what was written in the short form."""
    state = rule.get("state", "recording")
    if rule.get("warming"):
        state += ", warming"
    short, query = rule.get("shortForm", ""), clean(" ".join(rule["query"].split()), QUERY_CHARACTERS)
    first = (
        group["name"],
        rule["name"],
        state,
        rule["labels"].get("severity", ""),
        f"{rule['duration']:g}s" if rule.get("duration") else "",
        str(rule.get("series", "")),
        ago(rule["lastEvaluation"]),
        f"{1000 * rule['evaluationTime']:.1f}ms",
        rule["health"],
        clean(short, QUERY_CHARACTERS) if short else query,
    )
    return [first, (*[""] * (len(first) - 1), f"= {query}")] if short else [first]


@rules.command()
@click.argument("file", type=click.Path(path_type=Path))
@talks
def check(session: Session, file: Path) -> int:
    """Have the collector judge FILE (- for standard input) without loading it."""
    text = read_text(file, "watchbill rules check FILE")
    document = session.client.post("/rules/check", {"name": file.name, "text": text})
    problems = document["problems"]
    if session.as_json:
        session.screen.json(document)
        return USAGE if problems else 0
    for problem in problems:
        where = f"{file}:{problem['line']}" if problem["line"] else f"{file}"
        rule = f" {problem['rule']}:" if problem["rule"] else ""
        click.echo(clean(f"{where}:{rule} {problem['message']}", 1_000), err=True)
    for warning in document.get("warnings", ()):
        click.echo(clean(f"{file}:{warning['line']}: warning: {warning['message']}", 1_000), err=True)
    if problems:
        return USAGE
    count = sum(len(group["rules"]) for group in document["groups"])
    session.screen.line(
        f"{clean(str(file), 400)}: {count} rules in {len(document['groups'])} groups, all good."
    )
    return 0


rules.add_command(test)
rules.add_command(backtest)
