"""Enrolment tells the runner who this host is: `enrolled.json`, which stays root's.

Root hands over its rights before it speaks to anybody. What it has to write afterwards is left to a process that it
forked before, which takes one small document from a pipe, believes nothing of its form, and writes one file.
"""

import json
import os
from pathlib import Path
from typing import Any, Final

from watchbill.actions.enrolled import ENROLLED_FILE, Enrolled, write_enrolled
from watchbill.actions.signing import PUBLIC_KEY_BYTES
from watchbill.errors import WatchbillError
from watchbill.files import make_directory, sync_directory
from watchbill.identity import AgentIdentity

WRITTEN, FAILED = 0, 1
DOCUMENT_BYTES_MAX: Final = 64 * 1024
ETC_MODE: Final = 0o755


class Introduction:
    """Writes `enrolled.json` with the rights that this process had when this was made. Made before a thread is."""

    def __init__(self, etc: Path) -> None:
        reading, self._writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._writing)
            os._exit(_write(etc, reading))
        os.close(reading)

    def introduce(self, identity: AgentIdentity) -> bool:
        """Tell it who the host is; whether that is written down. The end of this object."""
        with os.fdopen(self._writing, "wb") as pipe:
            pipe.write(json.dumps(_document(identity)).encode())
        return os.waitpid(self._pid, 0)[1] == 0

    def nobody(self) -> None:
        """The host was not enrolled: nothing is written. The end of this object."""
        os.close(self._writing)
        os.waitpid(self._pid, 0)


def forget(etc: Path) -> None:
    """The runner knows no host any more. Raises OSError."""
    path = etc / ENROLLED_FILE
    if path.exists():
        path.unlink()
        sync_directory(etc)


def _document(identity: AgentIdentity) -> dict[str, Any]:
    return {
        "site": identity.site,
        "agent_id": identity.agent_id,
        "instance": identity.instance,
        "labels": identity.labels,
        "command_key": identity.command_key.hex(),
    }


def _write(etc: Path, reading: int) -> int:
    """In the forked process: read all, judge, write."""
    try:
        with os.fdopen(reading, "rb") as pipe:
            content = pipe.read(DOCUMENT_BYTES_MAX)
        if not content:
            return WRITTEN
        found = json.loads(content)
        key = bytes.fromhex(found["command_key"])
        if len(key) != PUBLIC_KEY_BYTES:
            return FAILED
        enrolled = Enrolled(
            site=str(found["site"]),
            agent_id=str(found["agent_id"]),
            instance=str(found["instance"]),
            command_key=key,
            labels={str(name): str(value) for name, value in found["labels"].items()},
        )
        make_directory(etc, ETC_MODE)
        write_enrolled(etc, enrolled)
    except (OSError, WatchbillError, ValueError, KeyError, AttributeError, TypeError):
        return FAILED
    return WRITTEN
