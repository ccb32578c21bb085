"""The files of `runbooks.d`: read, bounded, in lexical order."""

from pathlib import Path
from typing import Final

from watchbill.config import Homes
from watchbill.errors import ConfigError, Problem
from watchbill.files import UnreadableFile, read_bounded
from watchbill_collector.runbooks.books import BOOKS_MAX, Source, read_books, usable
from watchbill_collector.runbooks.model import Runbook
from watchbill_collector.runbooks.reading import FILE_BYTES_MAX

DIRECTORY: Final = "runbooks.d"
SUFFIXES: Final = (".yaml", ".yml")


def read_directory(directory: Path) -> tuple[list[Source], list[Problem]]:
    """The `*.yaml` and `*.yml` of a directory, and what could not be read. One that is not there has none."""
    try:
        names = sorted(
            file for file in directory.iterdir() if file.suffix in SUFFIXES and not file.name.startswith(".")
        )
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [Problem(str(directory), 0, "", error.strerror or "an error", "a readable directory")]
    problems: list[Problem] = []
    if len(names) > BOOKS_MAX:
        problems.append(Problem(str(directory), 0, "", f"{len(names)} files", f"at most {BOOKS_MAX}"))
    sources: list[Source] = []
    for file in names[:BOOKS_MAX]:
        try:
            sources.append(Source(str(file), read_bounded(file, FILE_BYTES_MAX)))
        except UnreadableFile as error:
            problems.append(Problem(str(file), 0, "", error.got, error.wanted))
    return sources, problems


def usable_runbooks(etc: Path) -> dict[str, Runbook]:
    """Those of `runbooks.d` that can be read, by name."""
    return usable(read_books(read_directory(etc / DIRECTORY)[0]))


def check_runbooks(homes: Homes) -> None:
    """Judge whether every runbook can be read. Raises ConfigError with all problems."""
    sources, problems = read_directory(homes.etc / DIRECTORY)
    for book in read_books(sources).values():
        problems += book.mistakes
    if problems:
        raise ConfigError(problems)
