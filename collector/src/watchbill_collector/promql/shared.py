"""Values that several expressions have in common, worked out once a moment.

Rules come in pairs: the same share of free space below 10 and below 3 %, the same rate above two limits. Plans that
are made together share the nodes of equal parts (`plan(text, made)`); while a moment is judged, the value of such a
part is kept for the next rule that has it.

Only what no rule writes may be kept: whoever begins a moment says which nodes those are. Values are never changed in
place, so they can be shared.
"""

from typing import Any

from watchbill_collector.promql.values import Value, Vector

BYTES_MAX = 64 * 1024 * 1024
"""What may be kept at a moment; what is beyond is worked out again."""


class SharedValues:
    """The values of one moment. Used by one thread at a time."""

    def __init__(self) -> None:
        self.hits = 0
        self._nodes: frozenset[Any] = frozenset()
        self._values: dict[tuple[Any, ...], Value] = {}
        self._bytes = 0

    def begin(self, nodes: frozenset[Any]) -> None:
        """A moment begins in which the values of these nodes may be kept."""
        self._values.clear()
        self._bytes = 0
        self._nodes = nodes

    def end(self) -> None:
        """The moment is over."""
        self.begin(frozenset())

    def known(self, key: tuple[Any, ...]) -> Value | None:
        """The value of a node, if it is known; the node is the first part of the key."""
        if key[0] not in self._nodes:
            return None
        found = self._values.get(key)
        self.hits += found is not None
        return found

    def keep(self, key: tuple[Any, ...], value: Value) -> None:
        """Keep a value, if it is one to be kept and there is room."""
        if key[0] not in self._nodes:
            return
        size = value.values.nbytes + value.present.nbytes if isinstance(value, Vector) else 0
        if self._bytes + size <= BYTES_MAX:
            self._bytes += size
            self._values[key] = value
