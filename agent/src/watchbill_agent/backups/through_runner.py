"""Commands that root lets the runner make for us: what stands in `observe.d`, word for word, is read by it.

    [[observe]]
    name = "tank.status"
    argv = ["/usr/sbin/zpool", "status", "tank"]

An adapter notices nothing of it. A command that has an environment or an input of its own is never such a one, and
where the runner does not answer it is run here, by the agent's user, as ever.
"""

import base64
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from watchbill.actions.files import OBSERVE_DIRECTORY, load_allowed
from watchbill.errors import Unreadable, WatchbillError
from watchbill_agent.actions.spoken import answer as further
from watchbill_agent.actions.spoken import ask, connected
from watchbill_agent.backups.adapter import STDOUT_BYTES_MAX, Commands, Finished
from watchbill_agent.backups.command import PATH_DEFAULT

TIMEOUT: Final = "timeout"
SHOWN_MAX: Final = 440
"""Characters of a command in a hint."""


class ThroughRunner(Commands):
    """`inner` runs what the runner does not."""

    def __init__(self, inner: Commands, etc: Path, socket_path: Path) -> None:
        self._inner = inner
        self._socket = socket_path
        found = load_allowed(etc, os.geteuid()).observes if _has_files(etc / OBSERVE_DIRECTORY) else {}
        self._names = {tuple(one.argv): name for name, one in found.items()}
        self.last: tuple[str, ...] = ()
        """The last command that the runner could have made, had root said so."""

    def left_s(self) -> float:
        """What is left of the whole look."""
        return self._inner.left_s()

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
        """By the runner when root says so, else by ourselves."""
        if not env and input is None:
            self.last = (shutil.which(argv[0], path=PATH_DEFAULT) or argv[0], *argv[1:])
            name = self._names.get(self.last)
            left_s = self.left_s() if deadline_s is None else min(deadline_s, self.left_s())
            if name is not None and left_s > 0:
                try:
                    return self._read(name, left_s, stdout_bytes_max)
                except (OSError, WatchbillError):
                    pass  # It is tried by ourselves, and what is missing then is told.
        return self._inner.run(
            argv, deadline_s=deadline_s, env=env, stdout_bytes_max=stdout_bytes_max, input=input, cwd=cwd
        )

    def hint(self) -> str:
        """What root would have to say so that the runner makes the last command; "" when it could not."""
        if not self.last or self.last in self._names or not self.last[0].startswith("/"):
            return ""
        argv = ", ".join(f'"{one}"' for one in self.last)
        return f"or let the runner read it: observe.d, argv = [{argv}]" if len(argv) <= SHOWN_MAX else ""

    def _read(self, name: str, left_s: float, stdout_bytes_max: int) -> Finished:
        """Ask for it by its name. Raises OSError, Unreadable."""
        output = b""
        with connected(self._socket, left_s) as connection:
            answer = ask(connection, do="observe", name=name)
            while "piece" in answer:
                output += base64.b64decode(answer["piece"])
                if len(output) > stdout_bytes_max:
                    return Finished(stdout=output[:stdout_bytes_max], truncated=True)
                answer = further(connection)
        if "error" in answer:
            raise Unreadable(str(answer["error"]))
        if answer["exit_code"] is None and answer["outcome"] != TIMEOUT and answer["detail"]:
            raise Unreadable(str(answer["detail"]))
        return Finished(
            exit_code=answer["exit_code"],
            stdout=output,
            stderr=str(answer["errors"]).encode(),
            timed_out=answer["outcome"] == TIMEOUT,
            truncated=answer["whole"] is not True,
        )


def _has_files(directory: Path) -> bool:
    try:
        return any(name.suffix == ".toml" for name in directory.iterdir())
    except OSError:
        return False
