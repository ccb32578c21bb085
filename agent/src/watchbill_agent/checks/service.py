"""A host's checks, as the daemon has them: the process that runs them, and their newest numbers ready for the batch.

    child -> frames -> Checks -> groups of readings -> batch

Checks of one pace travel together; those whose series are many or come and go travel alone, since a change of names
costs a dictionary. A group is emitted at its pace, and at once when a verdict changed. What has said nothing for too
long ends with stale markers: silence must not look like health.
"""

import asyncio
import contextlib
import logging
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from watchbill.clock import Clock
from watchbill.errors import ConfigError, Problem, StorageError
from watchbill.logs import fields
from watchbill_agent.checks import metrics, processes, wire
from watchbill_agent.checks.check import Verdict
from watchbill_agent.checks.present import VAR_DIRECTORY, Counts
from watchbill_agent.checks.trees import Trees
from watchbill_agent.events import Events
from watchbill_agent.reading import Layout, Reading

log = logging.getLogger(__name__)

JUDGE_S_MAX: Final = 30.0
"""Reading the files takes a third of a second."""
SILENT_S_MAX: Final = 20.0
"""The child says that it is alive every two seconds: one that does not hangs, and another takes its place."""
SILENT_STEPS: Final = 10
AGAIN_S_MIN: Final = 1.0
AGAIN_S_MAX: Final = 60.0
STEADY_S: Final = 60.0
"""A child that lived so long begins again without a wait."""
PACE_MS_MAX: Final = 15_000
"""A check that is looked at more seldom is emitted at this pace, so that what it found is not old when it arrives."""
FRESH_INTERVALS: Final = 2
FRESH_S_MORE: Final = 5.0
"""A check that published nothing for so many intervals, its timeout and this has no newest numbers any more."""
LAYOUTS_KEPT: Final = 3
"""Of each check: as it is when all is well, when nothing answers, and one between."""
END_S: Final = 2.0
SELF_GROUP: Final = "checks of this agent"
PINGS_WAITING_MAX: Final = 256
"""For a process of checks that begins; each is in the critical stream, too."""
EVENTS_WAITING_MAX: Final = 1_000
STDERR_LINE_MAX: Final = 500

ARGV: Final = tuple(processes.argv_of("watchbill_agent.checks.child"))


@dataclass(frozen=True, slots=True)
class Standing:
    """How a check stands, for `status` and `checks list`."""

    check: str
    verdict: Verdict
    reason: str
    detail: str
    since_ms: int
    """UTC, since when the verdict is this one, as far as this process knows."""

    def document(self) -> dict[str, object]:
        """As JSON."""
        return {
            "check": self.check,
            "verdict": self.verdict.word,
            "reason": self.reason,
            "detail": self.detail,
            "since_ms": self.since_ms,
        }


@dataclass(slots=True, eq=False)
class _Newest:
    reading: Reading
    standing: Standing
    pace_ms: int
    expires_s: float


@dataclass(slots=True, eq=False)
class _Group:
    due_ms: int = 0
    news: bool = False
    members: dict[str, _Newest] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Emission:
    """Readings that are one tick of one group; none ends it."""

    group: str
    readings: Sequence[Reading]


def judge(trees: Trees) -> "Judged":
    """What checks this host has, read by a process of its own: this one imports no kind. Raises ConfigError with every
    problem, StorageError when nobody could read them."""
    order = msgspec.json.encode({**_order(trees), "judge": True}) + b"\n"
    try:
        done = subprocess.run(ARGV, input=order, capture_output=True, timeout=JUDGE_S_MAX, check=False)
        judged = msgspec.json.decode(done.stdout, type=Judged)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise StorageError(f"the checks of this host could not be read: {exc}") from exc
    except msgspec.MsgspecError as exc:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:STDERR_LINE_MAX]
        raise StorageError(f"the checks of this host could not be read: {said or exc}") from exc
    if judged.problems:
        raise ConfigError(list(judged.problems))
    return judged


class Judged(msgspec.Struct):
    """The names of checks, and of those that take pings."""

    checks: tuple[str, ...] = ()
    pinged: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def _order(trees: Trees) -> dict[str, Any]:
    return {
        "etc": str(trees.etc),
        "procfs": str(trees.procfs),
        "sysfs": str(trees.sysfs),
        "rootfs": str(trees.rootfs),
    }


