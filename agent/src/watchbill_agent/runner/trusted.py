"""Executables that root may run: theirs alone who may say what it runs, with everything on the way to them.

Links are followed, for half of /usr/bin are links; each has to be root's, as every directory it lies in. What was
looked at is what runs: a program is begun by its open file. A script cannot be: its interpreter opens it by name, and
many ask for that name (pg_wrapper looks which link it was called by). There the name is used; only root could have
put something else under it since, and its interpreter is looked at as well.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchbill.actions.owned import owned_fault
from watchbill.errors import Refused
from watchbill_agent.runner.bounds import EXECUTABLE_BYTES_MAX

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LINKS_MAX: Final = 40
LINE_BYTES_MAX: Final = 256
"""Of a script's first line: what the kernel reads of it."""
READ_BYTES: Final = 1024 * 1024
ENV: Final = "env"


class NotTrusted(Refused):
    """Nothing that root may run, and why."""


@dataclass(frozen=True, slots=True)
class Executable:
    """An executable that was looked at. `handle` is its open file, to be run by; of a script its `path` is."""

    path: str
    handle: int
    script: bool

    def close(self) -> None:
        """Give the file back."""
        os.close(self.handle)


def open_executable(name: str, owner: int, sha256: str = "") -> Executable:
    """Look at an executable. `owner` may have files beside root; `sha256` pins the content. Raises NotTrusted."""
    handle = _open(name, owner)
    try:
        first = os.pread(handle, LINE_BYTES_MAX, 0)
        script = first.startswith(b"#!")
        if script:
            _check_interpreter(name, first, owner)
        if sha256 and (found := _digest(handle)) != sha256:
            raise NotTrusted(f"{name}: its SHA-256 is {found}, and {sha256} is pinned")
    except OSError as exc:
        os.close(handle)
        raise NotTrusted(f"{name}: {_reason(exc)}") from exc
    except NotTrusted:
        os.close(handle)
        raise
    return Executable(name, handle, script)


def _open(name: str, owner: int) -> int:
    path = _led_to(name, owner)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        raise NotTrusted(f"{name}: {_reason(exc)}") from exc
    found = os.fstat(handle)
    fault = ""
    if not stat.S_ISREG(found.st_mode):
        fault = "not a regular file"
    elif found.st_uid not in {0, owner}:
        fault = f"owned by user {found.st_uid}"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        fault = f"others may write it (mode {stat.S_IMODE(found.st_mode):04o})"
    elif not found.st_mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH):
        fault = "not executable"
    if fault:
        os.close(handle)
        raise NotTrusted(f"{path}: {fault}")
    return handle


def _led_to(name: str, owner: int) -> Path:
    """Where a path leads, every directory and link on the way looked at. Raises NotTrusted."""
    if not name.startswith("/") or "\0" in name:
        raise NotTrusted(f"{name!a}: wanted an absolute path")
    here, todo, links = Path("/"), [part for part in name.split("/") if part], 0
    while True:
        if fault := owned_fault(here, owner, directory=True):
            raise NotTrusted(f"{name}: {here}: {fault}")
        if not todo:
            raise NotTrusted(f"{name}: a directory")
        part = todo.pop(0)
        there = here.parent if part == ".." else here / part
        try:
            found = os.lstat(there)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                if links > LINKS_MAX or found.st_uid not in {0, owner}:
                    raise NotTrusted(
                        f"{name}: {there}: a link of user {found.st_uid}, the {links}th on the way"
                    )
                target = str(there.readlink())
                here = Path("/") if target.startswith("/") else here
                todo = [step for step in target.split("/") if step not in ("", ".")] + todo
                continue
        except OSError as exc:
            raise NotTrusted(f"{there}: {_reason(exc)}") from exc
        if not todo:
            return there
        here = there


def _check_interpreter(name: str, first: bytes, owner: int) -> None:
    words = first[2:].split(b"\n", 1)[0].decode("utf-8", "replace").split()
    if not words:
        raise NotTrusted(f"{name}: a script that names no interpreter")
    try:
        os.close(_open(words[0], owner))
    except NotTrusted as exc:
        raise NotTrusted(f"{name}: its interpreter {exc}") from exc
    if words[0].rpartition("/")[2] == ENV:
        called = next((word for word in words[1:] if not word.startswith("-")), "")
        for directory in PATH.split(":"):
            if called and Path(directory, called).exists():
                os.close(_open(f"{directory}/{called}", owner))
                return
        raise NotTrusted(f"{name}: its interpreter {called or words[0]!r} is not in {PATH}")


def _digest(handle: int) -> str:
    digest, place = hashlib.sha256(), 0
    while piece := os.pread(handle, READ_BYTES, place):
        digest.update(piece)
        place += len(piece)
        if place > EXECUTABLE_BYTES_MAX:
            raise NotTrusted(
                f"more than {EXECUTABLE_BYTES_MAX} bytes, too many to compare with what is pinned"
            )
    return digest.hexdigest()


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
