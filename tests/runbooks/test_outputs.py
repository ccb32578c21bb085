"""What a step has brought: whole JSON is a value, anything less is unknown and satisfies nothing."""

import pytest

from watchbill.actions.definition import Action, Effect
from watchbill.actions.outcomes import Finished, Outcome
from watchbill_collector.runbooks.expression import UNKNOWN, Value
from watchbill_collector.runbooks.expressions import evaluate, holds, parse
from watchbill_collector.runbooks.outputs import (
    OUTPUT_DEPTH_MAX,
    HostResult,
    happened,
    host_result,
    plain_value,
    read_output,
    step_value,
)

TEXT = Action(name="a.b", argv=("/bin/true",), effect=Effect.READ)
JSON = Action(name="a.b", argv=("/bin/true",), effect=Effect.READ, output="json")


def _finished(output: str, *, whole: bool = True, outcome: Outcome = Outcome.OK) -> Finished:
    return Finished(
        key="k",
        run="r",
        step="s",
        ledger="l",
        outcome=outcome,
        started_ms=1_000,
        ended_ms=2_500,
        exit_code=0,
        output=output,
        whole=whole,
    )


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ('{"up": true, "n": [1, 2.5]}', {"up": True, "n": [1, 2.5]}),
        (" 5\n", 5),
        ('"text"', "text"),
        ("", UNKNOWN),
        ("{", UNKNOWN),
        ("up", UNKNOWN),
        ("NaN", UNKNOWN),
        ('{"n": Infinity}', UNKNOWN),
        ('{"up": false, "up": true}', UNKNOWN),
        ("[" * 20_000, UNKNOWN),
        ("[" * (OUTPUT_DEPTH_MAX + 1) + "]" * (OUTPUT_DEPTH_MAX + 1), UNKNOWN),
        ("[" + "1," * 30_000 + "1]", UNKNOWN),
        ("9" * 10_000, UNKNOWN),
    ],
)
def test_json_is_a_value_when_it_is_all_it_should_be(output: str, value: Value) -> None:
    assert read_output(JSON, _finished(output)) == value


def test_text_is_kept_without_the_end_of_its_line() -> None:
    assert read_output(TEXT, _finished("primary\n")) == "primary"
    assert read_output(TEXT, _finished('{"a": 1}')) == '{"a": 1}'


def test_a_piece_of_an_output_satisfies_nothing() -> None:
    for action in (TEXT, JSON):
        out = read_output(action, _finished('"standby"', whole=False))
        assert out is UNKNOWN
        scope = {"look": step_value({"db1": HostResult(out=out, ok=True)})}
        assert not holds(evaluate(parse('look.out != "primary"'), scope))


def test_a_step_on_one_host_is_seen_whole_and_on_several_by_host() -> None:
    one = step_value({"a": host_result(JSON, _finished('{"x": 1}'))})
    assert evaluate(parse("s.out.x == 1 and s.ok and s.rc == 0 and s.took == 1500ms"), {"s": one}) is True
    two = step_value({"a": HostResult(out=1, ok=True), "b-c": HostResult(out=2, ok=False)})
    scope = {"s": two}
    assert evaluate(parse("s.out"), scope) is UNKNOWN
    assert evaluate(parse('s.hosts["b-c"].out'), scope) == 2
    assert evaluate(parse("s.ok"), scope) is False


def test_what_nobody_knows_is_not_well() -> None:
    lost = host_result(JSON, _finished("{}", outcome=Outcome.INTERRUPTED))
    assert lost.ok is None
    assert evaluate(parse("s.ok"), {"s": step_value({"a": lost, "b": HostResult(ok=True)})}) is UNKNOWN
    assert evaluate(parse("s.ok"), {"s": step_value({"a": lost, "b": HostResult(ok=False)})}) is False
    assert evaluate(parse("s.ok"), {"s": step_value({})}) is UNKNOWN
    assert evaluate(parse("s.ok"), {"s": plain_value(None)}) is UNKNOWN
    assert evaluate(parse("s.ok"), {"s": plain_value(True)}) is True


def test_a_probe_says_whether_it_happened() -> None:
    done_when = parse('out.role == "primary"')
    assert happened(done_when, {"role": "primary"}) is True
    assert happened(done_when, {"role": "standby"}) is False
    assert happened(done_when, UNKNOWN) is UNKNOWN
    assert happened(done_when, {}) is UNKNOWN
