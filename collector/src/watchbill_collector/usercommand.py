"""`watchbill-collector user`: who may use the API, managed on the collector's own machine."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watchbill.commandline import OK

if TYPE_CHECKING:
    from watchbill.config import Homes
    from watchbill_collector.config import CollectorConfig


def add_arguments(user: argparse.ArgumentParser, shared: argparse.ArgumentParser) -> None:
    """What the command takes."""
    actions = user.add_subparsers(title="actions", metavar="ACTION", required=True)

    def add(name: str, help_: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, parents=[shared], help=help_, description=help_.capitalize() + ".")
        made.set_defaults(action=name)
        made.add_argument("--json", action="store_true", help="print one JSON document")
        return made

    new = add("add", "let somebody in, and make a first token")
    new.add_argument("name", help="the user's name; a program has one too")
    _granting(new)
    _token(new)
    new.add_argument("--no-token", action="store_true", help="make no token")
    add("list", "list everybody, with grants and tokens")
    grant = add("grant", "give somebody these roles and scopes, and no others")
    grant.add_argument("name", help="the user's name")
    _granting(grant)
    for name, help_ in (
        (
            "disable",
            "let somebody in no more: tokens open nothing, sessions end, votes are void; shows what is short now",
        ),
        ("enable", "let somebody in again"),
    ):
        add(name, help_).add_argument("name", help="the user's name")
    token = add("token", "make another token for somebody")
    token.add_argument("name", help="the user's name")
    _token(token)
    revoke = add("revoke", "make a token worthless, at once")
    revoke.add_argument("name", help="the user's name")
    revoke.add_argument("token_id", help="the token's id, as `user list` shows it")


def _granting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--role",
        action="append",
        required=True,
        help="viewer, operator, approver, author, admin or auditor; repeat for several",
    )
    parser.add_argument(
        "--scope",
        action="append",
        default=[],
        help="a selector of hosts by labels bound at enrolment, such as team=a; without it everything",
    )


def _token(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--expires", metavar="DURATION", help="how long the token opens something, such as 90d"
    )
    parser.add_argument("--for", dest="token_name", default="", metavar="WHAT", help="what the token is for")
    parser.add_argument(
        "--token-file", type=Path, help="write the token there, mode 0600, instead of printing it"
    )


def run_user(arguments: argparse.Namespace, homes: "Homes", config: "CollectorConfig") -> int:
    """Do it, by the running collector or by ourselves. Raises the house's errors."""
    request = _request(arguments)
    said = _do(homes, config, request)
    token_file: Path | None = getattr(arguments, "token_file", None)
    token = said.get("token")
    if token and token_file is not None:
        from watchbill.files import write_atomic

        write_atomic(token_file, f"{token}\n".encode())
        said = {**said, "token": None, "token_file": str(token_file)}
    if arguments.json:
        print(json.dumps(said, default=str))
    elif arguments.action == "list":
        for user in said["users"]:
            _print_user(user)
    else:
        _print_user(said["user"])
        if "leaving" in said:
            print_leaving(said["leaving"], said.get("leaving_unknown", ""))
        if token:
            print(f"token     {token_file or token}")
            if token_file is None:
                print("          shown this once: keep it somewhere safe", file=sys.stderr)
    return OK


def _request(arguments: argparse.Namespace) -> dict[str, Any]:
    request: dict[str, Any] = {"do": arguments.action, "name": getattr(arguments, "name", "")}
    if arguments.action in ("add", "grant"):
        scopes = arguments.scope or [""]
        request["grants"] = [{"role": role, "scope": scope} for role in arguments.role for scope in scopes]
    if arguments.action in ("add", "token"):
        request["token_name"] = arguments.token_name
        if arguments.expires:
            from watchbill.config import Duration, NotWanted
            from watchbill.errors import UsageError

            try:
                request["life_s"] = float(Duration.from_config(arguments.expires))
            except NotWanted as exc:
                raise UsageError(f"--expires: got {arguments.expires!r}, wanted {exc}") from exc
    if arguments.action == "add":
        request["without_token"] = arguments.no_token
    if arguments.action == "revoke":
        request["token_id"] = arguments.token_id
    return request


def _do(homes: "Homes", config: "CollectorConfig", request: Mapping[str, Any]) -> dict[str, Any]:
    from watchbill_collector.services.userdesk import answer, ask, local_actor

    said = ask(homes.run, request)
    if said is not None:
        return said
    import asyncio

    from watchbill.clock import SystemClock
    from watchbill_collector.configured import store_password
    from watchbill_collector.init import audit_key
    from watchbill_collector.runbookfiles import usable_runbooks
    from watchbill_collector.services.staffing import Staffing
    from watchbill_collector.store import Store
    from watchbill_collector.users import Users

    with Store.open(homes.var, config.site, config.store.url, store_password(config)) as store:
        store.sign_with(audit_key(homes.var))
        clock = SystemClock()
        staffing = Staffing(store, clock, lambda: usable_runbooks(homes.etc))
        return asyncio.run(answer(Users(store, clock), request, local_actor(os.geteuid()), staffing))


def _print_user(user: Mapping[str, Any]) -> None:
    grants = ", ".join(f"{one['role']} {one['scope'] or '(everything)'}" for one in user["grants"])
    print(f"{user['name']}{' (disabled)' if user['disabled'] else ''}: {grants}")
    for one in user["tokens"]:
        state = (
            f"revoked {one['revoked']}"
            if one["revoked"]
            else f"expires {one['expires']}"
            if one["expires"]
            else "does not expire"
        )
        used = f"used {one['used']}" if one["used"] else "never used"
        print(f"  token {one['id']}  {one['name'] or '-'}  {state}, {used}")


def print_leaving(leaving: Mapping[str, Any] | None, unknown: str) -> None:
    """For people: what ends, and what is short now."""
    print("  his tokens open nothing, his sessions have ended")
    if leaving is None:
        print(f"  what he could approve cannot be told: {unknown}")
        return
    if leaving["runs"]:
        print(f"  his votes are void in {', '.join(leaving['runs'])}")
    if not leaving["roster"]:
        return
    print(
        f"  STILL ON THE ROSTER {leaving['roster']}: hosts count what he signs until they have one without him"
    )
    print("    on the machine with its key: watchbill roster sign FILE --key KEY --previous FILE.signed")
    print("    then: watchbill roster publish FILE.signed; watchbill roster behind")
    for title, place in (
        ("hosts whose actions he could approve", "hosts"),
        ("runbooks that ask for his role", "runbooks"),
    ):
        if leaving[place]:
            print(f"  {title}:")
        for one in leaving[place]:
            what = (
                f"{one['host']}: {one['action']}" if place == "hosts" else f"{one['runbook']}, {one['where']}"
            )
            short = ", TOO FEW" if one["short"] else ""
            print(f"    {what} needs {one['needed']} of {one['role']}, {one['left']} left{short}")
