"""Two people silence, and end silences, at once: everybody's word counts, once."""

import asyncio
import json
from typing import Any

import pytest

from watchbill.errors import Refused, UsageError
from watchbill_collector.audit import Audit
from watchbill_collector.dispatch.given import labelled
from watchbill_collector.scopes import EVERYTHING

MATCHERS = 'alertname="DiskFull"'


async def test_two_who_silence_the_same_have_a_silence_each(desk: Any) -> None:
    one = desk()
    await one.open()
    both = await asyncio.gather(
        one.silences.add(MATCHERS, 60, "by ann", "ann", 0.0, EVERYTHING),
        one.silences.add(MATCHERS, 120, "by bob", "bob", 0.0, EVERYTHING),
    )
    assert len({silence.silence_id for silence in both}) == 2
    assert {(silence.author, silence.reason) for silence in one.silences.all()} == {
        ("ann", "by ann"),
        ("bob", "by bob"),
    }
    one.alerts.fire(one.clock.wall_ms(), **labelled("DiskFull"))
    await one.turn()
    await one.silences.expire(both[1].silence_id, "ann")
    await one.turn(30)
    assert one.told() == [], "the shorter one still holds"
    await one.turn(31)
    assert one.told() == ["firing"], "both have ended: one by a person, one by its time"
    await one.restart()
    assert {silence.expired_by for silence in one.silences.all()} == {"", "ann"}
    rows = Audit(one.store, one.clock).after(0, 10)
    assert [(row.actor, row.action) for row in rows] == [
        ("ann", "silence.add"),
        ("bob", "silence.add"),
        ("ann", "silence.expire"),
    ]
    assert json.loads(rows[1].detail)["reason"] == "by bob"
    assert rows[2].target == both[1].silence_id


async def test_of_two_who_end_the_same_one_is_told_that_it_has_ended(desk: Any) -> None:
    one = desk()
    await one.open()
    made = await one.silences.add(MATCHERS, 60, "why", "ann", 0.0, EVERYTHING)
    results = await asyncio.gather(
        *(one.silences.expire(made.silence_id, name) for name in ("ann", "bob", "eva")),
        return_exceptions=True,
    )
    ended = [result for result in results if not isinstance(result, BaseException)]
    refused = [result for result in results if isinstance(result, Refused)]
    assert (len(ended), len(refused)) == (1, 2)
    (kept,) = one.silences.all()
    assert kept.expired_by == ended[0].expired_by
    with pytest.raises(Refused, match=f"ended already, by {kept.expired_by}"):
        await one.silences.expire(made.silence_id, "late")


async def test_fifty_at_once_are_all_kept(desk: Any) -> None:
    one = desk()
    await one.open()
    await asyncio.gather(
        *(one.silences.add(f'a="{number}"', 60, "why", f"p{number}", 0.0, EVERYTHING) for number in range(50))
    )
    assert len(one.silences.all()) == 50
    await one.restart()
    assert len(one.silences.all()) == 50


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e300])
async def test_a_silence_that_cannot_be_is_refused(desk: Any, seconds: float) -> None:
    one = desk()
    await one.open()
    with pytest.raises(UsageError):
        await one.silences.add(MATCHERS, seconds, "why", "ann", 0.0, EVERYTHING)
