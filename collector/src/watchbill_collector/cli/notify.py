"""`watchbill notify`: whether a notification channel works."""

import click

from watchbill_collector.cli.client import segment
from watchbill_collector.cli.errors import FAILED, OK, CommandFailed
from watchbill_collector.cli.options import Session, talks
from watchbill_collector.cli.said import shared
from watchbill_collector.cli.screen import clean

DETAIL_CHARACTERS = 700


@click.group()
@shared
def notify() -> None:
    """Try a notification channel."""


@notify.command()
@click.argument("channel")
@talks
def test(session: Session, channel: str) -> int:
    """Send a test notice through CHANNEL now, and print what its peer answered. Ends with 1 when it failed."""
    names = [one["name"] for one in session.client.get("/channels")["channels"]]
    if channel not in names:
        if not names:
            raise CommandFailed("the collector has no channels", "write a [[channel]] into collector.toml")
        known = ", ".join(clean(name) for name in names)
        raise CommandFailed(
            f"there is no channel {channel[:64]!r}; there are: {known}", f"watchbill notify test {names[0]}"
        )
    trial = session.client.post(f"/channels/{segment(channel)}/test")
    if session.as_json:
        session.screen.json(trial)
        return OK if trial["delivered"] else FAILED
    if not trial["delivered"]:
        again = " (it may work when tried again)" if trial["transient"] else ""
        raise CommandFailed(
            f"not delivered: {clean(trial['detail'], DETAIL_CHARACTERS)}{again}", clean(trial["hint"], 300)
        )
    session.screen.line(
        f"Delivered by {clean(trial['kind'])} in {trial['took_s']:.1f} s: {clean(trial['detail'], DETAIL_CHARACTERS)}"
    )
    return OK
