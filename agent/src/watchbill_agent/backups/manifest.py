"""What a backup's source looked like: counts, and SHA-256 of a sample of its files. It proves a restore by the bytes.

A tool's own verification reads what the tool wrote. This is written beside it, from the source: whoever restores, in a
drill or in earnest, compares the restored files with it (`manifest_check`), and a tool that was wrong about itself from
the beginning is found out. Manifests are made in a process of their own (`manifest_make`), kept on the host under
manifests/JOB/, and their digest goes into the run's record, so that nobody changes one afterwards.

Only files that did not change since the run began are in the sample: of others nobody knows what the backup read.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from watchbill.errors import StorageError, Unreadable
from watchbill.files import read_bounded
from watchbill_agent.backups.drop import BACKUPS, placed

MANIFESTS: Final = "manifests"
VERSION: Final = 1
KEPT_PER_JOB: Final = 30
"""Manifests; the oldest go first."""
SAMPLE_MAX: Final = 200
"""Files in the sample, drawn from all with the same chance."""
LARGEST_MAX: Final = 10
"""The largest files, which are in it besides: most bytes are in few files."""
WHOLE_BYTES_MAX: Final = 4 * 1024 * 1024
"""A larger file is hashed in PIECES pieces of PIECE_BYTES."""
PIECES: Final = 4
PIECE_BYTES: Final = 1024 * 1024
READ_BYTES_MAX: Final = 256 * 1024 * 1024
"""Read for one manifest, or one check of it."""
BYTES_MAX: Final = 4 * 1024 * 1024
"""Of a manifest; 210 names of 4 KiB each are less."""
NAMES_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a file, and their SHA-256."""

    offset: int
    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Sampled:
    """One file. Its path is absolute, as it was at the source; bytes that are no UTF-8 are surrogates in it."""

    path: str
    size: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a tree holds. `moving` are the files, of `files`, that changed since the run began; `whole` is False when
    time was up before everything was seen."""

    files: int = 0
    bytes: int = 0
    directories: int = 0
    links: int = 0
    others: int = 0
    moving: int = 0
    unreadable: int = 0
    mounts: int = 0
    whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`started_ms` is when the run began whose backup it describes."""

    job: str
    started_ms: int
    made_ms: int
    seed: str
    roots: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    counts: Counts = Counts()
    sample: tuple[Sampled, ...] = ()

    def encode(self) -> bytes:
        """Canonical: its digest is of these bytes."""
        document = {"version": VERSION, **asdict(self)}
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def digest_of(content: bytes) -> str:
    """As a record names it."""
    return hashlib.sha256(content).hexdigest()


def decode(content: bytes) -> Manifest:
    """Read one back. Raises Unreadable."""
    try:
        document = json.loads(content)
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise Unreadable("a manifest of another version")
        return Manifest(
            job=_text(document["job"]),
            started_ms=_number(document["started_ms"]),
            made_ms=_number(document["made_ms"]),
            seed=_text(document["seed"]),
            roots=tuple(map(_text, document["roots"])),
            excluded=tuple(map(_text, document["excluded"])),
            counts=_counts(document["counts"]),
            sample=tuple(map(_sampled, document["sample"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
        raise Unreadable(f"no manifest: {type(exc).__name__}: {exc}") from exc


def _counts(said: Any) -> Counts:
    numbers: dict[str, Any] = {key: _number(value) for key, value in said.items()}
    return Counts(**{**numbers, "whole": said["whole"] is True})


def _sampled(one: Any) -> Sampled:
    pieces = tuple(
        Piece(_number(piece["offset"]), _number(piece["length"]), _text(piece["sha256"]))
        for piece in one["pieces"]
    )
    return Sampled(_text(one["path"]), _number(one["size"]), pieces)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"got {type(value).__name__}, wanted a text")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"got {str(value)[:40]}, wanted a number that is not negative")
    return value


# ---------------------------------------------------------------- where they are kept


@dataclass(frozen=True, slots=True)
class Kept:
    """A manifest that is on this host."""

    path: Path
    digest: str
    manifest: Manifest = field(repr=False)


class Shelf:
    """The manifests of an agent's host; `var` is the agent's."""

    def __init__(self, var: Path) -> None:
        self._var = var

    def put(self, manifest: Manifest, content: bytes) -> Path:
        """Keep it, synced; the oldest beyond KEPT_PER_JOB go. Raises StorageError."""
        names = (BACKUPS, MANIFESTS, manifest.job)
        name = f"{manifest.started_ms:015d}-{digest_of(content)[:16]}.json"
        placed(self._var, names, name, content)
        directory = self._var.joinpath(*names)
        for old in listed(directory)[:-KEPT_PER_JOB]:
            with contextlib.suppress(OSError):
                (directory / old).unlink()
        return directory / name

    def newest(self, job: str) -> Kept:
        """Raises StorageError when there is none, Unreadable."""
        directory = self._var / BACKUPS / MANIFESTS / job
        names = listed(directory)
        if not names:
            raise StorageError(
                f"{directory}: no manifest of {job}; watchbill-agent backup wrap --manifest makes one"
            )
        return load(directory / names[-1])


def listed(directory: Path) -> Sequence[str]:
    """The manifests of a job, oldest first."""
    try:
        names = os.listdir(directory)[:NAMES_MAX]  # noqa: PTH208 - Names are sorted, not paths.
    except OSError:
        return []
    return sorted(name for name in names if name.endswith(".json") and not name.startswith("."))


def load(path: Path) -> Kept:
    """A manifest in a file. Raises Unreadable."""
    content = read_bounded(path, BYTES_MAX)
    try:
        return Kept(path, digest_of(content), decode(content))
    except Unreadable as exc:
        raise Unreadable(f"{path}: {exc}") from exc
