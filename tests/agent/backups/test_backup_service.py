"""What the daemon makes of backups: what it announces, when it looks, what it keeps, what it remembers."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from watchbill.backups.definition import (
    JOB_NAME_CHARACTERS_MAX,
    JOBS_MAX,
    Definition,
    ProofAges,
    read_definition,
)
from watchbill.backups.record import (
    BACKUP_DEFINED,
    BACKUP_JOBS,
    BACKUP_RECORD,
    SNAPSHOTS_MAX,
    TEXT_CHARACTERS_MAX,
    Level,
    Outcome,
    Proof,
    Record,
    read_record,
)
from watchbill.backups.requests import BACKUP_ANSWERED, UNKNOWN_JOB
from watchbill.clock import ManualClock
from watchbill.config import Homes
from watchbill.errors import ConfigError, StorageError
from watchbill.limits import EVENT_BYTES_MAX
from watchbill.protocol.frames import VERIFY, Stream, VerifyBackup
from watchbill_agent import doctor
from watchbill_agent.backups import asked, child, service
from watchbill_agent.backups.adapter import Check, Observation, Reason, Snapshot, Verification
from watchbill_agent.backups.adapters.files import Files
from watchbill_agent.backups.asked import Answer, ask
from watchbill_agent.backups.config import JobConfig, Target
from watchbill_agent.backups.looks import Looked, observed, verified
from watchbill_agent.backups.memory import Memory, load, save
from watchbill_agent.backups.present import load_jobs
from watchbill_agent.backups.repository import scratch_name
from watchbill_agent.backups.service import Backups
from watchbill_agent.backups.verifying import Progress, next_check, parts_of, proved, unproved
from watchbill_agent.events import Events
from watchbill_agent.spool import MemoryKeeper, MemorySpool, Receipt, SpoolFull

AGENT = "0b5ad4fe-66c5-4bd5-a2ed-0c1dd45c1d1e"
DAY_MS = 86_400_000
LOOKED = Looked(job="db", tool="files", copy="nas", began_ms=1000, ended_ms=2000)


def a_job(name: str = "db", every_s: float = 3600, **verify: float) -> JobConfig:
    definition = Definition(
        name=name, tool="files", observed=True, observe_every_s=float(every_s), verify=ProofAges(**verify)
    )
    levels = {Level(key.removesuffix("_s")) for key in verify}
    return JobConfig(definition=definition, targets=(Target(copy="", levels=frozenset(levels)),))


class Kept(Events):
    """The door for events, with a list of what went through it; `full` is a spool that takes nothing."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(MemoryKeeper(MemorySpool()), clock)
        self.all: list[tuple[str, dict[str, Any]]] = []
        self.full = False

    async def keep(self, kind: str, payload: Mapping[str, object], event_id: bytes | None = None) -> Receipt:
        if self.full:
            raise SpoolFull("the spool is full")
        receipt = await super().keep(kind, payload, event_id)
        self.all.append((kind, dict(payload)))
        return receipt

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [payload for found, payload in self.all if found == kind]

    def records(self) -> list[Record]:
        return [read_record(json.dumps(payload).encode()) for payload in self.of(BACKUP_RECORD)]


class House:
    """A service whose child answers from `say`."""

    def __init__(self, tmp_path: Path, *jobs: JobConfig, agent_id: str = AGENT) -> None:
        self.clock = ManualClock(1_900_000_000_000)
        self.events = Kept(self.clock)
        self.questions: list[dict[str, Any]] = []
        self.say: Callable[[dict[str, Any]], Answer] = lambda _: answer(Observation(outcome=Outcome.OK))
        self.backups = Backups(
            jobs, tmp_path, agent_id, self.events, self.clock, ask=self.ask, uniform=lambda a, b: (a + b) / 2
        )

    async def ask(self, question: dict[str, Any], within_s: float) -> Answer:
        self.questions.append(question)
        return self.say(question)

    async def go(self, seconds: float) -> None:
        """Let time pass, doing what is due when it is due."""
        until_s = self.clock.monotonic_s() + seconds
        while True:
            wait_s = await self.backups.look_turn()
            if wait_s > 0:
                wait_s = min(wait_s, await self.backups.verify_turn())
            if self.clock.monotonic_s() + wait_s > until_s:
                self.clock.advance(max(0.0, until_s - self.clock.monotonic_s()))
                return
            self.clock.advance(wait_s)


def answer(found: Observation | Verification, told: str = "") -> Answer:
    if isinstance(found, Observation):
        records = observed(replace(LOOKED, told_digest=told), found)
        return Answer(tuple(record.to_json() for record in records))
    return Answer((verified(LOOKED, found).to_json(),))


def snapshots(count: int, id_characters: int = 64) -> tuple[Snapshot, ...]:
    return tuple(Snapshot(id=f"{number:0{id_characters}}", time_ms=1000 + number) for number in range(count))


