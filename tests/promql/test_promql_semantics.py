"""What operators do with labels, names and presence: tables of our own."""

import math
import re

import pytest

from watchbill_collector.promql.engine import Engine, Matrix, Number, Words
from watchbill_collector.promql.errors import BadQuery, ExecutionFailed, TooMany
from watchbill_collector.promql.lexer import OPERATORS_MAX
from watchbill_collector.promql.memory import MemoryStorage

MINUTE_MS = 60_000
ENGINE = Engine()


def _loaded(text: str) -> MemoryStorage:
    """`up{job="a"} | 1 2 _ stale` a line: a sample a minute from time 0, `_` for none."""
    storage = MemoryStorage()
    for line in filter(None, map(str.strip, text.splitlines())):
        series, _, values = line.rpartition("|")
        name, _, rest = series.strip().partition("{")
        labels = {"__name__": name} if name else {}
        for pair in filter(None, rest.rstrip("}").split(",")):
            key, _, value = pair.partition("=")
            labels[key.strip()] = value.strip().strip('"')
        for number, value in enumerate(values.split()):
            if value == "stale":
                storage.add_stale(labels, number * MINUTE_MS)
            elif value != "_":
                storage.add(labels, [(number * MINUTE_MS, float(value))])
    return storage


DATA = _loaded(
    """
    mem_free{host="a"} | 10 20 30
    mem_free{host="b"} | 40 _ 60
    mem_size{host="a"} | 100 100 100
    mem_size{host="b"} | 200 200 200
    mem_size{host="c"} | 300 300 300
    disk{host="a",dev="x"} | 1 2 3
    disk{host="a",dev="y"} | 4 5 6
    disk{host="b",dev="x"} | 7 8 9
    owner{host="a",team="red"} | 1 1 1
    owner{host="b",team="blue"} | 1 1 1
    moved{host="a",v="1"} | 1 stale _
    moved{host="a",v="2"} | _ _ 1
    twice{host="a",v="1"} | 1 1 1
    twice{host="a",v="2"} | 1 1 1
    reqs_total{host="a",code="200"} | 0 60 120
    reqs_total{host="a",code="500"} | 0 6 12
    errs_total{host="a"} | 0 6 12
    load | 5 6 7
    """
)


def _at(expression: str, minute: int = 0, storage: MemoryStorage = DATA) -> dict[str, float]:
    """The answer as {"name{a=1,b=2}": value}."""
    answer = ENGINE.instant(expression, minute * MINUTE_MS, storage).vector()
    return {_key(labels): value for labels, value in answer}


