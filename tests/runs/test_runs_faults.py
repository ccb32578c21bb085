"""Faults of the house itself: a store that cannot be written, an inbox that is full, a journal that is too long."""

import dataclasses

import pytest

from tests.runs.conftest import SITE, House, action
from watchbill.actions.definition import Action, Effect
from watchbill.actions.outcomes import (
    ACTIONS_INVENTORY,
    COMMAND_FINISHED,
    Finished,
    Inventory,
    Outcome,
    States,
)
from watchbill.errors import Refused, StorageError
from watchbill.protocol.frames import Stream
from watchbill_collector.ingest.ports import CritEvent, Mark
from watchbill_collector.ingest.session import RecordRefused
from watchbill_collector.services import runs as driver
from watchbill_collector.services.registry import StoreCritSink
from watchbill_collector.services.run_intake import Committed, Inventories, RunDoor
from watchbill_collector.store import commands, inventories
from watchbill_collector.store import runs as run_rows

CRIT = int(Stream.CRIT)
TWO = "runbook: r\nabout: x\nsteps:\n  - {id: a, do: act, on: db1}\n  - {id: b, do: act, on: db1}\n"


async def test_what_could_not_be_written_never_happened(house: House) -> None:
    host = house.host("db1")
    host.allow(*action("act", "repeat"))
    house.runbook(TWO)
    run_id = await house.begin("r")
    failures = iter([False, True, True, False, True])

    def fail() -> None:
        if next(failures, False):
            raise StorageError("the disk is full")

    house.writing = fail
    await house.settle()
    for _ in range(6):
        await house.settle()
    assert house.state(run_id) == "succeeded"
    assert host.ran["act"] == 2
    assert max(host.keys.values()) == 1
    assert house.runs.counters.thrown_away == 3


async def test_a_persons_word_that_could_not_be_written_is_refused_and_changes_nothing(house: House) -> None:
    house.host("db1", at_once=False).allow(*action("act", "once"))
    house.runbook(TWO)
    run_id = await house.begin("r")
    await house.settle()

    def fail() -> None:
        raise StorageError("the disk is full")

    house.writing = fail
    with pytest.raises(StorageError):
        await house.say(run_id, "abort")
    house.writing = lambda: None
    await house.settle()
    assert house.state(run_id) == "running"
    await house.say(run_id, "abort")
    await house.settle()
    assert house.state(run_id) == "cancelled"


async def test_what_the_inbox_had_no_room_for_is_read_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "INBOX_MAX", 1)
    host = house.host("db1")
    host.allow(*action("act", "repeat"))
    house.runbook(TWO)
    run_id = await house.begin("r")
    await house.settle()
    assert house.runs.counters.inbox_lost > 0
    assert house.state(run_id) == "succeeded"


async def test_a_journal_that_is_too_long_holds_its_run_and_people_may_end_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_rows, "ROWS_PER_RUN_MAX", 8)
    host = house.host("db1")
    host.allow(*action("act", "repeat"))
    house.runbook(TWO)
    run_id = await house.begin("r")
    await house.settle()
    assert house.state(run_id) == "held"
    assert "journal is as long as one may be" in house.run(run_id).detail
    assert host.ran["act"] == 1
    await house.say(run_id, "abort")
    assert house.state(run_id) == "cancelled"


async def test_aborted_twice_a_run_ends_at_once_and_says_what_is_unknown(house: House) -> None:
    host = house.host("db1", at_once=False)
    host.allow(*action("act", "once"))
    house.runbook(TWO)
    run_id = await house.begin("r")
    await house.settle()
    host.connected = False
    await house.say(run_id, "abort")
    assert house.state(run_id) == "cancelling"
    await house.say(run_id, "abort")
    assert house.state(run_id) == "cancelled"
    assert "unknown: act on db1" in house.summary(run_id).state_detail


