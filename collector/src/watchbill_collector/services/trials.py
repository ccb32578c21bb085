"""Backtests over the history, for the HTTP side."""

import json
from typing import Any

from watchbill.clock import Clock
from watchbill.errors import ConfigError
from watchbill_collector.api.trial_orders import BacktestOrder
from watchbill_collector.history import History
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import Engine
from watchbill_collector.promql.text import duration_text
from watchbill_collector.rules import Source
from watchbill_collector.rules.files import load
from watchbill_collector.rulestest import backtest
from watchbill_collector.rulestest.telling import backtest_document
from watchbill_collector.scopes import Bindings, View
from watchbill_collector.series import SeriesTable
from watchbill_collector.services.queries import HistoryStorage
from watchbill_collector.services.scoping import ScopedSelection

EXPR_NAME = "expr"
"""What a rule is called that came as an expression alone."""


class TrialsService:
    """`api.trials.TrialsService` over the collector's own history."""

    def __init__(
        self, engine: Engine, history: History, table: SeriesTable, bindings: Bindings, clock: Clock
    ) -> None:
        self._engine = engine
        self._history = history
        self._table = table
        self._bindings = bindings
        self._whole = HistoryStorage(history, table)
        self._clock = clock

    def backtest(self, order: BacktestOrder, budget: Budget, view: View) -> dict[str, Any]:
        """As the protocol."""
        rules, problems = load([_source(order)])
        if problems:
            raise ConfigError(problems)
        end_ms = self._clock.wall_ms()
        start_ms = end_ms - round(order.since_s * 1000)
        step_ms = None if order.step_s is None else round(order.step_s * 1000)
        storage = self._whole
        if not view.whole:
            storage = HistoryStorage(
                self._history, self._table, ScopedSelection(self._table, view, self._bindings)
            )
        done = backtest(rules, self._engine, storage, start_ms, end_ms, budget, step_ms)
        return backtest_document(done)


def _source(order: BacktestOrder) -> Source:
    if not order.expr:
        return Source(order.name[:1_024], order.text.encode())
    rule = {
        "alert": EXPR_NAME,
        "expr": order.expr,
        "for": duration_text(round(order.for_s * 1000)),
        "keep_firing_for": duration_text(round(order.keep_firing_for_s * 1000)),
    }
    # JSON is YAML, and quotes whatever an expression may hold.
    document = {"groups": [{"name": EXPR_NAME, "rules": [rule]}]}
    return Source("--expr", json.dumps(document, ensure_ascii=False).encode())
