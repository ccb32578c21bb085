"""The child that may hang: says of each path that it was given what the file is, one line each.

The line is `ok SIZE MTIME_NS UID GID MODE SHA256`, `large SIZE MTIME_NS UID GID MODE -`, or `error ERRNO`. Whoever
started it kills it when it does not come to an end; how many lines there are says at which path it hangs. Run by its
file name with `python -I -S`.
"""

import hashlib
import os
import stat
import sys

FILE_BYTES_MAX = 64 * 1024 * 1024
READ_BYTES = 256 * 1024


def line_of(path: str) -> str:
    """About one path; this may never come back."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            found = os.fstat(descriptor)
            words = f"{found.st_size} {found.st_mtime_ns} {found.st_uid} {found.st_gid} {stat.S_IMODE(found.st_mode):o}"
            if not stat.S_ISREG(found.st_mode):
                return "error 22"
            if found.st_size > FILE_BYTES_MAX:
                return f"large {words} -"
            return f"ok {words} {_digest(descriptor)}"
        finally:
            os.close(descriptor)
    except OSError as exc:
        return f"error {exc.errno or 0}"


def _digest(descriptor: int) -> str:
    digest = hashlib.sha256()
    left = FILE_BYTES_MAX
    while left > 0 and (data := os.read(descriptor, min(READ_BYTES, left))):
        digest.update(data)
        left -= len(data)
    return digest.hexdigest()


def main(paths: list[str]) -> None:
    """One line each, at once."""
    for path in paths:
        os.write(1, f"{line_of(path)}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
