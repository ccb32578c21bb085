"""The runbooks in force: files of `runbooks.d`, read together, each text kept once it was seen, accepted or not.

A file has no author that anybody could prove, so whoever may accept runbooks may accept one of a file; a text that
somebody handed in under his name is not accepted by him. Acceptance is of a digest: one letter changed, and it is
another text that nobody has accepted.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import sqlalchemy as sa

from watchbill.clock import Clock
from watchbill_collector.audit import Entry
from watchbill_collector.runbooks.books import Book, Source, read_books, usable
from watchbill_collector.services.run_book import RunBook
from watchbill_collector.store import Store, audit, runbooks
from watchbill_collector.store.runbooks import AcceptanceRow, TextRow

if TYPE_CHECKING:
    from watchbill_collector.runbooks.model import Runbook


class Shelf:
    """See the module. On the loop."""

    def __init__(self, store: Store, clock: Clock, book: RunBook) -> None:
        self._store = store
        self._clock = clock
        self._book = book
        self.books: Mapping[str, Book] = {}
        self.in_force: Mapping[str, Runbook] = {}
        self.accepted: dict[str, list[AcceptanceRow]] = store.read(
            lambda connection: runbooks.acceptances(connection, store.site)
        )
        self.generation = 0

    async def load(self, sources: Iterable[Source]) -> int:
        """These are the files now; how many texts were never seen before. Raises StorageError, Busy: then those of
        before stay in force."""
        books = read_books(sources)
        now_ms, site = self._clock.wall_ms(), self._store.site

        def work(connection: sa.Connection) -> int:
            new = 0
            for name, book in books.items():
                if book.runbook is None:
                    continue
                text = TextRow(
                    digest=book.digest,
                    name=name,
                    author="",
                    seen_ms=now_ms,
                    content=book.content.decode("utf-8"),
                )
                if runbooks.see_text(connection, site, text):
                    new += 1
                    detail = {"file": book.file, "digest": book.digest}
                    entry = Entry(actor="system", action="runbook.changed", target=name, detail=detail)
                    audit.append(connection, site, self._clock, entry)
            return new

        new = await self._store.write(work)
        self.books, self.in_force = books, usable(books)
        for runbook in self.in_force.values():
            self._book.know(runbook)
        self.generation += 1
        return new

    def acceptance(self, digest: str) -> AcceptanceRow | None:
        """Who first accepted a text."""
        return next(iter(self.accepted.get(digest, ())), None)

    async def accept(self, row: AcceptanceRow, entry: Entry) -> None:
        """Somebody accepts a text. Raises StorageError, Busy."""

        def work(connection: sa.Connection) -> bool:
            new = runbooks.accept(connection, self._store.site, row)
            if new:
                audit.append(connection, self._store.site, self._clock, entry)
            return new

        if await self._store.write(work):
            self.accepted.setdefault(row.digest, []).append(row)

    def author(self, digest: str) -> str:
        """Who wrote a text, "" when nobody can tell. Blocks."""
        found = self._store.read(lambda connection: runbooks.text(connection, digest))
        return "" if found is None else found.author
