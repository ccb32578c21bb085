"""What commands share: how they say which collector, and JSON or a table."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from typing import Concatenate, ParamSpec, TypeVar

import click

from watchbill_collector.cli import said
from watchbill_collector.cli.client import Client
from watchbill_collector.cli.collectors import choose
from watchbill_collector.cli.errors import Misused
from watchbill_collector.cli.screen import Screen

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a command: the collector, the screen, and whether one JSON document is wanted."""

    client: Client
    screen: Screen
    as_json: bool

    def note(self, text: str) -> None:
        """Something about the talking itself, beside what is asked for."""
        click.echo(f"watchbill: {text}", err=True)


def talks(function: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
    """A command that talks to a collector: it takes the shared options."""

    def command(*args: P.args, **kwargs: P.kwargs) -> R:
        client = Client(choose(said.url(), said.token_file()))
        return function(Session(client, Screen.here(), said.as_json()), *args, **kwargs)

    return said.shared(update_wrapper(command, function))


def seconds(text: str) -> float:
    """A duration such as 1h30m, or plain seconds. Raises Misused."""
    from watchbill.config.units import Duration, NotWanted

    digits = text.replace(".", "", 1)
    try:
        return float(text) if digits.isascii() and digits.isdigit() else Duration.from_config(text)
    except NotWanted as exc:
        raise Misused(f"got {text[:60]!r}, wanted {exc}") from exc


def pairs(texts: tuple[str, ...]) -> dict[str, str]:
    """`k=v`, repeated or with commas. Raises Misused."""
    found: dict[str, str] = {}
    for text in texts:
        for part in text.split(","):
            key, equals, value = part.partition("=")
            if not equals or not key.strip():
                raise Misused(f"got the label {part[:60]!r}, wanted name=value", "--labels rack=b12,role=db")
            found[key.strip()] = value.strip()
    return found


def assignments(texts: tuple[str, ...]) -> dict[str, str]:
    """Parameters `name=value`; a value may hold anything, "=" as well. Raises Misused."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise Misused(
                f"got {text[:60]!r}, wanted name=value", "watchbill run NAME host=web1 --reason TEXT"
            )
        if name.strip() in found:
            raise Misused(f"got {name.strip()[:60]} twice, wanted it once")
        found[name.strip()] = value
    return found


def sure(question: str, yes: bool) -> None:
    """Ask a person at a terminal before something that cannot be taken back; programs have decided."""
    import sys

    if yes or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    if not click.confirm(question, default=False):
        raise Misused("nothing was changed")
