"""What the daemons' command lines have in common: argparse that says where the help is, errors as lines.

Nothing heavy is imported here: `--help` has to be there before anybody notices.
"""

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from watchbill import outputs

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    Commands = argparse._SubParsersAction["Parser"]  # noqa: SLF001 - It has no other name.

OK, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130

OUTPUT_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What writing to standard output fails with; another error of the system that names no file is a bug."""

Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """Usage errors that say where the help is."""

    def error(self, message: str) -> NoReturn:
        """Exit 2."""
        self.exit(USAGE, f"{self.prog}: {message}\nTry: {self.prog} --help\n")

    def print_help(self, file: "SupportsWrite[str] | None" = None) -> None:
        """As argparse has it, but a disk that is full is told: newer versions swallow that."""
        (file or sys.stdout).write(self.format_help())


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


def program(name: str, description: str) -> "tuple[Parser, Commands]":
    """The command line of a program that has commands, and where they are added."""
    parser = Parser(
        prog=name,
        parents=[home_option()],
        description=description,
        epilog="Exit codes: 0 ok, 1 failed, 2 usage or configuration, 5 not reachable, 6 refused.",
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    return parser, parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def add_command(
    commands: "Commands", name: str, help_: str, command: Command | None = None, *, json: bool = False
) -> Parser:
    """A command, or the verb of one. Without `command` it is a group, whose verbs say what is called."""
    added = commands.add_parser(
        name, parents=[home_option()], help=help_, description=help_.capitalize() + "."
    )
    if command is not None:
        added.set_defaults(command=command)
    if json:
        added.add_argument("--json", action="store_true", help="print one JSON document")
    return added


def add_unbuilt(commands: "Commands", name: str, help_: str, command: Command) -> None:
    """A command that is promised: whatever is typed behind it, options too, reaches `command`, which says so."""
    # Nothing begins with this character, so nothing is an option that this parser would have to know.
    later = commands.add_parser(name, help=help_, prefix_chars="\0", add_help=False)
    later.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    later.set_defaults(command=command, name=name)


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse, call what `command` was set to, and turn what goes wrong into a line and an exit code."""
    outputs.ready()
    try:
        arguments = parser.parse_args(argv)
        code = int(arguments.command(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        outputs.abandon()  # Whoever read has enough; the interpreter must not find out again at exit.
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as exc:
        return _exited(parser.prog, exc)
    except Exception as exc:  # noqa: BLE001 - Sorted there; what is not ours is raised again.
        return _failed(parser.prog, exc)
    return code


def _exited(program: str, exit_: SystemExit) -> NoReturn:
    """The end that argparse wants, after what it printed is out: `--help | head -1` is no failure."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        outputs.abandon()
    except OSError as exc:
        raise SystemExit(_failed(program, exc)) from exc
    raise exit_


def at_home(arguments: argparse.Namespace) -> str:
    """` --home DIR` as it has to be typed again, empty where the system's directories are meant."""
    import os
    from shlex import quote

    from watchbill.config import HOME_VARIABLE

    home = getattr(arguments, "home", None) or os.environ.get(HOME_VARIABLE)
    return f" --home {quote(str(home))}" if home else ""


def say(program: str, line: str) -> None:
    """One line on standard error, made safe for a terminal."""
    from watchbill.logs import escape

    print(f"{program}: {escape(line)}", file=sys.stderr)


def _failed(program: str, error: Exception) -> int:
    """What we raise on purpose is a message and a code, and so is what the system refuses; the rest is a bug and
    stays one.
    """
    from watchbill.daemon import exit_code
    from watchbill.errors import WatchbillError

    if isinstance(error, OSError) and (error.filename is not None or error.errno in OUTPUT_IS_FULL):
        if error.filename is None:
            outputs.abandon()
        say(program, f"{error.filename or 'output'}: {(error.strerror or str(error)).lower()}")
        _say_who_may(program, error)
        return FAILED
    if not isinstance(error, WatchbillError):
        raise error
    for line in str(error).splitlines():
        say(program, line)
    _say_who_may(program, error.__cause__)
    return int(exit_code(error))


def _say_who_may(program: str, error: BaseException | None) -> None:
    import os

    if isinstance(error, PermissionError) and os.geteuid() != 0:
        print(f"Try: sudo {program} ..., or --home DIR for a place of your own", file=sys.stderr)
