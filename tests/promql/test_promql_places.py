"""Mistakes in braces and of kinds: told at Prometheus' place and in Prometheus' words."""

import json
import re
import subprocess
from pathlib import Path

import promql_parser
import pytest

from watchbill_collector.promql.ast import Kind
from watchbill_collector.promql.errors import BadQuery
from watchbill_collector.promql.parse import parse
from watchbill_collector.promql.plan import plan
from watchbill_collector.promql.signatures import SIGNATURES

OF_SIGNS = "unary expression only allowed on expressions of type scalar or instant vector"
BRACES = {
    "up{a=}": '1:6: unexpected "}" in label matching, expected string',
    "up{a=b}": '1:6: unexpected identifier "b" in label matching, expected string',
    'up{a b="c"}': '1:6: unexpected identifier "b" in label matching, expected label matching operator',
    'up{a=="b"}': '1:6: unexpected "=" in label matching, expected string',
    'up{a="b",, c="d"}': '1:10: unexpected "," in label matching, expected identifier or "}"',
    "up{,}": '1:4: unexpected "," in label matching, expected identifier or "}"',
    'up{a="b" c="d"}': '1:10: unexpected identifier "c" in label matching, expected "," or "}"',
    'up{="b"}': '1:4: unexpected "=" in label matching, expected identifier or "}"',
    'sum(up{a="b"': "1:13: unexpected end of input inside braces",
    "up{a='b}": "1:6: unterminated quoted string",
    "up{a=`b}": "1:6: unterminated raw string",
    'up{1="b"}': "1:4: unexpected character inside braces: '1'",
    'up{a!b="c"}': "1:5: unexpected character after '!' inside braces: 'b'",
    'up{a:b="c"}': "1:5: unexpected character inside braces: ':'",
    'up{a="b" c:d="e"}': '1:10: unexpected identifier "c" in label matching, expected "," or "}"',
    'up{:b="c"}': "1:4: unexpected character inside braces: ':'",
    'up{a=~ "b"} + {{a="b"}': "1:16: unexpected left brace '{'",
    "{}": "1:1: vector selector must contain at least one non-empty matcher",
    'up + {a="",b!="c",d=~".*"}': "1:6: vector selector must contain at least one non-empty matcher",
    'sum(up{__name__="down"})': '1:5: metric name must not be set twice: "up" or "down"',
}
KINDS = {
    '1 + "a"': "1:5: binary expression must contain only scalar and instant vector types",
    '("a") + 1': "1:1: binary expression must contain only scalar and instant vector types",
    "up[5m] * up": "1:1: binary expression must contain only scalar and instant vector types",
    "1 and 2": '1:1: set operator "and" not allowed in binary scalar expression',
    "sum(up) + (up or 1)": '1:12: set operator "or" not allowed in binary scalar expression',
    "1 + bool 2": "1:3: bool modifier can only be used on comparison operators",
    "up and bool up": "1:4: bool modifier can only be used on comparison operators",
    "up + (1 == 2)": "1:9: comparisons between scalars must use BOOL modifier",
    "1 + on (a) 2": "1:1: vector matching only allowed between instant vectors",
    "up * (up + ignoring (a) 2)": "1:7: vector matching only allowed between instant vectors",
    "up and on (a) group_left (b) up": '1:1: no grouping allowed for "and" operation',
    "1 + (up unless ignoring (a) group_right () up)": '1:6: no grouping allowed for "unless" operation',
    "up + on (a, b) group_left (c, b) up": '1:4: label "b" must not occur in ON and GROUP clause at once',
    "abs(abs(up, up))": '1:5: expected 1 argument(s) in call to "abs", got 2',
    "1 + abs(up, up)": '1:5: expected 1 argument(s) in call to "abs", got 2',
    "round()": '1:1: expected at least 1 argument(s) in call to "round", got 0',
    "round(up, 1, 2)": '1:1: expected at most 2 argument(s) in call to "round", got 3',
    "rate(up)": '1:6: expected type range vector in call to function "rate", got instant vector',
    "sum(rate(up[5m])) / rate( (up) )": "1:27: expected type range vector in call to function "
    '"rate", got instant vector',
    "clamp(up, up, 1)": '1:11: expected type scalar in call to function "clamp", got instant vector',
    'label_replace(up, "a", "b", 1, "c")': "1:29: expected type string in call to function "
    '"label_replace", got scalar',
    "quantile_over_time(0.5, -up)": "1:25: expected type range vector in call to function "
    '"quantile_over_time", got instant vector',
    "vector(up + 1)": '1:8: expected type scalar in call to function "vector", got instant vector',
    "sum by (a) (up[5m])": "1:13: expected type instant vector in aggregation expression, got range vector",
    "topk(up, up)": "1:6: expected type scalar in aggregation parameter, got instant vector",
    "topk(up, 1)": "1:10: expected type instant vector in aggregation expression, got scalar",
    "count_values(1, up)": "1:14: expected type string in aggregation parameter, got scalar",
    "sum(up, up)": "1:1: wrong number of arguments for aggregate expression provided, expected 1, got 2",
    "1 + topk(up)": "1:5: wrong number of arguments for aggregate expression provided, expected 2, got 1",
    "up + sum()": "1:6: no arguments for aggregate expression provided",
    "abs(up,)": "1:7: trailing commas not allowed in function call args",
    "1 - -up[5m]": f'1:5: {OF_SIGNS}, got "range vector"',
    '1 + +"a"': f'1:5: {OF_SIGNS}, got "string"',
    "up + time()[5m:1m]": "1:6: subquery is only allowed on instant vector, got scalar instead",
    "1 + (up)[5m]": "1:9: ranges only allowed for vector selectors",
    "up offset 5m [5m]": "1:14: no offset modifiers allowed before range",
    "up @ 1 [5m]": "1:8: no @ modifiers allowed before range",
    "1 + abs(up) offset 5m": "1:5: offset modifier must be preceded by an instant vector selector or range vector "
    "selector or a subquery",
    "up[5m] offset 0s": "1:15: duration must be greater than 0",
    "1 + up offset 5m offset 5m": "1:5: offset may not be set multiple times",
    "up @ 1 @ 2": "1:1: @ <timestamp> may not be set multiple times",
    "abs(nosuch(abs(1)))": '1:5: unknown function with name "nosuch"',
    "-up ^ up[5m] + 1": "1:7: binary expression must contain only scalar and instant vector types",
    "up +\n\n abs(\n  1)": '4:3: expected type instant vector in call to function "abs", got scalar',
}
HUGE = "0x" + "f" * 300
NO_NUMBER = "error parsing number: strconv.ParseFloat: parsing"
NUMBERS = {
    "1 + 0xffffffffffffffff": f'1:5: {NO_NUMBER} "0xffffffffffffffff": invalid syntax',
    "up > 0x8000000000000000": f'1:6: {NO_NUMBER} "0x8000000000000000": invalid syntax',
    "abs(up) * 0x": f'1:11: {NO_NUMBER} "0x": invalid syntax',
    "0x1.8": f'1:1: {NO_NUMBER} "0x1.8": invalid syntax',
    "up ==\n 1e+": f'2:2: {NO_NUMBER} "1e+": invalid syntax',
    "vector(0xg)": '1:8: bad number or duration syntax: "0x"',
    "1 + 3a": '1:5: bad number or duration syntax: "3"',
    "up @ 3x": '1:6: bad number or duration syntax: "3"',
    "up offset 3x": '1:11: bad number or duration syntax: "3"',
    "up + 5m5": '1:6: bad number or duration syntax: "5m5"',
    "0b11": '1:1: bad number or duration syntax: "0"',
}
NEWER = {
    "1 + integral(up[5m])": "1:5: the function integral() is not supported (in integral(up[5m]))",
    "abs(info(up))": "1:5: the function info() is not supported (in info(up))",
    "1 + start_timestamp()": '1:5: expected 1 argument(s) in call to "start_timestamp", got 0',
    "1 + mad_over_time(up)": '1:19: expected type range vector in call to function "mad_over_time", '
    "got instant vector",
    "up * max_of(1, 2)": "1:6: the function max_of() is not supported (in max_of(1, 2))",
    "1 + (up[5m] smoothed)": "1:13: the 'smoothed' modifier is not supported",
    "rate(up[step()])": "1:9: a duration expression in a range is not supported",
    "up offset step()": "1:11: a duration expression is not supported (in offset ...)",
    "up >/ 3": "1:4: the histogram trim operator '>/' is not supported",
    "1 * (up + fill(0) up)": "1:11: the 'fill' modifier is not supported",
    '(a or b) + {a="b" or c="d"}': "1:19: 'or' between label matchers is not supported",
    "up + histogram_avg(up)": "1:6: histogram_avg(), which needs native histograms, is not supported "
    "(in histogram_avg(up))",
}
"""What the newest Prometheus knows and we do not evaluate."""
REGEX = {'up + up{a="b", c=~"("}': "1:16", 'up{a !~ `[`, b="c"}': "1:4", '{a="\\q"}': "1:4"}


