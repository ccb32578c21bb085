"""What alerts outlive a restart by.

After an evaluation in which an alert changed, all alerts are saved: a file of JSON, replaced atomically, on a full disk
too (`paired_file.py`), two tenths of a second for fifty thousand. Nobody is told of a change before it is saved, so it
is done at once. The file is the truth about `for` and about what is firing; the series ALERTS_FOR_STATE, which
Prometheus restores from, are written too, for those who read them. A file that cannot be read is set aside, never in
the way of a start.

An alert is a row: its labels and those of the expression, as pairs; state; four times in milliseconds; value.
Version 1, with objects for labels, is still read.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson

from watchbill.errors import StorageError, Unreadable
from watchbill.files import FileMissing, read_bounded
from watchbill_collector.rules.alerts import Alert, AlertState, Labels, moved
from watchbill_collector.rules.paired_file import PairedFile

STATE_BYTES_MAX = 256 * 1024 * 1024
VERSION, VERSION_OLDEST = 2, 1


@dataclass(frozen=True, slots=True)
class Saved:
    """All alerts at `at_ms`, the time of the evaluation, by the key of their rule."""

    at_ms: int
    alerts: Mapping[str, tuple[tuple[Alert, float], ...]] = field(default_factory=dict)

    def moved(self, by_ms: int) -> "Saved":
        """The same by a clock that has been set by `by_ms` since."""
        alerts = {
            key: tuple((moved(alert, by_ms), value) for alert, value in pairs)
            for key, pairs in self.alerts.items()
        }
        return Saved(self.at_ms + by_ms, alerts)


class AlertStateStore(Protocol):
    """Where alerts are kept between two lives of the process."""

    def load(self) -> Saved | None:
        """What was saved last; None if nothing was, or it cannot be read."""

    def save(self, saved: Saved) -> None:
        """Keep it; durable when this returns. Raises StorageError."""


class MemoryAlertState:
    """Keeps alerts in the process: the twin for tests."""

    def __init__(self) -> None:
        self.saved: Saved | None = None

    def load(self) -> Saved | None:
        """As the protocol."""
        return self.saved

    def save(self, saved: Saved) -> None:
        """As the protocol."""
        self.saved = saved


class FileAlertState:
    """Keeps alerts in one file. `unreadable` says why the file that was there could not be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = PairedFile(path)
        self.unreadable = ""

    def load(self) -> Saved | None:
        """As the protocol; a file that makes no sense is renamed to `*.bad`."""
        try:
            return _decoded(read_bounded(self._path, STATE_BYTES_MAX))
        except FileMissing:
            return None
        except (Unreadable, ValueError, KeyError, TypeError) as error:
            self.unreadable = f"{self._path}: {error}"
            try:
                self._path.rename(self._path.with_name(self._path.name + ".bad"))
            except OSError as failure:
                self.unreadable += f"; could not be set aside: {failure.strerror}"
            return None

    def save(self, saved: Saved) -> None:
        """As the protocol."""
        self._file.replace(_encoded(saved))


def rule_key(group: str, identity: tuple[object, ...], number: int) -> str:
    """A rule's key in the saved state; `number` tells equal rules of a group apart."""
    return hashlib.sha256(repr((group, identity, number)).encode()).hexdigest()[:32]


def _encoded(saved: Saved) -> bytes:
    rules = {key: [_row(alert, value) for alert, value in alerts] for key, alerts in saved.alerts.items()}
    return orjson.dumps({"version": VERSION, "at_ms": saved.at_ms, "rules": rules})


def _row(alert: Alert, value: float) -> tuple[object, ...]:
    times = alert.active_ms, alert.fired_ms, alert.resolved_ms, alert.keep_since_ms
    # JSON has no infinities and no NaN.
    shown = value if math.isfinite(value) else repr(value)
    return alert.labels, alert.given, alert.state.value, times, shown


def _decoded(content: bytes) -> Saved:
    document = orjson.loads(content)
    if not VERSION_OLDEST <= document["version"] <= VERSION:
        raise ValueError(f"version {document['version']}, wanted {VERSION_OLDEST} to {VERSION}")
    rules = {str(key): tuple(_read(entry) for entry in entries) for key, entries in document["rules"].items()}
    return Saved(int(document["at_ms"]), rules)


def _read(entry: Any) -> tuple[Alert, float]:
    labels, given, state, (active, fired, resolved, keep), value = entry
    times = int(active), int(fired), int(resolved), int(keep)
    return Alert(_pairs(labels), _pairs(given), AlertState(state), *times), float(value)


def _pairs(labels: Any) -> Labels:
    pairs = labels.items() if isinstance(labels, dict) else labels
    return tuple(sorted((str(name), str(text)) for name, text in pairs))


__all__ = ["AlertStateStore", "FileAlertState", "MemoryAlertState", "Saved", "StorageError", "rule_key"]