def test_a_proof_is_of_the_time_at_which_it_was_found() -> None:
    """A scrub that ended before it was read; one that ends later than now is no more than now."""
    proof = Proof(level=Level.DATA, ok=True)
    for proved_ms, finished_ms in ((0, 2000), (500, 500), (9000, 2000)):
        record = verified(LOOKED, Verification(outcome=Outcome.OK, proof=proof, proved_ms=proved_ms))
        assert (record.finished_ms, record.observed_ms) == (finished_ms, 2000)
        assert record.started_ms <= record.finished_ms


# ---------------------------------------------------------------- announcing


async def test_a_host_tells_its_jobs_first_and_each_definition_once(tmp_path: Path) -> None:
    jobs = (a_job("db"), a_job("files"))
    house = House(tmp_path, *jobs)
    await house.go(1)
    assert [kind for kind, _ in house.events.all] == [BACKUP_JOBS, BACKUP_DEFINED, BACKUP_DEFINED]
    assert house.events.of(BACKUP_JOBS) == [{"jobs": {job.name: job.definition.digest() for job in jobs}}]
    for told, job in zip(house.events.of(BACKUP_DEFINED), jobs, strict=True):
        definition = read_definition(json.dumps(told["definition"]).encode())
        assert (definition, told["digest"]) == (job.definition, definition.digest())


async def test_after_a_restart_only_what_changed_is_told_again(tmp_path: Path) -> None:
    await House(tmp_path, a_job("db"), a_job("files")).go(1)
    house = House(tmp_path, a_job("db", every_s=7200), a_job("files"))
    await house.go(1)
    assert [told["definition"]["name"] for told in house.events.of(BACKUP_DEFINED)] == ["db"]
    assert set(house.events.of(BACKUP_JOBS)[0]["jobs"]) == {"db", "files"}


async def test_a_week_later_and_for_another_collector_all_is_told_again(tmp_path: Path) -> None:
    await House(tmp_path, a_job("db")).go(1)
    later = House(tmp_path, a_job("db"))
    later.clock.advance(8 * 86_400)
    await later.go(1)
    assert len(later.events.of(BACKUP_DEFINED)) == 1
    other = House(tmp_path, a_job("db"), agent_id="another")
    await other.go(1)
    assert len(other.events.of(BACKUP_DEFINED)) == 1


async def test_when_the_last_job_is_gone_that_is_told(tmp_path: Path) -> None:
    house = House(tmp_path, a_job("db"))
    await house.go(1)
    house.backups.adopt(())
    await house.go(1)
    assert house.events.of(BACKUP_JOBS)[-1] == {"jobs": {}}
    assert (house.backups.counts.jobs, house.backups.seen()) == (0, [])


async def test_a_full_spool_delays_the_announcement_and_nothing_is_looked_at_before_it(
    tmp_path: Path,
) -> None:
    house = House(tmp_path, a_job("db"))
    house.events.full = True
    await house.go(7200)
    assert house.questions == []
    assert house.backups.counts.refused > 10
    house.events.full = False
    await house.go(3700)
    assert len(house.events.of(BACKUP_JOBS)) == 1
    assert house.questions


# ---------------------------------------------------------------- looks


async def test_each_repository_is_looked_at_as_often_as_its_job_says(tmp_path: Path) -> None:
    house = House(tmp_path, a_job("slow", every_s=3600), a_job("fast", every_s=600))
    await house.go(6 * 3600)
    asked_of = [question["job"].name for question in house.questions]
    assert (asked_of.count("slow"), asked_of.count("fast")) == (6, 36)
    assert house.backups.counts.looks == house.backups.counts.records == 42


async def test_a_look_becomes_a_critical_event_under_its_own_id(tmp_path: Path) -> None:
    house = House(tmp_path, a_job("db"))
    house.say = lambda _: answer(Observation(outcome=Outcome.OK, snapshots=snapshots(3), repo_id="r1"))
    await house.go(600)
    (record,) = house.events.records()
    assert (record.kind, record.source, record.outcome, record.repo_id) == ("observe", "repo", "ok", "r1")
    assert record.snapshots is not None
    assert (record.snapshots.count, record.point_ms) == (3, 1002)


async def test_a_list_of_snapshots_is_told_when_it_changed_and_once_a_week(tmp_path: Path) -> None:
    house = House(tmp_path, a_job("db"))
    found = Observation(outcome=Outcome.OK, snapshots=snapshots(3))
    house.say = lambda question: answer(found, question["told_digest"])
    await house.go(3 * 3600)
    found = Observation(outcome=Outcome.OK, snapshots=snapshots(4))
    await house.go(2 * 3600)
    listed = [len(record.snapshots.listed) for record in house.events.records() if record.snapshots]
    assert listed == [3, 0, 0, 4, 0]
    again = House(tmp_path, a_job("db"))
    again.say = lambda question: answer(found, question["told_digest"])
    again.clock.advance(5 * 3600)
    await again.go(3600)
    again.clock.advance(8 * 86_400)
    await again.go(1)
    listed = [len(record.snapshots.listed) for record in again.events.records() if record.snapshots]
    assert (set(listed[:-1]), listed[-1]) == ({0}, 4)


