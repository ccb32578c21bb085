"""What is wrong with an expression is said in Prometheus' words: here beside Prometheus' own."""

import re
import subprocess
from pathlib import Path

import pytest

from watchbill_collector.promql.errors import BadQuery
from watchbill_collector.promql.parse import parse
from watchbill_collector.promql.wording import worded

WRONG = {
    "rate(up)": 'expected type range vector in call to function "rate", got instant vector',
    "abs(up[5m])": 'expected type instant vector in call to function "abs", got range vector',
    "sum(up[5m])": "expected type instant vector in aggregation expression, got range vector",
    "sum(1)": "expected type instant vector in aggregation expression, got scalar",
    "topk(up, up)": "expected type scalar in aggregation parameter, got instant vector",
    "count_values(1, up)": "expected type string in aggregation parameter, got scalar",
    "-up[5m]": 'unary expression only allowed on expressions of type scalar or instant vector, got "range vector"',
    '-"a"': 'unary expression only allowed on expressions of type scalar or instant vector, got "string"',
    "up and 1": 'set operator "and" not allowed in binary scalar expression',
    "(1)[5m:1m]": "subquery is only allowed on instant vector, got scalar instead",
    "rate(up[5m], up)": 'expected 1 argument(s) in call to "rate", got 2',
    'label_replace(up,1,"b","c","d")': 'expected type string in call to function "label_replace", got scalar',
    "1 > 2": "comparisons between scalars must use BOOL modifier",
    "up[5m] + 1": "binary expression must contain only scalar and instant vector types",
}


def ours(expr: str) -> str:
    with pytest.raises(BadQuery) as wrong:
        parse(expr)
    return str(wrong.value)


@pytest.mark.parametrize(("expr", "words"), WRONG.items())
def test_a_mistake_of_types_is_said_in_prometheus_words(expr: str, words: str) -> None:
    assert f"parse error: {words}" in ours(expr)


@pytest.mark.real("promtool")
def test_promtool_says_the_same(tmp_path: Path) -> None:
    rules = [f"  - {{record: a{at}, expr: '{expr}'}}" for at, expr in enumerate(WRONG)]
    file = tmp_path / "wrong.yml"
    file.write_text("\n".join(["groups:", "- name: g", "  rules:", *rules]))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True)
    theirs = re.findall(r"parse error: (.*)", done.stdout + done.stderr)
    assert theirs == list(WRONG.values())


@pytest.mark.parametrize(
    "text", ["", "unexpected end of input", "expected type x in y, got z", "it's 'quoted'"]
)
def test_what_is_not_known_stays_as_it_is(text: str) -> None:
    assert worded(text) == text
