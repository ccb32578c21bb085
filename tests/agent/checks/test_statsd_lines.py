"""What statsd clients say becomes series; what they should not say is counted and hurts nothing."""

import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill_agent.checks import statsd_series
from watchbill_agent.checks.check import Samples
from watchbill_agent.checks.statsd_series import DROPPED, Intake, Rules
from watchbill_agent.checks.statsd_text import Garbage, event, service_check, tags_of

WALL_S = 1_700_000_000


class World:
    """An intake whose clock the test moves."""

    def __init__(self, **rules):
        self.now_s = 1_000.0
        made = {
            "series_max": 100,
            "expire_s": 300,
            "timer_buckets": (0.1, 1.0),
            "histogram_buckets": (10.0,),
            **rules,
        }
        self.intake = Intake(Rules(**made), lambda: self.now_s, lambda: WALL_S)

    def say(self, *lines):
        self.intake.feed([line.encode() if isinstance(line, str) else line for line in lines])

    def series(self):
        samples = Samples()
        self.intake.report(samples)
        assert len(samples.series) == len(samples.values)
        assert {one.name for one in samples.series} <= samples.families.keys()
        return {
            one.name + "".join(f" {name}={value}" for name, value in one.labels): value
            for one, value in zip(samples.series, samples.values, strict=True)
        }

    def dropped(self):
        return {reason: count for reason, count in self.intake.dropped.items() if count}


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (["shop.orders:1|c", "shop.orders:2|c"], {"shop_orders_total": 3}),
        (["a:1|c|@0.1", "a:1|c"], {"a_total": 11}),
        (["a_total:1:2:3|c"], {"a_total": 6}),
        (["a:0.1|c"] * 10, {"a_total": 1.0}),
        (["a:1|c\na:1|c\n"], {"a_total": 2}),
        (["temp:20|g", "temp:+1.5|g", "temp:-3|g"], {"temp": 18.5}),
        (["temp:-3|g"], {"temp": -3}),
        (["temp:+1|g", "temp:7|g"], {"temp": 7}),
        (["temp:1|g|#a:x,b:y", "temp:2|g|#b:y,a:x"], {"temp a=x b=y": 2}),
        (["users:1|s", "users:01|s", "users:1|s"], {"users": 2}),
        (["a:1|c|#env:prod,beta,empty:"], {"a_total beta=true env=prod": 1}),
        (["a:1|c|#check:x,le:1,1a-b:y,__c:z"], {"a_total _1a_b=y _c=z exported_check=x exported_le=1": 1}),
        (["9-lives:1|g"], {"_9_lives": 1}),
        (["a:1|c|c:ci-0123|e:it-true|card:low"], {"a_total": 1}),
        ([f"a:1|c|T{WALL_S - 10}"], {"a_total": 1}),
        (
            ["t.ms:50|ms", "t.ms:500:5000|ms", "t:500|ms|@0.5"],
            {
                "t_seconds_bucket le=0.1": 1,
                "t_seconds_bucket le=1": 4,
                "t_seconds_bucket le=+Inf": 5,
                "t_seconds_sum": 6.55,
                "t_seconds_count": 5,
            },
        ),
        (
            ["h:10|h", "h:11|d"],
            {"h_bucket le=10": 1, "h_bucket le=+Inf": 2, "h_sum": 21, "h_count": 2},
        ),
        (["_sc|db|2|#env:x|h:web1|m:no | answer"], {"watchbill_statsd_service_check env=x host=web1 service=db": 2}),
    ],
)  # fmt: skip
def test_lines_become_series(lines, wanted):
    world = World()
    world.say(*lines)
    assert world.series() == pytest.approx(wanted)
    assert world.dropped() == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", None),
        ("a", "syntax"),
        ("a:1", "syntax"),
        ("a:|c", "syntax"),
        (":1|c", "name"),
        ("n" * 201 + ":1|c", "name"),
        (b"\xff:1|c", "name"),
        ("a:1|x", "type"),
        ("a:1|c|?", "syntax"),
        ("a:one|c", "value"),
        ("a:1_0|c", "value"),
        ("a:nan|g", "value"),
        ("a:inf|g", "value"),
        ("a:1e999|g", "value"),
        ("a: 1|g", "value"),
        ("a:1.2.3|ms", "value"),
        ("a:1::2|ms", "value"),
        ("a:-1|c", "value"),
        ("a:1|c|@0", "rate"),
        ("a:1|c|@2", "rate"),
        ("a:1|c|@1e-300", "rate"),
        ("a:1|c|#:x", "tags"),
        (b"a:1|c|#k:\xff", "tags"),
        ("a:1|c|#" + ",".join(f"t{n}:1" for n in range(17)), "tags"),
        ("a:1|c|#k:" + "v" * 1025, "tags"),
        (f"a:1|c|T{WALL_S - 301}", "timestamp"),
        ("a:1|c|Tnow", "timestamp"),
        (f"a:1|ms|T{WALL_S}", "timestamp"),
        ("_e{5}:title", "syntax"),
        ("_e{5,4}:title|tex", "syntax"),
        ("_e{0,4}:|text", "syntax"),
        ("_e{5,4}:title|textmore", "syntax"),
        ("_sc|x", "syntax"),
        ("_sc|x|4", "value"),
        ("_sc|x|0|?", "syntax"),
    ],
)
def test_garbage_is_counted_by_reason_and_leaves_the_others_alone(line, reason):
    world = World()
    world.say("fine:1|c", line, "fine:1|c")
    assert world.series()["fine_total"] == 2
    assert world.dropped() == ({reason: 1} if reason else {})
    assert len(world.intake.example) <= 300


