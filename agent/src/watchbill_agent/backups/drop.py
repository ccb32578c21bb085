"""Hands a record over, from a short command to the agent: through its socket, else as a file that it adopts later.

    hand_over(record) -> the running agent keeps it in its spool and says so      KEPT_BY_AGENT
                      -> var/backups/incoming/TIME-ID.json, and the next agent    KEPT_IN_FILE
                         keeps it before it connects                              (or StorageError)

It returns when the record is on the disk. A file is written under another name, synced, renamed, and its directory
synced, so that the agent finds whole files only. Both ways may come to pass (an agent that died while it answered):
the record's id makes one of them.

A record is a JSON document here: whoever wraps a command makes it without what types and checks records, which takes
longer to import than all the rest; the agent does both before it keeps one.

The directories belong to the agent's user, and this may be root: each is opened by its name in the one before and
never through a symbolic link, so that nobody can have root write elsewhere.
"""

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from watchbill.errors import StorageError, WatchbillError
from watchbill.files import PRIVATE_DIRECTORY, PRIVATE_FILE
from watchbill.limits import EVENT_BYTES_MAX
from watchbill_agent.question import SOCKET_NAME, ask

if TYPE_CHECKING:
    from watchbill.homes import Homes

ORDER: Final = "backup-record"
"""What the socket is asked: this word and the record."""
KEPT_BY_AGENT: Final = "agent"
KEPT_IN_FILE: Final = "file"
BACKUPS: Final = "backups"
INCOMING: Final = "incoming"
NAME_MS_MAX: Final = 10**15 - 1
FILES_MAX: Final = 1_000
"""Records that may wait for an agent; further ones are refused, and whoever reports them is told."""


Document = Mapping[str, Any]
"""A record as it travels."""


class Drop:
    """One place to hand over at: the agent with these homes."""

    def __init__(self, homes: "Homes") -> None:
        self.socket = homes.run / SOCKET_NAME
        self.var = homes.var

    @property
    def directory(self) -> Path:
        """Where files wait."""
        return self.var / BACKUPS / INCOMING

    def hand_over(self, record: Document) -> str:
        """Have it kept; how it is. Raises StorageError when it is not."""
        record = fitted(record)
        try:
            return self._tell(record)
        except WatchbillError as exc:
            try:
                return self.write(record)
            except StorageError as refused:
                raise StorageError(f"{refused}; {exc}") from exc

    def tell(self, record: Document) -> None:
        """Have it kept by a running agent or not at all. Raises what `ask` does, and StorageError."""
        self._tell(fitted(record))

    def _tell(self, record: Document) -> str:
        answer = ask(self.socket, f"{ORDER} {encoded(record).decode()}")
        kept = answer.get("kept")
        if kept not in (KEPT_BY_AGENT, KEPT_IN_FILE):
            raise StorageError(f"the agent could not keep it: {answer.get('why', 'it gave no reason')}")
        return str(kept)

    def write(self, record: Document) -> str:
        """Leave it as a file, synced. Raises StorageError."""
        if self._waiting() >= FILES_MAX:
            raise StorageError(
                f"{self.directory}: {FILES_MAX} records wait there already; is the agent running?"
            )
        placed(self.var, (BACKUPS, INCOMING), file_name(record), encoded(record))
        return KEPT_IN_FILE

    def _waiting(self) -> int:
        try:
            return len(os.listdir(self.directory))  # noqa: PTH208 - A count.
        except OSError:
            return 0  # Writing says what is wrong.


def file_name(record: Document) -> str:
    """Names sort as the records were made."""
    return f"{min(max(record['observed_ms'], 0), NAME_MS_MAX):015d}-{record['record_id']}.json"


def encoded(record: Document) -> bytes:
    """As it is written and sent: ASCII, as an event holds it."""
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def fitted(record: Document) -> Document:
    """The record as it fits an event: of what a tool printed, the end is kept, and less of it the longer it is."""
    while record.get("tail") and len(encoded(record)) > EVENT_BYTES_MAX:
        record = {**record, "tail": record["tail"][len(record["tail"]) // 2 + 1 :]}
    while record.get("errors") and len(encoded(record)) > EVENT_BYTES_MAX:
        record = {**record, "errors": record["errors"][:-1]}
    return record


def placed(var: Path, names: Sequence[str], name: str, content: bytes) -> None:
    """Write a file in a directory below `var`, synced, with the owner of `var`. Raises StorageError."""
    try:
        with _opened(var, names) as directory:
            _write(directory, name, content)
    except FileNotFoundError as exc:
        raise StorageError(f"{var}: no agent was set up here") from exc
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise StorageError(f"{var.joinpath(*names)}: a file could not be written: {reason}") from exc


@contextlib.contextmanager
def _opened(var: Path, names: Sequence[str]) -> Iterator[int]:
    """The directory, made where it is missing."""
    with contextlib.ExitStack() as stack:
        above = os.open(var, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, above)
        owner = os.fstat(above)
        for name in names:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, PRIVATE_DIRECTORY, dir_fd=above)
                os.fsync(above)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=above)
            stack.callback(os.close, below)
            _give(below, owner)
            above = below
        yield above


def _write(directory: int, name: str, content: bytes) -> None:
    temporary = f".{name}.{os.getpid()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, PRIVATE_FILE, dir_fd=directory)
    try:
        try:
            _give(descriptor, os.fstat(directory))
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


def _give(descriptor: int, owner: os.stat_result) -> None:
    """What root makes is the agent's, or it could not read it."""
    found = os.fstat(descriptor)
    if os.geteuid() == 0 and found.st_uid != owner.st_uid and _is_ours(found):
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1)
