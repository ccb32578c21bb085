"""Configuration files: TOML, with drop-ins, read strictly, every mistake reported at once.

One commented main file and a directory of `*.toml` beside it, read in lexical order. A later file wins key by
key; tables merge; arrays of tables append; other arrays replace. What a file may say is a frozen dataclass
(`spec.py`), and the same dataclass prints the sample file and the reference (`printer.py`). Errors are
written for the person who holds the file: `FILE:LINE: KEY: got X, wanted Y`.

Environment variables override single keys: with the prefix WATCHBILL_AGENT_, the variable
WATCHBILL_AGENT_PROMETHEUS__LISTEN is the key `prometheus.listen`.
"""

import os
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from watchbill.config.convert import BAD, EnvText, Origin, Origins, Reader, Table
from watchbill.config.lines import KeyPath, key_lines, show_path
from watchbill.config.spec import Option, Wrong, option
from watchbill.config.units import Address, ByteSize, Condition, Duration, FromConfig, NotWanted, Selector
from watchbill.errors import ConfigError, Problem
from watchbill.files import FileMissing, UnreadableFile, read_bounded
from watchbill.homes import HOME_VARIABLE, Homes

__all__ = [
    "HOME_VARIABLE",
    "Address",
    "ByteSize",
    "Condition",
    "ConfigError",
    "Duration",
    "FromConfig",
    "Homes",
    "NotWanted",
    "Option",
    "Problem",
    "Selector",
    "Table",
    "Wrong",
    "load",
    "option",
]

T = TypeVar("T")

CONFIG_BYTES_MAX = 1024 * 1024
"""A configuration file larger than this is a mistake."""
DROPINS_MAX = 1_000
"""Files in one drop-in directory."""
NESTING_MAX = 16
"""Tables and arrays within one another."""


def load(
    spec: type[T],
    main: Path,
    dropins: Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    env_prefix: str = "",
    main_required: bool = True,
) -> T:
    """Read `main` and `dropins/*.toml` as the dataclass `spec`.

    Raises ConfigError with every problem of every file. A missing drop-in directory is no problem; a missing
    main file is one unless `main_required` is false. Variables of `env` that start with `env_prefix` override
    keys.
    """
    sources = _Sources(main)
    sources.add_file(main, required=main_required)
    for path in _dropin_files(dropins, sources):
        sources.add_file(path, required=True)
    if env is not None and env_prefix:
        sources.add_environment(env, env_prefix)
    reader = Reader(sources.origins)
    if sources.problems:
        # A file that did not parse leaves keys out: judging the rest would report mistakes nobody made.
        reader.raise_problems(sources.problems)
    made = reader.table(spec, sources.values, ())
    reader.raise_problems()
    assert made is not BAD, "what is wrong was noted"
    return typing.cast("T", made)


def _dropin_files(directory: Path | None, sources: "_Sources") -> list[Path]:
    if directory is None:
        return []
    try:
        names = sorted(entry.name for entry in os.scandir(directory) if entry.name.endswith(".toml"))
    except FileNotFoundError:
        return []
    except OSError as exc:
        reason = (exc.strerror or "unreadable").lower()
        sources.problems.append(Problem(str(directory), 0, "", reason, "a readable directory of *.toml"))
        return []
    names = [name for name in names if not name.startswith(".")]
    if len(names) > DROPINS_MAX:
        wanted = f"at most {DROPINS_MAX}"
        sources.problems.append(Problem(str(directory), 0, "", f"{len(names)} files", wanted))
        return []
    return [directory / name for name in names]


