"""`watchbill-agent actions ...`: what this host allows, for the administrator who wrote it and for who approves it."""

import argparse

from watchbill.commandline import home_option


def add_commands(actions: argparse.ArgumentParser) -> None:
    """The commands of the group."""
    group = actions.add_subparsers(title="what to do", metavar="ACTION", required=True)
    for name, command, help_ in (
        ("check", _check, "read actions.d and observe.d and print every fault; exit 2 when there is one"),
        ("list", _list, "list what may be run on this host"),
    ):
        added = group.add_parser(
            name, parents=[home_option()], help=help_, description=help_.capitalize() + "."
        )
        added.add_argument("--json", action="store_true", help="print one JSON document")
        added.set_defaults(command=command)
        if name == "list":
            added.add_argument("--digest", action="store_true", help="with the digests that approvers see")


def _check(arguments: argparse.Namespace) -> int:
    from watchbill_agent.actions.listing import check

    return check(arguments)


def _list(arguments: argparse.Namespace) -> int:
    from watchbill_agent.actions.listing import list_actions

    return list_actions(arguments)
