"""Dumps of a real PostgreSQL, and a file of the real zstd: what is found by a look, and what by reading them."""

import os
import subprocess
from pathlib import Path

import pytest

from watchbill.backups.record import Level, Outcome
from watchbill_agent.backups.adapter import Check, Observation, Verification
from watchbill_agent.backups.adapters.files import Files, Options

from .cluster import POSTGRESQL_BIN, Cluster, commands, job

LONG_AGO_S = 1_700_000_000
NOW_MS = 1_800_000_000_000


def files(place: Path) -> Files:
    return Files(Options(paths=[f"{place}/*"]), job("files"), commands(place.parent))


def look(place: Path) -> Observation:
    for path in place.iterdir():
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return files(place).observe(NOW_MS)


def verify(place: Path, level: Level = Level.DATA) -> Verification:
    for path in place.iterdir():
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return files(place).verify(Check(level=level), NOW_MS)


@pytest.fixture(scope="module")
def dumps(cluster: Cluster) -> dict[str, bytes]:
    """One of each kind."""
    cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) AS m FROM generate_series(1, 20000) i")
    where = ("-h", str(cluster.place), "-p", "5432", "-U", "postgres")
    made = {}
    for name, program, options in (
        ("db.dump", "pg_dump", ("-Fc", "postgres")),
        ("db.sql", "pg_dump", ("postgres",)),
        ("all.sql", "pg_dumpall", ()),
    ):
        path = cluster.place / name
        cluster.run(POSTGRESQL_BIN / program, *where, "-f", path, *options)
        made[name] = path.read_bytes()
    return made


@pytest.mark.real("pg_restore")
@pytest.mark.parametrize("name", ["db.dump", "db.sql", "all.sql"])
def test_a_whole_dump_is_good_at_a_look_and_when_it_is_read(
    tmp_path: Path, dumps: dict[str, bytes], name: str
) -> None:
    place = tmp_path / "dumps"
    place.mkdir()
    (place / name).write_bytes(dumps[name])
    assert (look(place).outcome, look(place).reason) == (Outcome.OK, "")
    for level in (Level.STRUCTURE, Level.DATA):
        found = verify(place, level)
        assert (found.outcome, found.errors) == (Outcome.OK, ())


@pytest.mark.real("pg_restore")
@pytest.mark.parametrize("name", ["db.sql", "all.sql"])
def test_a_dump_in_text_that_was_cut_off_is_bad_at_a_look(
    tmp_path: Path, dumps: dict[str, bytes], name: str
) -> None:
    place = tmp_path / "dumps"
    place.mkdir()
    (place / name).write_bytes(dumps[name][:-2000])
    seen = look(place)
    assert (seen.outcome, seen.reason) == (Outcome.FAILED, "file-bad")
    assert "the last line of a whole dump is missing" in seen.errors[0]


@pytest.mark.real("pg_restore")
@pytest.mark.parametrize("damage", ["cut off", "flipped"])
def test_a_damaged_archive_of_pg_dump_is_found_by_reading_it_only(
    tmp_path: Path, dumps: dict[str, bytes], damage: str
) -> None:
    content = bytearray(dumps["db.dump"])
    if damage == "cut off":
        del content[-5000:]
    else:
        content[-5000] ^= 0xFF
    place = tmp_path / "dumps"
    place.mkdir()
    (place / "db.dump").write_bytes(content)
    assert look(place).outcome is Outcome.OK
    assert verify(place, Level.STRUCTURE).outcome is Outcome.OK, "its table of contents is at its beginning"
    found = verify(place)
    assert (found.outcome, found.reason) == (Outcome.FAILED, "file-bad")
    assert found.proof is not None
    assert not found.proof.ok
    assert "pg_restore: error" in found.errors[0]


@pytest.mark.real("zstd")
def test_a_damaged_file_of_zstd_is_found_by_reading_it(tmp_path: Path) -> None:
    place = tmp_path / "dumps"
    place.mkdir()
    (tmp_path / "data").write_bytes(os.urandom(200_000))
    subprocess.run(["zstd", "-q", "-o", str(place / "a.zst"), str(tmp_path / "data")], check=True)
    assert verify(place).outcome is Outcome.OK
    content = bytearray((place / "a.zst").read_bytes())
    content[100_000] ^= 1
    (place / "a.zst").write_bytes(content)
    assert look(place).outcome is Outcome.OK
    assert verify(place).outcome is Outcome.FAILED
