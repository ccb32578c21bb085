"""Text from hosts, made safe to show: bounded, on as many lines as it should have, with nothing invisible in it.

Labels and annotations may hold anything: line ends that would start a header, control characters, overrides
of the reading direction that make a text say the opposite. What cannot be seen is shown as its number, so that
a person sees that somebody tried.
"""

import re
from typing import Final

CUT: Final = "…"
_SPACES: Final = re.compile(r"[ \t\r\n]+")
_URL: Final = re.compile(r"https?://[!-~]+", re.ASCII | re.IGNORECASE)
_NOT_IN_A_LINK: Final = re.compile(r"[\"'<>\\^`{|}]")
INDENT_MAX: Final = 8
URL_CHARS_MAX: Final = 2_000


def line(text: str, chars_max: int) -> str:
    """One line: white space becomes a space, what does not print its number, what is too long is cut."""
    return _visible(_SPACES.sub(" ", text[: 4 * chars_max]).strip(), chars_max)


def lines(text: str, chars_max: int) -> str:
    """The same with line ends kept; empty lines in a row become one."""
    shown = [_indent(part) + line(part, chars_max) for part in text[: 4 * chars_max].splitlines()]
    whole = re.sub(r"\n{3,}", "\n\n", "\n".join(shown)).strip("\n")
    return whole if len(whole) <= chars_max else whole[: chars_max - 1] + CUT


def _indent(part: str) -> str:
    return " " * min(len(part) - len(part.lstrip(" ")), INDENT_MAX)


def web_link(text: str) -> str:
    """The text if it is a plain http(s) address that may be made a link, else ""."""
    text = text.strip()
    if len(text) > URL_CHARS_MAX or not _URL.fullmatch(text) or _NOT_IN_A_LINK.search(text):
        return ""
    return text


def _visible(text: str, chars_max: int) -> str:
    if not text.isprintable():
        text = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
    return text if len(text) <= chars_max else text[: chars_max - 1] + CUT