def _key(labels: dict[str, str]) -> str:
    name = labels.pop("__name__", "")
    inner = ",".join(f"{key}={labels[key]}" for key in sorted(labels))
    return name + (f"{{{inner}}}" if inner else "")


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        # Arithmetic drops the name, a filter keeps it, bool drops it.
        ("mem_free / mem_size", {"{host=a}": 0.1, "{host=b}": 0.2}),
        ("mem_free + 1", {"{host=a}": 11.0, "{host=b}": 41.0}),
        ("mem_free > 20", {"mem_free{host=b}": 40.0}),
        ("20 < mem_free", {"mem_free{host=b}": 40.0}),
        ("mem_free > bool 20", {"{host=a}": 0.0, "{host=b}": 1.0}),
        ("mem_free < mem_size", {"mem_free{host=a}": 10.0, "mem_free{host=b}": 40.0}),
        ("mem_free > bool mem_size", {"{host=a}": 0.0, "{host=b}": 0.0}),
        ("mem_free > on(host) mem_size", {}),
        ("mem_free < on(host) mem_size", {"{host=a}": 10.0, "{host=b}": 40.0}),
        ("mem_free < ignoring(x) mem_size", {"mem_free{host=a}": 10.0, "mem_free{host=b}": 40.0}),
        ("-mem_free", {"{host=a}": -10.0, "{host=b}": -40.0}),
        ("-(-load)", {"": 5.0}),
        # Signs and divisions as in Go.
        ("vector(-7) % 3", {"": -1.0}),
        ("vector(7) % -3", {"": 1.0}),
        ("vector(-8) ^ 2", {"": 64.0}),
        ("2 ^ vector(3) ^ 2", {"": 512.0}),
        ("vector(1) / 0", {"": math.inf}),
        # Matching.
        (
            "disk * on(host) group_left owner",
            {"{dev=x,host=a}": 1.0, "{dev=y,host=a}": 4.0, "{dev=x,host=b}": 7.0},
        ),
        (
            "disk * on(host) group_left(team) owner",
            {"{dev=x,host=a,team=red}": 1.0, "{dev=y,host=a,team=red}": 4.0, "{dev=x,host=b,team=blue}": 7.0},
        ),
        (
            "owner * on(host) group_right(team) disk",
            {"{dev=x,host=a,team=red}": 1.0, "{dev=y,host=a,team=red}": 4.0, "{dev=x,host=b,team=blue}": 7.0},
        ),
        (
            "owner - on(host) group_right disk",
            {"{dev=x,host=a}": 0.0, "{dev=y,host=a}": -3.0, "{dev=x,host=b}": -6.0},
        ),
        ("disk > on(host) group_left owner", {"disk{dev=y,host=a}": 4.0, "disk{dev=x,host=b}": 7.0}),
        (
            "disk / ignoring(dev) group_left mem_size",
            {"{dev=x,host=a}": 0.01, "{dev=y,host=a}": 0.04, "{dev=x,host=b}": 0.035},
        ),
        ("sum by (host) (disk) / mem_size", {"{host=a}": 0.05, "{host=b}": 0.035}),
        ("mem_free * on(host) group_left(v) moved", {"{host=a,v=1}": 10.0}),
        # Sets.
        ("mem_size and mem_free", {"mem_size{host=a}": 100.0, "mem_size{host=b}": 200.0}),
        ("mem_size unless mem_free", {"mem_size{host=c}": 300.0}),
        (
            "mem_free or mem_size",
            {"mem_free{host=a}": 10.0, "mem_free{host=b}": 40.0, "mem_size{host=c}": 300.0},
        ),
        ("disk and on(host) (mem_free > 20)", {"disk{dev=x,host=b}": 7.0}),
        ("disk unless ignoring(dev) mem_free", {}),
        ("mem_free and on() load", {"mem_free{host=a}": 10.0, "mem_free{host=b}": 40.0}),
        ("mem_free or on(host) disk", {"mem_free{host=a}": 10.0, "mem_free{host=b}": 40.0}),
        # Aggregations.
        ("sum(disk)", {"": 12.0}),
        ("sum by (host) (disk)", {"{host=a}": 5.0, "{host=b}": 7.0}),
        ("sum without (dev) (disk)", {"{host=a}": 5.0, "{host=b}": 7.0}),
        ("sum by (nothing) (disk)", {"": 12.0}),
        ("sum by (__name__) ({host='c'})", {"mem_size": 300.0}),
        ("count by (__name__) (-disk)", {"": 3.0}),
        ("max without () (disk) > 6", {"{dev=x,host=b}": 7.0}),
        ("sum(none)", {}),
        ("count(mem_free > 100)", {}),
        ("avg by (dev) (disk)", {"{dev=x}": 4.0, "{dev=y}": 4.0}),
        ("stddev(mem_free)", {"": 15.0}),
        ("quantile(0.5, mem_size)", {"": 200.0}),
        ("count_values('n', disk > bool 3)", {"{n=0}": 1.0, "{n=1}": 2.0}),
        (
            "count_values by (host) ('n', disk > bool 3)",
            {"{host=a,n=0}": 1.0, "{host=a,n=1}": 1.0, "{host=b,n=1}": 1.0},
        ),
        ("topk(1, disk)", {"disk{dev=x,host=b}": 7.0}),
        ("bottomk by (host) (1, disk)", {"disk{dev=x,host=a}": 1.0, "disk{dev=x,host=b}": 7.0}),
        ("topk(0, disk)", {}),
        # Absence and scalars.
        ("absent(none{job='x',site=~'y'})", {"{job=x}": 1.0}),
        ("absent(none{job='x',job='y'})", {"": 1.0}),
        ("absent(load)", {}),
        ("absent(sum(none))", {"": 1.0}),
        ("absent_over_time(none{a='b'}[5m])", {"{a=b}": 1.0}),
        ("vector(scalar(load)) * 2", {"": 10.0}),
        ("vector(scalar(disk))", {"": math.nan}),
        ("time()", {"": 0.0}),
        # Labels.
        # An infinity wins over NaN, as in Go.
        ("clamp_min(load * NaN, Inf)", {"": math.inf}),
        ("clamp_max(load * NaN, -Inf)", {"": -math.inf}),
        ("clamp(load * NaN, -Inf, -Inf)", {"": -math.inf}),
        ("clamp(load, 1, 3)", {"": 3.0}),
        ("label_replace(load, 'x', '$1!', '__name__', '(l).*')", {"load{x=l!}": 5.0}),
        ("label_replace(load, 'x', '${n}$$', '__name__', '(?P<n>.).*')", {"load{x=l$}": 5.0}),
        ("label_replace(load, 'x', 'y', '__name__', 'no')", {"load": 5.0}),
        ("label_replace(-load, '__name__', 'neg', '', '')", {"neg": -5.0}),
        (
            "label_replace(owner, 'host', '', 'host', 'a')",
            {"owner{team=red}": 1.0, "owner{host=b,team=blue}": 1.0},
        ),
        (
            "label_join(owner, 'x', '/', 'team', 'host')",
            {"owner{host=a,team=red,x=red/a}": 1.0, "owner{host=b,team=blue,x=blue/b}": 1.0},
        ),
        # Offsets look elsewhere, and @ stands still.
        ("load offset -2m", {"load": 7.0}),
        ("load @ 60", {"load": 6.0}),
        ("load @ 120 offset 1m", {"load": 6.0}),
    ],
)
def test_an_expression_answers(expression: str, answer: dict[str, float]) -> None:
    assert _at(expression) == pytest.approx(answer, nan_ok=True)


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("mem_size + on(host) disk", 'found duplicate series for the match group {host="a"} on the right'),
        ("disk + on(host) group_right owner", None),
        ("disk + on(host) owner", "many-to-one matching must be explicit"),
        ("disk * on(host) group_left twice", "found duplicate series for the match group"),
        ("disk * on(host) group_left(dev) owner", "grouping labels must ensure unique matches"),
        ("twice + on(host) group_right disk", "on the left hand-side"),
        ("{host='c'} + 0 or -{host='a'}", "vector cannot contain metrics with the same labelset"),
        ("-{host='a',dev!~'.+'}", "vector cannot contain metrics with the same labelset"),
        (
            "label_replace(disk, 'dev', '', 'dev', '.*')",
            "vector cannot contain metrics with the same labelset",
        ),
        ("topk(NaN, disk)", "Parameter value is NaN"),
        ("topk(1e30, disk)", "overflows int64"),
        ("count_values('', disk)", "invalid label name"),
        ("double_exponential_smoothing(load[5m], 2, 0.5)", "invalid smoothing factor"),
    ],
)
def test_what_cannot_be_combined_fails_with_prometheus_words(expression: str, error: str | None) -> None:
    if error is None:
        with pytest.raises(ExecutionFailed):
            _at(expression)
        return
    with pytest.raises(ExecutionFailed) as failure:
        _at(expression)
    assert error in str(failure.value)
    assert failure.value.kind == "execution"