async def test_a_list_that_the_spool_did_not_take_is_told_by_the_next_look(tmp_path: Path) -> None:
    house = House(tmp_path, a_job("db"))
    await house.backups.look_turn()
    house.say = lambda question: answer(
        Observation(outcome=Outcome.OK, snapshots=snapshots(3)), question["told_digest"]
    )
    house.events.full = True
    await house.go(240)
    assert house.events.records() == []
    house.events.full = False
    await house.go(120)
    (record,) = house.events.records()
    assert record.snapshots is not None
    assert len(record.snapshots.listed) == 3


async def test_what_a_child_does_not_say_is_unknown_with_a_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    house = House(tmp_path, a_job("db"))
    house.say = lambda _: Answer(fault="the child was killed: MemoryError")
    await house.go(2 * 3600)
    house.say = lambda _: Answer(fault="it did not end in time", timed_out=True)
    await house.go(3600)
    house.say = lambda _: Answer((b'{"half": ',))
    await house.go(3600)
    house.say = lambda _: answer(Observation(outcome=Outcome.OK))
    await house.go(3600)
    records = house.events.records()
    assert [(record.outcome, record.reason) for record in records] == [
        ("unknown", Reason.ADAPTER_FAILED),
        ("unknown", Reason.ADAPTER_FAILED),
        ("unknown", Reason.TIMED_OUT),
        ("unknown", Reason.ADAPTER_FAILED),
        ("ok", ""),
    ]
    assert records[0].errors == ("the child was killed: MemoryError",)
    assert "answer is none" in records[3].errors[0]
    assert house.backups.counts.looks_failed == 4
    said = [record.getMessage() for record in caplog.records if record.name == service.__name__]
    assert said.count("a backup cannot be looked at") == 3, "once for each reason, not for each look"
    assert said[-1] == "a backup can be looked at again"


async def test_after_a_run_its_repository_is_looked_at_soon(tmp_path: Path) -> None:
    house = House(tmp_path, a_job("db", every_s=86_400), a_job("files", every_s=86_400))
    await house.go(3600)
    house.questions.clear()
    house.backups.soon("files")
    house.backups.soon("no such job")
    await house.go(60)
    assert [question["job"].name for question in house.questions] == ["files"]


async def test_a_reload_looks_no_more_often_and_asks_with_what_is_new(tmp_path: Path) -> None:
    house = House(tmp_path, a_job("db"))
    await house.go(600)
    assert len(house.questions) == 1
    for _ in range(5):
        house.backups.adopt((a_job("db"),))
        await house.go(60)
    assert len(house.questions) == 1
    house.backups.adopt((replace(a_job("db"), targets=(Target(options={"paths": ["/new/*"]}),)),))
    await house.go(600)
    assert house.questions[-1]["target"].options == {"paths": ["/new/*"]}


async def test_a_run_that_ends_during_a_look_is_looked_at_once_more(tmp_path: Path) -> None:
    house = House(tmp_path, a_job("db", every_s=86_400))

    def say(_: dict[str, Any]) -> Answer:
        if len(house.questions) == 1:
            house.backups.soon("db")
        return answer(Observation(outcome=Outcome.OK))

    house.say = say
    await house.go(3600)
    assert len(house.questions) == 2


async def test_a_reload_during_a_look_loses_neither_its_record_nor_the_announcement(tmp_path: Path) -> None:
    house = House(tmp_path, a_job("db"))

    def say(_: dict[str, Any]) -> Answer:
        if len(house.questions) == 1:
            house.backups.adopt((a_job("db"), a_job("files")))
        return answer(Observation(outcome=Outcome.OK, snapshots=snapshots(2)))

    house.say = say
    await house.go(300)
    assert len(house.events.records()) == 2
    assert house.events.of(BACKUP_JOBS)[-1]["jobs"].keys() == {"db", "files"}
    assert {(seen["job"], seen["snapshots"]) for seen in house.backups.seen()} == {("db", 2), ("files", 2)}


async def test_looks_go_on_while_a_verification_takes_its_hours(tmp_path: Path) -> None:
    house = House(tmp_path, a_job("db", data_s=86_400))
    begun, ends = asyncio.Event(), asyncio.Event()

    async def ask_slowly(question: dict[str, Any], within_s: float) -> Answer:
        house.questions.append(question)
        if question["do"] == "verify":
            begun.set()
            await ends.wait()
        return a_proof(question)

    house.backups.ask = ask_slowly
    house.clock.advance(180)
    assert await house.backups.look_turn() == 0.0
    running = asyncio.create_task(house.backups.verify_turn())
    await begun.wait()
    house.clock.advance(3700)
    assert await house.backups.look_turn() == 0.0
    assert house.questions[-1]["do"] == "observe"
    ends.set()
    assert await running == 0.0
    assert house.events.records()[-1].verify is not None


