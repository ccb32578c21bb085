"""Telling the service manager how the daemon is: datagrams to the socket in NOTIFY_SOCKET.

Spoken here and not through a library, because the protocol is one datagram of `KEY=value` lines. Without a
socket, or with one that is gone, unwritable or nonsense, nothing happens: a daemon never fails because nobody
listens. Protocol: sd_notify(3), sd_watchdog_enabled(3).
"""

import os
import socket
import time
from collections.abc import Mapping

STATUS_CHARACTERS_MAX = 256
"""One line in `systemctl status`."""
SEND_S_MAX = 1.0
"""How long a message that matters waits for room in the manager's queue; pings and status lines do not."""
WATCHDOG_S_MAX = 86_400.0
"""A watchdog slower than a day is taken for garbage in the environment."""


class Notifier:
    """One daemon's line to its service manager."""

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        self._address = _socket_address(env.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(env, os.getpid())
        """Seconds within which a ping is expected; None where nobody watches."""
        self.failures = 0
        """Messages that could not be delivered."""

    def ready(self, status: str = "") -> None:
        """Started, or reloaded: everything that can be checked has been."""
        self._send("READY=1", *_status_line(status))

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it. The time makes newer managers accept it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> None:
        """The drain has begun."""
        self._send("STOPPING=1", *_status_line(status))

    def status(self, text: str) -> None:
        """One line for people."""
        self._send(*_status_line(text), wait_s=0.0)

    def watchdog(self) -> None:
        """Every loop made progress."""
        self._send("WATCHDOG=1", wait_s=0.0)

    def extend_timeout(self, seconds: float) -> None:
        """A start or stop goes on for up to `seconds` more: a long recovery is no hang."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def _send(self, *lines: str, wait_s: float = SEND_S_MAX) -> None:
        if self._address is None or not lines:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
                connection.settimeout(wait_s)  # A manager that does not read must not stop us.
                connection.sendto("\n".join(lines).encode(), self._address)
        except (OSError, ValueError):
            self.failures += 1


def _socket_address(text: str) -> str | None:
    """The address to send to: a path, or `@name` for one in the abstract namespace."""
    if text.startswith("@") and len(text) > 1:
        return "\0" + text[1:]
    return text if text.startswith("/") else None


def _watchdog_s(env: Mapping[str, str], process: int) -> float | None:
    usec, owner = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
    if not (usec.isascii() and usec.isdigit()) or len(usec) > 20 or (owner and owner != str(process)):
        return None
    seconds = int(usec) / 1e6
    return seconds if 0 < seconds <= WATCHDOG_S_MAX else None


def _status_line(text: str) -> list[str]:
    line = "".join(char if char.isprintable() else " " for char in text[:STATUS_CHARACTERS_MAX])
    return [f"STATUS={line}"] if line else []
