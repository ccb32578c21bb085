"""Numbers, durations and names as Prometheus writes them."""

import math
import re

from watchbill_collector.labels import METRIC_NAME

_LEGACY_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

BAD_BYTES = 0x10FF80
"""Bytes 0x80 to 0xff of a string literal that is no UTF-8 are these private characters and those behind them.

Nothing stored has them, so such a string matches nothing; and `valid_label_name` knows them.
"""

_UNITS = (
    ("y", 365 * 86_400_000, True),
    ("w", 7 * 86_400_000, True),
    ("d", 86_400_000, False),
    ("h", 3_600_000, False),
    ("m", 60_000, False),
    ("s", 1_000, False),
    ("ms", 1, False),
)
"""Name, milliseconds, and whether the unit is used only for whole multiples of it."""


def float_text(value: float, *, plain: bool = False) -> str:
    """A float64 as the HTTP API writes it: shortest digits that read back equal, no exponent.

    Below 1e-6 and from 1e21 on the API uses an exponent; `plain` never does (labels of count_values,
    expressions).
    """
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    short = repr(float(value))
    if not plain:
        size = abs(value)
        if size != 0 and (size < 1e-6 or size >= 1e21):
            mantissa, _, exponent = _with_exponent(short).partition("e")
            # Go writes at least two digits of exponent, and strips nothing else.
            sign, digits = exponent[0], exponent[1:].lstrip("0").rjust(2, "0")
            return f"{mantissa}e{sign}{digits}"
    if "e" in short:
        short = _without_exponent(short)
    return short.removesuffix(".0")


def general_text(value: float) -> str:
    """A float64 as Go's `%g` writes it: shortest digits, an exponent from 1e+06 on."""
    size = abs(value)
    if size != 0 and math.isfinite(value) and not 1e-4 <= size < 1e6:
        mantissa, _, exponent = _with_exponent(repr(float(value))).partition("e")
        return f"{mantissa}e{int(exponent):+03d}"
    return float_text(value)


def _with_exponent(short: str) -> str:
    if "e" in short:
        mantissa, _, exponent = short.partition("e")
        exponent = exponent if exponent[0] in "+-" else f"+{exponent}"
        return f"{mantissa.removesuffix('.0')}e{exponent}"
    sign = "-" if short.startswith("-") else ""
    whole, _, fraction = short.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    power = len(whole) - 1 if whole.strip("0") else -(len(fraction) - len(fraction.lstrip("0")) + 1)
    digits = digits.rstrip("0") or "0"
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{sign}{mantissa}e{power:+d}"


def _without_exponent(short: str) -> str:
    mantissa, _, exponent = short.partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    fraction = "" if fraction == "0" else fraction
    point = len(whole) + int(exponent)
    digits = whole + fraction
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if point >= len(digits):
        return f"{sign}{digits}{'0' * (point - len(digits))}"
    return f"{sign}{digits[:point]}.{digits[point:]}"


def duration_text(duration_ms: int) -> str:
    """A duration as Prometheus prints it: `1h30m`, `500ms`; years and weeks only when nothing remains."""
    if duration_ms == 0:
        return "0s"
    left = abs(duration_ms)
    out = ""
    for unit, size, whole_only in _UNITS:
        if whole_only and left % size:
            continue
        count, left = divmod(left, size)
        if count:
            out += f"{count}{unit}"
    return f"-{out}" if duration_ms < 0 else out


def quoted(text: str) -> str:
    """A string literal in double quotes."""
    out = []
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif ord(char) < 0x20 or ord(char) == 0x7F:
            out.append(f"\\x{ord(char):02x}")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'


_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"}


def label_text(name: str) -> str:
    """A label name as it stands in an expression: quoted when it is not a plain word."""
    return name if _LEGACY_LABEL.match(name) else quoted(name)


def valid_label_name(name: str) -> bool:
    """Whether a label may be called so: anything that is UTF-8 and not empty."""
    return bool(name) and not any(ord(char) >= BAD_BYTES for char in name)


def series_text(labels: dict[str, str]) -> str:
    """A label set as errors quote it: `{__name__="up", job="node"}`."""
    return "{" + ", ".join(f"{label_text(name)}={quoted(labels[name])}" for name in sorted(labels)) + "}"


def metric_text(labels: dict[str, str]) -> str:
    """A label set with its metric name in front: `up{job="node"}`."""
    name = labels.get(METRIC_NAME, "")
    rest = {label: value for label, value in labels.items() if label != METRIC_NAME}
    return name + (series_text(rest) if rest or not name else "")
