"""A file is replaced as a whole: at every crash it holds one content or the other, and a full disk does not stop it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from watchbill.errors import StorageError
from watchbill_collector.rules import paired_file
from watchbill_collector.rules.paired_file import ROOM_BYTES, PairedFile

IN_CI = os.environ.get("CI") == "true"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(place)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    if done.returncode:
        reason = f"no disk can be mounted here: {done.stderr.strip()}"
        pytest.fail(reason) if IN_CI else pytest.skip(reason)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True, timeout=20)


def fill(place: Path) -> None:
    with (place / "ballast").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4_096))
        except OSError:
            return


def held(path: Path) -> bytes:
    return path.read_bytes().rstrip(b" ")


def test_on_a_full_disk_it_is_replaced_as_often_as_one_likes(small_disk: Path) -> None:
    path = small_disk / "f"
    PairedFile(path).replace(b"first")
    fill(small_disk)
    for number in range(5):
        content = f"{number}".encode() * (ROOM_BYTES - number)
        PairedFile(path).replace(content)
        assert held(path) == content
    with pytest.raises(StorageError, match="No space left"):
        PairedFile(path).replace(bytes(ROOM_BYTES + 1))
    assert held(path) == content
    PairedFile(path).replace(b"small again")
    assert held(path) == b"small again"


def test_what_grows_has_its_room_for_the_next_time_too(small_disk: Path) -> None:
    path = small_disk / "f"
    file = PairedFile(path)
    file.replace(b"small")
    file.replace(b"x" * 3 * ROOM_BYTES)
    fill(small_disk)
    file.replace(b"y" * 3 * ROOM_BYTES)
    file.replace(b"z" * 3 * ROOM_BYTES)
    assert held(path) == b"z" * 3 * ROOM_BYTES


def _steps(monkeypatch: pytest.MonkeyPatch, fails_at: int) -> Callable[[], int]:
    """Everything that changes the disk, counted; the n-th does not happen, nor anything after it."""
    count = 0

    def watched(real: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **named: object) -> object:
            nonlocal count
            count += 1
            if count >= fails_at:
                raise OSError(5, "the power is gone")
            return real(*arguments, **named)

        return step

    for name in ("link", "fsync"):
        monkeypatch.setattr(paired_file.os, name, watched(getattr(os, name)))
    monkeypatch.setattr(Path, "replace", watched(Path.replace))
    monkeypatch.setattr(Path, "unlink", watched(Path.unlink))
    monkeypatch.setattr(paired_file, "_write", watched(paired_file._write))
    return lambda: count


def test_a_crash_at_any_step_leaves_one_content_or_the_other(tmp_path: Path) -> None:
    number, finished = 0, False
    while not finished:
        number += 1
        path = tmp_path / str(number) / "f"
        path.parent.mkdir()
        for content in (b"older", b"old"):
            PairedFile(path).replace(content)
        with pytest.MonkeyPatch.context() as patch:
            steps = _steps(patch, number)
            try:
                PairedFile(path).replace(b"new")
            except StorageError:
                assert held(path) in (b"old", b"new")
            else:
                assert held(path) == b"new"
            finished = steps() < number
        PairedFile(path).replace(b"newest")
        assert held(path) == b"newest"
        assert sorted(one.name for one in path.parent.iterdir()) == ["f", "f.spare"]
    assert number > 6, "a replacement has that many steps"


def test_a_link_in_the_spares_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "f.spare").symlink_to(tmp_path / "precious")
    with pytest.raises(StorageError):
        PairedFile(tmp_path / "f").replace(b"new")
    assert (tmp_path / "precious").read_bytes() == b"precious"
