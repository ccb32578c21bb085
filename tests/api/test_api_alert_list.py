"""The list of alerts: the worst first, counted whole, and never more than was asked for."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from watchbill_collector.api.alert_list import ALERTS_DEFAULT, CROWDS_MAX, STATES, Wanted, listed
from watchbill_collector.api.ports import Alert

THEN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
BASE = "/api/watchbill/v1"


def alert(number: int, name: str = "A", severity: str = "major", state: str = "firing", **more: Any) -> Alert:
    labels = {"alertname": name, "severity": severity, "instance": f"h{number}"}
    when = THEN + timedelta(seconds=number)
    return Alert(name, state, when, when, 1.0, labels, {}, fingerprint=f"{number:016x}", **more)


def test_the_worst_come_first_and_a_crowd_does_not_hide_the_others():
    storm = [alert(number) for number in range(50_000)]
    others = [
        alert(60_000, "Bad", "critical"),
        alert(60_001, "Small", "minor"),
        alert(60_002, "P", state="pending"),
    ]
    found = listed([*storm, *others], Wanted(), limit=500, each=5)
    assert [each.name for each in found.alerts] == ["Bad", "A", "A", "A", "A", "A", "Small", "P"]
    assert found.alerts[1].labels["instance"] == "h49999", "the newest of its kind"
    assert [(each.name, each.count, each.hosts) for each in found.crowds] == [
        ("Bad", 1, 1),
        ("A", 50_000, 50_000),
        ("Small", 1, 1),
        ("P", 1, 1),
    ]
    assert (found.total, found.truncated) == (50_003, True)


def test_pages_add_up_to_everything_once():
    every = [alert(number, f"R{number % 7}", state=STATES[number % 3]) for number in range(100)]
    wanted = Wanted(states=frozenset(STATES))
    pages = [listed(every, wanted, limit=30, offset=offset).alerts for offset in range(0, 120, 30)]
    assert [len(page) for page in pages] == [30, 30, 30, 10]
    assert {one.fingerprint for page in pages for one in page} == {one.fingerprint for one in every}


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Wanted(), {1, 2, 3}),
        (Wanted(states=frozenset({"resolved"})), {4}),
        (Wanted(name="B"), {2}),
        (Wanted(host="h3"), {3}),
        (Wanted(service="shop"), {3}),
        (Wanted(severity="minor"), {2}),
        (Wanted(hushed=True), {1}),
        (Wanted(hushed=False), {2, 3}),
        (Wanted(words=("shop", "h3")), {3}),
        (Wanted(words=("shop", "h2")), set()),
    ],
)
def test_what_is_asked_for_narrows(wanted: Wanted, numbers: set[int]) -> None:
    every = [
        alert(1, silences=("x",)),
        alert(2, "B", "minor"),
        alert(3, service="shop"),
        alert(4, state="resolved", resolved_at=THEN),
    ]
    assert {int(one.fingerprint, 16) for one in listed(every, wanted, limit=10).alerts} == numbers


def test_many_rules_are_bounded_and_counted() -> None:
    found = listed([alert(number, f"R{number}") for number in range(CROWDS_MAX + 5)], Wanted(), limit=1)
    assert (len(found.crowds), found.crowds_left_out, len(found.alerts)) == (CROWDS_MAX, 5, 1)


async def test_the_api_lists_so_many_and_prometheus_own_shape_stays_whole(serve):
    served = await serve()
    served.twins.rules.active += [alert(number) for number in range(ALERTS_DEFAULT + 50)]
    found = (await served.client.get(f"{BASE}/alerts", headers=served.viewer)).json()
    assert (len(found["alerts"]), found["total"], found["truncated"]) == (
        ALERTS_DEFAULT,
        ALERTS_DEFAULT + 50,
        True,
    )
    rest = (await served.client.get(f"{BASE}/alerts?offset={ALERTS_DEFAULT}", headers=served.viewer)).json()
    assert len(rest["alerts"]) == 50
    theirs = (await served.client.get("/api/v1/alerts", headers=served.viewer)).json()
    assert len(theirs["data"]["alerts"]) == ALERTS_DEFAULT + 50
    one_host = (await served.client.get(f"{BASE}/hosts/web1", headers=served.viewer)).json()
    assert one_host["alerts"] == []


async def test_counts_are_of_what_the_caller_sees(serve):
    served = await serve()
    hosts = served.twins.hosts._hosts
    hosts["id-1"] = dataclasses.replace(hosts["id-1"], labels={"team": "a"})
    for number in range(20):
        one = alert(number)
        name = "web1" if number < 3 else "web2"
        served.twins.rules.active.append(dataclasses.replace(one, labels={**one.labels, "instance": name}))
    found = (await served.client.get(f"{BASE}/alerts?limit=1", headers=served.scoped)).json()
    assert (found["total"], found["crowds"][0]["count"], found["crowds"][0]["hosts"]) == (3, 3, 1)
    foreign = (await served.client.get(f"{BASE}/alerts?host=web2", headers=served.scoped)).json()
    never = (await served.client.get(f"{BASE}/alerts?host=nobody", headers=served.scoped)).json()
    assert foreign == never


@pytest.mark.parametrize(
    "query", ["state=odd", "offset=-1", "offset=x", "each=1e3", "limit=-5", "offset=" + "9" * 30]
)
async def test_what_makes_no_sense_is_refused_by_its_name(serve, query):
    served = await serve()
    answer = await served.client.get(f"{BASE}/alerts?{query}", headers=served.viewer)
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["error"]
