"""The error budget of a service's RPO: over all its jobs, from what is stored, as series and for who may see it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from watchbill.backups.definition import Definition
from watchbill.config import Duration
from watchbill_collector.scopes import EVERYTHING, View
from watchbill_collector.services import service_budgets
from watchbill_collector.store import Store

from .kept import DB, H_S, WEB, Kept, Life, promised

DAY_S = 24 * H_S


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("state")
    Store.open(directory, "main").close()
    return directory / "control.db"


@pytest_asyncio.fixture
async def life(template: Path, tmp_path: Path) -> AsyncIterator[Life]:
    """Two jobs of the shop, whose RPO is a day, through three days: that of the second host missed one night."""
    kept = Kept.beside(template, tmp_path)
    life = await kept.life().begin()
    life.book = promised(Duration(int(DAY_S + H_S)))
    life.define(Definition(name="nightly", tool="wrap"))
    life.define(Definition(name="dump", tool="wrap", service="shop"), agent_id=DB)
    for night in range(4):
        life.ran()
        if night != 2:
            life.ran("dump", DB)
        await life.heard(DAY_S, WEB, DB)
    yield life
    await kept.close()


async def test_what_is_left_of_a_services_budget_is_a_series_and_told_with_its_stretches(life: Life) -> None:
    assert life.series(service="shop").keys() & {"service_rpo_kept_ratio"} == set()
    await life.backups.budgets.round()
    await life.heard(60, WEB, DB)
    said = life.series(service="shop")
    over_s = DAY_S - H_S + 600
    assert said["service_rpo_kept_ratio"] == pytest.approx(1 - over_s / (4 * DAY_S))
    assert said["service_rpo_budget_seconds"] == pytest.approx(0.001 * 4 * DAY_S)
    assert said["service_rpo_budget_left_seconds"] == pytest.approx(0.001 * 4 * DAY_S - over_s)
    told = life.backups.budgets.of("shop", EVERYTHING)
    assert told is not None
    assert (told.rpo_s, told.times, told.over_s) == (DAY_S + H_S, 1, pytest.approx(over_s))
    assert told.kept == said["service_rpo_kept_ratio"]


async def test_it_is_told_to_who_sees_every_host_that_is_in_it(life: Life) -> None:
    await life.backups.budgets.round()
    of = life.backups.budgets.of
    assert of("shop", View.of(['role=~"web|db"'])) is not None
    assert of("shop", View.of(['role="web"'])) is None
    assert of("cellar", EVERYTHING) is None


async def test_a_service_that_promises_nothing_any_more_or_has_too_many_jobs_has_no_figure(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets = life.backups.budgets
    await budgets.round()
    monkeypatch.setattr(service_budgets, "JOBS_MAX", 1)
    await budgets.round()
    assert (budgets.of("shop", EVERYTHING) is not None, budgets.left_out) == (False, 1)
    monkeypatch.undo()
    await budgets.round()
    assert budgets.of("shop", EVERYTHING) is not None
    life.book = promised(None)
    await budgets.round()
    await life.heard(60, WEB, DB)
    assert budgets.of("shop", EVERYTHING) is None
    assert not [name for name in life.series(service="shop") if "budget" in name or "kept" in name]
