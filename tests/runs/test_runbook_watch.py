"""What goes on around runbooks by itself: preflights, drills, and the series that page people."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.runs.conftest import SITE, action
from tests.runs.test_runbook_desk import ADA, ANYBODY, BOB, OTHER_TEAM, Desk, desk, tell  # noqa: F401 - A fixture.
from watchbill_collector.api.runbook_port import RunVerb
from watchbill_collector.runbooks.run.words import RunState
from watchbill_collector.series import SeriesTable, Ticks
from watchbill_collector.services.run_preflight import CHANGED_S, FIRST_S, NOT_READY_S, PERIOD_S
from watchbill_collector.services.run_twin import Ran
from watchbill_collector.services.runbook_watch import RunbookWatch
from watchbill_collector.services.trigger_sight import Seen
from watchbill_collector.store import drills
from watchbill_collector.store import runs as run_rows

DAY_S = 86_400
REHEARSED = """
runbook: restart
params: {host: {type: host, default: db2}}
limits: {hosts: 1, cooldown: 10m, breaker: 1}
objectives: {rto: 5m}
trigger: {alert: AppDown, mode: auto}
drill: {every: 30d, auto: true, cleanup: [{do: tidy, on: "{{host}}"}]}
steps:
  - {id: again, do: restart, on: "{{host}}", clock: stop}
