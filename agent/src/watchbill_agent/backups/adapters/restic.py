"""restic: the snapshots of a repository, who holds its locks, how much is in it; its structure, its data part by part,
and a restore are verified.

Every command runs with `--no-lock`: `restic check` would lock out the very backup that it checks. The address of the
repository goes by the environment, since it may hold a password, and the password by its file or command.

What restic says, and what is so (0.14 to 0.19):

1. A source that is not there is a line on stderr and exit code 0 before 0.19: half a backup. It is PARTIAL here.
2. A snapshot's file that is damaged is a line on stderr, exit code 0 and one snapshot less: it is PARTIAL here.
3. No repository, a lock, a wrong password are all exit code 1 before 0.17, then 10, 11, 12: the text is read, too.
4. `check` without data calls flipped bits in the data no error. Only the level `data` is proof of it.
5. A process that was killed leaves its lock; backups go on and nothing is ever forgotten or pruned again.
6. Before 0.17 a snapshot does not know its size: it is asked for, which reads the snapshot's whole tree.

Where root's runner reads the repository, it is asked for what is the same command each time: whose a lock is, a part of
the data and a restore are not.
"""

import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from watchbill.backups.record import Level, Outcome, Proof
from watchbill.config import Wrong, option
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
    error_lines,
)
from watchbill_agent.backups.fixed import NO_COMMAND, PASSWORD_IN_ADDRESS, PLAIN_ADDRESS, fixed, not_fixed
from watchbill_agent.backups.manifest_check import DIFFERENT, unlike
from watchbill_agent.backups.printed.restic import (
    PASSWORD_MISSING,
    SNAPSHOT_LOST,
    Listed,
    Lock,
    Stats,
    read_backup,
    read_environment,
    read_lock,
    read_snapshots,
    read_version,
    why_failed,
    words,
)
from watchbill_agent.backups.restoring import NoPlace, count, restore_place
from watchbill_agent.backups.tool_answers import (
    Unusable,
    proved,
    read_document,
    readable,
    usable,
)

T = TypeVar("T")

ANY_HOST: Final = "*"
PARTS_MAX: Final = 256
"""restic divides packs by the first byte of their name."""
LOCKS_MAX: Final = 16
"""Locks that are looked at; more of them are counted."""
_OURS: Final = ("RESTIC_REPOSITORY", "RESTIC_PASSWORD", "RESTIC_CACHE", "RESTIC_HOST")
"""What the options say; restic refuses to be told twice."""
ENVIRONMENT_BYTES_MAX: Final = 64 * 1024

LOCK_STALE: Final = "lock-stale"
SNAPSHOTS_UNREADABLE: Final = "snapshots-unreadable"
SNAPSHOT_UNREADABLE: Final = "snapshot-unreadable"
REPOSITORY_BUSY: Final = "repository-busy"
CLOCK_AHEAD: Final = "clock-ahead"
RESTORE_DIFFERS: Final = "restore-differs"
AHEAD_MS_MAX: Final = 10 * 60_000
"""How far a snapshot may be ahead of this host's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How restic finds the repository, and which of its snapshots are this job's."""

    repository: str = option(
        "", help="Where the repository is, as restic's -r takes it.", example='"/srv/restic"'
    )
    repository_file: Path | None = option(None, help="File with that, where the address is a secret.")
    password_file: Path | None = option(None, help="File with the repository's password.")
    password_command: str = option("", help="Command that prints the password.")
    environment_file: Path | None = option(
        None, help="File with lines NAME=VALUE for a backend; a repository or password in it does not count."
    )
    cacert: Path | None = option(None, help="Certificates that the repository's server is judged by.")
    host: str = option("", help='Whose snapshots count: a host\'s name; "": this machine; "*": anyone\'s.')
    tags: tuple[str, ...] = option((), help="Tags that a snapshot needs to count, all of them.")
    paths: tuple[str, ...] = option((), help="Paths that a snapshot needs to count, all of them.")
    sizes: Literal["none", "source", "stored"] = option(
        "source",
        help="What is measured: nothing, the newest snapshot, or also all that is stored (reads every tree).",
    )
    restore_dir: Path | None = option(
        None, help="Directory for verification by restore: a snapshot is restored there, and removed again."
    )
    program: str = option("restic", help="The program's name or path.")
    runner: bool = option(False, help="Root's runner reads it, by the commands that observe.d has.")

    def check(self) -> Iterable[Wrong]:
        """Exactly one address and one password; of both no more than a file's name, where the runner is to read it."""
        if self.runner and self.environment_file is not None:
            wanted = "a program of root's that sets them, where the runner reads the repository"
            yield Wrong("environment_file", str(self.environment_file), wanted)
        if self.runner and self.password_command:
            yield Wrong("password_command", "a command", NO_COMMAND)
        if self.runner and PASSWORD_IN_ADDRESS.search(self.repository):
            yield Wrong("repository", "an address with a password", PLAIN_ADDRESS)
        if bool(self.repository) == (self.repository_file is not None):
            yield Wrong("repository", _got(self.repository), "either repository or repository_file")
        if bool(self.password_command) == (self.password_file is not None):
            yield Wrong(
                "password_file", _got(self.password_command), "either password_file or password_command"
            )


