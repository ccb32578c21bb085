"""`watchbill-agent act`: a step of a bundle, carried out on this host by its runner when the collector is gone.

Nothing is decided here: the bundle, the votes and what was found out go to the runner, which judges them as it judges
orders, and what it says is printed. It keeps what it tells, so that the agent can hand it on when there is a collector.
"""

import argparse
import asyncio
import base64
import binascii
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from watchbill.actions.bundle import Bundle, BundleStep, glance
from watchbill.actions.canonical import DOCUMENT_BYTES_MAX
from watchbill.actions.enrolled import read_enrolled
from watchbill.actions.grants import VOTE_BYTES_MAX
from watchbill.actions.outcomes import (
    COMMAND_ACCEPTED,
    COMMAND_BREAKGLASS,
    COMMAND_FINISHED,
    COMMAND_REFUSED,
    Finished,
    Outcome,
    read_accepted,
    read_finished,
    read_refused,
)
from watchbill.commandline import FAILED, OK, USAGE, say
from watchbill.errors import Refused, Unreachable, Unreadable
from watchbill.files import FileMissing, UnreadableFile, read_bounded
from watchbill.homes import Homes
from watchbill_agent.actions.door import Door, Told, runner_socket

PROGRAM: Final = "watchbill-agent"
REFUSED, UNREACHABLE = 6, 5
APPROVAL_BYTES_MAX: Final = 2 * VOTE_BYTES_MAX
LOOK_EVERY_S: Final = 0.2
LINE_CHARACTERS_MAX: Final = 2_000
_SET: Final = re.compile(r"([a-z][a-z0-9_]{0,63})=(.*)", re.ASCII | re.DOTALL)


def act(arguments: argparse.Namespace) -> int:
    """Do it; the exit code."""
    try:
        signed = read_bounded(arguments.bundle, DOCUMENT_BYTES_MAX + 64)
        bundle = glance(signed)
        votes = [_vote(path) for path in arguments.approval]
        values = _values(arguments.set)
    except (Unreadable, FileMissing) as exc:
        say(PROGRAM, str(exc))
        return USAGE
    kind = "undo" if arguments.undo else "cleanup" if arguments.cleanup else "do"
    if arguments.step is None:
        return _list(arguments, bundle)
    if not arguments.reason.strip():
        say(PROGRAM, "why? others read it: --reason TEXT")
        return USAGE
    request = {
        "bundle": base64.b64encode(signed).decode("ascii"),
        "step": arguments.step,
        "kind": kind,
        "run": arguments.run,
        "attempt": arguments.attempt,
        "values": values,
        "votes": votes,
        "reason": arguments.reason,
        "out_of_order": arguments.out_of_order,
    }
    homes = Homes.resolve("agent", getattr(arguments, "home", None))
    try:
        return asyncio.run(_carried_out(runner_socket(homes.run), request, as_json=arguments.json))
    except Unreachable as exc:
        say(PROGRAM, f"{exc}: systemctl start watchbill-runner.socket")
        return UNREACHABLE
    except Refused as exc:
        say(PROGRAM, str(exc))
        return REFUSED


def _vote(path: Path) -> str:
    """An approval's file: one line of base64. Raises Unreadable."""
    try:
        text = read_bounded(path, APPROVAL_BYTES_MAX).decode("ascii").strip()
        base64.b64decode(text, validate=True)
    except (UnicodeDecodeError, binascii.Error, UnreadableFile) as exc:
        raise Unreadable(
            f"{path}: no approval; watchbill approve --bundle F STEP --out A writes one"
        ) from exc
    return text


def _values(found: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in found:
        match = _SET.fullmatch(text)
        if match is None or match[1] in values:
            raise Unreadable(f"--set got {text[:80]!a}, wanted NAME=VALUE, each name once")
        values[match[1]] = match[2]
    return values


# ---------------------------------------------------------------- what there is to do


def _list(arguments: argparse.Namespace, bundle: Bundle) -> int:
    """The steps, those of this host marked."""
    homes = Homes.resolve("runner", getattr(arguments, "home", None))
    enrolled = read_enrolled(homes.etc, homes.etc.stat().st_uid if homes.etc.exists() else 0)
    own = "" if enrolled is None else enrolled.agent_id
    if arguments.json:
        steps = [
            {
                "step": one.step,
                "kind": one.kind,
                "host": one.host,
                "argv": list(one.argv),
                "here": one.agent == own,
            }
            for one in bundle.steps
        ]
        print(json.dumps({"bundle": bundle.id, "runbook": bundle.runbook, "run": bundle.run, "steps": steps}))
        return OK
    print(f"{_shown(bundle.runbook)}, bundle {_shown(bundle.id)}. Steps marked * are this host's:")
    for one in bundle.steps:
        print(_line(one, here=bool(own) and one.agent == own))
    if fault := bundle.fault(int(time.time() * 1000)):
        print(fault)
    return OK


def _line(one: BundleStep, *, here: bool) -> str:
    what = " ".join(one.argv) or one.detail
    needs = f"  needs {one.approvals} of {one.role}" if one.approvals else ""
    return _shown(f"{'*' if here else ' '} {one.step:<16} {one.kind:<8} {one.host:<16} {what}{needs}")


# ---------------------------------------------------------------- doing


async def _carried_out(socket: Path, request: dict[str, Any], *, as_json: bool) -> int:
    async with Door(socket) as door:
        told = await door.act(request)
        for event in told.events:
            if event.kind == COMMAND_REFUSED:
                refused = read_refused(event.payload)
                say(PROGRAM, _shown(f"refused, {refused.reason.value}: {refused.detail}"))
                return REFUSED
        finished = _finished(told)
        key = _key(told)
        if finished is None and not key:
            say(PROGRAM, "the runner has nothing to say of it: watchbill-agent status")
            return FAILED
        while finished is None:
            await asyncio.sleep(LOOK_EVERY_S)
            finished = _finished(await door.acted(key))
    if as_json:
        print(finished.to_json().decode())
    else:
        _tell(finished)
    return OK if finished.outcome is Outcome.OK else FAILED


def _finished(told: Told) -> Finished | None:
    return next((read_finished(one.payload) for one in told.events if one.kind == COMMAND_FINISHED), None)


def _key(told: Told) -> str:
    kinds = {COMMAND_ACCEPTED, COMMAND_BREAKGLASS}
    return next((read_accepted(one.payload).key for one in told.events if one.kind in kinds), "")


def _tell(finished: Finished) -> None:
    for text in (*finished.output.splitlines(), *finished.errors.splitlines()):
        print(_shown(text))
    code = "" if finished.exit_code is None else f", exit code {finished.exit_code}"
    about = f": {finished.detail}" if finished.detail else ""
    print(_shown(f"{finished.outcome.value}{code}{about}"))


def _shown(text: str) -> str:
    """On one line, with nothing that a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text[:LINE_CHARACTERS_MAX])
