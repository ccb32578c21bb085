"""Triggers at work: one run for each alert, over restarts; proposals that end with their alert; schedules."""

import asyncio
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import pytest

from tests.runs.conftest import SITE, action
from tests.runs.test_runbook_desk import ADA, BOB, Desk, desk, tell  # noqa: F401 - A fixture.
from watchbill.errors import Busy
from watchbill_collector.api.runbook_port import RunVerb
from watchbill_collector.runbooks.triggers import Firing
from watchbill_collector.services.run_triggers import FIRING_MAX, Triggers
from watchbill_collector.services.run_twin import Ran
from watchbill_collector.services.trigger_sight import Seen
from watchbill_collector.store import runs as run_rows
from watchbill_collector.store.runs import RunSummary

AUTO = """
runbook: restart
params: {host: {type: host}}
lock: "app/{{host}}"
limits: {hosts: 1, cooldown: 10m, max: "3 per 1h", breaker: 2}
trigger: {alert: AppDown, for: 30s, mode: auto}
steps:
  - {id: again, do: restart, on: "{{host}}"}
"""
QUORUM = AUTO.replace("mode: auto", 'agree: "2 of [collector, host]", mode: auto').replace(
    "steps:", "steps:\n  - {id: look, do: look, on: '{{host}}'}\n  - check: look.out.role == 'standby'"
)


@dataclass
class Town:
    """A desk with triggers, and alerts that a test sets."""

    desk: Desk
    triggers: Triggers = field(init=False)
    firing: list[Firing] = field(default_factory=list)
    judged: frozenset[str] = frozenset({"AppDown", "DbDown"})
    hushed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """As after a restart: nothing is remembered but what is in the store."""
        self.triggers = Triggers(
            self.desk.house.store, self.desk.house.clock, self.desk.runs, alerts=self.seen, quiet=self.quiet
        )

    def seen(self, names: Collection[str]) -> Seen:
        now_ms = self.desk.house.clock.wall_ms()
        found = [replace(one, judged_ms=now_ms) for one in self.firing if one.name in names]
        return Seen(tuple(found), self.judged)

    def quiet(self, labels: Mapping[str, str]) -> list[str]:
        return [self.hushed[labels["instance"]]] if labels.get("instance") in self.hushed else []

    def fire(self, host: str, name: str = "AppDown", **labels: str) -> Firing:
        now_ms = self.desk.house.clock.wall_ms()
        alert = Firing(
            name=name,
            fingerprint=f"f-{host}",
            labels={"instance": host, **labels},
            fired_ms=now_ms,
            judged_ms=now_ms,
            every_ms=15_000,
        )
        self.firing.append(alert)
        return alert

    async def after(self, seconds: float) -> list[RunSummary]:
        """What is there after so long, the newest first."""
        self.desk.house.clock.advance(seconds)
        await self.triggers.turn()
        await self.desk.settle()
        await self.triggers.turn()
        return self.desk.house.store.read(lambda c: run_rows.summaries(c, SITE))

    async def accept(self, text: str) -> None:
        await self.desk.load(text)
        for name in self.desk.runs.shelf.in_force:
            await self.desk.runs.desk.accept(name, self.desk.digest(name), BOB)


@pytest.fixture
async def town(desk: Desk) -> Town:  # noqa: F811
    db2 = desk.house.named("db2")
    db2.allow(*action("restart", "repeat"))
    desk.runs.inventories.take([tell(desk.house, db2)])
    found = Town(desk)
    await found.accept(AUTO)
    return found


async def test_an_alert_that_has_fired_long_enough_starts_one_run_and_going_on_no_second(town: Town) -> None:
    town.fire("db2")
    assert await town.after(29) == []
    (run,) = await town.after(1)
    assert (run.state, run.parameters, run.trigger) == ("succeeded", {"host": "db2"}, "alert AppDown f-db2")
    assert "AppDown fires for db2" in run.reason
    assert len(await town.after(3600)) == 1
    town.start()
    assert len(await town.after(3600)) == 1, "another collector knows it from the run"
    assert sum(town.desk.house.named("db2").ran.values()) == 1


async def test_one_that_ended_before_its_time_starts_nothing_and_one_that_comes_again_is_within_limits(
    town: Town,
) -> None:
    town.fire("db2")
    await town.after(29)
    town.firing.clear()
    assert await town.after(60) == []
    town.fire("db2")
    assert len(await town.after(30)) == 1
    town.firing.clear()
    await town.after(10)
    town.fire("db2")
    runs = await town.after(30)
    assert [one.state for one in runs] == ["proposed", "succeeded"], "it is cooling down"
    assert town.triggers.counters.proposed == 1


async def test_a_proposal_ends_with_its_alert_but_not_one_that_a_person_took_over(town: Town) -> None:
    await town.accept(AUTO.replace("mode: auto", "mode: propose"))
    town.fire("db2")
    (run,) = await town.after(30)
    assert run.state == "proposed"
    assert "proposed: its trigger proposes" in run.reason
    town.firing.clear()
    town.judged = frozenset()
    (run,) = await town.after(10)
    assert run.state == "proposed", "whether it goes on is not known"
    town.judged = frozenset({"AppDown"})
    (run,) = await town.after(10)
    assert (run.state, run.state_detail) == ("expired", "its alert ended before it began")
    assert "system run.expire" in town.desk.audited()

    await town.after(1)
    town.fire("db2")
    run = (await town.after(30))[0]
    await town.desk.runs.desk.change(run.run_id, RunVerb.START, "", "now", ADA)
    town.firing.clear()
    runs = await town.after(10)
    assert runs[0].state == "succeeded"


