"""Mini-blocks: a few minutes of one sender, encoded many senders at a time."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from watchbill_collector.history import block
from watchbill_collector.history.values import Piece

TOGETHER = 4
"""Senders encoded in one call: in numpy a call costs as much as the arithmetic on one sender's readings; and with
more the arrays leave the cache, and then malloc's heap, where they find their pages again."""


def encoded(pieces: Sequence[Piece]) -> list[bytes]:
    """A block for each piece; pieces with the same number of ticks are encoded together."""
    made: list[bytes] = [b""] * len(pieces)
    alike: dict[int, list[int]] = {}
    for position, piece in enumerate(pieces):
        if piece.present is None:
            alike.setdefault(len(piece.times), []).append(position)
        else:
            made[position] = _encode([piece], piece.present)[0]
    for every in alike.values():
        for begin in range(0, len(every), TOGETHER):
            positions = every[begin : begin + TOGETHER]
            for position, data in zip(positions, _encode([pieces[p] for p in positions], None), strict=True):
                made[position] = data
    return made


def _encode(pieces: Sequence[Piece], present: npt.NDArray[np.bool_] | None) -> list[bytes]:
    return block.encode(
        [piece.times for piece in pieces],
        pieces[0].values if len(pieces) == 1 else np.concatenate([piece.values for piece in pieces], axis=1),
        [len(piece.ids) for piece in pieces],
        present=present,
        frame_series=block.NO_FRAMES,
        level=block.LEVEL_FAST,
    )
