"""Files that survive, and files that are refused."""

import os
import stat
import subprocess
import sys

import pytest

from watchbill.errors import Refused, StorageError
from watchbill.files import FileMissing, Lock, UnreadableFile, make_directory, read_bounded, write_atomic


def test_what_is_written_is_private_and_complete(tmp_path):
    path = tmp_path / "key"
    write_atomic(path, b"secret")
    assert path.read_bytes() == b"secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_atomic(path, b"x" * 100_000, mode=0o644)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path):
    path = tmp_path / "state"
    write_atomic(path, b"old")
    (tmp_path / f".state.{os.getpid()}.tmp").mkdir()
    with pytest.raises(StorageError, match="state: could not be written"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_write_where_no_directory_is_says_so(tmp_path):
    with pytest.raises(StorageError, match="no such file or directory"):
        write_atomic(tmp_path / "no" / "file", b"")


def test_a_full_disk_leaves_the_old_content(tmp_path):
    path = tmp_path / "state"
    write_atomic(path, b"old")
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from pathlib import Path; from watchbill.errors import StorageError\n"
        "from watchbill.files import write_atomic\n"
        "try: write_atomic(Path(sys.argv[1]), b'x' * 5000)\n"
        "except StorageError as exc: print(exc)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert "could not be written: file too large" in done.stdout
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_reading_is_bounded_and_takes_regular_files_only(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(UnreadableFile, match="got more than 4 bytes, wanted at most 4 bytes"):
        read_bounded(path, 4)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UnreadableFile, match="got a FIFO, wanted a regular file"):
        read_bounded(tmp_path / "fifo", 5)
    with pytest.raises(FileMissing):
        read_bounded(tmp_path / "none", 5)


def test_directories_are_made_private_and_existing_ones_left(tmp_path):
    make_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    (tmp_path / "a").chmod(0o755)
    make_directory(tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file: directory could not be made: not a directory"):
        make_directory(tmp_path / "file")
    with pytest.raises(StorageError, match="not a directory"):
        make_directory(tmp_path / "file" / "below")


def test_the_second_holder_is_refused_and_told_who_has_it(tmp_path):
    path = tmp_path / "lock"
    with Lock(path), pytest.raises(Refused, match=f"held by process {os.getpid()}"):
        Lock(path)
    Lock(path).release()


def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "lock"
    script = (
        "import sys; from pathlib import Path; from watchbill.files import Lock\n"
        "lock = Lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Refused, match=f"held by process {holder.pid}"):
            Lock(path)
        holder.kill()
        holder.wait()
    Lock(path).release()
