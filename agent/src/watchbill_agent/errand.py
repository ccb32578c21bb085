"""A program that a sampler sends on an errand: started, read now and then without waiting, and killed at its deadline.

Samplers must not wait: a package manager takes seconds, and a file on a mount that is gone takes for ever. The child
has a session of its own and is killed with its group. One that cannot be killed, since it sleeps in the kernel, is left
to init, and its errand says so until it is gone.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

from watchbill.clock import Clock

READ_BYTES: Final = 64 * 1024
TAKEN_BYTES_MAX: Final = 1024 * 1024
"""Of one look: a child that talks for ever does not hold up the samples."""


class Errand:
    """One run of one program. `deadline_s` None: it runs until it is ended. Raises OSError when it cannot start."""

    def __init__(
        self,
        argv: Sequence[str],
        clock: Clock,
        deadline_s: float | None,
        env: Mapping[str, str] | None = None,
        *,
        nice: bool = False,
    ) -> None:
        path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        # `nice` as a program: a function between fork and exec would need a fork, and grpc forbids one.
        prefix = ["nice", "-n", "19"] if nice else []
        self._process = subprocess.Popen(
            [*prefix, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env={"PATH": path, "LC_ALL": "C.UTF-8", **(env or {})},
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout
        os.set_blocking(self._out.fileno(), False)
        self._clock = clock
        self._until_s = None if deadline_s is None else clock.monotonic_s() + deadline_s
        self._open = True
        self.timed_out = False

    def take(self) -> bytes:
        """What it said since it was last asked, so much at most."""
        parts: list[bytes] = []
        taken = 0
        while self._open and taken < TAKEN_BYTES_MAX:
            try:
                data = os.read(self._out.fileno(), READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                self._open = False
            taken += len(data)
            parts.append(data)
        return b"".join(parts)

    @property
    def ended(self) -> bool:
        """Whether it has ended and everything it said was taken; kills it when its time is over."""
        over = self._until_s is not None and self._clock.monotonic_s() >= self._until_s
        if over and not self.timed_out and self._process.poll() is None:
            self.timed_out = True
            self.kill()
        return self._process.poll() is not None and not self._open

    @property
    def code(self) -> int | None:
        """How it ended, as Popen says it."""
        return self._process.returncode

    def kill(self) -> None:
        """Let it go; whether it goes is not waited for. What it said is not taken any more."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._open = False
        self._out.close()

    def close(self) -> None:
        """Kill it and forget it, also when it does not die."""
        if self._process.poll() is None:
            self.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
        if not self._out.closed:
            self._out.close()
        if self._process.poll() is None:
            self._process.returncode = -signal.SIGKILL  # Else Popen complains that nobody waited.
