"""What a backup adapter is: it asks one tool what is in its repository, and reads what a run of the tool printed.

An adapter is one file in `adapters/`: a docstring whose first paragraph is the help text, a frozen `Options`, pure
parsers and one class. It is used once, in a process of its own that ends afterwards, so it may block; what it starts
goes through `Commands`, which bounds time and output. It never takes an exclusive lock, and judges contents, not exit
codes alone.

    adapter = cls(options, job, commands)       # opens nothing
    seen = adapter.observe(now_ms)              # what the repository says now
    found = adapter.verify(check, now_ms)       # one of `levels`; may read much
    facts = adapter.read_run(0, out, err)       # what a wrapped run of this tool said
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

from watchbill.backups.definition import Definition
from watchbill.backups.record import ERROR_CHARACTERS_MAX, ERRORS_MAX, Level, Outcome, Proof

MIB: Final = 1024 * 1024
STDOUT_BYTES_MAX: Final = 32 * MIB
"""Of one command, unless the adapter says otherwise: 10,000 snapshots of restic are 6 MiB."""


class Reason(StrEnum):
    """Why a repository could not be read, or is not whole: the words that several tools share. An adapter adds its
    own; all are explained in docs/backups.md."""

    NEEDS_RUNNER = "needs-runner"
    """This agent may not read it: it needs more rights than the agent has."""
    NOT_THROUGH_RUNNER = "not-through-runner"
    """The runner reads it, and cannot do this: only commands that are the same each time are made by it."""
    TOOL_MISSING = "tool-missing"
    TOOL_FAILED = "tool-failed"
    """It ended with an error that no other word is for."""
    TOOL_TOO_OLD = "tool-too-old"
    TIMED_OUT = "timed-out"
    TOO_MUCH_OUTPUT = "too-much-output"
    OUTPUT_UNREADABLE = "output-unreadable"
    """What it printed is not what its documentation says: another version, or half a document."""
    REPOSITORY_MISSING = "repository-missing"
    REPOSITORY_UNREACHABLE = "repository-unreachable"
    REPOSITORY_LOCKED = "repository-locked"
    REPOSITORY_DAMAGED = "repository-damaged"
    REPOSITORY_FOREIGN = "repository-foreign"
    """It holds backups, and none of them are of this host or job."""
    PASSWORD_WRONG = "password-wrong"  # noqa: S105 - A reason, no password.
    NO_SNAPSHOTS = "no-snapshots"
    """It can be read and holds nothing."""
    SOURCE_MISSING = "source-missing"
    """A path that was to be backed up is not there."""
    SOURCE_UNREADABLE = "source-unreadable"
    """Some of what was to be backed up could not be read."""
    TOO_FEW_FILES = "too-few-files"
    NOT_OBSERVABLE = "not-observable"
    """There is no repository that this tool's adapter reads."""
    NOT_VERIFIABLE = "not-verifiable"
    """This tool has no verification of that level."""
    ADAPTER_FAILED = "adapter-failed"
    """A mistake of ours."""


