"""People who can log in: how many users of this host have a login shell, how many are root, and who was added.

The local /etc/passwd alone is read; users from a directory service are in none of this.
"""

import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from watchbill_agent.hostpaths import unreadable
from watchbill_agent.samplers import (
    Family,
    Happening,
    HostPaths,
    Layout,
    MetricType,
    Reading,
    Sampler,
    SamplerFailed,
    Series,
)

PASSWD_BYTES_MAX = 4 * 1024 * 1024
EVENTS_MAX = 20
"""Of one reading: when more users change at once, somebody copied a file."""
NAME_CHARACTERS_MAX = 256
EVENT = "security.user"
NO_LOGIN = frozenset((b"nologin", b"false", b"true", b"sync", b"halt", b"shutdown", b"git-shell"))

_FAMILIES = (
    Family("watchbill_security_login_users", MetricType.GAUGE, "Local users with a login shell."),
    Family("watchbill_security_superusers", MetricType.GAUGE, "Local users with the number 0."),
    Family(
        "watchbill_security_login_users_fingerprint",
        MetricType.GAUGE,
        "Changes when a user with a login shell comes, goes or changes, also while the agent did not run.",
    ),
)
_LAYOUT = Layout(_FAMILIES, [Series(family.name) for family in _FAMILIES])


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Nothing to set."""


@dataclass(frozen=True, slots=True)
class User:
    """One line."""

    name: bytes
    uid: int
    shell: bytes


class Users(Sampler):
    """Reads /etc/passwd when it has changed. What is new since the last reading is told as an event."""

    name = "users"
    default_on = True
    interval_s = 60.0
    options_type = Options

    def __init__(self, _options: Options, host: HostPaths) -> None:
        self._path = host.root / "etc/passwd"
        self._seen: tuple[int, ...] = ()
        self._users: dict[bytes, User] | None = None
        self._values: list[float] = []

    def sample(self) -> Reading:
        """Three numbers."""
        try:
            found = self._path.stat()
            seen = found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
            if seen != self._seen:
                self._read(found)
                self._seen = seen
        except OSError as exc:
            raise unreadable(self._path, exc) from exc
        return Reading(_LAYOUT, self._values)

    def _read(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode) or found.st_size > PASSWD_BYTES_MAX:
            raise SamplerFailed(str(self._path), f"is no file of at most {PASSWD_BYTES_MAX} bytes")
        everybody = list(parse(self._path.read_bytes()))
        users = {user.name: user for user in everybody if can_log_in(user)}
        if not everybody:
            raise SamplerFailed(str(self._path), "names nobody")
        if self._users is not None:
            self.happenings = tuple(_changes(self._users, users))[:EVENTS_MAX]
        self._users = users
        text = repr(sorted((user.name, user.uid, user.shell) for user in users.values()))
        self._values = [
            float(len(users)),
            float(sum(1 for user in everybody if user.uid == 0)),
            float(zlib.crc32(text.encode())),
        ]


def parse(data: bytes) -> Iterator[User]:
    """The lines of a passwd file that are such lines; comments and `+` of old directory services are none."""
    for line in data.split(b"\n"):
        words = line.split(b":")
        if len(words) == 7 and words[0] and words[0][:1] not in b"#+-" and words[2].isdigit():
            yield User(words[0], int(words[2][:18]), words[6].strip())


def can_log_in(user: User) -> bool:
    """Whether its shell lets anybody in; no shell at all means /bin/sh."""
    return user.shell.rpartition(b"/")[2] not in NO_LOGIN


def _changes(before: dict[bytes, User], after: dict[bytes, User]) -> Iterator[Happening]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        change = "added" if old is None else "removed" if new is None else "changed"
        user = new or old
        assert user is not None, "one of both has the name"
        yield Happening(
            EVENT,
            {
                "change": change,
                "user": _shown(user.name),
                "uid": user.uid,
                "shell": _shown(user.shell),
            },
        )


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "replace")[:NAME_CHARACTERS_MAX]
