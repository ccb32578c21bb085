"""A peer that refuses us, and not the notice, costs no notice: it waits until somebody mends the channel."""

from typing import Any

from watchbill_collector.dispatch.given import labelled
from watchbill_collector.dispatch.sender import AGE_MS_MAX, HELD_CAP_S
from watchbill_collector.notifiers.notice import SendFailed

MANY = 1_000


def unwelcome() -> SendFailed:
    return SendFailed("https://hooks.example: 401, who are you", transient=True, unwelcome=True)


def refuse(one: Any, times: int = MANY) -> None:
    one.channels["ops"].fail_next(unwelcome(), times)


def welcome(one: Any) -> None:
    one.channels["ops"]._failures.clear()


async def test_what_a_wrong_password_held_up_goes_out_as_soon_as_it_is_mended(desk: Any) -> None:
    one = desk()
    await one.open()
    refuse(one)
    one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    await one.turn()
    (health,) = one.dispatcher.health()
    assert (health.ok, health.held, health.queued) == (False, True, 1)
    assert "401" in health.last_error
    await one.turn(1)
    assert one.channels["ops"].attempts == 1, "nobody is asked again and again"
    welcome(one)
    one.stamp = "another secret"
    await one.turn(1)
    assert one.told() == ["firing"]
    (health,) = one.dispatcher.health()
    assert (health.ok, health.held, health.queued) == (True, False, 0)


async def test_a_reload_is_reason_enough_to_try_again(desk: Any) -> None:
    one = desk()
    await one.open()
    refuse(one)
    one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    await one.turn()
    welcome(one)
    await one.configure(one.routing)
    await one.turn()
    assert one.told() == ["firing"]


async def test_a_mistake_that_is_mended_over_there_needs_nobody_here(desk: Any) -> None:
    one = desk()
    await one.open()
    refuse(one)
    one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    for _ in range(8 * 60):
        await one.turn(60)
    tries = one.channels["ops"].attempts
    assert tries <= 8 * 3_600 / HELD_CAP_S + 6, "seldom enough that no account is locked"
    welcome(one)
    await one.turn(HELD_CAP_S + 1)
    assert one.told() == ["firing"]


async def test_what_nobody_mends_is_given_up_at_the_age_bound_and_counted(desk: Any) -> None:
    one = desk()
    await one.open()
    refuse(one)
    one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    await one.turn()
    await one.turn(AGE_MS_MAX / 1000 + 1)
    assert one.dispatcher.outbox.counters.outcomes == {("ops", "given_up"): 1}


async def test_an_alert_that_ends_while_its_channel_is_held_is_told_as_its_end_alone(desk: Any) -> None:
    one = desk()
    await one.open()
    refuse(one)
    alert = one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    await one.turn()
    one.alerts.resolve(alert, one.clock.wall_ms())
    await one.turn(1)
    await one.restart()
    welcome(one)
    await one.turn(1)
    assert one.told() == ["resolved"]


async def test_one_notice_that_a_peer_answers_so_gives_way_to_the_others_at_once(
    desk: Any, a_route: Any
) -> None:
    one = desk(a_route(group_by=("alertname",)))
    await one.open()
    refuse(one, 1)
    one.alerts.fire(one.clock.wall_ms(), **labelled("A"))
    one.alerts.fire(one.clock.wall_ms(), **labelled("B"))
    await one.turn()
    await one.turn(61)
    assert [notice.group_labels["alertname"] for notice in one.channels["ops"].accepted] == ["B", "A"]


async def test_a_reload_that_takes_a_channel_away_sends_nothing_there_and_keeps_the_end_for_its_return(
    desk: Any, a_route: Any
) -> None:
    one = desk(a_route(channels=("ops", "other")), channels=("ops", "other"))
    await one.open()
    alert = one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    await one.turn()
    assert (one.told(), one.told("other")) == (["firing"], ["firing"])
    gone = one.channels.pop("other")
    from watchbill_collector.dispatch.routing import Routing

    await one.configure(Routing((a_route(channels=("ops",)),)))
    one.alerts.resolve(alert, one.clock.wall_ms())
    await one.turn(400)
    assert one.told() == ["firing", "resolved"]
    assert len(gone.accepted) == 1
    assert [each.name for each in one.dispatcher.health()] == ["ops"]
    one.channels["other"] = gone
    await one.restart()
    await one.turn(1)
    assert [notice.kind.value for notice in gone.accepted] == ["firing", "resolved"]


async def test_a_channel_that_is_taken_away_while_it_hangs_holds_up_no_reload(
    desk: Any, a_route: Any
) -> None:
    import asyncio

    one = desk(a_route(channels=("ops", "slow")), channels=("ops", "slow"))
    await one.open()
    one.channels["slow"].hang()
    running = asyncio.create_task(one.dispatcher.run())
    one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    one.dispatcher.wake()
    await one.until(lambda: one.told() == ["firing"] and one.channels["slow"].attempts == 1)
    from watchbill_collector.dispatch.routing import Routing

    one.channels.pop("slow")
    async with asyncio.timeout(30):
        await one.configure(Routing((a_route(channels=("ops",)),)))
    assert [each.name for each in one.dispatcher.health()] == ["ops"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
