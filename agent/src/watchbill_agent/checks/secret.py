"""Passwords and tokens of checks: read from files or from what systemd hands over, never written in checks.d.

    password_file = "/etc/watchbill/secrets/db"     # a file that only the agent and root may read
    password_file = "credential:db"                 # LoadCredential=db:... of the unit

They are read anew for each look, so that a change needs no reload, and are in no argv, log, event or error.
"""

import os
import re
import stat
from functools import partial
from pathlib import Path
from typing import Final

from watchbill.files import FileMissing, UnreadableFile, read_bounded
from watchbill_agent.checks.apart import READER
from watchbill_agent.checks.check import Failed, Verdict

PREFIX: Final = "credential:"
BYTES_MAX: Final = 64 * 1024
DIRECTORY_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
WANTED: Final = 'an absolute path, or "credential:NAME" of this unit'

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


def secret_wanted(value: str) -> str | None:
    """For `option(check=...)`: what is wanted instead; None when it is right. Empty is none at all."""
    if not value:
        return None
    if value.startswith(PREFIX):
        return None if _NAME.fullmatch(value.removeprefix(PREFIX)) else WANTED
    return None if Path(value).is_absolute() else WANTED


async def secret_of(where: str, until_s: float) -> str:
    """The secret, for probes: a file that does not answer until this time of the loop's clock is left. Raises Failed
    (UNKNOWN, `credential`)."""
    return await READER.read((secret_path(where),), partial(read_secret, where), "credential", until_s)


def read_secret(where: str) -> str:
    """The secret without the newline at its end; blocks. Raises Failed (UNKNOWN, `credential`) with the file's
    name and no more."""
    path = secret_path(where)
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o007:
            raise _unusable(path, "others may read or write it")
        content = read_bounded(path, BYTES_MAX)
    except FileMissing as exc:
        raise _unusable(path, "there is no such file") from exc
    except UnreadableFile as exc:
        raise _unusable(path, str(exc).removeprefix(f"{path}: ")) from exc
    except OSError as exc:
        raise _unusable(path, (exc.strerror or str(exc)).lower()) from exc
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise _unusable(path, "it is not UTF-8") from None


def secret_path(where: str) -> Path:
    """Where it is, for what has to read it by itself. Raises Failed (UNKNOWN, `credential`)."""
    if not where.startswith(PREFIX):
        return Path(where)
    directory = os.environ.get(DIRECTORY_VARIABLE, "")
    if not directory:
        raise Failed("credential", f"{where}: the unit hands over no credentials", verdict=Verdict.UNKNOWN)
    return Path(directory) / where.removeprefix(PREFIX)


def _unusable(path: Path, why: str) -> Failed:
    return Failed("credential", f"{path}: {why}", verdict=Verdict.UNKNOWN)
