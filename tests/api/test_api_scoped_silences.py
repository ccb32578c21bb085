"""Silences of people with a scope: what they reach, who sees and who may end them. The real book and a real store."""

import dataclasses
import re
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from watchbill.clock import ManualClock
from watchbill_collector.api.ports import Alert, Caller, Grant, Role
from watchbill_collector.api.routes import ROLES
from watchbill_collector.api.silences import SILENCE_ROUTES
from watchbill_collector.api.twins import Twins
from watchbill_collector.dispatch.dispatcher import Dispatcher
from watchbill_collector.dispatch.outbox import Outbox, StoreRows
from watchbill_collector.dispatch.plan import Planner, World
from watchbill_collector.dispatch.routing import Routing
from watchbill_collector.dispatch.silencebook import SilenceBook
from watchbill_collector.dispatch.values import Standing, fingerprint_of
from watchbill_collector.notifiers.channel_set import ChannelSet
from watchbill_collector.scopes import EVERYTHING, View
from watchbill_collector.services.silencing import SilencingService
from watchbill_collector.store import Store

BASE = "/api/watchbill/v1"
THEN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
A, B = 'team="a"', 'team="b"'
ALERTS: list[dict[str, str]] = [
    {"alertname": "Full", "instance": "web1", "team": "a"},
    {"alertname": "Full", "instance": "web1"},  # A rule that sums the team away.
    {"alertname": "Full", "instance": "web2", "team": "b"},
    {"alertname": "Full", "instance": "web2", "team": "a"},  # What a host says of itself.
    {"alertname": "Full", "instance": "gone", "team": "a"},
    {"alertname": "Full", "team": "a"},
    {"alertname": "Full", "team": "b"},
    {"alertname": "Full"},
]
OWN = [ALERTS[0], ALERTS[1], ALERTS[5]]


@dataclasses.dataclass
class Town:
    """Two teams, web1 of a and web2 of b, and everybody's silences."""

    served: Any
    book: SilenceBook
    clock: ManualClock
    bindings: Any

    def headers(self, role: Role, *scopes: str) -> dict[str, str]:
        text = f"{role.value}|{'|'.join(scopes)}"
        grants = tuple(Grant(role, scope) for scope in scopes or ("",))
        self.served.twins.users.tokens[text] = Caller(
            f"{role.value}-{'-'.join(scopes)}", grants, user_id=text
        )
        return {"Authorization": f"Bearer {text}"}

    async def add(self, headers: dict[str, str], matchers: str, wanted: int = 201) -> dict[str, Any]:
        order = {"matchers": matchers, "duration_s": 3600, "reason": "work"}
        answer = await self.served.client.post(f"{BASE}/silences", headers=headers, json=order)
        assert answer.status_code == wanted, answer.text
        return answer.json()

    async def listed(self, headers: dict[str, str]) -> dict[str, dict[str, Any]]:
        answer = await self.served.client.get(f"{BASE}/silences", headers=headers)
        assert answer.status_code == 200, answer.text
        return {one["id"]: one for one in answer.json()["silences"]}

    async def end(self, headers: dict[str, str], silence_id: str) -> int:
        answer = await self.served.client.delete(f"{BASE}/silences/{silence_id}", headers=headers)
        return answer.status_code

    def hushed(self) -> list[dict[str, str]]:
        """What the planner tells nobody anew."""
        standings = [
            Standing(fingerprint_of(tuple(sorted(one.items()))), one, firing=True, fired_ms=1)
            for one in ALERTS
        ]
        world = World(standings, self.book.all(), Routing(), frozenset(), self.clock.wall_ms())
        plan = Planner(lambda _: None).plan(world, {})  # type: ignore[arg-type,return-value]
        return [one.labels for one in standings if one.fingerprint in plan.hushed]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("migrated")
    Store.open(directory, "main").close()
    return directory


