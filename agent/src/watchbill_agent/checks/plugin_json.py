"""What a plugin prints that speaks JSON instead of performance data:

    {"status": "warning", "message": "3 orders wait",
     "metrics": {"shop_orders_waiting": 3,
                 "shop_orders_total": {"value": 812, "type": "counter", "labels": {"shop": "main"}}}}

Each metric is a number, an object, or an array of objects with different labels. Without a status the exit code says
how it is.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

from watchbill.limits import LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX
from watchbill_agent.checks.check import Samples, Verdict
from watchbill_agent.checks.config import RESERVED_LABELS
from watchbill_agent.reading import Family, MetricType, labels

METRICS_MAX: Final = 1_000
NAME_CHARACTERS_MAX: Final = 200
HELP_CHARACTERS_MAX: Final = 200
OURS: Final = ("watchbill_", "probe_success", "probe_duration_seconds")
"""Names that say something else."""
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_TYPES: Final = {one.value: one for one in MetricType}
_HELP: Final = "A metric of the plugin's."


class NotAnAnswer(ValueError):
    """What was printed is no such document; the message says why."""


def read_document(text: str, found: Samples) -> tuple[Verdict | None, str, int]:
    """The verdict if it names one, the message, and how many metrics could not be used; the others are put into
    `found`. Raises NotAnAnswer."""
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise NotAnAnswer(f"got no JSON ({exc}), wanted an object with a status") from exc
    if not isinstance(document, dict):
        raise NotAnAnswer(f"got {_shown(document)}, wanted an object with a status")
    message = document.get("message", "")
    if not isinstance(message, str):
        raise NotAnAnswer(f"message: got {_shown(message)}, wanted text")
    metrics = document.get("metrics", {})
    if not isinstance(metrics, dict):
        raise NotAnAnswer(f"metrics: got {_shown(metrics)}, wanted an object")
    return _verdict(document.get("status")), message, _put(metrics, found)


def _verdict(status: object) -> Verdict | None:
    if status is None:
        return None
    for one in Verdict:
        same_number = status == one.value and isinstance(status, int) and not isinstance(status, bool)
        if same_number or (isinstance(status, str) and status.lower() == one.word):
            return one
    raise NotAnAnswer(f"status: got {_shown(status)}, wanted ok, warning, critical, unknown or 0 to 3")


def _put(metrics: Mapping[str, object], found: Samples) -> int:
    dropped = 0
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    for name, said in metrics.items():
        for one in said if isinstance(said, list) else (said,):
            read = _metric(name, one) if len(seen) < METRICS_MAX else None
            if read is None:
                dropped += 1
                continue
            family, value, pairs = read
            clash = found.families.get(name, family).type is not family.type
            if clash or (name, pairs) in seen:
                dropped += 1
                continue
            seen.add((name, pairs))
            found.put(family, value, pairs)
    return dropped


def _metric(name: str, said: object) -> tuple[Family, float, tuple[tuple[str, str], ...]] | None:
    fields: Mapping[str, Any] = said if isinstance(said, dict) else {"value": said}
    value, type_ = fields.get("value"), fields.get("type", MetricType.GAUGE.value)
    pairs, help_ = fields.get("labels", {}), fields.get("help", _HELP)
    if not isinstance(value, int | float):
        return None
    right = (
        len(name) <= NAME_CHARACTERS_MAX
        and _NAME.fullmatch(name) is not None
        and not name.startswith(OURS)
        and isinstance(type_, str)
        and type_ in _TYPES
        and isinstance(help_, str)
        and isinstance(pairs, dict)
        and not any(_label_faults(pairs))
    )
    if not right:
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    if not math.isfinite(number):
        return None
    line = " ".join(help_[:HELP_CHARACTERS_MAX].split())
    return Family(name, _TYPES[type_], line or _HELP), number, labels(**pairs)


def _label_faults(pairs: Mapping[str, object]) -> Iterator[bool]:
    for name, value in pairs.items():
        yield _LABEL.fullmatch(name) is None or name.startswith("__") or name in RESERVED_LABELS
        yield len(name) > LABEL_NAME_BYTES_MAX or not isinstance(value, str)
        yield len(str(value).encode("utf-8", "surrogatepass")) > LABEL_VALUE_BYTES_MAX


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _shown(value: object) -> str:
    return ascii(json.dumps(value)[:40])
