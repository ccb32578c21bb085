"""Standard output and standard error as programs get them from cron, a pipe, a full disk, an old locale: what is closed
swallows what it is given, and what cannot write a character writes a question mark.

Imported before anything is printed, so it imports next to nothing.
"""

import io
import os
import sys


def ready() -> None:
    """Make both fit to be written to."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - For as long as we run.
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def abandon() -> None:
    """Whoever read us has enough, or nothing more can be written: what is still buffered must not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
