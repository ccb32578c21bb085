"""The query engine over the history, for the HTTP side."""

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import orjson

from watchbill_collector.api.ports import MetricMetadata, QueryAnswer, Span
from watchbill_collector.history import History, Tier, TooManySamples
from watchbill_collector.labels import LabelFrame
from watchbill_collector.promql import ast
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import Engine, Result
from watchbill_collector.promql.errors import BadQuery, TooMany
from watchbill_collector.promql.parse import parse
from watchbill_collector.promql.pretty import format_query
from watchbill_collector.promql.render import data_json
from watchbill_collector.promql.storage import Hints, Ragged, SeriesSet
from watchbill_collector.series import Matcher, SeriesIds, SeriesTable

FRAMES_MAX = 256
"""Selections whose labels are kept between queries."""
TIER_STEP_MS = {Tier.MINUTE: 60_000, Tier.HOUR: 3_600_000}


class HistoryStorage:
    """`promql.storage.Storage` over the history. Queries run in several threads; the cache has a lock."""

    def __init__(self, history: History, table: SeriesTable) -> None:
        self._history = history
        self._table = table
        self._frames: dict[tuple[Matcher, ...], tuple[SeriesIds, LabelFrame]] = {}
        self._lock = threading.Lock()

    def select(
        self, matchers: tuple[Matcher, ...], start_ms: int, end_ms: int, budget: Budget, hints: Hints
    ) -> SeriesSet:
        """The series and their samples; where raw samples are gone already, those of a coarser tier."""
        budget.check()
        tier = self._tier(start_ms, hints)
        self._history.know(start_ms, end_ms)
        if tier is not None:
            self._history.know_tier(start_ms, end_ms, tier)
        ids, labels = self._labelled(matchers)
        room = max(0, budget.samples_max - budget.samples)
        try:
            found = self._history.select(ids, start_ms, end_ms, room)
            ragged = Ragged(found.times, found.values, found.offsets)
            notes = [f"history is damaged: {what}" for what in found.damaged]
            if tier is not None:
                begins_ms = self._history.oldest_ms() or end_ms
                coarse = self._coarse(ids, start_ms, min(begins_ms - 1, end_ms), tier, room, hints.function)
                ragged = _joined(coarse, ragged)
                notes.append(f"raw samples are gone: values of the {tier.label} tier were read")
        except TooManySamples as exc:
            raise TooMany(str(exc)) from exc
        budget.spend(len(ragged.times))
        return SeriesSet(labels, ragged, notes)

    def _labelled(self, matchers: tuple[Matcher, ...]) -> tuple[SeriesIds, LabelFrame]:
        """The same frame object while the selection is the same: the engine hangs its caches on it."""
        ids = self._table.select(matchers)
        with self._lock:
            known = self._frames.pop(matchers, None)
            if known is None or known[0] is not ids:
                known = (ids, self._table.frame(ids))
            self._frames[matchers] = known
            while len(self._frames) > FRAMES_MAX:
                del self._frames[next(iter(self._frames))]
        return known

    def _tier(self, start_ms: int, hints: Hints) -> Tier | None:
        """Which tier holds what raw history no longer has; None where raw will do or no tier reaches."""
        raw_begins = self._history.oldest_ms()
        if raw_begins is None or start_ms >= raw_begins:
            return None
        for tier in (Tier.MINUTE, Tier.HOUR):
            begins = self._history.oldest_ms(tier)
            if begins is not None and begins < raw_begins and (tier is Tier.HOUR or begins <= start_ms):
                return tier
        del hints
        return None

    def _coarse(
        self, ids: SeriesIds, start_ms: int, end_ms: int, tier: Tier, room: int, function: str
    ) -> Ragged:
        steps = self._history.select_tier(ids, start_ms, end_ms, tier, room)
        column = {"max_over_time": steps.maximum, "min_over_time": steps.minimum}.get(function, steps.last)
        return Ragged(steps.times, column, steps.offsets)


