"""What is wrong with a number as it is written: letters right behind it, nothing behind `0x` or `e`, more than fits.

Asked only for an expression that was refused already, to tell the place: what the parser takes is not judged here.
"""

import re
from typing import Final

from watchbill_collector.promql.text import quoted

HEX_MAX: Final = 2**63 - 1
"""Prometheus reads hexadecimal numbers as 64-bit integers."""
SHOWN_CHARACTERS_MAX: Final = 100
"""Of a number in a message: an expression of 64 KiB may be one number."""

_SCANNED: Final = re.compile(
    r"""0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?
      | (?P<duration>[0-9]+(?:(?:ms|[ywdhms])[0-9]*)+)
      | [0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9_]*)?""",
    re.VERBOSE,
)
"""What Prometheus takes for one number, or duration, before it looks whether it is one."""
_NEXT: Final = re.compile(r"[A-Za-z0-9_]")


def fault(text: str, at: int) -> str:
    """What is wrong with the number at a place of the text, in Prometheus' words; empty when nothing is."""
    scanned = _SCANNED.match(text, at)
    assert scanned is not None
    number = scanned.group()
    without_unit = scanned["duration"] is not None and number[-1].isdigit()
    if without_unit or _NEXT.match(text, scanned.end()):
        return f"bad number or duration syntax: {_shown(number)}"
    if number[:2].lower() == "0x":
        digits = number[2:].replace("_", "")
        if not digits or "." in digits or int(digits, 16) > HEX_MAX:
            return f"error parsing number: strconv.ParseFloat: parsing {_shown(number)}: invalid syntax"
    elif number[-1:] in "eE+-":
        return f"error parsing number: strconv.ParseFloat: parsing {_shown(number)}: invalid syntax"
    return ""


def _shown(number: str) -> str:
    return quoted(number if len(number) <= SHOWN_CHARACTERS_MAX else f"{number[:SHOWN_CHARACTERS_MAX]}...")
