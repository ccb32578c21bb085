"""`watchbill runbooks`: which there are, whether they could be run now, and what they would do."""

import hashlib
from pathlib import Path
from typing import Any

import click

from watchbill_collector.cli.client import segment
from watchbill_collector.cli.errors import FAILED, OK, USAGE, Misused, Refused
from watchbill_collector.cli.options import Session, assignments, sure, talks
from watchbill_collector.cli.runbook_text import (
    RUNBOOK_HEAD,
    finding_line,
    plan_lines,
    runbook_lines,
    runbook_rows,
    warnings,
)
from watchbill_collector.cli.screen import clean

LINE_MAX = 1_000
"""Characters of a runbook's line that are shown."""


@click.group(invoke_without_command=True)
@talks
@click.pass_context
def runbooks(ctx: click.Context, session: Session) -> None:
    """List runbooks; show, lint, plan, accept or export one."""
    if ctx.invoked_subcommand is None:
        _list(session)


@runbooks.command("list")
@talks
def list_runbooks(session: Session) -> None:
    """Every runbook: is it accepted, could it be run now, when was it rehearsed."""
    _list(session)


def _list(session: Session) -> None:
    document = session.client.get("/runbooks")
    if session.as_json:
        session.screen.json(document)
        return
    found = document["runbooks"]
    if not found:
        session.screen.line("There is no runbook: they are read from runbooks.d/*.yaml of the collector.")
        return
    session.screen.table(RUNBOOK_HEAD, runbook_rows(session.screen, found), (4, 5, 6))
    for line in warnings(found):
        session.screen.line(line)


@runbooks.command()
@click.argument("name")
@click.option("--text", is_flag=True, help="Print its text alone, as it lies in its file.")
@talks
def show(session: Session, name: str, text: bool) -> None:
    """Runbook NAME: how it stands, and its text."""
    document = session.client.get(f"/runbooks/{segment(name)}")
    if session.as_json:
        session.screen.json(document)
        return
    screen = session.screen
    if not text:
        for line in runbook_lines(screen, document["runbook"]):
            screen.line(line)
        for finding in document["runbook"]["findings"]:
            screen.line(finding_line(finding))
        screen.line()
    for line in document["text"].splitlines():
        screen.line(clean(line, LINE_MAX))


@runbooks.command()
@click.argument("what", metavar="FILE|NAME")
@talks
def lint(session: Session, what: str) -> int:
    """Have the collector judge a runbook: a FILE (- for standard input), or NAME as it is loaded.

    It is judged against the actions that hosts allow; nothing is kept.
    """
    if what == "-" or "/" in what or what.endswith((".yaml", ".yml")) or Path(what).is_file():
        from watchbill_collector.cli.rules_test import read_text

        text = read_text(Path(what), "watchbill runbooks lint FILE")
        name = Path(what).name if what != "-" else "stdin"
        document = session.client.post("/runbooks/lint", {"name": name, "text": text})
        shown = what if what != "-" else "stdin"
    else:
        detail = session.client.get(f"/runbooks/{segment(what)}")
        document = {"findings": detail["runbook"]["findings"]}
        shown = detail["runbook"]["file"]
    errors = [one for one in document["findings"] if one["severity"] == "error"]
    if session.as_json:
        session.screen.json(document)
        return USAGE if errors else OK
    for finding in document["findings"]:
        click.echo(finding_line(finding, shown), err=True)
    if errors:
        return USAGE
    session.screen.line(f"{clean(shown, LINE_MAX)}: good.")
    return OK


@runbooks.command()
@click.argument("name")
@click.argument("parameters", nargs=-1, metavar="[K=V]...")
@click.option("--drill", is_flag=True, help="As a drill: its drill's parameters, its clean-up.")
@talks
def plan(session: Session, name: str, parameters: tuple[str, ...], drill: bool) -> int:
    """What a run of NAME would do now, exactly, on which hosts. Looks, and changes nothing."""
    order = {"parameters": assignments(parameters), "drill": drill}
    made = session.client.post(f"/runbooks/{segment(name)}/plan", order)
    if session.as_json:
        session.screen.json(made)
    else:
        book = session.client.get(f"/runbooks/{segment(name)}")["runbook"]
        for line in plan_lines(session.screen, made, book):
            session.screen.line(line)
    return FAILED if made["problems"] else OK


@runbooks.command()
@click.argument("name")
@click.option("--digest", metavar="HEX", help="Accept only this text: its SHA-256, as `show` prints it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@talks
def accept(session: Session, name: str, digest: str | None, yes: bool) -> None:
    """Say that the text of NAME may be run. Not by who wrote it."""
    document = session.client.get(f"/runbooks/{segment(name)}")
    book, text = document["runbook"], document["text"]
    seen = hashlib.sha256(text.encode()).hexdigest()
    if seen != book["digest"]:
        raise Refused(
            f"the text of {clean(name)} has the digest {seen}, and the collector calls it {clean(book['digest'])}",
            "watchbill doctor",
        )
    if digest is not None and digest.lower() != seen:
        raise Refused(
            f"{clean(name)} has another text by now, {seen}", f"watchbill runbooks show {clean(name)}"
        )
    if not session.as_json and digest is None and not yes:
        for line in text.splitlines():
            session.screen.line(clean(line, LINE_MAX))
        session.screen.line()
        for finding in book["findings"]:
            session.screen.line(finding_line(finding))
    if digest is None:
        sure(f"Accept this text of {clean(name)} ({seen[:16]})?", yes)
    made = session.client.post(f"/runbooks/{segment(name)}/accept", {"digest": seen})
    if session.as_json:
        session.screen.json(made)
        return
    session.screen.line(f"{clean(name)} may be run: {clean(made['accepted_by'])} accepted {seen[:16]}.")


@runbooks.command("reset-breaker")
@click.argument("name")
@click.option("--reason", metavar="TEXT", help="Why; others read it.")
@talks
def reset_breaker(session: Session, name: str, reason: str | None) -> None:
    """Let the trigger of NAME act again, after runs that did not end well."""
    if not reason or not reason.strip():
        raise Misused("why? others read it", f"watchbill runbooks reset-breaker {clean(name)} --reason TEXT")
    made: dict[str, Any] = session.client.post(f"/runbooks/{segment(name)}/breaker", {"reason": reason})
    if session.as_json:
        session.screen.json(made)
        return
    session.screen.line(f"The trigger of {clean(name)} acts again.")


@runbooks.command()
@click.argument("name")
@click.argument("parameters", nargs=-1, metavar="[K=V]...")
@click.option(
    "--run", "run_id", metavar="RUN", default="", help="Go on with this open run, under its parameters."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write OUT.bundle and OUT.md; the runbook's name without it.",
)
@talks
def export(session: Session, name: str, parameters: tuple[str, ...], run_id: str, out: Path | None) -> None:
    """Write what carries NAME out without the collector: a signed bundle, and the same on paper.

    `watchbill-agent act --bundle` takes the bundle on each host; the paper has every command line, in order.
    """
    from watchbill_collector.cli.bundles import export_bundle

    export_bundle(session, name, assignments(parameters), run_id, out or Path(name))
