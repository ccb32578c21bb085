"""The key that a person approves with: made once, his alone, told to nobody."""

import os
from pathlib import Path

import pytest

from watchbill.actions.signing import Domain, open_signed, sign
from watchbill_collector.cli.approval_key import FILE_BYTES_MAX, create, load
from watchbill_collector.cli.errors import Misused


def test_a_key_that_was_made_is_found_again_and_signs(tmp_path: Path) -> None:
    path = tmp_path / "own" / "approval.key"
    made = create("anna müller", path)
    found = load(path)
    assert found == made
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    document = {"v": 1}
    assert open_signed(Domain.VOTE, found.public, sign(Domain.VOTE, found.seed, document)) == document


def test_where_there_is_none_none_is_found(tmp_path: Path) -> None:
    assert load(tmp_path / "approval.key") is None


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "approval.key"
    made = create("anna", path)
    with pytest.raises(Misused, match="there already"):
        create("anna", path)
    assert load(path) == made


@pytest.mark.parametrize("name", ["", " anna", "a\nb", "a\x1b[31m", "x" * 65])
def test_a_name_that_no_roster_could_have_makes_no_key(tmp_path: Path, name: str) -> None:
    with pytest.raises(Misused, match="wanted 1 to 64"):
        create(name, tmp_path / "approval.key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_may_read_or_write_is_not_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "approval.key"
    create("anna", path)
    path.chmod(mode)
    with pytest.raises(Misused, match=f"mode {mode:04o}, wanted 0600"):
        load(path)


def test_a_key_beside_which_others_may_write_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "own" / "approval.key"
    create("anna", path)
    path.parent.chmod(0o777)
    with pytest.raises(Misused, match="others may write"):
        load(path)


def test_a_key_behind_a_link_or_in_a_pipe_is_not_used(tmp_path: Path) -> None:
    create("anna", tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe"):
        with pytest.raises(Misused):
            load(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ed25519-seed " + b"0" * 63 + b" anna\n",
        b"ed25519-seed " + b"0" * 64 + b"\n",
        b"\xff\xfe",
        b"0" * 64,
        b"ed25519-seed " + b"ab" * 32 + b" anna\n" * 2,
        b"ed25519-seed " + b"ab" * 32 + b" " + b"x" * FILE_BYTES_MAX,
    ],
)
def test_a_file_that_holds_no_key_is_refused_without_telling_what_is_in_it(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "approval.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(Misused, match="wanted one line") as told:
        load(path)
    assert "00000000" not in str(told.value)
    assert "abab" not in str(told.value)


def test_a_key_does_not_show_its_secret(tmp_path: Path) -> None:
    made = create("anna", tmp_path / "approval.key")
    assert made.seed.hex() not in repr(made)
    assert repr(made.seed) not in repr(made)
