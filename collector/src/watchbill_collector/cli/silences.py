"""`watchbill silences`: quiet for some alerts, for a while, with a reason."""

from typing import Any

import click

from watchbill_collector.cli.client import segment
from watchbill_collector.cli.errors import Misused
from watchbill_collector.cli.options import Session, seconds, talks
from watchbill_collector.cli.screen import ago, clean, labels_text, span

HEAD = ("ID", "STATE", "ENDS", "FIRING", "AUTHOR", "MATCHERS", "WITHIN", "REASON")
SHOWN_MAX = 20


@click.group(invoke_without_command=True)
@talks
@click.pass_context
def silences(ctx: click.Context, session: Session) -> None:
    """List silences; add one, or end one early."""
    if ctx.invoked_subcommand is None:
        _list(session, expired=False)


@silences.command("list")
@click.option("--all", "expired", is_flag=True, help="Those that have ended, too.")
@talks
def list_silences(session: Session, expired: bool) -> None:
    """Silences that have not ended."""
    _list(session, expired=expired)


def _list(session: Session, *, expired: bool) -> None:
    document = session.client.get("/silences", {"expired": "1"} if expired else None)
    if session.as_json:
        session.screen.json(document)
        return
    rows = document["silences"]
    if not rows:
        session.screen.line("No silences.")
        return
    session.screen.table(
        HEAD,
        [
            (
                one["id"],
                one["state"],
                ago(one["ends"]),
                str(one["firing"]),
                one["author"],
                one["matchers"],
                one["scope"] or "everything",
                one["reason"],
            )
            for one in rows
        ],
        (2, 3),
    )


@silences.command()
@click.argument("matchers")
@click.option("--for", "duration", metavar="DURATION", help="How long, such as 2h.")
@click.option("--reason", metavar="TEXT", help="Why; others read it.")
@click.option("--in", "begins", metavar="DURATION", default="0s", help="Begin so much later.")
@click.option("--dry-run", is_flag=True, help="Only show what it would match now.")
@talks
def add(
    session: Session, matchers: str, duration: str | None, reason: str | None, begins: str, dry_run: bool
) -> None:
    """Silence the alerts that MATCHERS mean, such as 'alertname="HostSilent",instance=~"web.*"'."""
    if dry_run:
        tried = session.client.post("/silences/match", {"matchers": matchers})
        if session.as_json:
            session.screen.json(tried)
        else:
            _matched(session, tried)
        return
    example = f"watchbill silences add '{matchers[:80]}' --for 2h --reason TEXT"
    if not duration:
        raise Misused("for how long? a silence ends by itself", example)
    if not reason or not reason.strip():
        raise Misused("why? a silence has a reason", example)
    duration_s = seconds(duration)
    order = {
        "matchers": matchers,
        "duration_s": duration_s,
        "reason": reason,
        "starts_in_s": seconds(begins),
    }
    made = session.client.post("/silences", order)
    if session.as_json:
        session.screen.json(made)
        return
    silence = made["silence"]
    within = f" within {clean(silence['scope'], 400)}" if silence["scope"] else ""
    session.screen.line(
        f"Silence {silence['id']} for {span(duration_s)}: {clean(silence['matchers'], 400)}{within}"
    )
    _matched(session, made)
    session.screen.line(f"To end it early: watchbill silences expire {silence['id']}")


def _matched(session: Session, document: dict[str, Any]) -> None:
    count = document["matched"]
    session.screen.line(f"It matches {count} alerts now{':' if count else '.'}")
    for alert in document["alerts"][:SHOWN_MAX]:
        what = f"{clean(alert['name'])} {clean(labels_text(alert['labels']), 200)}"
        session.screen.line(f"  {session.screen.state(alert['state'])} {what}")
    if count > SHOWN_MAX:
        session.screen.line(f"  and {count - SHOWN_MAX} more")


@silences.command()
@click.argument("silence_id", metavar="ID")
@talks
def expire(session: Session, silence_id: str) -> None:
    """End silence ID now."""
    ended = session.client.delete(f"/silences/{segment(silence_id)}")
    if session.as_json:
        session.screen.json(ended)
        return
    session.screen.line(f"Silence {ended['id']} has ended.")
