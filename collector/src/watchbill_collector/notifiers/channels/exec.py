"""Starts a program of yours for each notice, with the notice as JSON on its standard input.

No shell: `argv` is a list, its first element an absolute path. The program gets a minimal environment, no
other open file, a session of its own, and as long as `timeout` says; then it and what it started are killed, also what
forked away from it. What outlives the program has half a second.

It says by its exit code what became of the notice: 0 sent, 75 (EX_TEMPFAIL) try again later, any other not
sent and not to be tried again. Of its output the first 16 KiB are kept, for the log and `notify test`; the rest is read
and thrown away.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
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
SUPERVISOR: Final = Path(__file__).parent.parent / "supervisor.py"
"""Runs the program and ends what came of it."""
REPORT_BYTES_MAX: Final = 256
ENDED: Final = "ended"
"""How a report begins that says: it was ended because we wanted no more of it."""
LEFT_WORDS: Final = "of what it started, {} could not be ended"
_NOBODY_READS: Final = (BrokenPipeError, ConnectionResetError, RuntimeError)
"""What writing to a program that is gone raises; the last is uvloop's, when the pipe is closed already."""
REAP_S: Final = 5.0
"""How long the end of all that was started may take: the kernel frees it at once unless it hangs in a system call."""


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
        output = bytearray()
        body = encode(document(notice, self._options.alerts_max))
        with contextlib.ExitStack() as pipes:
            life_end, life = _pipe(pipes)
            report, report_end = _pipe(pipes)
            process = await _start(argv, environment(notice), life_end, report_end)
            talking = asyncio.gather(_give(process, body), _take(process, output))
            try:
                async with asyncio.timeout(float(self._options.timeout)):
                    await process.wait()
            except TimeoutError:
                pass  # It may have ended all the same, and left something behind: the report says so.
            finally:
                life.close()
                await _end(process, talking)
            said = _read(report)
        if said.startswith(ENDED):
            limit = self._options.timeout.to_config()
            raise SendFailed(f"{argv[0]} did not end within {limit} and was killed", transient=True)
        return judge(argv[0], said, bytes(output))

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


def judge(program: str, report: str, output: bytes) -> Delivered:
    """What the supervisor's report means. Raises SendFailed unless the program's exit code is 0."""
    what, _, rest = report.strip().partition(" ")
    number, _, left = rest.partition(" ")
    if not number.isdecimal():
        raise SendFailed(f"{program} could not be watched: its supervisor says {report!r}", transient=True)
    if what == "errno":
        # Not the notice's fault: somebody will install it, or make it executable.
        why = os.strerror(int(number)).lower()
        raise SendFailed(f"{program} could not be started: {why}", transient=True)
    said = line(output.decode("utf-8", "replace"), DETAIL_CHARS_MAX)
    words = f", {said}" if said else ""
    if left not in ("", "0"):
        words += f", {LEFT_WORDS.format(left)}"
    if what == "signal":
        # A signal is no answer: memory ran out, or somebody stopped it.
        with contextlib.suppress(ValueError):
            name = signal.Signals(int(number)).name
            raise SendFailed(f"{program} was ended by {name}{words}", transient=True)
        raise SendFailed(f"{program} was ended by signal {number}{words}", transient=True)
    if number == "0":
        return Delivered(f"exit code 0{words}")
    raise SendFailed(f"{program}: exit code {number}{words}", transient=int(number) == EX_TEMPFAIL)


class _End:
    """One end of a pipe; closed once."""

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        if self.number >= 0:
            os.close(self.number)
        self.number = -1


def _pipe(pipes: contextlib.ExitStack) -> tuple[_End, _End]:
    reading, writing = (_End(number) for number in os.pipe())
    pipes.callback(reading.close)
    pipes.callback(writing.close)
    return reading, writing


def _read(report: _End) -> str:
    """What the supervisor reports; empty when it died before it could."""
    os.set_blocking(report.number, False)
    try:
        return os.read(report.number, REPORT_BYTES_MAX).decode("ascii", "replace")
    except BlockingIOError:
        return ""


async def _start(
    argv: list[str], environment_: dict[str, str], life: _End, report: _End
) -> asyncio.subprocess.Process:
    """Start the supervisor, which starts the program. It holds its ends of the pipes, we ours."""
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(SUPERVISOR),
            str(life.number),
            str(report.number),
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",
            env=environment_,
            start_new_session=True,
            pass_fds=(life.number, report.number),
        )
    except (OSError, ValueError) as exc:
        why = (getattr(exc, "strerror", None) or str(exc)).lower()
        raise SendFailed(f"{argv[0]} could not be started: {why}", transient=True) from exc
    life.close()
    report.close()
    return process


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


async def _end(process: asyncio.subprocess.Process, talking: "asyncio.Future[tuple[None, None]]") -> None:
    """The supervisor ends everything below it, and then itself; should it not, it is killed."""
    try:
        async with asyncio.timeout(REAP_S):
            await process.wait()
            await asyncio.wait({talking})
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    finally:
        talking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await talking
        # Whoever could not be ended may still hold the pipe; the library has no other way to let go of it.
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001