async def test_what_people_say_at_the_wrong_time_is_refused_with_why(house: House) -> None:
    house.host("db1", at_once=False).allow(*action("act", "once"))
    house.runbook(TWO)
    run_id = await house.begin("r")
    await house.settle()
    for verb, why in (
        ("retry", "is for steps of a run that is held"),
        ("undo", "at work"),
        ("start", "only what is proposed"),
    ):
        with pytest.raises(Refused, match=why):
            await house.say(run_id, verb)


# ---------------------------------------------------------------- what hosts say


def event(kind: str, payload: bytes, seq: int, content: object) -> CritEvent:
    return CritEvent(
        seq=seq,
        event_id=seq.to_bytes(16),
        kind=kind,
        boottime_ms=1,
        wall_ms=1,
        payload=payload,
        content=content,
    )


def finished(key: str) -> Finished:
    return Finished(
        key=key, run="r1", step="a", ledger="l", outcome=Outcome.OK, started_ms=1, ended_ms=2, exit_code=0
    )


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (COMMAND_FINISHED, b"{}"),
        (COMMAND_FINISHED, b"no json"),
        (COMMAND_FINISHED, b'{"key":1.5}'),
        (ACTIONS_INVENTORY, b'{"version":"1"}'),
    ],
)
def test_what_cannot_be_read_is_refused_at_the_door(store_house: House, kind: str, payload: bytes) -> None:
    door = RunDoor(store_house.store, store_house.clock)
    with pytest.raises(RecordRefused):
        door.read("a", kind, b"", payload)
    assert door.refused == 1
    assert door.read("a", "backup.record", b"", payload) is None


def test_results_and_whole_inventories_are_told_once_they_are_committed(store_house: House) -> None:
    house = store_house
    host = house.host("db1")
    house.enrol()
    door, told = RunDoor(house.store, house.clock), list[Committed]()
    sink = StoreCritSink(house.store, house.clock)
    sink.commands, sink.commands_told = door, told.append
    actions = [Action(name=f"a{n}", argv=("/bin/true",), effect=Effect.READ) for n in range(3)]
    whole = Inventory(
        version="v", runner=True, ledger="l", epoch=1, roster_serial=0, roster_keys=(), actions=tuple(actions)
    )
    parts = [
        dataclasses.replace(whole, part=0, parts=2, actions=tuple(actions[:2])),
        dataclasses.replace(whole, part=1, parts=2, actions=tuple(actions[2:])),
    ]
    said = [finished("k"), parts[0], States(question="q", ledger="l", boot="b", states={})]
    kinds = [COMMAND_FINISHED, ACTIONS_INVENTORY, "command.states"]
    events = []
    for seq, (kind, one) in enumerate(zip(kinds, said, strict=True), 1):
        payload = one.to_json()
        events.append(event(kind, payload, seq, door.read(host.agent, kind, b"", payload)))
    spool = (host.agent, b"spool")
    sink.commit([Mark(*spool, CRIT, 3, 0)], {spool: events})
    assert [type(one).__name__ for _, one in told[0].told] == ["Finished", "States"]
    assert told[0].inventories == []
    # Again, as after a lost acknowledgement: nothing new.
    sink.commit([Mark(*spool, CRIT, 3, 0)], {spool: events})
    assert len(told) == 1
    payload = parts[1].to_json()
    last = event(ACTIONS_INVENTORY, payload, 4, door.read(host.agent, ACTIONS_INVENTORY, b"", payload))
    sink.commit([Mark(*spool, CRIT, 4, 0)], {spool: [last]})
    assert told[1].inventories[0].inventory == whole
    kept = house.store.read(lambda c: inventories.all_of(c, SITE))
    assert kept[host.agent].inventory == whole
    assert Inventories(house.store).ledger(host.agent) == "l"
    found = house.store.read(lambda c: list(commands.since(c, SITE, 0)))
    assert [(agent, one.key) for agent, one in found] == [(host.agent, "k")]
