"""What the functions of PromQL take and give, for saying what is wrong with a call and where.

The parser has the same table and does not show it. A function that is not here is left to the parser.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from watchbill_collector.promql.ast import Kind

_SCALAR, _STRING, _VECTOR, _MATRIX = Kind.SCALAR, Kind.STRING, Kind.VECTOR, Kind.MATRIX


@dataclass(frozen=True, slots=True)
class Signature:
    """The kinds of the arguments. `more` is how often the last may stand beyond none: 0, it stands once; -1, as often
    as one likes."""

    args: tuple[Kind, ...]
    more: int = 0
    returns: Kind = _VECTOR

    @property
    def least(self) -> int:
        """The fewest arguments."""
        return len(self.args) - (1 if self.more else 0)

    @property
    def most(self) -> int | None:
        """The most arguments; None: no end."""
        return None if self.more < 0 else self.least + self.more

    def wanted(self, number: int) -> Kind | None:
        """The kind of an argument; None for one too many."""
        if number < len(self.args):
            return self.args[number]
        return self.args[-1] if self.more and self.args else None


_OF_ONE: Final = {
    _VECTOR: """abs absent acos acosh asin asinh atan atanh ceil cos cosh deg exp floor histogram_avg histogram_count
        histogram_stddev histogram_stdvar histogram_sum ln log10 log2 rad sgn sin sinh sort sort_desc sqrt tan tanh
        timestamp""",
    _MATRIX: """absent_over_time avg_over_time changes count_over_time delta deriv idelta increase irate
        last_over_time max_over_time min_over_time present_over_time rate resets stddev_over_time stdvar_over_time
        sum_over_time""",
}
_NEWER_OVER_TIME: Final = """first_over_time mad_over_time ts_of_first_over_time ts_of_last_over_time
    ts_of_max_over_time ts_of_min_over_time"""
_OF_A_DATE: Final = "day_of_month day_of_week day_of_year days_in_month hour minute month year"


def _all() -> Iterator[tuple[str, Signature]]:
    for kind, names in _OF_ONE.items():
        for name in names.split():
            yield name, Signature((kind,))
    for name in _OF_A_DATE.split():
        yield name, Signature((_VECTOR,), more=1)
    yield from _newer()
    yield "clamp", Signature((_VECTOR, _SCALAR, _SCALAR))
    yield "clamp_max", Signature((_VECTOR, _SCALAR))
    yield "clamp_min", Signature((_VECTOR, _SCALAR))
    yield "double_exponential_smoothing", Signature((_MATRIX, _SCALAR, _SCALAR))
    yield "histogram_fraction", Signature((_SCALAR, _SCALAR, _VECTOR))
    yield "histogram_quantile", Signature((_SCALAR, _VECTOR))
    yield "label_join", Signature((_VECTOR, _STRING, _STRING, _STRING), more=-1)
    yield "label_replace", Signature((_VECTOR, _STRING, _STRING, _STRING, _STRING))
    yield "pi", Signature((), returns=_SCALAR)
    yield "predict_linear", Signature((_MATRIX, _SCALAR))
    yield "quantile_over_time", Signature((_SCALAR, _MATRIX))
    yield "round", Signature((_VECTOR, _SCALAR), more=1)
    yield "scalar", Signature((_VECTOR,), returns=_SCALAR)
    yield "sort_by_label", Signature((_VECTOR, _STRING), more=-1)
    yield "sort_by_label_desc", Signature((_VECTOR, _STRING), more=-1)
    yield "time", Signature((), returns=_SCALAR)
    yield "vector", Signature((_SCALAR,))


def _newer() -> Iterator[tuple[str, Signature]]:
    """What the parser knows of the newest Prometheus. What no engine of ours evaluates is refused by its name later."""
    for name in _NEWER_OVER_TIME.split():
        yield name, Signature((_MATRIX,))
    for name in ("max_of", "min_of"):
        yield name, Signature((_SCALAR, _SCALAR), returns=_SCALAR)
    for name in ("start", "end", "step", "range"):
        yield name, Signature((), returns=_SCALAR)
    yield "histogram_quantiles", Signature((_VECTOR, _STRING, _SCALAR, _SCALAR), more=-1)
    yield "info", Signature((_VECTOR, _VECTOR), more=1)
    yield "integral", Signature((_MATRIX, _SCALAR), more=1)
    yield "start_timestamp", Signature((_VECTOR,))


SIGNATURES: Final = dict(_all())
