"""The systemd journal, read through journalctl: the library would be one more to carry, and a file that is damaged or
on a mount that hangs is then somebody else's to be killed.

A look reads what came after a cursor, so many bytes and so long at most; what it did not read, the next one does. The
cursor is that of the last entry that was taken whole. The child is of its caller's process group and is killed however
the look ends.
"""

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from watchbill.errors import Transient

PROGRAM: Final = "journalctl"
ENTRY_BYTES_MAX: Final = 1024 * 1024
"""Of one entry as JSON; a longer one is skipped and counted."""
MESSAGE_BYTES_MAX: Final = 64 * 1024
ERROR_BYTES_MAX: Final = 4 * 1024
READ_BYTES: Final = 256 * 1024
CURSOR_CHARACTERS_MAX: Final = 1_024
ENDS_S_MAX: Final = 1.0
"""How long a killed journalctl may take to be gone."""
_HIDDEN: Final = (b"insufficient permissions", b"not seeing messages from other users")


class JournalUnreadable(Transient):
    """Why there are no entries: `reason` is one word."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason = reason


@dataclass(slots=True)
class Entries:
    """What a look found. `behind`: there is more, which was too much for it."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    cursor: str = ""
    oversized: int = 0
    behind: bool = False

    def take(self, line: bytes) -> None:
        """One line of output."""
        if not line.startswith(b"{"):
            return  # `-- No entries --`, `-- Boot ... --`.
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return
        cursor = entry.get("__CURSOR")
        if isinstance(cursor, str) and len(cursor) <= CURSOR_CHARACTERS_MAX:
            self.cursor = cursor
        self.entries.append(entry)


def message_of(entry: dict[str, Any]) -> bytes:
    """The text of an entry in one line. It is text, bytes as numbers, or several of these."""
    value = entry.get("MESSAGE")
    if isinstance(value, list) and value and isinstance(value[0], (list, str)):
        value = value[-1]
    if isinstance(value, list):
        try:
            data = bytes(value)
        except (ValueError, TypeError):
            return b""
    else:
        data = value.encode("utf-8", "replace") if isinstance(value, str) else b""
    return data[:MESSAGE_BYTES_MAX].replace(b"\n", b" ").replace(b"\0", b"")


def end_of_journal(within_s: float, program: str = PROGRAM) -> str:
    """The cursor of the newest entry; empty when there is none. Raises JournalUnreadable."""
    return _read(program, ["--lines=1", "--output-fields=PRIORITY"], within_s, READ_BYTES).cursor


def entries_after(
    cursor: str,
    matches: Sequence[str],
    within_s: float,
    bytes_max: int,
    *,
    outputs: Sequence[str] = ("MESSAGE",),
    program: str = PROGRAM,
) -> Entries:
    """Entries after this one; without a cursor, all of the last minute. `matches` are arguments such as
    `--unit=ssh.service`. Raises JournalUnreadable."""
    since = [f"--after-cursor={cursor}"] if cursor else ["--since=-1min"]
    fields = f"--output-fields={','.join(outputs)}"
    found = _read(program, [*since, "--all", fields, *matches], within_s, bytes_max)
    found.cursor = found.cursor or cursor
    return found


def _read(program: str, arguments: Sequence[str], within_s: float, bytes_max: int) -> Entries:
    path = shutil.which(program)
    if path is None:
        raise JournalUnreadable("not-installed", f"there is no program {program}")
    until_s = time.monotonic() + within_s
    try:
        process = subprocess.Popen(
            [path, "--output=json", "--no-pager", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", "")},
        )
    except OSError as exc:
        raise JournalUnreadable("journal-failed", f"{path}: {(exc.strerror or str(exc)).lower()}") from exc
    found = Entries()
    try:
        errors, whole = _received(process, found, until_s, bytes_max)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDS_S_MAX)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
    found.behind = not whole
    if any(text in errors for text in _HIDDEN):
        raise JournalUnreadable("not-permitted", "the agent may not read the journal: group systemd-journal")
    if whole and process.returncode not in (0, -9) and not found.entries:
        words = errors.decode("utf-8", "replace").strip().splitlines() or [f"exit {process.returncode}"]
        raise JournalUnreadable("journal-failed", words[0][:200])
    return found


def _received(
    process: "subprocess.Popen[bytes]", found: Entries, until_s: float, bytes_max: int
) -> tuple[bytes, bool]:
    """Take what it says until it ends (True) or it is enough; what it complains of."""
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = process.stdout.fileno(), process.stderr.fileno()
    poll = select.poll()
    poll.register(out, select.POLLIN)
    poll.register(err, select.POLLIN)
    open_, errors, rest, taken, skipping = {out, err}, b"", b"", 0, False
    while open_:
        left_s = until_s - time.monotonic()
        ready = poll.poll(max(0.0, left_s) * 1000)
        if not ready or left_s <= 0 or taken >= bytes_max:
            return errors, False
        for descriptor, _ in ready:
            data = os.read(descriptor, READ_BYTES)
            if not data:
                poll.unregister(descriptor)
                open_.discard(descriptor)
            elif descriptor == err:
                errors = (errors + data)[:ERROR_BYTES_MAX]
            else:
                taken += len(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if not skipping:
                        found.take(line)
                    skipping = False
                if len(rest) > ENTRY_BYTES_MAX:
                    found.oversized += not skipping
                    skipping, rest = True, b""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(ENDS_S_MAX, until_s - time.monotonic()))
    return errors, True
