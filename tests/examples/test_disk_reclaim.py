"""The shipped program that makes room, on a filesystem that is really full."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "docs" / "examples" / "actions" / "bin" / "disk.py"
DISK_BYTES = 4 * 1024 * 1024
PIECE = 256 * 1024
OLD_S = 30 * 86_400


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs to mount a small tmpfs, which takes root")
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(place)]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def file(path: Path, age_s: float, size: int = PIECE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def fill(disk: Path) -> None:
    with open(disk / "fresh.log", "wb", buffering=0) as grows:
        while os.statvfs(disk).f_bavail:
            grows.write(b"y" * 4096)


def call(config: Path, word: str, disk: Path) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-I", str(PROGRAM), str(config), word, str(disk)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done
    return done.returncode, json.loads(done.stdout)


def declared(tmp_path: Path, *places: tuple[Path, str], want: int = 10) -> Path:
    config = tmp_path / "disk.toml"
    blocks = [f'[[reclaim]]\npath = "{path}"\nmatch = "{match}"\nolder_s = 86400\n' for path, match in places]
    config.write_text(f"want_percent = {want}\n" + "".join(blocks))
    return config


def test_the_oldest_of_what_is_declared_goes_until_there_is_room_and_no_more(
    disk: Path, tmp_path: Path
) -> None:
    cache = disk / "cache"
    debs = [file(cache / f"{n}.deb", OLD_S - n) for n in range(4)]
    young = file(cache / "young.deb", 60)
    other = file(cache / "notes.txt", OLD_S)
    fill(disk)
    config = declared(tmp_path, (cache, "*.deb"))
    code, planned = call(config, "plan", disk)
    assert (code, planned["removed"]) == (0, [str(debs[0]), str(debs[1])])
    assert all(one.exists() for one in debs), "a plan removes nothing"
    code, done = call(config, "reclaim", disk)
    assert (code, done["enough"], done["removed"]) == (0, True, planned["removed"])
    assert [one.exists() for one in (*debs, young, other)] == [False, False, True, True, True, True]
    assert call(config, "reclaim", disk)[1]["count"] == 0, "once more changes nothing"


def test_nothing_of_a_database_goes_though_it_was_declared_and_too_little_room_is_a_failure(
    disk: Path, tmp_path: Path
) -> None:
    data = disk / "pg"
    file(data / "PG_VERSION", OLD_S, 3)
    kept = [
        file(data / "pg_wal" / "000000010000000000000001", OLD_S),
        file(data / "base" / "1" / "2600", OLD_S),
        file(disk / "copy" / "pg_wal" / "000000010000000000000002", OLD_S),
        file(disk / "elsewhere", OLD_S),
    ]
    (disk / "copy" / "link").symlink_to(disk / "elsewhere")
    fill(disk)
    config = declared(
        tmp_path, (data, "*"), (data / "pg_wal", "*"), (data / "base", "*"), (disk / "copy", "*")
    )
    code, done = call(config, "reclaim", disk)
    assert (code, done["enough"], done["count"]) == (1, False, 0)
    assert all(one.exists() for one in kept)


def test_what_grew_is_told_with_the_databases(disk: Path, tmp_path: Path) -> None:
    file(disk / "pg" / "PG_VERSION", OLD_S, 3)
    file(disk / "pg" / "pg_wal" / "1", 60)
    file(disk / "old" / "big", OLD_S, 4 * PIECE)
    fill(disk)
    (disk / "fresh.log").unlink()
    code, seen = call(declared(tmp_path, (disk / "old", "*")), "look", disk)
    assert code == 0
    assert seen["growers"][0] == {"path": str(disk / "pg/pg_wal"), "bytes": PIECE, "young_bytes": PIECE}
    assert seen["files"][0] == {"path": str(disk / "old/big"), "bytes": 4 * PIECE, "young": False}
    assert seen["free"] > 0


@pytest.mark.parametrize("path", ["/srv/../etc", "relative", "/proc/self/root"])
def test_a_place_that_is_not_plain_is_refused(tmp_path: Path, path: str) -> None:
    config = declared(tmp_path, (Path(path), "*"))
    done = subprocess.run(
        [sys.executable, "-I", str(PROGRAM), str(config), "reclaim", "/"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "absolute path" in done.stderr) == (2, True), done
