"""borg: the archives of a repository and who has it locked; its lists, its data, and a restore are verified.

borg 1.x is told to take no lock at all; borg 2 has no such option, and what is asked of it takes the lock that many may
have at once. The passphrase goes by a command that prints it, and what borg remembers is in a directory of this job's
own: its cache has a lock, too.

What borg says, and what is so (1.2 to 2.0):

1. Times have no zone before 2.0: they are the zone's of whoever asks. Only with TZ=UTC do they mean anything.
2. A source that is not there is a warning and exit code 1, or 107 where BORG_EXIT_CODES is `modern` (1.4), which 2.0
   always is. A warning is PARTIAL here, whatever its number.
3. Listing needs the key, and a lock: while a backup runs, who asks without --bypass-lock waits, and fails.
4. `borg check` is no observer. It wants the repository for itself; told to take no lock, it writes all the same (1.2.4:
   `config` anew, and in `nonce` it reserves numbers that a running backup counts on). So it is never run here: whole
   lists prove the structure, and `extract --dry-run`, which reads, decrypts and authenticates every chunk, the data.
5. A create that was interrupted leaves an archive NAME.checkpoint (before 2.0): half a backup, and never counted.
6. `borg info` reads every archive into a cache first: sizes are asked for only where the job says so.

Where root's runner reads the repository, it is asked for what is the same command each time: reading archives is not.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

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
from watchbill_agent.backups.printed.borg import (
    ACCESS_REFUSED,
    KEY_MISSING,
    LOST,
    PASSWORD_MISSING,
    REPOSITORY_REPLACED,
    Archive,
    Holder,
    Listing,
    document_in,
    expected,
    is_remote,
    is_warning,
    messages,
    number,
    read_create,
    read_holders,
    read_listing,
    read_version,
    why_failed,
    words,
)
from watchbill_agent.backups.restoring import NoPlace, count, restore_place
from watchbill_agent.backups.tool_answers import (
    Unusable,
    proved,
    readable,
    usable,
)

T = TypeVar("T")

VERSION_OLDEST: Final = (1, 1)
"""Before, there was no JSON."""
ROSTER_BYTES_MAX: Final = 256 * 1024
CONTENTS_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of an archive's list: ten million files."""
AHEAD_MS_MAX: Final = 10 * 60_000
"""How far an archive may be ahead of this host's clock."""

LOCK_STALE: Final = "lock-stale"
REPOSITORY_BUSY: Final = "repository-busy"
CLOCK_AHEAD: Final = "clock-ahead"
RESTORE_DIFFERS: Final = "restore-differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How borg finds the repository, and which of its archives are this job's."""

    repository: str = option(help="Where the repository is, as BORG_REPO has it.", example='"/srv/borg"')
    passphrase_file: Path | None = option(None, help="File with the key's passphrase.")
    passcommand: str = option("", help="Command that prints the passphrase.")
    key_file: Path | None = option(None, help="The key, where it is not in the repository.")
    unencrypted: bool = option(
        False, help="The repository has no encryption, and is to be read all the same."
    )
    archives: str = option("*", help='Archives that count, by a pattern of their names: "web1-*".')
    sizes: bool = option(
        False, help="Measure the newest archive: borg reads the whole repository's lists once."
    )
    rsh: str = option("", help="Command that connects to a remote repository, in place of ssh.")
    remote_path: str = option("", help="borg on the remote side.")
    restore_dir: Path | None = option(
        None, help="Directory for verification by restore: an archive is extracted there, and removed again."
    )
    program: str = option("borg", help="The program's name or path.")
    runner: bool = option(False, help="Root's runner reads it, by the commands that observe.d has.")

    def check(self) -> Iterable[Wrong]:
        """At most one passphrase, and none in the address, where the runner is to read it."""
        if self.runner and self.passcommand:
            yield Wrong("passcommand", "a command", NO_COMMAND)
        if self.runner and PASSWORD_IN_ADDRESS.search(self.repository):
            yield Wrong("repository", "an address with a password", PLAIN_ADDRESS)
        if self.passphrase_file is not None and self.passcommand:
            yield Wrong("passphrase_file", "passcommand too", "either passphrase_file or passcommand")


# ---------------------------------------------------------------- the adapter


