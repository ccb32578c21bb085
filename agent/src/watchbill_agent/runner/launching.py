"""How a supervisor is started, so that it outlives the runner.

Where systemd is process 1, in a transient unit of its own: a cgroup that ends with it, limits, and nothing of the
runner's sandbox, which would be in an action's way. Its command line is our executor and the key alone, since systemd
replaces `$X` and `%x` in what it is given. Elsewhere in a session of its own, as a subreaper.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from watchbill.errors import Transient
from watchbill_agent.runner.bounds import LEFT_S
from watchbill_agent.runner.child import CREDENTIAL, CREDENTIALS
from watchbill_agent.runner.job import Task

SYSTEMD_RUNS: Final = Path("/run/systemd/system")
SYSTEMD_RUN: Final = "/usr/bin/systemd-run"
UNIT: Final = "watchbill-cmd-"
READING_UNIT: Final = "watchbill-read-"
ASK_S: Final = 20.0
"""How long systemd may take to begin a unit."""
TASKS_MAX: Final = 4_096
MARGIN_S: Final = 30.0
"""From the last moment of a task to that at which systemd ends its unit: the supervisor writes the result."""


class NotLaunched(Transient):
    """No supervisor was started."""


class Launcher(Protocol):
    """Starts supervisors."""

    def start(self, key: str, task: Task) -> None:
        """Start one for the key of a job. Raises NotLaunched when that is certain not to have happened."""

    def reading(self, name: str, task: Task) -> list[str]:
        """The command line of a supervisor that takes a task on standard input and answers on standard output."""

    def reap(self) -> None:
        """Collect supervisors that have ended."""


def executor(home: Path | None) -> list[str]:
    """Our fixed executor. Isolated: neither the environment nor a directory says what Python runs."""
    where = [] if home is None else ["--home", str(home)]
    return [sys.executable, "-I", "-m", "watchbill_agent.runner.executor", *where]


class SessionLauncher:
    """Supervisors in sessions of their own."""

    def __init__(self, home: Path | None) -> None:
        self._executor = executor(home)
        self._children: list[int] = []

    def start(self, key: str, task: Task) -> None:  # noqa: ARG002
        """A process that has nothing of ours."""
        argv = [*self._executor, key]
        nothing = [(os.POSIX_SPAWN_OPEN, handle, os.devnull, os.O_RDWR, 0) for handle in range(3)]
        try:
            pid = os.posix_spawn(argv[0], argv, {}, file_actions=nothing, setsid=True)
        except OSError as exc:
            raise NotLaunched(f"no supervisor could be started: {exc}") from exc
        self._children.append(pid)

    def reading(self, name: str, task: Task) -> list[str]:  # noqa: ARG002
        """The executor itself."""
        return [*self._executor, "--reading"]

    def reap(self) -> None:
        """Ours are children as long as we live."""
        self._children = [pid for pid in self._children if os.waitpid(pid, os.WNOHANG) == (0, 0)]


class UnitLauncher:
    """Supervisors in transient units of systemd's. `run` is subprocess.run, an argument so that what would be asked
    for can be looked at where systemd is not process 1."""

    def __init__(
        self, etc: Path, run: Callable[..., "subprocess.CompletedProcess[bytes]"] = subprocess.run
    ) -> None:
        self._etc = etc
        self._run = run

    def start(self, key: str, task: Task) -> None:
        """Ask systemd; it answers when the supervisor has been begun, or not."""
        argv = [*self._asking(UNIT + key, task), "--", *executor(None), key]
        try:
            done = self._run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_S, check=False)
        except subprocess.TimeoutExpired:
            return  # It may have been begun: the room's lock will tell.
        except OSError as exc:
            raise NotLaunched(f"systemd could not be asked for a unit: {exc}") from exc
        if done.returncode:
            why = done.stderr.decode("utf-8", "replace").strip()[:300]
            raise NotLaunched(f"systemd began no unit: {why}")

    def reading(self, name: str, task: Task) -> list[str]:
        """A unit that is connected to us."""
        asking = self._asking(READING_UNIT + name, task)
        return [*asking, "--pipe", "--wait", "--", *executor(None), "--reading"]

    def reap(self) -> None:
        """They are systemd's."""

    def _asking(self, unit: str, task: Task) -> list[str]:
        longest_s = task.timeout_s + task.kill_grace_s + LEFT_S + MARGIN_S
        properties = {
            "Type": "exec",
            "KillMode": "control-group",
            # The supervisor alone is told to stop: it ends the task, in its grace, and writes that down.
            "TimeoutStopSec": f"{task.kill_grace_s + MARGIN_S:.0f}",
            "RuntimeMaxSec": f"{longest_s:.0f}",
            "NoNewPrivileges": "yes",
            "LimitCORE": "0",
            "TasksMax": str(TASKS_MAX),
            "OOMPolicy": "continue",
            "UMask": "0022",
        }
        found = [SYSTEMD_RUN, "--quiet", "--collect", f"--unit={unit}", f"--description={unit}"]
        found += [f"--property={name}={value}" for name, value in properties.items()]
        for credential in _credentials(task.secrets):
            found.append(f"--property=LoadCredential={credential}:{self._etc / CREDENTIALS / credential}")
        return found


def _credentials(secrets: Mapping[str, str]) -> list[str]:
    return sorted(
        {place.removeprefix(CREDENTIAL) for place in secrets.values() if place.startswith(CREDENTIAL)}
    )


def launcher(etc: Path, home: Path | None) -> Launcher:
    """The one for this machine. Under --home nothing is asked of systemd."""
    with contextlib.suppress(OSError):
        if home is None and SYSTEMD_RUNS.is_dir():
            return UnitLauncher(etc)
    return SessionLauncher(home)
