"""`promql --json-lines`: the engine on stdin and stdout, one JSON object a line.

Requests: `{"op": "reset"}`; `{"op": "load", "series": [{"labels": {...}, "points": [[ms, "1.5"], [ms,
"stale"]]}]}`; `{"op": "instant", "expr": ..., "time_ms": ...}`; `{"op": "range", "expr": ..., "start_ms":
..., "end_ms": ..., "step_ms": ...}`. Each gets one line back: for queries what the HTTP API would answer. A
line that is no request gets an error line; nothing that is sent ends the process.
"""

import json
from typing import Any, TextIO

from watchbill_collector.promql.engine import Engine
from watchbill_collector.promql.errors import BadQuery, PromqlError
from watchbill_collector.promql.memory import MemoryStorage
from watchbill_collector.promql.render import error_json, success_json

LINE_CHARS_MAX = 256 * 1024 * 1024
TIME_MS_MAX = 2**53
"""Times that a JSON number holds exactly."""

STALE = "stale"


def serve(stdin: TextIO, stdout: TextIO) -> None:
    """Answer every line of `stdin` until it ends."""
    session = Session()
    while line := stdin.readline(LINE_CHARS_MAX):
        if not line.strip():
            continue
        stdout.write(json.dumps(session.answer(line), ensure_ascii=False, allow_nan=False) + "\n")
        stdout.flush()


class Session:
    """An engine and its data between the lines."""

    def __init__(self) -> None:
        self._engine = Engine()
        self._storage = MemoryStorage()

    def answer(self, line: str) -> dict[str, Any]:
        """The answer to one line."""
        try:
            return self.request(json.loads(line))
        except RecursionError:
            return error_json(BadQuery("the line is nested too deeply"))
        except ValueError as error:
            return error_json(BadQuery(f"the line is not JSON: {error}"))

    def request(self, request: object) -> dict[str, Any]:
        """The answer to one request."""
        try:
            if not isinstance(request, dict):
                raise BadQuery("a request is a JSON object")
            return self._answer(request)
        except PromqlError as error:
            return error_json(error)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        op = request.get("op")
        if op == "reset":
            self._storage = MemoryStorage()
            return {"status": "success"}
        if op == "load":
            return self._load(request)
        if op == "instant":
            result = self._engine.instant(
                _member(request, "expr", str), _time(request, "time_ms"), self._storage
            )
            return success_json(result)
        if op == "range":
            result = self._engine.range(
                _member(request, "expr", str),
                _time(request, "start_ms"),
                _time(request, "end_ms"),
                _time(request, "step_ms"),
                self._storage,
            )
            return success_json(result)
        raise BadQuery(f"unknown op {op!r}, wanted reset, load, instant or range")

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        loaded = []
        for one in _member(request, "series", list):
            if not isinstance(one, dict):
                raise BadQuery("a series is an object with labels and points")
            labels = _member(one, "labels", dict)
            if not all(isinstance(value, str) for value in labels.values()):
                raise BadQuery("label values are strings")
            loaded.append((labels, [_point(point) for point in _member(one, "points", list)]))
        for labels, points in loaded:
            for time_ms, value in points:
                if value is None:
                    self._storage.add_stale(labels, time_ms)
                else:
                    self._storage.add(labels, [(time_ms, value)])
        return {"status": "success"}


def _member(holder: dict[str, Any], name: str, kind: type) -> Any:
    value = holder.get(name)
    if not isinstance(value, kind):
        raise BadQuery(f"{name!r} has to be a {kind.__name__}, got {type(value).__name__}")
    return value


def _time(request: dict[str, Any], name: str) -> int:
    value = request.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > TIME_MS_MAX:
        raise BadQuery(f"{name!r} has to be whole milliseconds, got {value!r}")
    return value


def _point(point: Any) -> tuple[int, float | None]:
    """A [ms, "value"] pair; None is a stale marker."""
    if not isinstance(point, list) or len(point) != 2:
        raise BadQuery(f"a point is [ms, value], got {point!r}")
    time_ms = _time({"time": point[0]}, "time")
    if point[1] == STALE:
        return time_ms, None
    try:
        return time_ms, float(point[1])
    except (TypeError, ValueError):
        raise BadQuery(f"not a number: {point[1]!r}") from None
