"""What the daemons' command lines have in common: argparse that says where the help is, errors as lines.

Nothing heavy is imported here: `--help` has to be there before anybody notices.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

OK, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130

Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """Usage errors that say where the help is."""

    def error(self, message: str) -> NoReturn:
        """Exit 2."""
        self.exit(USAGE, f"{self.prog}: {message}\nTry: {self.prog} --help\n")


class Version(argparse.Action):
    """`--version`, for whichever program it is."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        """Print it and end."""
        from watchbill import __version__

        print(f"{parser.prog} {__version__}")
        parser.exit()


def home_option() -> Parser:
    """The parent parser with `--home`, which every command takes, before or after its name."""
    shared = Parser(add_help=False)
    shared.add_argument(
        "--home",
        metavar="DIR",
        type=Path,
        default=argparse.SUPPRESS,
        help="keep etc/, var/ and run/ under DIR instead of the system's directories (WATCHBILL_HOME)",
    )
    return shared


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse, call what `command` was set to, and turn what goes wrong into a line and an exit code."""
    arguments = parser.parse_args(argv)
    try:
        code = int(arguments.command(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has enough; the interpreter must not find out again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as exc:  # noqa: BLE001 - Sorted there; what is not ours is raised again.
        return _failed(parser.prog, exc)
    return code


def say(program: str, line: str) -> None:
    """One line on standard error, made safe for a terminal."""
    from watchbill.logs import escape

    print(f"{program}: {escape(line)}", file=sys.stderr)


def _failed(program: str, error: Exception) -> int:
    """What we raise on purpose is a message and a code; the rest is a bug and stays one."""
    from watchbill.daemon import exit_code
    from watchbill.errors import WatchbillError

    if not isinstance(error, WatchbillError):
        raise error
    for line in str(error).splitlines():
        say(program, line)
    return int(exit_code(error))
