"""Sanoid: snapshots of ZFS datasets, here or on the host that they are sent to.

The snapshots are asked of `zfs` itself: sanoid's own verdict (`--monitor-snapshots`) takes a snapshot from the future
for a fresh one, and leaves out kinds that its policy keeps none of. It is asked as well, since it knows the policy.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final

from watchbill.backups.record import TEXT_CHARACTERS_MAX, Level, Outcome, Proof
from watchbill.config import option
from watchbill_agent.backups.adapter import (
    Adapter,
    Check,
    Commands,
    Finished,
    Job,
    Observation,
    Reason,
    RunFacts,
    Snapshot,
    Verification,
    by_exit_code,
    error_lines,
    trouble,
)
from watchbill_agent.backups.tool_answers import Unusable

DATASETS_MAX: Final = 64
FUTURE_MS: Final = 5 * 60_000
"""A snapshot that is newer than now by more than this was taken by a wrong clock."""
TIME_S_MAX: Final = 1 << 33
"""Later than this no snapshot is: year 2242."""
SCRUB_AGE_S_MAX: Final = 35 * 86_400.0
"""How old a scrub may be to prove anything, where the job does not say how old a proof of its data may be."""

DATASET_MISSING: Final = "dataset-missing"
SNAPSHOT_IN_FUTURE: Final = "snapshot-in-future"
SANOID_CRITICAL: Final = "sanoid-critical"
SANOID_WARNING: Final = "sanoid-warning"
POOL_UNHEALTHY: Final = "pool-unhealthy"
SCRUB_NEVER: Final = "scrub-never"
SCRUB_OLD: Final = "scrub-old"
SCRUB_RUNNING: Final = "scrub-running"

_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/ -]{0,254}", re.ASCII)


def _no_datasets(names: Sequence[str]) -> str | None:
    if 0 < len(names) <= DATASETS_MAX and all(_DATASET.fullmatch(name) for name in names):
        return None
    return f"1 to {DATASETS_MAX} names of datasets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which datasets, and which of their snapshots count."""

    datasets: list[str] = option(check=_no_datasets, help="The datasets that have to have snapshots.")
    recursive: bool = option(False, help="Whether the datasets below them count, too.")
    prefix: str = option("", help="Only snapshots whose names begin like this count, such as autosnap_.")
    monitor: bool = option(True, help="Whether sanoid is asked whether its policy is kept.")
    config_dir: Path | None = option(None, help="Sanoid's configuration, where it is not /etc/sanoid.")
    zfs: str = option("zfs", help="The program zfs, where it is not in the agent's PATH.")
    zpool: str = option("zpool", help="The program zpool, where it is not in the agent's PATH.")
    sanoid: str = option("sanoid", help="The program sanoid, where it is not in the agent's PATH.")


# ---------------------------------------------------------------- what the tools print


@dataclass(frozen=True, slots=True)
class ZfsSnapshot:
    """One line of `zfs list`."""

    dataset: str
    name: str
    created_ms: int


def read_snapshots(text: str, prefix: str = "") -> list[ZfsSnapshot]:
    """What `zfs list -Hp -t snapshot -o name,creation` prints. Raises ValueError if it is not that."""
    found = []
    for line in text.splitlines():
        name, tab, creation = line.partition("\t")
        dataset, at, snapshot = name.partition("@")
        if not (tab and at and dataset and snapshot and creation.isascii() and creation.isdigit()):
            raise ValueError(f"a line of zfs list is {line[:80]!r}")
        if len(name) > TEXT_CHARACTERS_MAX or not int(creation[:20]) <= TIME_S_MAX:
            raise ValueError(f"a line of zfs list cannot be: {line[:80]!r}")
        if snapshot.startswith(prefix):
            found.append(ZfsSnapshot(dataset, name, int(creation) * 1000))
    return found


