"""The shipped runbook restarts what is down, believes it only when its checks do, and touches nothing else."""

import os
import shutil
from pathlib import Path

import pytest

from tests.runs.conftest import House
from watchbill.actions.files import load_allowed
from watchbill_collector.applications import SeenCheck, Verdict, apps_of
from watchbill_collector.runbooks.expression import Known
from watchbill_collector.services.run_facts import RunFacts
from watchbill_collector.services.run_knowledge import known_apps
from watchbill_collector.services.run_twin import Ran

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
GIVEN = {"host": "web1", "app": "shop", "unit": "shop.service"}


class Shop:
    """An application of one check, and its host."""

    def __init__(self, house: House, tmp_path: Path, verdict: Verdict | None, after: Verdict) -> None:
        self.verdict = verdict
        self.heard = True
        self._after = after
        (tmp_path / "actions.d").mkdir()
        shutil.copyfile(EXAMPLES / "actions" / "service.toml", tmp_path / "actions.d" / "service.toml")
        (tmp_path / "actions.d" / "service.toml").chmod(0o644)
        actions = load_allowed(tmp_path, os.geteuid()).actions
        self.host = house.host("web1")
        self.host.allow(actions["service.look"], lambda _: Ran(output="ActiveState=failed"))
        self.host.allow(actions["service.restart"], self._restart)
        house.runbook((EXAMPLES / "runbooks" / "service-restart.yaml").read_text())

    def _restart(self, _: object) -> Ran:
        self.verdict = self._after
        return Ran(output="")

    def known(self, name: str) -> dict[str, Known] | None:
        seen = [SeenCheck("front", "shop", "http", essential=True, verdict=self.verdict)]
        return {"app": known_apps(apps_of(seen, heard=self.heard))} if name == "web1" else None

    def facts(self) -> RunFacts:
        """Of one moment, as the collector makes them."""
        return RunFacts(lambda _: self.heard, lambda *_: None, lambda *_: None, lambda _: None, self.known)


class Now:
    """The facts of whichever moment it is."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    def __getattr__(self, name: str) -> object:
        return getattr(self._shop.facts(), name)


async def run(house: House, shop: Shop) -> str:
    house.facts = Now(shop)  # type: ignore[assignment]
    run_id = await house.begin("service-restart", **GIVEN)
    await house.settle()
    await house.pass_s(400)
    return run_id


async def test_what_is_down_is_restarted_and_the_run_ends_when_it_has_stayed_healthy(
    house: House, tmp_path: Path
) -> None:
    shop = Shop(house, tmp_path, Verdict.CRITICAL, Verdict.OK)
    run_id = await run(house, shop)
    assert house.state(run_id) == "succeeded"
    assert shop.host.ran == {"service.look": 1, "service.restart": 1}
    assert house.summary(run_id).recovered_ms


@pytest.mark.parametrize("after", [Verdict.CRITICAL, Verdict.WARNING, Verdict.UNKNOWN])
async def test_what_does_not_become_healthy_is_left_to_people(
    house: House, tmp_path: Path, after: Verdict
) -> None:
    shop = Shop(house, tmp_path, Verdict.CRITICAL, after)
    run_id = await run(house, shop)
    assert house.state(run_id) == "held"
    assert "healthy: host(host).app[app].healthy" in house.run(run_id).detail


@pytest.mark.parametrize(
    ("verdict", "heard"),
    [
        (Verdict.OK, True),
        (Verdict.WARNING, True),
        (Verdict.UNKNOWN, True),
        (None, True),
        (Verdict.CRITICAL, False),
    ],
)
async def test_what_is_not_known_to_be_down_is_not_restarted(
    house: House, tmp_path: Path, verdict: Verdict | None, heard: bool
) -> None:
    shop = Shop(house, tmp_path, verdict, Verdict.OK)
    shop.heard = heard
    run_id = await run(house, shop)
    assert house.state(run_id) == "held"
    assert "service.restart" not in shop.host.ran
