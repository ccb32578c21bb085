"""Runs of systemd units as runs of a job: what `systemctl show` says of a service, read once a minute. No wrapper, no
D-Bus library.

A job with `unit = "backup.timer"` (or a service) needs nothing else: systemd knows when the service began, when and how
it ended, and calls each start by an id, which is the run's. It knows the last run only: one that ended and was followed
by another while no agent looked is not seen, nor is one before the last boot. A service that neither a timer nor
anything else refers to is forgotten by systemd when it has ended well; name the timer.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from watchbill.backups.record import Kind, Outcome, Record, Source, new_id
from watchbill.clock import Clock
from watchbill.logs import fields

if TYPE_CHECKING:
    from watchbill_agent.backups.config import JobConfig

log = logging.getLogger(__name__)

SYSTEMCTL: Final = "/usr/bin/systemctl"
LOOK_EVERY_S: Final = 60.0
SHOW_S: Final = 10.0
"""How long systemd may take to answer."""
OUTPUT_BYTES_MAX: Final = 1024 * 1024
PROPERTIES: Final = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "InvocationID",
    "InactiveExitTimestamp",
    "ActiveEnterTimestamp",
    "InactiveEnterTimestamp",
    "ExecMainCode",
    "ExecMainStatus",
)
TIMER: Final = ".timer"
REASON_CHARACTERS_MAX: Final = 40
UNIT_MISSING: Final = "not-found"
_EXITED, _KILLED, _DUMPED = 1, 2, 3
"""What ended the main process, as wait(2) has it."""
_GOES_ON: Final = frozenset({"activating", "reloading", "deactivating", "refreshing"})
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_WORD = re.compile(r"[a-z0-9-]+", re.ASCII)

Show = Callable[[Sequence[str], Sequence[str]], Awaitable[str]]
"""Properties and units in, what systemctl prints out. Raises OSError, TimeoutError."""


@dataclass(frozen=True, slots=True)
class UnitJob:
    """A job whose runs are those of a unit."""

    name: str
    tool: str
    unit: str


@dataclass(frozen=True, slots=True)
class UnitRun:
    """One run. `ended_ms` is 0 while it goes on; `result` is systemd's word."""

    run_id: str
    started_ms: int
    ended_ms: int
    result: str
    exit_code: int | None
    signal: int | None

    @property
    def outcome(self) -> Outcome:
        """How it went."""
        if not self.ended_ms:
            return Outcome.RUNNING
        return Outcome.OK if self.result == "success" else Outcome.FAILED


# ---------------------------------------------------------------- pure: what systemd says


def read_shown(text: str) -> list[dict[str, str]]:
    """The properties of each unit, in the order in which they were asked for."""
    blocks: list[dict[str, str]] = [{}]
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            blocks[-1][name] = value
        elif not line.strip() and blocks[-1]:
            blocks.append({})
    return [block for block in blocks if block]


def run_of(unit: str, shown: Mapping[str, str]) -> UnitRun | None:
    """The last run of a service; None when there is none to tell of."""
    started_ms = _time_ms(shown.get("InactiveExitTimestamp", ""))
    if not started_ms:
        return None
    ended_ms = _ended_ms(shown)
    if ended_ms and ended_ms < started_ms:
        return None  # Between two states; the next look says which.
    code, status = _number(shown.get("ExecMainCode", "")), _number(shown.get("ExecMainStatus", ""))
    return UnitRun(
        run_id=_run_id(unit, shown.get("InvocationID", ""), started_ms),
        started_ms=started_ms,
        ended_ms=ended_ms,
        result=shown.get("Result", "") if ended_ms else "",
        exit_code=status if ended_ms and code == _EXITED else None,
        signal=status if ended_ms and code in (_KILLED, _DUMPED) else None,
    )


def _ended_ms(shown: Mapping[str, str]) -> int:
    state, sub = shown.get("ActiveState", ""), shown.get("SubState", "")
    if state == "active" and sub == "exited":  # It is over, and stays active for what depends on it.
        return _time_ms(shown.get("ActiveEnterTimestamp", ""))
    if state in _GOES_ON or state == "active":
        return 0
    return _time_ms(shown.get("InactiveEnterTimestamp", ""))


def _run_id(unit: str, invocation: str, started_ms: int) -> str:
    return invocation if _ID.fullmatch(invocation) else _digest(unit, str(started_ms))


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]


