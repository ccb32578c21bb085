"""Which boot of the machine this is: processes and locks of another one are gone."""

import os
from pathlib import Path


def boot_id(path: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """The kernel's name for this boot; one made up, where it does not say."""
    try:
        return path.read_text("ascii").strip()[:64]
    except (OSError, UnicodeDecodeError):
        return os.urandom(16).hex()
