"""`watchbill-agent checks ...`: what an application looks like from this host, for who stands before it."""

import argparse

from watchbill.commandline import Parser, add_command


def add_commands(checks: Parser) -> None:
    """The commands of the group."""
    group = checks.add_subparsers(title="what to do", metavar="ACTION", required=True)
    run = add_command(
        group, "run", "look once, now, and print what was found; exit 1 when it is not well", _run, json=True
    )
    run.add_argument("name", metavar="NAME", help="a check of checks.d")
    add_command(
        group, "list", "list the checks of this host and how the running agent found them", _list, json=True
    )
    sorts = add_command(
        group, "kinds", "list what sorts of checks there are, or all keys of one", _kinds, json=True
    )
    sorts.add_argument("kind", metavar="KIND", nargs="?", help="one of them, such as http")


def _run(arguments: argparse.Namespace) -> int:
    from watchbill_agent.checks.showing import run

    return run(arguments)


def _list(arguments: argparse.Namespace) -> int:
    from watchbill_agent.checks.showing import list_checks

    return list_checks(arguments)


def _kinds(arguments: argparse.Namespace) -> int:
    from watchbill_agent.checks.showing import list_kinds

    return list_kinds(arguments)
