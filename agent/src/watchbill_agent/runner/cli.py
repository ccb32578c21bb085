"""The command `watchbill-runner`, which is not built yet and says so: nothing pretends."""

import argparse
from collections.abc import Sequence

from watchbill.commandline import USAGE, Parser, Version, home_option, run, say

PROGRAM = "watchbill-runner"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = Parser(
        prog=PROGRAM,
        parents=[home_option()],
        description="Runs the actions that root allows on this host. Not built yet.",
        epilog="Exit codes: 2 usage or configuration.",
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    parser.set_defaults(command=_later)
    return run(parser, argv)


def _later(_: argparse.Namespace) -> int:
    say(PROGRAM, "the runner is not built yet; watchbill-agent --help says what is")
    return USAGE
