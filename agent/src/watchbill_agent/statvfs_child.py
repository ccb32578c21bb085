"""The child that may hang: reads paths that end with a zero byte from descriptor 0, answers each with one
line on 1.

The answer is `ok` and f_frsize f_blocks f_bfree f_bavail f_files f_ffree f_flag, or `error` and an errno. It
is run by its file name with `python -I -S`, needs nothing but a module that is built into the interpreter,
and ends when its input does. Whoever started it kills it when it does not answer.
"""

import posix

READ_BYTES = 65536


def answer(path: bytes) -> bytes:
    """One line about one path; this is the call that may never come back."""
    try:
        found = posix.statvfs(path)
    except OSError as exc:
        return b"error %d\n" % (exc.errno or 0)
    return b"ok %d %d %d %d %d %d %d\n" % (
        found.f_frsize,
        found.f_blocks,
        found.f_bfree,
        found.f_bavail,
        found.f_files,
        found.f_ffree,
        found.f_flag,
    )


def main() -> None:
    """Answer until the input ends."""
    rest = b""
    while data := posix.read(0, READ_BYTES):
        *paths, rest = (rest + data).split(b"\0")
        for path in paths:
            posix.write(1, answer(path))


if __name__ == "__main__":
    main()
