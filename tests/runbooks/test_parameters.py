"""Parameters: where their values come from, and that a value is never more than a value."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill.actions.definition import Action, Argument, Effect, Kind
from watchbill_collector.runbooks.fleet import Fleet, KnownHost
from watchbill_collector.runbooks.model import Call, Parameter, ParameterKind, Runbook
from watchbill_collector.runbooks.parameters import judge_parameters, parameters_of_alert, read_value
from watchbill_collector.runbooks.reading import read_runbook
from watchbill_collector.runbooks.resolving import Bound, Unbound, call_parameters, probe_for
from watchbill_collector.runbooks.templates import parse_template


def _book(parameters: str, top: str = "") -> Runbook:
    text = f"runbook: r\nparams: {{{parameters}}}\n{top}\nsteps: [{{check: 'true'}}]\n"
    runbook, problems = read_runbook("r.yaml", text.encode())
    assert runbook is not None, problems
    return runbook


def test_an_alert_gives_what_has_no_default() -> None:
    book = _book("a: {type: host}, b: {type: host}, app: {type: name}, c: {type: host, default: c1}")
    labels = {"instance": "web1", "app": "shop", "c": "other"}
    assert parameters_of_alert(book, labels) == {"a": "web1", "app": "shop"}
    assert parameters_of_alert(book, {**labels, "a": "db1"}) == {"a": "db1", "b": "web1", "app": "shop"}
    assert parameters_of_alert(book, {}) == {}


def test_given_goes_before_the_drill_and_the_drill_before_the_default() -> None:
    book = _book("h: {type: host, default: web1}", "drill: {params: {h: spare1}}")
    assert judge_parameters(book, {}).texts == {"h": "web1"}
    assert judge_parameters(book, {}, drill=True).texts == {"h": "spare1"}
    assert judge_parameters(book, {"h": "web2"}, drill=True).texts == {"h": "web2"}


def test_a_called_runbook_is_given_values_that_it_reads_back_as_the_same() -> None:
    child = _book(
        "size: {type: size}, wait: {type: duration}, n: {type: int}, s: {type: string, default: x}, "
        "m: {type: int, default: '1'}"
    )
    call = Call(
        "r",
        {
            "size": parse_template("{{big * 1.5}}"),
            "wait": parse_template("{{long}}"),
            "n": parse_template("{{n}}"),
            "s": parse_template("plain"),
        },
    )
    judged = call_parameters(call, child, {"big": 1024, "long": 90.5, "n": 7})
    assert judged.problems == {}
    assert judged.values == {"size": 1536, "wait": 90.5, "n": 7, "s": "plain", "m": 1}
    lost = call_parameters(call, child, {"big": 1024, "long": 5})
    assert lost.problems == {"n": "{{n}} is not known"}
    assert "n" not in lost.values


_KINDS = st.sampled_from([kind for kind in ParameterKind if kind is not ParameterKind.ENUM])


@settings(max_examples=100, deadline=None)
@given(_KINDS, st.text(max_size=20))
def test_what_is_taken_is_plain_and_what_is_not_is_told(kind: ParameterKind, text: str) -> None:
    value, fault = read_value(Parameter(name="p", kind=kind), text)
    assert (value is None) == (fault is not None)
    if fault is None:
        assert text.isascii()
        assert text.isprintable()
        assert "{{" not in text
        assert not text.startswith("-") or kind is ParameterKind.INT
    else:
        assert fault[0].isprintable()


def _action(name: str, *names: str, effect: Effect = Effect.READ, probe: str = "") -> Action:
    arguments = tuple(Argument(name=one, kind=Kind.NAME) for one in names)
    argv = ("/bin/true", *(f"{{{{{one}}}}}" for one in names))
    return Action(name=name, argv=argv, effect=effect, arguments=arguments, probe=probe)


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        (_action("x.p", "node"), ""),
        (_action("x.p"), ""),
        (_action("x.p", "other"), "the probe x.p of x.y: other: x.p needs it"),
        (_action("x.p", effect=Effect.ONCE), "w has as no read action x.p"),
        (_action("x.q"), "w does not allow x.p"),
    ],
)
def test_a_probe_is_asked_about_the_same_thing(probe: Action, says: str) -> None:
    once = _action("x.y", "node", "mode", effect=Effect.ONCE, probe="x.p")
    host = KnownHost(name="w", agent="a", actions={one.name: one for one in (once, probe)})
    found = probe_for(Bound(host, once, {"node": "db1", "mode": "fast"}))
    if says:
        assert isinstance(found, Unbound)
        assert says in found.message
    else:
        assert isinstance(found, Bound)
        assert found.arguments == {one.name: "db1" for one in probe.arguments}
    plain = _action("x.z", effect=Effect.ONCE)
    assert probe_for(Bound(host, plain, {})) is None


def test_a_selector_sees_what_was_bound_and_the_name(fleet: Fleet) -> None:
    assert [host.name for host in fleet.selected('role="web",instance!="web2"')] == ["web1", "web3"]
    assert [host.name for host in fleet.selected('role=~"mgmt|spare"')] == ["mgmt1", "spare1"]
    assert fleet.selected('team="a"') == ()
