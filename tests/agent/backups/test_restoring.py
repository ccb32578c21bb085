"""A verification restores into a place of its own, counts what came back, and leaves nothing behind."""

from pathlib import Path

import pytest

from watchbill_agent.backups.restoring import NoPlace, Restored, count, restore_place

TOO_MUCH_BYTES = 2**60


def test_a_place_is_empty_of_this_job_and_removed_again_whatever_was_restored_into_it(tmp_path: Path) -> None:
    killed = tmp_path / "watchbill-restore-files+left"
    killed.mkdir()
    other = tmp_path / "watchbill-restore-files-db+running"
    other.mkdir()
    with restore_place(tmp_path, "files", 0) as place:
        assert not list(place.iterdir())
        (place / "closed").mkdir()
        (place / "closed" / "file").write_text("x")
        (place / "closed").chmod(0o000)
    assert list(tmp_path.iterdir()) == [other]


def test_a_place_is_removed_also_when_the_restore_is_ended(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), restore_place(tmp_path, "files", 0):
        raise SystemExit
    assert not list(tmp_path.iterdir())


def test_what_came_back_is_counted_also_where_nobody_may_read(tmp_path: Path) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "deep" / "deeper" / "one").write_bytes(b"12345")
    (tmp_path / "two").hardlink_to(tmp_path / "deep" / "deeper" / "one")
    (tmp_path / "link").symlink_to("two")
    (tmp_path / "deep" / "deeper").chmod(0o000)
    (tmp_path / "deep").chmod(0o000)
    assert count(tmp_path) == Restored(files=2, bytes=10, bytes_once=5)


def test_what_a_link_leads_to_keeps_its_mode(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(0o755)
    with restore_place(tmp_path, "files", 0) as place:
        (place / "link").symlink_to(outside)
        assert count(place).files == 0
    assert outside.stat().st_mode & 0o777 == 0o755


def test_without_a_place_or_room_there_is_a_word_for_it(tmp_path: Path) -> None:
    for restore_dir, bytes_wanted, reason in (
        (None, 0, "no-restore-dir"),
        (tmp_path / "gone", 0, "no-restore-dir"),
        (tmp_path, TOO_MUCH_BYTES, "no-space"),
    ):
        with pytest.raises(NoPlace) as raised, restore_place(restore_dir, "files", bytes_wanted):
            pass
        assert raised.value.reason == reason
    assert not list(tmp_path.iterdir())
