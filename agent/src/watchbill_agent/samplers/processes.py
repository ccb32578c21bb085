"""Processes and threads: how many there are in each state, and the kernel's limits."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from watchbill_agent.hostpaths import read_text, unreadable
from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    Reading,
    Sampler,
    SamplerFailed,
    Series,
    labels,
)
from watchbill_agent.words import number, shown

PROCESSES_MAX = 200_000
"""More are not counted but refused: at 10 us each, they would take the sampler two seconds."""
STAT_BYTES_MAX = 4096

_THREADS = Family("node_processes_threads", MetricType.GAUGE, "Threads there are.")
_THREADS_MAX = Family("node_processes_max_threads", MetricType.GAUGE, "Threads there can be.")
_STATE = Family("node_processes_state", MetricType.GAUGE, "Processes in this state.")
_THREADS_STATE = Family("node_processes_threads_state", MetricType.GAUGE, "Threads in this state.")
_PIDS = Family("node_processes_pids", MetricType.GAUGE, "Processes there are.")
_PIDS_MAX = Family("node_processes_max_processes", MetricType.GAUGE, "Process numbers there can be.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Nothing to set."""


class Processes(Sampler):
    """Reads /proc/*/stat, and /proc/*/task/*/stat of processes with several threads."""

    name = "processes"
    default_on = False
    interval_s = 10.0
    options_type = Options

    def __init__(self, _options: Options, host: HostPaths) -> None:
        self._proc = host.proc
        # A state once seen stays, at 0 when nobody is in it: else every passing D or Z would be a new layout.
        self._states: dict[str, None] = {}
        self._thread_states: dict[str, None] = {}
        self._layout = Layout((), ())

    def sample(self) -> Reading:
        """Counts by state, totals and limits."""
        threads_max = self._limit("sys/kernel/threads-max")
        pids_max = self._limit("sys/kernel/pid_max")
        states: Counter[str] = Counter()
        thread_states: Counter[str] = Counter()
        threads = 0
        for pid in self._pids():
            read = self._read(f"{pid}/stat")
            if read is None:
                continue
            state, count = read
            states[state] += 1
            threads += count
            thread_states.update([state] if count == 1 else self._states_of_threads(pid))
        if not states:
            raise SamplerFailed(str(self._proc), "shows no processes")
        if states.keys() - self._states.keys() or thread_states.keys() - self._thread_states.keys():
            self._states.update(dict.fromkeys(sorted(states)))
            self._thread_states.update(dict.fromkeys(sorted(thread_states)))
            self._layout = _layout(self._states, self._thread_states)
        return Reading(
            self._layout,
            [
                threads,
                threads_max,
                *(states[state] for state in self._states),
                *(thread_states[state] for state in self._thread_states),
                states.total(),
                pids_max,
            ],
        )

    def _pids(self) -> Iterator[str]:
        try:
            with os.scandir(self._proc) as entries:
                for seen, name in enumerate(entry.name for entry in entries if entry.name.isdigit()):
                    if seen == PROCESSES_MAX:
                        raise SamplerFailed(str(self._proc), f"shows more than {PROCESSES_MAX} processes")
                    yield name
        except OSError as exc:
            raise unreadable(self._proc, exc) from exc

    def _read(self, name: str) -> tuple[str, int] | None:
        """State and number of threads; None when the task has ended meanwhile, or is hidden from us."""
        try:
            descriptor = os.open(self._proc / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.read(descriptor, STAT_BYTES_MAX)
            finally:
                os.close(descriptor)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return None
        except OSError as exc:
            raise unreadable(self._proc / name, exc) from exc
        return parse(name, data)

    def _states_of_threads(self, pid: str) -> list[str]:
        try:
            with os.scandir(self._proc / pid / "task") as entries:
                reads = [self._read(f"{pid}/task/{entry.name}/stat") for entry in entries]
        except OSError:
            return []
        return [read[0] for read in reads if read is not None]

    def _limit(self, name: str) -> int:
        return number(read_text(self._proc / Path(name)).encode(), name, "line 1")


def parse(what: str, data: bytes) -> tuple[str, int]:
    """State and number of threads of a task.

    The second field is its name in parentheses, and the name may hold anything, `) R` and newlines too: the
    last parenthesis ends it. The state is the field after, the number of threads is the 18th from there.
    """
    fields = data.rpartition(b")")[2].split()
    if len(fields) < 18 or len(fields[0]) != 1 or not fields[0].isalpha():
        raise SamplerFailed(what, f"wanted a state and numbers after the name, got {shown(data)}")
    return fields[0].decode("ascii"), number(fields[17], what, "num_threads")


def _layout(states: dict[str, None], thread_states: dict[str, None]) -> Layout:
    return Layout(
        (_THREADS, _THREADS_MAX, _STATE, _THREADS_STATE, _PIDS, _PIDS_MAX),
        [
            Series(_THREADS.name),
            Series(_THREADS_MAX.name),
            *(Series(_STATE.name, labels(state=state)) for state in states),
            *(Series(_THREADS_STATE.name, labels(thread_state=state)) for state in thread_states),
            Series(_PIDS.name),
            Series(_PIDS_MAX.name),
        ],
    )
