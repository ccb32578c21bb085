"""Who this host is, as root believes it: `enrolled.json`, which enrolment writes and the agent's user cannot change.

The agent's own identity is the agent's; a runner that believed it would take whoever broke into the agent for the
collector.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from watchbill.actions.canonical import canonical, read_canonical
from watchbill.actions.owned import read_owned
from watchbill.actions.roster import PUBLIC_FILE, PUBLIC_FILE_BYTES_MAX, read_public_file
from watchbill.actions.signing import PUBLIC_KEY_BYTES
from watchbill.errors import Unreadable
from watchbill.files import write_atomic

ENROLLED_FILE: Final = "enrolled.json"
ENROLLED_BYTES_MAX: Final = 64 * 1024
READABLE: Final = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """One host. `labels` were bound at enrolment; `command_key` is what the collector's orders are signed by."""

    site: str
    agent_id: str
    instance: str
    command_key: bytes
    labels: dict[str, str] = field(default_factory=dict)


def write_enrolled(etc: Path, enrolled: Enrolled) -> None:
    """Replace the file; durable when this returns. Raises StorageError."""
    content = canonical(
        {
            "v": 1,
            "site": enrolled.site,
            "agent_id": enrolled.agent_id,
            "instance": enrolled.instance,
            "command_key": enrolled.command_key.hex(),
            "labels": enrolled.labels,
        }
    )
    write_atomic(etc / ENROLLED_FILE, content + b"\n", READABLE)


def read_enrolled(etc: Path, owner: int) -> Enrolled | None:
    """Who this host is; None before enrolment. Raises Unreadable."""
    path = etc / ENROLLED_FILE
    content = read_owned(path, owner, ENROLLED_BYTES_MAX)
    if content is None:
        return None
    try:
        found = read_canonical(content.strip())
        enrolled = Enrolled(
            site=str(found["site"]),
            agent_id=str(found["agent_id"]),
            instance=str(found["instance"]),
            command_key=bytes.fromhex(str(found["command_key"])),
            labels={str(name): str(value) for name, value in dict(found["labels"]).items()},
        )
    except (Unreadable, KeyError, ValueError, TypeError) as exc:
        raise Unreadable(f"{path}: {exc}; wanted what enrolment wrote: enrol this host again") from exc
    if len(enrolled.command_key) != PUBLIC_KEY_BYTES:
        raise Unreadable(
            f"{path}: a command key of {len(enrolled.command_key)} bytes, wanted {PUBLIC_KEY_BYTES}"
        )
    return enrolled


def read_roster_keys(etc: Path, owner: int) -> dict[str, bytes]:
    """The keys in `roster.pub`, by their ids; none when there is no such file. Raises Unreadable."""
    path = etc / PUBLIC_FILE
    content = read_owned(path, owner, PUBLIC_FILE_BYTES_MAX)
    return {} if content is None else read_public_file(content, str(path))
