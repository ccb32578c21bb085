"""Who was told of one alert, when, by which channel, what came of it, and what waits and why."""

from datetime import UTC, datetime
from typing import Any

from watchbill_collector.api.ports import Alert, at
from watchbill_collector.dispatch.given import labelled
from watchbill_collector.dispatch.values import Standing
from watchbill_collector.notifiers.notice import SendFailed
from watchbill_collector.scopes import EVERYTHING
from watchbill_collector.services.telling import AlertTelling


def shown(standing: Standing, **more: Any) -> Alert:
    began = at(standing.fired_ms)
    state = "firing" if standing.firing else "resolved"
    return Alert(
        standing.rule, state, began, began, 1.0, standing.labels, {}, fingerprint=standing.fingerprint, **more
    )


def telling(one: Any) -> AlertTelling:
    return AlertTelling(one.dispatcher, one.store, one.clock, lambda: one.routing)


async def test_who_was_told_and_that_it_is_told_again_while_it_fires(desk: Any, a_route: Any) -> None:
    one = desk(a_route(repeat_ms=1_800_000))
    await one.open()
    alert = one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull", instance="a"))
    other = one.alerts.fire(one.clock.wall_ms(), **labelled("Other", instance="b"))
    await one.turn()
    told = await telling(one).told(shown(alert))
    (notice,) = told.notices
    assert (notice.channel, notice.route, notice.said, notice.outcome, notice.detail, notice.attempts) == (
        "ops",
        "all",
        "firing",
        "delivered",
        "kept",
        1,
    )
    (wait,) = told.waiting
    assert (wait.waits_for, wait.due) == ("repeat", at(one.clock.wall_ms() + 1_800_000))
    assert (told.nobody, told.truncated) == ("", False)
    (of_other,) = (await telling(one).told(shown(other))).notices
    assert of_other.key != notice.key, "what speaks of others is not shown"


async def test_what_waits_says_for_what(desk: Any, a_route: Any) -> None:
    one = desk(a_route('severity="critical"'), a_route(name="rest"), channels=("ops",))
    await one.open()
    first = one.alerts.fire(one.clock.wall_ms(), **labelled("A", instance="a"))
    one.channels["ops"].fail_next(SendFailed("no answer", transient=True))
    await one.turn()
    (wait,) = (await telling(one).told(shown(first))).waiting
    assert (wait.waits_for, wait.attempts, wait.why) == ("retry", 1, "no answer")
    one.channels["ops"].fail_next(SendFailed("535 who are you", transient=True, unwelcome=True))
    await one.turn(10)
    told = await telling(one).told(shown(first))
    assert (told.waiting[0].waits_for, told.waiting[0].why) == ("mending", "535 who are you")
    assert told.notices[0].outcome == "queued"
    minor = one.alerts.fire(one.clock.wall_ms(), **labelled("B", "minor", instance="a"))
    await one.turn()
    (digest,) = (await telling(one).told(shown(minor))).waiting
    assert digest.waits_for == "digest"
    assert digest.due is not None
    assert digest.due.astimezone(UTC).hour == 8
    major = one.alerts.fire(one.clock.wall_ms(), **labelled("C", "major", instance="a"))
    await one.dispatcher.turn()
    (group,) = (await telling(one).told(shown(major))).waiting
    assert (group.waits_for, group.due) == ("group", at(one.clock.wall_ms() + 30_000))


async def test_why_nobody_is_told(desk: Any, a_route: Any) -> None:
    one = desk(a_route('team="a"'))
    await one.open()
    info = one.alerts.fire(one.clock.wall_ms(), **labelled("I", "info", team="a"))
    lost = one.alerts.fire(one.clock.wall_ms(), **labelled("L", team="b"))
    hushed = one.alerts.fire(one.clock.wall_ms(), **labelled("H", team="a"))
    await one.silences.add('alertname="H"', 600, "mine", "ann", 0.0, EVERYTHING)
    await one.turn()
    found = [
        (await telling(one).told(each)).nobody
        for each in (shown(info), shown(lost), shown(hushed, silences=("x",)))
    ]
    assert found == ["way", "no_route", "hushed"]
    one.channels = {}
    await one.configure(one.routing)
    await one.turn()
    assert (await telling(one).told(shown(info))).nobody == "none"


async def test_an_alert_that_ended_shows_the_way_from_its_firing_to_its_end(desk: Any) -> None:
    one = desk()
    await one.open()
    alert = one.alerts.fire(one.clock.wall_ms(), **labelled("A", instance="a"))
    await one.turn()
    one.alerts.resolve(alert, one.clock.wall_ms())
    await one.turn(400)
    ended = shown(alert, resolved_at=datetime.fromtimestamp(one.clock.wall_ms() / 1000, UTC))
    told = await telling(one).told(ended)
    assert [(each.said, each.kind, each.outcome) for each in told.notices] == [
        ("resolved", "resolved", "delivered"),
        ("firing", "firing", "delivered"),
    ]
    assert told.waiting == []


async def test_one_of_many_that_a_notice_counts_and_does_not_list_says_so(desk: Any, a_route: Any) -> None:
    one = desk(a_route(alerts_max=2))
    await one.open()
    fired = [
        one.alerts.fire(one.clock.wall_ms(), **labelled("Many", instance=f"h{number}")) for number in range(5)
    ]
    await one.turn()
    said = [[each.said for each in (await telling(one).told(shown(alert))).notices] for alert in fired]
    assert sorted(said) == [[""], [""], [""], ["firing"], ["firing"]]


async def test_a_channel_that_went_with_a_reload_is_named(desk: Any) -> None:
    one = desk()
    await one.open()
    alert = one.alerts.fire(one.clock.wall_ms(), **labelled("A"))
    await one.turn()
    one.channels = {}
    await one.configure(one.routing)
    await one.turn()
    told = await telling(one).told(shown(alert))
    assert [(each.channel, each.waits_for) for each in told.waiting] == [("ops", "channel")]