@pytest.fixture
async def town(serve: Any, tmp_path: Path, migrated: Path) -> AsyncIterator[Town]:
    shutil.copytree(migrated, tmp_path / "state")
    store = Store.open(tmp_path / "state", "main")
    clock = ManualClock()
    made: dict[str, Any] = {}

    def parts(twins: Twins) -> dict[str, Any]:
        bindings = twins.services().bindings
        book = made["book"] = SilenceBook(store, clock, bindings=bindings)
        channels = ChannelSet()
        dispatcher = Dispatcher(Outbox(StoreRows(store)), book, clock, channels.send)
        made["bindings"] = bindings
        return {
            "bindings": bindings,
            "silences": SilencingService(
                book, dispatcher, channels, twins.rules, store, clock, lambda: (), bindings
            ),
        }

    served = await serve(parts=parts)
    hosts = served.twins.hosts._hosts
    for agent_id, team in (("id-1", "a"), ("id-2", "b")):
        hosts[agent_id] = dataclasses.replace(hosts[agent_id], labels={"team": team})
    served.twins.rules.active += [Alert("Full", "firing", THEN, THEN, 1.0, one, {}) for one in ALERTS]
    yield Town(served, made["book"], clock, made["bindings"])
    store.close()


@pytest.mark.parametrize(
    "matchers",
    [
        'alertname=~".+"',
        'alertname="Full"',
        'alertname="Full",team!="a"',
        'alertname="Full",team!="zzz"',
        'alertname="Full",team=""',
        'alertname="Full",instance=""',
        'alertname=~".*ull",instance=~".*"',
        'instance="web2"',
        'instance=~"web1|web2|gone"',
        'instance!="web1",alertname="Full"',
        'team="b"',
        'team=~"a|b"',
        'team="b",team=~".+"',
        'alertname!~"nothing",team!~"x",instance!~"y",alertname=~"F.*"',
    ],
)
async def test_whatever_the_matchers_are_a_silence_stays_within_the_scope_of_its_author(
    town: Town, matchers: str
) -> None:
    made = await town.add(town.headers(Role.OPERATOR, A), matchers)
    assert made["silence"]["scope"] == "{" + A + "}"
    everything = await town.served.client.post(
        f"{BASE}/silences/match", headers=town.served.admin, json={"matchers": matchers}
    )
    meant = [one["labels"] for one in everything.json()["alerts"]]
    assert town.hushed() == [one for one in OWN if one in meant]
    assert [one["labels"] for one in made["alerts"]] == town.hushed()
    tried = await town.served.client.post(
        f"{BASE}/silences/match", headers=town.headers(Role.OPERATOR, A), json={"matchers": matchers}
    )
    assert [one["labels"] for one in tried.json()["alerts"]] == town.hushed()
    town.book.load()
    assert town.hushed() == [one for one in OWN if one in meant], "and so it is after a restart"


@pytest.mark.parametrize("matchers", ["", "{}", 'team!="b"', 'alertname=~".*"', 'instance=""', 'a{b="c"}'])
async def test_matchers_that_demand_nothing_are_refused_within_a_scope_too(town: Town, matchers: str) -> None:
    await town.add(town.headers(Role.OPERATOR, A), matchers, 400)
    assert town.hushed() == []


async def test_several_scopes_add_up(town: Town) -> None:
    made = await town.add(town.headers(Role.OPERATOR, A, B), 'alertname="Full"')
    assert made["silence"]["scope"] == '{team="a"} or {team="b"}'
    # All but those that name a host that nobody enrolled, or no team at all.
    assert town.hushed() == [one for one in ALERTS if one not in (ALERTS[4], ALERTS[7])]


@pytest.mark.parametrize("role", list(Role))
async def test_every_role_meets_own_foreign_and_everybodys_silences(town: Town, role: Role) -> None:
    boss = town.headers(Role.OPERATOR)
    ids = {
        "own": (await town.add(town.headers(Role.OPERATOR, A), 'alertname="X"'))["silence"]["id"],
        "foreign": (await town.add(town.headers(Role.OPERATOR, B), 'alertname="X"'))["silence"]["id"],
        "theirs": (await town.add(boss, 'instance="web2",alertname="SecretOfB"'))["silence"]["id"],
        "mine": (await town.add(boss, 'instance="web1"'))["silence"]["id"],
        "everybody": (await town.add(boss, 'alertname="X"'))["silence"]["id"],
        "other team": (await town.add(boss, 'team=~"b|c"'))["silence"]["id"],
    }
    headers = town.headers(role, A)
    seen = await town.listed(headers)
    assert set(seen) == {ids["own"], ids["mine"], ids["everybody"]}
    may = role in ROLES[SILENCE_ROUTES[3].need]
    for name, silence_id in ids.items():
        code = await town.end(headers, silence_id)
        if not may:
            assert code == 403, name
        elif silence_id not in seen:
            assert code == 404, name
        else:
            assert code == (200 if name in ("own", "mine") else 403), name
            assert seen[silence_id]["yours"] == (name in ("own", "mine")), name
    ended = {one.silence_id for one in town.book.all() if one.expired_by}
    assert ended == ({ids["own"], ids["mine"]} if may else set())
    whole = town.headers(role)
    assert set(await town.listed(whole)) == set(ids.values()) - ended
    assert await town.end(whole, ids["everybody"]) == (200 if may else 403)


