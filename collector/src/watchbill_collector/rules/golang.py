"""Numbers and formats as Go prints them: annotations were written for Prometheus, and have to read the
same."""

import math
import re
from datetime import UTC, datetime

FIELD_WIDTH_MAX = 1_000
"""Width and precision that a format may ask for."""

_VERB = re.compile(r"%([-+# 0]*)(\d+|\*)?(?:\.(\d+|\*|))?(\[\d{1,3}\])?([a-zA-Z%!]|$)")


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
    found = _Arguments(arguments)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, index, verb = match.groups()
        if not verb:
            return "%!(NOVERB)"
        if verb == "%":
            return "%"
        wide = found.size(width)
        if wide is not None and wide < 0:
            flags, wide = flags + "-", -wide
        exact = found.size(precision)
        if not found.turn_to(index):
            return f"%!{verb}(BADINDEX)"
        if found.at >= len(arguments):
            return f"%!{verb}(MISSING)"
        return _pad(_verb(verb, flags, exact, found.next()), flags, wide or 0, verb)

    text = _VERB.sub(one, form)
    if found.at < len(arguments) and not found.indexed:
        left = arguments[found.at :]
        text += "%!(EXTRA " + ", ".join(f"{_type(value)}={_shown(value)}" for value in left) + ")"
    return text


class _Arguments:
    """The arguments of a format, one after the other, or as `[2]` says."""

    def __init__(self, arguments: list[object]) -> None:
        self._arguments = arguments
        self.at = 0
        self.indexed = False

    def next(self) -> object:
        """The argument whose turn it is."""
        self.at += 1
        return self._arguments[self.at - 1]

    def turn_to(self, index: str | None) -> bool:
        """Go on at an index, if there is one; whether that can be."""
        if index:
            self.indexed = True
            number = int(index[1:-1])
            if not 1 <= number <= len(self._arguments):
                return False
            self.at = number - 1
        return True

    def size(self, text: str | None) -> int | None:
        """A width or a precision; `*` is an argument."""
        if text is None:
            return None
        if text == "*" and self.at < len(self._arguments):
            value = self.next()
            size = value if isinstance(value, int) and not isinstance(value, bool) else 0
        else:
            size = int(text) if text.isdigit() else 0
        return max(-FIELD_WIDTH_MAX, min(size, FIELD_WIDTH_MAX))


_INTEGERS = {"d": "d", "x": "x", "X": "X", "o": "o", "b": "b"}
_PREFIXES = {"x": "0x", "X": "0X", "o": "0", "b": "0b"}


def _verb(verb: str, flags: str, precision: int | None, value: object) -> str:  # One a verb.
    sign = "+" if "+" in flags else " " if " " in flags else ""
    if verb == "T":
        return _type(value)
    if (verb in "vs" and not isinstance(value, bool | float | int)) or verb == "v":
        text = _shown(value)
        return text if precision is None or verb == "v" else text[:precision]
    if isinstance(value, str):
        if verb == "q":
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        if verb in "xX":
            return (
                value.encode()[:precision].hex() if verb == "x" else value.encode()[:precision].hex().upper()
            )
    if verb == "t" and isinstance(value, bool):
        return plain(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if verb in _INTEGERS:
            digits = f"{abs(value):{verb}}".rjust(precision or 0, "0")
            prefix = _PREFIXES.get(verb, "") if "#" in flags else ""
            return ("-" if value < 0 else sign) + prefix + digits
        if verb in "cq" and 0 <= value < 0x110000:
            return chr(value) if verb == "c" else f"'{chr(value)}'"
        if verb == "U":
            return f"U+{value:04X}"
    if verb in "fFeEgG" and isinstance(value, float):
        if not math.isfinite(value):
            text = general(value)
            return text.removeprefix("+") if not sign else text
        if verb in "gG":
            text = general(value, -1 if precision is None else precision)
            text = text.upper() if verb == "G" else text
        else:
            text = f"{value:.{6 if precision is None else precision}{verb}}"
        return text if text.startswith("-") else sign + text
    return f"%!{verb}({_type(value)}={_shown(value)})"


def _shown(value: object) -> str:
    """As `plain`, but nothing at all is `<nil>` to a format."""
    return "<nil>" if value is None else plain(value)


def _pad(text: str, flags: str, width: int, verb: str) -> str:
    if "-" in flags:
        return text.ljust(width)
    # Zeros go before text, too, but not before what is no number.
    numeric = text.lstrip("+- ")[:1].isdigit() or verb in "sqxXv"
    return text.zfill(width) if "0" in flags and numeric else text.rjust(width)


def _type(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, int):
        return "int"
    if value is None:
        return "<nil>"
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
