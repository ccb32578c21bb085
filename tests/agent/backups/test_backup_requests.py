"""What the collector asks of a host: only what the host's own files declare, seldom, answered once."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from watchbill.backups.record import Level, Outcome, Proof
from watchbill.backups.requests import (
    ALREADY_RUNNING,
    BACKUP_ANSWERED,
    BUSY,
    NEEDS_RUNNER,
    NOT_DECLARED,
    NOT_VERIFIABLE,
    STUCK,
    TOO_SOON,
    UNKNOWN_JOB,
)
from watchbill.clock import ManualClock
from watchbill.protocol.frames import VerifyBackup
from watchbill_agent.backups.adapter import Observation, Reason, Verification
from watchbill_agent.backups.asked import Answer
from watchbill_agent.backups.config import JobConfig, Target
from watchbill_agent.backups.requests import (
    ANSWERS_AT_ONCE,
    EACH_S,
    REMEMBERED_MAX,
    SAVED_S,
    SHARE,
    WAITING_MAX,
    Allowance,
    Begun,
    Refused,
    Requests,
)

from .test_backup_service import DAY_MS, House, a_job, answer

DAY_S = DAY_MS / 1000


def asks(job: str = "db", level: str = "", request_id: bytes = b"") -> VerifyBackup:
    return VerifyBackup(request_id or os.urandom(16), job, level)


def proof(question: dict[str, Any], ok: bool = True) -> Answer:
    if question["do"] == "observe":
        return answer(Observation(outcome=Outcome.OK))
    made = Proof(level=question["check"].level, ok=ok, fraction=question["check"].fraction)
    return answer(Verification(outcome=Outcome.OK if ok else Outcome.FAILED, proof=made))


class Asked:
    """A host with a service, and the door for requests in front of it."""

    def __init__(self, tmp_path: Path, *jobs: JobConfig) -> None:
        self.house = House(tmp_path, *jobs)
        self.house.say = proof
        self.requests = Requests(self.house.events, self.house.clock, self.house.backups.judge)

    async def ask(self, request: VerifyBackup) -> dict[str, Any]:
        """Its answer."""
        self.requests.take(request)
        await self.requests.turn()
        said = self.house.events.of(BACKUP_ANSWERED)[-1]
        assert (said["request"], said["job"]) == (request.request_id.hex(), request.job)
        return said

    async def reason(self, request: VerifyBackup) -> str:
        """Why it is refused."""
        said = await self.ask(request)
        assert said["answer"] == "refused"
        assert said["why"]
        return str(said["reason"])

    def checked(self) -> list[tuple[str, str, str, int]]:
        """What was verified: job, copy, level, part."""
        return [
            (one["job"].name, one["target"].copy, one["check"].level.value, one["check"].part)
            for one in self.house.questions
            if one["do"] == "verify"
        ]


def two_copies(**verify: float) -> JobConfig:
    job = a_job("db", **verify)
    (target,) = job.targets
    return dataclasses.replace(
        job, targets=tuple(dataclasses.replace(target, copy=copy) for copy in ("cloud", "nas"))
    )


# ---------------------------------------------------------------- what is made


async def test_what_is_due_next_is_made_now_and_its_record_names_the_request(tmp_path: Path) -> None:
    host = Asked(tmp_path, a_job("db", structure_s=7 * DAY_S))
    await host.house.go(DAY_S)
    assert host.checked() == [("db", "", "structure", 1)], "the first is due at once, the next in days"
    request = asks()
    said = await host.ask(request)
    assert (said["answer"], said["level"], said["copy"]) == ("begun", "structure", "")
    await host.house.go(1)
    assert len(host.checked()) == 2
    record = host.house.events.records()[-1]
    assert (record.kind, record.run_id) == ("verify", request.request_id.hex())
    assert record.verify is not None
    assert host.house.events.records()[1].run_id == "", "one by the plan has none"


async def test_the_level_that_is_asked_for_is_made_of_the_copy_that_is_due_first(tmp_path: Path) -> None:
    host = Asked(tmp_path, two_copies(structure_s=7 * DAY_S, data_s=10 * DAY_S))
    await host.house.go(3600)
    assert (await host.ask(asks(level="structure")))["copy"] == "cloud"
    await host.house.go(600)
    assert (await host.ask(asks(level="structure")))["copy"] == "nas"
    await host.house.go(600)
    assert (await host.ask(asks(level="data")))["level"] == "data"
    await host.house.go(600)
    assert host.checked()[-3:] == [
        ("db", "cloud", "structure", 1),
        ("db", "nas", "structure", 1),
        ("db", "cloud", "data", 2),
    ]


async def test_one_that_was_asked_for_counts_in_the_plan(tmp_path: Path) -> None:
    host = Asked(tmp_path, a_job("db", structure_s=7 * DAY_S))
    await host.house.go(5 * DAY_S)
    await host.ask(asks())
    await host.house.go(5 * DAY_S)
    assert len(host.checked()) == 2, "a proof of five days ago is young enough"


async def test_it_is_made_though_no_look_could_read_the_repository_yet(tmp_path: Path) -> None:
    host = Asked(tmp_path, a_job("db", structure_s=7 * DAY_S))
    host.house.say = lambda question: (
        answer(Observation(outcome=Outcome.UNKNOWN, reason="repository-locked"))
        if question["do"] == "observe"
        else proof(question)
    )
    await host.house.go(3600)
    assert host.checked() == []
    assert (await host.ask(asks()))["answer"] == "begun"
    await host.house.go(1)
    assert len(host.checked()) == 1


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (asks("other"), UNKNOWN_JOB),
        (asks(level="restore"), NOT_DECLARED),
        (asks(level="data"), NOT_VERIFIABLE),
        (asks(level="everything"), NOT_DECLARED),
        (asks("bare"), NOT_DECLARED),
        (asks("wrapped"), NOT_VERIFIABLE),
    ],
)
async def test_nothing_from_the_network_widens_what_the_file_declares(
    tmp_path: Path, request_: VerifyBackup, reason: str
) -> None:
    job = a_job("db", structure_s=DAY_S, data_s=DAY_S)
    only_structure = dataclasses.replace(job, targets=(Target(copy="", levels=frozenset({Level.STRUCTURE})),))
    wrapped = dataclasses.replace(a_job("wrapped", data_s=DAY_S), targets=())
    host = Asked(tmp_path, only_structure, a_job("bare"), wrapped)
    await host.house.go(600)
    before = len(host.checked())
    assert await host.reason(request_) == reason
    await host.house.go(600)
    assert len(host.checked()) == before
    assert (host.requests.counts.taken, host.requests.counts.refused) == (1, 1)


async def test_a_repository_that_the_agent_may_not_read_needs_the_runner(tmp_path: Path) -> None:
    host = Asked(tmp_path, a_job("db", structure_s=DAY_S))
    host.house.say = lambda _: answer(Observation(outcome=Outcome.UNKNOWN, reason=Reason.NEEDS_RUNNER))
    await host.house.go(600)
    assert await host.reason(asks()) == NEEDS_RUNNER


async def test_one_goes_on_at_a_time(tmp_path: Path) -> None:
    host = Asked(tmp_path, a_job("db", structure_s=DAY_S), a_job("files", structure_s=DAY_S))
    assert (await host.ask(asks("db")))["answer"] == "begun"
    assert await host.reason(asks("db")) == ALREADY_RUNNING
    assert await host.reason(asks("files")) == BUSY
    meanwhile: list[object] = []

    def say(question: dict[str, Any]) -> Answer:
        if question["do"] == "verify" and not meanwhile:
            meanwhile.append(host.house.backups.judge(asks("db")))
            meanwhile.append(host.house.backups.judge(asks("files")))
        return proof(question)

    host.house.say = say
    await host.house.go(60)
    assert [one.reason for one in meanwhile if isinstance(one, Refused)] == [ALREADY_RUNNING, BUSY]
    assert (await host.ask(asks("files")))["answer"] == "begun"


async def test_a_look_that_does_not_end_hinders_it(tmp_path: Path) -> None:
    host = Asked(tmp_path, a_job("db", structure_s=DAY_S))

    class Left:
        returncode = None

    left: Any = Left()
    host.house.say = lambda _: Answer(fault="it did not end in time", timed_out=True, left=left)
    await host.house.go(600)
    assert await host.reason(asks()) == STUCK


async def test_of_two_copies_the_one_that_can_be_looked_at_is_verified(tmp_path: Path) -> None:
    host = Asked(tmp_path, two_copies(structure_s=7 * DAY_S))
    host.house.say = lambda question: (
        answer(Observation(outcome=Outcome.UNKNOWN, reason=Reason.NEEDS_RUNNER))
        if question["do"] == "observe" and question["target"].copy == "cloud"
        else proof(question)
    )
    await host.house.go(3600)
    assert (await host.ask(asks()))["copy"] == "nas", "though cloud was never proven"


async def test_a_host_is_not_kept_busy_by_what_is_asked_of_it(tmp_path: Path) -> None:
    """Whatever is asked whenever it may: in ten days a fifth of the time, and what was saved before."""
    host = Asked(tmp_path, a_job("db", structure_s=365 * DAY_S))
    took_s, began_s = 3600.0, host.house.clock.monotonic_s()
    spent: list[float] = []

    def say(question: dict[str, Any]) -> Answer:
        if question["do"] == "verify":
            host.house.clock.advance(took_s)
            spent.append(took_s)
        return proof(question)

    host.house.say = say
    await host.house.go(600)
    spent.clear()
    refused: set[str] = set()
    while host.house.clock.monotonic_s() - began_s < 10 * DAY_S:
        verdict = host.house.backups.judge(asks())
        if isinstance(verdict, Refused):
            refused.add(verdict.reason)
            host.house.clock.advance(600)
        await host.house.go(0)
    assert refused == {TOO_SOON}
    assert sum(spent) <= SHARE * 10 * DAY_S + SAVED_S + took_s
    assert sum(spent) > SHARE * 9 * DAY_S, "and what is allowed is given"


def test_quick_ones_count_too_and_saying_how_long_is_enough() -> None:
    allowance = Allowance(SHARE, SAVED_S, 0.0)
    for _ in range(round(SAVED_S / EACH_S)):
        assert allowance.wait_s(0.0) == 0
        allowance.use(EACH_S)
    said_s = allowance.wait_s(0.0)
    assert said_s > 0
    assert allowance.wait_s(said_s) == 0, "what it says is long enough"
    allowance.use(10 * SAVED_S)
    assert allowance.wait_s(said_s + 10 * SAVED_S) > 0


# ---------------------------------------------------------------- the door


def door(clock: ManualClock, tmp_path: Path) -> tuple[Requests, House, list[VerifyBackup]]:
    house = House(tmp_path)
    judged: list[VerifyBackup] = []

    def judge(request: VerifyBackup) -> Begun:
        judged.append(request)
        return Begun("data", "")

    return Requests(house.events, clock, judge), house, judged


async def test_the_same_request_is_answered_once(tmp_path: Path) -> None:
    requests, house, judged = door(ManualClock(), tmp_path)
    request = asks()
    for _ in range(3):
        requests.take(request)
    await requests.turn()
    requests.take(request)
    requests.take(asks("another"))
    await requests.turn()
    assert [one.job for one in judged] == ["db", "another"]
    assert len(house.events.of(BACKUP_ANSWERED)) == requests.counts.taken == 2


async def test_a_flood_of_requests_is_dropped_and_counted(tmp_path: Path) -> None:
    clock = ManualClock()
    requests, house, judged = door(clock, tmp_path)
    for _ in range(1000):
        requests.take(asks())
    assert requests.counts.dropped == 1000 - WAITING_MAX
    for _ in range(WAITING_MAX):
        await requests.turn()
    for _ in range(1000):
        requests.take(asks())
        while not requests._waiting.empty():
            await requests.turn()
    assert len(judged) == ANSWERS_AT_ONCE
    clock.advance(3600)
    requests.take(asks())
    await requests.turn()
    assert len(house.events.of(BACKUP_ANSWERED)) == ANSWERS_AT_ONCE + 1
    assert len(requests._remembered) <= REMEMBERED_MAX


async def test_an_answer_that_cannot_be_kept_is_counted(tmp_path: Path) -> None:
    requests, house, _ = door(ManualClock(), tmp_path)
    house.events.full = True
    requests.take(asks())
    await requests.turn()
    assert (requests.counts.taken, requests.counts.dropped) == (1, 1)
    assert house.events.of(BACKUP_ANSWERED) == []
