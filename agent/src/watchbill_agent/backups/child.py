"""The child that knows the tools: `python -m watchbill_agent.backups.child`, one question on standard input, a line of
JSON for each answer, and a last line that says it is done.

    {"do": "jobs", "etc": DIRECTORY}    -> {"jobs": [...]}, or {"problems": [...]}
    {"do": "observe", "job": ..., ...}  -> a record in each line
    {"do": "verify", "check": ..., ...} -> a record

It gives way to everything else on the host, has a bound on its memory, ends with who started it, and ends the tools
that it started when it is told to end. What an adapter stumbles over is a record, too: "unknown", and why.
"""

import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final, Literal

import msgspec

from watchbill.backups.record import Outcome, Record
from watchbill.clock import SystemClock
from watchbill.config.convert import Table
from watchbill.errors import ConfigError
from watchbill.files import make_directory
from watchbill_agent.backups import adapters
from watchbill_agent.backups.adapter import (
    Adapter,
    Check,
    Commands,
    Job,
    Observation,
    Reason,
    Verification,
    error_lines,
)
from watchbill_agent.backups.command import HostCommands, bound_memory, die_with, quiet_down
from watchbill_agent.backups.config import JobConfig, Target, read_jobs
from watchbill_agent.backups.looks import Looked, observed, verified
from watchbill_agent.backups.manifest import MANIFESTS
from watchbill_agent.backups.redact import Redactor, known_secrets

MEMORY_BYTES_MAX: Final = 768 * 1024 * 1024
"""Addresses of this process, not of the tools: a list of 32 MiB in JSON becomes 300 MiB of Python's objects."""
QUESTION_BYTES_MAX: Final = 1024 * 1024
DONE: Final = b'{"done":true}'


class Question(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is asked. `parent` is the process that waits for the answer; 0: nobody to end with."""

    do: Literal["jobs", "observe", "verify"]
    etc: str = ""
    runner: str = ""
    """The socket of this host's runner; "" asks nothing of it."""
    parent: int = 0
    scratch: str = ""
    job: JobConfig | None = None
    target: Target | None = None
    check: Check | None = None
    within_s: float = 0.0
    told_digest: str = ""


class Told(SystemExit):
    """Told to end: what was started is ended on the way out."""


def answers(question: Question) -> Iterator[bytes]:
    """The lines of the answer, without the last."""
    if question.do == "jobs":
        yield _jobs(Path(question.etc))
        return
    for record in _look(question):
        yield record.to_json()


def _jobs(etc: Path) -> bytes:
    try:
        return msgspec.json.encode({"jobs": read_jobs(etc)})
    except ConfigError as exc:
        return msgspec.json.encode({"problems": exc.problems})


def _look(question: Question) -> tuple[Record, ...]:
    assert question.job is not None, "a look is at a job"
    assert question.target is not None, "a look is at one of its repositories"
    clock = SystemClock()
    began_ms = clock.wall_ms()
    found: Observation | Verification
    try:
        commands = _commands(question)
        adapter = _adapter(question, question.job, question.target, commands)
        if question.do == "observe":
            found = adapter.observe(began_ms)
        else:
            assert question.check is not None, "a verification is of a level"
            found = adapter.verify(question.check, began_ms)
        found = _with_hint(found, commands)
    except Exception as exc:  # noqa: BLE001 - An adapter's mistake is told as one; it must not look like silence.
        traceback.print_exc()
        found = _mistake(question, exc)
    looked = Looked(
        job=question.job.name,
        tool=question.job.definition.tool,
        copy=question.target.copy,
        began_ms=began_ms,
        ended_ms=clock.wall_ms(),
        told_digest=question.told_digest,
    )
    redact = Redactor(known_secrets(os.environ, ()))
    if isinstance(found, Observation):
        return observed(looked, found, redact)
    return (verified(looked, found, redact),)


def _commands(question: Question) -> Commands:
    here = HostCommands(Path(question.scratch), question.within_s)
    if not question.runner:
        return here
    from watchbill_agent.backups.through_runner import ThroughRunner

    return ThroughRunner(here, Path(question.etc), Path(question.runner))


def _with_hint(found: Observation | Verification, commands: Commands) -> Observation | Verification:
    """Where the agent's user may not read something, root may let the runner: how is said with it."""
    hint = getattr(commands, "hint", str)() if found.reason == Reason.NEEDS_RUNNER else ""
    return replace(found, errors=error_lines(found.errors, hint)) if hint else found


def _adapter(question: Question, config: JobConfig, target: Target, commands: Commands) -> Adapter:
    kind = adapters.find(config.definition.tool)
    assert kind is not None, "the configuration was read with it"
    scratch = Path(question.scratch)
    make_directory(scratch)
    job = Job(
        name=config.name,
        definition=config.definition,
        source=config.source,
        copy=target.copy,
        host=socket.gethostname(),
        scratch=scratch,
        manifests=scratch.parent.parent / MANIFESTS / config.name,
    )
    options = Table(target.options, ("backup", config.definition.tool)).read(kind.options_type)
    return kind(options, job, commands)


def _mistake(question: Question, exc: Exception) -> Observation | Verification:
    reason, text = Reason.ADAPTER_FAILED, f"the adapter failed: {type(exc).__name__}: {exc}"
    if isinstance(exc, MemoryError):
        reason, text = Reason.TOO_MUCH_OUTPUT, "there was not enough memory for what the tool printed"
    errors = error_lines(text)
    if question.do == "observe":
        return Observation(outcome=Outcome.UNKNOWN, reason=reason, errors=errors)
    return Verification(outcome=Outcome.UNKNOWN, reason=reason, errors=errors)


def _told(number: int, _: FrameType | None) -> None:
    raise Told(128 + number)


def main() -> int:
    """Ask, answer, end."""
    signal.signal(signal.SIGTERM, _told)
    question = msgspec.json.decode(sys.stdin.buffer.read(QUESTION_BYTES_MAX), type=Question)
    if question.parent:
        die_with(question.parent)
    if question.do != "jobs":
        quiet_down()
        bound_memory(MEMORY_BYTES_MAX)
    os.umask(0o077)
    for line in (*answers(question), DONE):
        sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
