"""`watchbill-agent actions ...`: what this host allows, for the administrator who wrote it and for who approves it."""

import argparse

from watchbill.commandline import Parser, add_command


def add_commands(actions: Parser) -> None:
    """The commands of the group."""
    group = actions.add_subparsers(title="what to do", metavar="ACTION", required=True)
    for name, command, help_ in (
        ("check", _check, "read actions.d and observe.d and print every fault; exit 2 when there is one"),
        ("list", _list, "list what may be run on this host"),
    ):
        added = add_command(group, name, help_, command, json=True)
        if name == "list":
            added.add_argument("--digest", action="store_true", help="with the digests that approvers see")


def _check(arguments: argparse.Namespace) -> int:
    from watchbill_agent.actions.listing import check

    return check(arguments)


def _list(arguments: argparse.Namespace) -> int:
    from watchbill_agent.actions.listing import list_actions

    return list_actions(arguments)
