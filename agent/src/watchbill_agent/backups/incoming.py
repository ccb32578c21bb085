"""The daemon's side of a hand-over: takes records from its socket, and adopts those that were left as files.

A file is removed once its event is as safe as the file was: when it is on the disk in the spool; with a spool in
memory, when the collector has committed it. Until then a next run adopts it again, under the same id, and the
collector has it once. A host that is not enrolled leaves its files where they are.

What is no record (another name, broken, too large, a link, a directory) is moved to `refused/` beside, counted and
logged; there it stays for whoever comes to look, REFUSED_MAX of them, the newest.
"""

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from watchbill.backups.record import BACKUP_RECORD, Record, read_record
from watchbill.errors import StorageError, Unreadable, UsageError
from watchbill.files import FileMissing, make_directory, read_bounded, sync_directory
from watchbill.limits import EVENT_BYTES_MAX
from watchbill.logs import fields
from watchbill_agent.backups.drop import (
    BACKUPS,
    KEPT_BY_AGENT,
    KEPT_IN_FILE,
    Document,
    Drop,
    file_name,
    fitted,
)
from watchbill_agent.backups.words import job_name_fault
from watchbill_agent.events import Events
from watchbill_agent.spool import Receipt, SpoolFull

log = logging.getLogger(__name__)

REFUSED: Final = "refused"
REFUSED_MAX: Final = 100
"""Files kept there; the oldest go first."""
LOOK_EVERY_S: Final = 30.0
START_S: Final = 10.0
"""How long a start may wait for what was left; then it goes on, and the rest follows."""
TOGETHER_MAX: Final = 64
"""Files whose events share one sync of the disk."""
NAMES_MAX: Final = 10_000
"""Names looked at in one turn: who floods the directory costs this much and no more."""
TEMPORARY_S_MAX: Final = 3_600.0
"""What is being written is younger."""

_NAME = re.compile(r"[0-9]{15}-[0-9a-f]{32}\.json", re.ASCII)


