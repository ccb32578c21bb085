"""The command `watchbill-runner`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from watchbill.commandline import FAILED, OK, USAGE, Parser, Version, home_option, run, say
from watchbill.homes import Homes

PROGRAM = "watchbill-runner"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = Parser(
        prog=PROGRAM,
        parents=[home_option()],
        description="Runs the actions that root allows on this host (actions.d), when a signed order asks for one. "
        "systemd starts it at the first connection; with --home it makes its own socket, for trying out.",
        epilog="Exit codes: 0 ok, 1 failed, 2 usage or configuration, 6 refused: another one runs.",
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    parser.add_argument(
        "--check", action="store_true", help="print what it would stand on and every fault, then exit"
    )
    parser.set_defaults(command=_run)
    return run(parser, argv)


def _place(arguments: argparse.Namespace) -> tuple[Homes, Path | None, int]:
    """Where its files are, what --home is, and whose files it believes beside root's."""
    import os

    from watchbill.homes import HOME_VARIABLE

    said = getattr(arguments, "home", None) or os.environ.get(HOME_VARIABLE)
    home = None if not said else Path(said).absolute()
    return Homes.resolve("runner", home, {}), home, 0 if home is None else os.geteuid()


def _run(arguments: argparse.Namespace) -> int:
    import os

    homes, home, owner = _place(arguments)
    if arguments.check:
        return _check(homes, owner)
    if home is None and os.geteuid() != 0:
        say(PROGRAM, "it runs as root, or with --home DIR for trying out")
        return USAGE
    import logging

    from watchbill import daemon, logs
    from watchbill_agent.runner.service import Service

    logs.setup(logging.INFO)
    os.umask(0o077)

    async def work(house: daemon.Daemon) -> None:
        await Service(homes, home).run(house)

    return daemon.run(work)


def _check(homes: Homes, owner: int) -> int:
    from watchbill.actions.enrolled import read_enrolled, read_roster_keys
    from watchbill.actions.files import load_allowed
    from watchbill.errors import Unreadable

    faults = []
    try:
        enrolled = read_enrolled(homes.etc, owner)
        if enrolled is None:
            faults.append(f"{homes.etc}: this host is not enrolled as root: watchbill-agent enroll")
        else:
            print(f"host     {enrolled.instance} ({enrolled.agent_id}) of {enrolled.site}")
        keys = read_roster_keys(homes.etc, owner)
        print(f"roster   {', '.join(sorted(keys)) or 'no roster.pub: no protected action runs'}")
    except Unreadable as exc:
        faults.append(str(exc))
    allowed = load_allowed(homes.etc, owner)
    print(f"actions  {len(allowed.actions)}")
    print(f"observe  {len(allowed.observes)}")
    for fault in (*faults, *allowed.faults):
        say(PROGRAM, fault)
    return FAILED if faults or allowed.faults else OK
