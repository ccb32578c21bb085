"""What a step has brought, as expressions see it: `STEP.out`, `.ok`, `.rc`, `.took`, and `.hosts[NAME]` of each host.

What a host printed is believed as little as anything else from outside: JSON that is not whole, says a key twice or is
nested without end is no value at all, so that nothing is satisfied by a piece of it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from watchbill.actions.definition import Action
from watchbill.actions.outcomes import Finished, Outcome
from watchbill_collector.runbooks.expression import UNKNOWN, Expression, Known, Unknown, Value
from watchbill_collector.runbooks.expressions import evaluate, truth

OUTPUT_DEPTH_MAX: Final = 32
OUTPUT_VALUES_MAX: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HostResult:
    """What came of an action on one host; None for what nobody knows."""

    out: Value = UNKNOWN
    ok: bool | None = None
    rc: int | None = None
    took_s: float | None = None


def read_output(action: Action, finished: Finished) -> Value:
    """What it printed, as a value: JSON where the action says so, else text without the line's end after it.

    UNKNOWN when only a part of it is here, or when it is not the JSON it should be.
    """
    if not finished.whole:
        return UNKNOWN
    if action.output == "text":
        return finished.output.rstrip("\r\n")
    try:
        found = json.loads(finished.output, object_pairs_hook=_without_twins, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return UNKNOWN
    return _bounded(found)


def host_result(action: Action, finished: Finished) -> HostResult:
    """What came of an action on a host, from what the host said."""
    interrupted = finished.outcome is Outcome.INTERRUPTED
    return HostResult(
        out=read_output(action, finished),
        ok=None if interrupted else finished.outcome is Outcome.OK,
        rc=finished.exit_code,
        took_s=max(0, finished.ended_ms - finished.started_ms) / 1000,
    )


def step_value(results: Mapping[str, HostResult]) -> Known:
    """A step that ran an action, by host. `ok` when all are; `out`, `rc` and `took` only when there was one host."""
    parts = {host: _part(one) for host, one in results.items()}
    value: dict[str, Known] = {"hosts": dict(parts)}
    if len(parts) == 1:
        value |= next(iter(parts.values()))
    oks = [one.ok for one in results.values()]
    if False in oks:
        value["ok"] = False
    elif oks and None not in oks:
        value["ok"] = True
    return value


def plain_value(ok: bool | None) -> Known:
    """A step that ran no action."""
    return {} if ok is None else {"ok": ok}


def happened(done_when: Expression, out: Value) -> bool | Unknown:
    """Whether a probe's output says that the action it stands for has happened."""
    return truth(evaluate(done_when, {"out": out}))


def _part(result: HostResult) -> dict[str, Known]:
    value: dict[str, Known] = {}
    if not isinstance(result.out, Unknown):
        value["out"] = result.out
    if result.ok is not None:
        value["ok"] = result.ok
    if result.rc is not None:
        value["rc"] = result.rc
    if result.took_s is not None:
        value["took"] = result.took_s
    return value


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _bounded(value: Any) -> Value:
    """The value, or UNKNOWN when it is too deep or too many."""
    level, seen = [value], 0
    for _ in range(OUTPUT_DEPTH_MAX):
        seen += len(level)
        if seen > OUTPUT_VALUES_MAX:
            return UNKNOWN
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner.extend(one.values())
            elif isinstance(one, list):
                inner.extend(one)
        if not inner:
            found: Value = value
            return found
        level = inner
    return UNKNOWN
