"""A person asks, the collector writes that down and asks the host; what the host says is told for what it is."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from watchbill.backups.bounds import LEVEL_CHARACTERS_MAX
from watchbill.backups.definition import Definition
from watchbill.backups.record import Kind, Level, Outcome, Proof, Source, new_id
from watchbill.backups.requests import BACKUP_ANSWERED, WHY_CHARACTERS_MAX
from watchbill.clock import ManualClock
from watchbill.errors import Refused, Unreachable
from watchbill.limits import REQUEST_WITHIN_S
from watchbill.protocol.frames import VerifyBackup
from watchbill_collector.api.backup_port import VerifyRequest, backup_id
from watchbill_collector.backups import JobKey
from watchbill_collector.ingest.ports import Reach
from watchbill_collector.ingest.session import RecordRefused
from watchbill_collector.services.backup_requests import (
    KEPT_JOBS_MAX,
    KEPT_PER_JOB,
    UNANSWERED_MAX,
    Answered,
    VerifyRequests,
)
from watchbill_collector.store import Store, audit
from watchbill_collector.store.audit import Filter

from .kept import ANN, DB, WEB, Kept, Life

NIGHTLY = Definition(name="nightly", tool="files")
NIGHTLY_ID = backup_id(WEB, "nightly")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("state")
    Store.open(directory, "main").close()
    return directory / "control.db"


@pytest_asyncio.fixture
async def life(template: Path, tmp_path: Path) -> AsyncIterator[Life]:
    kept = Kept.beside(template, tmp_path)
    life = await kept.life().begin()
    life.define(NIGHTLY)
    await life.turn()
    yield life
    await kept.close()


def answer(request_id: str, **said: Any) -> bytes:
    return json.dumps({"request": request_id, "job": "nightly", "answer": "begun"} | said).encode()


def asked_for(life: Life) -> list[Any]:
    """Rows of the audit about it, the newest first."""
    rows = life.store.read(lambda c: audit.rows_newest(c, "main", Filter(), 10))
    return [row for row in rows if row.action == "backup.verify"]


async def of(life: Life) -> list[VerifyRequest]:
    return list((await life.answers.history(NIGHTLY_ID, 10)).asked)


async def test_what_goes_to_the_host_is_what_was_written_down_first(life: Life) -> None:
    written: list[int] = []
    life.hosts.answers = lambda *_: written.append(len(asked_for(life)))
    made = await life.answers.verify(NIGHTLY_ID, "data", ANN)
    assert life.hosts.asked == [(WEB, VerifyBackup(bytes.fromhex(made.id), "nightly", "data"))]
    assert written == [1], "before the host was asked"
    (row,) = asked_for(life)
    assert (row.actor, row.target, json.loads(row.detail)) == (
        "ann",
        "web01/nightly",
        {"request": made.id, "level": "data"},
    )


@pytest.mark.parametrize(
    ("reach", "error", "words"),
    [
        (Reach.AWAY, Unreachable, "is not connected"),
        (Reach.TOO_OLD, Refused, "the agent of web01 is too old"),
    ],
)
async def test_a_host_that_cannot_be_asked_leaves_nothing_behind(
    life: Life, reach: Reach, error: type[Exception], words: str
) -> None:
    life.hosts.hosts[WEB] = reach
    with pytest.raises(error, match=words):
        await life.answers.verify(NIGHTLY_ID, "", ANN)
    assert (await of(life), asked_for(life), life.hosts.asked) == ([], [], [])


async def test_a_host_that_goes_while_it_is_written_down_was_not_asked(life: Life) -> None:
    reaches = iter((Reach.ASKED, Reach.AWAY))
    life.hosts.reach = lambda *_: next(reaches)  # type: ignore[method-assign]
    with pytest.raises(Unreachable):
        await life.answers.verify(NIGHTLY_ID, "", ANN)
    assert (await of(life), len(asked_for(life))) == ([], 1), "that somebody wanted it stays"


async def test_a_job_that_its_host_has_no_more_is_not_asked_about(life: Life) -> None:
    life.define()
    await life.turn()
    with pytest.raises(Refused, match="retired"):
        await life.answers.verify(NIGHTLY_ID, "", ANN)
    assert life.hosts.asked == []


async def test_an_answer_that_comes_late_is_told_all_the_same_and_the_first_one_counts(life: Life) -> None:
    made = await life.answers.verify(NIGHTLY_ID, "", ANN)
    assert made.answer == ""
    life.say(BACKUP_ANSWERED, answer(made.id, level="structure", copy="nas"), WEB, bytes.fromhex(made.id))
    (one,) = await of(life)
    assert (one.answer, one.level, one.copy) == ("begun", "structure", "nas")
    life.say(BACKUP_ANSWERED, answer(made.id, answer="refused"), WEB, bytes.fromhex(made.id))
    assert (await of(life))[0].answer == "begun"


async def test_a_host_answers_for_nobody_but_itself(life: Life) -> None:
    made = await life.answers.verify(NIGHTLY_ID, "", ANN)
    life.say(BACKUP_ANSWERED, answer(made.id), DB, bytes.fromhex(made.id))
    life.say(BACKUP_ANSWERED, answer(made.id, job="other"), WEB, bytes.fromhex(made.id))
    assert (await of(life))[0].answer == ""


async def test_what_was_found_is_an_entry_under_the_request(life: Life) -> None:
    made = await life.answers.verify(NIGHTLY_ID, "", ANN)
    record = life.ran(
        kind=Kind.VERIFY,
        source=Source.REPO,
        run_id=made.id,
        verify=Proof(level=Level.STRUCTURE, ok=False, bad=1),
        outcome=Outcome.FAILED,
    )
    await life.turn()
    history = await life.answers.history(NIGHTLY_ID, 10)
    (entry,) = [one for one in history.entries if one.run_id == made.id]
    assert (entry.kind, entry.outcome, entry.id) == ("verify", "failed", record.record_id)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        answer("0" * 32),
        answer("", job=""),
        answer("", job="x" * 65),
        answer("", answer="perhaps"),
        answer("", level=3),
    ],
)
async def test_an_answer_that_is_none_is_refused_at_the_door(life: Life, payload: bytes) -> None:
    event_id = new_id()
    payload = payload.replace(b'"request": ""', b'"request": "%s"' % event_id.encode())
    with pytest.raises(RecordRefused):
        life.say(BACKUP_ANSWERED, payload, WEB, bytes.fromhex(event_id))


async def test_what_a_host_says_is_short_and_can_be_printed(life: Life) -> None:
    made = await life.answers.verify(NIGHTLY_ID, "", ANN)
    odd = "\x1b[31m" + "x" * 5000
    said = answer(made.id, answer="refused", level=odd, reason=odd, why=odd, copy=odd)
    life.say(BACKUP_ANSWERED, said, WEB, bytes.fromhex(made.id))
    (one,) = await of(life)
    assert (len(one.level), len(one.why)) == (LEVEL_CHARACTERS_MAX, WHY_CHARACTERS_MAX)
    assert all(text.isprintable() for text in (one.level, one.reason, one.why, one.copy))


async def test_a_host_that_answers_nothing_is_asked_no_more_for_a_while() -> None:
    clock = ManualClock()
    requests = VerifyRequests(clock)
    for number in range(UNANSWERED_MAX):
        made = requests.make(JobKey(WEB, f"job{number}"), "web01", "", "ann")
    with pytest.raises(Refused, match="web01 has not answered 4 requests"):
        requests.make(JobKey(WEB, "another"), "web01", "", "ann")
    assert requests.make(JobKey(DB, "nightly"), "db01", "", "ann"), "others are"
    requests.answered(WEB, Answered(made.id, made.name, "refused"))
    assert requests.make(JobKey(WEB, "another"), "web01", "", "ann")
    clock.advance(REQUEST_WITHIN_S + 1)
    assert requests.make(JobKey(WEB, "another"), "web01", "", "ann")


async def test_the_newest_requests_are_kept_and_no_more() -> None:
    clock = ManualClock()
    requests = VerifyRequests(clock)
    keys = [JobKey(f"host{number}", "nightly") for number in range(KEPT_JOBS_MAX + 10)]
    for key in keys:
        requests.make(key, "x", "", "ann")
    assert [len(requests.of(key)) for key in (keys[0], keys[9], keys[10], keys[-1])] == [0, 0, 1, 1]
    for _ in range(KEPT_PER_JOB + 3):
        clock.advance(REQUEST_WITHIN_S)
        newest = requests.make(keys[-1], "x", "", "ann")
    assert len(requests.of(keys[-1])) == KEPT_PER_JOB
    assert requests.of(keys[-1])[0] == newest


async def test_who_waits_goes_on_when_the_answer_is_there() -> None:
    requests, key = VerifyRequests(ManualClock()), JobKey(WEB, "nightly")
    made = requests.make(key, "web01", "", "ann")
    waiting = asyncio.create_task(requests.wait(key, made, 60))
    await asyncio.sleep(0)
    requests.answered(WEB, Answered(made.id, "nightly", "begun", "data"))
    async with asyncio.timeout(30):
        assert (await waiting).level == "data"
