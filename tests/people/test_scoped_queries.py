"""What a query of somebody with a scope can reach: the real engine over a real history of two teams."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from watchbill.clock import ManualClock
from watchbill_collector.api.ports import Span
from watchbill_collector.history import History, HistoryOptions
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import Engine
from watchbill_collector.scopes import View
from watchbill_collector.series import SeriesTable, Ticks
from watchbill_collector.services.queries import QueryService

NOW_MS = 1_795_000_000_000
FOREIGN = "b1"


class Enrolled:
    """Who was enrolled with which labels."""

    def __init__(self) -> None:
        self.generation = 0
        self.labels: dict[str, dict[str, str]] = {
            "a1": {"team": "a"},
            "a2": {"team": "a"},
            FOREIGN: {"team": "b"},
            "liar": {},
        }

    def bound(self, instance: str) -> Mapping[str, str] | None:
        return self.labels.get(instance)

    def hosts(self) -> Sequence[tuple[str, Mapping[str, str]]]:
        return list(self.labels.items())


class House:
    def __init__(self, directory: Path) -> None:
        self.table = SeriesTable()
        self.history = History.open(directory, self.table, ManualClock(wall_ms=NOW_MS), HistoryOptions())
        self.enrolled = Enrolled()
        self.queries = QueryService(Engine(), self.history, self.table, bindings=self.enrolled)
        for instance, team in (("a1", "a"), ("a2", "a"), (FOREIGN, "b"), ("liar", "a")):
            # `liar` was bound to no team and says that it is of team a.
            source = {"instance": instance, "job": "node", "team": team}
            self.sample(source, "up", 1.0)
            self.sample(source, "secret", {"a1": 1.0, "a2": 2.0, FOREIGN: 40.0, "liar": 80.0}[instance])
        own: list[dict[str, str]] = [
            {"__name__": "ALERTS", "alertname": "X", "instance": FOREIGN, "team": "a"},
            {"__name__": "ALERTS", "alertname": "X", "instance": "a1", "team": "a"},
            {"__name__": "team:secret:sum", "team": "a"},
            {"__name__": "team:secret:sum", "team": "b"},
            {"__name__": "all:secret:sum"},
            {
                "__name__": "watchbill_collector_x",
                "job": "watchbill-collector",
                "instance": "a1",
                "team": "a",
            },
        ]
        self.table.describe("all:secret:sum", "gauge", "of all")
        for labels in own:
            self.put(np.array([self.table.series_of(labels)], np.uint32), 7.0)

    def sample(self, source: dict[str, str], name: str, value: float) -> None:
        number = self.table.source(source)
        self.put(self.table.series(number, [self.table.key(name, {})]), value)

    def put(self, ids: Any, value: float) -> None:
        times = np.array([NOW_MS - 60_000, NOW_MS - 30_000, NOW_MS - 1_000], np.int64)
        self.history.commit([Ticks(ids, times, np.full((3, 1), value))], [], [])

    def ask(self, query: str, view: View) -> str:
        answer = self.queries.within(view).instant(query, NOW_MS, Budget())
        return answer.result.decode()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("history"))
    yield made
    made.history.close()


A = View.of(["team=a"])


def seen(house: House, query: str, view: View = A) -> list[tuple[dict[str, str], str]]:
    rows = json.loads(house.ask(query, view))
    return sorted(((row["metric"], row["value"][1]) for row in rows), key=repr)


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("secret", ["1", "2"]),
        ("sum(secret)", ["3"]),
        ('secret{team="b"}', []),
        ('secret{team=~"b|.*"}', ["1", "2"]),
        ('secret{team!="a"}', []),
        ('secret{instance=~".+"}', ["1", "2"]),
        ('sum({__name__=~".+",job="node"})', ["5"]),
        ('count({__name__=~".+"})', ["6"]),
        ("max_over_time(secret[5m])", ["1", "2"]),
        ("max_over_time(max(secret)[5m:30s])", ["2"]),
        ("sum(secret offset 20s)", ["3"]),
        (f"sum(secret @ {NOW_MS / 1000})", ["3"]),
        ('label_replace(secret{team="b"}, "team", "a", "", "")', []),
        ('label_replace(vector(1), "team", "b", "", "") * on (team) group_right () secret', []),
        ('absent(secret{team="b"})', ["1"]),
        (f'sum(absent(secret{{instance="{FOREIGN}"}}))', ["1"]),
        ("sum(secret or vector(1))", ["4"]),
        ("count(ALERTS)", ["1"]),
        ("secret * on () group_left () count(ALERTS)", ["1", "2"]),
        ('sum({__name__="all:secret:sum"})', []),
        ('{__name__="team:secret:sum"}', ["7"]),
        ('topk(10, {__name__=~"secret|watchbill.*"})', ["1", "2"]),
        ("count(up)", ["2"]),
        ("scalar(sum(secret))", None),
    ],
)
def test_no_query_reaches_beyond_the_scope(house: House, query: str, values: list[str] | None) -> None:
    answer = house.ask(query, A)
    assert FOREIGN not in answer
    assert "liar" not in answer
    if values is None:
        assert json.loads(answer)[1] == "3"
    else:
        assert sorted(value for _, value in seen(house, query)) == values


def test_who_sees_everything_sees_everything(house: House) -> None:
    assert seen(house, "sum(secret)", View.of([""]))[0][1] == "123"


def test_a_host_cannot_choose_its_team(house: House) -> None:
    assert {row["instance"] for row, _ in seen(house, "secret")} == {"a1", "a2"}


def test_several_scopes_are_their_union_and_none_is_nothing(house: House) -> None:
    both = View.of(["team=a", "team=b"])
    assert seen(house, "sum(secret)", both)[0][1] == "43"
    assert seen(house, "secret", View.of([])) == []
    assert seen(house, "secret", View.of(['team=~"["'])) == []


def test_lists_of_series_labels_and_values_are_filtered_too(house: House) -> None:
    service, open_ = house.queries.within(A), Span()
    assert service.label_values("team", [], open_, 0, Budget()) == ["a"]
    assert service.label_values("instance", [], open_, 0, Budget()) == ["a1", "a2"]
    assert service.label_values("instance", ['{__name__=~".+"}', "secret"], open_, 0, Budget()) == [
        "a1",
        "a2",
    ]
    assert "all:secret:sum" not in service.label_values("__name__", [], open_, 0, Budget())
    assert service.metadata("", 0) == {}
    assert house.queries.metadata("", 0)
    found = service.series(["secret", '{instance=~".+"}', '{team="b"}'], open_, 0, Budget())
    assert {row["instance"] for row in found if "instance" in row} == {"a1", "a2"}
    span = Span(NOW_MS - 120_000, NOW_MS)
    assert {row.get("instance") for row in service.series(["secret"], span, 0, Budget())} == {"a1", "a2"}


def test_a_host_that_is_enrolled_later_is_seen_at_once_and_one_that_leaves_is_not(house: House) -> None:
    assert len(seen(house, "secret")) == 2
    house.enrolled.labels["liar"] = {"team": "a"}
    house.enrolled.generation += 1
    assert len(seen(house, "secret")) == 3
    house.enrolled.labels["liar"] = {}
    house.enrolled.generation += 1
    assert len(seen(house, "secret")) == 2


def test_series_that_come_later_are_judged_as_well(house: House) -> None:
    assert seen(house, "later") == []
    for instance, team in (("a1", "a"), (FOREIGN, "b"), ("liar", "a")):
        house.sample({"instance": instance, "job": "node", "team": team}, "later", 5.0)
    assert [row["instance"] for row, _ in seen(house, "later")] == ["a1"]
