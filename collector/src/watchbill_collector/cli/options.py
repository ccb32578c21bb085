"""What commands share: how they say which collector, and JSON or a table."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import click

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


def talks(function: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
    """A command that talks to a collector: adds --url, --token-file and --json."""

    @click.option("--url", metavar="URL", help="The collector, such as http://127.0.0.1:7480.")
    @click.option(
        "--token-file", type=click.Path(path_type=Path), help="File with a bearer token, - for stdin."
    )
    @click.option("--json", "as_json", is_flag=True, help="One JSON document with stable keys.")
    def command(
        url: str | None, token_file: Path | None, as_json: bool, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        # What was said before a verb holds for the verb: `hosts --json show web1`.
        said = click.get_current_context().meta
        url = said["watchbill.url"] = url or said.get("watchbill.url")
        token_file = said["watchbill.token_file"] = token_file or said.get("watchbill.token_file")
        as_json = said["watchbill.json"] = as_json or bool(said.get("watchbill.json"))
        return function(Session(Client(choose(url, token_file)), Screen.here(), as_json), *args, **kwargs)

    return update_wrapper(command, function)  # type: ignore[return-value]  # click gives the shared options.


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


def sure(question: str, yes: bool) -> None:
    """Ask a person at a terminal before something that cannot be taken back; programs have decided."""
    import sys

    if yes or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    if not click.confirm(question, default=False):
        raise Misused("nothing was changed")