async def test_a_silence_out_of_sight_is_answered_like_one_that_never_was(town: Town) -> None:
    foreign = (await town.add(town.headers(Role.OPERATOR, B), 'alertname="X"'))["silence"]["id"]
    headers = town.headers(Role.OPERATOR, A)
    one = await town.served.client.delete(f"{BASE}/silences/{foreign}", headers=headers)
    none = await town.served.client.delete(f"{BASE}/silences/{'0' * 12}", headers=headers)
    assert one.status_code == none.status_code == 404
    assert one.text.replace(foreign, "0" * 12) == none.text


async def test_who_reads_more_than_he_may_silence_is_refused_by_name(town: Town) -> None:
    foreign = (await town.add(town.headers(Role.OPERATOR, B), 'alertname="X"'))["silence"]["id"]
    both = Caller("two", (Grant(Role.VIEWER), Grant(Role.OPERATOR, A)), user_id="two")
    town.served.twins.users.tokens["two"] = both
    headers = {"Authorization": "Bearer two"}
    assert foreign in await town.listed(headers)
    answer = await town.served.client.delete(f"{BASE}/silences/{foreign}", headers=headers)
    assert answer.status_code == 403
    assert A in answer.json()["error"]
    assert (await town.add(headers, 'alertname="Full"'))["silence"]["scope"] == "{" + A + "}"


async def test_a_count_tells_nothing_of_others(town: Town) -> None:
    made = (await town.add(town.headers(Role.OPERATOR), 'alertname="Full"'))["silence"]
    assert made["firing"] == len(ALERTS)
    seen = await town.listed(town.headers(Role.VIEWER, A))
    assert seen[made["id"]]["firing"] == len(OWN)
    assert not re.search("web2|gone", str(seen))


async def test_a_change_of_his_scope_changes_no_silence_and_what_is_not_his_any_more_stays(
    town: Town,
) -> None:
    made = (await town.add(town.headers(Role.OPERATOR, A), 'alertname="Full"'))["silence"]["id"]
    moved = town.headers(Role.OPERATOR, B)
    assert await town.end(moved, made) == 404
    narrower = town.headers(Role.OPERATOR, f'{A},rack="1"')
    assert await town.end(narrower, made) == 404
    assert town.hushed() == OWN
    wider = town.headers(Role.OPERATOR, 'team=~"a|b"')
    assert await town.end(wider, made) == 200
    assert town.hushed() == []


async def test_a_host_that_goes_to_another_team_takes_its_alerts_along(town: Town) -> None:
    await town.add(town.headers(Role.OPERATOR, A), 'alertname="Full"')
    hosts = town.served.twins.hosts._hosts
    before = town.book.all()
    assert town.book.all() is before
    hosts["id-1"] = dataclasses.replace(hosts["id-1"], labels={"team": "b"})
    town.bindings.generation += 1
    assert town.book.all() is not before, "what was worked out for the old team is worked out anew"
    assert town.hushed() == [ALERTS[5]]


async def test_a_scope_that_cannot_be_read_any_more_silences_nothing(town: Town) -> None:
    made = await town.book.add('alertname="Full"', 60, "x", "anna", scope=View.of([A]))
    await town.book._store.write(
        lambda connection: connection.exec_driver_sql("UPDATE silences SET scope = 'team~~x'")
    )
    town.book.load()
    assert town.hushed() == []
    assert town.book.get(made.silence_id).scope != EVERYTHING
