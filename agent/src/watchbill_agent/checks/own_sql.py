"""SQL of the operator's own, whose numbers become series.

    [[check.query]]
    name = "shop_orders"
    sql = "SELECT shop, count(*) AS waiting, max(age) AS oldest_seconds FROM orders GROUP BY shop"

makes shop_orders_waiting{shop} and shop_orders_oldest_seconds{shop}: columns of numbers are series, columns of text are
labels. With one number only, the series is called as the query is. It runs where nothing can be written.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import isfinite
from typing import Final

from watchbill.config import option
from watchbill.limits import LABEL_VALUE_BYTES_MAX
from watchbill_agent.checks.check import Samples
from watchbill_agent.checks.config import RESERVED_LABELS
from watchbill_agent.reading import Family, MetricType, labels

QUERIES_MAX: Final = 20
ROWS_MAX: Final = 100
"""Of one query; what is beyond is dropped and counted."""
COLUMNS_MAX: Final = 50
SQL_CHARACTERS_MAX: Final = 20_000
OURS: Final = ("watchbill_", "probe_", "pg_", "mysql_", "redis_")
DROPPED: Final = "watchbill_check_query_dropped"

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,127}", re.ASCII)
_NOT_NAME = re.compile(r"[^a-zA-Z0-9_]")


def _name(value: str) -> str | None:
    if not _NAME.fullmatch(value):
        return "the name of a metric: letters, digits and _, no digit first"
    return f"no name of ours: none of {', '.join(OURS)} first" if value.startswith(OURS) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One statement that reads."""

    name: str = option(
        check=_name, help="What its series are called, or begin with.", example='"shop_orders"'
    )
    sql: str = option(
        length_max=SQL_CHARACTERS_MAX,
        check=lambda value: None if value.strip() else "a statement",
        help="One SELECT.",
        example='"SELECT shop, count(*) AS waiting FROM orders GROUP BY shop"',
    )


def put_rows(
    query: Query, columns: Sequence[str], rows: Iterable[Sequence[object]], found: Samples
) -> Mapping[str, float]:
    """Put what it answered into `found`; the numbers of the first row by their names."""
    numbers: dict[str, float] = {}
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    dropped = 0
    single: bool | None = None
    for at, row in enumerate(rows):
        if at >= ROWS_MAX:
            dropped += 1
            continue
        values = {name: number(value) for name, value in zip(columns[:COLUMNS_MAX], row, strict=False)}
        measured = {name: value for name, value in values.items() if value is not None}
        texts = {
            _label(name): _short(text_of(value))
            for name, value in zip(columns[:COLUMNS_MAX], row, strict=False)
            if isinstance(value, str | bytes)
        }
        if single is None:
            single = len(measured) == 1
        for column, value in measured.items():
            name = query.name if single else f"{query.name}_{_NOT_NAME.sub('_', column)}"
            key = (name, labels(**texts))
            if key in seen:
                dropped += 1
                continue
            seen.add(key)
            type_ = MetricType.COUNTER if name.endswith("_total") else MetricType.GAUGE
            found.put(Family(name, type_, "A number of the query's."), value, key[1])
            if at == 0:
                numbers[name] = value
    found.gauge(DROPPED, "Rows and numbers that were too many, or there twice.", dropped, query=query.name)
    return numbers


def number(value: object) -> float | None:
    """A cell as a number: times since 1970 (in UTC, where no zone is said) and durations in seconds. None for what is
    none."""
    try:
        if isinstance(value, datetime):
            read = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        elif isinstance(value, timedelta):
            read = value.total_seconds()
        elif isinstance(value, int | float | Decimal):
            read = float(value)
        else:
            return None
    except (OverflowError, ValueError):
        return None
    return read if isfinite(read) else None


def text_of(value: str | bytes) -> str:
    """A cell of text; a database without an encoding hands out bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _label(column: str) -> str:
    name = _NOT_NAME.sub("_", column) or "_"
    name = f"_{name}" if name[0].isdigit() else name
    return f"exported_{name}" if name in RESERVED_LABELS or name.startswith("__") else name


def _short(value: str) -> str:
    return value.encode("utf-8", "replace")[:LABEL_VALUE_BYTES_MAX].decode("utf-8", "ignore")
