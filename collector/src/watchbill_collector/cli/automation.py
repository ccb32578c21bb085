"""`watchbill automation`: hold everything that acts by itself, and let it go on."""

from typing import Any

import click

from watchbill_collector.cli.errors import Misused
from watchbill_collector.cli.options import Session, talks
from watchbill_collector.cli.screen import ago, clean, clock


@click.group(invoke_without_command=True)
@talks
@click.pass_context
def automation(ctx: click.Context, session: Session) -> None:
    """Whether triggers act and runs begin steps with an effect; pause or resume that."""
    if ctx.invoked_subcommand is None:
        _tell(session, session.client.get("/automation"))


@automation.command()
@talks
def status(session: Session) -> None:
    """Whether it is paused, by whom and why."""
    _tell(session, session.client.get("/automation"))


@automation.command()
@click.option("--reason", metavar="TEXT", help="Why; it is kept with your name.")
@talks
def pause(session: Session, reason: str | None) -> None:
    """No trigger starts anything, no run begins a step with an effect; what runs on hosts runs on."""
    _change(session, "pause", reason)


@automation.command()
@click.option("--reason", metavar="TEXT", help="Why; it is kept with your name.")
@talks
def resume(session: Session, reason: str | None) -> None:
    """The end of the pause."""
    _change(session, "resume", reason)


def _change(session: Session, word: str, reason: str | None) -> None:
    if not reason or not reason.strip():
        raise Misused("why? others read it", f"watchbill automation {word} --reason TEXT")
    _tell(session, session.client.post(f"/automation/{word}", {"reason": reason}))


def _tell(session: Session, document: dict[str, Any]) -> None:
    screen = session.screen
    if session.as_json:
        screen.json(document)
    elif document["paused"]:
        since = f"{clock(document['since'])}, {ago(document['since'])} ago"
        screen.line(
            f"{screen.painted('Paused', 'yellow')} by {clean(document['by'])} since {since}: "
            f"{clean(document['reason'], 2_000)}"
        )
        screen.line("To end it: watchbill automation resume --reason TEXT")
    else:
        screen.line("Automation is on.")
