"""Whether a file is whole: by its first and last bytes, by a checksum beside it, by reading it to its end.

First and last bytes cost nothing and find what happens most: a dump of no bytes, an error message in place of a dump,
a file that was cut off when the disk was full.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import re
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, Literal
from urllib.parse import quote

from watchbill_agent.backups.adapter import Commands, Finished, Reason, error_lines, trouble

ArchiveKind = Literal[
    "auto",
    "any",
    "gzip",
    "bzip2",
    "xz",
    "zstd",
    "zip",
    "tar",
    "pg_dump",
    "postgres-sql",
    "mysql-sql",
    "sqlite",
]

FILE_BAD: Final = "file-bad"
CHECKSUM_WRONG: Final = "checksum-wrong"
HEAD_BYTES: Final = 512
TAIL_BYTES: Final = 64 * 1024 + 22
"""A zip's directory ends within so many bytes: a comment may follow it."""
CHUNK_BYTES: Final = 1024 * 1024
CHECKSUM_BYTES_MAX: Final = 64 * 1024
SQLITE_STEPS: Final = 100_000
"""Between two looks at the time."""
HASHES: Final = ("sha256", "sha512", "sha1", "md5")

_SUFFIXES: Final = {
    ".gz": "gzip",
    ".tgz": "gzip",
    ".bz2": "bzip2",
    ".tbz2": "bzip2",
    ".xz": "xz",
    ".txz": "xz",
    ".zst": "zstd",
    ".tzst": "zstd",
    ".zip": "zip",
    ".tar": "tar",
}
_STARTS: Final = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "zstd": b"\x28\xb5\x2f\xfd",
    "zip": b"PK",
    "pg_dump": b"PGDMP",
    "sqlite": b"SQLite format 3\x00",
}
_ENDS: Final = {"postgres-sql": b"PostgreSQL database dump complete", "mysql-sql": b"-- Dump completed"}
"""What the last lines of a dump in plain text hold when it is whole."""
_CLUSTER: Final = b"PostgreSQL database cluster dump"
_CLUSTER_ENDS: Final = _CLUSTER + b" complete"
"""pg_dumpall's: each of its databases ends as one alone does."""
LAST_LINES_BYTES: Final = 4096
_MYSQL_STARTS: Final = (b"-- MySQL dump", b"-- MariaDB dump", b"/*!999999", b"/*M!999999")
_HASH = re.compile(rb"(?:^|[=\s])\\?([0-9a-fA-F]{32,128})(?=\s|$)")


class BadFile(Exception):
    """It is no whole backup. `reason` is the word for it."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Unproved(Exception):
    """Whether it is whole cannot be known: a tool is missing, the time was up, it may not be read."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


# ---------------------------------------------------------------- a look


def look_inside(path: str, kind: ArchiveKind) -> None:
    """Judge the first and last bytes. Raises BadFile, also when it may not be read."""
    if kind == "any":
        return
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read(TAIL_BYTES)
    except PermissionError as exc:
        raise BadFile(
            Reason.NEEDS_RUNNER, 'this agent\'s user may not read it; kind = "any" judges age and size alone'
        ) from exc
    except OSError as exc:
        raise BadFile(FILE_BAD, f"it cannot be read: {(exc.strerror or str(exc)).lower()}") from exc
    _judge(resolved(kind, path, head), head, tail)


def resolved(kind: str, path: str, head: bytes) -> str:
    """The format that "auto" means: by the name where it tells, else by what is in it."""
    if kind != "auto":
        return kind
    by_name = _SUFFIXES.get(Path(path).suffix.lower())
    if by_name:
        return by_name
    for name in ("pg_dump", "sqlite"):
        if head.startswith(_STARTS[name]):
            return name
    if b"-- PostgreSQL database" in head:
        return "postgres-sql"
    if head.startswith(_MYSQL_STARTS):
        return "mysql-sql"
    return "any"


def _judge(kind: str, head: bytes, tail: bytes) -> None:
    start = _STARTS.get(kind)
    if start is not None and not head.startswith(start):
        raise BadFile(FILE_BAD, f"it does not begin as {kind} does")
    if kind == "tar" and head[257:262] != b"ustar":
        raise BadFile(FILE_BAD, "it does not begin as tar does")
    if kind == "tar" and tail[-1024:].strip(b"\0"):
        raise BadFile(FILE_BAD, "it is cut off: no empty blocks at its end")
    if kind == "xz" and not tail.rstrip(b"\0").endswith(b"YZ"):
        raise BadFile(FILE_BAD, "it is cut off: xz's footer is missing")
    if kind == "zip" and b"PK\x05\x06" not in tail:
        raise BadFile(FILE_BAD, "it is cut off: zip's directory is missing")
    end = _ENDS.get(kind)
    if kind == "postgres-sql" and _CLUSTER in head:
        end = _CLUSTER_ENDS
    # Newer versions write a line of their own after it.
    if end is not None and end not in tail[-LAST_LINES_BYTES:]:
        raise BadFile(FILE_BAD, "it is cut off: the last line of a whole dump is missing")


# ---------------------------------------------------------------- reading it all


