"""The control state: hosts, enrolments, users, events, the crit stream. Cold data that must never be lost.

`Store.open` takes the lock, lets a child process migrate, and starts the one named thread that writes. A
piece of work is a function of a connection; it runs in a transaction of its own, in the order of
submission, and its result is given back only after the commit. `then` runs in the writer's thread between
the commit and the next piece of work: that is where what is kept in memory is changed, so memory never
says what the disk does not.

What is in memory for speed (the host registry, tokens) lives above this package.
"""

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import sqlalchemy as sa

from watchbill.errors import Busy, Refused, StorageError
from watchbill_collector.store.audit import SIGNED_INFO, SIGNER_INFO, Head, read_head, take_head
from watchbill_collector.store.checkpoints import Checkpoint, Signer, newest
from watchbill_collector.store.database import (
    Database,
    Held,
    check_file,
    locate,
    mapped_errors,
    reader_engine,
    writer_engine,
)
from watchbill_collector.store.migrate import migrate
from watchbill_collector.store.reserve import set_aside
from watchbill_collector.store.schema import FACTS

__all__ = ["Store", "Work"]

WRITES_QUEUED_MAX: Final = 10_000
"""Pieces of work waiting for the writer; the next is refused as busy."""
RETRY_AFTER_S: Final = 1.0
CLOSE_TIMEOUT_S: Final = 30.0
SITE_FACT: Final = "site"

T = TypeVar("T")
Work = Callable[[sa.Connection], T]


@dataclass(slots=True)
class _Job:
    work: Work[Any]
    then: Callable[[Any], None] | None
    done: Future[Any]
    context: contextvars.Context  # Of whoever submitted it: on whose behalf it is done.


class Store:
    """An open store. Made by `open`; `close` finishes the work that is queued."""

    def __init__(self, database: Database, site: str, held: Held, writer: sa.Engine) -> None:
        self.database = database
        self.site = site
        self._held = held
        self._writer = writer
        self._reader = reader_engine(database)
        self._jobs: queue.Queue[_Job | None] = queue.Queue(WRITES_QUEUED_MAX)
        self._closing = threading.Lock()
        self._closed = False
        with mapped_errors(database, "read the audit"), self._reader.connect() as connection:
            self.audit_head: Head | None = read_head(connection)
            """The newest committed row of the audit chain. Changed by the writer's thread, read by any."""
            self.audit_signed: Checkpoint | None = newest(connection)
            """The newest committed checkpoint of it; in the same way."""
        self._signer: Signer | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, directory: Path, site: str, url: str = "", password: str = "") -> "Store":
        """Open, checked and migrated; a new store is made. `url` names a PostgreSQL, SQLite in `directory`
        without.

        Raises Refused when another process is this store's collector or it belongs to another site,
        StorageError when it is damaged, foreign, newer than this version, or cannot be reached or written.
        """
        database = locate(directory, url, password)
        held = Held(database)
        writer = writer_engine(database)
        try:
            check_file(database, writer)
            with mapped_errors(database, "connect"), writer.connect():
                pass  # PostgreSQL: the advisory lock is ours from here on.
            migrate(database)
            with mapped_errors(database, "read the site"), writer.begin() as connection:
                _claim(connection, site, database)
            set_aside(writer)
        except BaseException:
            writer.dispose()
            held.release()
            raise
        return cls(database, site, held, writer)

    def sign_with(self, signer: Signer) -> None:
        """Sign the audit's checkpoints with this key from the next write on."""
        self._signer = signer

    # ------------------------------------------------------------ work

    def submit(self, work: Work[T], then: Callable[[T], None] | None = None) -> Future[T]:
        """Queue a write; the future carries its result after the commit, or what it raised. Raises Busy."""
        job = _Job(work, then, Future(), contextvars.copy_context())
        with self._closing:
            if self._closed:
                raise StorageError(f"{self.database.shown}: closed")
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                raise Busy("the store has too much to write", RETRY_AFTER_S) from None
        return job.done

    async def write(self, work: Work[T], then: Callable[[T], None] | None = None) -> T:
        """Write and wait, on an event loop. A write that was begun is finished even when its waiter is
        cancelled.
        """
        return await asyncio.shield(asyncio.wrap_future(self.submit(work, then)))

    def write_blocking(self, work: Work[T], then: Callable[[T], None] | None = None) -> T:
        """Write and wait, off the event loop."""
        return self.submit(work, then).result()

    def read(self, work: Work[T]) -> T:
        """Read in the calling thread, from what is committed. Raises StorageError."""
        with mapped_errors(self.database, "read"), self._reader.connect() as connection:
            return work(connection)

    # ------------------------------------------------------------ the writer

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            if not job.done.set_running_or_notify_cancel():
                continue
            try:
                result = job.context.run(self._commit, job.work)
                if job.then is not None:
                    job.then(result)
            except BaseException as exc:  # noqa: BLE001 - Whoever waits for this work is told, whatever it was.
                job.done.set_exception(exc)
            else:
                job.done.set_result(result)

    def _commit(self, work: Work[T]) -> T:
        with mapped_errors(self.database, "write"), self._writer.connect() as connection:
            # Each time: the pool may have made another connection.
            connection.info[SIGNER_INFO], connection.info[SIGNED_INFO] = self._signer, self.audit_signed
            try:
                with connection.begin():
                    result = work(connection)
            except BaseException:
                take_head(connection)  # What was rolled back is no head.
                raise
            head, signed = take_head(connection), connection.info[SIGNED_INFO]
        if head is not None:
            self.audit_head = head
        self.audit_signed = signed
        return result

    def close(self) -> None:
        """Finish what is queued, stop the writer, let the next collector in."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._jobs.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        self._writer.dispose()
        self._reader.dispose()
        self._held.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _claim(connection: sa.Connection, site: str, database: Database) -> None:
    """A store is one site's; the first to open it says which."""
    found = connection.execute(sa.select(FACTS.c.value).where(FACTS.c.name == SITE_FACT)).scalar()
    if found is None:
        connection.execute(FACTS.insert().values(name=SITE_FACT, site=site, value=site))
    elif found != site:
        raise Refused(f'{database.shown} belongs to site "{found}", collector.toml says site = "{site}"')
