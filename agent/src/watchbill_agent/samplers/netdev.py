"""Network interfaces: bytes, packets, errors and drops of each, received and sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from watchbill_agent.names import NameFilter
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
from watchbill_agent.words import Places, Words, number, shown

if TYPE_CHECKING:
    from watchbill_agent.hostpaths import HotFile

# The columns of /proc/net/dev, unchanged since Linux 2.2; the kernel sums up what node_exporter's netlink
# sums up.
_FIELDS = (
    ("receive_bytes", "Bytes received."),
    ("receive_packets", "Packets received."),
    ("receive_errs", "Bad packets received."),
    ("receive_drop", "Packets received and dropped for want of room, or missed."),
    ("receive_fifo", "Packets lost because the receiver's queue ran over."),
    ("receive_frame", "Packets received with a framing error: length, overrun, checksum, alignment."),
    ("receive_compressed", "Compressed packets received."),
    ("receive_multicast", "Multicast packets received."),
    ("transmit_bytes", "Bytes sent."),
    ("transmit_packets", "Packets sent."),
    ("transmit_errs", "Packets that could not be sent."),
    ("transmit_drop", "Packets dropped before they were sent."),
    ("transmit_fifo", "Packets lost because the sender's queue ran over."),
    ("transmit_colls", "Collisions while sending."),
    ("transmit_carrier", "Packets lost while sending: carrier, abort, heartbeat, window."),
    ("transmit_compressed", "Compressed packets sent."),
)
_FAMILIES = tuple(
    Family(f"node_network_{name}_total", MetricType.COUNTER, f"{text}") for name, text in _FIELDS
)
_NOHANDLER = Family(
    "node_network_receive_nohandler_total",
    MetricType.COUNTER,
    "Packets received on an inactive slave and dropped.",
)
_HEADERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`device_exclude` and `device_include` are regular expressions; the second, where set, decides alone."""

    device_exclude: str = ""
    device_include: str = ""


class Netdev(Sampler):
    """Reads /proc/net/dev, and /sys/class/net/*/statistics/rx_nohandler, which is missing there."""

    name = "netdev"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, options: Options, host: HostPaths) -> None:
        self._host = host
        self._filter = NameFilter.of("netdev", options, include="device_include", exclude="device_exclude")
        self._file = host.hot_proc("net/dev")
        self._places: Places | None = None
        self._layout = Layout((), ())
        self._nohandler: list[HotFile] = []

    def sample(self) -> Reading:
        """Sixteen or seventeen values for each interface."""
        data = self._file.read()
        words = data.split()
        values = self._places.values(words) if self._places else None
        if values is None:
            values = self._learn(data, words)
        try:
            values += [int(file.read()) for file in self._nohandler]
        except (SamplerFailed, ValueError):
            # An interface vanished between the two reads, or has come back under its name without this file.
            values = self._learn(data, words)
            values += [
                number(file.read().strip(), str(file.path), "rx_nohandler") for file in self._nohandler
            ]
        return Reading(self._layout, values)

    def _learn(self, data: bytes, words: Words) -> list[int]:
        devices, self._places = learn(data, words, self._filter)
        for file in self._nohandler:
            self._host.forget(file)
        paths = {name: self._host.sys / f"class/net/{name}/statistics/rx_nohandler" for name in devices}
        present = {name: path for name, path in paths.items() if path.exists()}
        self._nohandler = [self._host.hot(path, whole=True) for path in present.values()]
        self._layout = Layout(
            [*self._places.layout.families, *([_NOHANDLER] if present else [])],
            [
                *self._places.layout.series,
                *(Series(_NOHANDLER.name, labels(device=name)) for name in present),
            ],
        )
        values = self._places.values(words)
        assert values is not None, "what was just learnt can be read"
        return values


def learn(data: bytes, words: Words, devices: NameFilter) -> tuple[Sequence[str], Places]:
    """The wanted interfaces, and where their values stand among all the words of the file.

    After two lines of headings each line is a name, a colon, and sixteen numbers. The kernel allows neither
    space nor colon in a name, but `eth0:1` was one once, so the last colon counts.
    """
    lines = data.splitlines()
    if len(lines) < _HEADERS or lines[1].count(b"|") != 2:
        raise SamplerFailed("net/dev", f"wanted two lines of headings, got {shown(data)}")
    at = sum(len(line.split()) for line in lines[:_HEADERS])
    wanted: list[str] = []
    names_at: list[int] = []
    values_at: list[int] = []
    for line in lines[_HEADERS:]:
        before, colon, numbers = line.rpartition(b":")
        fields = numbers.split()
        name = before.strip().decode("utf-8", "replace")
        if not colon or not name or len(fields) != len(_FIELDS):
            raise SamplerFailed("net/dev", f"wanted a name and {len(_FIELDS)} numbers, got {shown(line)}")
        for field, (what, _) in zip(fields, _FIELDS, strict=True):
            number(field, "net/dev", f"{name} {what}")
        count = len(line.split())
        if devices.keeps(name) and name not in wanted:
            # Old kernels leave no space after the colon, so that the name and the first number are one word.
            if count != len(_FIELDS) + 1:
                raise SamplerFailed("net/dev", f"wanted a space after the name, got {shown(line)}")
            wanted.append(name)
            values_at += range(at + 1, at + 1 + len(_FIELDS))
        names_at.append(at)
        at += count
    series = [Series(family.name, labels(device=name)) for name in wanted for family in _FAMILIES]
    return wanted, Places(Layout(_FAMILIES if wanted else (), series), words, names_at, values_at)
