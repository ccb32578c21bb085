"""What is PromQL and what is not, and how it hangs together: judged by Debian's Prometheus.

Expressions are made of random tokens and printed by both. The print shows precedence, so equal text is equal meaning.
What 3.x has and 2.42 has not is told apart by the error that 2.42 gives.
"""

import random
import re
from collections import Counter
from typing import Any

import pytest

from watchbill_collector.promql.errors import BadQuery, NotSupported
from watchbill_collector.promql.lexer import tokens
from watchbill_collector.promql.parse import parse

pytestmark = pytest.mark.real("prometheus")

EXPRESSIONS = (
    'sum by (a, b) (rate(x_total{m!="q"}[5m] offset -1m)) / ignoring (m) group_left (z) up > bool 0.5',
    "max_over_time((foo + bar ^ 2)[1h:30s] @ end() offset 5m) and on (a) foo unless bar or -baz",
    "histogram_quantile(0.9, sum without (x) (rate(h_bucket[2m]))) == bool on () group_right () vector(1)",
    'label_replace(foo, "a", "$1", "b", "(.*)") % 3 * -2 ^ 3 ^ 0.5 - time() atan2 1',
    'topk by (a) (3, {__name__=~"a|b",c="",d!~"e"}) >= 0x1F or count_values("v", foo) < Inf',
    "quantile(0.5, foo offset 1d2h) != absent_over_time(foo[1m] @ 1609746000) + sum(foo) by (a)",
)
TOKENS = (
    *("(", ")", "{", "}", "[", "]", ",", ":", "+", "-", "*", "/", "%", "^", "==", "!=", ">", "<", ">=", "<="),
    *("=", "=~", "!~", "and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right"),
    *(
        "bool",
        "offset",
        "@",
        "start()",
        "end()",
        "5m",
        "10",
        "0.5",
        "1e3",
        "0x1F",
        "NaN",
        "inf",
        "sum",
        "topk",
    ),
    *("count_values", "quantile", "rate", "time", "vector", "scalar", "abs", "foo", "bar:baz", "_x", '"s"'),
    *("'t'", "`u`", '"\\n"', "atan2", "AND", "By", "-5m", "[5m]", "[5m:1m]", "[5m:]", '{a="b"}', "{}"),
    *('{a=~"b|c"}', '{__name__="q"}', '{a=""}', "{or='x'}", "group", "start", "end", "07", "08", ".5", "5."),
    *("0s", "1d2h", "2h1d", "label_replace", "absent", "# c\n", r'{a=~"\\d"}', r"{a=`\d`}", '{a!="b",}'),
)
NEWER = re.compile(
    'unexpected duration|missing unit character|unexpected (number|string|"\\(")|expected duration'
)
"""What 2.42 says of durations as numbers, numbers as durations, quoted names, `start()` as a function."""
SEEDS = (1, 2, 3)
EXPRESSIONS_A_SEED = 700


def _random(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return " ".join(rng.choice(TOKENS) for _ in range(rng.randrange(1, 6)))
    texts = [token.text for token in tokens(rng.choice(EXPRESSIONS)) if token.kind != "space"]
    first = rng.randrange(len(texts)) if rng.random() < 0.5 else 0
    texts = texts[first:] if rng.random() < 0.5 else texts
    for _ in range(rng.choice((0, 1, 1, 2))):
        at = rng.randrange(len(texts))
        texts[at : at + rng.randrange(2)] = [rng.choice(TOKENS)] if rng.random() < 0.7 else []
        if not texts:
            return "foo"
    return " ".join(texts)


def _squeezed(text: str) -> str:
    """Without layout, and without the plus signs that say nothing."""
    return re.sub(r"\s+", "", text).replace("+", "")


def _read(text: str) -> tuple[str | None, str]:
    """The expression as we print it, or how we refuse it."""
    try:
        return str(parse(text)), ""
    except NotSupported:
        return None, "refused by name"
    except BadQuery as error:
        return None, str(error)


def _same_place(ours: str, theirs: str) -> bool:
    """Whether both see it at one place; 2.42 counts a bracket that closes nothing from behind it."""
    here, there = (re.search(r"([0-9]+):([0-9]+): parse error", error) for error in (ours, theirs))
    assert here is not None, f"{ours!r} has no place"
    return there is not None and (here[0] == there[0] or "right parenthesis" in theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_tokens_are_read_as_prometheus_reads_them(prometheus: Any, seed: int) -> None:
    rng, seen = random.Random(seed), Counter[str]()
    for _ in range(EXPRESSIONS_A_SEED):
        text = _random(rng)
        theirs = prometheus.query("/api/v1/format_query", {"query": text})
        ours, why = _read(text)
        if ours is None:
            assert theirs["status"] == "error", f"seed {seed}: {text!r} is PromQL: {theirs}"
            kind = "refused by name" if why == "refused by name" else "refused by both"
            seen[kind] += 1
            seen["at the same place"] += kind == "refused by both" and _same_place(why, theirs["error"])
        elif theirs["status"] == "error":
            assert NEWER.search(theirs["error"]), f"seed {seed}: {text!r}: {theirs['error']}"
            seen["newer"] += 1
        else:
            assert _squeezed(ours) == _squeezed(theirs["data"]), f"seed {seed}: {text!r}"
            seen["the same"] += 1
    assert seen["the same"] > EXPRESSIONS_A_SEED // 10, seen
    assert seen["refused by both"] > EXPRESSIONS_A_SEED // 10, seen
    # The rest is newer syntax, or has two mistakes that are come upon in another order.
    assert seen["at the same place"] > seen["refused by both"] * 0.85, seen
