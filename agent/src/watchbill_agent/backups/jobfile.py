"""What `backup wrap` has to know of a job before the command starts, read from backups.d without judging it.

Whether the files are right is for `check-config` and the daemon to say, with every mistake in them. Here a command
waits: only TOML is read, what is not there is left out, and a file that cannot be read is told and holds nothing up.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from watchbill.files import FileMissing, UnreadableFile, read_bounded

DIRECTORY: Final = "backups.d"
FILE: Final = "backups.toml"
BYTES_MAX: Final = 1024 * 1024
FILES_MAX: Final = 1_000
WRAP: Final = "wrap"
_PATTERNS: Final = ("fail_if", "partial_if", "ok_if")


class JobFile(NamedTuple):
    """`tool` is "" when no file names the job. `faults` say which files could not be read."""

    tool: str = ""
    patterns: Mapping[str, Sequence[str]] = MappingProxyType({})
    manifest: bool = False
    paths: Sequence[str] = ()
    faults: Sequence[str] = ()

    def stranger(self, name: str) -> str:
        """What to say where no file names the job and all could be read; "" elsewhere."""
        if self.tool or self.faults:
            return ""
        return f"no [[backup]] in {DIRECTORY} is called {name}: this is recorded, and judged by nothing"


def read_job(etc: Path, name: str) -> JobFile:
    """What the files say of this job."""
    faults: list[str] = []
    for table in _tables(etc, faults):
        if table.get("name") == name:
            source = table.get("source")
            return JobFile(
                tool=table["tool"] if isinstance(table.get("tool"), str) else WRAP,
                patterns={key: _texts(table.get(key)) for key in _PATTERNS if table.get(key)},
                manifest=table.get("manifest") is True,
                paths=_texts(source.get("paths") if isinstance(source, dict) else None),
                faults=faults,
            )
    return JobFile(faults=faults)


def _tables(etc: Path, faults: list[str]) -> Iterator[Mapping[str, Any]]:
    for path in _files(etc, faults):
        try:
            content = read_bounded(path, BYTES_MAX).decode()
            import tomllib  # Most hosts of whoever tries it out have no such file.

            document = tomllib.loads(content)
        except FileMissing:
            continue
        except (UnreadableFile, ValueError, RecursionError) as exc:
            faults.append(f"{path}: {exc}" if not isinstance(exc, UnreadableFile) else str(exc))
            continue
        tables = document.get("backup")
        if isinstance(tables, list):
            yield from (table for table in tables if isinstance(table, dict))


def _files(etc: Path, faults: list[str]) -> Iterator[Path]:
    yield etc / FILE
    try:
        names = sorted(os.listdir(etc / DIRECTORY))  # noqa: PTH208 - Names are sorted, not paths.
    except FileNotFoundError:
        return
    except OSError as exc:
        faults.append(f"{etc / DIRECTORY}: {(exc.strerror or str(exc)).lower()}")
        return
    for name in names[:FILES_MAX]:
        if name.endswith(".toml") and not name.startswith("."):
            yield etc / DIRECTORY / name


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
