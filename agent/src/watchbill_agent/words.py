"""Where the values stand in a kernel file, so that a steady tick only picks them up.

Finding out which word of a file is which number happens once, with every check. After that it is enough to
see that the names stand where they stood. Splitting, comparing and converting then all run in C.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter

from watchbill_agent.reading import Layout, SamplerFailed

Words = Sequence[bytes]


class Places:
    """The places of names and values among the words of a file, and the layout that the values fill."""

    __slots__ = ("_count", "_names", "_names_of", "_values_of", "layout")

    def __init__(
        self, layout: Layout, words: Words, names_at: Sequence[int], values_at: Sequence[int]
    ) -> None:
        assert len(values_at) == len(layout.series), "one value for each series"
        self.layout = layout
        self._count = len(words)
        self._names_of = picker(names_at)
        self._values_of = picker(values_at)
        self._names = self._names_of(words)

    def values(self, words: Words) -> list[int] | None:
        """The values in layout order, or None when the file has changed its shape: learn it anew."""
        if len(words) != self._count or self._names_of(words) != self._names:
            return None
        try:
            return list(map(int, self._values_of(words)))
        except ValueError:
            return None


def picker(places: Sequence[int]) -> Callable[[Words], tuple[bytes, ...]]:
    """What stands at these places, as a tuple whatever their number."""
    if len(places) >= 2:
        return itemgetter(*places)
    return lambda words: tuple(words[place] for place in places)


def number(word: bytes, what: str, where: str) -> int:
    """A whole number of a kernel file. Raises SamplerFailed naming the file and the field."""
    try:
        return int(word)
    except ValueError:
        raise SamplerFailed(what, f"{where}: wanted a number, got {shown(word)}") from None


def shown(data: bytes) -> str:
    """Foreign bytes for a message: short, printable, on one line."""
    return ascii(data[:40].decode("utf-8", "replace"))
