"""Files that decide what root runs: they have to be root's, and nobody else may have been able to change them.

`owner` is 0, or for trying out under `--home` the user's own number; root's files are good for both.
"""

import os
import stat
from pathlib import Path
from typing import Final

from watchbill.errors import Unreadable
from watchbill.files import FileMissing, UnreadableFile, read_bounded

OTHERS_WRITE: Final = 0o022


def owned_fault(path: Path, owner: int, *, directory: bool = False) -> str:
    """Why a file (or a directory) must not be believed, or "". A missing one is told as such."""
    try:
        found = os.lstat(path)
    except OSError as exc:
        return (exc.strerror or "unreadable").lower()
    if stat.S_ISLNK(found.st_mode):
        return "a symbolic link"
    if directory != stat.S_ISDIR(found.st_mode) or not (directory or stat.S_ISREG(found.st_mode)):
        return "not a directory" if directory else "not a regular file"
    if found.st_uid not in {0, owner}:
        return f"owned by user {found.st_uid}"
    if found.st_mode & OTHERS_WRITE and not (directory and found.st_mode & stat.S_ISVTX):
        return f"others may write it (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


def way_fault(path: Path, owner: int) -> str:
    """Why what lies at an absolute path must not be believed because of a directory above it, or ""."""
    for above in path.parents:
        fault = owned_fault(above, owner, directory=True)
        if fault:
            return f"{above}: {fault}"
    return ""


def read_owned(path: Path, owner: int, bytes_max: int) -> bytes | None:
    """The content of a file that only its owner could have written; None when there is none.

    Raises Unreadable, with the way to mend it.
    """
    fault = owned_fault(path, owner) or way_fault(path, owner)
    if not fault:
        try:
            return read_bounded(path, bytes_max)
        except FileMissing:
            return None
        except UnreadableFile as exc:
            raise Unreadable(f"{path}: got {exc.got}, wanted {exc.wanted}") from exc
    if not os.path.lexists(path):
        return None
    whose = "root" if owner == 0 else f"user {owner}"
    raise Unreadable(
        f"{path}: {fault}; wanted a file of {whose} that nobody else may write: chmod go-w, chown"
    )
