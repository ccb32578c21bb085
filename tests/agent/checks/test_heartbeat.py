"""A job pings its heartbeat through the agent's door: kept before it is answered, and judged at once."""

import asyncio

import pytest

from watchbill.clock import ManualClock
from watchbill.config import Address, Duration
from watchbill_agent.backups.pings import Beats, Pings
from watchbill_agent.checks.check import About, Verdict
from watchbill_agent.checks.kinds.heartbeat import Heartbeat, Options


@pytest.fixture
async def door():
    told = []

    async def tell(ping):
        told.append(ping)
        return door.keeping

    async def keep(record):
        told.append(record)
        return True

    beats = Beats(lambda: {"reindex"}, tell)
    door = Pings(Address("127.0.0.1", 0), lambda: {"nightly"}, keep, ManualClock(), beats)
    door.keeping, door.told = True, told
    await door.start()
    yield door
    await door.stop()


async def ask(door, target, body=b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(f"POST {target} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split()[1])


@pytest.mark.parametrize(
    ("verb", "what", "code"),
    [
        ("", "success", None),
        ("/start", "start", None),
        ("/log", "log", None),
        ("/fail", "fail", None),
        ("/0", "success", 0),
        ("/9", "fail", 9),
    ],
)
async def test_every_ping_of_healthchecks_reaches_the_check(door, verb, what, code):
    assert (
        await ask(door, f"/ping/reindex{verb}", b"said\nAWS_SECRET_ACCESS_KEY=abcdefghij0123456789\n") == 200
    )
    (ping,) = door.told
    assert (ping.name, ping.what, ping.code) == ("reindex", what, code)
    assert ping.text.startswith("said")
    assert "abcdefghij" not in ping.text


async def test_what_cannot_be_kept_is_not_called_taken_and_jobs_stay_jobs(door):
    door.keeping = False
    assert await ask(door, "/ping/reindex") == 503
    assert await ask(door, "/ping/reindex/256") == 400
    assert await ask(door, "/ping/strange") == 404
    assert await ask(door, "/ping/nightly") == 200
    assert door.told[-1].job == "nightly"


async def test_a_check_tells_what_it_heard_and_remembers_it():
    options = Options(every=Duration(3600), grace=Duration(60))
    check = Heartbeat(options, About("reindex", 30, 5))
    outcome = await check.look(5)
    assert (outcome.verdict, outcome.reason) == (Verdict.UNKNOWN, "never-heard")
    now_ms = check._heart.listened_ms
    check.heard("start", None, "", now_ms - 5_000)
    assert check.heard("success", 0, "", now_ms) == ()
    outcome = await check.look(5)
    assert (outcome.verdict, outcome.reason) == (Verdict.OK, "")
    again = Heartbeat(options, About("reindex", 30, 5))
    again.recall(check.memory())
    outcome = await again.look(5)
    pairs = zip(outcome.samples.series, outcome.samples.values, strict=True)
    found = {one.name + "".join(f" {value}" for _, value in one.labels): value for one, value in pairs}
    assert outcome.verdict is Verdict.OK
    assert found["watchbill_heartbeat_last_duration_seconds"] == 5
    assert found["watchbill_heartbeat_last_ping_timestamp_seconds"] == now_ms / 1000
    assert found["watchbill_heartbeat_next_due_timestamp_seconds"] == now_ms / 1000 + 3600
    assert found["watchbill_heartbeat_pings_total start"] == 1
    again.heard("fail", 3, "", now_ms + 10)
    outcome = await again.look(5)
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "failed")
    assert "with exit code 3; last went well" in outcome.detail


async def test_a_ping_of_the_future_silences_nothing():
    check = Heartbeat(Options(every=Duration(1), grace=Duration(0)), About("reindex", 30, 5))
    await check.look(5)
    check.heard("success", None, "", 9_999_999_999_999)
    assert check._heart.ok_ms < 9_000_000_000_000
