"""The exceptions of the house.

WatchbillError
├── ConfigError          the files are wrong; carries every problem found, each with file, line and key
├── UsageError           the command line asks for something that cannot be
├── Refused              the other side understood and said no; asking again will not help
├── Transient            may succeed when tried again
│   ├── Unreachable      nobody answered
│   └── Busy             somebody answered: later
├── Permanent            will not succeed when tried again
│   ├── Unreadable       a file or message does not say what it should
│   └── ProtocolError    the peer broke the protocol
└── StorageError         the disk or the database failed; nothing was acknowledged

Whoever knows whether trying again can help says so by the class.
"""

from typing import NamedTuple


class WatchbillError(Exception):
    """The root: everything Watchbill raises on purpose."""


class Problem(NamedTuple):
    """One thing wrong in a configuration file. No dataclass: importing those takes short commands 15 ms.

    `line` is 1-based, 0 where no line can be named. `wanted` says what would have been right.
    """

    file: str
    line: int
    key: str
    got: str
    wanted: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        key = f" {self.key}:" if self.key else ""
        return f"{where}:{key} got {self.got}, wanted {self.wanted}"


class ConfigError(WatchbillError):
    """Configuration that cannot be used; `problems` holds every one found."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class UsageError(WatchbillError):
    """The command line asks for something that cannot be."""


class Refused(WatchbillError):
    """The other side understood and said no."""


class Transient(WatchbillError):
    """Trying again may help."""


class Unreachable(Transient):
    """Nobody answered."""


class Busy(Transient):
    """Somebody answered: later. `retry_after_s` is when."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Permanent(WatchbillError):
    """Trying again will not help."""


class Unreadable(Permanent):
    """A file or a message does not say what it should."""


class ProtocolError(Permanent):
    """The peer broke the protocol."""


class StorageError(WatchbillError):
    """The disk or the database failed; nothing was acknowledged."""
