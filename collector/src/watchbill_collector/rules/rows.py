"""From rows of label codes to what they stand for, remembered: evaluation after evaluation gives the same
rows."""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import numpy as np

from watchbill_collector.labels import LabelFrame

T = TypeVar("T")

ROWS_MAX = 200_000
"""Rows remembered for one rule; all are forgotten together when there are more."""


class Rows(Generic[T]):
    """`make` is asked once for every label set that comes."""

    def __init__(self, make: Callable[[Mapping[str, str]], T]) -> None:
        self._make = make
        self._known: dict[tuple[str, ...], dict[bytes, T]] = {}
        self._size = 0

    def of(self, frame: LabelFrame) -> list[T]:
        """What each row of the frame stands for."""
        known = self._known.setdefault(frame.names, {})
        keys = _keys(frame)
        try:
            return [known[key] for key in keys]
        except KeyError:
            pass
        if self._size > ROWS_MAX:
            self._known = {frame.names: {}}
            known, self._size = self._known[frame.names], 0
        new = [row for row, key in enumerate(keys) if key not in known]
        for row, labels in zip(new, frame.take(np.array(new)).dicts(), strict=True):
            known[keys[row]] = self._make(labels)
        self._size += len(new)
        return [known[key] for key in keys]


def _keys(frame: LabelFrame) -> list[bytes]:
    if not frame.names:
        return [b""] * len(frame)
    codes = np.ascontiguousarray(frame.codes)
    width = codes.dtype.itemsize * codes.shape[1]
    whole = codes.tobytes()
    return [whole[at : at + width] for at in range(0, len(whole), width)]
