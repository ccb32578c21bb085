"""A small house for rules: a table, a head, a rulebook, and hosts that send."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from watchbill_collector.head import Head
from watchbill_collector.promql.engine import Engine
from watchbill_collector.rules import AlertChange, AlertStateStore, Rulebook, Source, Surroundings
from watchbill_collector.series import STALE, SeriesIds, SeriesTable, Ticks

START_MS = 1_700_000_010_000  # On the grid of 15 s.

Key = tuple[str, tuple[tuple[str, str], ...]]


def metric(name: str, /, **labels: str) -> Key:
    return name, tuple(sorted(labels.items()))


@dataclass
class House:
    """Time stands still until `run` moves it, a tick of all hosts and an evaluation every 15 s."""

    past: object = None
    state: AlertStateStore | None = None
    now_ms: int = START_MS
    step_ms: int = 15_000
    table: SeriesTable = field(default_factory=SeriesTable)
    changes: list[AlertChange] = field(default_factory=list)
    written: list[Ticks] = field(default_factory=list)
    sent: list[Ticks] = field(default_factory=list)
    hosts: dict[str, dict[Key, float]] = field(default_factory=dict)
    ids: dict[tuple[str, tuple[Key, ...]], SeriesIds] = field(default_factory=dict)
    index: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    indexed: int = 0

    def __post_init__(self) -> None:
        self.head = Head(self.table)
        self.book = Rulebook(
            Surroundings(self.table, Engine(), {"site": "main"}, "http://w"),
            self.head,
            write=self.written.extend,
            on_change=self.changes.extend,
            state=self.state,
            past=self.past,
            monotonic=lambda: self.now_ms / 1000,
        )

    def load(self, text: str) -> None:
        problems = self.book.reload([Source("t.yml", text.encode())], self.now_ms)
        assert not problems, [str(problem) for problem in problems]

    def send(self, host: str, values: Mapping[Key, float], at_ms: int | None = None) -> None:
        keys = tuple(sorted(values))
        ids = self.ids.get((host, keys))
        if ids is None:
            source = self.table.source({"instance": host, "job": "node"})
            ids = self.table.series(source, [self.table.key(name, dict(labels)) for name, labels in keys])
            self.ids[host, keys] = ids
        at = np.array([self.now_ms - 100 if at_ms is None else at_ms])
        values_now = np.array([[values[key] for key in keys]])
        for column, key in enumerate(keys):
            if math.isnan(values[key]):
                values_now[0, column] = STALE
        ticks = Ticks(ids, at, values_now)
        self.sent.append(ticks)
        self.head.append([ticks])

    def run(self, steps: int, change: Callable[["House"], None] | None = None, *, judge: bool = True) -> None:
        for _ in range(steps):
            self.now_ms += self.step_ms
            if change is not None:
                change(self)
            for host, values in self.hosts.items():
                self.send(host, values)
            if judge:
                self.book.evaluate_due(self.now_ms)

    def states(self) -> dict[tuple[str, str], str]:
        return {
            (alert.rule, alert.labels.get("instance", "")): alert.state.value for alert in self.book.alerts()
        }

    def told(self, rule: str) -> list[str]:
        return [change.alert.state.value for change in self.changes if change.alert.rule == rule]

    def series_written(self, name: str) -> dict[tuple[tuple[str, str], ...], list[tuple[int, float]]]:
        if self.indexed != len(
            self.written
        ):  # Asked of one name after the other, a long season has a million.
            self.index, self.indexed = {}, len(self.written)
            for ticks in self.written:
                for column, series in enumerate(ticks.series.tolist()):
                    at = int(ticks.times_ms[0]), float(ticks.values[0, column])
                    self.index.setdefault(series, []).append(at)
        found: dict[tuple[tuple[str, str], ...], list[tuple[int, float]]] = {}
        for series, samples in self.index.items():
            labels = dict(self.table.labels(series))
            if labels.pop("__name__") == name:
                found[tuple(sorted(labels.items()))] = samples
        return found


@pytest.fixture(scope="session")
def house() -> Callable[..., House]:
    return House


@pytest.fixture
def rules_text() -> Callable[[Sequence[str]], str]:
    """A rule file of one group from the lines of its rules."""

    def text(rules: Sequence[str], head: str = "") -> str:
        return "groups:\n- name: g\n" + head + "  rules:\n" + "".join(f"  - {rule}\n" for rule in rules)

    return text
