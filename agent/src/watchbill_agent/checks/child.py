"""The process that runs a host's checks: `python -m watchbill_agent.checks.child`, told where by a line of JSON.

    {"etc": DIRECTORY, "var": DIRECTORY, "host": NAME, ...}    run the checks, until standard input ends
    {"judge": true, "etc": DIRECTORY, ...}                     only read checks.d, and say what is in it

All probes share its event loop. What may block has workers, what listens has a process each. It has no secrets of the
agent, speaks to nobody but its targets, and ends with the agent.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import resource
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from watchbill.clock import SystemClock
from watchbill.errors import ConfigError
from watchbill.logs import fields
from watchbill_agent.checks import processes, wire
from watchbill_agent.checks.apart import READER
from watchbill_agent.checks.check import Happening, Listener, Outcome, Pinged, Probe, Task, Verdict
from watchbill_agent.checks.config import Spec, read_checks
from watchbill_agent.checks.course import LATE_S, Course, Telling, phase_of
from watchbill_agent.checks.listening import Listening
from watchbill_agent.checks.looking import TIMEOUT, look, question
from watchbill_agent.checks.memories import VERDICTS, Memories
from watchbill_agent.checks.present import Counts
from watchbill_agent.checks.publishing import Labelled, published
from watchbill_agent.checks.trees import Trees
from watchbill_agent.checks.workers import Workers

log = logging.getLogger(__name__)

ALIVE_EVERY_S: Final = 2.0
FIRST_WITHIN_S: Final = 5.0
"""At the start all checks are looked at within this time, spread over it."""
HAPPENINGS_PER_MINUTE: Final = 120
"""Of one check; what is beyond is counted."""
UNREAD_BYTES_MAX: Final = 32 * 1024 * 1024
"""A daemon that does not read is not waited for, and must not cost this process its memory."""
MEMORY_WRITTEN_S_MAX: Final = 2.0
CHANGED: Final = "check.changed"
UNGROUPED: Final = ""


class Order(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the daemon wants."""

    etc: str
    var: str = ""
    host: str = ""
    procfs: str = "/proc"
    sysfs: str = "/sys"
    rootfs: str = "/"
    judge: bool = False

    @property
    def trees(self) -> Trees:
        """Where the host is read."""
        return Trees(Path(self.etc), Path(self.procfs), Path(self.sysfs), Path(self.rootfs))


class Judged(msgspec.Struct):
    """What is in checks.d: names, and which of them take pings; or what is wrong."""

    checks: tuple[str, ...] = ()
    pinged: tuple[str, ...] = ()
    problems: tuple[Any, ...] = ()