def _got(text: str) -> str:
    return "both" if text else "neither"


# ---------------------------------------------------------------- the adapter


class Restic(Adapter):
    """Reads a restic repository with the host's own restic, and locks nothing."""

    name = "restic"
    options_type = Options
    levels = frozenset(Level)

    def __init__(self, options: Options, job: Job, commands: Commands) -> None:
        self._options = options
        self._job = job
        self._commands = commands
        self._host = options.host or socket.gethostname()
        self._program: tuple[str, ...] = (options.program,)
        self._env: dict[str, str] = {}
        self._version = ""

    def observe(self, now_ms: int) -> Observation:
        """Look once."""
        try:
            return self._look(now_ms)
        except Unusable as no:
            return Observation(
                outcome=no.outcome, reason=no.reason, errors=no.errors, tool_version=self._version
            )

    def proves(self) -> frozenset[Level]:
        """A restore needs a place."""
        return self.levels if self._options.restore_dir is not None else self.levels - {Level.RESTORE}

    def verify(self, check: Check, now_ms: int) -> Verification:
        """Verify once. What was found while somebody else changed the repository proves nothing."""
        try:
            self._open()
            self._nobody_alone(now_ms)
            if check.level is Level.RESTORE:
                if self._options.runner:
                    raise not_fixed("a restore")
                return self._restore(now_ms)
            return self._check(check, now_ms)
        except Unusable as no:
            damaged = no.outcome is Outcome.FAILED
            return Verification(
                outcome=no.outcome,
                proof=Proof(level=check.level, ok=False, bad=1) if damaged else None,
                reason=no.reason,
                errors=no.errors,
                tool_version=self._version,
            )

    def read_run(self, exit_code: int, stdout: bytes, stderr: bytes) -> RunFacts:
        """What a wrapped `restic backup` printed."""
        return read_backup(exit_code, stdout, stderr)

    # ------------------------------------------------------------ looking

    def _look(self, now_ms: int) -> Observation:
        self._open()
        repo_id = self._repository_id()
        listing = self._run(("snapshots", "--json", *self._filters()))
        ours = [each for each in self._parsed(listing, read_snapshots) if self._counts(each)]
        ours.sort(key=lambda each: each.time_ms)
        lock_ids = self._lock_ids(must=not self._options.runner)
        locks = self._locks(lock_ids or ())
        stale = [lock for lock in locks if not lock.alive(now_ms)]
        bytes_source, files, bytes_stored, size_errors = self._sizes(ours)
        outcome, reason, errors = self._judge(ours, listing, stale, size_errors, now_ms)
        return Observation(
            outcome=outcome,
            reason=reason,
            errors=error_lines(errors),
            snapshots=tuple(Snapshot(id=each.id, time_ms=each.time_ms) for each in ours),
            running=any(not lock.exclusive and lock.alive(now_ms) for lock in locks),
            repo_locked=None if lock_ids is None else bool(lock_ids),
            repo_id=str(repo_id),
            tool_version=self._version,
            bytes_source=bytes_source,
            bytes_stored=bytes_stored,
            files=files,
            raw_digest=sha256(listing.stdout).hexdigest(),
        )

    def _judge(
        self,
        ours: Sequence[Listed],
        listing: Finished,
        stale: Sequence[Lock],
        size_errors: Sequence[str],
        now_ms: int,
    ) -> tuple[Outcome, str, list[str]]:
        """The worst first."""
        unreadable = [line for line in words(listing.stderr) if SNAPSHOT_LOST.search(line)]
        if unreadable:
            return Outcome.PARTIAL, SNAPSHOTS_UNREADABLE, unreadable
        if size_errors:
            said = f"snapshot {ours[-1].id[:8]} cannot be read through; try: restic check --read-data"
            return Outcome.PARTIAL, SNAPSHOT_UNREADABLE, [said, *size_errors]
        if ours and ours[-1].time_ms > now_ms + AHEAD_MS_MAX:
            said = f"snapshot {ours[-1].id[:8]} is of {ours[-1].time}, which is yet to come"
            return Outcome.OK, CLOCK_AHEAD, [said]
        if stale:
            said = "a lock whose process is gone keeps this repository from being pruned: restic unlock"
            return Outcome.PARTIAL, LOCK_STALE, [said, *map(str, stale)]
        if not ours:
            return self._nothing()
        return Outcome.OK, "", []

    def _nothing(self) -> tuple[Outcome, str, list[str]]:
        """Whether it is empty, or full of others'."""
        wanted = " ".join(self._filters()) or "these options"
        if self._options.runner:
            return Outcome.OK, Reason.NO_SNAPSHOTS, [f"this repository holds no snapshot of {wanted}"]
        others = self._parsed(self._run(("snapshots", "--json", "--latest", "1")), read_snapshots)
        if not others:
            return Outcome.OK, Reason.NO_SNAPSHOTS, ["this repository holds no snapshot at all"]
        hosts = ", ".join(sorted({each.hostname for each in others})[:10])
        return (
            Outcome.OK,
            Reason.REPOSITORY_FOREIGN,
            [f"no snapshot of {wanted}; there are some of the hosts {hosts}"],
        )

    def _filters(self) -> tuple[str, ...]:
        """What is asked for. restic takes several --tag as one of them, and a list in one --tag as all of them."""
        options = self._options
        host = () if self._host == ANY_HOST else ("--host", self._host)
        tags = ("--tag", ",".join(options.tags)) if options.tags else ()
        return (*host, *tags, *(part for path in options.paths for part in ("--path", path)))

    def _counts(self, snapshot: Listed) -> bool:
        """Asked again here: what an older restic leaves in would be somebody else's backup."""
        return (
            self._host in (ANY_HOST, snapshot.hostname)
            and set(self._options.tags) <= set(snapshot.tags or ())
            and set(self._options.paths) <= set(snapshot.paths or ())
        )

    def _repository_id(self) -> str:
        """ "" where the runner reads it and is not let tell this."""
        finished = self._run(("cat", "config"), must=not self._options.runner)
        if not finished.ok:
            return ""
        config = self._parsed(finished, lambda document: read_document(document, dict[str, Any], "restic"))
        return str(config.get("id", ""))

    def _lock_ids(self, *, must: bool = True) -> list[str] | None:
        """None where the runner reads it and is not let tell this."""
        listed = self._run(("list", "locks", "--quiet"), must=must)
        if not listed.ok:
            return None
        return [one.decode() for one in re.findall(rb"^[0-9a-f]{64}$", listed.stdout, re.MULTILINE)]

    def _locks(self, ids: Sequence[str]) -> list[Lock]:
        """Whose they are, which the runner is never asked: it would be another command each time."""
        locks: list[Lock] = []
        for lock_id in () if self._options.runner else ids[:LOCKS_MAX]:
            finished = self._run(("cat", "lock", lock_id), must=False)
            if finished.ok:  # One that is gone again since was no lock to tell of.
                locks.append(self._parsed(finished, read_lock))
        return locks

    def _written(self, now_ms: int) -> bool:
        """Whether somebody may be writing. Raises Unusable where that cannot be known."""
        ids = self._lock_ids() or []
        return bool(ids) if self._options.runner else any(one.alive(now_ms) for one in self._locks(ids))

    def _sizes(self, ours: Sequence[Listed]) -> tuple[int | None, int | None, int | None, list[str]]:
        """Of the newest snapshot: bytes and files; all that is stored; what was in the way."""
        wanted = self._options.sizes
        if wanted == "none" or not ours:
            return None, None, None, []
        stored: int | None = None
        errors: list[str] = []
        if wanted == "stored":
            all_stats, errors = self._stats("--mode", "raw-data")
            stored = all_stats.total_size if all_stats else None
        known = ours[-1].summary
        if known is not None and known.total_bytes_processed is not None:
            return known.total_bytes_processed, known.total_files_processed, stored, errors
        which = ("latest", *self._filters()) if self._options.runner else (ours[-1].id,)
        newest, newest_errors = self._stats("--mode", "restore-size", *which)
        if newest is None:
            return None, None, stored, [*errors, *newest_errors]
        return newest.total_size, None, stored, errors

    def _stats(self, *arguments: str) -> tuple[Stats | None, list[str]]:
        finished = self._run(("stats", "--json", *arguments), must=False)
        if not finished.ok:
            return None, words(finished.stderr)
        return self._parsed(finished, lambda document: read_document(document, Stats, "restic")), []

    # ------------------------------------------------------------ verifying

    def _check(self, check: Check, now_ms: int) -> Verification:
        parts = 1 if self._options.runner else min(check.parts, PARTS_MAX)
        arguments: tuple[str, ...] = ("check",)
        if check.level is Level.DATA:
            part = (check.part - 1) % parts + 1
            arguments = (
                ("check", "--read-data") if parts == 1 else ("check", f"--read-data-subset={part}/{parts}")
            )
        finished = self._run(arguments, must=False)
        whole = finished.ok and b"no errors were found" in finished.stdout
        fraction = 1 / parts if check.level is Level.DATA else 1.0
        if whole:
            return self._proved(Proof(level=check.level, ok=True, fraction=fraction))
        if finished.ok:
            raise Unusable(
                Reason.OUTPUT_UNREADABLE, ("restic check ended well and did not say that it found no errors",)
            )
        self._only_damage(finished, now_ms)
        said = words(finished.stderr)
        bad = max(1, sum(1 for line in said if not line.startswith("Fatal")))
        return self._proved(Proof(level=check.level, ok=False, fraction=fraction, bad=bad), said)

    def _restore(self, now_ms: int) -> Verification:
        """The newest snapshot, whole, into a directory that is removed again."""
        ours = [each for each in self._listed() if self._counts(each)]
        if not ours:
            raise Unusable(Reason.NO_SNAPSHOTS, ("there is no snapshot of this job to restore",))
        newest = max(ours, key=lambda each: each.time_ms)
        stats, errors = self._stats("--mode", "restore-size", newest.id)
        if stats is None:
            return self._proved(Proof(level=Level.RESTORE, ok=False, bad=1), errors)
        try:
            with restore_place(self._options.restore_dir, self._job.name, stats.total_size) as place:
                finished = self._run(("restore", newest.id, "--target", str(place), "--verify"), must=False)
                back = count(place)
                different = unlike(self._job.manifests, place, newest.time_ms)
        except NoPlace as exc:
            raise Unusable(exc.reason, (str(exc),)) from exc
        if not finished.ok:
            self._only_damage(finished, now_ms)
            return self._proved(Proof(level=Level.RESTORE, ok=False, bad=1), words(finished.stderr))
        # restic has ended well with files missing: what came back is counted.
        if back.bytes_once < stats.total_size or back.files < self._job.source.min_files:
            said = f"{back.files} files of {back.bytes_once} bytes came back, wanted {stats.total_size} bytes"
            return self._proved(Proof(level=Level.RESTORE, ok=False, bad=1), [said], RESTORE_DIFFERS)
        if different is not None:
            bad = different.bad + different.missing
            return self._proved(Proof(level=Level.RESTORE, ok=False, bad=bad), different.errors, DIFFERENT)
        return self._proved(Proof(level=Level.RESTORE, ok=True))

    def _only_damage(self, finished: Finished, now_ms: int) -> None:
        """Raises Unusable where a verification that failed says nothing of the data."""
        reason = why_failed(finished.exit_code, finished.stderr)
        if reason not in (Reason.REPOSITORY_DAMAGED, Reason.TOOL_FAILED):
            raise Unusable(reason, error_lines(words(finished.stderr)))
        if self._written(now_ms):
            said = "the repository was being written meanwhile: what was found proves nothing, it is looked at again"
            raise Unusable(REPOSITORY_BUSY, error_lines(words(finished.stderr), said))

    def _nobody_alone(self, now_ms: int) -> None:
        """Raises Unusable while somebody has the repository for himself: a prune that moves what is to be read. Through
        the runner nobody knows whose a lock is: what is found while there is one proves nothing (`_only_damage`)."""
        for lock in () if self._options.runner else self._locks(self._lock_ids() or ()):
            if lock.exclusive and lock.alive(now_ms):
                raise Unusable(Reason.REPOSITORY_LOCKED, (str(lock),))

    def _proved(
        self, proof: Proof, said: Sequence[str] = (), reason: str = Reason.REPOSITORY_DAMAGED
    ) -> Verification:
        return proved(proof, said, reason, self._version)

    # ------------------------------------------------------------ asking

    def _open(self) -> None:
        """What every command needs. Raises Unusable."""
        if not self._version:
            finished = self._commands.run((self._options.program, "version"))
            self._version = read_version(usable(finished, self._options.program).stdout)
            settings = self._settings()
            if self._options.runner:
                self._program = fixed(self._options.program, settings)
            else:
                self._env = settings

    def _settings(self) -> dict[str, str]:
        """By its environment. Where the runner reads them, files are its own to open."""
        options = self._options
        env: dict[str, str] = {}
        if options.environment_file is not None:
            found = read_environment(
                readable(options.environment_file, ENVIRONMENT_BYTES_MAX, PASSWORD_MISSING)
            )
            env.update((name, value) for name, value in found.items() if not name.startswith(_OURS))
        if options.repository_file is not None:
            self._must_be_readable(options.repository_file)
            env["RESTIC_REPOSITORY_FILE"] = str(options.repository_file)
        else:
            env["RESTIC_REPOSITORY"] = options.repository
        if options.password_file is not None:
            self._must_be_readable(options.password_file)
            env["RESTIC_PASSWORD_FILE"] = str(options.password_file)
        else:
            env["RESTIC_PASSWORD_COMMAND"] = options.password_command
        if options.cacert is not None:
            env["RESTIC_CACERT"] = str(options.cacert)
        return env

    def _must_be_readable(self, path: Path) -> None:
        if not self._options.runner:
            readable(path, ENVIRONMENT_BYTES_MAX, PASSWORD_MISSING)

    def _listed(self) -> list[Listed]:
        return self._parsed(self._run(("snapshots", "--json", *self._filters())), read_snapshots)

    def _parsed(self, finished: Finished, parse: Callable[[bytes], T]) -> T:
        try:
            return parse(finished.stdout)
        except ValueError as exc:
            said = f"restic {self._version or 'of an unknown version'} printed {exc}"
            raise Unusable(Reason.OUTPUT_UNREADABLE, error_lines(words(finished.stderr), said)) from exc

    def _run(self, arguments: Sequence[str], *, must: bool = True) -> Finished:
        """One command. `must`: raises Unusable also where it ended with an error."""
        argv = (*self._program, *arguments, "--no-lock", *self._cache())
        finished = usable(self._commands.run(argv, env=self._env), self._options.program)
        if must and not finished.ok:
            reason = why_failed(finished.exit_code, finished.stderr)
            raise Unusable(reason, error_lines(words(finished.stderr), *self._advice(reason)))
        return finished

    def _cache(self) -> tuple[str, ...]:
        """A repository on a disk is read itself: from a cache, damage to it would not be seen."""
        scratch = self._job.scratch
        address = self._options.repository
        if self._options.runner or scratch is None or address.startswith(("/", "local:")):
            return ("--no-cache",)
        return ("--cache-dir", str(scratch / "restic"))

    def _advice(self, reason: str) -> tuple[str, ...]:
        advice = {
            Reason.NEEDS_RUNNER: "this agent may not read the repository: give its user the right to read it",
            Reason.REPOSITORY_MISSING: "there is no repository here: is the place mounted, is the address right?",
            Reason.REPOSITORY_LOCKED: "this version of restic locks for reading, and somebody has it for himself",
        }.get(reason)  # type: ignore[call-overload]
        return (advice,) if advice else ()
