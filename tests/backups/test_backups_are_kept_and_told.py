"""What hosts say of their backups is committed, judged, told once, and the same after every kill."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from watchbill.backups.definition import Definition
from watchbill.backups.record import Kind, Level, Outcome, Proof, Source, new_id
from watchbill.backups.schedule import Schedule
from watchbill.config import Duration
from watchbill.errors import Refused, StorageError
from watchbill_collector.api.backup_port import backup_id
from watchbill_collector.api.backup_report import Asked
from watchbill_collector.api.ports import NoSuch, at
from watchbill_collector.backups import JobKey
from watchbill_collector.services import backup_desk, backup_reports, backups
from watchbill_collector.store import Store, audit, backup_notes
from watchbill_collector.store.audit import Filter

from .kept import ANN, DB, WEB, Kept, Life, promised

pytestmark = pytest.mark.timeout(120)

NIGHTLY = Definition(name="nightly", tool="restic", rpo_s=26 * 3600.0)
DUMP = Definition(name="dump", tool="wrap", service="shop", rpo_s=3600.0)
NIGHTLY_ID = backup_id(WEB, "nightly")
H_S = 3600.0


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated store."""
    directory = tmp_path_factory.mktemp("state")
    Store.open(directory, "main").close()
    return directory / "control.db"


@pytest_asyncio.fixture
async def kept(template: Path, tmp_path: Path) -> AsyncIterator[Kept]:
    made = Kept.beside(template, tmp_path)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def life(kept: Kept) -> Life:
    """A process that knows one job, which ran."""
    life = await kept.life().begin()
    life.define(NIGHTLY)
    life.ran()
    await life.heard(300)
    return life


async def test_a_run_is_told_once_and_said_as_series(life: Life) -> None:
    assert await life.words() == {"web01/nightly": "OK"}
    assert life.told() == [("", "OK")]
    found = life.series(instance="web01", role="web", backup="nightly", service="shop")
    assert found["word word=OK"] == 1
    assert found["facet facet=fresh severity=critical"] == 0
    assert found["facet facet=run severity=minor"] == 0
    assert found["missed"] == 0
    assert found["rpo_objective_seconds"] == 26 * H_S
    assert found["last_run_duration_seconds"] == 600
    assert found["size_bytes"] == 1_000_000
    assert found["newest_good_timestamp_seconds"] == (life.clock.wall_ms() - 900_000) / 1000
    (entry,) = (await life.answers.history(NIGHTLY_ID, 10)).entries
    assert (entry.outcome, entry.duration_s, entry.source) == ("ok", 600, "report")


async def test_a_failed_run_is_one_alert_until_one_ended_well(life: Life) -> None:
    life.ran(outcome=Outcome.FAILED)
    await life.heard(60)
    for run in ("a" * 32, "b" * 32):
        for _ in range(3):
            life.ran(run_id=run, outcome=Outcome.RUNNING, finished_ms=0, source=Source.WRAP)
            await life.heard(60)
            said = life.series(instance="web01", role="web", backup="nightly", service="shop")
            assert (said["facet facet=run severity=minor"], said["missed"]) == (2, 0)
        (job,) = await life.answers.jobs()
        assert "failed; running since" in job.why
        life.ran(run_id=run, outcome=Outcome.FAILED if run[0] == "a" else Outcome.OK)
        await life.heard(60)
    assert life.told() == [("", "OK"), ("OK", "FAILED"), ("FAILED", "OK")]


async def test_the_next_run_of_every_is_told(life: Life) -> None:
    life.define(replace(NIGHTLY, schedule=Schedule(every_s=6 * H_S)))
    await life.heard(H_S)
    run = life.ran()
    await life.heard(60)
    due = (await life.answers.history(NIGHTLY_ID, 1)).due
    assert due is not None
    assert due.timestamp() == run.started_ms / 1000 + 6 * H_S


async def test_a_job_that_ages_past_its_rpo_is_stale_until_it_runs_again(life: Life) -> None:
    await life.heard(27 * H_S)
    assert await life.words() == {"web01/nightly": "STALE"}
    found = life.series(backup="nightly")
    assert found["facet facet=fresh instance=web01 role=web service=shop severity=critical"] == 2
    assert "word instance=web01 role=web service=shop word=OK" not in found
    life.ran()
    await life.heard(60)
    assert life.told() == [("", "OK"), ("OK", "STALE"), ("STALE", "OK")]
    job = (await life.answers.jobs())[0]
    assert (job.host, job.tool, job.service, job.level) == ("web01", "restic", "shop", "ok")
    history = await life.answers.history(NIGHTLY_ID, 10)
    assert [(one.before, one.after) for one in history.changes] == [
        ("STALE", "OK"),
        ("OK", "STALE"),
        ("", "OK"),
    ]
    assert job.since == history.changes[0].at