def test_series_that_take_turns_match_at_each_step() -> None:
    answer = ENGINE.range("mem_free * on(host) group_left moved", 0, 120_000, 60_000, DATA).data
    assert isinstance(answer, Matrix)
    # One series: the two that it met differ in a label that the result does not have.
    assert answer.labels.dicts() == [{"host": "a"}]
    assert answer.times_ms.tolist() == [0, 120_000]
    assert answer.values.tolist() == [10.0, 30.0]


def test_a_pending_removal_of_the_name_survives_a_filter() -> None:
    assert _at("rate(reqs_total[5m]) > 0.1", 2) == {"{code=200,host=a}": pytest.approx(0.4)}
    filtered = _at("rate(reqs_total[5m]) > ignoring(code) group_left rate(errs_total[5m])", 2)
    assert filtered == {"{code=200,host=a}": pytest.approx(0.4)}
    assert _at("sum by (__name__) (rate(reqs_total[5m]))", 2) == {"": pytest.approx(0.44)}
    last = _at("last_over_time(reqs_total[5m])", 2)
    assert last == {"reqs_total{code=200,host=a}": 120.0, "reqs_total{code=500,host=a}": 12.0}


def test_a_range_query_answers_in_the_order_of_labels_with_only_the_steps_that_are_there() -> None:
    answer = ENGINE.range("mem_free", 0, 480_000, 120_000, DATA).data
    assert isinstance(answer, Matrix)
    assert [labels["host"] for labels in answer.labels.dicts()] == ["a", "b"]
    assert answer.offsets.tolist() == [0, 4, 8]
    assert answer.values.tolist() == [10.0, 30.0, 30.0, 30.0, 40.0, 60.0, 60.0, 60.0]


