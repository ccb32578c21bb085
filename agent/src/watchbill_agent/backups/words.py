"""Names and texts as records hold them: bounded, printable, without what moves a cursor."""

import re
from typing import Final

from watchbill.backups.bounds import JOB_NAME_CHARACTERS_MAX, TAIL_CHARACTERS_MAX

ESCAPES: Final = r"\x1b(?:\[[0-?]{0,64}[ -/]{0,8}[@-~]|\][^\x07\x1b]{0,1024}(?:\x07|\x1b\\)|[@-Z\\^_])"
"""Sequences of a terminal."""
_NAME_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def job_name_fault(name: str) -> str:
    """What is wrong with a job's name; "" when nothing is."""
    if (
        0 < len(name) <= JOB_NAME_CHARACTERS_MAX
        and name[0] not in "._-"
        and _NAME_CHARACTERS.issuperset(name)
    ):
        return ""
    wanted = f"1 to {JOB_NAME_CHARACTERS_MAX} letters, digits, dots, hyphens and underscores"
    return f"got {name[:JOB_NAME_CHARACTERS_MAX]!r}, wanted {wanted}"


def shown(text: str, characters_max: int) -> str:
    """On one line, printable, bounded."""
    return "".join(char if char.isprintable() else " " for char in text[:characters_max]).strip()


def tail_of(text: str) -> str:
    """The end of an output: whole lines where they fit, without what moves a cursor or colours words."""
    text = re.sub(ESCAPES, "", text)
    lines = [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n")]
    text = "\n".join("".join(c if c.isprintable() or c == "\t" else " " for c in line) for line in lines)
    text = text.strip("\n")
    if len(text) <= TAIL_CHARACTERS_MAX:
        return text
    cut = text[-TAIL_CHARACTERS_MAX:]
    return cut.partition("\n")[2] or cut