class Checks:
    """The checks of a host. `base_ms` answers how often the host is sampled; `happened` is told critical events."""

    def __init__(
        self,
        trees: Trees,
        var: Path,
        host: str,
        clock: Clock,
        base_ms: Callable[[], int],
        argv: Sequence[str] = ARGV,
        *,
        pinged: frozenset[str] = frozenset(),
    ) -> None:
        self._order = {**_order(trees), "var": str(var / VAR_DIRECTORY), "host": host}
        self._clock = clock
        self._base_ms = base_ms
        self._argv = argv
        self._process: asyncio.subprocess.Process | None = None
        self._groups: dict[str, _Group] = {}
        self._where: dict[str, str] = {}
        self._layouts: dict[str, Layout] = {}
        self._seen: dict[str, dict[tuple[object, object], Layout]] = {}
        self._events: asyncio.Queue[wire.Happened] = asyncio.Queue(EVENTS_WAITING_MAX)
        self._restarts = 0
        self._untaken = 0
        """Events that were too many for the daemon, beside those that were too many for the child."""
        self._ready = False
        self._said_ms = 0
        self._silent = 0
        self.pinged = pinged
        """The checks that take pings."""
        self._waiting: deque[wire.Ping] = deque(maxlen=PINGS_WAITING_MAX)
        self.counts = Counts()

    # ------------------------------------------------------------ life

    async def run(self) -> None:
        """Have them run, for ever: a child that ends or hangs is followed by another."""
        wait_s = AGAIN_S_MIN
        while True:
            began_s = self._clock.monotonic_s()
            try:
                await self._one_life()
            except OSError as exc:
                log.error("no process for checks", extra=fields(reason=exc))
            self._restarts += 1
            steady = self._clock.monotonic_s() - began_s >= STEADY_S
            wait_s = AGAIN_S_MIN if steady else min(wait_s * 2, AGAIN_S_MAX)
            log.warning("the process of checks has ended and begins again", extra=fields(wait_s=wait_s))
            await asyncio.sleep(wait_s)

    async def tell(self, events: Events) -> None:
        """Keep what happened, in order, for ever."""
        while True:
            happened = await self._events.get()
            await events.tell(happened.kind, happened.payload)

    async def _one_life(self) -> None:
        process = await processes.start(self._argv, stderr=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        said = asyncio.create_task(_log_lines(process.stderr))
        silence = asyncio.create_task(self._end_when_silent(process))
        try:
            process.stdin.write(msgspec.json.encode(self._order) + b"\n")
            while True:
                self._take(await wire.receive(process.stdout, wire.TO_DAEMON))
                self._silent = 0
        except (EOFError, ConnectionError):
            return
        finally:
            silence.cancel()
            self._process, self._ready = None, False
            self._layouts.clear()  # The next child begins with all names.
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await process.wait()
            await processes.end(process)
            said.cancel()

    async def _end_when_silent(self, process: asyncio.subprocess.Process) -> None:
        """Counted in steps of this very task: a daemon that was stopped or suspended did not listen, and what was said
        meanwhile waits in the pipe."""
        self._silent = 0
        while self._silent < SILENT_STEPS:
            await asyncio.sleep(SILENT_S_MAX / SILENT_STEPS)
            self._silent += 1
        log.error("the process of checks hangs", extra=fields(silent_s=SILENT_S_MAX))
        await processes.end(process)

    def reload(self) -> None:
        """The files changed, and were judged right."""
        self._say(wire.Reload())

    def ping(self, name: str, what: str, code: int | None, text: str, at_ms: int) -> bool:
        """Tell a check of a ping; whether there is one. It is told when its process is there: the newest of those that
        wait for it, should they be many."""
        if name not in self.pinged:
            return False
        message = wire.Ping(name, what, code, text, at_ms)
        if self._ready:
            self._say(message)
        else:
            self._waiting.append(message)
        return True

    def _say(self, message: object) -> bool:
        process = self._process
        if process is None or process.stdin is None or process.stdin.is_closing():
            return False
        process.stdin.write(wire.frame(message))
        return True

    # ------------------------------------------------------------ what the child says

    def _take(
        self, message: wire.Alive | wire.Published | wire.Happened | wire.Watching | wire.Refused
    ) -> None:
        match message:
            case wire.Published():
                self._published(message)
            case wire.Happened():
                try:
                    self._events.put_nowait(message)
                except asyncio.QueueFull:
                    self._untaken += 1
            case wire.Alive(counts):
                self._counted(counts)
            case wire.Watching(checks, pinged):
                self.pinged, self._ready = frozenset(pinged), True
                while self._waiting:
                    self._say(self._waiting.popleft())
                for name in self._where.keys() - set(checks):
                    self._forget(name)
            case wire.Refused(problems):
                log.error("the checks stay as they were", extra=fields(problems=" | ".join(problems)))

    def _counted(self, counts: dict[str, float]) -> None:
        """Counters of a child begin at nothing with it; what is told of them does not go back unseen: Prometheus knows
        a counter that begins anew."""
        known = {key: value for key, value in counts.items() if key in Counts.__dataclass_fields__}
        worst_s = max(self.counts.late_s_max, float(known.get("late_s_max", 0.0)))
        self.counts = Counts(**known)  # type: ignore[arg-type] # By name, from the same dataclass.
        self.counts.late_s_max = worst_s
        self.counts.child_restarts = self._restarts
        self.counts.happenings_dropped += self._untaken

    def _self_reading(self) -> Reading:
        return metrics.reading(self.counts)

    def _published(self, message: wire.Published) -> None:
        if message.table is not None:
            self._layouts[message.check] = self._layout(message.check, message.table)
        layout = self._layouts.get(message.check)
        if layout is None or len(layout.series) * 8 != len(message.values):
            log.error("numbers without names from a check", extra=fields(check=message.check))
            return
        pace_ms = max(min(round(message.interval_s * 1000), PACE_MS_MAX), self._base_ms())
        name = f"check {message.group}" if message.group else f"checks {pace_ms}"
        if self._where.get(message.check, name) != name:
            self._forget(message.check)
        group = self._groups.setdefault(name, _Group())
        before = group.members.get(message.check)
        fresh_s = message.interval_s * FRESH_INTERVALS + message.timeout_s + FRESH_S_MORE
        group.members[message.check] = _Newest(
            Reading(layout, wire.unpack(message.values)),
            self._standing(message, before),
            pace_ms,
            self._clock.monotonic_s() + max(fresh_s, 3 * pace_ms / 1000),
        )
        self._where[message.check] = name
        group.news = group.news or message.changed or before is None or bool(message.group)

    def _layout(self, check: str, table: wire.Table) -> Layout:
        """The very layout that these names had before, if they had one: a check that fails now and then brings back a
        dictionary that is known."""
        seen = self._seen.setdefault(check, {})
        names = (table.families, table.series)
        layout = seen.get(names)
        if layout is None:
            samples = wire.samples_of(table)
            layout = Layout(samples.families.values(), samples.series)
            if len(seen) >= LAYOUTS_KEPT:
                del seen[next(iter(seen))]
            seen[names] = layout
        return layout

    def _standing(self, message: wire.Published, before: _Newest | None) -> Standing:
        verdict = Verdict(message.verdict)
        same = before is not None and before.standing.verdict is verdict
        since_ms = before.standing.since_ms if same and before is not None else self._clock.wall_ms()
        return Standing(message.check, verdict, message.reason, message.detail, since_ms)

    def _forget(self, check: str) -> None:
        group = self._groups[self._where.pop(check)]
        group.members.pop(check, None)
        group.news = True
        self._layouts.pop(check, None)
        self._seen.pop(check, None)

    # ------------------------------------------------------------ into the batch

    def emissions(self, boottime_ms: int) -> Iterator[Emission]:
        """What is due at this tick."""
        now_s = self._clock.monotonic_s()
        if boottime_ms >= self._said_ms:
            self._said_ms = boottime_ms - boottime_ms % PACE_MS_MAX + PACE_MS_MAX
            yield Emission(SELF_GROUP, [self._self_reading()])
            self.counts.late_s_max = 0.0
        for name, group in list(self._groups.items()):
            for check, newest in list(group.members.items()):
                if newest.expires_s < now_s:
                    self._forget(check)
            if not group.members:
                del self._groups[name]
                yield Emission(name, ())
            elif group.news or boottime_ms >= group.due_ms:
                group.news = False
                pace_ms = next(iter(group.members.values())).pace_ms
                group.due_ms = boottime_ms - boottime_ms % pace_ms + pace_ms
                yield Emission(name, [group.members[check].reading for check in sorted(group.members)])

    def newest(self) -> list[Reading]:
        """The newest numbers of every check, for who scrapes this host."""
        groups = self._groups.values()
        found = [self._self_reading()]
        return found + [group.members[check].reading for group in groups for check in sorted(group.members)]

    def standings(self) -> list[Standing]:
        """How each check stands, by name."""
        every = [one.standing for group in self._groups.values() for one in group.members.values()]
        return sorted(every, key=lambda standing: standing.check)


async def _log_lines(reader: asyncio.StreamReader) -> None:
    """What the child says on standard error is in our log."""
    while True:
        try:
            line = await reader.readline()
        except ValueError:
            continue  # A line without an end: the rest of it follows.
        if not line:
            return
        log.warning("%s", line.decode("utf-8", "replace").rstrip()[:STDERR_LINE_MAX])