def test_topk_chooses_anew_at_every_step_of_a_range() -> None:
    storage = _loaded("a | 1 9 1\nb | 2 2 2")
    answer = ENGINE.range("topk(1, {__name__=~'a|b'})", 0, 120_000, 60_000, storage).data
    assert isinstance(answer, Matrix)
    named = [labels["__name__"] for labels in answer.labels.dicts()]
    assert named == ["a", "b"]
    assert answer.times_ms.tolist() == [60_000, 0, 120_000]


def test_sort_orders_an_instant_answer_with_nan_last_and_warns_in_a_range() -> None:
    storage = _loaded("m{i=1} | 3\nm{i=2} | NaN\nm{i=3} | 1\nm{i=10} | 2")

    def order(expression: str) -> list[str]:
        return [labels["i"] for labels, _ in ENGINE.instant(expression, 0, storage).vector()]

    assert order("sort(m)") == ["3", "10", "1", "2"]
    assert order("sort_desc(m)") == ["1", "10", "3", "2"]
    assert order("sort_by_label(m, 'i')") == ["1", "2", "3", "10"]
    assert order("sort_by_label_desc(m, 'i')") == ["10", "3", "2", "1"]
    assert order("topk(3, m)") == ["1", "10", "3"]
    assert order("bottomk(4, m)") == ["3", "10", "1", "2"]
    ranged = ENGINE.range("sort(m)", 0, 60_000, 60_000, storage)
    assert ranged.warnings == (
        "PromQL warning: sort is ineffective for range queries since results are always ordered by labels (1:1)",
    )


def test_scalars_strings_and_range_vectors_are_answers_too() -> None:
    assert ENGINE.instant("1 + 2", 5, DATA).data == Number(5, 3.0)
    assert ENGINE.instant("'x'", 5, DATA).data == Words(5, "x")
    window = ENGINE.instant("load[1m]", 60_000, DATA).data
    assert isinstance(window, Matrix)
    assert (window.times_ms.tolist(), window.values.tolist()) == ([60_000], [6.0])
    subquery = ENGINE.instant("(load * 2)[2m:30s]", 60_000, DATA).data
    assert isinstance(subquery, Matrix)
    assert subquery.labels.dicts() == [{}]
    assert subquery.times_ms.tolist() == [0, 30_000, 60_000]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("load[5m]", 0, 1, 1), "must be Scalar or instant Vector"),
        (("'x'", 0, 1, 1), "must be Scalar or instant Vector"),
        (("load", 0, 1, 0), "zero or negative query resolution"),
        (("load", 1, 0, 1), "end timestamp must not be before start time"),
        (("load", 0, 11_000, 1), "exceeded maximum resolution of 11,000 points"),
    ],
)
def test_a_range_query_that_makes_no_sense_is_a_bad_query(arguments: tuple, error: str) -> None:
    with pytest.raises(BadQuery, match=error):
        ENGINE.range(*arguments, DATA)


def test_rate_of_what_does_not_look_like_a_counter_says_so() -> None:
    answer = ENGINE.instant("rate(load[5m]) + on() rate(errs_total[5m])", 120_000, DATA)
    assert answer.infos == (
        'PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: "load" (1:6)',
    )
    assert ENGINE.instant("rate(load[1ms])", 120_000, DATA).infos == ()
    typed = _loaded("x{__type__=counter} | 1 2 3\ny{__type__=gauge} | 1 2 3")
    assert ENGINE.instant("rate(x[5m])", 120_000, typed).infos == ()
    assert 'got "gauge": "y"' in ENGINE.instant("rate(y[5m])", 120_000, typed).infos[0]


def test_type_and_unit_go_with_the_name() -> None:
    storage = _loaded("x{__type__=counter,__unit__=s,a=b} | 1 2 3")
    assert _at("x", 0, storage) == {"x{__type__=counter,__unit__=s,a=b}": 1.0}
    for expression in ("-x", "x + 1", "x * ignoring(z) x", "rate(x[5m])", "abs(x)", "x > bool 0"):
        assert list(_at(expression, 2, storage)) == ["{a=b}"], expression
    assert list(_at("x > 0", 2, storage)) == ["x{__type__=counter,__unit__=s,a=b}"]
    assert list(_at("sum without (a) (x)", 2, storage)) == ["{__type__=counter,__unit__=s}"]


