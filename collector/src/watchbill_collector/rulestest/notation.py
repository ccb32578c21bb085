"""The series notation of promtool's unit tests: what a series is called, and its values one interval apart.

Values stand apart by white space, each of them one of

    12.5          a sample                      7x3           7 7 7 7: the sample and three more
    1+2x3         1 3 5 7                       10-1x2        10 9 8
    _             no sample                     _x3           three times no sample
    stale         the series ends here

Numbers are decimal, or Inf, -Inf, NaN. The format is that of Prometheus' documentation ("Unit testing for rules");
where that leaves a question open, promtool was asked. Native histograms are refused by name.
"""

import re
from collections.abc import Iterator
from enum import Enum

from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.matching import MatchOp
from watchbill_collector.promql import ast
from watchbill_collector.promql.errors import BadQuery
from watchbill_collector.promql.parse import parse

VALUES_MAX = 2_000_000
"""Values that one series may expand to."""

_NUMBER = r"(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|[iI][nN][fF]|[nN][aA][nN])"
_ITEM = re.compile(
    rf"(?P<gap>_)(?:x(?P<gaps>\d+))?"
    rf"|(?P<value>[+-]?{_NUMBER})(?:(?P<step>[+-]{_NUMBER})?x(?P<times>\d+))?"
    r"|(?P<stale>stale)",
    re.ASCII,
)
_DIGITS_MAX = 9


class Gap(Enum):
    """What may stand in the place of a value."""

    NOTHING = "_"
    STALE = "stale"


Value = float | Gap

_PLAIN = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\})?\s*", re.ASCII | re.DOTALL)


class BadNotation(Exception):
    """The text is no series, or no values, that we read; says why."""


def parse_series(text: str) -> dict[str, str]:
    """The labels of one series, its metric name among them; raises BadNotation.

    `up{instance="a"}`, `{__name__="up"}`, and an empty text or `{}` for the series without labels.
    """
    if text.strip() in ("", "{}"):
        return {}
    # A metric may be called like a function or an operator of the language: here it is a name all the same.
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        text = f'{{__name__="{plain[1]}",{plain[2] or ""}}}'
    try:
        found = parse(text)
    except BadQuery as error:
        raise BadNotation(str(error)) from None
    if not isinstance(found, ast.Selector) or found.offset_ms or found.at is not None:
        raise BadNotation('not a series such as up{instance="a"}')
    labels: dict[str, str] = {}
    for matcher in found.matchers:
        if matcher.op is not MatchOp.EQUAL:
            raise BadNotation(f'the matcher {matcher.op.value} in a series: wanted {matcher.name}="..."')
        if matcher.name in labels:
            shown = "metric name" if matcher.name == METRIC_NAME else f'label "{matcher.name}"'
            raise BadNotation(f"the {shown} is there twice")
        labels[matcher.name] = matcher.value
    return {name: value for name, value in labels.items() if value}


def parse_values(text: str) -> list[Value]:
    """The values in their order, what is no value as a Gap; raises BadNotation."""
    values: list[Value] = []
    if "{{" in text:
        raise BadNotation("native histograms are not supported")
    for word in text.split():
        match = _ITEM.fullmatch(word)
        if match is None:
            raise BadNotation(f'"{word[:40]}" in the values, wanted a number, a+bxn, axn, _, _xn or stale')
        times = match["times"] or match["gaps"] or ""
        if len(times) > _DIGITS_MAX or len(values) + int(times or "0") >= VALUES_MAX:
            raise BadNotation(f'"{word[:40]}": more than {VALUES_MAX:,} values in one series')
        values.extend(_expanded(match))
    return values


def _expanded(match: re.Match[str]) -> Iterator[Value]:
    if match["stale"]:
        yield Gap.STALE
    elif match["gap"]:
        yield from [Gap.NOTHING] * (1 if match["gaps"] is None else int(match["gaps"]))
    else:
        value, step = float(match["value"]), float(match["step"] or 0)
        # Added up step by step, as promtool does: a product would differ in the last digit.
        for _ in range(int(match["times"] or 0) + 1):
            yield value
            value += step