class Incoming:
    """Records on their way into `events`, which is None on a host that is not enrolled. `committed` is the number of
    the last critical record that the collector has. `taken` is shown each record that is kept."""

    def __init__(
        self,
        drop: Drop,
        events: Events | None,
        committed: Callable[[], int],
        taken: Callable[[Document], None] = lambda _: None,
    ) -> None:
        self._taken = taken
        self._drop = drop
        self._events = events
        self._committed = committed
        self._files = _Files(drop.directory, drop.var / BACKUPS / REFUSED)
        self._in_memory: dict[str, int] = {}
        """Files whose events are in memory alone, and the numbers of these."""
        self.kept = 0
        """Records taken, from the socket or a file."""
        self.refused = 0
        """Files that were none, and records that could not be kept."""
        self.waiting = 0
        """Files that were there at the last look and stay."""

    async def told(self, rest: str) -> dict[str, object]:
        """Somebody hands over a record: how it was kept, or why not. Raises UsageError for what is none."""
        try:
            record = _checked(rest.encode("utf-8", "replace"))
        except Unreadable as exc:
            raise UsageError(str(exc)) from exc
        return await self._kept(record)

    async def keep(self, record: Record) -> bool:
        """A record of the agent's own: whether it was kept. What refuses it is logged."""
        document: Document = msgspec.json.decode(record.to_json())
        answer = await self._kept(fitted(document))
        if not answer["kept"]:
            log.error("a record of a backup is not kept", extra=fields(job=record.job, reason=answer["why"]))
        return bool(answer["kept"])

    async def _kept(self, record: Document) -> dict[str, object]:
        receipt, why = await self._keep(record)
        if receipt is not None and receipt.durable:
            self.kept += 1
            return {"kept": KEPT_BY_AGENT, "why": ""}
        try:
            await asyncio.to_thread(self._drop.write, record)
        except StorageError as exc:
            self.refused += 1
            return {"kept": "", "why": f"{exc}; {why}"}
        if receipt is not None:
            self.kept += 1
            self._in_memory[file_name(record)] = receipt.seq
        return {"kept": KEPT_IN_FILE, "why": why}

    async def _keep(self, record: Document) -> tuple[Receipt | None, str]:
        """Where it stands, or None and why it does not."""
        if self._events is None:
            return None, "this host is not enrolled"
        try:
            receipt = await self._events.keep(BACKUP_RECORD, record, bytes.fromhex(record["record_id"]))
        except (SpoolFull, UsageError) as exc:
            return None, str(exc)
        self._taken(record)
        return receipt, receipt.why

    async def run(self) -> None:
        """Adopt every now and then, for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.adopt()

    async def at_start(self) -> None:
        """Adopt what was left while no agent ran, before anything is said to the collector: what it is told then
        counts as all that there is."""
        try:
            async with asyncio.timeout(START_S):
                await self.adopt()
        except TimeoutError:
            log.warning("records of backups wait; the disk is slow", extra=fields(seconds=START_S))

    async def adopt(self) -> None:
        """Look once. A disk that refuses is logged, and looked at again."""
        if self._events is None:
            return
        try:
            names, others = await asyncio.to_thread(self._files.look)
            self.refused += await asyncio.to_thread(self._files.refuse, others, "a name of another kind")
            await self._remove_committed()
            left = [name for name in names if name not in self._in_memory]
            for start in range(0, len(left), TOGETHER_MAX):
                if not await self._adopt_together(left[start : start + TOGETHER_MAX]):
                    break
            self.waiting = len((await asyncio.to_thread(self._files.look))[0])
        except OSError as exc:
            log.error("what waits of backups cannot be read", extra=fields(reason=exc))

    async def _adopt_together(self, names: Sequence[str]) -> bool:
        """False when the spool takes no more."""
        read = await asyncio.to_thread(self._files.read, names)
        for name, fault in read.faults.items():
            self.refused += await asyncio.to_thread(self._files.refuse, [name], fault)
        results = await asyncio.gather(*(self._keep(record) for record in read.records.values()))
        safe = []
        for name, (receipt, why) in zip(read.records, results, strict=True):
            if receipt is None:
                log.error("a record of a backup waits", extra=fields(file=name, reason=why))
                continue
            self.kept += 1
            if receipt.durable:
                safe.append(name)
            else:
                self._in_memory[name] = receipt.seq
        await asyncio.to_thread(self._files.remove, safe)
        if safe:
            log.info("records of backups were adopted", extra=fields(count=len(safe)))
        return all(receipt is not None for receipt, _ in results)

    async def _remove_committed(self) -> None:
        committed = self._committed()
        done = [name for name, seq in self._in_memory.items() if seq <= committed]
        await asyncio.to_thread(self._files.remove, done)
        for name in done:
            del self._in_memory[name]


def _checked(content: bytes) -> Document:
    """A record, as the collector will read it, and nothing besides. Raises Unreadable."""
    record = read_record(content)
    if fault := job_name_fault(record.job):
        raise Unreadable(f"a job's name: {fault}")
    document: Document = msgspec.json.decode(record.to_json())
    return fitted(document)


class _Read:
    """What a few files say: records, or what is wrong with them."""

    def __init__(self) -> None:
        self.records: dict[str, Document] = {}
        self.faults: dict[str, str] = {}


class _Files:
    """The directory. All of it blocks, and raises OSError where nothing else is said."""

    def __init__(self, directory: Path, refused: Path) -> None:
        self._directory = directory
        self._refused = refused
        self._stuck: set[str] = set()
        """What could not be moved away: told once."""

    def look(self) -> tuple[list[str], list[str]]:
        """Names of records, oldest first, and of what else is there. What was left half written long ago is removed."""
        names, others = [], []
        try:
            entries = os.scandir(self._directory)
        except FileNotFoundError:
            return [], []
        with entries:
            for count, entry in enumerate(entries):
                if count >= NAMES_MAX:
                    break
                if entry.name in self._stuck:
                    continue
                if _NAME.fullmatch(entry.name):
                    names.append(entry.name)
                elif entry.name.startswith(".") and entry.name.endswith(".tmp"):
                    self._remove_abandoned(entry)
                else:
                    others.append(entry.name)
        return sorted(names), sorted(others)

    def _remove_abandoned(self, entry: "os.DirEntry[str]") -> None:
        with contextlib.suppress(OSError):
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > TEMPORARY_S_MAX:
                Path(entry.path).unlink()

    def read(self, names: Sequence[str]) -> _Read:
        """What they say."""
        read = _Read()
        for name in names:
            path = self._directory / name
            try:
                if path.is_symlink():
                    raise Unreadable("a symbolic link")
                record = _checked(read_bounded(path, EVENT_BYTES_MAX))
                if not name.endswith(f"-{record['record_id']}.json"):
                    raise Unreadable("it holds the record of another name")
            except FileMissing:
                continue
            except Unreadable as exc:
                read.faults[name] = str(exc)
            else:
                read.records[name] = record
        return read

    def remove(self, names: Sequence[str]) -> None:
        """They are kept elsewhere."""
        for name in names:
            (self._directory / name).unlink(missing_ok=True)
        if names:
            sync_directory(self._directory)

    def refuse(self, names: Sequence[str], fault: str) -> int:
        """Move them aside and say so; how many."""
        for name in names:
            log.error("a file is no record of a backup", extra=fields(file=name, reason=fault))
            try:
                make_directory(self._refused)
                (self._directory / name).rename(self._refused / name)
            except (OSError, StorageError) as exc:
                self._stuck.add(name)
                log.error("it cannot be moved aside", extra=fields(file=name, reason=exc))
        if names:
            self._thin()
        return len(names)

    def _thin(self) -> None:
        """The newest REFUSED_MAX stay."""
        with contextlib.suppress(OSError):
            kept = sorted(os.scandir(self._refused), key=lambda one: one.stat(follow_symlinks=False).st_ctime)
            for entry in kept[:-REFUSED_MAX]:
                if entry.is_dir(follow_symlinks=False):
                    import shutil  # Two formats of archives come with it.

                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink()
