"""The options that all commands share: which collector, as whom, and whether as JSON.

They mean the same before the command, before its verb and after it; where one is given twice, the later one counts.
What was said is kept with the run, which every level of the command line shares.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_KEPT = "watchbill."


def _keep(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    if value:
        ctx.meta[f"{_KEPT}{parameter.name}"] = value


def _options() -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    return [
        (("--url",), {"metavar": "URL", "help": "The collector, such as http://127.0.0.1:7480."}),
        (
            ("--token-file",),
            {"type": click.Path(path_type=Path), "help": "File with a bearer token, - for stdin."},
        ),
        (("--json", "as_json"), {"is_flag": True, "help": "One JSON document with stable keys."}),
    ]


def options() -> list[click.Option]:
    """For a command that is made by hand."""
    return [click.Option(list(names), expose_value=False, callback=_keep, **how) for names, how in _options()]


def shared(function: F) -> F:
    """A command, or a group, that takes them."""
    for names, how in reversed(_options()):
        function = click.option(*names, expose_value=False, callback=_keep, **how)(function)
    return function


def _said(ctx: click.Context, name: str) -> Any:
    return ctx.meta.get(f"{_KEPT}{name}")


def url() -> str | None:
    """The collector that was named, if one was."""
    found: str | None = _said(click.get_current_context(), "url")
    return found


def token_file() -> Path | None:
    """The file with the token, if one was named."""
    found: Path | None = _said(click.get_current_context(), "token_file")
    return found


def as_json() -> bool:
    """Whether one JSON document is wanted."""
    return bool(_said(click.get_current_context(), "as_json"))


def in_vain(ctx: click.Context, command: click.Command) -> list[str]:
    """What was said before a command that does not take it."""
    takes = {parameter.name for parameter in command.params}
    return [
        option.opts[0]
        for option in options()
        if option.name not in takes and _said(ctx, str(option.name)) is not None
    ]