# ---------------------------------------------------------------- what runs a tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A command that ended. `exit_code` is None when a signal ended it, or it never began (`missing`); `truncated`: it
    printed more than is kept, and was ended for it."""

    exit_code: int | None = None
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    timed_out: bool = False
    truncated: bool = False
    missing: bool = False

    @property
    def ok(self) -> bool:
        """Whether it ran to its end, printed everything, and calls that a success."""
        return self.exit_code == 0 and not self.timed_out and not self.truncated


class Commands(Protocol):
    """Starts tools for an adapter: without a shell, with a deadline, and with an environment by list."""

    def run(
        self,
        argv: Sequence[str],
        *,
        deadline_s: float | None = None,
        env: Mapping[str, str] | None = None,
        stdout_bytes_max: int = STDOUT_BYTES_MAX,
        input: bytes | None = None,  # noqa: A002 - As subprocess calls it.
        cwd: Path | None = None,
    ) -> Finished:
        """Run it to its end. Without `deadline_s` it has what is left of the whole look, and never more than that.
        No secret belongs in `argv`: everybody on the host reads it; `env` is read by its user and root alone."""

    def left_s(self) -> float:
        """What is left of the whole look, for work that an adapter does itself."""


class NoCommands(Commands):
    """For an adapter that is made and not used."""

    def run(self, argv: Sequence[str], **_: Any) -> Finished:
        """Nothing is run."""
        raise AssertionError(f"an adapter runs {argv[0]} while it is made")

    def left_s(self) -> float:
        """There is no time for anything."""
        return 0.0


# ---------------------------------------------------------------- what an adapter is given, and what it says


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePaths:
    """What is to be in the backup, as the job says it."""

    paths: tuple[str, ...] = ()
    must_exist: bool = False
    min_files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What an adapter knows of the job that it looks for. `copy` is the copy that this repository is, "" where the job
    names none. `scratch` is a directory of this job's own, for a tool's cache; it is there. `manifests` is where
    those of its runs are, if there are any: what is restored is compared with them.
    """

    name: str
    definition: Definition
    source: SourcePaths = SourcePaths()
    copy: str = ""
    host: str = ""
    scratch: Path | None = None
    manifests: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One backup that a repository holds; its time is what its data stands for."""

    id: str
    time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a repository says now.

    `outcome` OK: it was read, and what is in it can be restored as far as it says. UNKNOWN: it could not be read.
    PARTIAL: it was read, and something is not whole, such as log that is missing. FAILED: it was read, and what it
    holds cannot be restored. All but OK have a `reason`; `errors` say it to a person, with what to do.

    A repository that can be read and is empty is OK, has no snapshots and the reason `no-snapshots`: whether that is
    bad, the job's age, RPO and ledger say.
    """

    outcome: Outcome
    reason: str = ""
    errors: tuple[str, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    point_ms: int = 0
    """The newest point that can be restored; 0: the newest snapshot's."""
    running: bool = False
    repo_locked: bool | None = None
    repo_id: str = ""
    tool_version: str = ""
    bytes_source: int | None = None
    bytes_stored: int | None = None
    files: int | None = None
    log_from: str = ""
    log_to: str = ""
    raw_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What to verify: part `part` (from 1) of `parts` of the data. In `parts` checks all of it is read."""

    level: Level
    part: int = 1
    parts: int = 1

    @property
    def fraction(self) -> float:
        """How much of the data this is."""
        return 1 / self.parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a verification found. `proof` is None when it could not be done: `outcome` is then UNKNOWN, and `reason`
    says why. A proof that is not ok comes with FAILED."""

    outcome: Outcome
    proof: Proof | None = None
    reason: str = ""
    errors: tuple[str, ...] = ()
    tool_version: str = ""
    raw_digest: str = ""
    proved_ms: int = 0
    """When what it found was found, where that was earlier: by a scrub, say. 0: now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a run's own output tells of it, beyond its exit code."""

    outcome: Outcome
    reason: str = ""
    errors: tuple[str, ...] = ()
    snapshot_id: str = ""
    bytes_source: int | None = None
    bytes_added: int | None = None
    bytes_stored: int | None = None
    files: int | None = None
    files_failed: int | None = None
    log_from: str = ""
    log_to: str = ""
    tool_version: str = ""


class Adapter(ABC):
    """One backup tool. `name` is the file and the `tool` of a job. `observes`: there is a repository that it reads;
    else runs are all there is to know. `levels` are what `verify` can do."""

    name: ClassVar[str]
    options_type: ClassVar[type[Any]]
    observes: ClassVar[bool] = True
    levels: ClassVar[frozenset[Level]] = frozenset()

    @abstractmethod
    def __init__(self, options: Any, job: Job, commands: Commands) -> None: ...

    @abstractmethod
    def observe(self, now_ms: int) -> Observation:
        """Look once. What goes wrong is an Observation, too: nothing is raised for what a tool or a disk does."""

    def proves(self) -> frozenset[Level]:
        """What `verify` can do with these options: `levels`, but for those that need an option that is not set."""
        return self.levels

    def verify(self, check: Check, now_ms: int) -> Verification:  # noqa: ARG002 - Others need it.
        """Verify once. The daemon asks only for what `proves` says."""
        return Verification(
            outcome=Outcome.UNKNOWN,
            reason=Reason.NOT_VERIFIABLE,
            errors=(f"{self.name} has no verification of the level {check.level}",),
        )

    def read_run(self, exit_code: int, stdout: bytes, stderr: bytes) -> RunFacts:  # noqa: ARG002 - The same.
        """What a wrapped run of this tool printed; what is handed over of it may be its end alone."""
        return by_exit_code(exit_code)

    @classmethod
    def help(cls) -> str:
        """The first paragraph of its file's docstring."""
        return " ".join((sys.modules[cls.__module__].__doc__ or "").partition("\n\n")[0].split())


# ---------------------------------------------------------------- what all adapters say the same way


def by_exit_code(exit_code: int) -> RunFacts:
    """All that is known of a command of which nothing else is."""
    return RunFacts(outcome=Outcome.OK if exit_code == 0 else Outcome.FAILED)


def trouble(finished: Finished, program: str) -> tuple[Reason, tuple[str, ...]] | None:
    """Why a command says nothing that can be used, whatever it is: it is missing, it hung, it never stopped printing,
    or it was killed. None when it ran to its own end; its exit code is then the adapter's to read."""
    if finished.missing:
        return Reason.TOOL_MISSING, error_lines(finished.stderr, f"{program} is not installed here")
    if finished.timed_out:
        return Reason.TIMED_OUT, error_lines(finished.stderr, f"{program} did not end in time and was killed")
    if finished.truncated:
        return Reason.TOO_MUCH_OUTPUT, error_lines(finished.stderr, f"{program} printed too much")
    if finished.exit_code is None:
        return Reason.TOOL_FAILED, error_lines(finished.stderr, f"{program} died of signal {finished.signal}")
    return None


def error_lines(text: bytes | str | Iterable[str], *first: str) -> tuple[str, ...]:
    """Lines for `errors`, bounded and printable: `first`, then the last lines of what a tool printed."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    lines = [*text.splitlines()] if isinstance(text, str) else [*text]
    said = [shown for line in lines if (shown := _printable(line))]
    room = ERRORS_MAX - len(first)
    return (*(_printable(line) for line in first), *(said[-room:] if room > 0 else ()))[:ERRORS_MAX]


def _printable(line: str) -> str:
    text = "".join(char if char.isprintable() else " " for char in line[: 2 * ERROR_CHARACTERS_MAX])
    return text.strip()[:ERROR_CHARACTERS_MAX]
