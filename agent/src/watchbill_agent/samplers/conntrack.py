"""Connection tracking: how full the kernel's table is, and what it could not do."""

from collections.abc import Sequence
from dataclasses import dataclass

from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    Missing,
    NothingHere,
    Reading,
    Sampler,
    SamplerFailed,
    Series,
)
from watchbill_agent.words import number, shown

_TABLE = (
    Family("node_nf_conntrack_entries", MetricType.GAUGE, "Connections in the table."),
    Family("node_nf_conntrack_entries_limit", MetricType.GAUGE, "Connections that the table can hold."),
)
_STATS = {
    b"found": "Lookups that found a connection.",
    b"invalid": "Packets that could not be tracked.",
    b"ignore": "Packets that belonged to a connection already.",
    b"insert": "Connections that were put into the table.",
    b"insert_failed": "Connections that could not be put into it.",
    b"drop": "Packets dropped because tracking failed.",
    b"early_drop": "Connections dropped to make room for new ones.",
    b"search_restart": "Lookups begun anew because the table was resized.",
}
"""Columns of /proc/net/stat/nf_conntrack that node_exporter has, all of them gauges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Nothing to set."""


class Conntrack(Sampler):
    """Reads /proc/sys/net/netfilter and /proc/net/stat/nf_conntrack."""

    name = "conntrack"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, _options: Options, host: HostPaths) -> None:
        self._count = host.hot_proc("sys/net/netfilter/nf_conntrack_count", whole=True)
        self._max = host.hot_proc("sys/net/netfilter/nf_conntrack_max", whole=True)
        self._stat = host.hot_proc("net/stat/nf_conntrack")
        self._header: Sequence[bytes] = ()
        self._places: list[int] = []
        self._layout = _layout(())

    def sample(self) -> Reading:
        """The table, and what all CPUs counted together. NothingHere where nothing is tracked."""
        try:
            table = [
                _one(self._count.read(), "nf_conntrack_count"),
                _one(self._max.read(), "nf_conntrack_max"),
            ]
        except Missing as exc:
            raise NothingHere("sys/net/netfilter", "connections are not tracked here") from exc
        try:
            header, *rows = self._stat.read().splitlines() or [b""]
        except Missing:
            header, rows = b"", []  # Kernels without CONFIG_NF_CONNTRACK_PROCFS.
        names = header.split()
        if names != self._header:
            self._header = names
            self._places = [place for place, name in enumerate(names) if name in _STATS]
            self._layout = _layout([names[place] for place in self._places])
        return Reading(self._layout, table + sums(rows, self._places, len(names)))


def sums(rows: Sequence[bytes], places: Sequence[int], columns: int) -> list[int]:
    """Of each column over the rows, one a CPU, hexadecimal."""
    total = [0] * len(places)
    for row in rows:
        words = row.split()
        if len(words) != columns:
            raise SamplerFailed("net/stat/nf_conntrack", f"wanted {columns} columns, got {shown(row)}")
        try:
            for at, place in enumerate(places):
                total[at] += int(words[place], 16)
        except ValueError:
            raise SamplerFailed(
                "net/stat/nf_conntrack", f"wanted hexadecimal numbers, got {shown(row)}"
            ) from None
    return total


def _one(data: bytes, name: str) -> int:
    return number(data.strip(), f"sys/net/netfilter/{name}", "line 1")


def _layout(names: Sequence[bytes]) -> Layout:
    stats = [
        Family(f"node_nf_conntrack_stat_{name.decode()}", MetricType.GAUGE, _STATS[name]) for name in names
    ]
    families = (*_TABLE, *stats)
    return Layout(families, [Series(family.name) for family in families])
