"""The key with which a person approves. It stays with him: `~/.config/watchbill/approval.key`, readable by nobody else.

    ed25519-seed 9d61...64 hexadecimal digits... anna

One line: the kind, the secret half, and the name under which the roster has the public half. The collector never sees
this file; a host counts a vote only when this key has signed it.
"""

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from watchbill_collector.cli.collectors import login_file
from watchbill_collector.cli.errors import Misused

FILE_NAME: Final = "approval.key"
FILE_BYTES_MAX: Final = 1_024
NAME_CHARACTERS_MAX: Final = 64
"""As the roster has it."""
MAKE_ONE: Final = "watchbill roster key"
_LINE: Final = re.compile(r"ed25519-seed ([0-9a-f]{64}) (\S(?:.*\S)?)")


@dataclass(frozen=True, slots=True)
class ApprovalKey:
    """Whose key, and its secret half, which is in no message and no representation."""

    name: str
    seed: bytes = field(repr=False)

    @property
    def public(self) -> bytes:
        """The half that goes onto the roster."""
        from watchbill.actions.signing import public_key

        return public_key(self.seed)


def key_file() -> Path:
    """Where it is kept."""
    return login_file().with_name(FILE_NAME)


def create(name: str, path: Path | None = None) -> ApprovalKey:
    """Make a key and write it, durable. One that is there is never replaced. Raises Misused, OSError."""
    place = key_file() if path is None else path
    if not 0 < len(name) <= NAME_CHARACTERS_MAX or not name.isprintable() or name != name.strip():
        raise Misused(
            f"got the name {name[:80]!a}, wanted 1 to {NAME_CHARACTERS_MAX} printable characters: the one that "
            "the roster will have"
        )
    made = ApprovalKey(name, os.urandom(32))
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_directory(place.parent)
    try:
        descriptor = os.open(
            place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
    except FileExistsError as exc:
        raise Misused(
            f"{place} is there already: a new key is another approver to every roster",
            f"mv {place} {place}.old, if it is to be replaced on the roster",
        ) from exc
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(f"ed25519-seed {made.seed.hex()} {name}\n")
        file.flush()
        os.fsync(descriptor)
    directory = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return made


def load(path: Path | None = None) -> ApprovalKey | None:
    """The key; None when there is none. Raises Misused when it is not the user's alone, or cannot be read."""
    place = key_file() if path is None else path
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Misused(f"{place}: the key cannot be read: {(exc.strerror or str(exc)).lower()}") from exc
    with open(descriptor, "rb") as file:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode):
            raise Misused(f"{place} is no plain file, wanted one that holds the key", MAKE_ONE)
        if seen.st_uid != os.getuid():
            raise Misused(
                f"{place} belongs to the user {seen.st_uid}, wanted your own ({os.getuid()})", MAKE_ONE
            )
        if seen.st_mode & 0o077:
            raise Misused(
                f"{place} has the mode {stat.S_IMODE(seen.st_mode):04o}, wanted 0600: others may have your key",
                f"chmod 600 {place}, and ask whether others had it",
            )
        content = file.read(FILE_BYTES_MAX + 1)
    _check_directory(place.parent)
    return _read(content, place)


def _read(content: bytes, place: Path) -> ApprovalKey:
    try:
        lines = [line for line in content.decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        lines = []
    match = _LINE.fullmatch(lines[0].strip()) if len(lines) == 1 and len(content) <= FILE_BYTES_MAX else None
    if match is None or len(match[2]) > NAME_CHARACTERS_MAX or not match[2].isprintable():
        # What is in it is not told: it may be most of a secret.
        raise Misused(
            f"{place}: wanted one line, `ed25519-seed`, 64 hexadecimal digits and a name of at most "
            f"{NAME_CHARACTERS_MAX} characters",
            MAKE_ONE,
        )
    return ApprovalKey(match[2], bytes.fromhex(match[1]))


def _check_directory(place: Path) -> None:
    """Who may write beside the key may put another in its place. Raises Misused."""
    seen = place.stat()
    if seen.st_uid not in (os.getuid(), 0) or seen.st_mode & 0o022:
        raise Misused(f"others may write in {place}, where your key is", f"chmod 700 {place}")
