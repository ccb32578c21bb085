"""What `watchbill-agent actions check` and `actions list` print."""

import argparse
import json
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from watchbill.actions.definition import Action
from watchbill.actions.files import ACTIONS_DIRECTORY, Allowed, load_allowed
from watchbill.actions.owned import owned_fault, way_fault
from watchbill.commandline import OK, USAGE
from watchbill.homes import Homes

ROOT = 0


def _allowed(arguments: argparse.Namespace) -> tuple[Path, Allowed, int]:
    """With `--home` for trying out, the files are the user's own; else they have to be root's."""
    homes = Homes.resolve("runner", getattr(arguments, "home", None))
    owner = ROOT if homes.etc == Homes.resolve("runner", None, {}).etc else os.geteuid()
    return homes.etc, load_allowed(homes.etc, owner), owner


def check(arguments: argparse.Namespace) -> int:
    """Every fault of the files, and what would keep an action from running now; the exit code."""
    etc, allowed, owner = _allowed(arguments)
    faults = [*allowed.faults, *_faults(allowed, owner)]
    if arguments.json:
        print(
            json.dumps(
                {"actions": sorted(allowed.actions), "observes": sorted(allowed.observes), "faults": faults}
            )
        )
        return USAGE if faults else OK
    for fault in faults:
        print(fault)
    what = f"{len(allowed.actions)} actions and {len(allowed.observes)} observations"
    if not faults:
        print(f"{what} in {etc}: nothing is wrong with them")
        if not (allowed.actions or allowed.observes):
            print(f"nothing can be run here; what may be goes into {etc / ACTIONS_DIRECTORY}/*.toml")
    return USAGE if faults else OK


def _faults(allowed: Allowed, owner: int) -> Iterator[str]:
    """What would keep an action from running now, though its file is right."""
    for action in allowed.actions.values():
        for argv in (action.argv, action.plan_argv):
            if argv and (fault := _executable_fault(Path(argv[0]), owner)):
                yield f"{action.name}: {argv[0]}: {fault}"
        if not _user_exists(action.run_as):
            yield f"{action.name}: run_as: got {action.run_as}, wanted a user of this host"
    for observe in allowed.observes.values():
        if fault := _executable_fault(Path(observe.argv[0]), owner):
            yield f"{observe.name}: {observe.argv[0]}: {fault}"
        if not _user_exists(observe.run_as):
            yield f"{observe.name}: run_as: got {observe.run_as}, wanted a user of this host"


def _executable_fault(path: Path, owner: int) -> str:
    """Why root would not run it. A link is followed: what it leads to is what has to be right."""
    try:
        real = path.resolve(strict=True)
    except OSError as exc:
        return (exc.strerror or "unreadable").lower()
    if fault := owned_fault(real, owner) or way_fault(real, owner):
        return fault
    return "" if os.access(real, os.X_OK) else "not executable"


def _user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def list_actions(arguments: argparse.Namespace) -> int:
    """A line an action; the exit code."""
    _, allowed, _ = _allowed(arguments)
    actions = [allowed.actions[name] for name in sorted(allowed.actions)]
    if arguments.json:
        documents = [{**one.document(), "digest": one.digest()} for one in actions]
        print(json.dumps({"actions": documents, "faults": list(allowed.faults)}))
        return OK
    for one in actions:
        print("  ".join(_row(one, digest=arguments.digest)))
    for fault in allowed.faults:
        print(f"not used: {fault}")
    return OK


def _row(action: Action, *, digest: bool) -> Iterator[str]:
    if digest:
        yield action.digest()
    yield f"{action.name:<24}"
    yield f"{action.effect.value:<6}"
    yield f"{action.run_as:<10}"
    yield f"needs {action.needs.approvals} of {action.needs.role}" if action.protected else "needs nobody"
    yield action.about or " ".join(action.argv)