async def test_a_repository_whose_child_does_not_end_is_let_alone_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    house = House(tmp_path, a_job("hung"), a_job("fine"))
    stuck = Answer(fault="it did not end in time", timed_out=True, left=process)
    house.say = lambda question: (
        stuck if question["job"].name == "hung" else answer(Observation(outcome=Outcome.OK))
    )
    await house.go(5 * 3600)
    asked_of = [question["job"].name for question in house.questions]
    assert (asked_of.count("hung"), house.backups.counts.stuck) == (1, 1)
    assert asked_of.count("fine") >= 4
    process.kill()
    await process.wait()
    house.say = lambda _: answer(Observation(outcome=Outcome.OK))
    await house.go(2 * 3600)
    assert house.backups.counts.stuck == 0
    assert [question["job"].name for question in house.questions].count("hung") >= 2


async def test_what_was_found_last_can_be_asked_for(tmp_path: Path) -> None:
    house = House(tmp_path, a_job("db"))
    assert house.backups.seen()[0]["outcome"] == ""
    house.say = lambda _: answer(
        Observation(outcome=Outcome.PARTIAL, reason="file-empty", errors=("x",), snapshots=snapshots(2))
    )
    await house.go(600)
    (seen,) = house.backups.seen()
    assert (seen["job"], seen["outcome"], seen["reason"], seen["errors"], seen["snapshots"]) == (
        "db",
        "partial",
        "file-empty",
        ["x"],
        2,
    )


# ---------------------------------------------------------------- verifications


def a_proof(question: dict[str, Any]) -> Answer:
    if question["do"] == "observe":
        return answer(Observation(outcome=Outcome.OK))
    check = question["check"]
    fraction = check.fraction if check.level is Level.DATA else 1.0
    return answer(
        Verification(outcome=Outcome.OK, proof=Proof(level=check.level, ok=True, fraction=fraction))
    )


async def test_all_data_is_read_within_the_age_the_job_asks_for_also_over_restarts(tmp_path: Path) -> None:
    job = a_job("db", every_s=21_600, structure_s=7 * 86_400, data_s=10 * 86_400)
    house = House(tmp_path, job)
    house.say = a_proof
    parts: list[tuple[int, int]] = []
    structure = 0
    for _ in range(9):
        await house.go(86_400)
        checks = [question["check"] for question in house.questions if question["do"] == "verify"]
        parts += [(check.part, check.parts) for check in checks if check.level is Level.DATA]
        structure += sum(check.level is Level.STRUCTURE for check in checks)
        again = House(tmp_path, job)
        again.say = a_proof
        again.clock.advance(house.clock.monotonic_s() - again.clock.monotonic_s())
        house = again
    assert parts[:10] == [(part, 10) for part in range(1, 11)]
    assert 10 <= len(parts) <= 13
    assert structure == 2


async def test_a_verification_that_came_to_nothing_is_tried_again_with_the_same_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    house = House(tmp_path, a_job("db", data_s=30 * 86_400))
    house.say = lambda question: (
        answer(Observation(outcome=Outcome.OK))
        if question["do"] == "observe"
        else answer(Verification(outcome=Outcome.UNKNOWN, reason="repository-locked"))
    )
    await house.go(4 * 3600)
    checks = [question["check"] for question in house.questions if question["do"] == "verify"]
    assert 3 <= len(checks) <= 4
    assert {(check.part, check.parts) for check in checks} == {(1, 30)}
    said = [record.getMessage() for record in caplog.records if record.name == service.__name__]
    assert said == ["a backup could not be verified"], "once, not every hour"


async def test_what_cannot_be_looked_at_is_not_verified_either(tmp_path: Path) -> None:
    house = House(tmp_path, a_job("db", data_s=86_400))
    house.say = lambda _: answer(Observation(outcome=Outcome.UNKNOWN, reason="needs-runner"))
    await house.go(5 * 3600)
    assert {question["do"] for question in house.questions} == {"observe"}


def test_a_tool_that_reads_everything_at_once_is_asked_once_in_the_whole_time() -> None:
    check = Check(level=Level.DATA, part=4, parts=30)
    after = proved(check, Proof(level=Level.DATA, ok=True, fraction=1.0), 30 * 86_400, 0)
    assert (after.part, after.due_ms) == (30, 24 * DAY_MS)
    assert (
        proved(check, Proof(level=Level.DATA, ok=True, fraction=1 / 30), 30 * 86_400, 0).due_ms
        == 0.8 * DAY_MS
    )


def test_another_age_divides_the_data_anew() -> None:
    ages = ProofAges(data_s=10 * 86_400)
    due = next_check({Level.DATA}, ages, {Level.DATA: Progress(part=20, parts=30, due_ms=5)}, 10)
    assert due == (5, Check(level=Level.DATA, part=1, parts=10))
    assert unproved(Check(level=Level.DATA, parts=10), Progress(part=20, parts=30), 10 * 86_400, 0).part == 0


