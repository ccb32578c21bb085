"""The outbox and the silences: the same on SQLite and PostgreSQL."""

import asyncio
import dataclasses
from typing import Any

import pytest

from watchbill.clock import ManualClock
from watchbill.errors import Refused, StorageError, UsageError
from watchbill_collector.dispatch.dispatcher import Dispatcher, Setup
from watchbill_collector.dispatch.given import GivenAlerts, labelled
from watchbill_collector.dispatch.matchers import read_match
from watchbill_collector.dispatch.outbox import Outbox, StoreRows
from watchbill_collector.dispatch.plan import Planner
from watchbill_collector.dispatch.routing import Route, Routing
from watchbill_collector.dispatch.silencebook import SilenceBook
from watchbill_collector.notifiers.channel_set import ChannelSet
from watchbill_collector.notifiers.memory import MemoryChannel
from watchbill_collector.notifiers.notice import SendFailed
from watchbill_collector.scopes import View
from watchbill_collector.store import Store, outbox
from watchbill_collector.store.outbox import QUEUED, NoticeRow, OutboxChange, ThreadRow

LONGEST_NAME = "c" * 63


def thread(number: int, state: bytes = b"state") -> ThreadRow:
    return ThreadRow(thread_key=f"p{number:016x}", channel=LONGEST_NAME, changed_ms=number, state=state)


def notice(number: int, outcome: str = QUEUED, **more: Any) -> NoticeRow:
    row = NoticeRow(
        notice_key=f"p{number:016x}-1795000000000-{number}",
        channel=LONGEST_NAME,
        thread_key=f"p{number:016x}",
        kind="firing",
        outcome=outcome,
        attempts=0,
        created_ms=number,
        changed_ms=number,
        detail="",
        body=bytes(range(256)),
    )
    return dataclasses.replace(row, **more)


def write(store: Store, **change: Any) -> None:
    store.write_blocking(lambda c: outbox.write(c, store.site, OutboxChange(**change)))


def test_threads_and_notices_are_found_as_they_were_written_in_their_order(store: Store) -> None:
    write(store, threads=[thread(2), thread(1)], notices=[notice(2), notice(1)])
    write(
        store, threads=[thread(1, b"\x00\xff")], notices=[notice(2, "delivered", detail="250 ok", attempts=1)]
    )
    found = store.read(lambda c: outbox.all_threads(c, store.site))
    assert sorted(found, key=lambda one: one.thread_key) == [thread(1, b"\x00\xff"), thread(2)]
    assert store.read(lambda c: outbox.queued_notices(c, store.site)) == [notice(1)]
    newest = store.read(lambda c: outbox.recent_notices(c, store.site, 10))
    assert newest == [notice(1), notice(2, "delivered", detail="250 ok", attempts=1)]
    write(store, threads_gone=[thread(1).thread_key, "p-never-was"])
    assert store.read(lambda c: outbox.all_threads(c, store.site)) == [thread(2)]


def test_a_change_is_written_whole_or_not_at_all(store: Store) -> None:
    bad = notice(3, body=None)
    with pytest.raises(StorageError):
        write(store, threads=[thread(3)], notices=[bad])
    assert store.read(lambda c: outbox.all_threads(c, store.site)) == []


def test_ended_notices_go_when_they_are_old_or_too_many_and_waiting_ones_stay(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "KEPT_MAX", 3)
    now_ms = outbox.KEPT_MS + 100
    rows = [notice(n, "delivered", changed_ms=now_ms) for n in range(10, 16)]
    write(store, notices=[notice(1), notice(2, "delivered", changed_ms=1), *rows])
    assert store.write_blocking(lambda c: outbox.prune(c, store.site, now_ms)) == 4
    kept = store.read(lambda c: outbox.recent_notices(c, store.site, 100))
    assert [row.created_ms for row in kept] == [15, 14, 13, 1]


async def test_a_dispatcher_delivers_across_restarts(store: Store) -> None:
    clock, alerts, channel = ManualClock(), GivenAlerts(), MemoryChannel()

    async def life() -> Dispatcher:
        silences = SilenceBook(store, clock)
        silences.load()
        kept = Outbox(StoreRows(store))
        kept.load()
        made = Dispatcher(kept, silences, clock, ChannelSet({LONGEST_NAME: channel}).send)
        routing = Routing((Route("r" * 200, read_match(""), (LONGEST_NAME,)),))
        await made.configure(Setup(routing, frozenset({LONGEST_NAME}), Planner(alerts.describe)))
        made.begin(alerts)
        return made

    async def turn(made: Dispatcher) -> None:
        clock.advance(400)
        await made.turn()
        await made.drain()
        await made.turn()

    channel.fail_next(SendFailed("\x00 no \ud800", transient=True), accepted=True)
    hostile = labelled("A", instance="\x00\ud800\u202e" + "x" * 1_000)
    alert = alerts.fire(clock.wall_ms(), **hostile)
    await turn(await life())
    await turn(await life())
    alerts.resolve(alert, clock.wall_ms())
    last = await life()
    await turn(last)
    assert [one.kind.value for one in channel.accepted] == ["firing", "firing", "resolved"]
    assert channel.accepted[0].key == channel.accepted[1].key
    assert channel.accepted[-1].alerts[0].labels == hostile
    assert last.outbox.counters.write_failures == 0


async def test_silences_live_through_a_restart_with_their_scope_and_end_once(store: Store) -> None:
    clock = ManualClock()
    book = SilenceBook(store, clock)
    scope = View.of(['team="a"', 'team="b",site=~"x\\ny"'])
    made = await book.add('alertname="Ä",instance!~"web[0-9]+"', 3_600, "weil\x00 \n so", "änn\x1b", 5, scope)
    clock.advance(1)  # They are read in the order of their making.
    whole = await book.add('alertname="X"', 60, "work", "bob")
    again = SilenceBook(store, clock)
    again.load()
    assert again.all() == (made, whole)
    assert again.get(made.silence_id).scope == scope
    ended = await asyncio.gather(
        *(book.expire(whole.silence_id, name) for name in ("anna", "bob")), return_exceptions=True
    )
    assert sum(isinstance(one, Refused) for one in ended) == 1
    with pytest.raises(Refused, match="ended already"):
        await again.expire(whole.silence_id, "carl")
    for text in ('a="\x00"', 'a=~"\ud800"'):
        with pytest.raises(UsageError):
            await book.add(text, 60, "r", "anna")
    clock.advance(40 * 86_400)
    await book.add('alertname="Y"', 60, "work", "bob")
    again.load()
    assert [one.match.text for one in again.all()] == ['{alertname="Y"}'], "what ended long ago went"
