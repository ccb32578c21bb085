"""Jobs that ping: what healthchecks takes is taken here, and nothing that nobody should say."""

import asyncio

import pytest

from watchbill.backups.record import Outcome, Source, record_fault
from watchbill.clock import ManualClock
from watchbill.config import Address
from watchbill_agent.backups.pings import PINGS_PER_MINUTE_MAX, Pings


@pytest.fixture
async def door():
    kept = []

    async def keep(record):
        kept.append(record)
        return door.keeping

    door = Pings(Address("127.0.0.1", 0), lambda: door.names, keep, ManualClock())
    door.keeping, door.names, door.kept = True, frozenset({"nightly", "other"}), kept
    await door.start()
    yield door
    await door.stop()


async def ask(door, target, method="GET", body=b"", headers=""):
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{length}{headers}\r\n".encode() + body)
    answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


async def test_a_start_and_an_end_are_one_run(door):
    assert await ask(door, "/ping/nightly/start") == (200, "OK\n")
    assert await ask(door, "/ping/nightly/log", "POST", b"half of it") == (200, "OK\n")
    door._clock.advance(60)
    assert await ask(
        door, "/ping/nightly", "POST", b"all of it\nAWS_SECRET_ACCESS_KEY=abcdefghij0123456789\n"
    ) == (200, "OK\n")
    begun, going_on, ended = door.kept
    assert begun.run_id == going_on.run_id == ended.run_id
    assert [one.outcome for one in door.kept] == [Outcome.RUNNING, Outcome.RUNNING, Outcome.OK]
    assert ended.started_ms == begun.started_ms == ended.point_ms
    assert ended.finished_ms - ended.started_ms == 60_000
    assert {one.source for one in door.kept} == {Source.PING}
    assert "all of it" in ended.tail
    assert "abcdefghij" not in ended.tail
    assert not any(record_fault(one) for one in door.kept)
    await ask(door, "/ping/nightly")
    assert door.kept[-1].run_id != ended.run_id


@pytest.mark.parametrize(
    ("verb", "outcome", "code"),
    [
        ("", Outcome.OK, None),
        ("/fail", Outcome.FAILED, None),
        ("/0", Outcome.OK, 0),
        ("/137", Outcome.FAILED, 137),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_what_ends_a_run(door, verb, outcome, code, method):
    assert (await ask(door, "/ping/nightly" + verb, method))[0] == 200
    (record,) = door.kept
    assert (record.job, record.outcome, record.exit_code) == ("nightly", outcome, code)


async def test_runs_that_overlap_are_told_apart_by_their_names(door):
    first, second = "11111111-2222-3333-4444-555555555555", "66666666-2222-3333-4444-555555555555"
    for target in (f"start?rid={first}", f"start?rid={second}", f"fail?rid={first}", f"0?rid={second}"):
        assert (await ask(door, f"/ping/nightly/{target}"))[0] == 200
    runs = [one.run_id for one in door.kept]
    assert runs[0] == runs[2] != runs[1] == runs[3]


async def test_a_word_about_a_run_that_is_not_there_makes_none(door):
    assert await ask(door, "/ping/nightly/log") == (200, "OK, but no run goes on\n")
    assert door.kept == []


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 404),
        ("/ping/", 404),
        ("/ping/strange", 404),
        ("/ping/nightly/start/more", 404),
        ("/ping/nightly/256", 400),
        ("/ping/nightly/-1", 400),
        ("/ping/nightly/stop", 400),
        ("/ping/..%2f..%2fetc", 404),
        ("/ping/nightly/start?rid=" + "x" * 300, 400),
        ("/nothing/nightly", 404),
    ],
)
async def test_what_is_no_ping_is_refused_and_counted(door, target, status):
    assert (await ask(door, target))[0] == status
    assert (door.kept, door.taken, door.turned_away) == ([], 0, 1)


async def test_a_page_in_a_browser_cannot_ping(door):
    assert (await ask(door, "/ping/nightly", "POST", b"x", "Origin: http://evil.example\r\n"))[0] == 403
    assert (await ask(door, "/ping/nightly", headers="Sec-Fetch-Site: cross-site\r\n"))[0] == 403
    assert door.kept == []


async def test_a_job_that_pings_for_ever_is_held_back_and_others_are_not(door):
    answers = [(await ask(door, "/ping/nightly"))[0] for _ in range(PINGS_PER_MINUTE_MAX + 2)]
    assert answers == [200] * PINGS_PER_MINUTE_MAX + [429] * 2
    assert (await ask(door, "/ping/other"))[0] == 200
    door._clock.advance(60)
    assert (await ask(door, "/ping/nightly"))[0] == 200


async def test_what_could_not_be_kept_is_not_called_taken(door):
    await ask(door, "/ping/nightly/start")
    door.keeping = False
    assert (await ask(door, "/ping/nightly"))[0] == 503
    door.keeping = True
    await ask(door, "/ping/nightly")
    begun, refused, ended = door.kept
    assert begun.run_id == refused.run_id == ended.run_id


async def test_a_body_without_a_measure_ends_where_it_is_bounded(door):
    assert (await ask(door, "/ping/nightly", "POST", b"x" * 300_000 + b"end"))[0] == 200
    assert record_fault(door.kept[0]) == ""
