"""`watchbill drills`: which rehearsals are due, and what those that were held have shown."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from watchbill_collector.cli.options import Session, seconds, talks
from watchbill_collector.cli.runbook_text import drilled
from watchbill_collector.cli.screen import ago, clean, clock, moment, span

RUNS_ASKED: Final = 1_000
"""The newest drills, which are what is reported."""
SHOWN: Final = 20
DUE_HEAD: Final = ("RUNBOOK", "EVERY", "LAST DRILL", "DUE")
REPORT_HEAD: Final = ("RUNBOOK", "DRILLS", "SUCCEEDED", "LAST", "TOOK", "P90", "RTO", "MET")
HISTORY_HEAD: Final = ("DRILL", "RUNBOOK", "STATE", "BEGAN", "BY", "RECOVERY")


@click.group(invoke_without_command=True)
@talks
@click.pass_context
def drills(ctx: click.Context, session: Session) -> None:
    """Which drills are due; what those that were held have shown."""
    if ctx.invoked_subcommand is None:
        _due(session)


@drills.command()
@talks
def due(session: Session) -> None:
    """Runbooks that are to be rehearsed, what is overdue first."""
    _due(session)


def _due(session: Session) -> None:
    planned = [one for one in session.client.get("/runbooks")["runbooks"] if one["drill_every_s"] > 0]
    planned.sort(key=lambda one: (one["drill_due"] or "", one["name"]))
    if session.as_json:
        keys = ("name", "drill_every_s", "last_drill", "last_drill_state", "drill_due")
        document = [{key: one[key] for key in keys} | {"overdue": _overdue(one)} for one in planned]
        session.screen.json({"drills": document})
        return
    if not planned:
        session.screen.line("No runbook says how often it is to be rehearsed: `drill: {every: 30d}`.")
        return
    rows = [(one["name"], span(one["drill_every_s"]), drilled(one), _when(one)) for one in planned]
    session.screen.table(DUE_HEAD, rows)
    for one in planned:
        if _overdue(one):
            session.screen.line(f"To hold it: watchbill run {clean(one['name'])} --drill --reason TEXT")


def _overdue(book: dict[str, Any]) -> bool:
    at = moment(book["drill_due"])
    return at is not None and at < datetime.now(UTC)


def _when(book: dict[str, Any]) -> str:
    if book["drill_due"] is None:
        return "-"
    return f"{ago(book['drill_due'])} ago" if _overdue(book) else clock(book["drill_due"])


@drills.command()
@click.option("--since", default="365d", show_default=True, metavar="DURATION", help="Drills since so long.")
@talks
def report(session: Session, since: str) -> None:
    """What drills have shown: how many went well, how long recovery took beside what was promised."""
    begin = datetime.now(UTC) - timedelta(seconds=seconds(since))
    books = session.client.get("/runbooks")["runbooks"]
    document = session.client.get("/runs", {"drill": "1", "limit": str(RUNS_ASKED)})
    held = [
        run for run in document["runs"] if run["drill"] and datetime.fromisoformat(run["created"]) >= begin
    ]
    rows = [
        summary
        for book in books
        if (summary := summary_of(book, [run for run in held if run["runbook"] == book["name"]]))
    ]
    if session.as_json:
        session.screen.json({"runbooks": rows, "drills": held, "truncated": document["truncated"]})
        return
    screen = session.screen
    if not rows:
        screen.line("No drill was held, and none is planned.")
        return
    screen.table(REPORT_HEAD, [_row(one) for one in rows], (1, 2, 4, 5, 6))
    if held:
        screen.line()
        screen.table(HISTORY_HEAD, [_drill_row(run) for run in held[:SHOWN]], (5,))
    if len(held) > SHOWN:
        screen.line(f"and {len(held) - SHOWN} more: --json shows all")
    if document["truncated"]:
        screen.line(f"Older ones than the newest {RUNS_ASKED} drills are not counted.")


def summary_of(book: dict[str, Any], held: list[dict[str, Any]]) -> dict[str, Any]:
    """What the drills of one runbook have shown, the newest first; empty where there is nothing to say."""
    if not held and book["drill_every_s"] <= 0:
        return {}
    ended = [run for run in held if run["ended"] is not None]
    times = [run["recovery_s"] for run in ended if run["recovery_s"] is not None]
    # Nobody knows whether a promise is kept that was never tried, or that nobody made.
    met = None if not times or not book["rto_s"] else times[0] <= book["rto_s"]
    return {
        "name": book["name"],
        "drills": len(ended),
        "succeeded": sum(1 for run in ended if run["state"] == "succeeded"),
        "last": book["last_drill"],
        "last_state": book["last_drill_state"],
        "last_recovery_s": times[0] if times else None,
        "recovery_p90_s": book["recovery_p90_s"],
        "rto_s": book["rto_s"],
        "met": met,
        "overdue": _overdue(book),
    }


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    last = "never" if one["last"] is None else f"{one['last_state'] or 'ended'}, {ago(one['last'])} ago"
    return (
        one["name"],
        str(one["drills"]),
        str(one["succeeded"]),
        f"{last}, overdue" if one["overdue"] else last,
        "-" if one["last_recovery_s"] is None else span(one["last_recovery_s"]),
        "-" if one["recovery_p90_s"] is None else span(one["recovery_p90_s"]),
        span(one["rto_s"]) if one["rto_s"] else "-",
        {None: "unknown", True: "yes", False: "no"}[one["met"]],
    )


def _drill_row(run: dict[str, Any]) -> tuple[str, ...]:
    return (
        run["id"],
        run["runbook"],
        run["state"],
        clock(run["created"]),
        run["requester"] or "-",
        "-" if run["recovery_s"] is None else span(run["recovery_s"]),
    )
