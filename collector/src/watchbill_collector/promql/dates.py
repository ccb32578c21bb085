"""Calendar functions of Unix seconds, in UTC."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from watchbill_collector.promql.windows import Floats, Ints

_SECONDS_MAX = 2.0**55
"""Beyond this (a thousand million years) numpy's calendar ends; the answer is NaN."""

Dates = npt.NDArray[np.datetime64]


def _calendar(function: Callable[[Dates], npt.NDArray[np.integer]]) -> Callable[[Floats], Floats]:
    def of_seconds(seconds: Floats) -> Floats:
        known = np.abs(seconds) < _SECONDS_MAX
        whole = np.where(known, np.trunc(seconds), 0).astype(np.int64)
        return np.where(known, function(whole.astype("datetime64[s]")).astype(np.float64), np.nan)

    return of_seconds


def _since(dates: Dates, outer: str, inner: str) -> Ints:
    """How many `inner` units have begun since the last `outer` unit did."""
    begun = dates.astype(f"datetime64[{inner}]") - dates.astype(f"datetime64[{outer}]").astype(
        f"datetime64[{inner}]"
    )
    out: Ints = begun.astype(np.int64)
    return out


def _days_in_month(dates: Dates) -> Ints:
    months = dates.astype("datetime64[M]")
    days = (months + 1).astype("datetime64[D]") - months.astype("datetime64[D]")
    out: Ints = days.astype(np.int64)
    return out


DATE_FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {
    "day_of_month": _calendar(lambda dates: _since(dates, "M", "D") + 1),
    # The first of January 1970 was a Thursday; Sunday is 0.
    "day_of_week": _calendar(lambda dates: (dates.astype("datetime64[D]").astype(np.int64) + 4) % 7),
    "day_of_year": _calendar(lambda dates: _since(dates, "Y", "D") + 1),
    "days_in_month": _calendar(_days_in_month),
    "hour": _calendar(lambda dates: _since(dates, "D", "h")),
    "minute": _calendar(lambda dates: _since(dates, "h", "m")),
    "month": _calendar(lambda dates: _since(dates, "Y", "M") + 1),
    "year": _calendar(lambda dates: dates.astype("datetime64[Y]").astype(np.int64) + 1970),
}