"""


@dataclass
class Town:
    """A desk that is watched."""

    desk: Desk
    watch: RunbookWatch = field(init=False)
    said: dict[str, float] = field(default_factory=dict)
    table: SeriesTable = field(default_factory=SeriesTable)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        house = self.desk.house
        self.watch = RunbookWatch(
            house.store, house.clock, self.desk.runs, self.table, alerts=lambda _: Seen(), emit=self.emit
        )

    def emit(self, ticks: list[Ticks]) -> None:
        for tick in ticks:
            for number, value in zip(tick.series.tolist(), tick.values[0].tolist(), strict=True):
                labels = self.table.labels(number)
                name = labels["__name__"].removeprefix("watchbill_runbook_")
                key = f"{labels['runbook']} {name} {labels.get('state', '')}".strip()
                if np.isnan(value):
                    del self.said[key]
                else:
                    self.said[key] = value

    async def turn(self, seconds: float = 0) -> Mapping[str, float]:
        """How everything stands after so long."""
        self.desk.house.clock.advance(seconds)
        await self.watch.turn()
        await self.desk.settle()
        await self.watch.turn()
        return self.said

    async def preflight(self, seconds: float = 0) -> str:
        """Which runbook was looked at after so long."""
        self.desk.house.clock.advance(seconds)
        return await self.watch.preflights.turn()


@pytest.fixture
async def town(desk: Desk) -> Town:  # noqa: F811
    db2 = desk.house.named("db2")
    for name in ("restart", "tidy"):
        db2.allow(*action(name, "repeat"))
    desk.runs.inventories.take([tell(desk.house, db2)])
    await desk.load(REHEARSED)
    return Town(desk)


# ---------------------------------------------------------------- preflights


async def test_a_runbook_is_looked_at_after_the_start_now_and_then_and_soon_after_a_change(
    town: Town,
) -> None:
    assert await town.preflight() == ""
    assert await town.preflight(FIRST_S - 1) == ""
    assert await town.preflight(1) == "restart"
    row = town.watch.preflights.found["restart"]
    assert (row.ready, row.problems) == (
        False,
        ("nobody has accepted this text of restart: watchbill runbooks accept restart",),
    )
    assert (await town.turn())["restart ready"] == 0
    await town.desk.runs.desk.accept("restart", town.desk.digest("restart"), BOB)
    assert await town.preflight() == ""
    assert await town.preflight(CHANGED_S) == "restart"
    assert (await town.turn())["restart ready"] == 1
    assert await town.preflight(PERIOD_S * 0.85) == ""
    assert await town.preflight(PERIOD_S * 0.3) == "restart"


async def test_what_hosts_no_longer_allow_is_told_before_anybody_needs_it(town: Town) -> None:
    await town.desk.runs.desk.accept("restart", town.desk.digest("restart"), BOB)
    await town.preflight()
    assert await town.preflight(FIRST_S) == "restart"
    db2 = town.desk.house.named("db2")
    db2.actions = {name: one for name, one in db2.actions.items() if name != "restart"}
    town.desk.runs.inventories.take([tell(town.desk.house, db2)])
    await town.preflight()
    assert await town.preflight(CHANGED_S) == "restart"
    view, _ = await town.desk.runs.desk.runbook("restart", ANYBODY)
    assert view.ready is False
    assert any("restart" in one for one in view.not_ready)
    assert await town.preflight(NOT_READY_S) == "restart", "who mends it need not wait"


async def test_what_only_an_alert_can_say_is_no_reason_not_to_be_ready(town: Town) -> None:
    text = REHEARSED.replace("{type: host, default: db2}", "{type: host}").replace(
        "limits:", 'lock: "{{host}}"\nlimits:'
    )
    await town.desk.load(text.replace("drill: {every: 30d, auto: true, ", "drill: {params: {host: db2}, "))
    await town.desk.runs.desk.accept("restart", town.desk.digest("restart"), BOB)
    row = await town.desk.runs.desk.preflight("restart")
    assert row is not None
    assert (row.ready, row.problems) == (True, ())


# ---------------------------------------------------------------- drills


async def test_a_drill_that_is_due_begins_by_itself_and_is_in_the_history(town: Town) -> None:
    said = await town.turn()
    assert said["restart drill_overdue"] == 0
    assert "restart drill_last_timestamp_seconds" not in said
    said = await town.turn(30 * DAY_S)
    assert (said["restart drill_overdue"], said["restart drill_failed"]) == (0, 0)
    assert said["restart recovery_seconds"] == 0.0
    (row,) = town.desk.house.store.read(lambda c: drills.all_of(c, SITE))["restart"]
    assert (row.state, row.detail) == ("succeeded", "system")
    view, _ = await town.desk.runs.desk.runbook("restart", ANYBODY)
    assert view.drill_due is not None
    assert view.recovery_p90_s == 0.0
    assert len(town.desk.house.store.read(lambda c: run_rows.drills(c, SITE))) == 1
    (shown,) = await town.watch.drills.drills(ANYBODY)
    assert (shown.runbook, shown.automatic, shown.overdue, shown.held, shown.kept) == (
        "restart",
        True,
        False,
        1,
        True,
    )
    assert [(one.id, one.requester, one.recovery_s) for one in shown.history] == [(row.run_id, "system", 0.0)]
    assert await town.watch.drills.drills(OTHER_TEAM) == [], "it touches no host of his"
    # Its runs may go; what they have shown stays.
    town.desk.house.store.write_blocking(lambda c: run_rows.remove(c, [row.run_id]))
    town.start()
    await town.turn()
    assert town.watch.drills.history["restart"][0].run_id == row.run_id


async def test_no_drill_begins_beside_a_run_in_earnest_or_while_automation_is_paused(town: Town) -> None:
    await town.desk.runs.desk.accept("restart", town.desk.digest("restart"), BOB)
    town.desk.house.named("db2").connected = False
    run = await town.desk.runs.desk.start("restart", {}, "it is down", False, "", ADA)
    assert (await town.turn(31 * DAY_S))["restart drill_overdue"] == 1
    assert town.watch.drills.begun == 0
    await town.desk.runs.desk.change(run.id, RunVerb.ABORT, "", "enough", ADA)
    town.desk.house.named("db2").connected = True
    await town.desk.runs.desk.pause("hands off", ADA)
    await town.turn(60)
    assert town.watch.drills.begun == 0
    await town.desk.runs.desk.resume("go on", ADA)
    await town.turn(60)
    assert town.watch.drills.begun == 1


async def test_a_drill_that_failed_is_told_until_one_succeeds(town: Town) -> None:
    db2 = town.desk.house.named("db2")
    db2.allow(*action("restart", "repeat", lambda _: Ran(exit_code=1)))
    await town.desk.load(REHEARSED.replace("steps:", "on_fail: stop\nsteps:").replace(" auto: true,", ""))
    view = await town.desk.runs.desk.start("restart", {}, "try", True, "", ADA)
    await town.desk.settle()
    assert (await town.desk.runs.desk.run(view.id, ADA)).state is RunState.FAILED
    assert (await town.turn(60))["restart drill_failed"] == 1
    assert sum(db2.ran.values()) >= 2, "it was cleaned up after"
    db2.allow(*action("restart", "repeat"))
    await town.desk.runs.desk.start("restart", {}, "again", True, "", ADA)
    assert (await town.turn(60))["restart drill_failed"] == 0
    standing = town.watch.drills.standing("restart")
    assert standing is not None
    assert (standing.count, standing.succeeded, standing.kept) == (2, 1, True)


# ---------------------------------------------------------------- series that page


async def test_a_run_that_failed_or_is_held_and_a_trigger_that_was_stopped_are_told(town: Town) -> None:
    await town.desk.load(REHEARSED.replace(" auto: true,", ""))
    await town.desk.runs.desk.accept("restart", town.desk.digest("restart"), BOB)
    said = await town.turn()
    assert {
        name: said[f"restart {name}"] for name in ("held", "failed", "stopped", "accepted", "breaker_open")
    } == {
        "held": 0,
        "failed": 0,
        "stopped": 0,
        "accepted": 1,
        "breaker_open": 0,
    }
    assert said["restart objective_rto_seconds"] == 300
    town.desk.house.named("db2").allow(*action("restart", "repeat", lambda _: Ran(exit_code=1)))
    run = await town.desk.runs.desk.start("restart", {}, "down", False, "", ADA)
    said = await town.turn(1)
    assert (said["restart held"], said["restart runs_open held"], said["restart breaker_open"]) == (1, 1, 1)
    await town.desk.runs.desk.propose("restart", {}, "AppDown fires", "alert AppDown f", auto=True)
    said = await town.turn(1)
    assert (said["restart stopped"], said["restart runs_open proposed"]) == (1, 1)
    await town.desk.runs.desk.change(run.id, RunVerb.ABORT, "", "enough", ADA)
    said = await town.turn(1)
    assert said["restart held"] == 0
    assert "restart runs_open held" not in said, "its series has ended"
