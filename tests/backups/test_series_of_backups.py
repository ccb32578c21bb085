"""What is said of a backup as series ends later than it was said: of two samples of one moment the first counts."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from watchbill.backups.definition import Definition
from watchbill.backups.record import Outcome
from watchbill_collector.series import is_stale
from watchbill_collector.store import Store

from .kept import Kept, Life


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("state")
    Store.open(directory, "main").close()
    return directory / "control.db"


@pytest_asyncio.fixture
async def life(template: Path, tmp_path: Path) -> AsyncIterator[Life]:
    kept = Kept.beside(template, tmp_path)
    yield await kept.life().begin()
    await kept.close()


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_word_that_passes_quickly_is_over(life: Life, at_once: bool) -> None:
    life.define(Definition(name="nightly", tool="wrap"))
    begun = life.ran(outcome=Outcome.RUNNING, finished_ms=0)
    await life.heard(0 if at_once else 0.3)
    life.ran(run_id=begun.run_id, started_ms=begun.started_ms)
    await life.heard(0 if at_once else 0.3)
    assert (await life.words())["web01/nightly"] == "OK"
    first: dict[tuple[int, int], bool] = {}
    for tick in life.ticks:
        for time_ms, row, stale in zip(
            tick.times_ms.tolist(), tick.values, is_stale(tick.values), strict=True
        ):
            assert len(row) == len(tick.series)
            for series, ended in zip(tick.series.tolist(), stale.tolist(), strict=True):
                first.setdefault((series, time_ms), ended)
    newest: dict[int, tuple[int, bool]] = {}
    for (series, time_ms), ended in first.items():
        newest[series] = max(newest.get(series, (0, False)), (time_ms, ended))
    lives = {
        life.table.labels(series)["word"]
        for series, (_, ended) in newest.items()
        if not ended and life.table.labels(series)["__name__"] == "watchbill_backup_word"
    }
    assert lives == {"OK"}
