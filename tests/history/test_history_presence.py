"""Which series are there in a time range: for lists of labels, which must not offer what was long gone."""

from collections.abc import Callable
from typing import Any

import pytest

from watchbill_collector.api.ports import Span
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import Engine
from watchbill_collector.services.queries import QueryService

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NAMES = ["load", "temp"]
Open = Callable[..., Any]  # The fixture's class lives in conftest, which cannot be imported.


def hours(fleet: Any, host: str, count: int) -> tuple[int, int]:
    """So many hours of a reading every 6 minutes, merged as they end; when the first and the last were."""
    began = fleet.clock.wall_ms()
    for _ in range(count):
        for _ in range(10):
            fleet.clock.advance(360)
            fleet.commit(fleet.ticks(host, NAMES, [fleet.clock.wall_ms()]))
        while fleet.history.merge(fleet.clock.wall_ms()):
            pass
    return began + 360_000, fleet.clock.wall_ms()


def queries(fleet: Any, *hidden: str) -> QueryService:
    return QueryService(Engine(), fleet.history, fleet.table, lambda: frozenset(hidden))


def instances(service: QueryService, start_ms: int | None = None, end_ms: int | None = None) -> list[str]:
    return list(service.label_values("instance", (), Span(start_ms, end_ms), 0, Budget()))


@pytest.mark.parametrize("again", [False, True], ids=["as it runs", "opened again"])
def test_label_values_of_a_time_range_are_of_hosts_that_were_there(open_history: Open, again: bool) -> None:
    fleet = open_history()
    first = hours(fleet, "a", 5)
    fleet.clock.advance(3 * 3600)
    second = hours(fleet, "b", 3)
    if again:
        fleet.history.close()
        fleet = open_history()
    service = queries(fleet)
    assert instances(service, 0, second[1]) == ["a", "b"]
    assert instances(service) == ["a", "b"], "whatever history has, once it was looked for"
    assert instances(service, *first) == ["a"]
    assert instances(service, *second) == ["b"]
    assert instances(service, first[1] + HOUR_MS + 1, second[0] - HOUR_MS - 1) == []
    assert instances(service, second[1] + 2 * HOUR_MS, None) == []
    assert instances(service, None, first[1]) == ["a"]
    labels = service.series(('{instance=~".+"}',), Span(*second), 0, Budget())
    assert {one["instance"] for one in labels} == {"b"}


def test_a_forgotten_host_is_offered_only_for_the_time_in_which_it_was_there(open_history: Open) -> None:
    fleet = open_history()
    first = hours(fleet, "a", 3)
    fleet.clock.advance(3 * 3600)
    second = hours(fleet, "b", 1)
    service = queries(fleet, "a", "never-seen")
    assert instances(service) == ["b"]
    assert {one["instance"] for one in service.series(('{__name__=~".+"}',), Span(), 0, Budget())} == {"b"}
    assert instances(service, *first) == ["a"]
    assert instances(service, *second) == ["b"]
