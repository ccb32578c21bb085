"""Whether a directory of definitions says anything: a daemon without backups or checks imports no more than this."""

import os
from pathlib import Path


def any_files(etc: Path, file: str, directory: str) -> bool:
    """Whether `file` is there, or anything in `directory` that is read. A directory that cannot be listed counts:
    whoever reads it says what is wrong with it."""
    if (etc / file).exists():
        return True
    try:
        with os.scandir(etc / directory) as entries:
            return any(entry.name.endswith(".toml") and not entry.name.startswith(".") for entry in entries)
    except FileNotFoundError:
        return False
    except OSError:
        return True