def _joined(earlier: Ragged, later: Ragged) -> Ragged:
    """Two ragged sets of the same series, one after the other in time."""
    counts = np.diff(earlier.offsets) + np.diff(later.offsets)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    rows = np.concatenate(
        [
            np.repeat(np.arange(len(counts)), np.diff(earlier.offsets)),
            np.repeat(np.arange(len(counts)), np.diff(later.offsets)),
        ]
    )
    order = np.argsort(rows, kind="stable")
    times = np.concatenate([earlier.times, later.times])[order]
    values = np.concatenate([earlier.values, later.values])[order]
    return Ragged(times, values, offsets)


class QueryService:
    """`api.ports.QueryService`: the engine, the history and the index behind the query API."""

    def __init__(self, engine: Engine, history: History, table: SeriesTable) -> None:
        self._engine = engine
        self._history = history
        self._table = table
        self._storage = HistoryStorage(history, table)

    def instant(
        self, query: str, time_ms: int, budget: Budget, *, limit: int = 0, lookback_ms: int | None = None
    ) -> QueryAnswer:
        """Evaluate at one moment."""
        result = self._engine.instant(query, time_ms, self._storage, budget, lookback_ms=lookback_ms)
        return _answer(result, limit)

    def range_(
        self,
        query: str,
        start_ms: int,
        end_ms: int,
        step_ms: int,
        budget: Budget,
        *,
        limit: int = 0,
        lookback_ms: int | None = None,
    ) -> QueryAnswer:
        """Evaluate at every step."""
        result = self._engine.range(
            query, start_ms, end_ms, step_ms, self._storage, budget, lookback_ms=lookback_ms
        )
        return _answer(result, limit)

    def series(
        self, matches: Sequence[str], span: Span, limit: int, budget: Budget
    ) -> Sequence[Mapping[str, str]]:
        """The label sets that match."""
        ids = self._matching(matches, span, budget)
        ids = ids[:limit] if limit else ids
        budget.spend(len(ids))
        return self._table.frame(ids).dicts()

    def label_names(self, matches: Sequence[str], span: Span, limit: int, budget: Budget) -> Sequence[str]:
        """Label names in use."""
        names = self._table.label_names(self._matching(matches, span, budget) if matches else None)
        return names[:limit] if limit else names

    def label_values(
        self, name: str, matches: Sequence[str], span: Span, limit: int, budget: Budget
    ) -> Sequence[str]:
        """Values of one label."""
        values = self._table.label_values(name, self._matching(matches, span, budget) if matches else None)
        return values[:limit] if limit else values

    def metadata(self, metric: str, limit: int) -> Mapping[str, Sequence[MetricMetadata]]:
        """Type and help by metric name."""
        known = self._table.metadata
        names = [metric] if metric in known else [] if metric else sorted(known)
        return {
            name: [MetricMetadata(kind if kind != "untyped" else "unknown", text)]
            for name in (names[:limit] if limit else names)
            for kind, text in [known[name]]
        }

    def format(self, query: str) -> str:
        """The query, printed prettily."""
        return format_query(query)

    def _matching(self, matches: Sequence[str], span: Span, budget: Budget) -> SeriesIds:
        if span.start_ms is not None and span.end_ms is not None:
            self._history.know(span.start_ms, span.end_ms)
        found = []
        for text in matches:
            budget.check()
            selector = parse(text)
            if not isinstance(selector, ast.Selector):
                raise BadQuery("match[] has to be a series selector", text)
            found.append(self._table.select(selector.matchers))
        if not matches:
            return np.arange(len(self._table), dtype=np.uint32)
        return found[0] if len(found) == 1 else np.unique(np.concatenate(found))


def _answer(result: Result, limit: int) -> QueryAnswer:
    data = data_json(result.data)
    rows, warnings = data["result"], result.warnings
    if limit and data["resultType"] in ("vector", "matrix") and len(rows) > limit:
        rows, warnings = rows[:limit], (*warnings, "results truncated due to limit")
    return QueryAnswer(data["resultType"], orjson.dumps(rows), warnings, result.infos)
