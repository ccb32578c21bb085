"""Where `watchbill-agent` begins: `backup wrap` goes its own way before anything is imported that only others need.

A backup waits for every import. argparse and what it pulls in take 9 ms, the command line of the other commands 3: so
the usual form, options to neither side of a job's name, is read by hand here, and everything else by argparse.
"""

import os
import sys
from collections.abc import Sequence

WRAP = ("backup", "wrap")
OWN_FAILURE = 125
"""What `backup wrap` ends with when it is itself to blame; 126 and 127 are a command that cannot be run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    said = wrapping(words)
    if said is None:
        from watchbill_agent.cli import main as others

        return others(argv)
    from watchbill import outputs

    outputs.ready()
    before, command = said
    plain = plain_wrap(before)
    if plain is None or not command:
        from watchbill_agent.backups.commandline import wrap

        return wrap(before, command)
    from pathlib import Path

    from watchbill.homes import Homes
    from watchbill_agent.backups.wrap import Wrap, Wrapping

    home, job = plain
    code = Wrap(Wrapping(job=job, argv=command), Homes.resolve("agent", Path(home) if home else None)).run()
    return code if argv is not None else _end(code)


def plain_wrap(before: Sequence[str]) -> tuple[str | None, str] | None:
    """The home and the job, where nothing else is said before `--`; None where argparse has to read it."""
    home: str | None = None
    words = list(before)
    while len(words) > 1:
        name, equals, value = words[0].partition("=")
        taken = 1 if equals else 2
        home = value if equals else words[1]
        if name != "--home" or not home or home.startswith("-"):
            return None
        words = words[taken:]
    return (home, words[0]) if words and not words[0].startswith("-") else None


def _end(code: int) -> int:
    """End at once: to take this process apart takes as long as half of its imports, and a backup's script waits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            continue  # Nobody listens.
    os._exit(code)


def wrapping(words: list[str]) -> tuple[list[str], list[str]] | None:
    """What is said to `backup wrap` and the command behind `--`, where that is asked for. It is known before parsers
    are made, because a backup waits; and its mistakes end with another code than those of all others.
    """
    before, command = words, list[str]()
    if "--" in words:
        place = words.index("--")
        before, command = words[:place], words[place + 1 :]
    homes, names = list[str](), list[str]()
    while before and len(names) < len(WRAP):
        taken = 1 if not before[0].startswith("--home") or "=" in before[0] else 2
        (homes if before[0].startswith("--home") else names).extend(before[:taken])
        before = before[taken:]
    return ([*homes, *before], command) if tuple(names) == WRAP else None