async def test_a_host_that_is_silent_is_unknown_and_not_missed(life: Life) -> None:
    life.clock.advance(27 * H_S)
    await life.turn()
    assert await life.words() == {"web01/nightly": "UNKNOWN"}
    await life.heard(1)
    assert await life.words() == {"web01/nightly": "STALE"}, "it was heard, and there was nothing"


async def test_ages_grow_and_all_is_said_again_before_it_is_old(life: Life) -> None:
    before = life.series(backup="nightly")
    life.ticks.clear()
    await life.heard(60)
    again = life.series(backup="nightly")
    assert again.keys() == before.keys()
    aged = {name for name in again if again[name] != before[name]}
    assert {name.split()[0] for name in aged} == {"rpo_seconds"}


# ---------------------------------------------------------------- kills


async def state_of(life: Life) -> list[Any]:
    return [replace(job, last_run=None) for job in await life.answers.jobs()]


async def test_a_new_process_says_the_same_and_tells_nothing_twice(kept: Kept, life: Life) -> None:
    await life.answers.pause(NIGHTLY_ID, 60, "move", ANN)
    await life.heard(27 * H_S)
    before, said = await state_of(life), life.series(backup="nightly")
    await life.backups.close()
    again = await kept.life().begin()
    assert await state_of(again) == before
    assert again.told() == []
    assert again.series(backup="nightly") == said


async def test_who_was_not_heard_since_a_kill_is_known_as_far_as_was_written_down(
    kept: Kept, life: Life
) -> None:
    await life.heard(27 * H_S)
    again = await kept.life().begin()
    assert await again.words() == {"web01/nightly": "STALE"}
    assert again.told() == []


Break = Callable[[pytest.MonkeyPatch], None]


def _at(where: Any, name: str, *, after: bool) -> Break:
    """A kill on the way into a step, or on the way out of it."""

    def breaks(patch: pytest.MonkeyPatch) -> None:
        real = getattr(where, name)

        def killed(*args: Any, **more: Any) -> Any:
            if after:
                real(*args, **more)
            raise KeyboardInterrupt(name)

        patch.setattr(where, name, killed)

    return breaks


STEPS = {
    "before the event is written": _at(backup_desk.rows, "meet_job", after=False),
    "between the job and its record": _at(backup_desk.rows, "add_record", after=False),
    "before the transaction ends": _at(backup_desk.rows, "add_record", after=True),
    "before jobs are read": _at(backup_desk.BackupDesk, "_take_host", after=False),
    "before records are read": _at(backup_desk.BackupDesk, "_read_records", after=False),
    "before the look": _at(backup_desk.BackupBook, "look", after=False),
    "after the look": _at(backup_desk.BackupBook, "look", after=True),
    "before changes are noted": _at(backup_notes, "add_changes", after=False),
    "after changes are noted": _at(backup_desk.BackupDesk, "_save", after=True),
    "before they are told": _at(backups.Backups, "_hand_on", after=False),
}