class Borg(Adapter):
    """Reads a borg repository with the host's own borg, and keeps nobody out of it."""

    name = "borg"
    options_type = Options
    levels = frozenset(Level)

    def __init__(self, options: Options, job: Job, commands: Commands) -> None:
        self._options = options
        self._job = job
        self._commands = commands
        self._program: tuple[str, ...] = (options.program,)
        self._env: dict[str, str] = {}
        self._version = ""
        self._second = False

    def observe(self, now_ms: int) -> Observation:
        """Look once."""
        try:
            self._open()
            return self._look(now_ms)
        except Unusable as no:
            return Observation(
                outcome=no.outcome, reason=no.reason, errors=no.errors, tool_version=self._version
            )

    def proves(self) -> frozenset[Level]:
        """A restore needs a place."""
        return self.levels if self._options.restore_dir is not None else self.levels - {Level.RESTORE}

    def verify(self, check: Check, now_ms: int) -> Verification:  # noqa: ARG002 - a borg repository tells its own time.
        """Verify once. What was found while somebody else changed the repository proves nothing."""
        verify = {
            Level.STRUCTURE: self._read_lists,
            Level.DATA: self._read_data,
            Level.RESTORE: self._restore,
        }
        try:
            if self._options.runner:
                raise not_fixed("reading an archive by its name")
            self._open()
            before = self._listing()
            found = verify[check.level](self._ours(before), check)
            if found.outcome is not Outcome.OK and self._changed_since(before):
                said = "the repository was written meanwhile: what was found proves nothing, it is looked at again"
                raise Unusable(REPOSITORY_BUSY, error_lines(found.errors, said))
            return found
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
        """What a wrapped `borg create` printed."""
        return read_create(exit_code, stdout, stderr, remote=is_remote(self._options.repository))

    # ------------------------------------------------------------ looking

    def _look(self, now_ms: int) -> Observation:
        finished = self._run(self._list_words())
        listing = self._parsed(finished, read_listing)
        ours = self._ours(listing)
        holders = self._holders()
        bytes_source, files, bytes_stored = self._sizes(ours)
        outcome, reason, errors = self._judge(ours, listing, holders or [], now_ms)
        return Observation(
            outcome=outcome,
            reason=reason,
            errors=error_lines(errors),
            snapshots=tuple(Snapshot(id=each.id, time_ms=each.time_ms) for each in ours),
            running=any(holder.exclusive and holder.alive() for holder in holders or ()),
            repo_locked=None if holders is None else bool(holders),
            repo_id=listing.repository.id,
            tool_version=self._version,
            bytes_source=bytes_source,
            bytes_stored=bytes_stored,
            files=files,
            raw_digest=sha256(finished.stdout).hexdigest(),
        )

    def _judge(
        self, ours: Sequence[Archive], listing: Listing, holders: Sequence[Holder], now_ms: int
    ) -> tuple[Outcome, str, list[str]]:
        """The worst first."""
        if ours and ours[-1].time_ms > now_ms + AHEAD_MS_MAX:
            said = f"archive {ours[-1].name} is of {ours[-1].start or ours[-1].time}, which is yet to come"
            return Outcome.OK, CLOCK_AHEAD, [said]
        stale = [holder for holder in holders if not holder.alive()]
        if stale:
            said = "a lock whose process is gone: the next borg of this host removes it, others wait for it in vain"
            return Outcome.OK, LOCK_STALE, [said, *map(str, stale)]
        if ours:
            return Outcome.OK, "", []
        if not listing.archives:
            return Outcome.OK, Reason.NO_SNAPSHOTS, ["this repository holds no archive at all"]
        names = ", ".join(archive.name for archive in listing.archives[-5:])
        return (
            Outcome.OK,
            Reason.REPOSITORY_FOREIGN,
            [f"no archive called {self._options.archives}; there are {names}"],
        )

    def _ours(self, listing: Listing) -> list[Archive]:
        pattern = self._options.archives
        ours = [each for each in listing.archives if each.whole and fnmatchcase(each.name, pattern)]
        return sorted(ours, key=lambda each: each.time_ms)

    def _holders(self) -> list[Holder] | None:
        """None where the repository's own files cannot be looked at, such as a remote one's."""
        place = self._place()
        if place is None or self._second:
            return None
        try:
            exclusive = [path.name for path in (place / "lock.exclusive").iterdir()]
        except FileNotFoundError:
            exclusive = []
        except OSError:
            return None
        try:
            with (place / "lock.roster").open("rb") as file:
                roster = file.read(ROSTER_BYTES_MAX)
        except OSError:
            roster = b""
        return read_holders(roster, exclusive)

    def _sizes(self, ours: Sequence[Archive]) -> tuple[int | None, int | None, int | None]:
        """Of the newest archive: bytes and files; all that is stored. None where it could not be had."""
        if not self._options.sizes or not ours:
            return None, None, None
        finished = self._run(("info", "--json", *self._info_of(ours[-1])), must=False)
        document, _ = document_in(finished.stdout) if finished.ok else ({}, False)
        cache = document.get("cache")
        stored = cache.get("stats") if isinstance(cache, dict) else None
        match document.get("archives"):
            case [{"stats": dict(stats)}, *_]:
                pass
            case _:
                stats = {}
        return number(stats, "original_size"), number(stats, "nfiles"), number(stored or {}, "unique_csize")

    # ------------------------------------------------------------ verifying

    def _read_lists(self, ours: Sequence[Archive], check: Check) -> Verification:
        """The list of every file of every archive: what says which chunks make a file."""
        return self._read_each(ours, check, "list", "--format", "")

    def _read_data(self, ours: Sequence[Archive], check: Check) -> Verification:
        """Every chunk of the archives of this part is read, decrypted and authenticated."""
        return self._read_each(ours, check, "extract", "--dry-run")

    def _read_each(self, ours: Sequence[Archive], check: Check, *command: str) -> Verification:
        for archive in reversed(self._some(ours)):
            if archive.part_of(check.parts) != check.part:
                continue
            finished = self._run((*command, *self._named(archive)), must=False)
            if not finished.ok:
                return self._failed(finished, check.level, check.fraction)
        return self._proved(Proof(level=check.level, ok=True, fraction=check.fraction))

    def _restore(self, ours: Sequence[Archive], check: Check) -> Verification:
        """The newest archive, whole, into a directory that is removed again."""
        newest = self._some(ours)[-1]
        name = self._named(newest)
        listed = self._run(
            ("list", "--format", "{type} {size}{NL}", *name), must=False, keep=CONTENTS_BYTES_MAX
        )
        if not listed.ok:
            return self._failed(listed, check.level, 1.0)
        wanted_files, wanted_bytes = expected(listed.stdout)
        try:
            with restore_place(self._options.restore_dir, self._job.name, wanted_bytes) as place:
                finished = self._run(("extract", *name), must=False, cwd=place)
                back = count(place)
                different = unlike(self._job.manifests, place, newest.time_ms)
        except NoPlace as exc:
            raise Unusable(exc.reason, (str(exc),)) from exc
        if not finished.ok and not is_warning(finished.exit_code or 0):
            return self._failed(finished, check.level, 1.0)
        # A warning may be an owner that only root can set: what came back is counted.
        if back.files < max(wanted_files, self._job.source.min_files) or back.bytes < wanted_bytes:
            said = f"{back.files} files of {back.bytes} bytes came back, wanted {wanted_files} of {wanted_bytes} bytes"
            proof = Proof(level=check.level, ok=False, bad=max(1, wanted_files - back.files))
            return self._proved(proof, [said, *words(finished.stderr)], RESTORE_DIFFERS)
        if different is not None:
            bad = different.bad + different.missing
            return self._proved(Proof(level=check.level, ok=False, bad=bad), different.errors, DIFFERENT)
        return self._proved(Proof(level=check.level, ok=True))

    def _some(self, ours: Sequence[Archive]) -> Sequence[Archive]:
        if not ours:
            raise Unusable(Reason.NO_SNAPSHOTS, ("there is no archive of this job to verify",))
        return ours

    def _failed(self, finished: Finished, level: Level, fraction: float) -> Verification:
        """What a reading that failed proves. Raises Unusable where it says nothing of the data."""
        reason = self._why_failed(finished)
        if reason not in (Reason.REPOSITORY_DAMAGED, Reason.TOOL_FAILED):
            raise Unusable(reason, error_lines(words(finished.stderr)))
        bad = max(1, sum(1 for each in messages(finished.stderr) if each.get("msgid") in LOST))
        return self._proved(Proof(level=level, ok=False, fraction=fraction, bad=bad), words(finished.stderr))

    def _changed_since(self, before: Listing) -> bool:
        holders = self._holders() or ()
        if any(holder.exclusive and holder.alive() for holder in holders):
            return True
        try:
            return self._listing().repository != before.repository
        except Unusable:
            return False

    def _proved(
        self, proof: Proof, said: Sequence[str] = (), reason: str = Reason.REPOSITORY_DAMAGED
    ) -> Verification:
        return proved(proof, said, reason, self._version)

    # ------------------------------------------------------------ asking

    def _open(self) -> None:
        """What every command needs. Raises Unusable."""
        if self._version:
            return
        finished = usable(self._commands.run((self._options.program, "--version")), self._options.program)
        self._version = read_version(finished.stdout + finished.stderr)
        found = re.match(r"(\d+)\.(\d+)", self._version)
        version = (int(found[1]), int(found[2])) if found else VERSION_OLDEST
        if version < VERSION_OLDEST:
            raise Unusable(
                Reason.TOOL_TOO_OLD, (f"borg {self._version} prints no JSON, wanted 1.1 or newer",)
            )
        self._second = version[0] >= 2
        settings = self._settings()
        if self._options.runner:
            self._program = fixed(self._options.program, settings)
        else:
            self._env = settings
            if self._job.scratch is not None:
                self._env["BORG_BASE_DIR"] = str(self._job.scratch / "borg")

    def _settings(self) -> dict[str, str]:
        """By its environment. Where the runner reads them, files are its own to open."""
        options = self._options
        env = {"BORG_REPO": options.repository, "BORG_EXIT_CODES": "modern"}
        if options.passphrase_file is not None:
            self._must_be_readable(options.passphrase_file)
            env["BORG_PASSCOMMAND"] = f"cat {shlex.quote(str(options.passphrase_file))}"
        elif options.passcommand:
            env["BORG_PASSCOMMAND"] = options.passcommand
        if options.key_file is not None:
            self._must_be_readable(options.key_file)
            env["BORG_KEY_FILE"] = str(options.key_file)
        if options.unencrypted:
            env["BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK"] = "yes"
        if options.rsh:
            env["BORG_RSH"] = options.rsh
        if options.remote_path:
            env["BORG_REMOTE_PATH"] = options.remote_path
        return env

    def _must_be_readable(self, path: Path) -> None:
        if not self._options.runner:
            readable(path, 1, PASSWORD_MISSING)

    def _list_words(self) -> tuple[str, ...]:
        return ("repo-list", "--json") if self._second else ("list", "--json")

    def _named(self, archive: Archive) -> tuple[str, ...]:
        """How a command is told of an archive; names need not be unique in 2.0. Braces in a name are borg's to fill in,
        unless they are doubled."""
        if self._second:
            return (f"aid:{archive.id}",)
        return ("::" + archive.name.replace("{", "{{").replace("}", "}}"),)

    def _info_of(self, archive: Archive) -> tuple[str, ...]:
        if self._options.runner:
            return ("--last", "1", "-a", self._options.archives)
        return ("-a", f"aid:{archive.id}") if self._second else self._named(archive)

    def _listing(self) -> Listing:
        listing: Listing = self._parsed(self._run(self._list_words()), read_listing)
        return listing

    def _parsed(self, finished: Finished, parse: Callable[[bytes], T]) -> T:
        try:
            return parse(finished.stdout)
        except ValueError as exc:
            said = f"borg {self._version or 'of an unknown version'} printed {exc}"
            raise Unusable(Reason.OUTPUT_UNREADABLE, error_lines(words(finished.stderr), said)) from exc

    def _run(
        self, arguments: Sequence[str], *, must: bool = True, keep: int | None = None, cwd: Path | None = None
    ) -> Finished:
        """One command. `must`: raises Unusable also where it ended with an error."""
        common = ("--log-json",) if self._second else ("--log-json", "--bypass-lock")
        argv = (*self._program, *common, *arguments)
        more: dict[str, Any] = {} if keep is None else {"stdout_bytes_max": keep}
        finished = usable(self._commands.run(argv, env=self._env, cwd=cwd, **more), self._options.program)
        if must and not finished.ok:
            reason = self._why_failed(finished)
            raise Unusable(reason, error_lines(words(finished.stderr), *_ADVICE.get(reason, ())))
        return finished

    def _why_failed(self, finished: Finished) -> str:
        remote = is_remote(self._options.repository)
        return why_failed(finished.exit_code, finished.stderr, remote=remote)

    def _place(self) -> Path | None:
        """The repository's directory, where it is on this host."""
        address = self._options.repository.removeprefix("file://")
        return Path(address) if address.startswith("/") else None


_ADVICE: Final[Mapping[str, tuple[str, ...]]] = {
    Reason.NEEDS_RUNNER: ("this agent may not read the repository: give its user the right to read it",),
    Reason.REPOSITORY_MISSING: ("there is no repository here: is the place mounted, is the address right?",),
    ACCESS_REFUSED: (
        "borg wants to be told that this repository is meant: set unencrypted, if it has no encryption",
    ),
    REPOSITORY_REPLACED: ("this is not the repository that was read before: find out who put it here",),
    KEY_MISSING: ("the key is not in the repository: set key_file",),
}