_OLD = re.compile(
    r"(WARN|CRIT): (\S{1,255}?)(?:'s)? newest (\w{1,20}) snapshot is (.{1,80}?) old(?: \(should be < (.{1,80}?)\))?"
)
_NONE = re.compile(r"(WARN|CRIT): (\S{1,255}) has no (\w{1,20}) snapshots at all!?")


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that sanoid says of a dataset."""

    critical: bool
    dataset: str
    text: str


def read_monitor(text: str) -> list[Complaint]:
    """What `sanoid --monitor-snapshots` complains of. One line for all; datasets' names hold no blanks there."""
    found = [
        Complaint(
            level == "CRIT",
            dataset,
            f"{dataset}: the newest {kind} snapshot is {age} old, wanted {limit or '?'}",
        )
        for level, dataset, kind, age, limit in _OLD.findall(text)
    ]
    found += [
        Complaint(level == "CRIT", dataset, f"{dataset}: no {kind} snapshots at all")
        for level, dataset, kind in _NONE.findall(text)
    ]
    return found


@dataclass(frozen=True, slots=True)
class Scan:
    """The last scrub of a pool. `ended_ms` is 0 while it runs, and when none is known: a resilver after it, which reads
    one disk alone, has taken its place."""

    running: bool = False
    ended_ms: int = 0
    errors: int = 0


_SCAN_ENDED = re.compile(
    r"scan: scrub repaired .{1,80}? with (\d{1,12}) errors on "
    r"(?:\w{3} )?(\w{3} [ \d]\d \d\d:\d\d:\d\d \d{4})"
)
_SCAN_RUNS = re.compile(r"scan: scrub (?:in progress|paused)")
_POOL_STATE = re.compile(r"^\s*state: (\w{1,30})", re.MULTILINE)
_POOL_ERRORS = re.compile(r"^errors: (.{1,200})", re.MULTILINE)
_NO_ERRORS: Final = "No known data errors"
_HEALTHY = re.compile(r"^(all pools are healthy|pool '[^']{1,255}' is healthy)$", re.MULTILINE)


def read_scan(text: str) -> Scan:
    """The scan of a pool as `zpool status` tells it, with the times of `TZ=UTC`."""
    if ended := _SCAN_ENDED.search(text):
        try:
            when = datetime.strptime(ended[2], "%b %d %H:%M:%S %Y").replace(tzinfo=UTC)
        except ValueError:
            return Scan()
        return Scan(ended_ms=int(when.timestamp() * 1000), errors=int(ended[1]))
    return Scan(running=bool(_SCAN_RUNS.search(text)))


def pool_faults(text: str) -> list[str]:
    """What is not as it should be about a pool, as `zpool status` tells it."""
    states = [state for state in _POOL_STATE.findall(text) if state != "ONLINE"]
    errors = [said for said in _POOL_ERRORS.findall(text) if said.strip() != _NO_ERRORS]
    return [f"the pool is {state}" for state in states] + [f"errors: {said.strip()}" for said in errors]


_NO_ZFS: Final = ("modules are not loaded", "module is not loaded", "failed to initialize zfs library")
_RUNNER_TEXT: Final = (
    "the agent's user may not ask zfs: let it open /dev/zfs, or observe the job where it may"
)


def failure(finished: Finished, program: str) -> tuple[str, tuple[str, ...]]:
    """The reason and the errors of a command that did not end well."""
    if said := trouble(finished, program):
        return said
    text = (finished.stderr + b"\n" + finished.stdout).decode("utf-8", "replace")
    said_low = text.lower()
    if "permission denied" in said_low or "must be run as root" in said_low:
        return Reason.NEEDS_RUNNER, error_lines(text, _RUNNER_TEXT)
    if "does not exist" in said_low or "no such pool" in said_low:
        return DATASET_MISSING, error_lines(text)
    if any(words in said_low for words in _NO_ZFS):
        return Reason.REPOSITORY_UNREACHABLE, error_lines(text)
    return Reason.TOOL_FAILED, error_lines(text, f"{program} ended with {finished.exit_code}")


# ---------------------------------------------------------------- the adapter


@dataclass
class _Looked:
    """What is found out of all datasets. `fatal`: of one of them nothing can be restored."""

    snapshots: list[ZfsSnapshot] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    fatal: bool = False

    def add(self, reason: str, text: str, *, fatal: bool = False) -> None:
        """A fault; the first fatal one, else the first, gives the reason."""
        self.faults.insert(0 if fatal and not self.fatal else len(self.faults), (reason, text))
        self.fatal = self.fatal or fatal


