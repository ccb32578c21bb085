"""The query engine over the history, for the HTTP side."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from watchbill_collector.api.ports import MetricMetadata, QueryAnswer, Span
from watchbill_collector.history import History, Tier, TooManySamples
from watchbill_collector.history.values import TIME_MS_MAX
from watchbill_collector.labels import METRIC_NAME, STRINGS, LabelFrame
from watchbill_collector.promql import ast
from watchbill_collector.promql.budget import Budget
from watchbill_collector.promql.engine import Data, Engine, InstantVector, Matrix, Number, Result, Words
from watchbill_collector.promql.errors import BadQuery, TooMany
from watchbill_collector.promql.parse import parse
from watchbill_collector.promql.pretty import format_query
from watchbill_collector.promql.render import result_pieces
from watchbill_collector.promql.storage import Hints, Ragged, SeriesSet
from watchbill_collector.scopes import Bindings, NoBindings, View
from watchbill_collector.series import Matcher, SeriesIds, SeriesTable
from watchbill_collector.services.scoping import ScopedSelection

VIEWS_MAX = 64
"""Scopes whose selections are kept between queries."""
ANSWER_BYTES_MAX = 256 * 1024 * 1024
"""What one answer may take; a query that would need more is refused."""
FRAMES_MAX = 256
"""Selections whose labels are kept between queries."""
FRAMES_BYTES_MAX = 64 * 1024 * 1024
"""What their labels take together; one that takes an eighth of it is not kept."""
DERIVED_ROWS_MAX = 1_000_000
"""Rows of what operators worked out of one frame's labels and left there for the next query."""
INSTANCE = "instance"
TIER_STEP_MS = {Tier.MINUTE: 60_000, Tier.HOUR: 3_600_000}


