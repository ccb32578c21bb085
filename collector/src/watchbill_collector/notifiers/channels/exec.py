"""Starts a program of yours for each notice, with the notice as JSON on its standard input.

No shell: `argv` is a list, its first element an absolute path. The program gets a minimal environment, no
other open file, a session of its own, and as long as `timeout` says; then it and what it started are killed.
It says by its exit code what became of the notice: 0 sent, 75 (EX_TEMPFAIL) try again later, any other not
sent and not to be tried again. Of its output the first 16 KiB are kept, for the log and `notify test`; the rest is read
and thrown away.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from watchbill.config import Wrong, option
from watchbill_collector.notifiers.channel import Channel, Common, Surroundings
from watchbill_collector.notifiers.document import document, encode
from watchbill_collector.notifiers.hostile import line
from watchbill_collector.notifiers.notice import DETAIL_CHARS_MAX, Delivered, Notice, SendFailed

EX_TEMPFAIL: Final = 75
OUTPUT_BYTES_MAX: Final = 16 << 10
PIECE_BYTES: Final = 64 << 10
ARGV_MAX: Final = 64
ALERTS_MAX: Final = 1_000
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LINGER_S: Final = 0.5
"""How long output is read after the program's end, when something that it started still holds the pipe."""
_NOBODY_READS: Final = (BrokenPipeError, ConnectionResetError, RuntimeError)
"""What writing to a program that is gone raises; the last is uvloop's, when the pipe is closed already."""
REAP_S: Final = 5.0
"""How long a killed program may take to be gone: the kernel frees it at once unless it hangs in a system call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Common):
    """A program of yours."""

    argv: list[str] = option(
        length_max=ARGV_MAX,
        help="The program and its arguments; every user of this machine can read them, so no secrets.",
        example='["/usr/local/bin/tell-somebody", "--loud"]',
    )
    alerts_max: int = option(
        100, at_least=1, at_most=ALERTS_MAX, help="Alerts in one document; the rest is counted."
    )

    def check(self) -> Iterator[Wrong]:
        """A program that can only be one."""
        if not self.argv or not self.argv[0].startswith("/"):
            got = f'"{line(self.argv[0], 80)}"' if self.argv else "an empty array"
            yield Wrong("argv", got, "an absolute path of a program as the first element")
        if any("\0" in part for part in self.argv):
            yield Wrong("argv", "a NUL character", "text without one")


class Exec(Channel):
    """One process a notice."""

    kind = "exec"
    options_type = Options

    def __init__(self, options: Options, surroundings: Surroundings) -> None:  # noqa: ARG002 - As all channels are made.
        self._options = options

    async def send(self, notice: Notice) -> Delivered:
        """Run it to its end or to the timeout."""
        argv = self._options.argv
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd="/",
                env=environment(notice),
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:
            # Not the notice's fault: somebody will install it, or make it executable.
            why = (getattr(exc, "strerror", None) or str(exc)).lower()
            raise SendFailed(f"{argv[0]} could not be started: {why}", transient=True) from exc
        output = bytearray()
        body = encode(document(notice, self._options.alerts_max))
        pipes = asyncio.gather(_give(process, body), _take(process, output))
        try:
            async with asyncio.timeout(float(self._options.timeout)):
                await process.wait()
                # A moment longer for what it printed last.
                await asyncio.wait({pipes}, timeout=LINGER_S)
        except TimeoutError as exc:
            # It may have ended and left something behind that holds its output: its exit code counts.
            if process.returncode is None:
                limit = self._options.timeout.to_config()
                why = f"{argv[0]} did not end within {limit} and was killed"
                raise SendFailed(why, transient=True) from exc
        finally:
            code = process.returncode
            await _end(process, pipes)
        assert code is not None, "it ended, or the timeout was raised"
        return judge(argv[0], code, bytes(output))

    def ready(self) -> None:
        """The program is there."""
        if not os.access(self._options.argv[0], os.X_OK):
            raise SendFailed(f"{self._options.argv[0]} is not there, or not executable", transient=True)


def environment(notice: Notice) -> dict[str, str]:
    """What the program finds around it: nothing of ours but who calls, and nothing that a host wrote."""
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "WATCHBILL_CHANNEL": notice.channel,
        "WATCHBILL_KIND": notice.kind.value,
    }


def judge(program: str, code: int, output: bytes) -> Delivered:
    """What the exit code means. Raises SendFailed unless it is 0."""
    said = line(output.decode("utf-8", "replace"), DETAIL_CHARS_MAX)
    words = f", {said}" if said else ""
    if code == 0:
        return Delivered(f"exit code 0{words}")
    if code < 0:
        # A signal is no answer: memory ran out, or somebody stopped it.
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            raise SendFailed(f"{program} was ended by {name}{words}", transient=True)
        raise SendFailed(f"{program} was ended by signal {-code}{words}", transient=True)
    raise SendFailed(f"{program}: exit code {code}{words}", transient=code == EX_TEMPFAIL)


async def _give(process: asyncio.subprocess.Process, body: bytes) -> None:
    """A program may read all of it, some, or nothing."""
    assert process.stdin is not None
    with contextlib.suppress(*_NOBODY_READS):
        process.stdin.write(body)
        await process.stdin.drain()
    with contextlib.suppress(*_NOBODY_READS):
        process.stdin.close()
        await process.stdin.wait_closed()


async def _take(process: asyncio.subprocess.Process, output: bytearray) -> None:
    """Read to the end, keep the beginning: a full pipe would stop the program."""
    assert process.stdout is not None
    while piece := await process.stdout.read(PIECE_BYTES):
        output += piece[: OUTPUT_BYTES_MAX - len(output)]


async def _end(process: asyncio.subprocess.Process, pipes: "asyncio.Future[tuple[None, None]]") -> None:
    """Kill the whole group: a grandchild that stayed behind would hold the pipe, and nobody would see it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REAP_S):
            await process.wait()
            await asyncio.wait({pipes})
    pipes.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await pipes
    # Who left the group on purpose may still hold the pipe; the library has no other way to let go of it.
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001