def read_through(path: str, kind: ArchiveKind, commands: Commands, *, contents: bool) -> None:
    """Prove that it can be read: its table of contents, or with `contents` all of its data.

    Raises BadFile, and Unproved.
    """
    try:
        with open(path, "rb") as file:
            format_ = resolved(kind, path, file.read(HEAD_BYTES))
        if format_ in _BY_TOOL:
            _by_tool(path, format_, commands, contents=contents)
        elif format_ == "zip":
            _read_zip(path, commands, contents=contents)
        elif contents:
            _READERS.get(format_, _read_plain)(path, commands)
    except PermissionError as exc:
        raise Unproved(Reason.NEEDS_RUNNER, "this agent's user may not read it") from exc
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        lzma.LZMAError,
        tarfile.TarError,
        zipfile.BadZipFile,
    ) as exc:
        text = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        raise BadFile(FILE_BAD, f"it does not read back: {text.lower()}") from exc


def _drain(
    file: IO[bytes] | gzip.GzipFile, commands: Commands, take: Callable[[bytes], object] = len
) -> None:
    while chunk := file.read(CHUNK_BYTES):
        take(chunk)
        _in_time(commands)


def _in_time(commands: Commands) -> None:
    if commands.left_s() <= 0:
        raise Unproved(Reason.TIMED_OUT, "the time was up before its end")


def _read_plain(path: str, commands: Commands) -> None:
    with open(path, "rb") as file:
        _drain(file, commands)


def _read_gzip(path: str, commands: Commands) -> None:
    with gzip.open(path, "rb") as file:
        _drain(file, commands)


def _read_bzip2(path: str, commands: Commands) -> None:
    with bz2.open(path, "rb") as file:
        _drain(file, commands)


def _read_xz(path: str, commands: Commands) -> None:
    with lzma.open(path, "rb") as file:
        _drain(file, commands)


def _read_tar(path: str, commands: Commands) -> None:
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if member.isreg() and (inside := archive.extractfile(member)) is not None:
                _drain(inside, commands)


def _read_zip(path: str, commands: Commands, *, contents: bool) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist() if contents else ():
            if member.flag_bits & 1:
                continue  # Encrypted: without its password only the directory can be read.
            with archive.open(member) as inside:
                _drain(inside, commands)


def _read_sqlite(path: str, commands: Commands) -> None:
    # Immutable: no lock is taken, and nothing is written beside the file.
    connection = sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True)
    try:
        connection.set_progress_handler(lambda: commands.left_s() <= 0, SQLITE_STEPS)
        rows = connection.execute("PRAGMA integrity_check(3)").fetchall()
    except sqlite3.DatabaseError as exc:
        _in_time(commands)
        raise ValueError(str(exc)) from exc
    finally:
        connection.close()
    if rows != [("ok",)]:
        raise ValueError("; ".join(str(row[0]) for row in rows))


_READERS: Final[dict[str, Callable[[str, Commands], None]]] = {
    "gzip": _read_gzip,
    "bzip2": _read_bzip2,
    "xz": _read_xz,
    "tar": _read_tar,
    "sqlite": _read_sqlite,
}
_BY_TOOL: Final[dict[str, tuple[list[str], list[str]]]] = {
    "pg_dump": (["pg_restore", "--list"], ["pg_restore", "--file=/dev/null"]),
    "zstd": ([], ["zstd", "--test", "--quiet"]),
}
"""Without the contents, and with them; the path follows. It is absolute: no tool takes it for an option."""


def _by_tool(path: str, format_: str, commands: Commands, *, contents: bool) -> None:
    argv = _BY_TOOL[format_][contents]
    if not argv:
        return
    finished: Finished = commands.run([*argv, path])
    said = trouble(finished, argv[0])
    if said is not None:
        raise Unproved(said[0], " ".join(said[1]))
    if finished.exit_code:
        raise BadFile(FILE_BAD, " ".join(error_lines(finished.stderr)[-2:]) or f"{argv[0]} says it is bad")


# ---------------------------------------------------------------- checksums


def is_checksum(name: str) -> bool:
    """Whether a file's name says that it is a checksum of another."""
    return name.rpartition(".")[2] in HASHES


def checksum_beside(path: str) -> str | None:
    """The file beside it that holds its checksum."""
    return next((beside for name in HASHES if Path(beside := f"{path}.{name}").is_file()), None)


def compare_checksum(path: str, beside: str, commands: Commands) -> None:
    """Read all of it and compare. Raises BadFile, Unproved."""
    name = beside.rpartition(".")[2]
    try:
        with open(beside, "rb") as file:
            wanted = read_checksum(file.read(CHECKSUM_BYTES_MAX), name, Path(path).name)
        digest = hashlib.new(name, usedforsecurity=False)
        with open(path, "rb") as file:
            _drain(file, commands, digest.update)
    except PermissionError as exc:
        raise Unproved(Reason.NEEDS_RUNNER, "this agent's user may not read it, or its checksum") from exc
    except OSError as exc:
        raise BadFile(FILE_BAD, f"it does not read back: {(exc.strerror or str(exc)).lower()}") from exc
    if digest.hexdigest() != wanted:
        raise BadFile(CHECKSUM_WRONG, f"its {name} is {digest.hexdigest()[:16]}..., wanted {wanted[:16]}...")


def read_checksum(content: bytes, name: str, file_name: str) -> str:
    """The checksum of a file out of what sha256sum or openssl wrote, or of a line with nothing else. Raises BadFile."""
    digits = hashlib.new(name, usedforsecurity=False).digest_size * 2
    lines = content.splitlines()
    named = [line for line in lines if file_name.encode("utf-8", "surrogateescape") in line]
    for line in named or lines:
        for found in _HASH.finditer(line):
            if len(found[1]) == digits:
                return found[1].decode().lower()
    raise BadFile(FILE_BAD, f"the file with its {name} holds none")
