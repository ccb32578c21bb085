"""Compares restored files with a manifest: are these the bytes that were there?"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchbill.backups.record import ERRORS_MAX, Kind, Level, Outcome, Proof, Record, Source, new_id
from watchbill.errors import Unreadable
from watchbill_agent.backups.manifest import Kept, Manifest, Sampled, listed, load
from watchbill_agent.backups.tree import Reader, Walk
from watchbill_agent.backups.words import shown

WALK_S: Final = 300.0
READ_S: Final = 600.0
SNAPSHOT_MS: Final = 1_000
"""Tools cut the time of a backup to the second."""
ERROR_CHARACTERS: Final = 300
EMPTY: Final = "manifest-empty"
DIFFERENT: Final = "restored-differently"
TOO_FEW: Final = "files-missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """`fewer` is how many files are missing by the count, where both trees were counted whole."""

    compared: int
    bad: int
    missing: int
    unchecked: int
    fewer: int
    files: int
    errors: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether something was compared, and everything is as it was."""
        return bool(self.compared) and not (self.bad or self.missing or self.fewer)


def check(manifest: Manifest, at: Path, strip: str = "", *, partial: bool = False) -> Checked:
    """Compare what is under `at`. `strip` is the directory, at the source, that `at` stands for; without it the files
    are looked for under their whole paths, or below their root. `partial`: what is not there was not restored.
    """
    reader = Reader(time.monotonic() + READ_S)
    bad = missing = compared = unchecked = 0
    errors: list[str] = []
    place = _Place(manifest, at, strip)
    for sampled in manifest.sample:
        if reader.spent:
            unchecked += 1
            continue
        path = place.of(sampled)
        try:
            fault = reader.differs(path, sampled)
        except (FileNotFoundError, NotADirectoryError):
            missing += 1
            if not partial:
                errors.append(f"{sampled.path}: it is not there")
            continue
        except OSError as exc:
            fault = (exc.strerror or str(exc)).lower()
        compared += 1
        if fault:
            bad += 1
            errors.append(f"{sampled.path}: {fault}")
    files, fewer = (0, 0) if partial else _counted(manifest, at)
    if fewer:
        errors.insert(0, f"{files} files are there, and {files + fewer} were at least")
    return Checked(
        compared=compared,
        bad=bad,
        missing=0 if partial else missing,
        unchecked=unchecked + (missing if partial else 0),
        fewer=fewer,
        files=files,
        errors=tuple(shown(error, ERROR_CHARACTERS) for error in errors[:ERRORS_MAX]),
    )


def unlike(manifests: Path | None, place: Path, time_ms: int) -> Checked | None:
    """What is different in a restored backup of `time_ms` from the manifest of its run, which began before it and was
    done after it; None where nothing is, or no such manifest is there that can be read."""
    for name in reversed([] if manifests is None else listed(manifests)):
        assert manifests is not None
        try:
            manifest = load(manifests / name).manifest
        except (Unreadable, OSError):
            continue
        if manifest.started_ms - SNAPSHOT_MS <= time_ms <= manifest.made_ms:
            checked = check(manifest, place)
            return None if checked.ok or not (checked.bad or checked.missing) else checked
        if manifest.made_ms < time_ms:
            break
    return None


def _counted(manifest: Manifest, at: Path) -> tuple[int, int]:
    """How many files there are, and how many fewer than did not move while the backup ran."""
    walk = Walk([str(at)], (), manifest.seed, 0, time.monotonic() + WALK_S)
    walk.run()
    if not (walk.counts.whole and manifest.counts.whole):
        return walk.counts.files, 0
    steady = manifest.counts.files - manifest.counts.moving
    return walk.counts.files, max(0, steady - walk.counts.files)


class _Place:
    """Where a file of the source is after a restore."""

    def __init__(self, manifest: Manifest, at: Path, strip: str) -> None:
        self._at = str(at)
        self._strip = strip.rstrip("/") or self._guess(manifest.roots)

    def _guess(self, roots: Sequence[str]) -> str:
        """Tools restore under the whole path, without its first slash; else `at` is taken for the only root."""
        if len(roots) != 1 or os.path.lexists(f"{self._at}/{roots[0].strip('/')}"):
            return ""
        return roots[0].rstrip("/")

    def of(self, sampled: Sampled) -> str:
        """Its path now."""
        path = sampled.path
        if self._strip and path.startswith(f"{self._strip}/"):
            path = path[len(self._strip) :]
        return f"{self._at}/{path.lstrip('/')}"


def record_of(kept: Kept, checked: Checked, now_ms: int) -> Record:
    """What the collector is told."""
    reason = "" if checked.ok else DIFFERENT if checked.bad else TOO_FEW if checked.compared else EMPTY
    bad = checked.bad + checked.missing
    total = len(kept.manifest.sample)
    return Record(
        record_id=new_id(),
        job=kept.manifest.job,
        kind=Kind.RESTORE,
        source=Source.REPORT,
        outcome=Outcome.OK if checked.ok else Outcome.FAILED if checked.compared or bad else Outcome.UNKNOWN,
        observed_ms=now_ms,
        finished_ms=now_ms,
        point_ms=kept.manifest.started_ms,
        files=checked.files or None,
        reason=reason,
        errors=checked.errors,
        manifest_digest=kept.digest,
        verify=Proof(
            level=Level.RESTORE,
            ok=checked.ok,
            fraction=round((total - checked.unchecked) / total, 6),
            bad=max(bad, 0 if checked.ok else 1),
        )
        if total and (checked.compared or bad)
        else None,
    )
