"""The label text in a file: every day file and the tail say themselves what their series are called.

    sets     id -> labels as JSON; a sender's shared labels, or a metric name with labels of its own
    columns  id -> an array of set ids, interned by content: a thousand equal hosts share one column of keys
    lists    id -> (column of sources, column of keys): one label set of each makes one series

So a day of 1,000 hosts with 300 series each holds 1,300 texts and not 300,000. Set 0 is the empty one. Every
row has a checksum over what SQLite does not check; a damaged row costs the lists that need it and no others.
"""

import contextlib
import hashlib
import sqlite3
import zlib
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

from watchbill_collector.history.lists import ListBook, SeriesList
from watchbill_collector.series import SeriesIds, SeriesTable

SCHEMA = """
CREATE TABLE sets (id INTEGER PRIMARY KEY, labels TEXT NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE columns (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, data BLOB NOT NULL);
CREATE TABLE lists (id INTEGER PRIMARY KEY, sources INTEGER NOT NULL, keys INTEGER NOT NULL,
                    checksum INTEGER NOT NULL, UNIQUE (sources, keys))
"""
SET_BYTES_MAX = 1 << 20
COLUMN_BYTES_MAX = 1 << 26

_LABELS = msgspec.json.Decoder(dict[str, str])
_NO_SET = -1

Numbers = npt.NDArray[np.int32]


class Catalogue:
    """Both ways between a file's numbers and the process's. Writing happens in the writer thread alone."""

    def __init__(self, table: SeriesTable, book: ListBook, damaged: Callable[[str], None]) -> None:
        self._table = table
        self._book = book
        self._damaged = damaged
        self._sets_next = 1
        self._set_of_source: dict[int, int] = {0: 0}
        self._set_of_key: Numbers = np.full(1024, _NO_SET, np.int32)
        self._columns: dict[bytes, int] = {}
        self._undo: list[Callable[[], object]] = []
        self.in_file: dict[int, int] = {}
        """List number of the process -> list id of the file."""
        self.lists: dict[int, SeriesList] = {}
        """List id of the file -> list."""

    # Reading.

    def load(self, connection: sqlite3.Connection) -> None:
        """Learn everything the file says; its series enter the table. Raises sqlite3.Error."""
        texts = self._read_sets(connection)
        columns = {}
        for number, digest, data in connection.execute("SELECT id, digest, data FROM columns"):
            try:
                columns[number] = _unpacked(data)
                self._columns[digest] = number
            except (zstandard.ZstdError, ValueError, TypeError) as exc:
                self._damaged(f"column {number}: {exc}")
        sources = _Numbering(texts, columns, self._table.source)
        keys = _Numbering(texts, columns, self._table.key_of)
        for number, of_sources, of_keys, checksum in connection.execute(
            "SELECT id, sources, keys, checksum FROM lists"
        ):
            try:
                if checksum != _list_checksum(number, of_sources, of_keys):
                    raise ValueError("checksum")
                ids = self._series(sources.of(of_sources), keys.of(of_keys))
            except (KeyError, ValueError, TypeError) as exc:  # A damaged row may hold anything.
                self._damaged(f"list {number}: {exc}")
                continue
            each = self._book.of(ids)
            if len(each.ids) == len(ids):
                self.lists[number] = each
                self.in_file[each.number] = number
        self._set_of_source |= {source: number for number, source in sources.known.items()}
        self._room(max(keys.known.values(), default=0))
        for number, key in keys.known.items():
            self._set_of_key[key] = number

    def _read_sets(self, connection: sqlite3.Connection) -> dict[int, dict[str, str]]:
        texts: dict[int, dict[str, str]] = {0: {}}
        for number, text, checksum in connection.execute("SELECT id, labels, checksum FROM sets"):
            self._sets_next = max(self._sets_next, number + 1)
            try:
                if checksum != _set_checksum(number, text):
                    raise ValueError("checksum")
                texts[number] = _LABELS.decode(text)
            except (ValueError, TypeError, AttributeError, msgspec.DecodeError) as exc:
                self._damaged(f"label set {number}: {exc}")
        return texts

    def _series(self, sources: Numbers, keys: Numbers) -> SeriesIds:
        if len(sources) == 1:
            return self._table.series(int(sources[0]), keys)
        if len(sources) != len(keys):
            raise ValueError("columns of different length")
        ids = np.zeros(len(keys), np.uint32)
        for source in np.unique(sources).tolist():
            chosen = sources == source
            ids[chosen] = self._table.series(source, keys[chosen])
        return ids

    # Writing, inside the caller's transaction.

    def write(self, connection: sqlite3.Connection, each: SeriesList) -> int:
        """The file's id of a list, with all that it needs written on first sight."""
        known = self.in_file.get(each.number)
        if known is not None:
            return known
        sources = self._table.sources_of(each.ids)
        shared = bool((sources == sources[0]).all())
        of_sources = self._column(
            connection, self._source_sets(connection, sources[:1] if shared else sources)
        )
        of_keys = self._column(connection, self._key_sets(connection, self._table.keys_of(each.ids)))
        query = "SELECT id, checksum FROM lists WHERE sources = ? AND keys = ?"
        found = connection.execute(query, (of_sources, of_keys)).fetchone()
        # A damaged row makes room for a new one.
        if found is None or found[1] != _list_checksum(found[0], of_sources, of_keys):
            number = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM lists").fetchone()[0]
            checksum = _list_checksum(number, of_sources, of_keys)
            connection.execute(
                "INSERT OR REPLACE INTO lists VALUES (?, ?, ?, ?)", (number, of_sources, of_keys, checksum)
            )
        else:
            number = found[0]
        self.in_file[each.number] = number
        self.lists[number] = each
        self._undo.append(lambda: (self.in_file.pop(each.number, None), self.lists.pop(number, None)))
        return int(number)

    def set_of_source(self, connection: sqlite3.Connection, source: int) -> int:
        """The file's id of a sender's shared labels."""
        known = self._set_of_source.get(source)
        if known is None:
            known = self._set_of_source[source] = self._new_set(connection, self._table.source_labels(source))
            self._undo.append(lambda: self._set_of_source.pop(source, None))
        return known

    def source_of_set(self) -> dict[int, int]:
        """The way back: file's set id -> source."""
        return {number: source for source, number in self._set_of_source.items()}

    def prune(self, connection: sqlite3.Connection, keep: set[int]) -> None:
        """Inside a transaction: remove every list but some, and all that only the others needed.

        Afterwards this object does not fit the file any more: load another one.
        """
        gone = [(number,) for number in self.lists if number not in keep]
        connection.executemany("DELETE FROM lists WHERE id = ?", gone)
        connection.execute(
            "DELETE FROM columns WHERE id NOT IN (SELECT sources FROM lists UNION SELECT keys FROM lists)"
        )
        needed: set[int] = set()
        for (data,) in connection.execute("SELECT data FROM columns"):
            with contextlib.suppress(zstandard.ZstdError, ValueError):  # Named when it was loaded.
                needed.update(_unpacked(data).tolist())
        every = [number for (number,) in connection.execute("SELECT id FROM sets")]
        connection.executemany(
            "DELETE FROM sets WHERE id = ?", [(number,) for number in every if number not in needed]
        )

    def committed(self) -> None:
        """The transaction went through."""
        self._undo.clear()

    def rolled_back(self) -> None:
        """It did not: forget the numbers given in it."""
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def _source_sets(self, connection: sqlite3.Connection, sources: Numbers) -> Numbers:
        return np.array([self.set_of_source(connection, source) for source in sources.tolist()], np.int32)

    def _key_sets(self, connection: sqlite3.Connection, keys: Numbers) -> Numbers:
        self._room(int(keys.max(initial=0)))
        missing = np.unique(keys[self._set_of_key[keys] == _NO_SET])
        for key in missing.tolist():
            self._set_of_key[key] = self._new_set(connection, self._table.key_labels(key))
        if len(missing):
            self._undo.append(lambda: self._set_of_key.__setitem__(missing, _NO_SET))
        return self._set_of_key[keys]

    def _room(self, key: int) -> None:
        if key >= len(self._set_of_key):
            more = np.full(max(key + 1, len(self._set_of_key) * 2), _NO_SET, np.int32)
            more[: len(self._set_of_key)] = self._set_of_key
            self._set_of_key = more

    def _new_set(self, connection: sqlite3.Connection, labels: dict[str, str]) -> int:
        number = self._sets_next
        self._sets_next += 1  # Never given back: a gap in the numbers harms nobody.
        text = msgspec.json.encode(labels).decode()
        connection.execute("INSERT INTO sets VALUES (?, ?, ?)", (number, text, _set_checksum(number, text)))
        return number

    def _column(self, connection: sqlite3.Connection, sets: Numbers) -> int:
        digest = hashlib.blake2b(sets.tobytes(), digest_size=16).digest()
        known = self._columns.get(digest)
        if known is None:
            cursor = connection.execute(
                "INSERT OR REPLACE INTO columns (digest, data) VALUES (?, ?)", (digest, _packed(sets))
            )
            known = self._columns[digest] = int(cursor.lastrowid or 0)
            self._undo.append(lambda: self._columns.pop(digest, None))
        return known


