"""pgBackRest: backups of PostgreSQL with their write-ahead log.

`info` and `verify` both stay silent about log that is gone, and a restore without it ends in a server that does not
start: so every segment that a backup needs is looked for here, in the archive itself (`repo-ls`). From the newest
backup that can be restored the log is followed to its end: that is the newest point. Where root's runner reads the
repository, the whole archive is listed at once: a directory's name would be another command each time.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from watchbill.backups.record import Level, Outcome, Proof
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
    error_lines,
    trouble,
)
from watchbill_agent.backups.printed.pgbackrest import (
    OPTION_INVALID,
    PAGE_CHECKSUMS,
    RUNNER_TEXT,
    SAID_MAX,
    STATUS_DATABASE_MISMATCH,
    STATUS_NO_BACKUP,
    STATUS_NO_DATA,
    STATUS_NO_STANZA,
    STATUS_OK,
    VERSION,
    Archive,
    Backup,
    Entry,
    Stanza,
    VerifyReport,
    failure,
    read_backup_run,
    read_info,
    read_listing,
    read_verify,
    repo_failure,
    segments_in,
    tree_of,
)
from watchbill_agent.backups.tool_answers import Unusable
from watchbill_agent.backups.wal import (
    Numbering,
    Segment,
    Shelf,
    Stored,
    follow,
    in_words,
    numbering_of,
    span,
)

DIRECTORIES_MAX: Final = 400
"""Directories of the archive that one look lists: 256 segments each, so 1.6 TiB of log. What lies beyond is not
claimed: the newest backups are looked at first."""
OLDEST: Final = (2, 34)
"""The first version whose `info` says in which of several repositories a backup is."""

WAL_MISSING: Final = "wal-missing"
WAL_DUPLICATE: Final = "wal-duplicate"
WAL_GAP: Final = "wal-gap"
CHAIN_BROKEN: Final = "chain-broken"
COPY_UNREADABLE: Final = "copy-unreadable"
DATABASE_MISMATCH: Final = "database-mismatch"
STANZA_MISSING: Final = "stanza-missing"
ARCHIVE_TOO_LARGE: Final = "archive-too-large"

_JSON: Final = "--output=json"

_DIRECTORY = re.compile(r"[0-9A-F]{16}", re.ASCII)
_STANZA = re.compile(r"[A-Za-z0-9_.@+-]{1,200}", re.ASCII)


def _no_stanza(name: str) -> str | None:
    return None if _STANZA.fullmatch(name) and not name.startswith("-") else "a stanza's name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which stanza, and where. Credentials are where pgBackRest looks for them: in its own configuration."""

    stanza: str = option(check=_no_stanza, help="The stanza, as pgBackRest's configuration calls it.")
    repo: int = option(
        0, at_least=0, at_most=256, help="The number of one repository of several; 0 looks at all of them."
    )
    config: Path | None = option(None, help="pgBackRest's configuration, where it is not its usual file.")
    program: str = option("pgbackrest", help="The program, where it is not in the agent's PATH.")
    runner: bool = option(False, help="Root's runner reads it, by the commands that observe.d has.")


