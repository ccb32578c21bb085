"""All runbooks that are there, by name. One that is wrong is listed with what is wrong, and spoils no other."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Final

from watchbill.errors import Problem
from watchbill_collector.runbooks.findings import Finding, from_problem
from watchbill_collector.runbooks.lint import OFFLINE, Around, lint
from watchbill_collector.runbooks.model import Runbook
from watchbill_collector.runbooks.reading import read_runbook

BOOKS_MAX: Final = 500
"""Files in a directory of runbooks."""


@dataclass(frozen=True, slots=True)
class Source:
    """A runbook's file and content."""

    file: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """One file. What cannot be read has no `runbook` and the name of its file; `mistakes` are what reading found."""

    name: str
    file: str
    digest: str
    content: bytes
    runbook: Runbook | None
    mistakes: tuple[Problem, ...] = ()


def read_books(sources: Iterable[Source]) -> dict[str, Book]:
    """Every file, by the name of its runbook. A name that is there twice is nobody's: which one is meant cannot be
    known in the night."""
    found: dict[str, Book] = {}
    for source in sources:
        book = _book(source)
        known = found.get(book.name)
        if known is None:
            found[book.name] = book
            continue
        found[book.name] = _spoiled(known, known, book)
        found[f"{book.name} ({PurePath(book.file).name})"] = _spoiled(book, book, known)
    return dict(sorted(found.items()))


def usable(books: Mapping[str, Book]) -> dict[str, Runbook]:
    """Those that can be read, by name."""
    return {name: book.runbook for name, book in books.items() if book.runbook is not None}


def judge_books(books: Mapping[str, Book], around: Around = OFFLINE) -> dict[str, list[Finding]]:
    """Everything that is wrong or odd, by the name of the runbook; what is around is completed by the runbooks."""
    complete = replace(around, books=usable(books))
    return {
        name: [from_problem(one) for one in book.mistakes]
        if book.runbook is None
        else lint(book.runbook, complete)
        for name, book in books.items()
    }


def _book(source: Source) -> Book:
    runbook, problems = read_runbook(source.file, source.content)
    return Book(
        name=PurePath(source.file).stem if runbook is None else runbook.name,
        file=source.file,
        digest=hashlib.sha256(source.content).hexdigest(),
        content=source.content,
        runbook=runbook,
        mistakes=tuple(problems),
    )


def _spoiled(book: Book, this: Book, other: Book) -> Book:
    got = f"{this.name}, which {other.file} says, too"
    twice = Problem(this.file, 1, "runbook", got, "each name once")
    return replace(book, runbook=None, mistakes=(*book.mistakes, twice))