async def test_what_a_person_runs_while_it_fires_is_not_run_again(town: Town) -> None:
    town.fire("db2")
    await town.desk.runs.desk.start("restart", {"host": "db2"}, "I see it", False, "", ADA)
    runs = await town.after(30)
    assert [one.requester for one in runs] == ["ada"]


async def test_two_alerts_of_one_thing_make_one_run(town: Town) -> None:
    town.fire("db2", app="a")
    town.firing.append(replace(town.firing[0], fingerprint="other"))
    assert len(await town.after(30)) == 1


@pytest.mark.parametrize("host", ["db2", "web1"])
async def test_maintenance_of_a_target_makes_a_proposal(town: Town, host: str) -> None:
    town.fire("db2")
    town.hushed[host] = "it is in maintenance: nightly"
    (run,) = await town.after(30)
    assert run.state == ("proposed" if host == "db2" else "succeeded")
    assert ("db2: it is in maintenance: nightly" in run.reason) is (host == "db2")


async def test_a_pause_and_an_unaccepted_text_make_proposals(town: Town) -> None:
    await town.desk.runs.desk.pause("hands off", ADA)
    town.fire("db2")
    assert [one.state for one in await town.after(30)] == ["proposed"]
    await town.desk.runs.desk.resume("go on", ADA)
    town.firing.clear()
    await town.after(1)
    await town.desk.load(AUTO + "# another\n")
    town.fire("db2")
    assert (await town.after(30))[0].state == "proposed"


@pytest.mark.parametrize(
    ("role", "state", "said"),
    [
        ("standby", "succeeded", "collector agrees; db2 agrees"),
        ("primary", "proposed", 'db2 contradicts: look.out.role == "standby" is false'),
        (None, "proposed", "db2 is unsure"),
    ],
)
async def test_the_views_of_a_quorum_are_looked_at_when_they_are_asked(
    town: Town, role: str | None, state: str, said: str
) -> None:
    await town.accept(QUORUM)
    db2 = town.desk.house.named("db2")
    db2.allow(*action("look", "read", lambda _: Ran(output=json.dumps({"role": role}))))
    town.fire("db2")
    town.desk.house.clock.advance(30)
    work = asyncio.gather(*await town.triggers.look())
    for _ in range(50):  # What hosts answer is handed on until it is decided.
        await asyncio.sleep(0.01)
        await town.desk.settle()
        if work.done():
            break
    await work
    await town.desk.settle()
    (run,) = await town.after(0)
    assert run.state == state
    assert said in run.reason


async def test_a_storm_is_one_cause_and_is_looked_at_up_to_a_bound(town: Town) -> None:
    for number in range(FIRING_MAX + 7):
        town.fire(f"new{number}")
    town.desk.house.clock.advance(29)
    assert await town.triggers.look() == []
    assert town.triggers.counters.beyond == 7


async def test_a_schedule_begins_its_run_once_also_after_a_restart(town: Town) -> None:
    scheduled = AUTO.replace(
        "{alert: AppDown, for: 30s, mode: auto}", '{schedule: "*/30 * * * *", mode: auto}'
    )
    await town.accept(scheduled.replace("{type: host}", "{type: host, default: db2}"))
    now_ms = town.desk.house.clock.wall_ms()
    assert await town.after(0) == []
    half_hour = 1_800_000
    town.desk.house.clock.advance((half_hour - now_ms % half_hour) / 1000 - 1)
    assert await town.after(0) == []
    (run,) = await town.after(1)
    assert (run.state, run.trigger.startswith("schedule */30 * * * * ")) == ("succeeded", True)
    town.start()
    assert len(await town.after(60)) == 1
    # A moment that passed while nobody was here is made up for shortly after, and not later.
    town.desk.house.clock.advance(1740 + 5 * 60)
    town.start()
    assert len(await town.after(0)) == 2
    town.desk.house.clock.advance(1800 + 15 * 60)
    town.start()
    assert len(await town.after(0)) == 2


async def test_a_store_that_cannot_be_written_loses_no_alert(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.fire("db2")
    store = town.desk.house.store
    with monkeypatch.context() as broken:

        async def full(*_: object) -> None:
            raise Busy("the disk is full", 1.0)

        broken.setattr(store, "write", full)
        assert await town.after(30) == []
    assert [one.state for one in await town.after(2)] == ["succeeded"]


async def test_a_store_that_cannot_be_written_loses_no_moment_of_a_schedule(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduled = AUTO.replace(
        "{alert: AppDown, for: 30s, mode: auto}", '{schedule: "*/30 * * * *", mode: auto}'
    ).replace("{type: host}", "{type: host, default: db2}")
    await town.accept(scheduled)
    assert await town.after(0) == []
    half_hour = 1_800_000
    town.desk.house.clock.advance((half_hour - town.desk.house.clock.wall_ms() % half_hour) / 1000 - 1)
    store = town.desk.house.store
    with monkeypatch.context() as broken:

        async def full(*_: object) -> None:
            raise Busy("the disk is full", 1.0)

        broken.setattr(store, "write", full)
        assert await town.after(1) == []
        assert await town.after(60) == []
    assert [one.state for one in await town.after(2)] == ["succeeded"]
    assert len(await town.after(60)) == 1, "and once"
    assert len(await town.after(1800)) == 2, "the next moment is another"


async def test_what_is_refused_is_tried_again_only_with_other_runbooks(town: Town) -> None:
    await town.desk.load(AUTO + "  - {id: more, call: gone}\n")
    town.fire("db2")
    assert await town.after(30) == []
    assert await town.after(60) == []
    assert town.triggers.counters.refused == 1
    await town.accept(AUTO)
    town.triggers.wake()
    assert [one.state for one in await town.after(1)] == ["succeeded"]