class Sanoid(Adapter):
    """Asks zfs for snapshots, sanoid for its policy, zpool for its health and its last scrub; changes nothing."""

    name: ClassVar[str] = "sanoid"
    options_type: ClassVar[type[Any]] = Options
    levels: ClassVar[frozenset[Level]] = frozenset({Level.STRUCTURE, Level.DATA})

    def __init__(self, options: Options, job: Job, commands: Commands) -> None:
        self._options = options
        self._job = job
        self._commands = commands

    def observe(self, now_ms: int) -> Observation:
        """All snapshots, and the newest point that all datasets have."""
        looked = _Looked()
        try:
            for dataset in self._options.datasets:
                self._look_at(dataset, looked)
        except Unusable as silent:
            return Observation(outcome=Outcome.UNKNOWN, reason=silent.reason, errors=silent.errors)
        point_ms = _common_point(looked, now_ms)
        if self._options.monitor:
            self._ask_sanoid(looked)
        outcome = Outcome.FAILED if looked.fatal else Outcome.PARTIAL if looked.faults else Outcome.OK
        if not looked.fatal and not point_ms:
            outcome = Outcome.UNKNOWN
        return Observation(
            outcome=outcome,
            reason=looked.faults[0][0] if looked.faults else "",
            errors=error_lines((), *(text for _, text in looked.faults)),
            snapshots=tuple(Snapshot(id=found.name, time_ms=found.created_ms) for found in looked.snapshots),
            point_ms=0 if looked.fatal else point_ms,
        )

    def verify(self, check: Check, now_ms: int) -> Verification:
        """STRUCTURE: the pools are healthy. DATA: and their last scrub, which is not too old, found nothing."""
        faults: list[str] = []
        scrubbed_ms: list[int] = []
        try:
            for pool in sorted({dataset.partition("/")[0] for dataset in self._options.datasets}):
                text = self._ask(self._options.zpool, "status", pool).decode("utf-8", "replace")
                if not _POOL_STATE.search(text):
                    raise Unusable(
                        Reason.OUTPUT_UNREADABLE, error_lines(text, "`zpool status` names no state")
                    )
                faults += [f"{pool}: {fault}" for fault in pool_faults(text)]
                if check.level is Level.DATA:
                    scan = read_scan(text)
                    faults += [f"{pool}: {fault}" for fault in self._scrub_faults(pool, scan, now_ms)]
                    scrubbed_ms.append(scan.ended_ms)
        except Unusable as silent:
            return Verification(outcome=Outcome.UNKNOWN, reason=silent.reason, errors=silent.errors)
        return Verification(
            outcome=Outcome.FAILED if faults else Outcome.OK,
            proof=Proof(level=check.level, ok=not faults, bad=len(faults)),
            reason=POOL_UNHEALTHY if faults else "",
            errors=error_lines((), *faults),
            proved_ms=min(scrubbed_ms, default=0),
        )

    def read_run(self, exit_code: int, stdout: bytes, stderr: bytes) -> RunFacts:
        """Sanoid ends well when zfs did not, and says so: `CRITICAL ERROR: zfs snapshot ... failed, 256`."""
        text = (stdout + b"\n" + stderr).decode("utf-8", "replace")
        failed = [
            line for line in text.splitlines() if "CRITICAL ERROR" in line or "could not remove" in line
        ]
        if exit_code == 0 and failed:
            return RunFacts(outcome=Outcome.PARTIAL, reason=Reason.TOOL_FAILED, errors=error_lines(failed))
        return by_exit_code(exit_code)

    # ---- asking

    def _ask(self, *argv: str) -> bytes:
        finished = self._commands.run(argv)
        if not finished.ok:
            raise Unusable(*failure(finished, argv[0]))
        return finished.stdout

    def _look_at(self, dataset: str, looked: _Looked) -> None:
        depth = ("-r",) if self._options.recursive else ("-d", "1")
        try:
            text = self._ask(
                self._options.zfs, "list", "-Hp", *depth, "-t", "snapshot", "-o", "name,creation", dataset
            )
            found = read_snapshots(text.decode("utf-8", "replace"), self._options.prefix)
        except Unusable as silent:
            if silent.reason != DATASET_MISSING:
                raise
            looked.add(DATASET_MISSING, f"there is no dataset {dataset}: is its pool imported?", fatal=True)
            return
        except ValueError as exc:
            raise Unusable(Reason.OUTPUT_UNREADABLE, error_lines((), str(exc))) from exc
        if not found:
            looked.add(Reason.NO_SNAPSHOTS, f"{dataset} has no snapshots{self._which()}", fatal=True)
        looked.snapshots += found

    def _which(self) -> str:
        return f" that begin with {self._options.prefix}" if self._options.prefix else ""

    def _ask_sanoid(self, looked: _Looked) -> None:
        config = (f"--configdir={self._options.config_dir}",) if self._options.config_dir else ()
        # With a cache of its own: sanoid's is root's, and holds what was there up to 15 minutes ago.
        scratch = self._job.scratch
        own = (f"--cache-dir={scratch}/sanoid", f"--run-dir={scratch}/sanoid") if scratch else ()
        finished = self._commands.run((self._options.sanoid, *config, *own, "--monitor-snapshots"))
        said = read_monitor(finished.stdout.decode("utf-8", "replace"))
        # Perl dies with 2, too, which would be critical.
        if finished.exit_code not in (0, 1, 2) or (finished.exit_code and not said) or finished.truncated:
            reason, errors = failure(finished, self._options.sanoid)
            looked.add(
                reason, f"sanoid does not say whether its policy is kept: {' '.join(errors[-1:]) or reason}"
            )
            return
        # What it complains of and ends with 0, its configuration says not to mind.
        complaints = list(self._ours(said)) if finished.exit_code else []
        for complaint in sorted(complaints, key=lambda complaint: not complaint.critical):
            looked.add(SANOID_CRITICAL if complaint.critical else SANOID_WARNING, complaint.text)

    def _ours(self, complaints: list[Complaint]) -> Iterator[Complaint]:
        for complaint in complaints:
            for dataset in self._options.datasets:
                below = self._options.recursive and complaint.dataset.startswith(f"{dataset}/")
                if complaint.dataset == dataset or below:
                    yield complaint
                    break

    def _scrub_faults(self, pool: str, scan: Scan, now_ms: int) -> list[str]:
        """What a scrub found. Raises Unusable when none proves anything."""
        if scan.running:
            raise Unusable(
                SCRUB_RUNNING, (f"{pool} is being scrubbed: what it finds is read when it has ended",)
            )
        if not scan.ended_ms:
            raise Unusable(
                SCRUB_NEVER, (f"no scrub of {pool} is known: run zpool scrub {pool}, and regularly",)
            )
        limit_s = self._job.definition.verify.data_s or SCRUB_AGE_S_MAX
        age_s = (now_ms - scan.ended_ms) / 1000
        if age_s > limit_s:
            text = f"the last scrub of {pool} is {age_s / 86_400:.0f} days old, wanted {limit_s / 86_400:.0f}"
            raise Unusable(SCRUB_OLD, (f"{text}: run zpool scrub {pool}, and regularly",))
        return [f"the last scrub found {scan.errors} errors"] if scan.errors else []


def _common_point(looked: _Looked, now_ms: int) -> int:
    """The newest time that all datasets have a snapshot of: what is older in one of them is not to be claimed of all.
    A snapshot from the future counts for nothing."""
    newest: dict[str, int] = {}
    for found in looked.snapshots:
        newest.setdefault(found.dataset, 0)
        if found.created_ms <= now_ms + FUTURE_MS:
            newest[found.dataset] = max(newest[found.dataset], found.created_ms)
    future = [found for found in looked.snapshots if found.created_ms > now_ms + FUTURE_MS]
    if future:
        when = datetime.fromtimestamp(max(found.created_ms for found in future) / 1000, UTC)
        text = f"{len(future)} snapshots are from the future, up to {when:%Y-%m-%d %H:%M} UTC: was the clock wrong?"
        looked.add(SNAPSHOT_IN_FUTURE, text)
    return min(newest.values(), default=0)
