"""The whole way of a backup over each kind of store: definitions, records, judged words, what people say, and a process
that reads all of it back from a store opened anew."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from watchbill.backups.definition import Copy, Definition, ProofAges, Retention, SizeLimits
from watchbill.backups.record import Kind, Level, Outcome, Proof, Snapshots, Source, new_id
from watchbill.backups.schedule import Schedule
from watchbill.errors import Refused
from watchbill_collector.api.backup_port import BackupJob, backup_id
from watchbill_collector.api.backup_report import Asked
from watchbill_collector.services import backup_desk
from watchbill_collector.store import audit
from watchbill_collector.store.audit import Filter

from ..backups.kept import ANN, DB, WEB, Kept, Life
from .conftest import Place

pytestmark = pytest.mark.timeout(120)

H_S = 3600.0
NIGHTLY = Definition(
    name="nightly",
    tool="restic",
    service="shop",
    schedule=Schedule(every_s=24 * H_S),
    max_duration_s=4 * H_S,
    rpo_s=26 * H_S,
    size=SizeLimits(min_bytes=10, drop=0.3),
    retention=Retention(keep_s=30 * 24 * H_S, min_copies=3),
    verify=ProofAges(data_s=30 * 24 * H_S),
    copies=(Copy(name="nas"), Copy(name="clöud \U0001f4be", location="offsite", immutable=True)),
)
DUMP = Definition(name="dump", tool="wrap", rpo_s=H_S)
NIGHTLY_ID = backup_id(WEB, "nightly")


@pytest_asyncio.fixture
async def kept(place: Place) -> AsyncIterator[Kept]:
    made = Kept(place.open())
    yield made
    await made.close()


async def begun_anew(kept: Kept, place: Place) -> Life:
    """Another process, on the store as it is found."""
    await kept.lives[-1].backups.close()
    kept.store.close()
    kept.store = place.open()
    return await kept.life().begin()


async def standing(life: Life) -> dict[str, BackupJob]:
    """Every job by its id; of its last run it is not kept when it arrived."""
    return {job.id: replace(job, last_run=None) for job in await life.answers.jobs()}


def looked(life: Life, *times: int) -> None:
    """A look at a copy that holds snapshots of these times."""
    life.ran(
        kind=Kind.OBSERVE,
        source=Source.REPO,
        run_id="",
        copy="nas",
        point_ms=times[-1],
        snapshots=Snapshots(
            count=len(times),
            oldest_ms=times[0],
            newest_ms=times[-1],
            ids_digest=f"{hash(tuple(times)) & (1 << 64) - 1:064x}",
            parts=1,
            listed=tuple((f"{at_ms:064x}", at_ms) for at_ms in times),
        ),
    )


async def a_week(life: Life) -> None:
    """Nights of a job that is run, looked at and proven; the fourth one fails, and is tried again."""
    life.define(NIGHTLY, DUMP)
    made = []
    for night in range(7):
        run = new_id()
        life.ran(run_id=run, outcome=Outcome.RUNNING, finished_ms=0, source=Source.WRAP)
        if night == 3:
            life.ran(
                run_id=run, outcome=Outcome.FAILED, exit_code=1, errors=("dïsk \u2028 full",), tail="x" * 8000
            )
            await life.heard(H_S)
            life.ran(source=Source.WRAP)
        else:
            life.ran(run_id=run, source=Source.WRAP, bytes_source=1_000_000 + night)
        made.append(life.clock.wall_ms() - 600_000)
        looked(life, *made)
        life.ran(kind=Kind.VERIFY, run_id="", verify=Proof(level=Level.DATA, ok=True), copy="nas")
        await life.heard({3: 23, 6: 1}.get(night, 24) * H_S)


async def test_a_week_is_judged_kept_and_read_back_the_same(kept: Kept, place: Place) -> None:
    life = await kept.life().begin()
    await a_week(life)
    life.ran(outcome=Outcome.FAILED, agent_id=DB, job="unlistéd \U0001f4be")
    await life.heard(60, WEB, DB)
    words = await life.words()
    assert words["web01/nightly"] == "OK"
    assert words["web01/dump"] == "STALE"
    assert {word for name, word in words.items() if name.startswith("db01/")} == {"FAILED"}
    told = [one for one in life.told() if "FAILED" in one]
    assert told == [("LATE", "FAILED"), ("FAILED", "OK"), ("", "FAILED")]
    jobs = await standing(life)
    history = await life.answers.history(NIGHTLY_ID, 100)
    period, rows = await life.answers.report(list(jobs), Asked())
    (nightly,) = [row for row in rows if row.id == NIGHTLY_ID]
    assert (nightly.runs_ok, nightly.runs_failed, nightly.looks, nightly.proofs_ok) == (7, 1, 7, 7)
    assert nightly.rpo is not None
    assert nightly.rpo.kept == 1
    said = life.series(backup="nightly", instance="web01")

    again = await begun_anew(kept, place)
    assert await standing(again) == jobs
    assert again.told() == []
    assert again.series(backup="nightly", instance="web01") == said
    assert await again.answers.history(NIGHTLY_ID, 100) == history
    assert await again.answers.report(list(jobs), Asked(period.since_ms, period.until_ms)) == (
        period,
        rows,
    )
    await again.heard(3 * H_S)
    assert (await again.words())["web01/nightly"] == "OK", "it goes on from there"


async def test_what_people_say_is_read_back_and_in_the_audit(kept: Kept, place: Place) -> None:
    life = await kept.life().begin()
    life.define(NIGHTLY)
    life.ran()
    await life.heard(27 * H_S)
    review = await life.answers.review(NIGHTLY_ID, "looked \x00 at it \U0001f50d", ANN)
    await life.answers.pause(NIGHTLY_ID, 48 * H_S, "the disks move", ANN)
    exempt = await life.answers.exempt("host", "web02", "ops", "stateless", 48 * H_S, ANN)

    again = await begun_anew(kept, place)
    (job,) = await again.answers.jobs()
    assert (job.word, job.reviewed) == ("PAUSED", review)
    assert job.paused is not None
    assert job.paused.reason == "the disks move"
    assert await again.answers.exemptions() == [exempt]
    assert (await again.answers.resume(NIGHTLY_ID, ANN)).word in ("MISSED", "STALE")
    with pytest.raises(Refused):
        await again.answers.resume(NIGHTLY_ID, ANN)
    assert await again.answers.withdraw(exempt.id, ANN) == exempt
    rows = again.store.read(lambda c: audit.rows_newest(c, "main", Filter(), 9))
    assert [row.action for row in rows] == [
        "backup.withdraw",
        "backup.resume",
        "backup.exempt",
        "backup.pause",
        "backup.review",
    ]


async def test_every_version_counts_when_it_is_read_back_and_old_ones_are_tidied(
    kept: Kept, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_desk, "READ_AT_ONCE", 7)
    life = await kept.life().begin()
    await a_week(life)
    loose = replace(NIGHTLY, retention=Retention())
    life.define(loose)
    looked(life, life.clock.wall_ms() - 600_000)
    await life.heard(60)
    assert (await life.words())["web01/nightly"] == "SUSPECT", "held to what it was"
    again = await begun_anew(kept, place)
    assert (await again.words())["web01/nightly"] == "SUSPECT"
    _, (row,) = await again.answers.report([NIGHTLY_ID], Asked())
    assert (row.digest, row.digests) == (loose.digest(), [NIGHTLY.digest()])
    again.define()
    await again.heard(60)
    assert set((await again.words()).values()) == {"RETIRED"}
    again.clock.advance(401 * 24 * H_S)
    await again.backups._tidy()
    await again.heard(1)
    assert await again.words() == {}
    assert await (await begun_anew(kept, place)).words() == {}
