"""Metrics that scripts of this host write: `*.prom` files of one directory, in Prometheus' text format.

    [samplers.textfile]
    directory = "/var/lib/prometheus/node-exporter"

or `[prometheus] textfile = DIRECTORY`. As with node_exporter a file that is no right page, or has timestamps, is left
out as a whole, `node_textfile_scrape_error` is 1 as long as one is, and `node_textfile_mtime_seconds` tells how old
each is. Write a file under another name and rename it. Every 15 s a child reads the directory, which is killed when it
hangs, as on a mount whose server is gone.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from watchbill.limits import HELP_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX, METRIC_NAME_BYTES_MAX
from watchbill_agent.errand import Errand
from watchbill_agent.metrics_line import BadMetrics
from watchbill_agent.metrics_text import Reader, TooMany, plain_labels, plain_name, type_of
from watchbill_agent.names import WrongOption
from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    Reading,
    Sampler,
    SamplerFailed,
    Series,
    labels,
)

PERIOD_S = 15.0
"""A child takes 12 ms of CPU; who writes such files is started by cron."""
DEADLINE_S = 5.0
SERIES_MAX = 4_000
"""Of all files together."""
LABELS_FILE_MAX = LABELS_MAX - 4
"""The host's own come on top."""
PATH_CHARACTERS_MAX = 512
FAULTS_SHOWN_MAX = 3
TAKEN = ("instance", "job")
_PROGRAM = Path(__file__).parent.with_name("textfile_child.py")

_ERROR = Family(
    "node_textfile_scrape_error",
    MetricType.GAUGE,
    "1 if a file or the directory could not be read, 0 if all could.",
)
_MTIME = Family("node_textfile_mtime_seconds", MetricType.GAUGE, "When each file that was read was written.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`directory` is absolute; without one there is nothing to read."""

    directory: str = ""


@dataclass(slots=True)
class _File:
    """What is known of one file. `fault` is empty when it is a right page."""

    content: bytes
    mtime_s: float
    fault: str = ""
    reader: Reader = field(default_factory=Reader)


class Textfile(Sampler):
    """Sends a child through the directory, and tells what it found last."""

    name = "textfile"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, options: Options, host: HostPaths) -> None:
        said = options.directory
        if said and (not said.startswith("/") or "\0" in said or len(said) > PATH_CHARACTERS_MAX):
            raise WrongOption(
                self.name, "directory", repr(said), "an absolute path of at most 512 characters"
            )
        self._directory = said
        self._root = "" if str(host.root) == "/" else str(host.root)
        self._clock = host.clock
        self._errand: Errand | None = None
        self._said = b""
        self._due_s = 0.0
        self._files: dict[str, _File] = {}
        self._faults: list[str] = []
        self._layout = Layout((_ERROR,), (Series(_ERROR.name),))
        self._values: list[float] = [0.0]

    def sample(self) -> Reading:
        """What the files said when they were read last."""
        if self._directory:
            self._look()
        return Reading(self._layout, self._values)

    def _look(self) -> None:
        if self._errand is not None:
            self._said += self._errand.take()
            if self._errand.ended:
                self._ended(self._errand)
        now_s = self._clock.monotonic_s()
        if self._errand is None and now_s >= self._due_s:
            argv = [sys.executable, "-I", "-S", str(_PROGRAM), self._root + self._directory]
            try:
                self._errand = Errand(argv, self._clock, DEADLINE_S)
            except OSError as exc:
                raise SamplerFailed("the child that reads", (exc.strerror or str(exc)).lower()) from exc
            self._said, self._due_s = b"", now_s + PERIOD_S
        self.unfinished = self._errand is not None and not self._files and not self._faults

    def _ended(self, errand: Errand) -> None:
        self._errand = None
        errand.close()
        if errand.timed_out:
            # What was read before may be long over: nobody can know.
            self._adopt({}, [f"{self._directory}: does not answer"])
            return
        try:
            contents, wrong = parse(self._said)
        except ValueError:
            self._adopt({}, [f"{self._directory}: the child that reads said something else"])
            return
        self._adopt(contents, [f"{name or self._directory}: {fault}" for name, fault in wrong])

    def _adopt(self, contents: Mapping[str, tuple[bytes, float]], faults: list[str]) -> None:
        files: dict[str, _File] = {}
        for name, (content, mtime_s) in contents.items():
            known = self._files.get(name)
            if known is None or known.content != content:
                known = _read(content, mtime_s, None if known is None else known.reader)
            known.mtime_s = mtime_s
            files[name] = known
        self._files = files
        self._tell(faults)

    def _tell(self, faults: list[str]) -> None:
        """Everything that is right, as one reading."""
        families: dict[str, Family] = {_ERROR.name: _ERROR, _MTIME.name: _MTIME}
        series: dict[Series, str] = {Series(_ERROR.name): ""}
        values: list[float] = [0.0]
        for name, file in self._files.items():
            fault = file.fault or self._merge(name, file, families, series, values)
            if fault:
                faults.append(f"{name}: {fault}")
                continue
            place = f"{self._directory.rstrip('/')}/{name}"
            series[Series(_MTIME.name, labels(file=place))] = name
            values.append(file.mtime_s)
        values[0] = float(bool(faults))
        if tuple(series) != self._layout.series:
            self._layout = Layout(families.values(), series)
        self._values = values
        shown = "; ".join(faults[:FAULTS_SHOWN_MAX])
        more = len(faults) - FAULTS_SHOWN_MAX
        self._faults, self.notice = faults, shown + (f"; and {more} more" if more > 0 else "")

    def _merge(
        self,
        name: str,
        file: _File,
        families: dict[str, Family],
        series: dict[Series, str],
        values: list[float],
    ) -> str:
        """Put a file's series behind the others; why that cannot be, otherwise."""
        shape = file.reader.shape
        assert shape is not None, "it was read"
        fresh: dict[Series, str] = {}
        for found in shape.series:
            one = Series(plain_name(found.name), plain_labels(found.labels, TAKEN))
            if one.name in (_ERROR.name, _MTIME.name):
                return f"{one.name} is told by the agent itself"
            if one in series or one in fresh:
                return f"{one.name} is in {series.get(one, 'it')} already, with the same labels"
            if len(one.name) > METRIC_NAME_BYTES_MAX or len(one.labels) > LABELS_FILE_MAX:
                return f"{one.name[:60]}: its name or labels are more than a collector takes"
            if any(len(value.encode()) > LABEL_VALUE_BYTES_MAX for _, value in one.labels):
                return f"{one.name[:60]}: a label is longer than {LABEL_VALUE_BYTES_MAX} bytes"
            fresh[one] = name
        if len(series) + len(fresh) > SERIES_MAX:
            return f"more than {SERIES_MAX} series in all files"
        for one, found in zip(fresh, shape.series, strict=True):
            if one.name not in families:
                help_ = found.help.encode()[:HELP_BYTES_MAX].decode("utf-8", "ignore")
                families[one.name] = Family(one.name, type_of(found), help_ or f"Read from {name}.")
        series |= fresh
        values += file.reader.values
        return ""

    def close(self) -> None:
        """End the child."""
        if self._errand is not None:
            self._errand.close()
            self._errand = None