@pytest.mark.parametrize("step", STEPS)
async def test_a_kill_between_two_steps_loses_nothing_and_doubles_nothing(
    kept: Kept, life: Life, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await life.heard(27 * H_S)
    with monkeypatch.context() as patch:
        STEPS[step](patch)
        life.define(NIGHTLY)
        seq, acknowledged = kept.seqs[WEB], False
        try:
            life.ran(run_id="a" * 32, record_id="b" * 32)
            acknowledged = True
            await life.turn()
        except KeyboardInterrupt:
            pass
        else:
            pytest.fail("the step was not taken")
    again = await kept.life().begin()
    if not acknowledged:  # Nothing was acknowledged: the agent sends it again.
        kept.seqs[WEB] = seq
    again.ran(run_id="a" * 32, record_id="b" * 32)
    await again.heard(1)
    assert await again.words() == {"web01/nightly": "OK"}
    history = await again.answers.history(NIGHTLY_ID, 10)
    assert [entry.id for entry in history.entries].count("b" * 32) == 1
    assert [change.after for change in history.changes] == ["OK", "STALE", "OK"]


async def test_a_store_that_cannot_be_written_gets_the_changes_later(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StorageError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(backup_notes, "add_changes", full)
        await life.heard(27 * H_S)
    assert life.told()[-1] == ("OK", "STALE")
    assert len((await life.answers.history(NIGHTLY_ID, 10)).changes) == 1
    await life.heard(1)
    assert len((await life.answers.history(NIGHTLY_ID, 10)).changes) == 2
    assert life.told()[-1] == ("OK", "STALE")


async def test_a_store_that_cannot_be_read_is_asked_again(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise StorageError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(backup_desk.rows, "jobs", gone)
        life.ran(job="other")
        await life.heard(1)
    assert await life.words() == {"web01/nightly": "OK"}
    await life.heard(1)
    assert await life.words() == {"web01/nightly": "OK", "web01/other": "OK"}


# ---------------------------------------------------------------- jobs and hosts that come and go


async def test_a_job_that_was_never_defined_is_judged_by_its_runs(life: Life) -> None:
    life.ran(job="cron", outcome=Outcome.FAILED, exit_code=1)
    life.define(NIGHTLY)
    await life.heard(1)
    assert (await life.words())["web01/cron"] == "FAILED"
    assert life.series(backup="cron", facet="run")


async def test_a_job_whose_definition_has_not_come_is_unknown_and_says_why(life: Life) -> None:
    life.say("backup.jobs", b'{"jobs":{"nightly":"other"}}')
    life.say("backup.jobs", b'{"jobs":{"nightly":"%s","late":"d"}}' % NIGHTLY.digest().encode())
    await life.heard(60)
    (late,) = [job for job in await life.answers.jobs() if job.name == "late"]
    assert (late.word, late.why) == ("UNKNOWN", "its host has not said yet what it is to be judged by")
    assert life.backups.desk.counters.undefined == 1


async def test_a_job_that_its_host_gave_up_is_retired_and_says_nothing_more(life: Life) -> None:
    life.define(DUMP)
    await life.heard(1)
    assert (await life.words())["web01/nightly"] == "RETIRED"
    assert life.series(backup="nightly") == {}
    life.define(DUMP, NIGHTLY)
    await life.heard(1)
    assert (await life.words())["web01/nightly"] == "OK"
    assert life.series(backup="nightly") != {}


async def test_a_retired_hosts_backups_stay_and_a_forgotten_ones_go(kept: Kept, life: Life) -> None:
    life.registry.subscribe(life.backups.host_changed)
    await life.registry.retire(WEB, actor="ann")
    await life.turn()
    assert await life.words() == {"web01/nightly": "RETIRED"}
    assert life.series(backup="nightly") == {}
    assert await (await kept.life().begin()).words() == {"web01/nightly": "RETIRED"}
    await life.registry.forget(WEB, actor="ann")
    await life.turn()
    assert await life.words() == {}
    with pytest.raises(NoSuch):
        await life.answers.history(NIGHTLY_ID, 10)
    assert await (await kept.life().begin()).words() == {}


async def test_a_host_that_gets_another_label_ends_the_series_under_the_old_one(life: Life) -> None:
    life.registry.seen(WEB, {"instance": "web01", "rack": "b12"})
    await life.heard(60)
    await life.heard(60)
    assert life.series(backup="nightly", rack="b12") != {}
    assert life.series(backup="nightly", role="web") == {}


async def test_a_host_that_names_ever_new_services_gets_its_share_of_them(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_desk, "SERVICES_PER_HOST_MAX", 2)
    for service in ("one", "two\x1b", "three", "one"):
        life.define(replace(NIGHTLY, service=service))
        await life.heard(1)
        (job,) = await life.answers.jobs()
        assert job.service == {"two\x1b": "two?", "three": ""}.get(service, service)
    assert life.backups.desk.counters.services_refused == 1
    life.define(replace(NIGHTLY, service="three"), agent_id=DB)
    await life.heard(1, WEB, DB)
    assert [job.service for job in await life.answers.jobs()] == ["one", "three"]


async def test_two_hosts_may_have_a_job_of_one_name(life: Life) -> None:
    life.define(NIGHTLY, agent_id=DB)
    life.ran(agent_id=DB, outcome=Outcome.FAILED)
    await life.heard(1, WEB, DB)
    assert await life.words() == {"web01/nightly": "OK", "db01/nightly": "FAILED"}
    assert life.series(backup="nightly", instance="db01", facet="run", role="db", service="shop") == {
        "facet severity=minor": 2
    }


async def test_the_worst_of_its_jobs_counts_for_a_service(life: Life) -> None:
    life.define(NIGHTLY, DUMP)
    life.clock.advance(2 * H_S)
    life.ran(job="dump")
    await life.heard(1)
    await life.heard(60)
    found = life.series(service="shop")
    age_s = 2 * H_S + 300 + 600 + 61
    assert found["service_rpo_seconds"] == age_s
    assert found["service_rpo_objective_seconds"] == H_S, "the strictest of its jobs"
    assert found["service_verified_rpo_seconds"] == float("inf")
    life.book = promised(Duration(900))
    await life.heard(60)
    assert life.series(service="shop")["service_rpo_objective_seconds"] == 900
    life.define()
    await life.heard(60)
    assert not [name for name in life.series(service="shop") if name.startswith("service_")]


# ---------------------------------------------------------------- what people say


async def test_a_pause_hushes_and_its_end_asks_for_nothing_that_was_due_meanwhile(life: Life) -> None:
    paused = await life.answers.pause(NIGHTLY_ID, 48 * H_S, "the disks move\x1b", ANN)
    assert (paused.word, paused.paused and paused.paused.by) == ("PAUSED", "ann")
    assert not [name for name in life.series(backup="nightly") if name.startswith("facet")]
    await life.heard(47 * H_S)
    assert await life.words() == {"web01/nightly": "PAUSED"}
    resumed = await life.answers.resume(NIGHTLY_ID, ANN)
    assert resumed.word == "STALE"
    with pytest.raises(Refused, match="not paused"):
        await life.answers.resume(NIGHTLY_ID, ANN)
    rows = life.store.read(lambda c: audit.rows_newest(c, "main", Filter(), 2))
    assert [(row.action, row.target, row.actor) for row in rows] == [
        ("backup.resume", "web01/nightly", "ann"),
        ("backup.pause", "web01/nightly", "ann"),
    ]


async def test_reviews_and_exemptions_are_signed_and_live_on(kept: Kept, life: Life) -> None:
    made = await life.answers.review(NIGHTLY_ID, "looked at the report", ANN)
    assert (made.by, made.word) == ("ann", "OK")
    exempt = await life.answers.exempt("host", "web02", "ops", "stateless", 60, ANN)
    again = await kept.life().begin()
    assert [job.reviewed for job in await again.answers.jobs()] == [made]
    assert await again.answers.exemptions() == [exempt]
    assert await again.answers.withdraw(exempt.id, ANN) == exempt
    with pytest.raises(NoSuch):
        await again.answers.withdraw(exempt.id, ANN)
    with pytest.raises(NoSuch):
        await again.answers.review("no-such", "x", ANN)
    rows = life.store.read(lambda c: audit.rows_newest(c, "main", Filter(), 3))
    assert [row.action for row in rows] == ["backup.withdraw", "backup.exempt", "backup.review"]


async def test_of_a_run_that_goes_on_there_is_one_entry(life: Life) -> None:
    run = new_id()
    for _ in range(3):
        life.ran(run_id=run, outcome=Outcome.RUNNING, finished_ms=0, source=Source.WRAP)
        await life.heard(60)
    entries = (await life.answers.history(NIGHTLY_ID, 10)).entries
    assert [entry.outcome for entry in entries] == ["running", "ok"]
    assert await life.words() == {"web01/nightly": "RUNNING"}
    life.ran(run_id=run, source=Source.WRAP)
    life.ran(
        kind=Kind.OBSERVE, run_id="", outcome=Outcome.UNKNOWN, reason="repository-locked", bytes_source=None
    )
    await life.heard(1)
    history = await life.answers.history(NIGHTLY_ID, 2)
    assert [(entry.kind, entry.outcome) for entry in history.entries] == [
        ("observe", "unknown"),
        ("run", "ok"),
    ]
    assert history.truncated


# ---------------------------------------------------------------- over a time


def proved(life: Life, *, ok: bool = True, level: Level = Level.DATA, kind: Kind = Kind.VERIFY) -> None:
    outcome = Outcome.OK if ok else Outcome.FAILED
    life.ran(kind=kind, run_id="", outcome=outcome, verify=Proof(level=level, ok=ok), bytes_source=None)


async def test_a_row_of_a_report_is_evidence_of_what_was_done(life: Life) -> None:
    began_ms = life.clock.wall_ms() - 300_000
    await life.heard(H_S)
    proved(life)
    proved(life, ok=False)
    proved(life, level=Level.RESTORE)
    proved(life, level=Level.RESTORE, kind=Kind.RESTORE)
    life.ran(kind=Kind.VERIFY, run_id="", outcome=Outcome.UNKNOWN, reason="repository-locked")
    life.ran(kind=Kind.OBSERVE, run_id="", outcome=Outcome.UNKNOWN, reason="repository-locked")
    run = new_id()
    life.ran(run_id=run, outcome=Outcome.RUNNING, finished_ms=0)
    life.ran(run_id=run, outcome=Outcome.FAILED)
    life.ran(outcome=Outcome.RUNNING, finished_ms=0, source=Source.PING)
    life.ran(outcome=Outcome.PARTIAL)
    await life.heard(60)
    life.define(replace(NIGHTLY, rpo_s=24 * H_S))
    await life.heard(48 * H_S)
    await life.answers.review(NIGHTLY_ID, "seen", ANN)
    _, (row,) = await life.answers.report([NIGHTLY_ID], Asked(objective=0.5))
    counted = (row.runs_ok, row.runs_partial, row.runs_failed, row.runs_unended, row.looks_unread)
    assert counted == (1, 1, 1, 1, 1)
    assert (row.proofs_ok, row.proofs_failed, row.restores_ok, row.restores_failed) == (1, 1, 2, 0)
    assert (row.digest, row.digests) == (
        replace(NIGHTLY, rpo_s=24 * H_S).digest(),
        [NIGHTLY.digest()],
    )
    assert (row.words["OK"], row.words["STALE"]) == (1, 1)
    assert [one.by for one in row.reviews] == ["ann"]
    rpo = row.rpo
    assert rpo is not None
    point_ms, now_ms = began_ms - 600_000, life.clock.wall_ms()
    assert (rpo.since, rpo.until, rpo.unknown_s) == (at(began_ms), at(now_ms), 0)
    (span,) = rpo.spans
    assert (span.began, span.ended) == (at(point_ms + 86_400_000), at(now_ms))
    over_s = (now_ms - point_ms) / 1000 - 86_400
    known_s = (now_ms - began_ms) / 1000
    assert (rpo.over_s, rpo.worst_s) == (over_s, (now_ms - point_ms) / 1000)
    assert rpo.kept == pytest.approx(1 - over_s / known_s)
    assert rpo.left_s == pytest.approx(known_s / 2 - over_s, abs=0.001)


async def test_of_a_silent_hosts_backup_a_report_claims_nothing(life: Life) -> None:
    life.clock.advance(40 * H_S)
    await life.turn()
    _, (row,) = await life.answers.report([NIGHTLY_ID], Asked())
    assert row.rpo is not None
    assert (row.rpo.over_s, row.rpo.kept, row.rpo.unknown_s) == (0, 1, 40 * H_S)


async def test_a_report_reads_so_many_records_of_a_job(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        await life.heard(10 * H_S)
        life.ran()
    await life.heard(60)
    monkeypatch.setattr(backup_reports, "RECORDS_READ_MAX", 4)
    _, (row,) = await life.answers.report([NIGHTLY_ID], Asked())
    assert (row.runs_ok, row.truncated) == (4, True)
    assert row.rpo is not None
    assert row.rpo.since == at(life.clock.wall_ms() - 60_000 - 30 * 3_600_000 + 26 * 3_600_000)


# ---------------------------------------------------------------- much at once


async def test_a_storm_of_changes_is_one_word_to_read_all_again(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "EVENTS_MAX", 3)
    life.events.clear()
    for number in range(4):
        life.ran(job=f"j{number}")
    await life.heard(1)
    assert [kind for kind, _ in life.events] == ["resync"]


async def test_tidying_forgets_jobs_that_are_gone_and_gives_their_names_back(life: Life) -> None:
    life.define()
    await life.heard(1)
    life.clock.advance(401 * 24 * H_S)
    await life.backups._tidy()
    await life.heard(1)
    assert await life.words() == {}
    assert life.backups.desk.book.definition(JobKey(WEB, "nightly")) is None
    assert life.backups.door._names[WEB] == set()
