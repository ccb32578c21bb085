"""Where an expression goes wrong: at the same place as Prometheus says, and nowhere when it is right."""

import contextlib
import re
import subprocess
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from watchbill_collector.promql.errors import BadQuery, NotSupported
from watchbill_collector.promql.lexer import prepare
from watchbill_collector.promql.parse import parse
from watchbill_collector.promql.syntax import fault

WRONG = {
    "foo bar": '1:5: parse error: unexpected identifier "bar", wanted an operator',
    "up +": "1:5: parse error: unexpected end of input, wanted an expression",
    "up +\n  )": '2:3: parse error: unexpected ")", wanted an expression',
    "sum(rate(up[5m])": '1:17: parse error: unexpected end of input, wanted an operator or ")"',
    "sum(up))": '1:8: parse error: unexpected ")", wanted an operator',
    "sum by (a b) (up)": '1:11: parse error: unexpected identifier "b", wanted "," or ")"',
    "sum by a (up)": '1:8: parse error: unexpected identifier "a", wanted "("',
    "sum(up) without (1)": '1:18: parse error: unexpected number "1", wanted a label',
    "up{a='b'}\n  > 0\n  andd up": '3:3: parse error: unexpected identifier "andd", wanted an operator',
    "up == == 1": '1:7: parse error: unexpected "=", wanted an expression',
    "up == bool": "1:11: parse error: unexpected end of input, wanted an expression",
    "up @ foo": '1:6: parse error: unexpected identifier "foo", wanted a time, "start()" or "end()"',
    "up offset 5m 3": '1:14: parse error: unexpected number "3", wanted an operator',
    '{a="é"} {a="b"}': '1:10: parse error: unexpected "{", wanted an operator',
    "abs(a b)": '1:7: parse error: unexpected identifier "b", wanted an operator or ")"',
    "up, up": '1:3: parse error: unexpected ",", wanted an operator',
    "()": '1:2: parse error: unexpected ")", wanted an expression',
    '"x" "y"': '1:5: parse error: unexpected "y", wanted an operator',
    "up on (a) up": '1:4: parse error: unexpected identifier "on", wanted an operator',
    "up +\n nosuch(up)": '2:2: parse error: unknown function with name "nosuch"',
    "up[5q]": "1:5: parse error: unexpected 'q' in a range, wanted a duration such as 5m",
    "": "1:1: parse error: no expression found in input",
    "bool": '1:1: parse error: unexpected identifier "bool", wanted an expression',
    "1 + on(a)": "1:10: parse error: unexpected end of input, wanted an expression",
    "up @ Inf": "1:1: parse error: timestamp out of bounds for @ modifier: Inf",
    "up + 2h1d": '1:6: parse error: not a valid duration string: "2h1d"',
}
PIECES = [
    *("up", "foo:bar", "1", "5m", '"s"', "abs", "time", "sum", "count_values", "topk", "by", "without", "on"),
    *(
        "ignoring",
        "group_left",
        "bool",
        "offset",
        "and",
        "unless",
        "(",
        ")",
        "(a)",
        "(a, b)",
        '{a="b"}',
        "{}",
    ),
    *(
        "{",
        "}",
        "a",
        "=",
        "!=",
        "=~",
        '{a="b",}',
        '{a=""}',
        "{a",
        "scalar(up)",
        "bool 1",
        "on (a) group_right (b)",
    ),
    *("[5m]", "[5m:1m]", ",", "+", "-", "*", "==", "<", ">=", "@", "end()", "# comment\n", "((", "))"),
]


@pytest.mark.parametrize(("expr", "words"), WRONG.items())
def test_what_is_unexpected_is_named_with_its_place(expr: str, words: str) -> None:
    with pytest.raises(BadQuery) as wrong:
        parse(expr)
    assert str(wrong.value) == words


@pytest.mark.parametrize("name", ["or", "fill", "offset", "sum", "by", "a or or"])
@pytest.mark.parametrize("offset", ["1e999", "inf", "-nan"])
def test_no_offset_of_any_name_reaches_the_parser_that_it_panics_on(name: str, offset: str) -> None:
    with pytest.raises(BadQuery, match=r"^1:\d+: parse error"):
        parse(f"{name} offset {offset}")
    assert str(parse(f"{name} offset 300")) == f"{name} offset 5m"
    assert str(parse("offset - 5")) == "offset - 5", "a name itself, where an operand must stand"


def test_what_is_written_close_to_a_time_is_not_read_with_it() -> None:
    with pytest.raises(BadQuery, match='1:4: parse error: bad number or duration syntax: "5"'):
        parse("up@5x1")
    assert str(parse("up @5or up")) == "up @ 5.000 or up"


@pytest.mark.real("promtool")
def test_promtool_finds_it_at_the_same_place(tmp_path: Path) -> None:
    # It counts columns from nought behind a line's end, takes both halves of an operator for one and a
    # range whole, and stands behind a bracket too many.
    same = {expr: words for expr, words in WRONG.items() if expr and not re.search(r"\n|==|\[|\)\)$", expr)}
    theirs = []
    for expr in same:
        file = tmp_path / "wrong.yml"
        text = expr.replace('"', '\\"')
        file.write_text(f'groups: [{{name: g, rules: [{{record: a, expr: "{text}"}}]}}]')
        done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True)
        theirs += re.findall(r"([0-9]+:[0-9]+): parse error", done.stdout + done.stderr)[:1]
    assert theirs == [words.partition(": ")[0] for words in same.values()]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=14).map(" ".join))
@settings(max_examples=1000, deadline=None)
def test_what_the_parser_reads_has_nothing_unexpected(expr: str) -> None:
    try:
        parse(expr)
    except NotSupported:
        return
    except BadQuery:
        with contextlib.suppress(BadQuery):
            fault(expr, prepare(expr).tokens)  # It comes to an end.
    else:
        assert fault(expr, prepare(expr).tokens) == ""
