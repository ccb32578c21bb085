"""`watchbill rules`: what is loaded and how it does, and whether a file could be."""

from pathlib import Path
from typing import Any

import click

from watchbill_collector.cli.errors import USAGE, CommandFailed, Misused
from watchbill_collector.cli.options import Session, talks
from watchbill_collector.cli.screen import ago, clean

FILE_BYTES_MAX = 900_000
QUERY_CHARACTERS = 70


@click.group()
def rules() -> None:
    """List rules, or check a rule file."""


@rules.command("list")
@click.option("--failing", is_flag=True, help="Only rules that fail to evaluate.")
@talks
def list_rules(session: Session, failing: bool) -> None:
    """Rules by group, with their PromQL and their health."""
    groups = session.client.prometheus_get("/rules")["data"]["groups"]
    if failing:
        for group in groups:
            group["rules"] = [rule for rule in group["rules"] if rule["health"] == "err"]
        groups = [group for group in groups if group["rules"]]
    if session.as_json:
        session.screen.json({"groups": groups})
        return
    rows = [_row(group, rule) for group in groups for rule in group["rules"]]
    if not rows:
        session.screen.line("No rule fails." if failing else "No rules are loaded.")
        return
    session.screen.table(("GROUP", "RULE", "STATE", "HEALTH", "RAN", "QUERY"), rows, (4,))
    for group in groups:
        for rule in group["rules"]:
            if rule.get("lastError"):
                session.screen.line(f"{clean(rule['name'])}: {clean(rule['lastError'], 400)}")


def _row(group: dict[str, Any], rule: dict[str, Any]) -> tuple[str, ...]:
    state = rule.get("state", "recording")
    query = clean(" ".join(rule["query"].split()), QUERY_CHARACTERS)
    return (group["name"], rule["name"], state, rule["health"], ago(rule["lastEvaluation"]), query)


@rules.command()
@click.argument("file", type=click.Path(path_type=Path))
@talks
def check(session: Session, file: Path) -> int:
    """Have the collector judge FILE (- for standard input) without loading it."""
    document = session.client.post("/rules/check", {"name": file.name, "text": _read(file)})
    problems = document["problems"]
    if session.as_json:
        session.screen.json(document)
        return USAGE if problems else 0
    for problem in problems:
        where = f"{file}:{problem['line']}" if problem["line"] else f"{file}"
        rule = f" {problem['rule']}:" if problem["rule"] else ""
        click.echo(clean(f"{where}:{rule} {problem['message']}", 1_000), err=True)
    if problems:
        return USAGE
    count = sum(len(group["rules"]) for group in document["groups"])
    session.screen.line(
        f"{clean(str(file), 400)}: {count} rules in {len(document['groups'])} groups, all good."
    )
    return 0


def _read(file: Path) -> str:
    import sys

    try:
        if str(file) == "-":
            content = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with open(file, "rb") as opened:
                content = opened.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise Misused(f"{file} has more than {FILE_BYTES_MAX} bytes", "split it")
        return content.decode("utf-8")
    except OSError as exc:
        raise Misused(f"{file}: {(exc.strerror or str(exc)).lower()}", "watchbill rules check FILE") from exc
    except UnicodeDecodeError as exc:
        raise Misused(f"{file} is not UTF-8: {exc.reason} at byte {exc.start}") from exc


@rules.command()
@click.argument("rest", nargs=-1)
def test(rest: tuple[str, ...]) -> None:  # noqa: ARG001 - Taken, and not looked at.
    """Not built yet."""
    raise CommandFailed("`watchbill rules test` is not built yet", "watchbill rules check FILE", USAGE)


@rules.command()
@click.argument("rest", nargs=-1)
def backtest(rest: tuple[str, ...]) -> None:  # noqa: ARG001 - As above.
    """Not built yet."""
    raise CommandFailed("`watchbill rules backtest` is not built yet", "watchbill rules check FILE", USAGE)
