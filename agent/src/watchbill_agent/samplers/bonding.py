"""Bonded interfaces: how many links each has, and how many of them are up."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from watchbill_agent.hostpaths import HotFile
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
    labels,
)
from watchbill_agent.words import shown

_FAMILIES = (
    Family("node_bonding_active", MetricType.GAUGE, "Links under this interface that are up."),
    Family("node_bonding_slaves", MetricType.GAUGE, "Links under this interface."),
)
_STATUS = (b"up", b"going down", b"down", b"going back", b"unknown")
_NAME = re.compile(r"[^\s/:\x00]+")
"""What the kernel allows an interface to be called, `.` and `..` apart."""
NAME_BYTES_MAX = 15
"""The kernel's IFNAMSIZ without the end of the string."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Nothing to set."""


@dataclass(slots=True)
class _Bond:
    """One bonded interface: the file that lists its links, what that said, and the file of each link."""

    slaves: HotFile
    listed: bytes
    links: Sequence[HotFile]


class Bonding(Sampler):
    """Reads /sys/class/net/bonding_masters, each one's bonding/slaves and each of those' bonding_slave/mii_status."""

    name = "bonding"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, _options: Options, host: HostPaths) -> None:
        self._host = host
        self._net = host.sys / "class/net"
        self._file = host.hot(self._net / "bonding_masters", whole=True, may_be_empty=True)
        self._listed = b""
        self._bonds: Mapping[str, _Bond] = {}
        self._layout = Layout((), ())

    def sample(self) -> Reading:
        """Two values for each bonded interface; none where the driver is loaded and there are none."""
        try:
            listed = self._file.read()
        except Missing as exc:
            if self._listed:
                self._learn(b"")
            raise NothingHere(str(self._file.path), "the bonding driver is not loaded") from exc
        if listed != self._listed:
            self._learn(listed)
        values: list[int] = []
        for bond in self._bonds.values():
            try:
                values += self._counted(bond)
            except Missing:
                values += self._counted(bond)  # A link went between the two reads: the list is another now.
        return Reading(self._layout, values)

    def _counted(self, bond: _Bond) -> tuple[int, int]:
        listed = bond.slaves.read()
        if listed != bond.listed:
            names = parse_names(str(bond.slaves.path), listed)
            self._forget(bond.links)
            bond.links = [
                self._host.hot(self._net / name / "bonding_slave/mii_status", whole=True) for name in names
            ]
            bond.listed = listed
        return sum(is_up(str(file.path), file.read()) for file in bond.links), len(bond.links)

    def _learn(self, listed: bytes) -> None:
        names = parse_names(str(self._file.path), listed)
        for bond in self._bonds.values():
            self._forget([bond.slaves, *bond.links])
        self._bonds = {name: self._bond(name) for name in names}
        self._layout = Layout(
            _FAMILIES if names else (),
            [Series(family.name, labels(master=name)) for name in names for family in _FAMILIES],
        )
        self._listed = listed

    def _bond(self, name: str) -> _Bond:
        slaves = self._host.hot(self._net / name / "bonding/slaves", whole=True, may_be_empty=True)
        return _Bond(slaves, b"", ())

    def _forget(self, files: Sequence[HotFile]) -> None:
        for file in files:
            self._host.forget(file)


def parse_names(what: str, data: bytes) -> list[str]:
    """The interfaces that a file of the driver's lists, each once: they become paths and labels."""
    names: list[str] = []
    for word in data.split():
        try:
            name = word.decode()
        except UnicodeDecodeError:
            name = ""
        if not _NAME.fullmatch(name) or name in (".", "..") or len(word) > NAME_BYTES_MAX:
            raise SamplerFailed(what, f"wanted an interface, got {shown(word)}")
        if name in names:
            raise SamplerFailed(what, f"names {shown(word)} twice")
        names.append(name)
    return names


def is_up(what: str, data: bytes) -> bool:
    """Whether the driver's watch over the link says that it is up. One that is going down or coming back is not."""
    status = data.strip()
    if status not in _STATUS:
        raise SamplerFailed(what, f"wanted up or down, got {shown(data)}")
    return status == b"up"
