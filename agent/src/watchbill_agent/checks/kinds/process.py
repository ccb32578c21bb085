"""Counts processes by name, program, command line, user or pidfile, and says what they use. Fails when there are too
few or too many, or when a number is over a limit.

Series are process-exporter's, with the check's name as `groupname`. Counters go on when a process ends; they begin anew
with the agent. The agent sees open files and shared memory of its own user's processes only: those of others are left
out and counted as unreadable.

Reasons: `too-few`, `too-many`, `over-warn`, `over-fail`, `pidfile` (missing, unreadable or of a process that is gone),
`no-user`, `not-installed`, `stuck` (reading /proc or the pidfile does not end), `too-many-processes` (more than can be
walked).
"""

import asyncio
import os
import pwd
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from watchbill.config import Wrong, option
from watchbill.config.convert import show_value
from watchbill_agent.checks import regex
from watchbill_agent.checks.apart import READER
from watchbill_agent.checks.check import About, Failed, Outcome, Probe, Samples, Verdict
from watchbill_agent.checks.process_table import Process, Walk, read_file, table_of
from watchbill_agent.checks.thresholds import LIMITS_MAX, Thresholds, limits_wrong

COMM_CHARACTERS: Final = 15
"""Of a name, that the kernel keeps."""
PIDFILE_BYTES_MAX: Final = 64
PIDFILE_LATE_S: Final = 10.0
"""A process that began so much later than its pidfile was written is another one with the same number."""
MATCHED_MAX: Final = 20_000
SHOWN_MAX: Final = 5
STATES: Final = {"R": "Running", "S": "Sleeping", "D": "Waiting", "Z": "Zombie"}
"""Others (stopped, idle) are `Other`, as process-exporter has them."""
NUMBERS: Final = (
    "processes",
    "zombies",
    "threads",
    "open_files",
    "memory_bytes",
    "virtual_bytes",
    "pss_bytes",
    "cpu_cores",
    "oldest_seconds",
    "newest_seconds",
)
_MODES: Final = (("user", 11), ("system", 12))
_FAULTS: Final = (("minor", 7), ("major", 9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which processes, and how many there should be. All that is said has to fit."""

    comm: str = option("", help="The name, as `ps -o comm` prints it.", example='"nginx"')
    exe: str = option(
        "",
        check=lambda value: None if not value or value.startswith("/") else "an absolute path",
        help="The program; of other users' processes, the first word of the command line.",
        example='"/usr/sbin/nginx"',
    )
    cmdline: str = option("", help="A regular expression (RE2's) that the command line holds.")
    user: str = option("", help="The user's name or number.", example='"www-data"')
    pidfile: Path | None = option(None, help="The file that holds its number.", example='"/run/nginx.pid"')
    min: int = option(1, at_least=0, at_most=MATCHED_MAX, help="Fewer fail.")
    max: int | None = option(None, at_least=0, at_most=MATCHED_MAX, help="More fail.")
    pss: bool = option(
        False, help="Also the proportional share of memory, which costs milliseconds a process."
    )
    warn: list[str] = option(
        [],
        length_max=LIMITS_MAX,
        check=limits_wrong,
        help=f"Limits on {', '.join(NUMBERS)}.",
        example='["memory_bytes > 2GiB"]',
    )
    fail: list[str] = option(
        [],
        length_max=LIMITS_MAX,
        check=limits_wrong,
        help="Limits that are far too much.",
        example='["zombies > 0"]',
    )

    def check(self) -> Iterator[Wrong]:
        """Something has to be looked for, and be possible."""
        if not (self.comm or self.exe or self.cmdline or self.user or self.pidfile):
            yield Wrong("comm", "nothing", "which processes: comm, exe, cmdline, user or pidfile")
        if self.max is not None and self.max < self.min:
            yield Wrong("max", show_value(self.max), f"at least min, {self.min}")


@dataclass(slots=True)
class Found:
    """What the processes that fit are like, together."""

    processes: int = 0
    threads: int = 0
    resident_bytes: int = 0
    virtual_bytes: int = 0
    pss_bytes: int | None = None
    open_files: int | None = None
    unreadable: int = 0
    """Processes whose open files are not for us."""
    oldest_s: float = 0.0
    newest_s: float = 0.0
    """When they began, in seconds since 1970; 0 without any."""


class Processes(Probe):
    """Looks for processes."""

    kind = "process"
    options_type = Options
    interval_s = 10.0
    timeout_s = 5.0
    retries = 1

    def __init__(self, options: Options, about: About) -> None:
        super().__init__(options, about)
        self._thresholds = Thresholds("process", options, NUMBERS)
        self._cmdline = regex.compiled(options.cmdline, about.name, "cmdline") if options.cmdline else None
        self._known: dict[tuple[int, int], tuple[int, ...]] = {}
        self._ticks = [0, 0, 0, 0]
        self._cpu: tuple[float, int] | None = None

    async def look(self, within_s: float) -> Outcome:
        """Look once."""
        if self.options.cmdline and self._cmdline is None:
            detail = "google-re2 is missing: install watchbill-agent[checks]"
            raise Failed("not-installed", detail, verdict=Verdict.UNKNOWN)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + within_s
        pidfile = None
        if self.options.pidfile is not None:
            path = self.about.rootfs / str(self.options.pidfile).lstrip("/")
            pidfile = await READER.read((path,), partial(_read_pidfile, path), "stuck", until_s)
        return await table_of(self.about.procfs).ask(partial(self._answer, pidfile), until_s - loop.time())

    # ------------------------------------------------------------ in the table's thread

    def _answer(self, pidfile: "_Pidfile | None", walk: Walk) -> Outcome:
        options: Options = self.options
        pid = self._pid(walk, pidfile) if pidfile is not None else None
        uid = _uid(options.user)
        matched = [one for one in walk.processes if self._fits(walk, one, pid, uid)][:MATCHED_MAX]
        alive = [one for one in matched if one.state not in "ZX"]
        found = self._summed(walk, alive)
        cores = self._add_ticks(walk, matched)
        samples = self._samples(walk, found, matched)
        numbers = _numbers(found, len(matched) - len(alive), cores)
        names = ", ".join(f"{one.comm} {one.pid}" for one in alive[:SHOWN_MAX])
        if found.processes < options.min:
            detail = f"got {found.processes} processes, wanted at least {options.min} {self._wanted()}"
            return Outcome(Verdict.CRITICAL, "too-few", detail, samples)
        if options.max is not None and found.processes > options.max:
            detail = (
                f"got {found.processes} processes ({names}), wanted at most {options.max} {self._wanted()}"
            )
            return Outcome(Verdict.CRITICAL, "too-many", detail, samples)
        return self._thresholds.judge(
            numbers, samples, f"{found.processes} processes: {names}" if names else "none"
        )

    def _wanted(self) -> str:
        options: Options = self.options
        said = {key: getattr(options, key) for key in ("comm", "exe", "cmdline", "user", "pidfile")}
        return "with " + ", ".join(f"{key} {value}" for key, value in said.items() if value)

    def _fits(self, walk: Walk, one: Process, pid: int | None, uid: int | None) -> bool:
        """The cheapest questions first."""
        options: Options = self.options
        if pid is not None and one.pid != pid:
            return False
        if options.comm and one.comm != options.comm[:COMM_CHARACTERS]:
            return False
        if not options.exe and self._cmdline is None and uid is None:
            return True
        facts = walk.facts(one)
        if uid is not None and facts.uid != uid:
            return False
        if options.exe and options.exe != (facts.exe or (facts.cmdline[0] if facts.cmdline else "")):
            return False
        words = " ".join(facts.cmdline).encode("utf-8", "replace")
        return self._cmdline is None or self._cmdline.found_in(words)

    def _pid(self, walk: Walk, pidfile: "_Pidfile") -> int:
        """The process of the pidfile, which is there."""
        options: Options = self.options
        content = pidfile.content.split()
        if not content or not content[0].isdigit():
            got = f"got {content[0][:20]!r} in it" if content else "cannot be read, or is empty"
            raise Failed("pidfile", f"{options.pidfile}: {got}, wanted the number of a process")
        pid = int(content[0])
        for one in walk.processes:
            if one.pid == pid:
                began_s = _began_s(walk, one)
                if began_s > pidfile.written_s + PIDFILE_LATE_S:
                    raise Failed(
                        "pidfile", f"{options.pidfile}: {pid} is another process, younger than the file"
                    )
                return pid
        raise Failed("pidfile", f"{options.pidfile}: there is no process {pid}")

    def _summed(self, walk: Walk, alive: list[Process]) -> Found:
        found = Found(len(alive))
        for one in alive:
            found.threads += int(one.fields[17])
            found.virtual_bytes += int(one.fields[20])
            found.resident_bytes += max(0, int(one.fields[21])) * walk.page_bytes
            place = f"{walk.procfs}/{one.pid}"
            files = _counted(f"{place}/fd")
            if files is None:
                found.unreadable += 1
            else:
                found.open_files = (found.open_files or 0) + files
            if self.options.pss and (pss := _pss_bytes(place)) is not None:
                found.pss_bytes = (found.pss_bytes or 0) + pss
        if alive:
            began = [_began_s(walk, one) for one in alive]
            found.oldest_s, found.newest_s = min(began), max(began)
        return found

    def _add_ticks(self, walk: Walk, matched: list[Process]) -> float | None:
        """Count on by what each process used since it was seen last; the cores that they kept busy meanwhile."""
        now = {one.key: tuple(int(one.fields[at]) for _, at in (*_MODES, *_FAULTS)) for one in matched}
        used = 0
        for key, counts in now.items():
            before = self._known.get(key, (0,) * len(counts))
            for at, (count, known) in enumerate(zip(counts, before, strict=True)):
                self._ticks[at] += max(0, count - known)
            used += sum(counts[:2]) - sum(before[:2]) if key in self._known else 0
        self._known = now
        before_s, self._cpu = self._cpu, (walk.at_s, used)
        if before_s is None or walk.at_s <= before_s[0]:
            return None
        return max(0, used) / walk.tick_hz / (walk.at_s - before_s[0])

    def _samples(self, walk: Walk, found: Found, matched: list[Process]) -> Samples:
        samples, group = Samples(), self.about.name
        samples.gauge(
            "namedprocess_namegroup_num_procs", "Processes that run.", found.processes, groupname=group
        )
        for at, (mode, _) in enumerate(_MODES):
            value = self._ticks[at] / walk.tick_hz
            name, help_ = "namedprocess_namegroup_cpu_seconds_total", "CPU time, of ended processes too."
            samples.counter(name, help_, value, groupname=group, mode=mode)
        for at, (kind, _) in enumerate(_FAULTS, len(_MODES)):
            name, help_ = f"namedprocess_namegroup_{kind}_page_faults_total", f"{kind.title()} page faults."
            samples.counter(name, help_, self._ticks[at], groupname=group)
        memory = [("resident", found.resident_bytes), ("virtual", found.virtual_bytes)]
        if found.pss_bytes is not None:
            memory.append(("proportionalResident", found.pss_bytes))
        for kind, bytes_ in memory:
            name = "namedprocess_namegroup_memory_bytes"
            samples.gauge(name, "Memory in use.", bytes_, groupname=group, memtype=kind)
        name = "namedprocess_namegroup_num_threads"
        samples.gauge(name, "Threads.", found.threads, groupname=group)
        if found.open_files is not None:
            name = "namedprocess_namegroup_open_filedesc"
            samples.gauge(
                name, "Open files, of the processes that are readable.", found.open_files, groupname=group
            )
        name = "watchbill_check_process_unreadable"
        samples.gauge(name, "Processes whose open files this user may not see.", found.unreadable)
        if found.processes:
            name = "namedprocess_namegroup_oldest_start_time_seconds"
            samples.gauge(name, "When the oldest began.", found.oldest_s, groupname=group)
            name = "watchbill_check_process_newest_start_time_seconds"
            samples.gauge(name, "When the newest began.", found.newest_s)
        counts = dict.fromkeys((*STATES.values(), "Other"), 0)
        for one in matched:
            counts[STATES.get(one.state, "Other")] += 1
        for state, count in counts.items():
            name = "namedprocess_namegroup_states"
            samples.gauge(name, "Processes in this state.", count, groupname=group, state=state)
        return samples


def _numbers(found: Found, zombies: int, cores: float | None) -> dict[str, float]:
    now_s = time.time()
    numbers: dict[str, float | None] = {
        "processes": found.processes,
        "zombies": zombies,
        "threads": found.threads,
        "open_files": found.open_files,
        "memory_bytes": found.resident_bytes,
        "virtual_bytes": found.virtual_bytes,
        "pss_bytes": found.pss_bytes,
        "cpu_cores": cores,
        "oldest_seconds": now_s - found.oldest_s if found.processes else None,
        "newest_seconds": now_s - found.newest_s if found.processes else None,
    }
    return {name: value for name, value in numbers.items() if value is not None}


class _Pidfile(NamedTuple):
    content: bytes
    written_s: float


def _read_pidfile(path: Path) -> _Pidfile:
    """Empty where there is none, or none for us; blocks."""
    content = read_file(str(path), PIDFILE_BYTES_MAX)
    try:
        return _Pidfile(content or b"", path.stat().st_mtime)
    except OSError:
        return _Pidfile(b"", 0.0)


def _began_s(walk: Walk, one: Process) -> float:
    return walk.boot_s + int(one.fields[19]) / walk.tick_hz


def _counted(path: str) -> int | None:
    try:
        with os.scandir(path) as entries:
            return sum(1 for _ in entries)
    except OSError:
        return None


def _pss_bytes(place: str) -> int | None:
    for line in (read_file(f"{place}/smaps_rollup", 4096) or b"").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return None


def _uid(user: str) -> int | None:
    """Looked up each time: a package may make it anew."""
    if not user:
        return None
    if user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise Failed("no-user", f"there is no user {user} on this host", verdict=Verdict.UNKNOWN) from None
