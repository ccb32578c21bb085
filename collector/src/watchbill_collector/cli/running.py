"""`watchbill run`: begin a run, after it has been shown what it would do."""

import sys
from typing import Any

import click

from watchbill_collector.cli.client import segment
from watchbill_collector.cli.errors import FAILED, Misused, Refused
from watchbill_collector.cli.following import ENDED, follow, settled
from watchbill_collector.cli.options import Session, assignments, sure, talks
from watchbill_collector.cli.runbook_text import next_lines, plan_lines, prose, recovery, width_of
from watchbill_collector.cli.screen import clean

PROBLEMS_TOLD = 5


@click.command()
@click.argument("name")
@click.argument("parameters", nargs=-1, metavar="[K=V]...")
@click.option("--reason", metavar="TEXT", help="Why; it is kept with your name.")
@click.option("--drill", is_flag=True, help="Rehearse it: its drill's parameters, its clean-up.")
@click.option("--confirm", metavar="TARGET", help="What a run that cannot be undone wants to be typed.")
@click.option("--wait", is_flag=True, help="Watch it to its end, or until it is held; gates are waited for.")
@click.option(
    "--yes", is_flag=True, help="Do not ask. A run that cannot be undone needs --confirm all the same."
)
@talks
def run(
    session: Session,
    name: str,
    parameters: tuple[str, ...],
    reason: str | None,
    drill: bool,
    confirm: str | None,
    wait: bool,
    yes: bool,
) -> int:
    """Run runbook NAME with parameters K=V.

    On a terminal it first shows hosts, arguments, gates and points of no return. It leaves the run to itself after
    its first seconds: with 4 when it waits for approval, 0 when it goes on.
    """
    if not reason or not reason.strip():
        raise Misused("why? a run has a reason", f"watchbill run {clean(name)} --reason TEXT")
    given = assignments(parameters)
    plan = session.client.post(f"/runbooks/{segment(name)}/plan", {"parameters": given, "drill": drill})
    if session.screen.out.isatty() and not session.as_json:
        book = session.client.get(f"/runbooks/{segment(name)}")["runbook"]
        for line in plan_lines(session.screen, plan, book):
            session.screen.line(line)
        session.screen.line()
    if plan["problems"]:
        raise Refused(
            "; ".join(clean(one, 400) for one in plan["problems"][:PROBLEMS_TOLD]),
            f"watchbill runbooks plan {clean(name)}",
        )
    typed = _confirmed(plan, confirm, yes)
    order = {"runbook": name, "parameters": given, "reason": reason, "drill": drill, "confirm": typed}
    begun = session.client.post("/runs", order)
    if not session.as_json:
        session.screen.line(f"Run {clean(begun['id'])} of {clean(begun['runbook'])} has begun.")
    ended = follow(session, begun, told=not session.as_json) if wait else settled(session, begun)
    return left(session, ended, told=wait)


def _confirmed(plan: dict[str, Any], confirm: str | None, yes: bool) -> str:
    """What was typed to confirm it, "" where nothing has to be. Raises Misused."""
    wanted: str = plan["confirm"]
    again = f"watchbill run {clean(plan['runbook'])} ... --confirm {clean(wanted)}"
    if confirm is not None:
        if confirm != wanted:
            right = f"wanted {clean(wanted)!r}" if wanted else "this asks for nothing"
            raise Misused(f"--confirm got {clean(confirm)!r}, {right}; nothing was started")
        return confirm
    if not wanted:
        sure("Start it?", yes)
        return ""
    if not sys.stdin.isatty():
        raise Misused(f"this cannot be undone from a point on: it wants {clean(wanted)!r} to be typed", again)
    typed: str = click.prompt(f"This cannot be undone. Type {clean(wanted)} to start it", err=True)
    if typed.strip() != wanted:
        raise Misused("that is not it; nothing was started", again)
    return wanted


def left(session: Session, run: dict[str, Any], *, told: bool) -> int:
    """How a run stands when it is no longer watched; the exit code. `told`: its state has been said."""
    code: int = run["exit_code"]
    if session.as_json:
        session.screen.json(run)
        return code
    screen = session.screen
    if not told:
        text = prose(
            run["state_detail"],
            f"It is {screen.state(run['state'])}{':' if run['state_detail'] else ''}",
            6,
            width_of(screen),
        )
        for line in text:
            screen.line(line)
        if run["state"] in ENDED and recovery(run):
            screen.line(f"Recovery {recovery(run)}.")
        for line in next_lines(run):
            screen.line(line)
    if code == FAILED:
        screen.line(f"What happened: watchbill runs show {clean(run['id'])}")
    return code
