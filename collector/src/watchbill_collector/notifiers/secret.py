"""Secrets of channels: read from a file or a systemd credential when they are needed, shown by nothing.

They are read anew for every notice, so that a renewed secret counts at once, and a file that is missing for
a moment costs a retry and not a restart.
"""

import base64
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from watchbill.config import NotWanted
from watchbill.errors import Unreadable
from watchbill.files import read_bounded

SECRET_BYTES_MAX: Final = 8_192
CREDENTIAL_PREFIX: Final = "credential:"
CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
HIDDEN: Final = "[secret]"
HIDDEN_CHARS_MIN: Final = 4
"""What is shorter is no secret, and hiding it would hide half of every message."""
_WANTED: Final = 'an absolute path, or "credential:NAME" for a credential of the systemd unit'
_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret in memory; its repr shows nothing of it."""

    _value: str = field(repr=False)

    def reveal(self) -> str:
        """The secret itself, for the line that hands it to the peer."""
        return self._value

    def hide_in(self, text: str) -> str:
        """`text` without this secret, as it is or as peers and libraries repeat it: quoted, base64."""
        packed = base64.b64encode(self._value.encode()).decode()
        for form in (self._value, quote(self._value, safe=""), packed, packed.rstrip("=")):
            if len(form) >= HIDDEN_CHARS_MIN:
                text = text.replace(form, HIDDEN)
        return text


@dataclass(frozen=True, slots=True)
class SecretFile:
    """Where a secret is: a file, or a credential that systemd hands to the unit."""

    place: str

    @classmethod
    def from_config(cls, value: object) -> Self:
        """Read a path or "credential:NAME". Raises NotWanted."""
        if not isinstance(value, str) or "\0" in value:
            raise NotWanted(_WANTED)
        name = value.removeprefix(CREDENTIAL_PREFIX)
        credential = name != value and name not in ("", ".", "..") and "/" not in name
        if not credential and not value.startswith("/"):
            raise NotWanted(_WANTED)
        return cls(value)

    def to_config(self) -> str:
        """As it is read."""
        return self.place

    def path(self) -> Path:
        """The file. Raises Unreadable for a credential where systemd gave none."""
        if not self.place.startswith(CREDENTIAL_PREFIX):
            return Path(self.place)
        directory = os.environ.get(CREDENTIALS_VARIABLE, "")
        if not directory:
            raise Unreadable(f"{self.place}: systemd gave this process no credentials (LoadCredential=)")
        return Path(directory) / self.place.removeprefix(CREDENTIAL_PREFIX)

    def stamp(self) -> tuple[int, ...]:
        """Another value when the file has changed; empty while it is not there."""
        try:
            found = self.path().stat()
        except (OSError, Unreadable):
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def read(self) -> Secret:
        """The secret without white space around it. Raises Unreadable, which shows nothing of it."""
        path = self.path()
        content = read_bounded(path, SECRET_BYTES_MAX)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & _OTHERS:
            raise Unreadable(f"{path}: got mode {mode:04o}, wanted 0600 or 0640: others must not have it")
        try:
            text = content.decode().strip()
        except UnicodeDecodeError:
            raise Unreadable(f"{path}: got bytes that are not UTF-8, wanted a secret as text") from None
        if not text:
            raise Unreadable(f"{path}: got an empty file, wanted a secret")
        return Secret(text)
