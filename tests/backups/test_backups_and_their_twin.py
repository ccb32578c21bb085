"""What the HTTP side is promised of backups holds for the real ones and for the twin alike."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from watchbill.backups.definition import Definition
from watchbill.backups.requests import BACKUP_ANSWERED
from watchbill.clock import ManualClock
from watchbill.errors import Refused, Unreachable, UsageError
from watchbill.protocol.frames import VerifyBackup
from watchbill_collector.api.backup_port import (
    BackupEntry,
    BackupHistory,
    BackupJob,
    BackupsService,
    backup_id,
)
from watchbill_collector.api.backup_report import PERIOD_DEFAULT_MS, Asked
from watchbill_collector.api.backup_twin import BackupsTwin
from watchbill_collector.api.ports import Caller, NoSuch, at
from watchbill_collector.store import Store

from .kept import ANN, WEB, Kept, Life

NIGHTLY = Definition(name="nightly", tool="wrap", rpo_s=26 * 3600.0)
NIGHTLY_ID = backup_id(WEB, "nightly")
BEN = Caller("ben")
RUNS = 3


@dataclass
class Side:
    """Backups with one job that ran three times, an hour apart, and is well."""

    backups: BackupsService
    clock: ManualClock
    life: Life | None = None

    async def wait(self, seconds: float) -> None:
        if self.life is None:
            self.clock.advance(seconds)
        else:
            await self.life.heard(seconds)

    def answers(self, said: dict[str, object]) -> None:
        """What hosts say from now on; nothing: not a word."""
        if self.life is None:
            assert isinstance(self.backups, BackupsTwin)
            self.backups.says = said
        else:
            life = self.life

            def answer(agent_id: str, request: VerifyBackup) -> None:
                told = {"request": request.request_id.hex(), "job": request.job, **said}
                life.say(BACKUP_ANSWERED, json.dumps(told).encode(), agent_id, request.request_id)

            life.hosts.answers = answer if said else lambda *_: None

    def away(self) -> None:
        """No host is connected."""
        if self.life is None:
            assert isinstance(self.backups, BackupsTwin)
            self.backups.away = {"web01"}
        else:
            self.life.hosts.hosts.clear()

    async def job(self) -> BackupJob:
        (job,) = await self.backups.jobs()
        return job


def _twin() -> Side:
    clock = ManualClock()
    twin = BackupsTwin(clock)
    entries = []
    for hour in range(RUNS):
        then = at(clock.wall_ms() - 3_600_000 * hour)
        entries.append(
            BackupEntry(
                id=f"{hour:032x}",
                kind="run",
                source="report",
                outcome="ok",
                at=then,
                received=then,
                finished=then,
            )
        )
    job = BackupJob(
        id=NIGHTLY_ID,
        name="nightly",
        host="web01",
        agent_id=WEB,
        labels={"role": "web"},
        service="",
        tool="wrap",
        word="OK",
        level="ok",
        severity="",
        why="",
        advice="",
    )
    now = at(clock.wall_ms())
    history = BackupHistory(
        definition=NIGHTLY, digest=NIGHTLY.digest(), defined=now, due=None, entries=entries, truncated=False
    )
    twin.put(job, history)
    return Side(twin, clock)


async def _real(kept: Kept) -> Side:
    life = await kept.life().begin()
    life.define(NIGHTLY)
    for hour in range(RUNS):
        life.ran()
        await life.heard(3600.0 if hour < RUNS - 1 else 0.0)
    return Side(life.answers, life.clock, life)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("state")
    Store.open(directory, "main").close()
    return directory / "control.db"


@pytest_asyncio.fixture(params=["twin", "real"])
async def side(request: pytest.FixtureRequest, template: Path, tmp_path: Path) -> AsyncIterator[Side]:
    if request.param == "twin":
        yield _twin()
        return
    kept = Kept.beside(template, tmp_path)
    yield await _real(kept)
    await kept.close()


async def test_a_job_says_whose_it_is_and_how_it_stands(side: Side) -> None:
    job = await side.job()
    assert (job.id, job.name, job.host, job.agent_id) == (NIGHTLY_ID, "nightly", "web01", WEB)
    assert (job.labels, job.word, job.paused, job.reviewed) == ({"role": "web"}, "OK", None, None)


async def test_a_pause_holds_until_its_end_and_no_longer(side: Side) -> None:
    paused = await side.backups.pause(NIGHTLY_ID, 3600, "moving", ANN)
    assert paused == await side.job()
    assert paused.word == "PAUSED"
    assert paused.paused is not None
    assert (paused.paused.by, paused.paused.reason) == ("ann", "moving")
    assert paused.paused.until == at(side.clock.wall_ms()) + timedelta(hours=1)
    again = await side.backups.pause(NIGHTLY_ID, 7200, "still moving", BEN)
    assert again.paused is not None
    assert (again.paused.by, again.paused.reason) == ("ben", "still moving")
    await side.wait(7100)
    assert (await side.job()).word == "PAUSED"
    await side.wait(101)
    assert ((await side.job()).word, (await side.job()).paused) == ("OK", None)


async def test_a_pause_is_ended_once(side: Side) -> None:
    with pytest.raises(Refused, match="nightly of web01 is not paused"):
        await side.backups.resume(NIGHTLY_ID, ANN)
    await side.backups.pause(NIGHTLY_ID, 3600, "moving", ANN)
    ended = await side.backups.resume(NIGHTLY_ID, BEN)
    assert (ended.word, ended.paused) == ("OK", None)
    assert ended == await side.job()
    with pytest.raises(Refused):
        await side.backups.resume(NIGHTLY_ID, ANN)


async def test_reviews_keep_the_word_of_their_time_the_newest_first(side: Side) -> None:
    first = await side.backups.review(NIGHTLY_ID, "as it should be", ANN)
    assert (first.at, first.by, first.word) == (at(side.clock.wall_ms()), "ann", "OK")
    await side.wait(60)
    await side.backups.pause(NIGHTLY_ID, 3600, "moving", ANN)
    second = await side.backups.review(NIGHTLY_ID, "it is moving", BEN)
    assert second.word == "PAUSED"
    assert list((await side.backups.history(NIGHTLY_ID, 10)).reviews) == [second, first]
    assert (await side.job()).reviewed == second


async def test_a_history_begins_with_the_newest_and_goes_on_before_any_moment(side: Side) -> None:
    whole = await side.backups.history(NIGHTLY_ID, RUNS)
    times = [entry.at for entry in whole.entries]
    assert (len(times), times, whole.truncated) == (RUNS, sorted(times, reverse=True), False)
    assert (whole.definition, whole.digest) == (NIGHTLY, NIGHTLY.digest())
    part = await side.backups.history(NIGHTLY_ID, 1)
    assert ([entry.at for entry in part.entries], part.truncated) == (times[:1], True)
    older = await side.backups.history(NIGHTLY_ID, 1, times[0])
    assert ([entry.at for entry in older.entries], older.truncated) == (times[1:2], True)
    oldest = await side.backups.history(NIGHTLY_ID, 5, times[1])
    assert ([entry.at for entry in oldest.entries], oldest.truncated) == (times[2:], False)


async def test_a_report_counts_what_was_told_in_its_time(side: Side) -> None:
    await side.backups.review(NIGHTLY_ID, "as it should be", ANN)
    now_ms = side.clock.wall_ms()
    period, (row,) = await side.backups.report([NIGHTLY_ID, "0" * 16], Asked())
    assert (period.since_ms, period.until_ms, period.objective) == (now_ms - PERIOD_DEFAULT_MS, now_ms, 0.999)
    assert (row.id, row.name, row.host, row.labels, row.word) == (
        NIGHTLY_ID,
        "nightly",
        "web01",
        {"role": "web"},
        "OK",
    )
    assert (row.digest, row.runs_ok, row.runs_failed, row.last_ok) == (NIGHTLY.digest(), RUNS, 0, at(now_ms))
    assert [(one.by, one.note) for one in row.reviews] == [("ann", "as it should be")]
    _, (part,) = await side.backups.report([NIGHTLY_ID], Asked(now_ms - 5_400_000, now_ms - 1_800_000))
    assert (part.runs_ok, part.reviews) == (1, [])


@pytest.mark.parametrize(
    "asked",
    [
        Asked(until_ms=5, since_ms=10),
        Asked(since_ms=0),
        Asked(objective=1.0),
        Asked(objective=0.0),
        Asked(objective=float("nan")),
        Asked(since_ms=1 << 60),
    ],
)
async def test_a_report_of_no_time_is_refused(side: Side, asked: Asked) -> None:
    with pytest.raises(UsageError, match="wanted a"):
        await side.backups.report([NIGHTLY_ID], asked)


async def test_an_exemption_takes_the_place_of_the_one_before_and_ends(side: Side) -> None:
    backups = side.backups
    await backups.exempt("host", "web01", "ops", "scratch", 600, ANN)
    kept = await backups.exempt("service", "web01", "ops", "a cache", 300, ANN)
    newer = await backups.exempt("host", "web01", "ops", "still scratch", 900, BEN)
    assert list(await backups.exemptions()) == [kept, newer], "the next to end comes first"
    assert (newer.kind, newer.name, newer.owner, newer.reason, newer.by) == (
        "host",
        "web01",
        "ops",
        "still scratch",
        "ben",
    )
    assert newer.expires - newer.created == timedelta(seconds=900)
    await side.wait(301)
    assert list(await backups.exemptions()) == [newer]
    assert await backups.withdraw(newer.id, ANN) == newer
    assert list(await backups.exemptions()) == []
    for gone in (newer.id, "0" * 12):
        with pytest.raises(NoSuch):
            await backups.withdraw(gone, ANN)


async def test_what_there_is_not_is_told_as_such(side: Side) -> None:
    nobody = "0" * 16
    for asked in (
        side.backups.history(nobody, 1),
        side.backups.review(nobody, "x", ANN),
        side.backups.pause(nobody, 60, "x", ANN),
        side.backups.resume(nobody, ANN),
    ):
        with pytest.raises(NoSuch, match="there is no backup '0000000000000000'"):
            await asked


# ---------------------------------------------------------------- asking a host to verify


async def test_a_host_is_asked_and_its_answer_is_told(side: Side) -> None:
    side.answers({"answer": "begun", "level": "structure", "copy": "nas"})
    made = await side.backups.verify(NIGHTLY_ID, "", ANN)
    assert (made.name, made.host, made.by, made.at) == ("nightly", "web01", "ann", at(side.clock.wall_ms()))
    assert (made.answer, made.level, made.copy, made.answered) == ("begun", "structure", "nas", made.at)
    side.answers({"answer": "refused", "reason": "too-soon", "why": "again later"})
    again = await side.backups.verify(NIGHTLY_ID, "data", BEN)
    assert (again.answer, again.level, again.reason, again.why) == (
        "refused",
        "data",
        "too-soon",
        "again later",
    )
    assert again.id != made.id
    assert list((await side.backups.history(NIGHTLY_ID, 10)).asked) == [again, made], "the newest first"


async def test_a_host_that_does_not_answer_keeps_nobody_waiting_for_ever(side: Side) -> None:
    side.answers({})
    made = await side.backups.verify(NIGHTLY_ID, "data", ANN)
    assert (made.answer, made.answered, made.level) == ("", None, "data")
    assert list((await side.backups.history(NIGHTLY_ID, 10)).asked) == [made]


async def test_a_host_that_is_away_is_not_asked_and_nothing_waits_for_it(side: Side) -> None:
    side.away()
    with pytest.raises(Unreachable, match="web01 is not connected, and a request does not wait for it"):
        await side.backups.verify(NIGHTLY_ID, "", ANN)
    assert list((await side.backups.history(NIGHTLY_ID, 10)).asked) == []
    with pytest.raises(NoSuch):
        await side.backups.verify("0" * 16, "", ANN)
