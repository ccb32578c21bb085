"""`query` in templates: which series it may read, known when the file is loaded, and the samples that it gives.

The head keeps what loaded rules read and nothing else, so what a template asks has to be known beforehand. It is,
where the PromQL stands in the template, or a format of it does: `printf "node_uname_info{instance=%q}"
$labels.instance | query`. What the arguments will be is left open: the head is told of all series that the rest of
the selector fits. Anything else is refused by name.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from watchbill_collector.head import Watch
from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.promql import ast
from watchbill_collector.promql.engine import InstantVector, Number, Result
from watchbill_collector.promql.errors import PromqlError
from watchbill_collector.promql.parse import parse
from watchbill_collector.promql.text import float_text
from watchbill_collector.rules.needs import WINDOW_MS_MAX, pinned, watches

ROWS_MAX = 1_000
"""Samples that one query of a template may give; more is an error in its text."""
ASKED_MAX = 100
"""Different queries that the templates of one rule may ask at one evaluation, of all its alerts together; what is
beyond says so in its text."""
SAMPLES_MAX = 200_000
"""Samples that one of them may read."""
TIME_S_MAX = 0.2
"""Time that all of them may take, of one rule at one evaluation."""

OPEN = "\ue002"
"""Stands for what an argument will be."""
_VERB = re.compile(r"%[-+# 0]*\d*(?:\.\d*)?([a-zA-Z%])")


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of a query's answer, with Go's field names."""

    labels: dict[str, str]
    value: float

    def __str__(self) -> str:
        inner = " ".join(f"{name}:{text}" for name, text in sorted(self.labels.items()))
        return f"{{map[{inner}] {float_text(self.value)}}}"


Samples = tuple[Sample, ...]
Ask = Callable[[str], Samples]
"""Answers a query; raises PromqlError."""


class NotForeseen(Exception):
    """What a template asks cannot be known before it is filled in; the message says why."""


def samples_of(result: Result) -> Samples:
    """The answer to a query, as templates see it; raises PromqlError."""
    data = result.data
    if isinstance(data, InstantVector):
        if len(data) > ROWS_MAX:
            raise PromqlError(f"{len(data)} samples, at most {ROWS_MAX} are possible in a template")
        return tuple(Sample(labels, value) for labels, value in data)
    if isinstance(data, Number):
        return (Sample({}, data.value),)
    raise PromqlError("rule result is not a vector or scalar")


def formatted(form: str) -> str:
    """A format with its arguments left open."""

    def one(found: re.Match[str]) -> str:
        verb = found[1]
        if verb == "%":
            return "%"
        return f'"{OPEN}"' if verb == "q" else "1" if verb in "defgFGEx" else OPEN

    return _VERB.sub(one, form)


def read_by(text: str) -> tuple[Watch, ...]:
    """What the head has to keep for a query, arguments left open; raises NotForeseen."""
    try:
        expr = parse(text)
    except PromqlError as error:
        raise NotForeseen(str(error).replace(OPEN, "...")) from None
    if expr.kind not in (ast.Kind.VECTOR, ast.Kind.SCALAR):
        raise NotForeseen(f"a {expr.kind.value} is no answer for a template")
    if pinned(expr) is not None:
        raise NotForeseen("it looks at a fixed time")
    return tuple(_opened(watch) for watch in watches(expr))


def _opened(watch: Watch) -> Watch:
    known = tuple(
        matcher for matcher in watch.matchers if OPEN not in matcher.value and OPEN not in matcher.name
    )
    if not any(matcher.name == METRIC_NAME and matcher.op.value == "=" for matcher in known):
        raise NotForeseen("the name of a metric is not known beforehand")
    if watch.window_ms > WINDOW_MS_MAX:
        raise NotForeseen("it looks back over more than 31d")
    return replace(watch, matchers=known)
