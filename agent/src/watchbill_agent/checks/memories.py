"""What checks remember over a restart: a small JSON file each, in the agent's state directory.

A file that cannot be written costs nothing now: it is counted, and the next change writes it again. One that cannot be
read is as none.
"""

import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from watchbill.errors import StorageError
from watchbill.files import FileMissing, UnreadableFile, make_directory, read_bounded, write_atomic
from watchbill.logs import fields
from watchbill_agent.checks.check import MEMORY_BYTES_MAX

log = logging.getLogger(__name__)

SUFFIX: Final = ".json"
VERDICTS: Final = ".verdicts"
"""No check's name begins with a dot, so none is called so."""


class Memories:
    """The memories of all checks of this host, under `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept: dict[str, str] = {}
        self.failures = 0

    def load(self, name: str) -> dict[str, Any] | None:
        """What is kept under this name; None when there is nothing that can be read."""
        path = self._path(name)
        try:
            content = json.loads(read_bounded(path, MEMORY_BYTES_MAX))
        except FileMissing:
            return None
        except (UnreadableFile, ValueError, RecursionError, OSError) as exc:
            log.warning("what a check remembered cannot be read", extra=fields(check=name, reason=exc))
            return None
        return content if isinstance(content, dict) else None

    def keep(self, name: str, memory: Mapping[str, Any]) -> None:
        """Write it, when it is not what is there. Blocks as long as the disk does."""
        content = json.dumps(memory, separators=(",", ":"), sort_keys=True)
        if self._kept.get(name) == content:
            return
        try:
            if len(content) > MEMORY_BYTES_MAX:
                raise StorageError(f"{len(content)} bytes, wanted at most {MEMORY_BYTES_MAX}")
            make_directory(self._directory)
            write_atomic(self._path(name), content.encode())
        except (StorageError, OSError) as exc:
            if not self.failures:
                log.error("what a check remembers cannot be written", extra=fields(check=name, reason=exc))
            self.failures += 1
            return
        self._kept[name] = content

    def forget_others(self, names: frozenset[str]) -> None:
        """Remove the files of checks that are no more; from a disk that takes nothing at the next reload."""
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            if path.name.removesuffix(SUFFIX) not in names and not path.name.startswith("."):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}{SUFFIX}"