class _Numbering:
    """Set ids of a file -> numbers of the process, made as they are needed; column by column."""

    def __init__(
        self,
        texts: dict[int, dict[str, str]],
        columns: dict[int, Numbers],
        number: Callable[[dict[str, str]], int],
    ) -> None:
        self._texts = texts
        self._columns = columns
        self._number = number
        self._numbers: Numbers = np.full(max(texts) + 1, _NO_SET, np.int32)
        self._found: dict[int, Numbers] = {}
        self.known: dict[int, int] = {}

    def of(self, column: int) -> Numbers:
        """The numbers of a column. Raises KeyError for one that is not there, or has a set that is not."""
        found = self._found.get(column)
        if found is None:
            found = self._found[column] = self._of(self._columns[column])
        return found

    def _of(self, sets: Numbers) -> Numbers:
        if len(sets) and not 0 <= int(sets.min()) <= int(sets.max()) < len(self._numbers):
            raise KeyError("a label set is missing")
        found = self._numbers[sets]
        if (found == _NO_SET).any():
            for number in np.unique(sets[found == _NO_SET]).tolist():
                self.known[number] = self._number(self._texts[number])
                self._numbers[number] = self.known[number]
            found = self._numbers[sets]
        return found


def _packed(sets: Numbers) -> bytes:
    steps = np.diff(sets, prepend=np.int32(0)).astype("<i4")
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(steps.tobytes())


def _unpacked(data: bytes) -> Numbers:
    if zstandard.frame_content_size(data) > COLUMN_BYTES_MAX:
        raise ValueError("a column claims to be larger than any")
    steps = np.frombuffer(zstandard.ZstdDecompressor().decompress(data), "<i4")
    sets: Numbers = np.cumsum(steps, dtype=np.int32)
    return sets


def _set_checksum(number: int, text: str) -> int:
    return zlib.crc32(b"%d:" % number + text.encode())


def _list_checksum(number: int, sources: int, keys: int) -> int:
    return zlib.crc32(b"%d:%d:%d" % (number, sources, keys))
