#!/usr/bin/python3 -I
"""disk.py CONFIG look|plan|reclaim MOUNT: what fills a filesystem, and what may go without asking anybody.

`look` tells free space and the largest files and directories, and what of them is young. `reclaim` removes old files of
the declared places that lie on that filesystem, the oldest first, until enough is free; `plan` tells what it would
remove. Links are never followed, other filesystems never entered. Nothing of a database is touched, whatever is
declared: no file at or below a directory that a database server keeps its data or its log (WAL) in.

Writes nothing, so that it works on a full disk. Prints one JSON document; 1 when too little is free afterwards.
"""

import fnmatch
import heapq
import json
import os
import stat
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

SHOWN = 10
YOUNG_S = 24 * 3600
FILES_MAX = 2_000_000
"""Files that are looked at; a filesystem of more is told to be one, and what was seen is told."""
LOGS = {"pg_wal", "pg_xlog", "pg_log_archive", "wal_archive", "binlog"}
DATABASES = {"PG_VERSION", "ibdata1", "mysql.ibd", "WiredTiger", "CURRENT"}
"""A directory with one of these in it belongs to a database, with all that is below it."""
OLDEST_S = 3600
"""Younger than this nothing goes, whatever is declared: it may still be being written."""


def fail(message: str, code: int = 1) -> NoReturn:
    """End here."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


def files(top: Path, device: int, *, databases: bool) -> Iterator[tuple[Path, os.stat_result]]:
    """Regular files below a directory, on one filesystem; with those of databases only to look at."""
    todo = [top]
    while todo:
        try:
            with os.scandir(todo.pop()) as found:
                entries = list(found)
        except OSError:
            continue  # Gone meanwhile, or not ours to read.
        if not databases and any(entry.name in DATABASES for entry in entries):
            continue
        for entry in entries:
            try:
                seen = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if seen.st_dev != device or (entry.name in LOGS and not databases):
                continue
            if stat.S_ISDIR(seen.st_mode):
                todo.append(Path(entry.path))
            elif stat.S_ISREG(seen.st_mode):
                yield Path(entry.path), seen


def of_a_database(path: Path) -> bool:
    """Whether a path lies at or below what a database keeps its data or its log in."""
    chain = [path, *path.parents]
    return any(one.name in LOGS or any((one / name).exists() for name in DATABASES) for one in chain)


def free(mount: Path) -> tuple[int, float]:
    """Bytes that are free, and their share in percent."""
    found = os.statvfs(mount)
    return found.f_bavail * found.f_frsize, 100 * found.f_bavail / max(1, found.f_blocks)


def look(mount: Path, now: float) -> dict[str, Any]:
    """The largest, and how much of it came within a day. Blocks are counted: a sparse file is what it takes."""
    sums: dict[Path, list[int]] = {}
    largest: list[tuple[int, str, bool]] = []
    count = 0
    for path, seen in files(mount, mount.stat().st_dev, databases=True):
        count += 1
        if count > FILES_MAX:
            break
        size, young = seen.st_blocks * 512, now - seen.st_mtime < YOUNG_S
        total = sums.setdefault(path.parent, [0, 0])
        total[0] += size
        total[1] += size if young else 0
        heapq.heappush(largest, (size, str(path), young))
        if len(largest) > SHOWN:
            heapq.heappop(largest)
    grown = heapq.nlargest(SHOWN, sums.items(), key=lambda one: (one[1][1], one[1][0]))
    bytes_free, percent = free(mount)
    return {
        "free": bytes_free,
        "free_percent": percent,
        "files": [
            {"path": path, "bytes": size, "young": young} for size, path, young in sorted(largest)[::-1]
        ],
        "growers": [{"path": str(path), "bytes": one[0], "young_bytes": one[1]} for path, one in grown],
        "whole": count <= FILES_MAX,
    }


def candidates(config: dict[str, Any], mount: Path, now: float) -> list[tuple[float, int, Path]]:
    """Old files of the declared places, the oldest first."""
    device = mount.stat().st_dev
    found = []
    for place in config["reclaim"]:
        top = Path(place["path"])
        if not top.is_absolute() or ".." in top.parts or top.resolve() != top:
            fail(f"{top}: wanted an absolute path without links and ..", 2)
        if not top.is_dir() or top.stat().st_dev != device or of_a_database(top):
            continue
        least_s = max(OLDEST_S, float(place["older_s"]))
        for path, seen in files(top, device, databases=False):
            if fnmatch.fnmatchcase(path.name, place.get("match", "*")) and now - seen.st_mtime > least_s:
                found.append((seen.st_mtime, seen.st_blocks * 512, path))
    return sorted(found)


def reclaim(config: dict[str, Any], mount: Path, now: float, *, really: bool) -> dict[str, Any]:
    """Until `want_percent` is free. What cannot be removed is counted and passed over."""
    before, _ = free(mount)
    whole = os.statvfs(mount)
    want = round(whole.f_blocks * whole.f_frsize * float(config["want_percent"]) / 100)
    removed, failed, gained = [], 0, 0
    for _, size, path in candidates(config, mount, now):
        if (free(mount)[0] if really else before + gained) >= want:
            break
        try:
            if really:
                path.unlink()
        except OSError:
            failed += 1
            continue
        removed.append(str(path))
        gained += size
    after = free(mount)[0] if really else before + gained
    kept = removed[: SHOWN * 10]
    return {
        "removed": kept,
        "count": len(removed),
        "failed": failed,
        "gained": after - before,
        "enough": after >= want,
    }


def main(arguments: list[str]) -> int:
    """See the module."""
    if len(arguments) != 3 or arguments[1] not in ("look", "plan", "reclaim"):
        fail(__doc__ or "", 2)
    word, mount, now = arguments[1], Path(arguments[2]), time.time()
    try:
        with open(arguments[0], "rb") as file:
            config = tomllib.load(file)
        if not os.path.ismount(mount):
            fail(f"{mount}: wanted the place of a filesystem", 2)
        answer = look(mount, now) if word == "look" else reclaim(config, mount, now, really=word == "reclaim")
    except (OSError, ValueError, KeyError) as exc:
        fail(f"{arguments[0]}: {exc}", 2)
    print(json.dumps(answer))
    return 1 if word == "reclaim" and not answer["enough"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