def ours(expr: str) -> str:
    with pytest.raises(BadQuery) as wrong:
        parse(expr)
    return str(wrong.value).replace(" parse error:", "", 1)


@pytest.mark.parametrize(("expr", "words"), [*BRACES.items(), *KINDS.items(), *NUMBERS.items()])
def test_what_is_wrong_is_told_with_its_place(expr: str, words: str) -> None:
    assert ours(expr) == words


@pytest.mark.parametrize(("expr", "words"), NEWER.items())
def test_what_we_do_not_evaluate_is_told_with_its_place(expr: str, words: str) -> None:
    with pytest.raises(BadQuery) as wrong:
        plan(expr)
    assert str(wrong.value).replace(" parse error:", "", 1) == words


@pytest.mark.parametrize("where", ["up @ {}", "up[{}]", "up offset {}", "1 + {}"])
def test_a_number_of_any_length_is_told_with_its_place_and_its_beginning(where: str) -> None:
    words = ours(where.format(HUGE))
    assert words.startswith(f"1:{where.index('{') + 1}: {NO_NUMBER} ")
    assert len(words) < 250


@pytest.mark.parametrize(
    "expr", ['up{a="\ud800"}', "1 + `a\udfff`", '{"\ud800"}', 'count_values("\ud800", up)']
)
def test_half_a_character_in_a_string_is_told_where_the_string_begins(expr: str) -> None:
    at = min(expr.find(quote) for quote in '"`' if quote in expr)
    assert ours(expr) == f"1:{at + 1}: invalid UTF-8 rune"


