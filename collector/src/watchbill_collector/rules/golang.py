"""Numbers and formats as Go prints them: annotations were written for Prometheus, and have to read the
same."""

import math
import re
from datetime import UTC, datetime

FIELD_WIDTH_MAX = 1_000
"""Width and precision that a format may ask for."""

_VERB = re.compile(r"%([-+# 0]*)(\d*)(?:\.(\d*))?([a-zA-Z%])")


def plain(value: object) -> str:
    """A value as `{{ value }}` shows it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "<no value>"
    if isinstance(value, float):
        return general(value)
    if isinstance(value, dict):
        return "map[" + " ".join(f"{name}:{text}" for name, text in sorted(value.items())) + "]"
    return str(value)


def general(value: float, digits: int = -1) -> str:
    """%g: shortest that reads back equal, or so many significant digits. Exponents as Go has them."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if digits >= 0:
        return f"{value:.{max(1, min(digits, 400))}g}"
    text = next(text for text in (f"{value:.{places}e}" for places in range(18)) if float(text) == value)
    mantissa, exponent = text.split("e")
    power = int(exponent)
    if -4 <= power < 6:  # For the shortest form Go decides as if six digits had been asked for.
        places = max(0, len(mantissa.lstrip("-").replace(".", "")) - 1 - power)
        return f"{value:.{places}f}"
    return f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"


def sprintf(form: str, arguments: list[object]) -> str:
    """Go's printf, for the verbs that annotations use; what does not fit is shown as Go shows it."""
    left = list(arguments)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        wide = min(int(width or 0), FIELD_WIDTH_MAX)
        exact = None if precision is None else min(int(precision or 0), FIELD_WIDTH_MAX)
        return _pad(_verb(verb, flags, exact, left.pop(0)), flags, wide)

    text = _VERB.sub(one, form)
    if left:
        text += "%!(EXTRA " + ", ".join(f"{_type(value)}={plain(value)}" for value in left) + ")"
    return text


def _verb(verb: str, flags: str, precision: int | None, value: object) -> str:  # One a verb.
    sign = "+" if "+" in flags else ""
    if (verb in "vs" and not isinstance(value, float | int)) or verb == "v":
        text = plain(value)
        return text if precision is None or verb == "v" else text[:precision]
    if verb == "q" and isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if verb == "t" and isinstance(value, bool):
        return plain(value)
    if verb == "d" and isinstance(value, int) and not isinstance(value, bool):
        return f"{value:{sign}d}"
    if verb in "feEgG" and isinstance(value, float):
        if not math.isfinite(value):
            return general(value)
        if verb in "gG":
            return general(value, -1 if precision is None else precision)
        return f"{value:{sign}.{6 if precision is None else precision}{verb}}"
    return f"%!{verb}({_type(value)}={plain(value)})"


def _pad(text: str, flags: str, width: int) -> str:
    if "-" in flags:
        return text.ljust(width)
    return text.zfill(width) if "0" in flags else text.rjust(width)


def _type(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, int):
        return "int"
    return "string" if isinstance(value, str) else "map[string]string"


def four_digits(value: float) -> str:
    """%.4g, which all of the humanize functions use."""
    if not math.isfinite(value):
        return general(value)
    return f"{value:.4g}"


def humanize(value: float) -> str:
    """With SI prefixes: 1234567 is "1.235M"."""
    if value == 0 or not math.isfinite(value):
        return four_digits(value)
    return _prefixed(value, "kMGTPEZY", "munpfazy")


def _prefixed(value: float, larger: str, smaller: str) -> str:
    prefix = ""
    if abs(value) >= 1:
        for step in larger:
            if abs(value) < 1000:
                break
            prefix, value = step, value / 1000
    else:
        for step in smaller:
            if abs(value) >= 1:
                break
            prefix, value = step, value * 1000
    return four_digits(value) + prefix


def humanize1024(value: float) -> str:
    """With binary prefixes: 1048576 is "1Mi"."""
    if abs(value) <= 1 or not math.isfinite(value):
        return four_digits(value)
    prefix = ""
    for step in "kMGTPEZY":
        if abs(value) < 1024:
            break
        prefix, value = f"{step}i", value / 1024
    return four_digits(value) + prefix


def humanize_percentage(value: float) -> str:
    """A ratio as a percentage: 0.1234 is "12.34%"."""
    return four_digits(value * 100) + "%"


def humanize_duration(value: float) -> str:
    """Seconds as "1d 2h 3m 4s"; under a second with a prefix."""
    if not math.isfinite(value):
        return four_digits(value)
    if value == 0:
        return "0s"
    if abs(value) < 1:
        return _prefixed(value, "", "munpfazy") + "s"
    sign, value = ("-", -value) if value < 0 else ("", value)
    whole = int(value)
    seconds, minutes, hours, days = whole % 60, whole // 60 % 60, whole // 3600 % 24, whole // 86400
    if days:
        return f"{sign}{days}d {hours}h {minutes}m {seconds}s"
    if hours:
        return f"{sign}{hours}h {minutes}m {seconds}s"
    if minutes:
        return f"{sign}{minutes}m {seconds}s"
    return f"{sign}{four_digits(value)}s"


def humanize_timestamp(value: float) -> str:
    """Seconds since 1970 as "2006-01-02 15:04:05 +0000 UTC"."""
    if not math.isfinite(value) or abs(value) > 2**43:
        return four_digits(value)
    try:
        when = datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        return four_digits(value)
    fraction = f".{when.microsecond:06d}".rstrip("0") if when.microsecond else ""
    return f"{when:%Y-%m-%d %H:%M:%S}{fraction} +0000 UTC"