def test_a_histogram_needs_its_infinite_bucket_and_two_of_them() -> None:
    def quantile(buckets: dict[str, float], q: float = 0.5) -> float:
        storage = MemoryStorage()
        for bound, count in buckets.items():
            storage.add({"__name__": "h_bucket", "le": bound}, [(0, count)])
        (value,) = _at(f"histogram_quantile({q}, h_bucket)", 0, storage).values()
        return value

    assert quantile({"1": 5, "2": 10, "+Inf": 10}) == 1.0
    assert quantile({"1": 5, "2": 10, "+Inf": 10}, 0.75) == 1.5
    assert quantile({"1": 5, "2": 10, "+Inf": 20}, 0.9) == 2.0
    assert quantile({"1": 5, "2": 10, "+Inf": 10}, 0.25) == 0.5
    assert quantile({"-1": 5, "2": 10, "+Inf": 10}, 0.25) == -1.0
    assert math.isnan(quantile({"1": 5, "2": 10}))
    assert math.isnan(quantile({"+Inf": 5}))
    assert math.isnan(quantile({"1": 0, "+Inf": 0}))
    assert quantile({"1": 5, "+Inf": 5}, -0.1) == -math.inf
    assert quantile({"1": 5, "+Inf": 5}, 1.1) == math.inf
    # Equal bounds add up, falling counts are raised.
    assert quantile({"1": 2, "1.0": 3, "2": 10, "+Inf": 10}) == 1.0
    assert quantile({"1": 5, "2": 4, "3": 10, "+Inf": 10}, 0.75) == 2.5


def test_histogram_notes_name_the_metric() -> None:
    storage = MemoryStorage()
    for bound, count in {"1": 5, "2": 4, "x": 1, "+Inf": 10}.items():
        storage.add({"__name__": "h_bucket", "le": bound}, [(0, count)])
    answer = ENGINE.instant("histogram_quantile(2, h_bucket)", 0, storage)
    bucket = 'bucket label "le" is missing or has a malformed value of "x" for metric name "h_bucket"'
    assert answer.warnings == (
        "PromQL warning: quantile value should be between 0 and 1, got 2 (1:20)",
        f"PromQL warning: {bucket} (1:23)",
    )
    answer = ENGINE.instant("histogram_quantile(0.5, h_bucket{le!='x'})", 0, storage)
    assert len(answer.infos) == 1
    assert "monotonicity" in answer.infos[0]
    assert 'for metric name "h_bucket"' in answer.infos[0]


def test_histogram_fraction_is_the_share_between_two_values() -> None:
    storage = MemoryStorage()
    for bound, count in {"1": 2, "3": 6, "+Inf": 8}.items():
        storage.add({"__name__": "h_bucket", "le": bound}, [(0, count)])
    for expression, want in (
        ("histogram_fraction(0, 1, h_bucket)", 0.25),
        ("histogram_fraction(-Inf, 2, h_bucket)", 0.5),
        ("histogram_fraction(2, +Inf, h_bucket)", 0.5),
        ("histogram_fraction(3, 1, h_bucket)", 0.0),
        ("histogram_fraction(NaN, 1, h_bucket)", math.nan),
    ):
        assert _at(expression, 0, storage) == pytest.approx({"": want}, nan_ok=True), expression


@pytest.mark.parametrize(
    ("function", "want"),
    [
        ("year", 2024),
        ("month", 2),
        ("day_of_month", 29),
        ("day_of_week", 4),
        ("day_of_year", 60),
        ("days_in_month", 29),
        ("hour", 23),
        ("minute", 58),
    ],
)
def test_dates_are_utc(function: str, want: int) -> None:
    at_ms = 1_709_251_139_999  # 2024-02-29 23:58:59.999
    assert ENGINE.instant(f"{function}()", at_ms, DATA).vector().values.tolist() == [want]
    assert ENGINE.instant(f"{function}(vector(1709251139))", 0, DATA).vector().values.tolist() == [want]
    assert math.isnan(ENGINE.instant(f"{function}(vector(NaN))", 0, DATA).vector().values[0])


