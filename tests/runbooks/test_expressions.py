"""Expressions: what they say, what they come to, and that what is missing never satisfies anything."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill_collector.runbooks.expression import (
    DEPTH_MAX,
    EXPRESSION_CHARACTERS_MAX,
    UNKNOWN,
    Scope,
    Value,
)
from watchbill_collector.runbooks.expression_tree import (
    All,
    Ask,
    Chain,
    Compare,
    Field,
    Index,
    Literal,
    Minus,
    Name,
    Node,
    Not,
    Path,
    Some,
    written,
)
from watchbill_collector.runbooks.expressions import BadExpression, NoFacts, evaluate, holds, parse, show
from watchbill_collector.runbooks.templates import parse_template, plain, render

SCOPE: Scope = {
    "look": {
        "out": {"role": "standby", "unreplayed": 1024, "rewindable": True, "no": None, "list": [1, "two"]},
        "ok": True,
        "rc": 0,
        "took": 1.5,
    },
    "max_lag": 16 * 2**20,
    "app": "shop",
    "spare": "spare1",
    "lost": UNKNOWN,
}


class _Facts(NoFacts):
    def host(self, name: str) -> Value:
        return {"app": {"shop": {"healthy": name == "spare1"}}}

    def metric(self, host: str, name: str) -> Value:
        return 0.5 if (host, name) == ("spare1", "node_load1") else UNKNOWN

    def backup(self, job: str) -> Value:
        return {"state": "OK", "job": job}


def _value(text: str) -> Value:
    return evaluate(parse(text), SCOPE, _Facts())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('look.out.role == "standby" and look.out.unreplayed <= max_lag and look.out.rewindable', True),
        ("not look.ok and not look.out.rewindable", False),
        ("look.out.unreplayed * 1.5 > 1KiB", True),
        ("1h30m == 90m", True),
        ("24h", 86_400),
        ("100ms", 0.1),
        ("16MiB / 1MiB", 16),
        ("7 / 2", 3.5),
        ("2 + 3 * 4 - 1", 13),
        ("(2 + 3) * 4", 20),
        ("10 - 3 - 2", 5),
        ("--3", 3),
        ("not not true", True),
        ("host(spare).app[app].healthy", True),
        ("host('spare2').app['shop'].healthy", False),
        ('metric(spare, "node_load1") < 1', True),
        ("backup('files').job", "files"),
        ("look.out.list[1]", "two"),
        ("true or lost", True),
        ("lost and false", False),
        ("look.rc == 0 and look.took < 2s", True),
    ],
)
def test_what_an_expression_comes_to(text: str, value: Value) -> None:
    found = _value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "lost",
        "nobody",
        "look.out.nothing.at.all",
        "look.out.no",
        "look.out.no == look.out.no",
        "lost == lost",
        "not lost",
        "true and lost",
        "lost or false",
        "lost < 1",
        "lost + 1",
        "1 / 0",
        '"10" < "9"',
        '"1" == 1',
        "true == 1",
        "true < false",
        "look.out == look.out",
        "look.out.list[2]",
        "look.out.list[-1]",
        "look.out.list[true]",
        "app.shop",
        "look.out.role and true",
        "not look.rc",
        "look.rc or false",
        '"a" + "b"',
        "-app",
        "metric(spare, 'other') > 0",
        "metric(lost, 'node_load1') > 0",
        "metric(1, 'node_load1') > 0",
        "alert('pg_down', spare)",
        "999999999999999 * 999999999999999" + " * 999999999999999" * 25,
    ],
)
def test_what_is_missing_or_does_not_fit_is_unknown_and_satisfies_nothing(text: str) -> None:
    found = _value(text)
    assert found is UNKNOWN
    assert not holds(found)


def test_only_true_satisfies_a_check() -> None:
    assert holds(True)
    assert not any(holds(value) for value in (1, "true", [1], {"ok": True}, UNKNOWN, False, None))


@pytest.mark.parametrize(
    ("text", "place", "wanted"),
    [
        ("", "1:1", "a name, a number"),
        ("a = 1", "1:3", '"=="'),
        ("a && b", "1:3", '"and"'),
        ("a || b", "1:3", '"or"'),
        ("!a", "1:1", '"not"'),
        ("a < b < c", "1:7", '"and" between'),
        ("a ==", "1:5", "a name, a number"),
        ("a b", "1:3", 'an operator such as "and"'),
        ("(a", "1:3", '")"'),
        ("a.", "1:3", "a name after the dot"),
        ("a[1", "1:4", '"]"'),
        ("metrik(a, b)", "1:1", "metric?"),
        ("open('/etc/passwd')", "1:1", "one of metric, alert, backup, host"),
        ("metric(a)", "1:1", "metric(host, name)"),
        ("host()", "1:1", "host(name)"),
        ("5x", "1:1", 'a duration such as "5m"'),
        ("1.5GiB", "1:1", 'a size such as "16MiB"'),
        ("a and\n  b ==", "2:7", "a name"),
        ('"abc', "1:1", "a text that ends"),
        ('"a\\d"', "1:1", "one of"),
        ("and", "1:1", "a name"),
        ("a.b.__class__()", "1:14", "an operator"),
        ("lambda: 1", "1:7", "names, numbers"),
        ("50%", "1:3", '"0.5" for half'),
        ("\u0430 == 1", "1:1", "names, numbers"),
        ("1e999", "1:1", "a number"),
        ("9" * 40, "1:1", "a number"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, place: str, wanted: str) -> None:
    with pytest.raises(BadExpression) as caught:
        parse(text)
    assert str(caught.value).startswith(place + ": got ")
    assert wanted in str(caught.value).split("wanted", 1)[1]


@pytest.mark.parametrize(
    "text",
    [
        "a or " * EXPRESSION_CHARACTERS_MAX + "a",
        "a+" * 900 + "a",
        "(" * 500 + "a" + ")" * 500,
        "not " * 400 + "a",
        "-" * 1_000 + "1",
        "a" + "[a" * 300 + "]" * 300,
        "host(" * 100 + "a" + ")" * 100,
    ],
)
def test_size_and_depth_are_bounded(text: str) -> None:
    with pytest.raises(BadExpression, match=r"at most|a shorter"):
        parse(text)


def test_the_deepest_expression_is_read_reckoned_and_written() -> None:
    text = "a"
    for _ in range(DEPTH_MAX - 2):
        text = f"b or b and b==b+b*({text})"
    expression = parse(text)
    assert evaluate(expression, {"b": True}) is True
    assert parse(show(expression)).tree == expression.tree


def test_names_and_functions_are_told_for_who_judges_a_runbook() -> None:
    expression = parse("seen.out[app].up and metric(host, 'x') > limit", line=7)
    assert expression.names == {"seen", "app", "host", "limit"}
    assert expression.calls == {"metric"}
    assert expression.line == 7


_NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True).filter(
    lambda name: name not in {"and", "or", "not", "true", "false"}
)
_LITERALS = st.one_of(
    st.booleans().map(Literal),
    st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=8).map(Literal),
    st.integers(0, 10**15 - 1).map(lambda number: Literal(number, str(number))),
    st.sampled_from([Literal(300, "5m"), Literal(16 * 2**20, "16MiB"), Literal(1.1, "1.1")]),
)


def _deeper(node: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    step = st.one_of(_NAMES.map(Field), node.map(Index))
    return st.one_of(
        node.map(Not),
        node.map(Minus),
        st.lists(node, min_size=2, max_size=3).map(lambda found: All(tuple(found))),
        st.lists(node, min_size=2, max_size=3).map(lambda found: Some(tuple(found))),
        st.builds(Compare, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), node, node),
        st.builds(
            lambda first, signs, rest: Chain(first, tuple(zip(signs, rest, strict=False))),
            node,
            st.sampled_from(["+-+", "---", "*/*", "///"]),
            st.lists(node, min_size=1, max_size=3),
        ),
        st.builds(
            Path,
            node.filter(lambda one: not isinstance(one, Path)),
            st.lists(step, min_size=1, max_size=3).map(tuple),
        ),
        st.builds(
            Ask,
            st.just("metric"),
            st.tuples(node, node),
        ),
        node.map(lambda one: Ask("host", (one,))),
    )


_TREES: st.SearchStrategy[Node] = st.recursive(st.one_of(_LITERALS, _NAMES.map(Name)), _deeper, max_leaves=8)
_VALUES: st.SearchStrategy[Value] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=4),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_NAMES, inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(_TREES)
def test_what_is_written_is_read_back_as_the_same(tree: Node) -> None:
    text = written(tree)
    try:
        read = parse(text)
    except BadExpression as error:
        assert error.wanted.startswith("at most")  # noqa: PT017 - Only the bounds may refuse it.
        return
    assert read.tree == tree
    assert written(tree) == show(read)


@settings(max_examples=60, deadline=None)
@given(_TREES, st.dictionaries(_NAMES, _VALUES, max_size=4), _VALUES)
def test_reckoning_never_raises_and_gives_a_value(
    tree: Node, scope: dict[str, Value], everything: Value
) -> None:
    class Odd(NoFacts):
        def metric(self, host: str, name: str) -> Value:
            return everything

        def host(self, name: str) -> Value:
            return everything

    try:
        expression = parse(written(tree))
    except BadExpression:
        return
    # Every name in it has a value, so that operators meet all kinds of things.
    found = evaluate(expression, {name: scope.get(name, everything) for name in expression.names}, Odd())
    assert found is UNKNOWN or isinstance(found, (str, int, float, bool, list, dict))
    assert not isinstance(found, float) or math.isfinite(found)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="abnotrue and()[].,<>=!+-*/'\"0123456789mKiB\n{}\\\u0430", max_size=60))
def test_any_text_is_an_expression_or_a_told_mistake(text: str) -> None:
    try:
        found = evaluate(parse(text), {})
    except BadExpression as error:
        found = (error.line, error.column) >= (1, 1)
    assert found is not None


# Templates.


def test_a_template_is_one_whole_value_of_its_own_kind() -> None:
    assert render(parse_template("{{max_lag}}"), SCOPE) == 16 * 2**20
    assert render(parse_template("{{ look.out.role }}"), SCOPE) == "standby"
    assert render(parse_template("plain"), SCOPE) == "plain"
    assert render(parse_template(""), SCOPE) == ""
    assert render(parse_template("{{lost}}"), SCOPE) is UNKNOWN


def test_only_locks_and_messages_join_text_and_values() -> None:
    assert render(parse_template("app/{{spare}}/{{app}}", joined=True), SCOPE) == "app/spare1/shop"
    assert render(parse_template("app/{{lost}}", joined=True), SCOPE) is UNKNOWN
    with pytest.raises(BadExpression, match="the whole value"):
        parse_template("app/{{spare}}")
    with pytest.raises(BadExpression, match="the whole value"):
        parse_template("{{spare}}{{app}}")


@pytest.mark.parametrize("text", ["{{a", "a}}", "{{{{a}}", "{{a}} {{", "{{}}", "{{7*}}", "{{ {{a}} }}"])
def test_a_broken_template_is_refused(text: str) -> None:
    with pytest.raises(BadExpression):
        parse_template(text, joined=True)


def test_values_are_told_to_people_plainly() -> None:
    value: Value = {"up": True, "list": [1, 2.5, None]}
    assert plain(value) == "{up: true, list: [1, 2.5, nothing]}"
    assert plain(UNKNOWN) == "unknown"
