"""A program that prints what a test wants it to, for output that no real tool of this version can be made to print."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from watchbill_agent.backups.command import HostCommands


@dataclass(frozen=True)
class Printed:
    out: bytes = b""
    err: bytes = b""
    code: int = 0


def fake_tool(place: Path, name: str, answers: Mapping[str, Printed | bytes]) -> str:
    """Answers by the first pattern, as of a shell, that its arguments meet; else it fails. Returns its path."""
    cases = []
    for number, (pattern, answer) in enumerate(answers.items()):
        said = answer if isinstance(answer, Printed) else Printed(answer)
        out, err = place / f"{name}.{number}.out", place / f"{name}.{number}.err"
        out.write_bytes(said.out)
        err.write_bytes(said.err)
        shown = f"cat {shlex.quote(str(out))}; cat {shlex.quote(str(err))} >&2; exit {said.code}"
        cases.append(f"  {pattern}) {shown};;")
    script = place / name
    script.write_text('#!/bin/sh\ncase "$*" in\n' + "\n".join(cases) + "\nesac\nexit 99\n")
    script.chmod(0o755)
    return str(script)


def commands(place: Path, whole_s: float = 30.0) -> HostCommands:
    return HostCommands(place, whole_s)
