"""Regular expressions that take values from the network: only those that cannot run for ever.

Python's `re` backtracks, so a careless pattern and a chosen value stop a process. A pattern is taken when the ways in
which a value could be tried are few by its own text: what repeats may not hold what repeats, and the choices that it
leaves open multiply to no more than WAYS_MAX.
"""

import re
from typing import Final

from watchbill.actions.bounds import ABOUT_CHARACTERS_MAX, ARGUMENT_CHARACTERS_MAX

WAYS_MAX: Final = 20_000_000
"""Of trying a value: about a second at most."""

_TOKEN: Final = re.compile(
    r"""
    (?P<escape>\\.)
    | (?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])
    | (?P<open>\((?P<kind>\?:)?)
    | (?P<close>\))
    | (?P<repeat>(?:[*+?]|\{(?P<least>\d{0,4})(?P<comma>,)?(?P<most>\d{0,4})\})(?P<lazy>[?+])?)
    | (?P<branch>\|)
    | (?P<plain>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def pattern_fault(pattern: str) -> str:
    """What is wanted instead of this pattern, or ""."""
    if len(pattern) > ABOUT_CHARACTERS_MAX:
        return f"at most {ABOUT_CHARACTERS_MAX} characters"
    try:
        re.compile(pattern, re.ASCII)
    except (re.error, RecursionError, OverflowError) as exc:
        return f"a regular expression: {exc}"
    return _growth(pattern)


def _growth(pattern: str) -> str:
    ways = 1
    repeats = [False]
    """Of every open group, whether something in it repeats; the pattern itself is the outermost."""
    closed = False
    for token in _TOKEN.finditer(pattern):
        if token["escape"]:
            if token["escape"][1].isdigit():
                return "no reference back to a group"
        elif token["open"]:
            if pattern.startswith("?", token.end("open")):
                return "no group but ( ) and (?: )"
            repeats.append(False)
        elif token["close"]:
            inner = repeats.pop()
            repeats[-1] = repeats[-1] or inner
            closed = inner
            continue
        elif token["repeat"]:
            if closed:
                return "a repeated group that holds no repetition itself"
            repeats[-1] = True
            ways *= _freedom(token)
        elif token["branch"]:
            ways *= 2
            # A repeated choice multiplies with every turn.
            repeats[-1] = True
        closed = False
        if ways > WAYS_MAX:
            return "fewer open repetitions: a hostile value could keep it busy for ever"
    return ""


def _freedom(token: re.Match[str]) -> int:
    """How many lengths a repetition may have."""
    text = token["repeat"][0]
    if text == "?":
        return 2
    if text in "*+":
        return ARGUMENT_CHARACTERS_MAX
    least = int(token["least"] or 0)
    if not token["comma"]:
        return 1
    most = int(token["most"]) if token["most"] else ARGUMENT_CHARACTERS_MAX
    return max(1, min(most, ARGUMENT_CHARACTERS_MAX) - least + 1)