class Child:
    """All checks of a host, running. `send` takes frames for the daemon."""

    def __init__(self, order: Order, writer: asyncio.StreamWriter) -> None:
        self._order = order
        self._writer = writer
        self._clock = SystemClock()
        self._memories = Memories(Path(order.var))
        self._pen = ThreadPoolExecutor(1, "memories")
        self.workers = Workers()
        self._running: dict[str, _Running] = {}
        verdicts = self._memories.load(VERDICTS) or {}
        self._known: dict[str, list[Any]] = {name: one for name, one in verdicts.items() if _is_known(one)}
        self.counts = Counts()

    # ------------------------------------------------------------ life

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Until nobody is at the other end."""
        self._reload()
        alive = asyncio.create_task(self._say_alive())
        try:
            while True:
                message = await wire.receive(reader, wire.TO_CHILD)
                if isinstance(message, wire.Reload):
                    self._reload()
                else:
                    self._pinged(message)
        except EOFError:
            return
        finally:
            alive.cancel()
            for running in self._running.values():
                running.task.cancel()
            await self.workers.close()

    def _reload(self) -> None:
        try:
            specs = read_checks(self._order.trees)
        except ConfigError as exc:
            self.send(wire.Refused(tuple(str(problem) for problem in exc.problems)))
            return
        self._adopt(specs)

    def _adopt(self, specs: tuple[Spec, ...]) -> None:
        """Run these: what did not change goes on as it is."""
        wanted = {spec.name: spec for spec in specs}
        for name, running in list(self._running.items()):
            if name not in wanted or not _same(wanted[name], running.spec):
                running.task.cancel()
                del self._running[name]
        names = frozenset(wanted)
        pinged = tuple(spec.name for spec in specs if isinstance(spec.check, Pinged))
        self.send(wire.Watching(tuple(wanted), pinged))
        for name, spec in wanted.items():
            if name not in self._running:
                self._running[name] = self._started(spec)
        self._known = {name: known for name, known in self._known.items() if name in names}
        self._memories.forget_others(names)
        self.counts.checks = len(wanted)

    def _started(self, spec: Spec) -> "_Running":
        running = _Running(self, spec, self._order.host, self._known.get(spec.name))
        running.task = asyncio.create_task(running.run(), name=f"check {spec.name}")
        return running

    async def _say_alive(self) -> None:
        while True:
            workers = self.workers.counts
            self.counts.killed = workers.killed
            self.counts.files_unanswered = READER.unanswered
            self.send(wire.Alive(dataclasses.asdict(self.counts)))
            self.counts.late_s_max = 0.0
            await asyncio.sleep(ALIVE_EVERY_S)

    def _pinged(self, ping: wire.Ping) -> None:
        running = self._running.get(ping.name)
        if running is not None:
            running.heard(ping)

    # ------------------------------------------------------------ what its checks say

    def send(self, message: object) -> bool:
        """Hand a frame to the daemon; False for one that is too large, and while the daemon reads nothing."""
        if self._writer.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            return False
        try:
            self._writer.write(wire.frame(message))
        except ValueError:
            return False
        return True

    def monotonic_s(self) -> float:
        """Seconds that never jump."""
        return self._clock.monotonic_s()

    def wall_ms(self) -> int:
        """The host's date."""
        return self._clock.wall_ms()

    def load(self, name: str) -> dict[str, Any] | None:
        """What a check remembers."""
        return self._memories.load(name)

    async def keep(self, name: str, memory: Mapping[str, Any]) -> None:
        """Have it written down; a disk that hangs is not waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MEMORY_WRITTEN_S_MAX):
                await asyncio.get_running_loop().run_in_executor(self._pen, self._memories.keep, name, memory)

    async def know(self, name: str, verdict: Verdict, reason: str) -> None:
        """What was told of a check, for the next process."""
        self._known[name] = [int(verdict), reason]
        await self.keep(VERDICTS, self._known)


class _Running:
    """One check that runs."""

    task: asyncio.Task[None]

    def __init__(self, child: Child, spec: Spec, host: str, known: list[Any] | None) -> None:
        self.spec = spec
        self._child = child
        now_s = child.monotonic_s()
        told = None if known is None else (Verdict(known[0]), str(known[1]))
        self._course = Course(
            spec.interval_s,
            phase_of(host, spec.name),
            now_s,
            retries=spec.retries,
            retry_every_s=spec.retry_every_s,
            known=None if told is None else told[0],
        )
        self._course.begin_within(FIRST_WITHIN_S, now_s)
        self._woken = asyncio.Event()
        self._telling = Telling(told)
        self._verdict: Verdict | None = None
        self._table: tuple[object, object] | None = None
        self._labelled = Labelled()
        self._memory = child.load(spec.name)
        self._happened_left = float(HAPPENINGS_PER_MINUTE)
        self._happened_s = now_s
        if self._memory is not None and not isinstance(spec.check, Task):
            self._recall(self._memory)

    def _recall(self, memory: dict[str, Any]) -> None:
        try:
            self.spec.check.recall(memory)
        except Exception:  # A memory of another version must not keep a check from running.
            log.exception("what a check remembered does not fit", extra=fields(check=self.spec.name))

    # ------------------------------------------------------------ looking

    async def run(self) -> None:
        """Look whenever it is due, or publish what a listener reports; for ever."""
        check = self.spec.check
        try:
            if isinstance(check, Listener):
                await Listening(self.spec, question(self.spec, self._memory), self._reported).run()
            while True:
                await self._until_due()
                try:
                    await self._turn()
                except Exception:  # What is no kind's mistake is ours: this check must not fall silent by it.
                    log.exception("a look came to nothing", extra=fields(check=self.spec.name))
                    self._course.skip(self._child.monotonic_s())
        finally:
            with contextlib.suppress(Exception):
                await check.close()

    async def _until_due(self) -> None:
        """Or until it was pinged."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._course.due_s - self._child.monotonic_s()):
                await self._woken.wait()
                self._course.due_s = self._child.monotonic_s()
        self._woken.clear()

    async def _turn(self) -> None:
        counts = self._child.counts
        began_s = self._child.monotonic_s()
        late_s = began_s - self._course.due_s
        counts.late_s_max = max(counts.late_s_max, late_s)
        counts.late += late_s > LATE_S
        counts.looks += 1
        outcome, took_s = await self._outcome()
        counts.looks_failed += outcome.verdict is not Verdict.OK
        if self._course.ended(outcome, self._child.monotonic_s()):
            await self._publish(outcome, took_s)

    async def _outcome(self) -> tuple[Outcome, float]:
        """And how long it took in seconds."""
        began_s = self._child.monotonic_s()
        found = await look(self.spec, self._child.workers, self._memory)
        if isinstance(found, Outcome):
            took_s = self._child.monotonic_s() - began_s
            self._child.counts.timeouts += found.reason == TIMEOUT
            if isinstance(self.spec.check, Probe):
                await self._remember(self.spec.check.memory())
            return found, took_s
        await self._remember(found.memory)
        return wire.outcome_of(found.result), found.took_s

    async def _remember(self, memory: Mapping[str, Any] | None) -> None:
        """Before what it found is published: a counter never goes back."""
        if memory is not None and memory != self._memory:
            self._memory = dict(memory)
            await self._child.keep(self.spec.name, self._memory)

    async def _reported(self, outcome: Outcome) -> None:
        """A listener says how it stands."""
        self._child.counts.looks += 1
        self._child.counts.looks_failed += outcome.verdict is not Verdict.OK
        await self._publish(outcome, 0.0)

    def heard(self, ping: wire.Ping) -> None:
        """A ping for this check: judged at once."""
        check = self.spec.check
        if not isinstance(check, Pinged):
            return
        try:
            happenings = check.heard(ping.what, ping.code, ping.text, ping.at_ms)
        except Exception:  # As any look.
            log.exception("a ping could not be judged", extra=fields(check=self.spec.name))
            return
        for one in happenings:
            self._happen(one)
        self._woken.set()

    # ------------------------------------------------------------ telling

    async def _publish(self, outcome: Outcome, took_s: float) -> None:
        spec = self.spec
        samples, dropped = published(spec, outcome, took_s, self._labelled)
        self._child.counts.samples_dropped += dropped
        names = (samples.families, samples.series)
        table = None if names == self._table else wire.table_of(samples)
        self._table = names
        changed, self._verdict = outcome.verdict is not self._verdict, outcome.verdict
        message = wire.Published(
            spec.name,
            spec.name if spec.check.many else UNGROUPED,
            spec.interval_s,
            spec.timeout_s,
            int(outcome.verdict),
            outcome.reason,
            wire.one_line(outcome.detail),
            changed,
            wire.pack(samples.values),
            table,
        )
        if not self._child.send(message):
            self._table = None
            self._child.counts.samples_dropped += len(samples.series)
        for one in outcome.happenings:
            self._happen(one)
        await self._tell(outcome)

    async def _tell(self, outcome: Outcome) -> None:
        """A change of the verdict, or of the reason for it, is a critical event."""
        spec, now_s = self.spec, self._child.monotonic_s()
        before, tell = self._telling.change(outcome.verdict, outcome.reason, now_s)
        if not tell:
            self._child.counts.untold += self._telling.told != (outcome.verdict, outcome.reason)
            return
        payload = {
            "check": spec.name,
            "app": spec.app,
            "kind": spec.kind,
            "essential": spec.essential,
            "from": before,
            "to": outcome.verdict.word,
            "reason": outcome.reason,
            "detail": wire.one_line(outcome.detail),
        }
        if not self._child.send(wire.Happened(CHANGED, payload)):
            self._child.counts.happenings_dropped += 1
        self._child.counts.told += 1
        await self._child.know(spec.name, outcome.verdict, outcome.reason)

    def _happen(self, one: Happening) -> None:
        now_s = self._child.monotonic_s()
        grown = (now_s - self._happened_s) * HAPPENINGS_PER_MINUTE / 60
        self._happened_left = min(self._happened_left + grown, HAPPENINGS_PER_MINUTE)
        self._happened_s = now_s
        if self._happened_left < 1:
            self._child.counts.happenings_dropped += 1
            return
        self._happened_left -= 1
        payload = {**one.payload, "check": self.spec.name}
        if self.spec.app:
            payload["app"] = self.spec.app
        if not self._child.send(wire.Happened(one.kind, payload)):
            self._child.counts.happenings_dropped += 1


