"""Label sets as integers: the currency between storage, query engine and rules.

Python is slow at comparing strings and fast at arithmetic on whole arrays, so every label name and value that
the collector meets becomes a small number once (`Strings`), and a set of series becomes a `LabelFrame`: one
int32 column per label name, one row per series. Code 0 is the empty string, and an empty label is a missing
label, as Prometheus has it; so a frame needs no mask of its own. The metric name is the label `__name__`.

Codes never change while the process lives and mean nothing after it: what is written to disk holds text.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int32]
Indices = npt.NDArray[np.int64]

T = TypeVar("T")

METRIC_NAME = "__name__"

PASSING = 1 << 30
"""Codes from here on are lent (`PassingStrings`): a thousand million texts are not kept by any process."""

_DERIVED_MAX = 64
"""Answers remembered per frame; at the bound all are forgotten and worked out again."""


class Strings:
    """Text <-> code, for the life of the process. Any thread may ask for a code at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codes: dict[str, int] = {"": 0}
        self._texts: list[str] = [""]
        self._passing: dict[int, str] = {}
        self._next = PASSING

    def __len__(self) -> int:
        return len(self._texts)

    def code(self, text: str) -> int:
        """The code of `text`, made on first sight."""
        code = self._codes.get(text)
        if code is None:
            with self._lock:  # Two threads that meet two new texts must not give them one code.
                code = self._codes.get(text)
                if code is None:
                    code = len(self._texts)
                    self._texts.append(text)
                    self._codes[text] = code
        return code

    def find(self, text: str) -> int | None:
        """The code of `text` if it has been seen."""
        return self._codes.get(text)

    def text(self, code: int) -> str:
        """The text behind a code."""
        return self._texts[code] if code < PASSING else self._passing[code]

    def lend(self, text: str) -> int:
        """A code for a text that is to be forgotten with `forget`."""
        with self._lock:
            while self._next in self._passing:
                self._next = PASSING + (self._next + 1 - PASSING) % PASSING
            code = self._next
            self._next = PASSING + (code + 1 - PASSING) % PASSING
            self._passing[code] = text
        return code

    def forget(self, codes: Iterable[int]) -> None:
        """These lent codes are free again."""
        with self._lock:
            for code in codes:
                self._passing.pop(code, None)


class PassingStrings:
    """Texts that one query made and nobody else knows, with codes of their own until `close`.

    Frames with such codes are for that query alone: two queries give the same text two codes. For one thread at a
    time.
    """

    def __init__(self, strings: Strings) -> None:
        self._strings = strings
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def find(self, text: str) -> int | None:
        """The code that the text has here, or has for all."""
        code = self._codes.get(text)
        return self._strings.find(text) if code is None else code

    def add(self, text: str) -> int:
        """A code for a text that has none yet."""
        code = self._codes[text] = self._strings.lend(text)
        return code

    def close(self) -> None:
        """Forget the texts; frames with their codes are worthless from here on."""
        self._strings.forget(self._codes.values())
        self._codes = {}