class _Sources:
    """What all files say, merged, and where each key was said."""

    def __init__(self, main: Path) -> None:
        self.values: dict[str, object] = {}
        self.origins: Origins = {(): Origin(str(main), 0, "")}
        self.problems: list[Problem] = []

    def add_file(self, path: Path, *, required: bool) -> None:
        try:
            content = read_bounded(path, CONFIG_BYTES_MAX)
        except FileMissing as exc:
            if required:
                self.problems.append(Problem(str(path), 0, "", exc.got, "a configuration file"))
            return
        except UnreadableFile as exc:
            self.problems.append(Problem(str(path), 0, "", exc.got, exc.wanted))
            return
        try:
            text = _text(content)
            values = tomllib.loads(text)
            lines = key_lines(text)
        except _NotToml as exc:
            self.problems.append(Problem(str(path), exc.line, "", exc.got, exc.wanted))
        except RecursionError:
            self.problems.append(
                Problem(str(path), 0, "", "too deep nesting", f"at most {NESTING_MAX} levels")
            )
        except ValueError as exc:
            self.problems.append(_syntax_problem(path, text, exc))
        else:
            self._add(_Document(str(path), lines), values)

    def _add(self, document: "_Document", values: dict[str, object]) -> None:
        try:
            self._merge(document, self.values, values, (), ())
        except RecursionError:
            wanted = f"at most {NESTING_MAX} levels"
            self.problems.append(Problem(document.file, 0, "", "too deep nesting", wanted))

    def _merge(
        self,
        document: "_Document",
        into: dict[str, object],
        values: dict[str, object],
        path: KeyPath,
        local: KeyPath,
    ) -> None:
        """`path` is the place in the merged document, `local` the one in this file."""
        if len(path) > NESTING_MAX:
            raise RecursionError
        for key, value in values.items():
            here, there = (*path, key), (*local, key)
            old = into.get(key)
            if isinstance(value, dict):
                if not isinstance(old, dict):
                    self._forget(here, known=key in into)
                    into[key] = old = {}
                self.origins.setdefault(here, document.origin(there))
                self._merge(document, old, value, here, there)
            elif _is_array_of_tables(value) and isinstance(old, list) and _is_array_of_tables(old):
                self._append(document, old, value, here, there, len(old))
            else:
                self._forget(here, known=key in into)
                self.origins[here] = document.origin(there)
                if isinstance(value, list):
                    fresh: list[object] = []
                    into[key] = fresh
                    self._append(document, fresh, value, here, there, 0)
                else:
                    into[key] = value

    def _append(
        self,
        document: "_Document",
        into: list[object],
        values: list[object],
        path: KeyPath,
        local: KeyPath,
        shift: int,
    ) -> None:
        if len(path) > NESTING_MAX:
            raise RecursionError
        for index, value in enumerate(values):
            here, there = (*path, index + shift), (*local, index)
            self.origins[here] = document.origin(there)
            if isinstance(value, dict):
                table: dict[str, object] = {}
                into.append(table)
                self._merge(document, table, value, here, there)
            elif isinstance(value, list):
                array: list[object] = []
                into.append(array)
                self._append(document, array, value, here, there, 0)
            else:
                into.append(value)

    def _forget(self, path: KeyPath, *, known: bool) -> None:
        """A later file replaces what was here, if it was `known`: nothing below it was said any more."""
        if known:
            for below in [below for below in self.origins if below[: len(path)] == path]:
                del self.origins[below]

    def add_environment(self, env: Mapping[str, str], prefix: str) -> None:
        for name in sorted(name for name in env if name.startswith(prefix)):
            path = tuple(part.lower() for part in name[len(prefix) :].split("__"))
            values: dict[str, object] = self.values
            for depth, part in enumerate(path[:-1], 1):
                inner = values.get(part)
                if not isinstance(inner, dict):
                    values[part] = inner = {}
                self.origins.setdefault(path[:depth], Origin(f"environment {name}", 0, ""))
                values = inner
            self._forget(path, known=path[-1] in values)
            values[path[-1]] = EnvText(env[name])
            self.origins[path] = Origin(f"environment {name}", 0, show_path(path))


@dataclass(frozen=True, slots=True)
class _Document:
    file: str
    lines: dict[KeyPath, int]

    def origin(self, path: KeyPath) -> Origin:
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        return Origin(self.file, self.lines.get(known, 0), show_path(path))


def _is_array_of_tables(value: object) -> typing.TypeGuard[list[object]]:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


class _NotToml(ValueError):
    def __init__(self, line: int, got: str, wanted: str) -> None:
        super().__init__(got)
        self.line = line
        self.got = got
        self.wanted = wanted


def _text(content: bytes) -> str:
    """UTF-8 text; a byte order mark and Windows line ends are somebody's editor, not a mistake."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _NotToml(1, "UTF-16 text", "UTF-8 text")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise _NotToml(
            line, f"the byte 0x{content[exc.start]:02x}, which is not UTF-8", "UTF-8 text"
        ) from exc


def _syntax_problem(path: Path, text: str, error: ValueError) -> Problem:
    """The parser's own words; it gives the place at the end of its message."""
    import re

    message = str(error)
    match = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if match is None:
        return Problem(str(path), 0, "", _one_line(message), "valid TOML")
    line = int(match[1]) if match[1] else text.rstrip("\n").count("\n") + 1
    place = f" at column {match[2]}" if match[2] else " at the end of the file"
    return Problem(str(path), line, "", _one_line(message[: match.start()]) + place, "valid TOML")


def _one_line(message: str) -> str:
    text = message[:1].lower() + message[1:200]
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