# ---------------------------------------------------------------- what is judged


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not whole. `fatal`: what it concerns cannot be restored."""

    reason: str
    text: str
    fatal: bool = False


@dataclass
class _Judged:
    """What all backups and the log come to."""

    faults: list[Fault] = field(default_factory=list)
    good: list[Backup] = field(default_factory=list)
    bad: int = 0
    unseen: int = 0
    point_ms: int = 0
    log_to: str = ""

    def reason(self) -> str:
        """Of all faults the worst."""
        worst = sorted(self.faults, key=lambda fault: not fault.fatal)
        return worst[0].reason if worst else ""

    def errors(self) -> tuple[str, ...]:
        """For a person."""
        said = [fault.text for fault in sorted(self.faults, key=lambda fault: not fault.fatal)]
        if self.unseen:
            said.append(
                f"the log of {self.unseen} backups was not looked for: the archive is too large for one look"
            )
        return error_lines((), *said[:SAID_MAX])


def backup_faults(backup: Backup, labels: frozenset[str], shelf: Shelf | None) -> Iterator[Fault]:
    """What keeps a backup from being restored whole. Raises _Unseen."""
    gone = [label for label in backup.reference or () if label not in labels]
    if gone:
        text = f"backup {backup.label} needs the backup {gone[0][:40]}, which is gone: take a full backup"
        yield Fault(CHAIN_BROKEN, text, fatal=True)
    if backup.archive.start and backup.archive.stop:
        yield from _log_faults(backup, backup.archive.start, backup.archive.stop, shelf)
    if backup.error:
        text = f"backup {backup.label} holds pages whose checksums were wrong in the database: see the server's log"
        yield Fault(PAGE_CHECKSUMS, text)


def _log_faults(backup: Backup, start: str, stop: str, shelf: Shelf | None) -> Iterator[Fault]:
    name = f"backup {backup.label} in repo{backup.database.repo_key}"
    if shelf is None:
        yield Fault(WAL_MISSING, f"{name}: there is no archive of its log at all", fatal=True)
        return
    first, last = shelf.numbering.read(start), shelf.numbering.read(stop)
    needed = span(first, last) if first and last else None
    if needed is None:
        yield Fault(WAL_MISSING, f"{name}: {start[:30]} to {stop[:30]} is no range of its log", fatal=True)
        return
    missing = [segment for segment in needed if not shelf.find(segment).times]
    if missing:
        what = in_words(missing, shelf.numbering)
        yield Fault(
            WAL_MISSING, f"{name} cannot be restored: its log {what} is gone: take a new backup", fatal=True
        )
    double = [segment for segment in needed if shelf.find(segment).times > 1]
    if double:
        what = in_words(double, shelf.numbering)
        text = f"{name} cannot be restored: its log {what} is there twice, with different contents"
        yield Fault(WAL_DUPLICATE, text, fatal=True)


def _follow_log(judged: _Judged, newest: Backup, shelf: Shelf) -> None:
    """How far the log goes on from the end of a backup without a gap, and whether there is more behind a gap."""
    judged.point_ms = max(judged.point_ms, newest.timestamp.stop * 1000)
    begin = shelf.numbering.read(newest.archive.stop or "")
    if begin is None:
        return
    end = follow(begin, shelf.timelines(), shelf.whole)
    stored_ms = shelf.find(end).stored_ms
    if stored_ms >= judged.point_ms:
        judged.point_ms = stored_ms
        judged.log_to = shelf.numbering.name(end)
    last = shelf.newest(end.timeline)
    if last and last.number > end.number:
        name = shelf.numbering.name(Segment(last.timeline, end.number + 1))
        double = shelf.find(Segment(last.timeline, end.number + 1)).times > 1
        what = "is there twice, with different contents" if double else "is gone"
        text = f"nothing after {shelf.numbering.name(end)} can be restored: the log {name} {what}: take a new backup"
        judged.faults.append(Fault(WAL_GAP, text))


def _repo_faults(stanza: Stanza) -> Iterator[Fault]:
    """Of several repositories, those that are not as they should be; of one, its whole state says it."""
    if stanza.status.code == STATUS_DATABASE_MISMATCH:
        text = "the repositories hold backups of different databases: run stanza-upgrade, or remove the old repository"
        yield Fault(DATABASE_MISMATCH, text)
    for repo in stanza.repo if len(stanza.repo) > 1 else ():
        if repo.status.code != STATUS_OK:
            text = f"repo{repo.key}: {repo.status.message}"
            yield Fault(
                Reason.NO_SNAPSHOTS if repo.status.code == STATUS_NO_BACKUP else COPY_UNREADABLE, text
            )


def _verdict(stanza: Stanza, judged: _Judged) -> tuple[Outcome, str, tuple[str, ...]]:
    """What all of it comes to in one word."""
    errors = judged.errors()
    if judged.good:
        return (Outcome.PARTIAL if judged.faults else Outcome.OK), judged.reason(), errors
    if judged.unseen:
        return Outcome.UNKNOWN, ARCHIVE_TOO_LARGE, errors
    if stanza.backup:
        return Outcome.FAILED, judged.reason(), errors
    return _nothing(stanza)


def _nothing(stanza: Stanza) -> tuple[Outcome, str, tuple[str, ...]]:
    """What it means that there is no backup: none was made, or it cannot be seen."""
    status = stanza.status
    said = tuple(f"repo{repo.key}: {repo.status.message}" for repo in stanza.repo if repo.status.message)
    if status.code == STATUS_NO_BACKUP:
        return (
            Outcome.FAILED,
            Reason.NO_SNAPSHOTS,
            (f"the stanza {stanza.name} has no backups that are whole",),
        )
    if status.code == STATUS_NO_STANZA:
        text = f"there is no stanza {stanza.name}: is the repository mounted, and was stanza-create run?"
        return Outcome.FAILED, STANZA_MISSING, (text,)
    if status.code == STATUS_NO_DATA:
        return Outcome.FAILED, Reason.REPOSITORY_DAMAGED, error_lines((), "its backup.info is gone", *said)
    reasons = {repo_failure(repo.status) for repo in stanza.repo if repo.status.code != STATUS_OK}
    reason = reasons.pop() if len(reasons) == 1 else Reason.TOOL_FAILED
    first = (RUNNER_TEXT,) if reason == Reason.NEEDS_RUNNER else ()
    outcome = Outcome.FAILED if reason == Reason.REPOSITORY_DAMAGED else Outcome.UNKNOWN
    return outcome, reason, error_lines((), *first, *said)


# ---------------------------------------------------------------- the adapter


class _TooLarge(Exception):
    """There is more of the archive than one look lists."""


class PgBackRest(Adapter):
    """Reads `info` and the archive's directories, which takes no lock."""

    name: ClassVar[str] = "pgbackrest"
    options_type: ClassVar[type[Any]] = Options
    levels: ClassVar[frozenset[Level]] = frozenset({Level.STRUCTURE, Level.DATA})

    def __init__(self, options: Options, job: Job, commands: Commands) -> None:  # noqa: ARG002 - The tool knows.
        self._options = options
        self._commands = commands
        self._version = ""
        self._digest = ""
        self._listings = 0
        self._trees: dict[int, dict[str, dict[str, Entry]]] = {}

    def observe(self, now_ms: int) -> Observation:  # noqa: ARG002 - Ages are judged elsewhere.
        """Which backups there are, which of them can be restored, and up to when."""
        try:
            stanza = self._info()
            judged = self._judge(stanza)
        except Unusable as silent:
            return Observation(
                outcome=Outcome.UNKNOWN,
                reason=silent.reason,
                errors=silent.errors,
                tool_version=self._version,
                raw_digest=self._digest,
            )
        return self._seen(stanza, judged)

    def verify(self, check: Check, now_ms: int) -> Verification:  # noqa: ARG002 - The same.
        """STRUCTURE: all backups have all that they need. DATA: that, and all files read back with their checksums."""
        try:
            stanza = self._info()
            if not stanza.backup:
                raise Unusable(Reason.NO_SNAPSHOTS, (f"the stanza {stanza.name} has no backups yet",))
            judged = self._judge(stanza)
            report = self._verify_all() if check.level is Level.DATA else VerifyReport(0, ())
        except Unusable as silent:
            return Verification(
                outcome=Outcome.UNKNOWN,
                reason=silent.reason,
                errors=silent.errors,
                tool_version=self._version,
            )
        bad = judged.bad + report.bad
        reason = judged.reason() or (Reason.REPOSITORY_DAMAGED if report.bad else "")
        return Verification(
            outcome=Outcome.FAILED if bad else Outcome.OK,
            proof=Proof(level=check.level, ok=not bad, bad=bad),
            reason=reason if bad else "",
            errors=error_lines((), *(judged.errors() + report.errors)[:SAID_MAX]),
            tool_version=self._version,
        )

    def read_run(self, exit_code: int, stdout: bytes, stderr: bytes) -> RunFacts:
        """What `pgbackrest backup` logged."""
        return read_backup_run(exit_code, (stdout + b"\n" + stderr).decode("utf-8", "replace"))

    # ---- asking

    def _run(self, *arguments: str, stderr: str = "error") -> Finished:
        config = (f"--config={self._options.config}",) if self._options.config else ()
        quiet = ("--log-level-file=off", "--log-level-console=off", f"--log-level-stderr={stderr}")
        return self._commands.run((self._options.program, *config, *quiet, *arguments))

    def _ask(self, *arguments: str) -> bytes:
        finished = self._run(*arguments)
        if not finished.ok:
            raise Unusable(*failure(finished, self._options.program))
        return finished.stdout

    def _info(self) -> Stanza:
        text = self._ask("version").decode("ascii", "replace")
        found = VERSION.match(text)
        if not found:
            raise Unusable(
                Reason.OUTPUT_UNREADABLE, error_lines(text, "`version` printed no version of pgBackRest")
            )
        self._version = found[1]
        if (int(found[2]), int(found[3])) < OLDEST:
            wanted = ".".join(map(str, OLDEST))
            raise Unusable(Reason.TOOL_TOO_OLD, (f"pgBackRest {self._version}, wanted {wanted} or newer",))
        document = self._ask(
            f"--stanza={self._options.stanza}", *self._repo(self._options.repo), "info", _JSON
        )
        self._digest = hashlib.sha256(document).hexdigest()
        try:
            return read_info(document, self._options.stanza)
        except ValueError as exc:
            raise Unusable(Reason.OUTPUT_UNREADABLE, error_lines((), str(exc))) from exc

    def _repo(self, number: int) -> tuple[str, ...]:
        return (f"--repo={number}",) if number else ()

    def _list(self, repo: int, path: str) -> dict[str, Entry]:
        if self._options.runner:
            if repo not in self._trees:
                archive = f"archive/{self._options.stanza}"
                self._trees[repo] = tree_of(self._listed(repo, "--recurse", archive), archive)
            return self._trees[repo].get(path, {})
        if self._listings >= DIRECTORIES_MAX:
            raise _TooLarge
        self._listings += 1
        return self._listed(repo, path)

    def _listed(self, repo: int, *what: str) -> dict[str, Entry]:
        try:
            return read_listing(self._ask(*self._repo(repo), "repo-ls", _JSON, *what))
        except ValueError as exc:
            raise Unusable(Reason.OUTPUT_UNREADABLE, error_lines((), str(exc))) from exc

    def _verify_all(self) -> VerifyReport:
        argv = (
            f"--stanza={self._options.stanza}",
            *self._repo(self._options.repo),
            "verify",
            "--output=text",
        )
        finished = self._run(*argv, "--verbose", stderr="info")
        if said := trouble(finished, self._options.program):
            raise Unusable(*said)
        if finished.exit_code == OPTION_INVALID:
            raise Unusable(
                Reason.TOOL_TOO_OLD, (f"pgBackRest {self._version} has no `verify` with a report",)
            )
        try:
            return read_verify(
                finished.stdout.decode("utf-8", "replace"), finished.stderr.decode("utf-8", "replace")
            )
        except ValueError as exc:
            if not finished.ok:
                raise Unusable(*failure(finished, self._options.program)) from exc
            raise Unusable(Reason.OUTPUT_UNREADABLE, error_lines((), str(exc))) from exc

    # ---- judging

    def _judge(self, stanza: Stanza) -> _Judged:
        judged = _Judged()
        shelves = self._shelves(stanza)
        labels = frozenset(backup.label for backup in stanza.backup)
        for backup in sorted(stanza.backup, key=lambda backup: backup.timestamp.stop, reverse=True):
            key = (backup.database.id, backup.database.repo_key)
            try:
                faults = list(backup_faults(backup, labels, shelves.get(key)))
            except _TooLarge:
                judged.unseen += 1
                continue
            judged.faults += faults
            if any(fault.fatal for fault in faults):
                judged.bad += 1
            else:
                judged.good.append(backup)
        for key, shelf in shelves.items():
            self._follow(judged, key, shelf)
        judged.faults += _repo_faults(stanza)
        return judged

    def _follow(self, judged: _Judged, key: tuple[int, int], shelf: Shelf) -> None:
        mine = [backup for backup in judged.good if (backup.database.id, backup.database.repo_key) == key]
        if mine:
            with contextlib.suppress(_TooLarge):
                _follow_log(judged, mine[0], shelf)

    def _shelves(self, stanza: Stanza) -> dict[tuple[int, int], Shelf]:
        """The log of each cluster in each repository."""
        begun = [(b.archive.start, b.lsn.start) for b in stanza.backup if b.archive.start and b.lsn.start]
        numbering = numbering_of(begun)
        return {
            (archive.database.id, archive.database.repo_key): self._shelf(stanza.name, archive, numbering)
            for archive in stanza.archive
        }

    def _shelf(self, stanza: str, archive: Archive, numbering: Numbering) -> Shelf:
        repo, path = archive.database.repo_key, f"archive/{stanza}/{archive.id}"

        def directories() -> frozenset[str]:
            return frozenset(filter(_DIRECTORY.fullmatch, self._list(repo, path)))

        def listing(directory: str) -> dict[str, Stored]:
            return segments_in(self._list(repo, f"{path}/{directory}"))

        return Shelf(numbering, directories, listing)

    # ---- saying

    def _seen(self, stanza: Stanza, judged: _Judged) -> Observation:
        outcome, reason, errors = _verdict(stanza, judged)
        best = max(judged.good, key=lambda backup: backup.timestamp.stop, default=None)
        ids = {db.system_id for db in stanza.db[-1:]}
        return Observation(
            outcome=outcome,
            reason=reason,
            errors=errors,
            snapshots=tuple(Snapshot(id=b.label, time_ms=b.timestamp.stop * 1000) for b in stanza.backup),
            point_ms=judged.point_ms,
            running=stanza.status.lock.backup.held,
            repo_id=str(*ids) if ids else "",
            tool_version=self._version,
            bytes_source=best.info.size if best else None,
            bytes_stored=best.info.repository.size if best else None,
            log_from=(best.archive.start or "") if best else "",
            log_to=judged.log_to or ((best.archive.stop or "") if best else ""),
            raw_digest=self._digest,
        )