def _same(a: Spec, b: Spec) -> bool:
    """Whether a check may go on as it is."""
    return dataclasses.replace(a, check=b.check) == b


def _is_known(value: object) -> bool:
    verdicts = {int(one) for one in Verdict}
    return isinstance(value, list) and len(value) == 2 and value[0] in verdicts and isinstance(value[1], str)


def judge(order: Order) -> Judged:
    """What checks.d says, or what is wrong with it."""
    try:
        specs = read_checks(order.trees)
    except ConfigError as exc:
        return Judged(problems=tuple(exc.problems))
    return Judged(
        tuple(spec.name for spec in specs),
        tuple(spec.name for spec in specs if isinstance(spec.check, Pinged)),
    )


async def run(order: Order, answers: int) -> None:
    """Run the checks, frames going to the descriptor `answers`."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(answers, "wb", 0)
    )
    await Child(order, asyncio.StreamWriter(transport, protocol, None, loop)).run(reader)


def _many_files() -> None:
    """Every probe has a socket: as many as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Do what is asked for; ends the process, whatever still waits in threads."""
    processes.die_with_parent()
    os.umask(0o077)
    line = _first_line()
    order = msgspec.json.decode(line, type=Order)
    answers = os.dup(1)
    os.dup2(2, 1)  # What a library prints must not look like a frame.
    if order.judge:
        with os.fdopen(answers, "wb") as out:
            out.write(msgspec.json.encode(judge(order)))
        return
    _many_files()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(order, answers))
    os._exit(0)


def _first_line() -> bytes:
    """Byte by byte: what follows is for the event loop."""
    line = b""
    while not line.endswith(b"\n"):
        char = os.read(0, 1)
        if not char:
            break
        line += char
    return line


if __name__ == "__main__":
    main()