def _read(content: bytes, mtime_s: float, reader: Reader | None) -> _File:
    file = _File(content, mtime_s, reader=reader or Reader())
    try:
        for _ in file.reader.read(content, openmetrics=False, series_max=SERIES_MAX):
            pass
    except BadMetrics as exc:
        file.fault = str(exc)
    except TooMany:
        file.fault = f"more than {SERIES_MAX} series"
    else:
        shape = file.reader.shape
        if shape is not None and shape.timestamp_line:
            file.fault = f"line {shape.timestamp_line}: got a timestamp, wanted none"
        elif shape is not None and shape.duplicates:
            file.fault = f"{shape.duplicates} samples of series that it has already"
    return file


def parse(said: bytes) -> tuple[dict[str, tuple[bytes, float]], list[tuple[str, str]]]:
    """What the child said: content and time by name, and faults; a fault without a name is the directory's. Raises
    ValueError for something else."""
    contents: dict[str, tuple[bytes, float]] = {}
    faults: list[tuple[str, str]] = []
    while said:
        head, newline, said = said.partition(b"\n")
        word, *numbers = head.split(b" ")
        counts = [int(number) for number in numbers]
        if not newline or min(counts, default=-1) < 0:
            raise ValueError(head)
        match word, counts:
            case b"dir", [code]:
                if code:
                    faults.append(("", os.strerror(code).lower()))
            case b"file", [name_bytes, mtime_ns, size] if len(said) >= name_bytes + size:
                name = os.fsdecode(said[:name_bytes]).encode("utf-8", "replace").decode()
                contents[name] = (said[name_bytes : name_bytes + size], mtime_ns / 1e9)
                said = said[name_bytes + size :]
            case b"error", [name_bytes, code] if len(said) >= name_bytes:
                name = os.fsdecode(said[:name_bytes]).encode("utf-8", "replace").decode()
                faults.append((name, os.strerror(code).lower()))
                said = said[name_bytes:]
            case b"end", [left_out] if not said:
                if left_out:
                    faults.append(("", f"{left_out} files too many"))
                return contents, faults
            case _:
                raise ValueError(head)
    raise ValueError("no end")
