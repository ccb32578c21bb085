"""The scopes of callers over series: what a query of somebody with a scope can reach.

A query reads samples by `Storage.select` and in no other way, and the lists of series and labels read the same
selection. So the scope is kept there, below the engine: to every selector of the plan, wherever it stands - in a
subquery, under an offset, inside `absent` - the scope's matchers are added, and of what that finds only series
remain whose `instance` is a host that was enrolled into the scope. Functions such as `label_replace` work on what was
read and cannot reach behind it.

A series that names no host (a sum that a recording rule made) is judged by its labels alone. The collector's own
metrics speak of all hosts and are in no scope.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from watchbill_collector.hosts import HostRegistry
from watchbill_collector.labels import STRINGS, Codes
from watchbill_collector.matching import MatchOp
from watchbill_collector.scopes import INSTANCE, Bindings, Scope, View
from watchbill_collector.series import Matcher, SeriesIds, SeriesTable
from watchbill_collector.services.condition import OWN_JOB

SELECTIONS_MAX: Final = 256
"""Selections kept for one view."""
_NOT_OURS: Final = Matcher("job", MatchOp.NOT_EQUAL, OWN_JOB)


class RegistryBindings:
    """`scopes.Bindings` over the host registry."""

    def __init__(self, registry: HostRegistry) -> None:
        self._registry = registry
        self.generation = 0
        registry.subscribe(self._changed)

    def _changed(self, _: object) -> None:
        self.generation += 1

    def bound(self, instance: str) -> dict[str, str] | None:
        """The labels of the live host of that name, or of the newest past one."""
        host = self._registry.live(instance)
        if host is not None:
            return dict(host.labels) if host.instance == instance else None
        past = [one for one in self._registry.hosts() if one.instance == instance]
        return dict(max(past, key=lambda one: one.changed_ms).labels) if past else None

    def hosts(self) -> list[tuple[str, dict[str, str]]]:
        """Every host but the forgotten."""
        return [(host.instance, dict(host.labels)) for host in self._registry.hosts()]


class ScopedSelection:
    """`SeriesTable.select` for one view. Several threads may use it."""

    def __init__(self, table: SeriesTable, view: View, bindings: Bindings) -> None:
        assert view.scopes is not None, "who sees everything needs no filter"
        self._table = table
        self._scopes = view.scopes
        self._bindings = bindings
        self._lock = threading.Lock()
        self._generation = -1
        self._own: list[Codes] = []
        self._known: OrderedDict[tuple[Matcher, ...], tuple[int, tuple[SeriesIds, ...], SeriesIds]] = (
            OrderedDict()
        )

    def select(self, matchers: tuple[Matcher, ...]) -> SeriesIds:
        """What the matchers find inside the scopes; the same read-only array while nothing changed. Raises
        InvalidRegex.
        """
        parts = tuple(self._table.select((*matchers, *scope.matchers, _NOT_OURS)) for scope in self._scopes)
        own, generation = self._owned()
        with self._lock:
            known = self._known.get(matchers)
        if known is not None and (known[0], [*map(id, known[1])]) == (generation, [*map(id, parts)]):
            return known[2]
        found = [self._inside(ids, codes) for ids, codes in zip(parts, own, strict=True)]
        ids = np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint32)
        ids.flags.writeable = False
        with self._lock:
            self._known[matchers] = (generation, parts, ids)
            self._known.move_to_end(matchers)
            while len(self._known) > SELECTIONS_MAX:
                self._known.popitem(last=False)
        return ids

    def _inside(self, ids: SeriesIds, own: Codes) -> SeriesIds:
        instances = self._table.column(INSTANCE, ids)
        inside: SeriesIds = ids[np.equal(instances, 0) | np.isin(instances, own)]
        return inside

    def _owned(self) -> tuple[list[Codes], int]:
        """By scope, the codes of the names of its hosts; and the generation they are of."""
        generation = self._bindings.generation
        with self._lock:
            if generation == self._generation:
                return self._own, generation
        hosts = self._bindings.hosts()
        own = [_codes(scope, hosts) for scope in self._scopes]
        with self._lock:
            self._own, self._generation = own, generation
        return own, generation


def _codes(scope: Scope, hosts: Sequence[tuple[str, Mapping[str, str]]]) -> Codes:
    # Named before it has any series, a host has its number all the same.
    inside = [STRINGS.code(name) for name, bound in hosts if scope.holds({**bound, INSTANCE: name})]
    return np.array(inside, np.int32)
