"""Label sets by number, in flat arrays.

A set is written once: its labels lie one after another in two int32 columns (name codes, value codes), and a
third column says where each set begins. Eight bytes a label, no Python object per set but the dictionary
entry that finds it again, whose key is the set's cells as bytes. Set 0 is the empty one.
"""

from array import array
from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from watchbill_collector.labels import STRINGS, Codes, Indices, LabelFrame

COLUMNS_CACHED_MAX = 128
"""Dense columns kept, one per label name that selectors ask for; the oldest goes."""

Scalar = TypeVar("Scalar", bound=np.generic)


class Growing(Generic[Scalar]):
    """An array that is appended to.

    Readers in other threads take `view` and keep it: what lies in it never changes. One thread appends at a
    time.
    """

    def __init__(self, dtype: type[Scalar], capacity: int = 1024) -> None:
        self._data: npt.NDArray[Scalar] = np.empty(capacity, dtype)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def view(self) -> npt.NDArray[Scalar]:
        """All that was appended up to now."""
        size = self._size  # Read before the data: the data is never shorter than a size seen earlier.
        return self._data[:size]

    def extend(self, more: npt.NDArray[Scalar]) -> None:
        """Append; amortised cost of one copy."""
        size = self._size + len(more)
        if size > len(self._data):
            data = np.empty(max(size, len(self._data) * 3 // 2), self._data.dtype)
            data[: self._size] = self._data[: self._size]
            self._data = data
        self._data[self._size : size] = more
        self._size = size


class LabelSets:
    """Numbers for label sets given as (name code, value code, ...), sorted by name text, no empty value."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {b"": 0}
        self._names: Growing[np.int32] = Growing(np.int32)
        self._values: Growing[np.int32] = Growing(np.int32)
        self._ends: Growing[np.int64] = Growing(np.int64)
        self._ends.extend(np.zeros(2, np.int64))  # Ends of set -1 and of set 0.
        self._columns: dict[int, Codes] = {}

    def __len__(self) -> int:
        return len(self._ends) - 1

    def number(self, labels: Mapping[str, str]) -> int:
        """The number of a set, made on first sight; labels with an empty value are left out."""
        code = STRINGS.code
        cells = array("i")
        for name in sorted(labels):
            if text := labels[name]:
                cells.append(code(name))
                cells.append(code(text))
        key = cells.tobytes()
        number = self._numbers.get(key)
        if number is None:
            number = len(self)
            self._append(np.array(cells, np.int32).reshape(1, -1, 2))
            self._numbers[key] = number
        return number

    def numbers(self, frame: LabelFrame) -> npt.NDArray[np.int32]:
        """As `number`, for every row of a frame at once."""
        found = np.zeros(len(frame), np.int32)
        if not frame.codes.size:
            return found
        names = np.array([STRINGS.code(name) for name in frame.names], np.int32)
        given = frame.codes != 0
        # Rows that have the same labels, whatever their values, are as wide as each other.
        shapes, shape = np.unique(np.packbits(given, axis=1), axis=0, return_inverse=True)
        shape = shape.reshape(-1)
        for each in range(len(shapes)):
            rows = np.flatnonzero(shape == each)
            columns = np.flatnonzero(given[rows[0]])
            cells = np.empty((len(rows), len(columns), 2), np.int32)
            cells[:, :, 0] = names[columns]
            cells[:, :, 1] = frame.codes[np.ix_(rows, columns)]
            found[rows] = self._numbers_of(cells)
        return found

    def _numbers_of(self, cells: Codes) -> list[int]:
        """The numbers of sets of one width, `cells[set, label, (name, value)]`."""
        whole, width = cells.tobytes(), cells[0].nbytes
        if not width:
            return [0] * len(cells)  # The empty set.
        known, begin = self._numbers, len(self)
        found: list[int] = []
        new: list[int] = []
        for row, at in enumerate(range(0, len(whole), width)):
            key = whole[at : at + width]
            number = known.get(key)
            if number is None:
                number = known[key] = begin + len(new)
                new.append(row)
            found.append(number)
        if new:
            self._append(cells[new])
        return found

    def _append(self, cells: Codes) -> None:
        """Sets of one width, numbered from `len(self)` on."""
        self._names.extend(cells[:, :, 0].reshape(-1))
        self._values.extend(cells[:, :, 1].reshape(-1))
        ends = len(self._values) - cells.shape[1] * np.arange(len(cells) - 1, -1, -1)
        self._ends.extend(ends.astype(np.int64))

    def labels(self, number: int) -> dict[str, str]:
        """The text of one set, names in order."""
        begin, end = self._ends.view[number : number + 2].tolist()
        names, values = self._names.view[begin:end].tolist(), self._values.view[begin:end].tolist()
        text = STRINGS.text
        return {text(name): text(value) for name, value in zip(names, values, strict=True)}

    def cells(self, numbers: Indices) -> tuple[Indices, Codes, Codes]:
        """All labels of some sets: each one's position in `numbers`, its name code and its value code."""
        ends = self._ends.view
        begins, counts = ends[numbers], ends[numbers + 1] - ends[numbers]
        rows = np.repeat(np.arange(len(numbers)), counts)
        cells = np.arange(len(rows)) + np.repeat(begins - (np.cumsum(counts) - counts), counts)
        return rows, self._names.view[cells], self._values.view[cells]

    def matrix(self, numbers: Indices) -> tuple[list[str], Codes]:
        """The labels of some sets as columns: label names, and a row of value codes per set."""
        rows, names, values = self.cells(numbers)
        distinct, column = np.unique(names, return_inverse=True)
        codes = np.zeros((len(numbers), len(distinct)), np.int32)
        codes[rows, column.reshape(-1)] = values
        return [STRINGS.text(code) for code in distinct.tolist()], codes

    def column(self, name: str) -> Codes:
        """The value codes of one label for all sets, 0 where a set has none. Kept, and continued as sets
        come."""
        code = STRINGS.find(name)
        if code is None:
            return np.zeros(len(self), np.int32)
        ends = self._ends.view
        known = self._columns.get(code, np.zeros(0, np.int32))
        if len(known) < len(ends) - 1:
            begin = int(ends[len(known)])
            at = begin + np.flatnonzero(self._names.view[begin : ends[-1]] == code)
            column = np.zeros(len(ends) - 1, np.int32)
            column[: len(known)] = known
            column[np.searchsorted(ends, at, side="right") - 1] = self._values.view[at]
            if code not in self._columns and len(self._columns) >= COLUMNS_CACHED_MAX:
                self._columns.pop(next(iter(self._columns)), None)
            self._columns[code] = known = column
        return known
