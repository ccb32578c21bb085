"""Beginning a process for a task: nothing of ours goes along but two pipes.

Fixed environment, stdin from /dev/null, no other descriptor, its own session, `/` as its directory, limits, the
user's own groups instead of root's, no way to gain rights, and SIGKILL when its supervisor is gone.
"""

import contextlib
import os
import pwd
import resource
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from watchbill.actions.owned import owned_fault, way_fault
from watchbill.errors import Refused
from watchbill.files import UnreadableFile, read_bounded
from watchbill_agent.runner import tree
from watchbill_agent.runner.bounds import SECRET_BYTES_MAX
from watchbill_agent.runner.job import LEFT_TO_OWNER, Task
from watchbill_agent.runner.trusted import PATH, Executable

LANGUAGE: Final = "C.UTF-8"
UMASK: Final = 0o022
FILES_MAX: Final = 4_096
CREDENTIAL: Final = "credential:"
CREDENTIALS: Final = Path("credentials/runner")
"""Below `etc`, for hosts where systemd hands none over."""
CANNOT_BEGIN: Final = 127


class CannotBegin(Refused):
    """A task of which nothing was run, and why."""


@dataclass(frozen=True, slots=True)
class User:
    """Whom a task runs as. `change`: it is another than we are."""

    name: str
    uid: int
    gid: int
    home: str
    change: bool


def find_user(name: str) -> User:
    """Raises CannotBegin when there is none, or when we could not become it."""
    own = os.geteuid()
    try:
        # Trying out under --home, the runner's own user stands for root.
        found = pwd.getpwuid(own) if own and name == LEFT_TO_OWNER else pwd.getpwnam(name)
    except KeyError as exc:
        raise CannotBegin(f"there is no user {name!r} on this host") from exc
    if own not in (0, found.pw_uid):
        raise CannotBegin(f"this runner is not root and cannot run anything as {name}")
    return User(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir, own == 0)


def environment(user: User, secrets: Mapping[str, bytes], marks: Mapping[str, str]) -> dict[bytes, bytes]:
    """All that a task is told by its environment. `marks`: what it belongs to."""
    fixed = {"PATH": PATH, "LANG": LANGUAGE, "HOME": user.home, "USER": user.name, "LOGNAME": user.name}
    found = {os.fsencode(name): os.fsencode(value) for name, value in (fixed | dict(marks)).items()}
    return found | {os.fsencode(name): value for name, value in secrets.items()}


def read_secrets(places: Mapping[str, str], etc: Path, owner: int) -> dict[str, bytes]:
    """Secrets from their places, without the line's end behind them. Raises CannotBegin; never says what they are."""
    return {name: _secret(name, place, etc, owner) for name, place in places.items()}


def _secret(name: str, place: str, etc: Path, owner: int) -> bytes:
    credential = place.removeprefix(CREDENTIAL) if place.startswith(CREDENTIAL) else ""
    handed = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if credential and handed:
        path = Path(handed) / credential  # systemd's own place: it looks after who may read it.
    else:
        path = etc / CREDENTIALS / credential if credential else Path(place)
        fault = owned_fault(path, owner) or way_fault(path, owner)
        if not fault and path.stat().st_mode & 0o077:
            fault = "others may read it: chmod 0600"
        if fault:
            raise CannotBegin(f"the secret {name}: {path}: {fault}")
    try:
        content = read_bounded(path, SECRET_BYTES_MAX).removesuffix(b"\n").removesuffix(b"\r")
    except UnreadableFile as exc:
        raise CannotBegin(f"the secret {name}: {path}: got {exc.got}, wanted {exc.wanted}") from exc
    if not content or b"\0" in content:
        raise CannotBegin(f"the secret {name}: {path}: wanted text that is not empty")
    return content


def begin(
    task: Task, executable: Executable, user: User, variables: Mapping[bytes, bytes], output: int, errors: int
) -> int:
    """Begin the process, in a process without threads; its number. Raises CannotBegin when nothing was run."""
    supervisor = os.getpid()
    reading, failing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(task, executable, user, variables, (output, errors, failing), supervisor)
    os.close(failing)
    with os.fdopen(reading, "rb") as told:
        why = told.read(1024)
    if why:
        os.waitpid(pid, 0)
        raise CannotBegin(f"{task.argv[0]}: {why.decode('utf-8', 'replace')}")
    return pid


def _become(
    task: Task,
    executable: Executable,
    user: User,
    variables: Mapping[bytes, bytes],
    pipes: tuple[int, int, int],
    supervisor: int,
) -> NoReturn:
    """The new process: becomes what is run, or says why not."""
    output, errors, failing = pipes
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        _close_others({failing, executable.handle})
        _usual_signals()
        os.chdir("/")
        os.umask(UMASK)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        files = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        if user.change:
            os.setgroups([] if user.uid == 0 else os.getgrouplist(user.name, user.gid))
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
        tree.give_up_privileges()
        tree.die_with_parent()
        if os.getppid() != supervisor:
            os._exit(CANNOT_BEGIN)  # It died before we could be told.
        # By the open file what was looked at is what runs; a script's interpreter needs a name (see trusted.py).
        program = executable.path if executable.script else executable.handle
        os.execve(program, task.argv, variables)  # noqa: S606 - No shell.
    except BaseException as exc:  # noqa: BLE001 - Nothing of the supervisor may go on in here.
        reason = (exc.strerror or str(exc)).lower() if isinstance(exc, OSError) else repr(exc)
        os.write(failing, f"could not be started: {reason}".encode()[:512])
    finally:
        os._exit(CANNOT_BEGIN)


def _close_others(kept: set[int]) -> None:
    for place in Path("/proc/self/fd").iterdir():
        if int(place.name) > 2 and int(place.name) not in kept:
            with contextlib.suppress(OSError):  # That of the listing itself.
                os.close(int(place.name))


def _usual_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP) and signal.getsignal(number) is not None:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