STRINGS = Strings()
"""One table for the process: codes from anywhere in it compare equal when the text is equal."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelFrame:
    """The labels of n series: `codes[row, column]` is the code of label `names[column]`, 0 where it has none.

    `names` are sorted and unique. Two rows with equal codes are the same label set.
    """

    names: tuple[str, ...]
    codes: Codes  # (n, len(names))
    _cache: dict[object, object] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.codes)

    @staticmethod
    def empty() -> "LabelFrame":
        """No series at all."""
        return LabelFrame((), np.zeros((0, 0), np.int32))

    @staticmethod
    def unlabelled(rows: int = 1) -> "LabelFrame":
        """`rows` series without any label."""
        return LabelFrame((), np.zeros((rows, 0), np.int32))

    @staticmethod
    def of(rows: Sequence[Mapping[str, str]]) -> "LabelFrame":
        """A frame from plain dictionaries: for tests and small sets."""
        names = tuple(sorted({name for row in rows for name, value in row.items() if value}))
        codes = np.array([[STRINGS.code(row.get(name, "")) for name in names] for row in rows], np.int32)
        return LabelFrame(names, codes.reshape(len(rows), len(names)))

    def column(self, name: str) -> Codes:
        """The codes of one label; zeros where the frame does not know it."""
        try:
            return self.codes[:, self.names.index(name)]
        except ValueError:
            return np.zeros(len(self), np.int32)

    def take(self, rows: Indices | npt.NDArray[np.bool_]) -> "LabelFrame":
        """The chosen rows, in the order given."""
        return LabelFrame(self.names, self.codes[rows])

    def only(self, names: Iterable[str]) -> "LabelFrame":
        """The named labels alone; names the frame does not know are left out."""
        wanted = set(names)
        keep = [position for position, name in enumerate(self.names) if name in wanted]
        return LabelFrame(tuple(self.names[position] for position in keep), self.codes[:, keep])

    def without(self, names: Iterable[str]) -> "LabelFrame":
        """All labels but the named ones."""
        drop = set(names)
        if drop.isdisjoint(self.names):
            return self
        return self.only(name for name in self.names if name not in drop)

    def with_column(self, name: str, codes: Codes | int) -> "LabelFrame":
        """The frame with one label set (a code for all rows, or one each); code 0 removes it."""
        rest = self.without((name,))
        column = np.broadcast_to(np.asarray(codes, np.int32), (len(self),))
        names = tuple(sorted((*rest.names, name)))
        position = names.index(name)
        return LabelFrame(names, np.insert(rest.codes, position, column, axis=1))

    def aligned(self, names: tuple[str, ...]) -> Codes:
        """The codes under other column names (a superset or any tuple), zeros where unknown."""
        if names == self.names:
            return self.codes
        codes = np.zeros((len(self), len(names)), np.int32)
        for position, name in enumerate(names):
            codes[:, position] = self.column(name)
        return codes

    def derived(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` answers, worked out once for this frame and `key`.

        A frame never changes, so whatever is computed from labels alone may hang on it: a storage that keeps
        handing out the same frame spares the query engine that work, and the answer goes when the frame goes.
        Two threads may both compute; either answer is right.
        """
        try:
            return cast("T", self._cache[key])
        except KeyError:
            answer = make()
            if len(self._cache) >= _DERIVED_MAX:
                self._cache.clear()
            self._cache[key] = answer
            return answer

    def known(self, key: Hashable) -> object:
        """What is remembered under a key of `derived`; None if there is nothing."""
        return self._cache.get(key)

    def forget(self, rows_max: int) -> None:
        """Forget what was worked out if it may be about more rows than these: most of it has a row for each of the
        frame's."""
        if len(self._cache) * len(self) > rows_max:
            self._cache.clear()

    def groups(self) -> tuple[Indices, "LabelFrame"]:
        """Number equal rows: the group of each row, and one row per group. Computed once per frame."""
        return self.derived("groups", self._groups)

    def _groups(self) -> tuple[Indices, "LabelFrame"]:
        if not self.names or not len(self):
            return np.zeros(len(self), np.int64), LabelFrame(self.names, self.codes[:1])
        # One integer per row, columns folded in one after another: np.unique on integers is many times faster
        # than on records. Numbering again before each fold keeps the product far inside 64 bits.
        group = np.zeros(len(self), np.int64)
        first = np.zeros(1, np.int64)
        for column in self.codes.T:
            folded = group * (int(column.max()) + 1) + column
            _, first, group = np.unique(folded, return_index=True, return_inverse=True)
        return group.reshape(-1), LabelFrame(self.names, self.codes[first])

    def dicts(self) -> list[dict[str, str]]:
        """Plain dictionaries, empty labels left out: for answers and templates."""
        text = STRINGS.text
        return [
            {name: text(code) for name, code in zip(self.names, row, strict=True) if code}
            for row in self.codes.tolist()
        ]

    @staticmethod
    def concat(frames: Sequence["LabelFrame"]) -> "LabelFrame":
        """All rows of all frames, in order."""
        names = tuple(sorted({name for frame in frames for name in frame.names}))
        rows = [frame.aligned(names) for frame in frames]
        return LabelFrame(names, np.concatenate(rows) if rows else np.zeros((0, 0), np.int32))
