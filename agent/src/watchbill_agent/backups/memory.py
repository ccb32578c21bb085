"""What the agent remembers of its backups from run to run: what it told the collector, and how far verifications are.

Losing it costs little: definitions and lists of snapshots are told once more, and a round of verifications begins
anew. So a file that cannot be read is logged and begun again.
"""

import logging
from pathlib import Path
from typing import Final

import msgspec

from watchbill.backups.record import Level
from watchbill.errors import StorageError
from watchbill.files import FileMissing, UnreadableFile, make_directory, read_bounded, write_atomic
from watchbill.logs import fields
from watchbill_agent.backups.present import MEMORY, VAR_DIRECTORY
from watchbill_agent.backups.verifying import Progress

log = logging.getLogger(__name__)

FILE_BYTES_MAX: Final = 4 * 1024 * 1024


class Definition(msgspec.Struct):
    """A definition that was told: which version, and when by wall time."""

    digest: str
    told_ms: int


class Repository(msgspec.Struct):
    """One repository of a job. `told_digest` is of the list of snapshots that was told last, at `told_ms`."""

    told_digest: str = ""
    told_ms: int = 0
    progress: dict[Level, Progress] = msgspec.field(default_factory=dict)


class Memory(msgspec.Struct):
    """All of it. Of another agent's (the host was enrolled anew) nothing counts: its collector knows nothing."""

    agent_id: str = ""
    definitions: dict[str, Definition] = msgspec.field(default_factory=dict)
    repositories: dict[str, Repository] = msgspec.field(default_factory=dict)

    def repository(self, key: str) -> Repository:
        """What is known of this one; begun when there is nothing."""
        return self.repositories.setdefault(key, Repository())

    def keep_only(self, jobs: set[str], keys: set[str]) -> None:
        """Forget what is gone."""
        self.definitions = {name: told for name, told in self.definitions.items() if name in jobs}
        self.repositories = {key: known for key, known in self.repositories.items() if key in keys}


def load(var: Path, agent_id: str) -> Memory:
    """What was remembered for this agent."""
    path = var / VAR_DIRECTORY / MEMORY
    try:
        memory = msgspec.json.decode(read_bounded(path, FILE_BYTES_MAX), type=Memory)
    except FileMissing:
        return Memory(agent_id)
    except (UnreadableFile, msgspec.MsgspecError, ValueError) as exc:
        log.warning("what was told of backups is not known any more", extra=fields(path=path, reason=exc))
        return Memory(agent_id)
    return memory if memory.agent_id == agent_id else Memory(agent_id)


def save(var: Path, content: bytes) -> bool:
    """Keep it; False when the disk refuses, which is logged."""
    try:
        make_directory(var / VAR_DIRECTORY)
        write_atomic(var / VAR_DIRECTORY / MEMORY, content)
    except StorageError as exc:
        log.warning("what was told of backups is not remembered", extra=fields(reason=exc))
        return False
    return True