def test_what_stands_still_is_evaluated_once_and_answers_every_step() -> None:
    answer = ENGINE.range("sum(rate(reqs_total[2m] @ 120)) + load @ end()", 0, 120_000, 30_000, DATA).data
    assert isinstance(answer, Matrix)
    assert len(answer.values) == 5
    assert len(set(answer.values.tolist())) == 1
    times = ENGINE.range("timestamp(load @ 60)", 0, 120_000, 60_000, DATA).data
    assert isinstance(times, Matrix)
    assert times.values.tolist() == [60.0, 60.0, 60.0]
    ended = ENGINE.range("load @ end()", 0, 119_000, 60_000, DATA).data
    assert isinstance(ended, Matrix)
    assert ended.values.tolist() == [6.0, 6.0]
    between = ENGINE.range("load @ end()", 0, 130_000, 100_000, DATA).data
    assert isinstance(between, Matrix)
    # The end that was asked for, which is no step.
    assert between.values.tolist() == [7.0, 7.0]
    predicted = ENGINE.range("predict_linear(load[2m] @ 120, 0)", 0, 120_000, 60_000, DATA).data
    assert isinstance(predicted, Matrix)
    assert predicted.values.tolist() == pytest.approx([5.0, 6.0, 7.0])


def test_equal_results_of_a_match_fail_over_several_steps_whatever_stands_around_them() -> None:
    storage = _loaded("a{x=1} | 1 1\nb{x=1} | 2 2\nc{x=1} | 3 3")
    both = '{__name__=~"a|b"}'
    expression = f"sum({both} * on(__name__) group_left() {both})"
    with pytest.raises(ExecutionFailed, match="same labelset"):
        ENGINE.range(expression, 0, MINUTE_MS, MINUTE_MS, storage)
    # Of one step the results are samples, and a sum takes them.
    assert _at(expression, 0, storage) == {"": 5.0}


def test_the_first_sample_of_a_series_decides_whether_its_name_goes() -> None:
    storage = _loaded("a{x=1} | 1 5 5\nb | 0 0 0")
    answer = ENGINE.range("(a < 3) or -a", 0, 2 * MINUTE_MS, MINUTE_MS, storage).data
    assert isinstance(answer, Matrix)
    assert (list(answer.labels.dicts()), answer.values.tolist()) == (
        [{"__name__": "a", "x": "1"}],
        [1, -5, -5],
    )
    answer = ENGINE.range("(a > 3) or -a", 0, 2 * MINUTE_MS, MINUTE_MS, storage).data
    assert isinstance(answer, Matrix)
    assert (list(answer.labels.dicts()), answer.values.tolist()) == ([{"x": "1"}], [-1, 5, 5])


def test_joining_nothing_takes_the_label_away() -> None:
    assert _at('label_join(owner, "team", ",")') == {"owner{host=a}": 1.0, "owner{host=b}": 1.0}
    with pytest.raises(ExecutionFailed, match="same labelset"):
        _at('label_join(twice, "v", ",")')


@pytest.mark.parametrize(
    ("replacement", "want"), [("$0", "ab"), ("${01}-", "-"), ("$1x", ""), ("$123456789", "")]
)
def test_a_replacement_names_groups_as_go_does(replacement: str, want: str) -> None:
    storage = _loaded('m{s="ab"} | 1')
    answer = ENGINE.instant(f'label_replace(m, "d", "{replacement}", "s", "(a)(b)")', 0, storage).vector()
    assert answer.labels.dicts()[0].get("d", "") == want


def test_digits_of_any_length_sort_as_numbers() -> None:
    storage = _loaded(f"m{{i=1}} | 1\nm{{i={'9' * 5_000}}} | 2\nm{{i=10}} | 3")
    answer = ENGINE.instant("sort_by_label(m, 'i')", 0, storage).vector()
    assert answer.values.tolist() == [1, 3, 2]


def test_k_that_is_no_int64_is_told_in_gos_words() -> None:
    for k, word in (("Inf", "+Inf overflows"), ("1e20", "1e+20 overflows")):
        with pytest.raises(ExecutionFailed, match=f"Scalar value {re.escape(word)} int64"):
            _at(f"topk({k}, disk)")


def test_labels_that_grow_by_themselves_are_stopped() -> None:
    joined = "label_join(" * 40 + 'label_join(load, "a", "", "b")' + ', "a", "xx", "a", "a", "a", "a")' * 40
    replaced = "label_replace(" * 40 + 'label_replace(load, "a", "xx", "", "")'
    replaced += ', "a", "$0$0$0$0", "a", ".*")' * 40
    for expression in (joined, replaced):
        with pytest.raises(TooMany, match="label value of more than"):
            _at(expression)


def test_matchers_are_no_operators() -> None:
    wanted = ",".join(f'l{number}=""' for number in range(2 * OPERATORS_MAX))
    assert _at(f"load{{{wanted}}}") == {"load": 5.0}
