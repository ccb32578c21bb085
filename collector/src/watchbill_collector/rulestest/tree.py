"""What reading a unit-test file needs beyond what reading a rule file does: defaults where nothing stands."""

from collections.abc import Iterator, Sequence

from watchbill_collector.rules.reading import Reading
from watchbill_collector.yamlreading import Found
from watchbill_collector.yamltree import Scalar, Tree, shown

Keys = dict[str, Tree]

_TRUE, _FALSE = frozenset({"true", "True", "TRUE"}), frozenset({"false", "False", "FALSE"})
_FLOATS = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}


class TreeReader:
    """Reads one file; `found` collects every mistake, and reading goes on with something harmless."""

    def __init__(self, file: str, found: Found) -> None:
        self.file = file
        self._reading = Reading(file, found, {}, {})

    def bad(self, node: Tree, at: str, got: str, wanted: str) -> None:
        """Note a mistake."""
        self._reading.bad(node, at, got, wanted)

    def keys(self, node: Tree, at: str, allowed: Sequence[str] | None) -> Keys:
        """The pairs of a mapping; empty if it is none. `allowed` None takes any key."""
        return self._reading.mapping(node, at, allowed) or {}

    def items(self, node: Tree | None, at: str) -> Iterator[tuple[str, Tree]]:
        """The elements of a list, each with its path; none where nothing stands."""
        for number, item in enumerate(self._reading.items(node, at)):
            yield f"{at}[{number}]", item

    def text(self, node: Tree | None, at: str) -> str:
        """Text, empty where nothing stands."""
        return "" if node is None else self._reading.text(node, at) or ""

    def texts(self, node: Tree | None, at: str) -> dict[str, str]:
        """Names with text."""
        if node is None or (isinstance(node, Scalar) and node.null):
            return {}
        return {name: self.text(value, f"{at}.{name}") for name, value in self.keys(node, at, None).items()}

    def duration_ms(self, node: Tree | None, at: str, default: int = 0) -> int:
        """A duration such as "1h30m", or 0."""
        return self._reading.duration(node, at, default) if self.text(node, at) else default

    def number(self, node: Tree | None, at: str) -> float:
        """A number, YAML's .inf and .nan too; 0 where nothing stands, as with promtool."""
        text = self.text(node, at)
        if node is None or not text:
            return 0.0
        try:
            return float(_FLOATS.get(text.lower(), text))
        except ValueError:
            self.bad(node, at, shown(text), "a number")
            return 0.0

    def yes(self, node: Tree | None, at: str) -> bool:
        """True or false; false where nothing stands."""
        text = self.text(node, at)
        if node is not None and text and text not in _TRUE | _FALSE:
            self.bad(node, at, shown(text), "true or false")
        return text in _TRUE