def _time_ms(text: str) -> int:
    """`Sun 2026-11-29 02:15:00 UTC`, or `@1764382500`; 0 for none."""
    try:
        if text.startswith("@"):
            return max(0, round(float(text[1:]) * 1000))
        day, _, rest = text.partition(" ")
        moment = datetime.strptime(rest, "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return 0
    return round(moment.timestamp() * 1000) if day else 0


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def record_of(job: UnitJob, run: UnitRun, now_ms: int) -> Record:
    """What is told of it. A beginning and an end have ids that follow from the run, so that each is told once whoever
    looks again; while it goes on every look is one."""
    ended = bool(run.ended_ms)
    failed = run.outcome is Outcome.FAILED
    word = run.result[:REASON_CHARACTERS_MAX]
    return Record(
        record_id=_digest("end", job.name, job.unit, run.run_id, str(run.ended_ms)) if ended else new_id(),
        job=job.name,
        kind=Kind.RUN,
        source=Source.UNIT,
        outcome=run.outcome,
        observed_ms=now_ms,
        run_id=run.run_id,
        started_ms=run.started_ms,
        finished_ms=run.ended_ms,
        exit_code=run.exit_code,
        signal=run.signal,
        tool=job.tool,
        point_ms=run.started_ms,
        reason=f"unit-{word}" if failed and _WORD.fullmatch(word) else "unit-failed" if failed else "",
        errors=(f"systemd says of {job.unit}: {word}; journalctl -u {job.unit} says more",) if failed else (),
    )


# ---------------------------------------------------------------- the watch


async def show(properties: Sequence[str], units: Sequence[str]) -> str:
    """Ask this host's systemd. Raises OSError, TimeoutError."""
    process = await asyncio.create_subprocess_exec(
        SYSTEMCTL,
        "show",
        "--no-pager",
        f"--property={','.join(properties)}",
        "--",
        *units,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"LC_ALL": "C", "TZ": "UTC", "SYSTEMD_COLORS": "0"},
    )
    try:
        async with asyncio.timeout(SHOW_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        said = err.decode("utf-8", "replace").strip().splitlines()
        raise OSError(said[0][:200] if said else f"systemctl ended with {process.returncode}")
    return out[:OUTPUT_BYTES_MAX].decode("utf-8", "replace")


class UnitWatch:
    """Tells of the runs of jobs' units. `keep` hands a record over, and says whether it was kept."""

    def __init__(self, keep: Callable[[Record], Awaitable[bool]], clock: Clock, show: Show = show) -> None:
        self._keep = keep
        self._clock = clock
        self._show = show
        self._jobs: Sequence[UnitJob] = ()
        self._told: dict[str, UnitRun] = {}
        """Of each job the run whose end was told last."""
        self._trouble: dict[str, str] = {}

    def adopt(self, jobs: Sequence[UnitJob]) -> None:
        """These jobs from now on."""
        self._jobs = jobs
        names = {job.name for job in jobs}
        self._told = {name: run for name, run in self._told.items() if name in names}
        self._trouble = {name: said for name, said in self._trouble.items() if name in names or not name}

    def adopt_jobs(self, jobs: "Sequence[JobConfig]") -> None:
        """The same, of the files' jobs that have a unit."""
        self.adopt([UnitJob(job.name, job.definition.tool, job.unit) for job in jobs if job.unit])

    async def run(self) -> None:
        """Look every minute, for ever."""
        while True:
            if self._jobs:
                await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Once. A systemd that does not answer is logged once, and asked again."""
        try:
            shown = await self._look_at(await self._services())
        except (OSError, TimeoutError) as exc:
            self._note("", str(exc) or "systemd does not answer")
            return
        self._note("", "")
        for job, properties in shown:
            missing = properties.get("LoadState", "") == UNIT_MISSING
            self._note(job.name, f"systemd knows no unit {job.unit}" if missing else "")
            run = None if missing else run_of(job.unit, properties)
            if run is None or self._told.get(job.name) == run:
                continue
            if await self._keep(record_of(job, run, self._clock.wall_ms())) and run.ended_ms:
                self._told[job.name] = run

    async def _services(self) -> Sequence[tuple[UnitJob, str]]:
        """The service of each job: a timer says which it starts."""
        timers = [job.unit for job in self._jobs if job.unit.endswith(TIMER)]
        started: dict[str, str] = {}
        if timers:
            blocks = read_shown(await self._show(("Id", "Unit"), timers))
            started = {timer: block.get("Unit", "") for timer, block in zip(timers, blocks, strict=False)}
        return [(job, started.get(job.unit) or job.unit.replace(TIMER, ".service")) for job in self._jobs]

    async def _look_at(
        self, services: Sequence[tuple[UnitJob, str]]
    ) -> Sequence[tuple[UnitJob, Mapping[str, str]]]:
        blocks = read_shown(await self._show(PROPERTIES, [service for _, service in services]))
        if len(blocks) != len(services):
            raise OSError(f"systemctl told of {len(blocks)} units, asked for {len(services)}")
        return [(job, block) for (job, _), block in zip(services, blocks, strict=True)]

    def _note(self, job: str, said: str) -> None:
        """Once when something is wrong, and once when it is over."""
        before = self._trouble.get(job, "")
        if said and said != before:
            log.warning("runs of a unit cannot be read", extra=fields(job=job, reason=said))
            self._trouble[job] = said
        elif before and not said:
            log.info("runs of a unit can be read again", extra=fields(job=job))
            del self._trouble[job]
