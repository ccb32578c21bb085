"""Every complete line of a file is read once, whatever happens to the file between two looks, and whenever the reader
is killed."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from watchbill_agent.tail import CHUNK_BYTES, FILES_MAX, LINE_BYTES_MAX, Tail


class Reader:
    """A tail that may be killed: what counts is what was remembered at the end of a look."""

    def __init__(self, *patterns: str, from_start: bool = True) -> None:
        self.patterns = patterns
        self.from_start = from_start
        self.remembered = ""
        self.lines: list[bytes] = []
        self.tail = Tail(patterns, from_start=from_start)

    def look(self, *, killed_after: int | None = None) -> list[bytes]:
        """A look of a new process each time. Killed, it remembers nothing of it."""
        self.tail = tail = Tail(self.patterns, from_start=self.from_start)
        if self.remembered:
            tail.recall(json.loads(self.remembered))
        found: list[bytes] = []
        tail.find()
        while (chunk := tail.read()) is not None:
            if killed_after is not None and len(found) >= killed_after:
                return []
            found += chunk.data.splitlines()
            tail.advance(chunk)
        tail.settle()
        if killed_after is None:
            self.remembered = json.dumps(tail.memory())
            self.lines += found
        return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def append(path: Path, *lines: str | bytes) -> None:
    with path.open("ab") as file:
        for line in lines:
            file.write(line.encode() if isinstance(line, str) else line)


def test_lines_come_once_and_a_torn_one_waits_for_its_end(path):
    reader = Reader(str(path))
    append(path, "one\n", "two\n", "thr")
    assert reader.look() == [b"one", b"two"]
    assert reader.tail.backlog_bytes == 3
    assert reader.look() == []
    append(path, "ee\n")
    assert reader.look() == [b"three"]
    assert reader.tail.backlog_bytes == 0


def test_what_was_there_before_anybody_followed_it_is_not_read(path):
    append(path, "old\n", "to")
    reader = Reader(str(path), from_start=False)
    assert reader.look() == []
    append(path, "rn\n", "new\n")
    assert reader.look() == [b"torn", b"new"]


def test_a_file_that_comes_later_is_read_from_its_start(path, tmp_path):
    reader = Reader(str(tmp_path / "*.log"), from_start=False)
    assert reader.look() == []
    append(path, "first\n")
    assert reader.look() == [b"first"]


def test_a_renamed_file_is_read_to_its_end_before_the_one_that_took_its_name(path):
    reader = Reader(str(path))
    append(path, "1\n")
    reader.look()
    append(path, "2\n")
    path.rename(path.with_name("access.log.1"))
    append(path, "4\n")
    append(path.with_name("access.log.1"), "3\n")
    assert reader.look() == [b"2", b"3", b"4"]
    # Its writer keeps it open until it is told to open anew.
    append(path.with_name("access.log.1"), "5\n")
    assert reader.look() == [b"5"]
    assert reader.tail.counts.rotations == 1


def test_a_rotated_file_that_the_pattern_matches_is_not_read_again(path, tmp_path):
    reader = Reader(f"{path}*")
    append(path, "1\n")
    reader.look()
    for number in (3, 2, 1):
        older = path.with_name(f"access.log.{number}")
        if older.exists():
            older.rename(path.with_name(f"access.log.{number + 1}"))
    path.rename(path.with_name("access.log.1"))
    append(path, "2\n")
    shutil.copy(path.with_name("access.log.1"), path.with_name("access.log.2.gz"))
    assert reader.look() == [b"2"]
    assert reader.look() == []


def test_a_renamed_file_is_left_an_hour_after_its_last_write(path):
    reader = Reader(str(path))
    append(path, "1\n")
    reader.look()
    rotated = path.with_name("access.log.1")
    path.rename(rotated)
    append(path, "2\n")
    reader.look()
    assert reader.tail.files == 2
    os.utime(rotated, (1, 1))
    reader.look()
    assert reader.tail.files == 1


def test_copytruncate_loses_nothing_that_the_copy_has(path):
    reader = Reader(f"{path}*")
    append(path, "1\n" * 600)
    reader.look()
    append(path, "unread\n")
    shutil.copy(path, path.with_name("access.log.1"))
    # A look between the copy and the truncation: the copy is nobody's.
    append(path, "between\n")
    assert reader.look() == [b"unread", b"between"]
    append(path, "later\n")
    shutil.copy(path, path.with_name("access.log.1"))
    os.truncate(path, 0)
    append(path, "new\n")
    assert reader.look() == [b"later", b"new"]
    assert (reader.tail.counts.truncations, reader.tail.counts.lost_bytes) == (1, 0)
    assert reader.look() == []


def test_a_file_that_was_truncated_and_has_outgrown_the_place_is_read_from_its_start(path):
    reader = Reader(str(path))
    append(path, "old line\n" * 10)
    reader.look()
    path.write_bytes(b"new line\n" * 50)
    assert reader.look() == [b"new line"] * 50


def test_what_went_unread_is_counted(path):
    reader = Reader(str(path))
    append(path, "1\n")
    reader.look()
    append(path, "torn")
    reader.look()
    path.unlink()
    reader.look()
    assert reader.tail.counts.lost_bytes == 4
    append(path, "2\n")
    assert reader.look() == [b"2"]


def test_devices_that_are_numbered_anew_change_nothing(path):
    reader = Reader(str(path))
    append(path, "1\n")
    reader.look()
    memory = json.loads(reader.remembered)
    memory["places"][0][1] += 7
    reader.remembered = json.dumps(memory)
    append(path, "2\n")
    assert reader.look() == [b"2"]
    assert reader.tail.counts.lost_bytes == 0


def test_nuls_that_truncating_left_are_no_line(path):
    """A writer without O_APPEND goes on at its old offset: a hole of any size, and then its next line."""
    reader = Reader(str(path))
    append(path, "1\n")
    reader.look()
    with path.open("r+b") as file:
        file.truncate(0)
        file.seek(1 << 30)
        file.write(b"2\n")
    assert reader.look() == [b"2"]
    append(path, b"\0\0\0")
    assert reader.look() == []
    append(path, b"3\0three\n")
    assert reader.look() == [b"3three"]


def test_a_place_that_was_kept_free_is_not_passed_before_it_is_written(path):
    reader = Reader(str(path))
    path.write_bytes(b"1\n" + bytes(4096))
    assert reader.look() == [b"1"]
    with path.open("r+b") as file:
        file.seek(2)
        file.write(b"2\n")
    assert reader.look() == [b"2"]


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("length", [LINE_BYTES_MAX + 1, CHUNK_BYTES, CHUNK_BYTES + 1, 1_000_000])
def test_a_line_that_is_too_long_is_skipped_and_counted_once(path, where, length):
    reader = Reader(str(path))
    good = [b"a\n", b"b\n"]
    at = {"first": 0, "middle": 1, "last": 2}[where]
    append(path, *good[:at], b"x" * length + b"\n", *good[at:])
    assert reader.look() == [b"a", b"b"]
    append(path, "c\n")
    assert reader.look() == [b"c"]
    assert reader.tail.counts.oversized == 1


def test_a_line_that_is_too_long_and_not_complete_is_skipped_to_its_end_whenever_that_comes(path):
    reader = Reader(str(path))
    append(path, b"x" * (LINE_BYTES_MAX + 1))
    assert reader.look() == []
    append(path, b"x" * 10)
    assert reader.look() == []
    append(path, b"x\n", b"good\n")
    assert reader.look() == [b"good"]
    assert reader.tail.counts.oversized == 1


def test_a_line_as_long_as_it_may_be_is_read(path):
    reader = Reader(str(path))
    append(path, b"a\n", b"x" * LINE_BYTES_MAX + b"\n", b"b\n")
    assert [len(line) for line in reader.look()] == [1, LINE_BYTES_MAX, 1]


def test_carriage_returns_and_foreign_bytes_are_taken_as_they_are(path):
    reader = Reader(str(path))
    append(path, b"a\r\n", b"\xff\xfe\xc3(\n")
    assert reader.look() == [b"a", b"\xff\xfe\xc3("]


def test_a_fifo_and_a_directory_under_the_pattern_hold_up_nothing(path, tmp_path):
    os.mkfifo(tmp_path / "pipe.log")
    (tmp_path / "directory.log").mkdir()
    reader = Reader(str(tmp_path / "*.log"))
    append(path, "1\n")
    assert reader.look() == [b"1"]


def test_more_files_than_are_followed_are_counted(tmp_path):
    for number in range(FILES_MAX + 3):
        append(tmp_path / f"{number:04}.log", "1\n")
    reader = Reader(str(tmp_path / "*.log"))
    assert len(reader.look()) == FILES_MAX
    assert reader.tail.left_out == 3
    assert len(reader.remembered) < 256 * 1024


def test_one_file_by_two_names_is_read_once(path, tmp_path):
    append(path, "1\n")
    os.link(path, tmp_path / "other.log")
    (tmp_path / "third.log").symlink_to(path)
    assert Reader(str(tmp_path / "*.log")).look() == [b"1"]


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_or_read_twice_through_any_weather(path, tmp_path, seed):
    """Writes, torn writes, renames, copies with truncation and looks that are killed, in any order."""
    chance = random.Random(seed)
    reader = Reader(f"{path}*" if seed % 2 else str(path))
    written, number, generation = [], 0, 0

    def write() -> None:
        nonlocal number
        more = [b"line %d" % one for one in range(number + 1, number + chance.randrange(200))]
        append(path, *(line + b"\n" for line in more))
        written.extend(more)
        number += len(more)

    for _ in range(60):
        write()
        step = chance.randrange(6)
        if step == 0:
            append(path, f"line {number + 1}"[:-1])
            reader.look()
            append(path, f"line {number + 1}"[-1:] + "\n")
            number += 1
            written.append(b"line %d" % number)
        elif step == 1:
            generation += 1
            path.rename(path.with_name(f"access.log.{generation}"))
            append(path, "")
        elif step == 2 and path.stat().st_size:
            reader.look()  # What the copy gets after the last look is read from it.
            write()
            generation += 1
            shutil.copy(path, path.with_name(f"access.log.{generation}"))
            os.truncate(path, 0)
        elif step == 3:
            reader.look(killed_after=chance.randrange(3))
        else:
            reader.look()
    reader.look()
    assert sorted(reader.lines) == sorted(written)
    assert reader.tail.counts.lost_bytes == 0