@pytest.mark.parametrize(("age_days", "after_days"), [(30.0, 1.0), (0.5, 0.4)])
def test_what_cannot_be_verified_here_at_all_is_told_once_a_day_and_within_its_age(
    age_days: float, after_days: float
) -> None:
    check, age_s = Check(level=Level.DATA, parts=30), age_days * 86_400
    found = unproved(check, Progress(), age_s, 0, hopeless=True)
    assert found.due_ms == after_days * DAY_MS
    due = next_check({Level.DATA}, ProofAges(data_s=age_s), {Level.DATA: found}, 1)
    assert due is not None
    assert due[0] == found.due_ms, "and is not taken for what a wrong clock wrote"


def test_a_due_time_that_a_wrong_clock_wrote_is_now() -> None:
    ages = ProofAges(data_s=86_400)
    due = next_check({Level.DATA}, ages, {Level.DATA: Progress(parts=1, due_ms=400 * DAY_MS)}, DAY_MS)
    assert due is not None
    assert due[0] == DAY_MS


@pytest.mark.parametrize(
    ("age_s", "parts"), [(3600, 1), (86_400, 1), (7.5 * 86_400, 7), (1000 * 86_400, 100)]
)
def test_data_is_read_a_part_a_day(age_s: float, parts: int) -> None:
    assert parts_of(Level.DATA, age_s) == parts
    assert parts_of(Level.STRUCTURE, age_s) == 1


# ---------------------------------------------------------------- memory


def test_a_memory_that_cannot_be_read_is_begun_anew(tmp_path: Path) -> None:
    assert load(tmp_path, AGENT) == Memory(AGENT)
    memory = Memory(AGENT)
    memory.repository("db/").progress[Level.DATA] = Progress(part=3, parts=10, due_ms=7)
    assert save(tmp_path, msgspec.json.encode(memory))
    assert load(tmp_path, AGENT) == memory
    for content in (b"", b"{", b"[]", b'{"repositories": 5}', b"\xff" * 100):
        (tmp_path / "backups/memory.json").write_bytes(content)
        assert load(tmp_path, AGENT) == Memory(AGENT)


async def test_a_disk_that_takes_no_memory_costs_no_record(tmp_path: Path) -> None:
    (tmp_path / "backups").write_text("no directory")
    house = House(tmp_path, a_job("db"))
    await house.go(600)
    assert len(house.events.records()) == 1


# ---------------------------------------------------------------- records


def test_ten_thousand_snapshots_come_in_parts_that_fit_an_event() -> None:
    found = Observation(outcome=Outcome.OK, snapshots=snapshots(10_000))
    records = observed(LOOKED, found)
    assert all(len(record.to_json()) < EVENT_BYTES_MAX for record in records)
    listed = [one for record in records if record.snapshots for one in record.snapshots.listed]
    assert listed == [(each.id, each.time_ms) for each in found.snapshots]
    assert len({record.record_id for record in records}) == len(records) == records[0].snapshots.parts
    assert [read_record(record.to_json()) for record in records] == list(records)


def test_of_more_than_fit_the_newest_are_listed_and_all_are_counted() -> None:
    found = Observation(outcome=Outcome.OK, snapshots=snapshots(SNAPSHOTS_MAX, 200))
    records = observed(LOOKED, found)
    listed = [one for record in records if record.snapshots for one in record.snapshots.listed]
    assert len(records) == 20
    assert records[0].snapshots is not None
    assert records[0].snapshots.count == SNAPSHOTS_MAX
    assert listed[-1][1] == found.snapshots[-1].time_ms
    assert len(listed) < SNAPSHOTS_MAX
    assert all(len(record.to_json()) < EVENT_BYTES_MAX for record in records)


async def test_what_is_hostile_in_every_text_still_fits_an_event(tmp_path: Path) -> None:
    odd = '\\"\x01\U0001f4a9\udcff' * 200
    found = Observation(
        outcome=Outcome.PARTIAL,
        reason=odd,
        errors=(odd,) * 20,
        snapshots=tuple(Snapshot(id=f"{number}{odd}", time_ms=number) for number in range(2000)),
        repo_id=odd,
        tool_version=odd,
        log_from=odd,
        log_to=odd,
        raw_digest=odd,
    )
    house = House(tmp_path, a_job("db"))
    house.say = lambda _: answer(found)
    await house.go(600)
    records = house.events.records()
    assert len(records) == 20
    assert house.backups.counts.refused == 0
    assert records[-1].snapshots is not None
    assert records[-1].snapshots.listed[-1][1] == 1999


