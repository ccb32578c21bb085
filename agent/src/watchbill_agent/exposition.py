"""Readings as Prometheus' text format 0.0.4, spelled as its Go client spells it, and as OpenMetrics 1.0.

The formats are described under "Exposition formats" in Prometheus' documentation. Here every series has a family of its
own name; what belongs to one histogram or summary is put together again, since both formats want it so.
"""

import math
from collections.abc import Callable, Iterable
from typing import Final

from watchbill_agent.reading import Family, MetricType, Reading, Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CONTENT_TYPE_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
END: Final = "# EOF\n"
UNITS: Final = (
    "seconds",
    "bytes",
    "ratio",
    "celsius",
    "volts",
    "amperes",
    "joules",
    "meters",
    "grams",
    "hertz",
)

_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})
_LABEL_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_PLAIN_MIN = 1e-4
_PLAIN_MAX = 1e6
_OPEN_TYPES: Final = {MetricType.GAUGE: "gauge", MetricType.UNTYPED: "unknown"}

_Rows = dict[str, list[tuple[Series, float]]]


def render(readings: Iterable[Reading], *, openmetrics: bool = False) -> str:
    """All series by family, families by name, each with its help and type; ends with a newline if there are any, and
    in OpenMetrics with its own end."""
    families: dict[str, Family] = {}
    rows: _Rows = {}
    for reading in readings:
        for family in reading.layout.families:
            families.setdefault(family.name, family)
        for series, value in zip(reading.layout.series, reading.values, strict=True):
            rows.setdefault(series.name, []).append((series, value))
    parts: dict[str, str] = {}
    for kind, base in _composed(families, rows):
        parts[base] = _compose(kind, base, families, rows, openmetrics)
    for name in sorted(rows):
        spelled = _open if openmetrics else _plain
        key, text = spelled(families[name], rows[name], parts)
        parts[key] = text
    whole = "".join(parts[name] for name in sorted(parts))
    return whole + END if openmetrics else whole


def _plain(family: Family, rows: list[tuple[Series, float]], _others: dict[str, str]) -> tuple[str, str]:
    name = family.name
    head = f"# HELP {name} {family.help.translate(_HELP_ESCAPES)}\n# TYPE {name} {family.type.value}\n"
    return name, head + _lines(rows)


def _open(family: Family, rows: list[tuple[Series, float]], others: dict[str, str]) -> tuple[str, str]:
    """A counter is called without _total; one that has no _total is unknown to OpenMetrics, as to Go's client."""
    name, kind = family.name, _OPEN_TYPES.get(family.type, "unknown")
    base = name.removesuffix("_total")
    if family.type is MetricType.COUNTER and base != name and base and base not in others:
        name, kind = base, "counter"
    return name, _open_head(name, kind, family.help) + _lines(rows)


def _open_head(name: str, kind: str, help_: str) -> str:
    unit = name.rpartition("_")[2]
    said = f"# UNIT {name} {unit}\n" if unit in UNITS and unit != name else ""
    return f"# HELP {name} {help_.translate(_LABEL_ESCAPES)}\n# TYPE {name} {kind}\n{said}"


def _lines(rows: list[tuple[Series, float]]) -> str:
    return "".join([f"{spell_series(series)} {spell(value)}\n" for series, value in rows])


# ---------------------------------------------------------------- histograms and summaries


def _composed(families: dict[str, Family], rows: _Rows) -> list[tuple[str, str]]:
    """Which series are parts of a histogram or a summary, by the name of it."""
    found = []
    for name in rows:
        base = name.removesuffix("_bucket")
        if base != name and base not in rows and families[name].type is MetricType.COUNTER:
            found.append(("histogram", base))
        elif all(dict(series.labels).get("quantile") for series, _ in rows[name]):
            found.append(("summary", name))
    return [(kind, base) for kind, base in found if f"{base}_sum" in rows and f"{base}_count" in rows]


def _compose(kind: str, base: str, families: dict[str, Family], rows: _Rows, openmetrics: bool) -> str:
    """Takes the parts out of `rows`. The samples of one set of labels stand together."""
    part, label = (f"{base}_bucket", "le") if kind == "histogram" else (base, "quantile")
    help_ = families[part].help
    text = (
        _open_head(base, kind, help_)
        if openmetrics
        else f"# HELP {base} {help_.translate(_HELP_ESCAPES)}\n# TYPE {base} {kind}\n"
    )
    groups: dict[tuple[tuple[str, str], ...], list[tuple[Series, float]]] = {}
    canonical: Callable[[Series], Series] = _canonical if openmetrics else lambda series: series
    for series, value in rows.pop(part):
        labels = tuple(pair for pair in series.labels if pair[0] != label)
        groups.setdefault(labels, []).append((canonical(series), value))
    for suffix in ("_sum", "_count"):
        for series, value in rows.pop(base + suffix):
            groups.setdefault(series.labels, []).append((series, value))
    return text + "".join(_lines(group) for group in groups.values())


def _canonical(series: Series) -> Series:
    """Bounds as OpenMetrics spells them: 1.0."""
    pairs = [(name, f"{value}.0" if name in ("le", "quantile") and value.isdigit() else value)
             for name, value in series.labels]  # fmt: skip
    return Series(series.name, tuple(pairs))


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
