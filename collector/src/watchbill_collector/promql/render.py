"""Results and errors in the shapes of Prometheus' HTTP API.

Values are strings, times are seconds with at most three decimals. Annotations come without the positions that
Prometheus appends ("(1:15)"): the parser gives none.
"""

from typing import Any

from watchbill_collector.promql.engine import Data, InstantVector, Matrix, Number, Result
from watchbill_collector.promql.errors import PromqlError
from watchbill_collector.promql.text import float_text

Json = dict[str, Any]

ANNOTATIONS_MAX = 10
"""Warnings, and infos, in one answer; the rest is counted, as in Prometheus."""


def seconds(time_ms: int) -> float | int:
    """A time as a JSON number: whole seconds without a fraction."""
    whole, rest = divmod(time_ms, 1000)
    return whole if rest == 0 else time_ms / 1000


def data_json(data: Data) -> Json:
    """The `data` member of an answer."""
    if isinstance(data, InstantVector):
        at = seconds(data.time_ms)
        return {
            "resultType": "vector",
            "result": [{"metric": labels, "value": [at, float_text(value)]} for labels, value in data],
        }
    if isinstance(data, Matrix):
        return {"resultType": "matrix", "result": _matrix_json(data)}
    at = seconds(data.time_ms)
    if isinstance(data, Number):
        return {"resultType": "scalar", "result": [at, float_text(data.value)]}
    return {"resultType": "string", "result": [at, data.value]}


def _matrix_json(data: Matrix) -> list[Json]:
    times = [seconds(time) for time in data.times_ms.tolist()]
    values = [float_text(value) for value in data.values.tolist()]
    points = list(map(list, zip(times, values, strict=True)))
    offsets = data.offsets.tolist()
    return [
        {"metric": labels, "values": points[offsets[row] : offsets[row + 1]]}
        for row, labels in enumerate(data.labels.dicts())
    ]


def success_json(result: Result) -> Json:
    """The whole answer."""
    out: Json = {"status": "success", "data": data_json(result.data)}
    if result.warnings:
        out["warnings"] = _limited(result.warnings, "warning")
    if result.infos:
        out["infos"] = _limited(result.infos, "info")
    return out


def _limited(notes: tuple[str, ...], kind: str) -> list[str]:
    shown = list(notes[:ANNOTATIONS_MAX])
    if len(notes) > ANNOTATIONS_MAX:
        shown.append(f"{len(notes) - ANNOTATIONS_MAX} more {kind} annotations omitted")
    return shown


STATUS = {"bad_data": 400, "execution": 422, "timeout": 503, "canceled": 503}
"""The HTTP status of each error kind."""


def error_json(error: PromqlError) -> Json:
    """The answer to a query that failed; the HTTP status is `STATUS[error.kind]`."""
    return {"status": "error", "errorType": error.kind, "error": str(error)}