@pytest.mark.parametrize("name", ["raw_digest", "tool_version", "reason", "repo_id", "log_from", "log_to"])
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("x" * TEXT_CHARACTERS_MAX, "x" * TEXT_CHARACTERS_MAX),
        ("x" * (TEXT_CHARACTERS_MAX - 1) + "yz", "x" * (TEXT_CHARACTERS_MAX - 1) + "y"),
        ("é" * TEXT_CHARACTERS_MAX, r"\xe9" * (TEXT_CHARACTERS_MAX // 4)),
    ],
)
def test_of_a_text_that_is_too_long_the_beginning_is_told(name: str, text: str, kept: str) -> None:
    """What is longer would have the whole record refused, here and by the collector."""
    given: dict[str, Any] = {name: text}
    (record,) = observed(LOOKED, Observation(outcome=Outcome.OK, **given))
    assert getattr(read_record(record.to_json()), name) == kept
    if name in ("raw_digest", "tool_version", "reason"):
        record = verified(LOOKED, Verification(outcome=Outcome.UNKNOWN, **given))
        assert getattr(read_record(record.to_json()), name) == kept


def test_the_newest_point_is_no_snapshot_from_the_future() -> None:
    found = (Snapshot(id="a", time_ms=1500), Snapshot(id="b", time_ms=10_000_000))
    (record,) = observed(LOOKED, Observation(outcome=Outcome.OK, snapshots=found))
    assert record.point_ms == 1500
    assert record.snapshots is not None
    assert record.snapshots.newest_ms == 10_000_000
    (failed,) = observed(LOOKED, Observation(outcome=Outcome.FAILED, reason="x", snapshots=found))
    assert failed.point_ms == 0


def test_a_backup_that_is_being_made_is_told_as_running_unless_something_is_wrong() -> None:
    (record,) = observed(LOOKED, Observation(outcome=Outcome.OK, running=True))
    assert record.outcome is Outcome.RUNNING
    (record,) = observed(LOOKED, Observation(outcome=Outcome.PARTIAL, reason="x", running=True))
    assert record.outcome is Outcome.PARTIAL


def test_what_was_not_read_says_nothing_of_snapshots() -> None:
    (record,) = observed(LOOKED, Observation(outcome=Outcome.UNKNOWN, reason="x", snapshots=snapshots(2)))
    assert (record.snapshots, record.point_ms) == (None, 0)


def test_secrets_are_taken_out_of_errors() -> None:
    found = Observation(outcome=Outcome.UNKNOWN, reason="x", errors=("rest:https://me:secret@host",))
    (record,) = observed(LOOKED, found, lambda text: text.replace("secret", "[redacted]"))
    assert record.errors == ("rest:https://me:[redacted]@host",)


def test_two_repositories_never_share_a_scratch_directory() -> None:
    names = {scratch_name(key) for key in ("a/b", "a/", "a.b/", "a/.b")}
    assert len(names) == 4
    assert not any("/" in name for name in names)


async def test_what_tools_kept_for_repositories_that_are_gone_is_removed(tmp_path: Path) -> None:
    scratch = tmp_path / "backups/scratch"
    for name in ("db@", "gone@", "db@nas"):
        (scratch / name / "cache").mkdir(parents=True)
    house = House(tmp_path, a_job("db"))
    await house.backups.look_turn()
    assert [path.name for path in scratch.iterdir()] == ["db@"]
    assert (scratch / "db@" / "cache").is_dir()


# ---------------------------------------------------------------- the real child


def question(tmp_path: Path, do: str = "observe", **options: Any) -> dict[str, Any]:
    job = a_job("db", structure_s=86_400)
    target = Target(copy="nas", options={"paths": [f"{tmp_path}/dumps/*"], **options})
    return {"do": do, "job": job, "target": target, "scratch": str(tmp_path / "scratch" / "db")}


def a_dump(tmp_path: Path, name: str = "one.sql") -> None:
    (tmp_path / "dumps").mkdir(exist_ok=True)
    (tmp_path / "dumps" / name).write_bytes(b"data")
    os.utime(tmp_path / "dumps" / name, (1_700_000_000, 1_700_000_000))


