"""A delivered firing always gets its end, nothing is missing, and nothing comes twice but after a crash between the
peer's yes and our commit, under the same key: tried with a crash before and after every single write."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from watchbill_collector.dispatch.given import labelled
from watchbill_collector.dispatch.outbox import OutboxRows
from watchbill_collector.notifiers.notice import SendFailed
from watchbill_collector.store.outbox import NoticeRow, OutboxChange, ThreadRow

WRITES_MAX = 40


class Crashed(Exception):
    """The process is dead."""


class CrashingRows:
    """Dies at one write: before it is made, or after it was made and before anybody could hear of it."""

    def __init__(self, rows: OutboxRows, plan: dict[str, Any]) -> None:
        self._rows, self._plan = rows, plan

    def load(self) -> tuple[list[ThreadRow], list[NoticeRow]]:
        return self._rows.load()

    async def write(self, change: OutboxChange) -> None:
        self._plan["writes"] += 1
        here = self._plan["writes"] == self._plan["at"]
        if here and self._plan["when"] == "before":
            raise Crashed
        await self._rows.write(change)
        if here:
            raise Crashed

    async def prune(self, now_ms: int) -> None:
        await self._rows.prune(now_ms)


async def story(one: Any, plan: dict[str, Any], steps: list[Any]) -> None:
    """The steps, each tried again after a crash in a new life: the world goes on, only we died."""
    for step in steps:
        await step(one)
        while True:
            try:
                await one.turn(1.0)
                break
            except Crashed:
                plan["crashed"] = True
                await one.restart()


async def fire_two(one: Any) -> None:
    one.first = one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull", instance="a"))
    one.second = one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull", instance="b"))


async def resolve_one(one: Any) -> None:
    one.alerts.resolve(one.first, one.clock.wall_ms())
    one.clock.advance(400)


async def resolve_all(one: Any) -> None:
    one.alerts.resolve(one.second, one.clock.wall_ms())


async def fail_once(one: Any) -> None:
    one.channels["ops"].fail_next(SendFailed("no answer", transient=True), accepted=True)
    await fire_two(one)


async def wait(one: Any) -> None:
    one.clock.advance(60)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("beginning", [fire_two, fail_once])
async def test_a_kill_at_any_write_loses_nothing(
    desk: Any, beginning: Any, when: str, tmp_path: Path
) -> None:
    steps = [beginning, wait, resolve_one, wait, resolve_all, wait]
    tried = 0
    for at in range(1, WRITES_MAX):
        plan = {"writes": 0, "at": at, "when": when, "crashed": False}
        one = desk(rows=lambda rows, plan=plan: CrashingRows(rows, plan))
        await one.open()
        await story(one, plan, steps)
        accepted = list(one.channels["ops"].accepted)
        one.store.close()
        shutil.rmtree(one.directory)
        if not plan["crashed"]:
            break
        tried += 1
        check(accepted, f"{when} write {at}", again_max=1 + (beginning is fail_once))
    assert tried >= 6, "the story has that many writes"
    assert not plan["crashed"], "the story ended before the bound"
    check(accepted, "without a crash", again_max=int(beginning is fail_once))


def check(accepted: list[Any], where: str, again_max: int) -> None:
    """What the peer has to have seen, whatever happened to us."""
    firing: set[str] = set()
    ever: set[str] = set()
    keys: list[str] = []
    for notice in accepted:
        if keys and notice.key == keys[-1]:
            assert notice == accepted[len(keys) - 1], f"{where}: one key, one content"
        else:
            assert notice.key not in keys, f"{where}: a key comes again later"
        keys.append(notice.key)
        for alert in notice.alerts:
            if alert.status == "firing":
                firing.add(alert.fingerprint)
                ever.add(alert.fingerprint)
            else:
                firing.discard(alert.fingerprint)
    assert len(ever) == 2, f"{where}: both firings arrived"
    assert not firing, f"{where}: every firing got its end"
    assert accepted[-1].kind.value == "resolved", where
    assert len(keys) - len(set(keys)) <= again_max, f"{where}: too many came twice: {keys}"


async def test_a_firing_that_waited_and_is_over_is_told_as_its_end_alone(desk: Any) -> None:
    one = desk()
    await one.open()
    one.channels["ops"].fail_next(SendFailed("down", transient=True), times=1)
    alert = one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    await one.turn()
    assert one.told() == []
    one.alerts.resolve(alert, one.clock.wall_ms())
    await one.turn(600)
    assert one.told() == ["resolved"]
    (notice,) = one.channels["ops"].accepted
    assert notice.alerts[0].starts_ms == alert.fired_ms


async def test_the_end_goes_out_through_a_silence_and_goes_where_the_firing_went(
    desk: Any, a_route: Any
) -> None:
    one = desk(a_route(channels=("ops",)), channels=("ops", "other"))
    await one.open()
    alert = one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    await one.turn()
    await one.silences.add('alertname="DiskFull"', 86_400, "quiet", "anna")
    await one.turn(3_600 * 5)
    assert one.told() == ["firing"], "a silence stops repeats"
    from watchbill_collector.dispatch.routing import Routing

    await one.configure(Routing((a_route(channels=("other",), name="new"),)))
    await one.restart()
    one.alerts.resolve(alert, one.clock.wall_ms())
    await one.turn(1)
    assert one.told() == ["firing", "resolved"]
    assert one.told("other") == []


async def test_an_alert_whose_rule_is_gone_ends_but_not_right_after_a_start(desk: Any) -> None:
    one = desk()
    await one.open()
    alert = one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    await one.turn(200)
    await one.restart()
    one.alerts.forget(alert)
    await one.turn(1)
    assert one.told() == ["firing"], "it may not have been heard of yet"
    await one.turn(200)
    assert one.told() == ["firing", "resolved"]


async def test_a_hanging_channel_delays_no_other_and_a_poison_notice_gives_way(
    desk: Any, a_route: Any
) -> None:
    import asyncio

    one = desk(a_route(channels=("ops", "slow"), group_by=("alertname",)), channels=("ops", "slow"))
    await one.open()
    one.channels["slow"].hang()
    running = asyncio.create_task(one.dispatcher.run())
    one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    one.dispatcher.wake()
    await one.until(lambda: one.told() == ["firing"])
    assert one.told("slow") == []
    one.channels["slow"].go_on()
    await one.until(lambda: one.told("slow") == ["firing"])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_notice_nobody_takes_is_given_up_and_counted_and_others_pass_it(
    desk: Any, a_route: Any
) -> None:
    one = desk(a_route(group_by=("alertname",)))
    await one.open()
    one.channels["ops"].fail_next(SendFailed("poison", transient=True), times=3)
    one.alerts.fire(one.clock.wall_ms(), **labelled("Poison"))
    for _ in range(3):
        await one.turn(400)
    one.channels["ops"].fail_next(SendFailed("poison", transient=True), times=0)
    one.alerts.fire(one.clock.wall_ms(), **labelled("Fine"))
    await one.turn(400)
    names = [notice.common_labels["alertname"] for notice in one.channels["ops"].accepted]
    assert names == ["Fine", "Poison"], "after three rounds it gives way"
    one.channels["ops"].fail_next(SendFailed("down", transient=True), times=1_000)
    one.alerts.fire(one.clock.wall_ms(), **labelled("Third"))
    await one.turn(400)
    await one.turn(90_000)
    assert one.dispatcher.outbox.counters.outcomes["ops", "given_up"] >= 1
    health = one.dispatcher.health()[0]
    assert not health.ok
    assert health.last_error == "down"


async def test_a_final_no_is_recorded_and_not_repeated_at_once(desk: Any) -> None:
    one = desk()
    await one.open()
    one.channels["ops"].fail_next(SendFailed("malformed", transient=False))
    one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    await one.turn()
    await one.turn(60)
    assert one.told() == []
    assert one.channels["ops"].attempts == 1
    assert one.dispatcher.outbox.counters.outcomes["ops", "refused"] == 1
    await one.turn(5 * 3_600)
    assert one.told() == ["firing"], "after `repeat` it is tried again"


async def test_what_a_peer_asks_to_wait_is_waited(desk: Any) -> None:
    one = desk()
    await one.open()
    one.channels["ops"].fail_next(SendFailed("429", transient=True, retry_after_s=600))
    one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    await one.turn()
    await one.turn(590)
    assert one.told() == []
    await one.turn(20)
    assert one.told() == ["firing"]
