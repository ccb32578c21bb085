"""Results and errors in the shapes of Prometheus' HTTP API.

Values are strings, times are seconds with at most three decimals. Annotations come without the positions that
Prometheus appends ("(1:15)"): the parser gives none.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

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


PIECE_POINTS = 2_000
"""Points that are made text at once. Turning millions into one document would hold the interpreter for seconds, and
with it every other thread."""


def result_pieces(data: Data) -> Iterator[bytes]:
    """The `result` of an answer as JSON, in pieces: joined they are what `data_json` has there. Whoever joins them may
    look up between two."""
    if isinstance(data, InstantVector):
        yield from _joined(_vector_pieces(data))
    elif isinstance(data, Matrix):
        yield from _joined(_series_pieces(data))
    else:
        yield orjson.dumps(data_json(data)["result"])


def _joined(rows: Iterator[bytes]) -> Iterator[bytes]:
    """A list of what `rows` gives; a piece may hold several entries, with commas between them, or a part of one."""
    yield b"["
    yield from rows
    yield b"]"


def _vector_pieces(data: InstantVector) -> Iterator[bytes]:
    at = seconds(data.time_ms)
    for begin in range(0, len(data), PIECE_POINTS):
        rows = np.arange(begin, min(begin + PIECE_POINTS, len(data)))
        labels, values = data.labels.take(rows).dicts(), data.values[rows].tolist()
        entries = [
            {"metric": metric, "value": [at, float_text(value)]}
            for metric, value in zip(labels, values, strict=True)
        ]
        yield (b"," if begin else b"") + orjson.dumps(entries)[1:-1]


def _series_pieces(data: Matrix) -> Iterator[bytes]:
    offsets = data.offsets.tolist()
    row = 0
    while row < len(data):
        # As many whole series as make a piece, and at least one.
        last = row + 1
        while last < len(data) and offsets[last + 1] - offsets[row] <= PIECE_POINTS:
            last += 1
        for number, metric in enumerate(data.labels.take(np.arange(row, last)).dicts(), row):
            yield (b"," if number else b"") + b'{"metric":' + orjson.dumps(metric) + b',"values":['
            yield from _point_pieces(data, offsets[number], offsets[number + 1])
            yield b"]}"
        row = last


def _point_pieces(data: Matrix, begin: int, end: int) -> Iterator[bytes]:
    for at in range(begin, end, PIECE_POINTS):
        upto = min(at + PIECE_POINTS, end)
        times = map(seconds, data.times_ms[at:upto].tolist())
        values = map(float_text, data.values[at:upto].tolist())
        yield (b"," if at > begin else b"") + orjson.dumps(list(zip(times, values, strict=True)))[1:-1]


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