def test_one_bad_value_among_many_costs_only_itself():
    world = World()
    world.say(*(["t:1000|ms"] * 5), "t:x|ms", "t:1000:y:1000|ms")
    assert world.series()["t_seconds_count"] == 7
    assert world.dropped() == {"value": 2}


def test_a_name_has_one_type():
    world = World()
    world.say("a:1|g", "a:1|s", "a:1|h", "b:1|h", "b_count:1|g", "b_seconds:1|h", "b:1|ms")
    assert world.dropped() == {"conflict": 4}


def test_series_are_bounded_in_what_they_emit_and_room_comes_back():
    world = World(series_max=6)
    world.say("t:1|ms", "g:1|g", "h:1|g", "h:1|g")  # A timer of two bounds is five numbers.
    assert world.intake.emitted == 6
    assert world.dropped() == {"series-max": 2}
    assert world.series()["g"] == 1  # Seen when it was added up.
    world.now_s += 299
    world.say("t:1|ms")
    assert set(world.series()) > {"g"}
    world.now_s += 2
    assert "g" not in world.series()
    world.say("h:1|g")
    assert world.series()["h"] == 1
    assert world.intake.expired == 1


def test_counters_are_kept_until_others_need_their_room():
    world = World(series_max=1)
    world.say("a:1|c")
    world.series()
    world.now_s += 10_000
    assert world.series() == {"a_total": 1}
    world.say("b:1|c")
    assert world.series() == {}
    world.say("b:1|c")
    assert world.series() == {"b_total": 1}


def test_a_set_counts_an_interval_and_is_bounded(monkeypatch):
    monkeypatch.setattr(statsd_series, "SET_VALUES_MAX", 3_000)
    world = World()
    world.say(*(f"u:{number}|s" for number in range(1_000)))
    assert world.series() == {"u": 1_000}
    assert world.series() == {"u": 0}
    for start in range(0, 4_000, 500):
        world.say(*(f"u:{number}|s" for number in range(start, start + 500)))
        world.intake.fold()
    assert world.series() == {"u": 3_000}
    assert world.dropped()["set-values-max"] == 1_000


def test_events_are_read_and_bounded_by_the_minute():
    world = World(events_per_minute=3)
    text = "first\\nsecond|third"
    line = f"_e{{5,{len(text)}}}:Title|{text}|d:1700000000|h:web1|k:deploys|p:low|s:ci|t:error|#env:prod,x"
    world.say(*[line] * 5)
    assert len(world.intake.events) == 3
    assert world.dropped() == {"events-max": 2}
    said = world.intake.events[0]
    assert (said.title, said.text, said.at_s) == ("Title", "first\nsecond|third", 1_700_000_000)
    assert said.words == {
        "host": "web1",
        "aggregation_key": "deploys",
        "priority": "low",
        "source_type": "ci",
        "alert_type": "error",
    }
    assert said.tags == (("env", "prod"), ("x", "true"))


def test_a_service_check_is_told_when_its_status_changes():
    world = World()
    for status in (0, 0, 2, 2, 0, 1):
        world.say(f"_sc|db|{status}|m:because")
    assert [said.status for said in world.intake.service_checks] == [2, 0, 1]
    assert world.intake.service_checks_seen == 6


VALUES = st.floats().map(str) | st.text(max_size=5)
TYPES = st.sampled_from(["c", "g", "ms", "s", "h", "d"])
LIKELY = st.builds("a:{}|{}|@{}|#{}".format, VALUES, TYPES, st.floats(), st.text(max_size=10))
DATAGRAMS = st.one_of(
    st.binary(max_size=60),
    st.text("ab:|@#,0123456789.+-eEcgmshdT_{}", max_size=40).map(str.encode),
    LIKELY.map(lambda text: text.encode("utf-8", "replace")),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(DATAGRAMS, max_size=30))
def test_whatever_is_said_every_number_stays_finite(datagrams):
    world = World()
    world.intake.feed(datagrams)
    assert all(math.isfinite(value) for value in world.series().values())
    assert world.intake.emitted <= 100
    assert set(world.intake.dropped) == set(DROPPED)


@given(st.binary(max_size=80))
def test_parsers_raise_garbage_and_nothing_else(text):
    for parse, start in ((event, b""), (event, b"_e{3,3}:"), (service_check, b"_sc|"), (tags_of, b"")):
        with contextlib.suppress(Garbage):
            parse(start + text)
