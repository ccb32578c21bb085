"""String literals: Go's escapes, raw strings, and regexes that only RE2 judges."""

import pytest

from watchbill_collector.promql import ast
from watchbill_collector.promql.errors import BadQuery
from watchbill_collector.promql.parse import parse


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        (r'"a\n\t\"b\\"', 'a\n\t"b\\'),
        (r"'it\'s'", "it's"),
        (r"`\d\n`", r"\d\n"),
        ("`two\nlines`", "two\nlines"),
        (r'"\x41\101\u00e9\U0001F600"', "AA\u00e9\U0001f600"),
        (r'"\xc3\xa9"', "\u00e9"),
        ('"\\a\\b\\f\\r\\v"', "\a\b\f\r\v"),
        ('"\ue000"', "\ue000"),
    ],
)
def test_a_string_is_read_by_gos_rules_wherever_it_stands(literal: str, text: str) -> None:
    assert parse(literal) == ast.String(text)
    selector = parse(f"foo{{a={literal}}}")
    assert isinstance(selector, ast.Selector)
    assert [matcher.value for matcher in selector.matchers] == ["foo", text]
    call = parse(f'label_replace(foo, {literal}, "b", "c", "d")')
    assert isinstance(call, ast.Call)
    assert call.args[1] == ast.String(text)
    grouped = parse(f"sum by ({literal}) (foo)")
    assert isinstance(grouped, ast.Aggregate)
    assert grouped.labels == (text,)


@pytest.mark.parametrize(
    "literal", [r'"\q"', r'"\x4"', r'"\400"', r'"\ud800"', r'"\U00110000"', r"'\"'", '"\\\n"']
)
def test_an_escape_that_go_does_not_know_is_a_bad_query(literal: str) -> None:
    with pytest.raises(BadQuery, match="escape sequence"):
        parse(literal)


@pytest.mark.parametrize(
    "regex", ["`/api/{id}/.*`", r"`\Qa.b\E`", r'"\\d+"', "`a{,3}`", "`[[:alpha:]]+`", r"`\pN`", "`a|`"]
)
def test_what_re2_takes_is_a_regex(regex: str) -> None:
    selector = parse(f"foo{{a=~{regex}}}")
    assert isinstance(selector, ast.Selector)
    assert selector.matchers[1].value == regex.strip('"`').replace("\\\\", "\\")


@pytest.mark.parametrize(
    "selector", ['{a!=""}', '{a!~""}', "{a!~`.*`}", '{a=~"b"}', '{a=~".+"}', '{a="b",c=""}']
)
def test_a_selector_needs_one_matcher_that_refuses_nothing_at_all(selector: str) -> None:
    assert str(parse(selector)).startswith("{")


@pytest.mark.parametrize(
    "selector", ['{a=""}', '{a=~""}', '{a=~".*"}', "{a!~`.+`}", '{a!="b"}', '{a=~"b|"}', "{}"]
)
def test_a_selector_of_everything_is_refused(selector: str) -> None:
    with pytest.raises(BadQuery, match="at least one non-empty matcher"):
        parse(selector)


def test_errors_say_the_strings_that_were_written() -> None:
    with pytest.raises(BadQuery, match='metric name must not be set twice: "foo" or "bar"'):
        parse('foo{"bar"}')
    with pytest.raises(BadQuery, match='metric name must not be set twice: "a" or "b"'):
        parse('{"a", x="1", "b"}')


@pytest.mark.parametrize("word", ["or", "OR", "and", "by", "sum", "offset", "bool", "inf", "start", "on"])
def test_every_word_may_name_a_label(word: str) -> None:
    selector = parse(f'foo{{{word}="x",{word}!~"y"}}')
    assert isinstance(selector, ast.Selector)
    assert [matcher.name for matcher in selector.matchers[1:]] == [word, word]


def test_a_plus_does_not_make_a_number_of_a_string_or_a_range() -> None:
    assert str(parse("+foo")) == "foo"
    assert str(parse("sum(+foo)")) == "sum(foo)"
    for text in (
        '+ "s"',
        "+(foo[5m])",
        "(+foo[5m:])",
        "rate(+ foo[5m])",
        "rate((+foo[5m]))",
        'label_join(foo, +"a", "")',
    ):
        with pytest.raises(BadQuery, match="unary expression only allowed"):
            parse(text)
