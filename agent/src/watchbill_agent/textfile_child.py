"""The child that may hang: says what the `*.prom` files of the directory that it was given hold.

First `dir ERRNO`; then for each file, by name, `file BYTES_OF_NAME MTIME_NS BYTES`, the name and the content, or
`error BYTES_OF_NAME ERRNO` and the name; at last `end LEFT_OUT`. Whoever started it kills it when it does not come
to an end. Run by its file name with `python -I -S`.
"""

import fcntl
import os
import stat
import sys

FILES_MAX = 200
BYTES_MAX = 900 * 1024
"""Of all files together: less than what the pipe holds, so that nobody has to wait for anybody."""
PIPE_BYTES = 1024 * 1024
SUFFIX = b".prom"
TOO_LARGE = 27  # EFBIG
NOT_A_FILE = 22  # EINVAL


def entry(directory: bytes, name: bytes, room: int) -> bytes:
    """About one file; this may never come back."""
    try:
        descriptor = os.open(
            directory + b"/" + name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        )
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                return b"error %d %d\n%s" % (len(name), NOT_A_FILE, name)
            content = b""
            while data := os.read(descriptor, room + 1 - len(content)):
                content += data
                if len(content) > room:
                    return b"error %d %d\n%s" % (len(name), TOO_LARGE, name)
            return b"file %d %d %d\n%s%s" % (len(name), found.st_mtime_ns, len(content), name, content)
        finally:
            os.close(descriptor)
    except OSError as exc:
        return b"error %d %d\n%s" % (len(name), exc.errno or 0, name)


def answer(directory: bytes) -> bytes:
    """All of it."""
    try:
        names = sorted(one.name for one in os.scandir(directory) if one.name.endswith(SUFFIX))
    except OSError as exc:
        return b"dir %d\nend 0\n" % (exc.errno or 0)
    parts = [b"dir 0\n"]
    room = BYTES_MAX
    for name in names[:FILES_MAX]:
        parts.append(entry(directory, name, room))
        room = max(0, room - len(parts[-1]))
    parts.append(b"end %d\n" % max(0, len(names) - FILES_MAX))
    return b"".join(parts)


def main(directory: str) -> None:
    """Say it, in one piece where the kernel allows."""
    try:  # noqa: SIM105 - Each import costs this child a millisecond.
        fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        pass  # Then it takes several looks.
    said = memoryview(answer(os.fsencode(directory)))
    while said:
        said = said[os.write(1, said) :]


if __name__ == "__main__":
    main(sys.argv[1])
