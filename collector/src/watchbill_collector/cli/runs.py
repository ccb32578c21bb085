"""`watchbill runs`: what is being done, how far it is, and what a person makes of it."""

from collections.abc import Callable
from typing import Any

import click

from watchbill_collector.cli.client import segment
from watchbill_collector.cli.errors import OK, Misused
from watchbill_collector.cli.following import follow, settled
from watchbill_collector.cli.options import Session, sure, talks
from watchbill_collector.cli.runbook_text import JOURNAL_HEAD, RUN_HEAD, journal_rows, run_lines, run_row
from watchbill_collector.cli.running import left
from watchbill_collector.cli.screen import clean

ROWS_ASKED = 1_000


@click.group(invoke_without_command=True)
@click.option("--open", "open_only", is_flag=True, help="Only those that have not ended.")
@click.option("--runbook", metavar="NAME", help="Only those of this runbook.")
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 1_000), help="How many to show."
)
@talks
@click.pass_context
def runs(ctx: click.Context, session: Session, open_only: bool, runbook: str | None, limit: int) -> None:
    """List runs, the newest first; show, follow or steer one."""
    if ctx.invoked_subcommand is not None:
        return
    fields = {"limit": str(limit)} | ({"open": "1"} if open_only else {})
    document = session.client.get("/runs", fields | ({"runbook": runbook} if runbook else {}))
    if session.as_json:
        session.screen.json(document)
        return
    if not document["runs"]:
        session.screen.line("No run is open." if open_only else "Nothing was run yet: watchbill runbooks")
        return
    session.screen.table(RUN_HEAD, [run_row(one) for one in document["runs"]], (5,))


@runs.command()
@click.argument("run_id", metavar="ID")
@click.option("--output", is_flag=True, help="Everything that was run, and all that it printed.")
@talks
def show(session: Session, run_id: str, output: bool) -> None:
    """Run ID: its steps, who agreed, and what to type next."""
    document = session.client.get(f"/runs/{segment(run_id)}")
    if session.as_json:
        session.screen.json(document)
        return
    for line in run_lines(session.screen, document, everything=output):
        session.screen.line(line)


@runs.command("follow")
@click.argument("run_id", metavar="ID")
@talks
def follow_run(session: Session, run_id: str) -> int:
    """Watch run ID until it has ended or is held, and end with its code. Gates are waited for."""
    run = session.client.get(f"/runs/{segment(run_id)}")
    return left(session, follow(session, run, told=not session.as_json), told=True)


@runs.command()
@click.argument("run_id", metavar="ID")
@click.option("--after", default=0, type=click.IntRange(min=0), help="Only what comes after this row.")
@talks
def log(session: Session, run_id: str, after: int) -> None:
    """What was decided, sent and answered in run ID, as it was written down."""
    rows: list[dict[str, Any]] = []
    while True:
        fields = {"after": str(rows[-1]["n"] if rows else after)}
        page = session.client.get(f"/runs/{segment(run_id)}/journal", fields)["rows"]
        rows += page
        if len(page) < ROWS_ASKED:
            break
    if session.as_json:
        session.screen.json({"rows": rows})
        return
    if not rows:
        session.screen.line("Nothing is written after that.")
        return
    session.screen.table(JOURNAL_HEAD, list(journal_rows(rows)), (0,))


def _verb(word: str, about: str, question: str = "") -> Callable[..., Any]:
    """A command that steers a run. With a question it asks at a terminal."""

    @runs.command(word, help=about)
    @click.argument("run_id", metavar="ID")
    @click.argument("step", required=False, default="")
    @click.option("--reason", metavar="TEXT", help="Why; it is kept with your name.")
    @click.option("--yes", is_flag=True, help="Do not ask.", hidden=not question)
    @talks
    def command(session: Session, run_id: str, step: str, reason: str | None, yes: bool) -> int:
        if not reason or not reason.strip():
            raise Misused("why? it is kept with your name", f"watchbill runs {word} ID --reason TEXT")
        if question:
            sure(question.format(clean(run_id)), yes)
        order = {"step": step, "reason": reason}
        changed = session.client.post(f"/runs/{segment(run_id)}/{word}", order)
        run = settled(session, changed)
        if session.as_json:
            session.screen.json(run)
            return OK
        left(session, run, told=False)
        return OK

    done: Callable[..., Any] = command
    return done


_verb("retry", "Try the step that run ID is held at once more: a new attempt.")
_verb("skip", "Go on without the step that run ID is held at.", "Leave this step of {} out?")
_verb("mark-done", "Say that the step that run ID is held at has happened: you looked.")
_verb("undo", "Undo what run ID has done, in reverse.", "Undo what {} has done?")
_verb("abort", "End run ID where it is; nothing is undone.", "End {} where it is?")
_verb("start", "Begin run ID, which an alert has proposed.")
