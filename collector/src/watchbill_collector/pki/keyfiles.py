"""Private key files: readable by their owner alone, or not used."""

import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from watchbill.errors import Unreadable
from watchbill.files import read_bounded

KEY_FILE_BYTES_MAX: Final = 64 * 1024


def read_private(path: Path) -> bytes:
    """The content of a key file. Raises Unreadable when it is missing, or when others may read it."""
    content = read_bounded(path, KEY_FILE_BYTES_MAX)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise Unreadable(
            f"{path}: got mode {mode:04o}, wanted 0600: others can read a private key; chmod 600 {path}"
        )
    return content


def moment(ms: int) -> datetime:
    """UTC milliseconds as certificates want them: whole seconds."""
    return datetime.fromtimestamp(ms // 1000, UTC)


def milliseconds(at: datetime) -> int:
    """The other way."""
    return round(at.timestamp() * 1000)
