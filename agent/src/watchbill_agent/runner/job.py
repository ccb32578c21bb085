"""A job: everything about one accepted command that its supervisor has to know. Written down before it is accepted;
nothing of it comes from the network but the arguments, which the action's own description has judged."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from watchbill.actions.outcomes import COMMAND_ACCEPTED, COMMAND_BREAKGLASS, Accepted, Breakglass
from watchbill.errors import Unreadable
from watchbill_agent.runner.event import Event

LEFT_TO_OWNER: Final = "root"
"""The user of actions that name none. Where the runner itself is not root, as under --home, it is the runner's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is run, as whom and within which limits. `secrets` are variables and their places on this host; `owner` is
    whose the executable has to be, beside root."""

    argv: tuple[str, ...]
    run_as: str
    owner: int
    timeout_s: int
    kill_grace_s: int
    output_max: int
    sha256: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Glass:
    """Why a step was begun without the collector, and from which bundle; see `acting.py`."""

    bundle: str
    runbook: str
    attempt: int
    uid: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One command. `plan`: its `plan_argv` is run. `glass`: it was no order of the collector's."""

    key: str
    run: str
    step: str
    action: str
    plan: bool
    lock: str
    task: Task
    ledger: str
    boot: str
    at_ms: int
    approvers: tuple[str, ...] = ()
    glass: Glass | None = None

    def content(self) -> bytes:
        """For its room."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")).encode()

    def marks(self) -> dict[str, str]:
        """What its process is told of it: to mark what it leaves behind, and to ask others once for one thing."""
        return {"WATCHBILL_RUN": self.run, "WATCHBILL_STEP": self.step, "WATCHBILL_KEY": self.key}

    def accepted(self) -> Accepted:
        """What is told of it at once."""
        return Accepted(
            key=self.key,
            run=self.run,
            step=self.step,
            ledger=self.ledger,
            boot=self.boot,
            at_ms=self.at_ms,
            approvers=self.approvers,
        )

    def begun(self) -> Event:
        """The event that tells that it was accepted, and if so that nobody of the collector's asked for it."""
        accepted, glass = self.accepted(), self.glass
        if glass is None:
            return Event(COMMAND_ACCEPTED, accepted.to_json())
        told = Breakglass(
            accepted=accepted,
            bundle=glass.bundle,
            runbook=glass.runbook,
            action=self.action,
            attempt=glass.attempt,
            uid=glass.uid,
            reason=glass.reason,
        )
        return Event(COMMAND_BREAKGLASS, told.to_json())


def read_job(content: bytes) -> Job:
    """From its room. Raises Unreadable: then another version of us has written it."""
    try:
        found = json.loads(content)
        task = found.pop("task")
        task["argv"] = tuple(task["argv"])
        found["approvers"] = tuple(found["approvers"])
        glass = found.pop("glass", None)
        found["glass"] = None if glass is None else Glass(**glass)
        return Job(task=Task(**task), **found)
    except (ValueError, KeyError, TypeError) as exc:
        raise Unreadable(f"a job: {exc!r}") from exc


def task_content(task: Task) -> bytes:
    """A task that is handed over through a pipe."""
    return json.dumps(asdict(task), separators=(",", ":")).encode()


def read_task(content: bytes) -> Task:
    """From the pipe."""
    found = json.loads(content)
    found["argv"] = tuple(found["argv"])
    return Task(**found)
