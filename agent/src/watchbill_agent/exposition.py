"""Readings as Prometheus' text format, version 0.0.4, spelled as its Go client spells it.

The format is described under "Exposition formats" in Prometheus' documentation.
"""

import math
from collections.abc import Iterable

from watchbill_agent.reading import Family, Reading, Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})
_LABEL_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_PLAIN_MIN = 1e-4
_PLAIN_MAX = 1e6


def render(readings: Iterable[Reading]) -> str:
    """All series by family, families by name, each with its help and type; ends with a newline if there are
    any."""
    families: dict[str, Family] = {}
    lines: dict[str, list[str]] = {}
    for reading in readings:
        for family in reading.layout.families:
            families.setdefault(family.name, family)
        for series, value in zip(reading.layout.series, reading.values, strict=True):
            lines.setdefault(series.name, []).append(f"{spell_series(series)} {spell(value)}\n")
    parts = []
    for name in sorted(lines):
        family = families[name]
        parts.append(f"# HELP {name} {family.help.translate(_HELP_ESCAPES)}\n")
        parts.append(f"# TYPE {name} {family.type.value}\n")
        parts += lines[name]
    return "".join(parts)


def spell_series(series: Series) -> str:
    """`name{label="value",...}`, with the characters escaped that would end the value."""
    if not series.labels:
        return series.name
    pairs = ",".join(f'{name}="{value.translate(_LABEL_ESCAPES)}"' for name, value in series.labels)
    return f"{series.name}{{{pairs}}}"


def spell(value: float) -> str:
    """A number as Go's strconv.FormatFloat(value, 'g', -1, 64) has it: shortest digits, exponents outside
    1e-4..1e6."""
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    text = repr(number)
    if number == 0 or _PLAIN_MIN <= abs(number) < _PLAIN_MAX:
        return text.removesuffix(".0")
    mantissa, _, exponent_text = text.lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    exponent = int(exponent_text or "0") + len(whole) - 1 - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    point = "." if len(digits) > 1 else ""
    sign = "-" if number < 0 else ""
    return f"{sign}{digits[0]}{point}{digits[1:]}e{exponent:+03d}"
