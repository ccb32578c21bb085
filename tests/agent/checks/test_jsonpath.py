"""The small language of conditions on JSON: what holds, what does not, and that no text breaks it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill_agent.checks.jsonpath import NoCondition, read_condition

DOCUMENT = {
    "status": "ok",
    "on": True,
    "nothing": None,
    "queue": {"depth": 3, "odd key": 1.5},
    "nodes": [{"role": "primary"}, {"role": "standby"}],
}


@pytest.mark.parametrize(
    "text",
    [
        '$.status == "ok"',
        '$.status!="sick"',
        "$.queue.depth < 4",
        "$.queue.depth <= 3",
        "$.queue.depth > 2.5",
        "$.queue.depth >= 3.0",
        "$.queue.depth == 3.0",
        '$.queue["odd key"] == 1.5',
        '$.nodes[0].role == "primary"',
        '$.nodes[-1].role == "standby"',
        "$.nothing",
        "$.nothing == null",
        "$.on == true",
        '$.status < "pk"',
        '$.nodes[1] == {"role": "standby"}',
        "!$.error",
        "!$.nodes[2]",
        "$",
    ],
)
def test_what_holds(text: str) -> None:
    assert read_condition(text).fault(DOCUMENT) == ""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('$.status == "sick"', 'got "ok"'),
        ("$.error", "there is no such value"),
        ('$.error != "x"', "there is no such value"),
        ("!$.status", 'got "ok", wanted no such value'),
        ("$.on == 1", "got true"),
        ('$.queue.depth < "4"', "got 3"),
        ("$.on < 2", "got true"),
        ("$.nodes < 2", "got a list of 2"),
        ("$.queue == 1", "got an object"),
        ("$.status[0]", "there is no such value"),
        ("$.nodes.role", "there is no such value"),
    ],
)
def test_what_does_not_hold_says_what_is_there(text: str, fault: str) -> None:
    assert read_condition(text).fault(DOCUMENT) == fault


@pytest.mark.parametrize(
    "text",
    [
        "",
        "status",
        "$.a ==",
        "$.a == ok",
        "$.a = 1",
        "$.a <",
        "$.a < true",
        "$..a",
        "$.a[",
        "!$.a == 1",
        "$.a.1x",
        "$" + ".a" * 33,
        "$.a == " + "[" * 400,
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(NoCondition):
        read_condition(text)


@settings(max_examples=60, deadline=None)
@given(
    st.text(alphabet='$.[]"!=<>abc 019\\\n', max_size=40),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        ),
        max_leaves=8,
    ),
)
def test_no_text_and_no_document_break_it(text: str, document: object) -> None:
    try:
        condition = read_condition("$" + text)
    except NoCondition:
        return
    fault = condition.fault(json.loads(json.dumps(document)))
    assert fault.isprintable()
    assert len(fault) < 200
