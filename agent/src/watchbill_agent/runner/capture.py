"""What a command printed: its beginning kept up to a bound, everything counted and digested, secrets replaced."""

import hashlib
import json
from collections.abc import Collection
from typing import Final

from watchbill.actions.outcomes import TOLD_BYTES_MAX

HIDDEN: Final = b"***"


class Capture:
    """One stream. Pieces come in as they are read; a secret that lies across two of them is found all the same. The
    digest is over what is left after secrets are hidden: it must not be a way to guess them."""

    def __init__(self, bytes_max: int, secrets: Collection[bytes] = ()) -> None:
        self.kept = bytearray()
        self.bytes = 0
        """Read, secrets and all."""
        self._max = bytes_max
        self._secrets = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        self._longest = len(self._secrets[0]) if self._secrets else 0
        self._held = b""
        self._digest = hashlib.sha256()
        self._shown = 0

    def add(self, piece: bytes) -> None:
        """Take what was read."""
        self.bytes += len(piece)
        if not self._secrets:
            self._take(piece)
            return
        # What begins later than this may be the beginning of a longer secret, and waits for the rest.
        data = self._held + piece
        self._held = data[self._hide(data, len(data) - self._longest + 1) :]

    def end(self) -> None:
        """Nothing more comes."""
        rest, self._held = self._held, b""
        self._hide(rest, len(rest))

    def _hide(self, data: bytes, until: int) -> int:
        """Take what is decided, which is all that begins before `until`; how far that reached."""
        place = 0
        while (found := self._next(data, place)) is not None and found[0] < until:
            at, length = found
            self._take(data[place:at] + HIDDEN)
            place = at + length
        self._take(data[place : max(place, until)])
        return max(place, until, 0)

    @property
    def whole(self) -> bool:
        """Whether all of it was kept."""
        return self._shown == len(self.kept)

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal, of everything with secrets hidden."""
        return self._digest.hexdigest()

    def _next(self, data: bytes, place: int) -> tuple[int, int] | None:
        """The first secret from a place on: where it is, and how long. The longest where several begin."""
        found = [(at, -len(one)) for one in self._secrets if (at := data.find(one, place)) >= 0]
        if not found:
            return None
        at, length = min(found)
        return at, -length

    def _take(self, piece: bytes) -> None:
        self._digest.update(piece)
        self._shown += len(piece)
        if len(self.kept) < self._max:
            self.kept += piece[: self._max - len(self.kept)]


def told(output: Capture, errors: Capture, bytes_max: int) -> tuple[str, str, bool]:
    """Both as text for an event, and whether that is all: together at most `bytes_max` of them, and so much that their
    JSON stays within TOLD_BYTES_MAX. What was printed on stdout goes first; stderr always has a quarter.
    """
    first, second = _text(output.kept[:bytes_max]), _text(errors.kept[:bytes_max])
    spare = max(bytes_max // 4, bytes_max - len(output.kept))
    second = _cut(second, min(spare, bytes_max), TOLD_BYTES_MAX // 4)
    left = bytes_max - len(second.encode())
    first = _cut(first, max(left, 0), TOLD_BYTES_MAX - _json_bytes(second))
    whole = output.whole and errors.whole
    return first, second, whole and first == _text(output.kept) and second == _text(errors.kept)


def _text(kept: bytes | bytearray) -> str:
    return bytes(kept).decode("utf-8", "replace")


def _json_bytes(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode())


def _cut(text: str, bytes_max: int, json_max: int) -> str:
    """The longest beginning that fits, found by halving."""
    text = text.encode()[:bytes_max].decode("utf-8", "ignore")
    if _json_bytes(text) <= json_max:
        return text
    fits, too_many = 0, len(text)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if _json_bytes(text[:middle]) <= json_max:
            fits = middle
        else:
            too_many = middle
    return text[:fits]