def until(condition: Callable[[], object]) -> None:
    """Wait for what another process does."""
    until_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def alive(pid: str) -> bool:
    """Whether a process is there and no zombie that nobody buries."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_child_looks_at_a_repository_and_ends(tmp_path: Path) -> None:
    a_dump(tmp_path)
    found = await ask(question(tmp_path), 60)
    assert found.fault == ""
    (record,) = (read_record(line) for line in found.lines)
    assert (record.job, record.copy, record.tool, record.outcome) == ("db", "nas", "files", "ok")
    assert record.point_ms == 1_700_000_000_000
    assert record.snapshots is not None
    assert (tmp_path / "scratch/db").stat().st_mode & 0o777 == 0o700
    check = Check(level=Level.STRUCTURE)
    proof = await ask({**question(tmp_path, "verify"), "check": check}, 60)
    assert read_record(proof.lines[0]).verify == Proof(level=Level.STRUCTURE, ok=True)


async def test_an_adapter_that_fails_says_so_in_a_record(tmp_path: Path) -> None:
    found = await ask(question(tmp_path, paths=["relative"]), 60)
    (record,) = (read_record(line) for line in found.lines)
    assert (record.outcome, record.reason) == (Outcome.UNKNOWN, Reason.ADAPTER_FAILED)
    assert "absolute path" in record.errors[0]


async def test_a_child_that_hangs_ends_with_its_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "MORE_S", 0.5)
    a_dump(tmp_path)
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    tool.chmod(0o755)
    asking = {**question(tmp_path, "verify", test=[str(tool), "{file}"]), "check": Check(level=Level.DATA)}
    task = asyncio.create_task(ask(asking, 60))
    await asyncio.to_thread(until, lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pid = int((tmp_path / "pid").read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(until, lambda: not alive(str(pid)))


def test_when_the_agent_is_killed_its_child_and_the_tool_end_with_it(tmp_path: Path) -> None:
    a_dump(tmp_path)
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\necho $PPID $$ > {tmp_path}/pids\nexec sleep 60\n")
    tool.chmod(0o755)
    asking = {**question(tmp_path, "verify", test=[str(tool), "{file}"]), "check": Check(level=Level.DATA)}
    (tmp_path / "question").write_bytes(msgspec.json.encode(asking))
    code = (
        "import asyncio, msgspec, sys; from watchbill_agent.backups.asked import ask\n"
        "asyncio.run(ask(msgspec.json.decode(open(sys.argv[1], 'rb').read()), 60))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "question")]) as agent:
        try:
            until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text())
        finally:
            agent.kill()
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    until(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import sys; sys.exit('no module')", "the child ended with 1: no module"),
        ("import os; os.kill(os.getpid(), 9)", "the child was killed"),
        ("print('{}')", "the child ended with 0"),
        ("import sys; sys.stdout.write('x' * 9_000_000)", "the child ended with 0"),
    ],
)
async def test_a_child_that_says_half_or_nothing_is_told_as_a_fault(code: str, fault: str) -> None:
    found = await ask({}, 60, [sys.executable, "-I", "-S", "-c", code])
    assert (found.lines, found.fault) == ((), fault)


async def test_a_child_past_its_deadline_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "MORE_S", 0.0)
    found = await ask({}, 0.3, ["sleep", "60"])
    assert (found.timed_out, found.left, found.fault) == (True, None, "it did not end in time")
    none = await ask({}, 1, ["/no/such/program"])
    assert none.fault.startswith("no process for it")


def test_the_files_are_read_by_a_child_with_every_problem(tmp_path: Path) -> None:
    assert load_jobs(tmp_path) == ()
    (tmp_path / "backups.d").mkdir()
    assert load_jobs(tmp_path) == ()
    file = tmp_path / "backups.d" / "a.toml"
    file.write_text('[[backup]]\nname = "a"\ntool = "files"\nfiles = { paths = ["/x/*"] }\n')
    (job,) = load_jobs(tmp_path)
    assert (job.name, job.targets) == ("a", (Target(options={"paths": ["/x/*"]}),))
    file.write_text("[[backup]]\nname = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_jobs(tmp_path)
    assert [problem.key for problem in caught.value.problems] == ["backup[0].name", "backup[0].tool"]
    assert {problem.file for problem in caught.value.problems} == {str(file)}


def test_a_child_that_cannot_be_asked_is_no_empty_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "backups.toml").write_text("")
    monkeypatch.setattr(asked, "ARGV", ("false",))
    with pytest.raises(StorageError, match="the child ended with 1"):
        load_jobs(tmp_path)


def test_the_daemon_imports_no_adapter_and_without_jobs_nothing_of_backups() -> None:
    code = (
        "import sys, watchbill_agent.app\n"
        "print(sorted(m for m in sys.modules if 'backups' in m and m.startswith('watchbill')))\n"
        "import watchbill_agent.backups.service\n"
        "print([m for m in sys.modules if m.startswith('watchbill_agent.backups.adapters.')])\n"
        "print([m for m in ('cronsim', 'oncalendar') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    with_none, adapters_imported, readers = (json.loads(line.replace("'", '"')) for line in out.splitlines())
    assert "watchbill_agent.backups.service" not in with_none
    assert "watchbill_agent.backups.config" not in with_none
    assert adapters_imported == readers == []


# ---------------------------------------------------------------- in the daemon


JOB = """\
[[backup]]
name = "{name}"
tool = "files"
observe_every = "1m"
files = {{ paths = ["{paths}/*"] }}
"""


async def doctor_on_backups(home: Path) -> list[doctor.Finding]:
    return await asyncio.to_thread(lambda: list(doctor._backups(Homes.resolve("agent", home))))


async def test_an_agent_announces_looks_and_takes_up_other_jobs_at_a_reload(
    tmp_path: Path, collector: Any, agents: Any, enrol: Any, cli: Any
) -> None:
    a_dump(tmp_path)
    home = tmp_path / "a"
    enrol(home, collector)
    (home / "etc/backups.d").mkdir(parents=True)
    (home / "etc/backups.d/a.toml").write_text(JOB.format(name="db", paths=tmp_path / "dumps"))
    agent = agents(home, 'interval = "1s"\n')

    def events(kind: str) -> list[dict[str, Any]]:
        found = [record.event for record in collector.records(Stream.CRIT)]
        return [json.loads(event.payload) for event in found if event.kind == kind]

    await collector.until(lambda _: events(BACKUP_RECORD))
    assert [list(jobs["jobs"]) for jobs in events(BACKUP_JOBS)] == [["db"]]
    assert [told["definition"]["name"] for told in events(BACKUP_DEFINED)] == ["db"]
    (record,) = events(BACKUP_RECORD)
    assert (record["job"], record["outcome"], record["snapshots"]["count"]) == ("db", "ok", 1)

    (listed,) = json.loads(cli(home, "backup", "list", "--json").stdout)["jobs"]
    (seen,) = listed["repositories"]
    assert (listed["name"], seen["outcome"], seen["snapshots"], seen["errors"]) == ("db", "ok", 1, [])
    (good,) = await doctor_on_backups(home)
    assert (good.verdict, good.text) == ("ok", "1 in backups.d can be used")

    (home / "etc/backups.d/a.toml").write_text("[[backup]]\n")
    (bad,) = await doctor_on_backups(home)
    assert (bad.verdict, "backup[0].name: got nothing, wanted text" in bad.text) == ("failed", True)
    agent.process.send_signal(signal.SIGHUP)
    await agent.until_log("reload refused")
    (home / "etc/backups.d/a.toml").write_text(JOB.format(name="files", paths=tmp_path / "gone"))
    agent.process.send_signal(signal.SIGHUP)
    await collector.until(lambda _: len(events(BACKUP_JOBS)) == 2)
    assert list(events(BACKUP_JOBS)[1]["jobs"]) == ["files"]
    await collector.until(lambda _: len(events(BACKUP_RECORD)) == 2)
    _, gone = await doctor_on_backups(home)
    assert gone.text == f"files: unknown, repository-missing. {tmp_path}/gone is not there"
    assert (gone.verdict, gone.next) == ("warning", "watchbill-agent backup look files")
    began_s = time.monotonic()
    assert await agent.stop() == 0
    assert time.monotonic() - began_s < 30


async def test_an_agent_without_backups_answers_what_it_is_asked_once(
    tmp_path: Path, collector: Any, agents: Any, enrol: Any
) -> None:
    home = tmp_path / "a"
    enrol(home, collector)
    collector.asks = [VerifyBackup(b"r" * 16, "db", "data")] * 3
    agent = agents(home, 'interval = "1s"\n')

    def answers() -> list[Any]:
        events = [record.event for record in collector.records(Stream.CRIT)]
        return [event for event in events if event.kind == BACKUP_ANSWERED]

    await collector.until(lambda _: answers())
    said = json.loads(answers()[0].payload)
    assert (answers()[0].event_id, said["request"], said["job"]) == (b"r" * 16, (b"r" * 16).hex(), "db")
    assert (said["answer"], said["reason"]) == ("refused", UNKNOWN_JOB)
    name = "watchbill_agent_backup_requests_refused_total"
    await collector.until(
        lambda _: [value for _, one, _, value in collector.samples() if one == name][-1:] == [1]
    )
    assert VERIFY in collector.hellos[-1].takes
    assert await agent.stop() == 0
    assert len(answers()) == 1


async def test_an_agent_whose_backups_are_written_wrongly_does_not_start(
    tmp_path: Path, collector: Any, agents: Any, enrol: Any
) -> None:
    home = tmp_path / "a"
    enrol(home, collector)
    (home / "etc/backups.d").mkdir(parents=True)
    (home / "etc/backups.d/a.toml").write_text("[[backup]]\n")
    agent = agents(home, "")
    assert await agent.ended() == 2
    assert "a.toml:1: backup[0].name: got nothing, wanted text" in agent.text()


# ---------------------------------------------------------------- bounds


async def test_as_many_jobs_as_a_host_may_have_are_announced_in_one_event(tmp_path: Path) -> None:
    names = [f"{number:0{JOB_NAME_CHARACTERS_MAX}}" for number in range(JOBS_MAX)]
    house = House(tmp_path, *(a_job(name) for name in names))
    await house.backups.look_turn()
    assert list(house.events.of(BACKUP_JOBS)[0]["jobs"]) == names
    assert len(house.events.of(BACKUP_DEFINED)) == JOBS_MAX


@pytest.mark.parametrize(
    ("error", "reason"), [(MemoryError(), Reason.TOO_MUCH_OUTPUT), (KeyError("id"), Reason.ADAPTER_FAILED)]
)
@pytest.mark.parametrize("do", ["observe", "verify"])
def test_what_an_adapter_stumbles_over_is_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: Reason, do: str
) -> None:
    def stumble(*_: object) -> None:
        raise error

    monkeypatch.setattr(Files, do, stumble)
    asking = {**question(tmp_path, do), "check": Check(level=Level.DATA), "within_s": 5}
    (line,) = child.answers(msgspec.json.decode(msgspec.json.encode(asking), type=child.Question))
    record = read_record(line)
    assert (record.kind, record.outcome, record.reason) == (do, Outcome.UNKNOWN, reason)
    assert record.errors