def test_half_a_character_in_a_comment_is_nobodys_business() -> None:
    assert parse("up # \ud800\n + 1") == parse("up + 1")


@pytest.mark.parametrize(("expr", "place"), REGEX.items())
def test_a_bad_regex_is_told_where_its_label_stands(expr: str, place: str) -> None:
    assert ours(expr).startswith(f"{place}: ")


@pytest.mark.real("promtool")
def test_promtool_tells_the_same_at_the_same_place(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yml"
    told = [*(BRACES | KINDS | NUMBERS).items(), *REGEX.items()]
    rules = [f"  - {{record: a{at}, expr: {json.dumps(expr)}}}" for at, (expr, _) in enumerate(told)]
    file.write_text("\n".join(["groups:", "- name: g", "  rules:", *rules]))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True)
    theirs = re.findall(r"([0-9]+:[0-9]+: )parse error: (.*)", done.stdout + done.stderr)
    assert [
        (place + words)[: len(ours_)] for (place, words), (_, ours_) in zip(theirs, told, strict=True)
    ] == [words for _, words in told]


def written(kind: Kind) -> str:
    return {Kind.SCALAR: "1", Kind.STRING: '"s"', Kind.VECTOR: "up", Kind.MATRIX: "up[5m]"}[kind]


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_signatures_are_the_parsers(name: str) -> None:
    signature = SIGNATURES[name]
    args = [written(kind) for kind in signature.args]
    for count in {signature.least, len(args), signature.most or len(args)}:
        promql_parser.parse(f"{name}({', '.join(args[:count])})")
    for number, kind in enumerate(signature.args):
        for other in {*Kind} - {kind}:
            wrong = [*args[:number], written(other), *args[number + 1 :]]
            with pytest.raises(ValueError, match="expected type"):
                promql_parser.parse(f"{name}({', '.join(wrong)})")
    if signature.most is not None:
        many = [*args, *["1"] * (signature.most + 1 - len(args))]
        with pytest.raises(ValueError, match=r"expected .*argument"):
            promql_parser.parse(f"{name}({', '.join(many)})")
    assert parse(f"{name}({', '.join(args)})").kind is signature.returns
