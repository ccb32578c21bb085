"""Routes, groups, severities, silences, windows, dependencies: what is planned for which alerts."""

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from watchbill.cron import read_cron
from watchbill_collector.dispatch.given import labelled
from watchbill_collector.dispatch.matchers import read_match
from watchbill_collector.dispatch.routing import Routing
from watchbill_collector.dispatch.values import Service, Way
from watchbill_collector.dispatch.windows import Window

DAY_S = 86_400


def fire(one: Any, name: str, severity: str = "critical", **more: Any) -> Any:
    return one.alerts.fire(one.clock.wall_ms(), **labelled(name, severity, **more))


def names(one: Any, channel: str = "ops") -> list[list[str]]:
    return [
        sorted(alert.labels["alertname"] for alert in notice.alerts)
        for notice in one.channels[channel].accepted
    ]


async def test_the_first_route_counts_unless_it_says_continue(desk: Any, a_route: Any) -> None:
    one = desk(
        a_route('team="db"', ("db",), "db"),
        a_route('severity="critical"', ("night",), "night", go_on=True),
        a_route("", ("ops",), "rest"),
        channels=("db", "night", "ops"),
    )
    await one.open()
    fire(one, "A", team="db")
    fire(one, "B")
    fire(one, "C", "major")
    await one.turn(31)
    assert names(one, "db") == [["A"]]
    assert names(one, "night") == [["B"]]
    assert sorted(names(one)) == [["B"], ["C"]]


@pytest.mark.parametrize(
    ("severity", "way"),
    [
        ("critical", Way.PAGE),
        ("page", Way.PAGE),
        ("major", Way.PAGE),
        ("minor", Way.DIGEST),
        ("warning", Way.DIGEST),
        ("", Way.DIGEST),
        ("nonsense", Way.DIGEST),
        ("info", Way.NONE),
    ],
)
async def test_a_severity_has_its_way(desk: Any, severity: str, way: Way) -> None:
    one = desk()
    await one.open()
    fire(one, "A", severity)
    await one.turn(31)
    assert one.told() == (["firing"] if way is Way.PAGE else [])
    await one.turn(DAY_S)
    repeated = ["firing", "firing"] if way is Way.PAGE else ["digest"] if way is Way.DIGEST else []
    assert one.told() == repeated


async def test_a_clock_that_was_set_back_delays_no_notice(desk: Any, a_route: Any) -> None:
    one = desk(a_route(group_by=("severity",)))
    await one.open()
    fire(one, "A")
    await one.turn()
    one.clock.set_wall_ms(one.clock.wall_ms() - 3_600_000)
    fire(one, "B")
    await one.turn(2)
    assert names(one) == [["A"], ["A", "B"]]


async def test_critical_is_told_at_once_and_major_waits_for_more(desk: Any, a_route: Any) -> None:
    one = desk(a_route(group_by=("severity",)))
    await one.open()
    fire(one, "A")
    fire(one, "B", "major")
    await one.turn()
    assert names(one) == [["A"]]
    fire(one, "C", "major")
    await one.turn(29)
    assert names(one) == [["A"]]
    await one.turn(2)
    assert names(one) == [["A"], ["B", "C"]]


async def test_what_comes_later_waits_for_the_interval_and_then_all_is_said(desk: Any, a_route: Any) -> None:
    one = desk(a_route(group_by=("severity",), interval_ms=60_000, repeat_ms=3_600_000))
    await one.open()
    first = fire(one, "A")
    await one.turn()
    fire(one, "B")
    one.alerts.resolve(first, one.clock.wall_ms())
    await one.turn(59)
    assert len(names(one)) == 1
    await one.turn(2)
    notice = one.channels["ops"].accepted[1]
    assert [(alert.labels["alertname"], alert.status) for alert in notice.alerts] == [
        ("B", "firing"),
        ("A", "resolved"),
    ]
    assert notice.group_key == one.channels["ops"].accepted[0].group_key
    await one.turn(3_599)
    assert len(names(one)) == 2
    await one.turn(2)
    assert one.told() == ["firing", "firing", "firing"]


async def test_fifty_thousand_alerts_behind_one_dependency_are_one_notice(desk: Any) -> None:
    database = Service("db", "dba")
    shop = Service("shop", "web", ("cache",))
    cache = Service("cache", "web", ("db",))
    by_role = {"db": database, "shop": shop, "cache": cache}
    one = desk(
        service_of=lambda labels: by_role.get(labels.get("role", "")), service=lambda name: by_role.get(name)
    )
    await one.open()
    fire(one, "DatabaseDown", role="db")
    for number in range(2_000):
        fire(one, "Slow", "major", role="shop", instance=f"web{number}")
    await one.turn()
    (notice,) = one.channels["ops"].accepted
    assert notice.group_labels == {"service": "db"}
    assert len(notice.alerts) == 100
    assert notice.alerts_left_out == 1_901
    assert notice.alerts[0].labels["alertname"] == "DatabaseDown"
    assert notice.alerts[0].owner == "dba"
    assert len(one.dispatcher.outbox.threads) == 1