class HistoryStorage:
    """`promql.storage.Storage` over the history. Queries run in several threads; the cache has a lock."""

    def __init__(self, history: History, table: SeriesTable, within: ScopedSelection | None = None) -> None:
        self._history = history
        self._table = table
        self._select = table.select if within is None else within.select
        self._frames: dict[tuple[Matcher, ...], tuple[SeriesIds, LabelFrame]] = {}
        self._frames_bytes = 0
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
        try:
            found = budget.read(
                lambda room: self._history.select(ids, start_ms, end_ms, room), TooManySamples
            )
            ragged = Ragged(found.times, found.values, found.offsets)
            notes = [f"history is damaged: {what}" for what in found.damaged]
            if tier is not None:
                begins_ms = self._history.oldest_ms() or end_ms
                until_ms = min(begins_ms - 1, end_ms)
                coarse = budget.read(
                    lambda room: self._coarse(ids, start_ms, until_ms, tier, room, hints.function),
                    TooManySamples,
                )
                ragged = _joined(coarse, ragged)
                notes.append(f"raw samples are gone: values of the {tier.label} tier were read")
        except TooManySamples as exc:
            raise TooMany(str(exc)) from exc
        budget.spend(len(ragged.times))
        return SeriesSet(labels, ragged, notes)

    def _labelled(self, matchers: tuple[Matcher, ...]) -> tuple[SeriesIds, LabelFrame]:
        """The same frame object while the selection is the same: the engine hangs its caches on it."""
        ids = self._select(matchers)
        with self._lock:
            known = self._frames.pop(matchers, None)
            if known is not None:
                self._frames_bytes -= known[1].codes.nbytes
                known[1].forget(DERIVED_ROWS_MAX)
            if known is None or known[0] is not ids:
                known = (ids, self._table.frame(ids))
            size = known[1].codes.nbytes
            if size > FRAMES_BYTES_MAX // 8:
                return known
            self._frames[matchers] = known
            self._frames_bytes += size
            while len(self._frames) > FRAMES_MAX or self._frames_bytes > FRAMES_BYTES_MAX:
                self._frames_bytes -= self._frames.pop(next(iter(self._frames)))[1].codes.nbytes
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

    def __init__(
        self,
        engine: Engine,
        history: History,
        table: SeriesTable,
        hidden: Callable[[], AbstractSet[str]] = frozenset,
        bindings: Bindings | None = None,
        selection: ScopedSelection | None = None,
    ) -> None:
        """`hidden` are names of hosts that lists of labels and series leave out, unless a time range is asked for
        in which they have readings. With a `selection` it answers from that alone; `bindings` are for those that
        `within` makes.
        """
        self._engine = engine
        self._history = history
        self._table = table
        self._hidden = hidden
        self._bindings = bindings or NoBindings()
        self._selection = selection
        self._storage = HistoryStorage(history, table, selection)
        self._within: OrderedDict[View, QueryService] = OrderedDict()
        self._lock = threading.Lock()

    def within(self, view: View) -> "QueryService":
        """The same for somebody who sees a part: what is outside does not exist there."""
        if view.whole:
            return self
        with self._lock:
            found = self._within.pop(view, None)
            if found is None:
                selection = ScopedSelection(self._table, view, self._bindings)
                found = QueryService(self._engine, self._history, self._table, self._hidden, None, selection)
            self._within[view] = found
            while len(self._within) > VIEWS_MAX:
                self._within.popitem(last=False)
        return found

    def instant(
        self, query: str, time_ms: int, budget: Budget, *, limit: int = 0, lookback_ms: int | None = None
    ) -> QueryAnswer:
        """Evaluate at one moment."""
        result = self._engine.instant(query, time_ms, self._storage, budget, lookback_ms=lookback_ms)
        return _answer(result, limit, budget)

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
        return _answer(result, limit, budget)

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
        names = self._table.label_names(self._matching(matches, span, budget))
        return names[:limit] if limit else names

    def label_values(
        self, name: str, matches: Sequence[str], span: Span, limit: int, budget: Budget
    ) -> Sequence[str]:
        """Values of one label."""
        values = self._table.label_values(name, self._matching(matches, span, budget))
        return values[:limit] if limit else values

    def metadata(self, metric: str, limit: int) -> Mapping[str, Sequence[MetricMetadata]]:
        """Type and help by metric name."""
        known: Mapping[str, tuple[str, str]] = self._table.metadata
        if self._selection is not None:
            visible = self._table.label_values(METRIC_NAME, self._selection.select(()))
            known = {name: known[name] for name in visible if name in known}
        names = [metric] if metric in known else [] if metric else sorted(known)
        return {
            name: [MetricMetadata(kind if kind != "untyped" else "unknown", text)]
            for name in (names[:limit] if limit else names)
            for kind, text in [known[name]]
        }

    def _select(self, matchers: tuple[Matcher, ...]) -> SeriesIds:
        return self._table.select(matchers) if self._selection is None else self._selection.select(matchers)

    def format(self, query: str) -> str:
        """The query, printed prettily."""
        return format_query(query)

    def _matching(self, matches: Sequence[str], span: Span, budget: Budget) -> SeriesIds:
        """The series that match, in a time range those with readings around it, else all but forgotten hosts'."""
        if span.start_ms is None and span.end_ms is None:
            return self._shown(self._selected(matches, budget))
        start_ms = 0 if span.start_ms is None else span.start_ms - 1
        end_ms = TIME_MS_MAX if span.end_ms is None else span.end_ms
        self._history.know(start_ms, end_ms)
        ids = self._selected(matches, budget)
        return ids[self._history.present(start_ms, end_ms)[ids]]

    def _shown(self, ids: SeriesIds) -> SeriesIds:
        codes = [code for name in self._hidden() if (code := STRINGS.find(name)) is not None]
        if not codes:
            return ids
        return ids[~np.isin(self._table.column(INSTANCE, ids), codes)]

    def _selected(self, matches: Sequence[str], budget: Budget) -> SeriesIds:
        found = []
        for text in matches:
            budget.check()
            selector = parse(text)
            if not isinstance(selector, ast.Selector):
                raise BadQuery("match[] has to be a series selector", text)
            found.append(self._select(selector.matchers))
        if not matches:
            if self._selection is not None:
                return self._selection.select(())
            return np.arange(len(self._table), dtype=np.uint32)
        return found[0] if len(found) == 1 else np.unique(np.concatenate(found))


def _answer(result: Result, limit: int, budget: Budget) -> QueryAnswer:
    data, warnings = result.data, result.warnings
    if limit and isinstance(data, InstantVector | Matrix) and len(data) > limit:
        data, warnings = _first(data, limit), (*warnings, "results truncated due to limit")
    pieces: list[bytes] = []
    size = 0
    for piece in result_pieces(data):
        budget.check()
        size += len(piece)
        # Once as pieces, once together, and once more in its envelope.
        budget.keep(3 * len(piece))
        if size > ANSWER_BYTES_MAX:
            raise TooMany(f"the answer has more than {ANSWER_BYTES_MAX} bytes: ask for fewer series or steps")
        pieces.append(piece)
    return QueryAnswer(_TYPES[type(data)], b"".join(pieces), warnings, result.infos)


_TYPES: dict[type[Data], str] = {
    InstantVector: "vector",
    Matrix: "matrix",
    Number: "scalar",
    Words: "string",
}


def _first(data: InstantVector | Matrix, limit: int) -> InstantVector | Matrix:
    labels = data.labels.take(np.arange(limit))
    if isinstance(data, InstantVector):
        return InstantVector(data.time_ms, labels, data.values[:limit])
    return Matrix(labels, data.times_ms, data.values, data.offsets[: limit + 1])
