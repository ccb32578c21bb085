"""The operator's command, `watchbill`: an HTTP client of a collector, and nothing of the daemon.

`main` is the program. Commands are in modules of their own and are imported when they are called: `--help`
has to be there before anybody notices waiting for it.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; ends the process with one of the surface's exit codes."""
    from watchbill_collector.cli.program import run

    sys.exit(run(sys.argv[1:]))