async def test_a_host_that_is_down_inhibits_its_other_alerts_and_no_other_host_s(desk: Any) -> None:
    one = desk()
    await one.open()
    down = one.alerts.fire(one.clock.wall_ms(), host_down=True, **labelled("HostSilent", instance="web1"))
    other = fire(one, "DiskFull", instance="web1")
    fire(one, "DiskFull", instance="web2")
    await one.turn()
    told = {
        (a.labels["alertname"], a.labels["instance"]) for n in one.channels["ops"].accepted for a in n.alerts
    }
    assert told == {("HostSilent", "web1"), ("DiskFull", "web2")}
    assert one.dispatcher.hushed[other.fingerprint].inhibited
    one.alerts.resolve(down, one.clock.wall_ms())
    await one.turn(301)
    told = {
        (a.labels["alertname"], a.labels["instance"]) for n in one.channels["ops"].accepted for a in n.alerts
    }
    assert ("DiskFull", "web1") in told, "it still fires"


async def test_what_was_silenced_is_told_when_the_silence_ends_and_it_still_fires(desk: Any) -> None:
    one = desk()
    await one.open()
    made = await one.silences.add('alertname=~"A|B"', 600, "work", "anna")
    first, second = fire(one, "A"), fire(one, "B")
    await one.turn(60)
    assert one.told() == []
    assert one.dispatcher.hushed[first.fingerprint].silences == (made.silence_id,)
    one.alerts.resolve(second, one.clock.wall_ms())
    await one.restart()
    await one.turn(300)
    assert one.told() == []
    await one.turn(300)
    assert names(one) == [["A"]], "what came and went in silence stays unsaid"


async def test_a_window_mutes_by_its_matchers_or_the_routes_that_name_it(desk: Any, a_route: Any) -> None:
    zone = ZoneInfo("UTC")
    every_minute = read_cron("* * * * *")
    routing = Routing(
        (a_route('team="db"', ("ops",), "db", mute=frozenset({"named"})), a_route("", ("ops",), "rest")),
        (
            Window("by match", every_minute, zone, 120_000, read_match('alertname="Noisy"')),
            Window("named", every_minute, zone, 120_000),
        ),
    )
    one = desk(routing=routing)
    await one.open()
    fire(one, "Noisy")
    fire(one, "Db", team="db")
    fire(one, "Other")
    await one.turn()
    assert names(one) == [["Other"]]
    await one.configure(Routing(routing.routes))
    await one.turn()
    assert sorted(map(tuple, names(one))) == [("Db",), ("Noisy",), ("Other",)]


async def test_the_digest_collects_what_came_and_went_and_comes_once_a_day(desk: Any) -> None:
    one = desk()
    await one.open()
    gone, stays = fire(one, "Gone", "minor"), fire(one, "Stays", "minor")
    await one.turn(60)
    one.alerts.resolve(gone, one.clock.wall_ms())
    await one.turn(60)
    await one.restart()
    await one.turn(DAY_S)
    assert one.told() == ["digest"]
    assert [(a.labels["alertname"], a.status) for a in one.channels["ops"].accepted[0].alerts] == [
        ("Stays", "firing"),
        ("Gone", "resolved"),
    ]
    await one.turn(DAY_S)
    assert names(one)[1:] == [["Stays"]]
    one.alerts.resolve(stays, one.clock.wall_ms())
    await one.turn(DAY_S)
    await one.turn(DAY_S)
    assert len(one.told()) == 3, "its end is in the next one, and then there is nothing to say"


async def test_hostile_labels_are_carried_and_kept_as_they_are(desk: Any) -> None:
    one = desk()
    await one.open()
    nasty = "<script>\r\nBcc: x\x00\u202e\ud800" + "x" * 1_000
    alert = fire(one, "A", instance=nasty)
    await one.turn()
    await one.restart()
    one.alerts.resolve(alert, one.clock.wall_ms())
    await one.turn(1)
    assert one.told() == ["firing", "resolved"]
    assert one.channels["ops"].accepted[1].alerts[0].labels["instance"] == nasty


async def test_a_channel_that_wants_each_alert_gets_each_whatever_its_route_lists(
    desk: Any, a_route: Any
) -> None:
    one = desk(a_route(channels=("ops", "each"), alerts_max=2), channels=("ops", "each"))
    one.channels["each"].alerts_wanted = 50
    await one.open()
    for number in range(60):
        one.alerts.fire(one.clock.wall_ms(), **labelled("Many", instance=f"h{number}"))
    await one.turn()
    counts = {
        name: (len(channel.accepted[0].alerts), channel.accepted[0].alerts_left_out)
        for name, channel in one.channels.items()
    }
    assert counts == {"ops": (2, 58), "each": (50, 10)}
