"""Sockets: how many are in use by each protocol, and their memory."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

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
)
from watchbill_agent.words import Places, Words, number, shown

_FILES = ("net/sockstat", "net/sockstat6")
_STATES = {
    b"inuse": "in use",
    b"orphan": "without an owner",
    b"tw": "in TIME_WAIT",
    b"alloc": "allocated",
    b"mem": "as pages of buffers",
    b"memory": "as bytes of fragments",
}
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Nothing to set."""


class Sockstat(Sampler):
    """Reads /proc/net/sockstat and /proc/net/sockstat6, each where its version of IP is on."""

    name = "sockstat"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, _options: Options, host: HostPaths) -> None:
        self._files = [host.hot_proc(name, whole=True) for name in _FILES]
        self._places: Places | None = None
        self._factors: list[int] = []

    def sample(self) -> Reading:
        """One value for each protocol and state."""
        words: list[bytes] = []
        missing: Missing | None = None
        for file in self._files:
            try:
                words += _words(file)
            except Missing as exc:
                missing = exc
        if not words and missing:
            raise NothingHere("net/sockstat", "this kernel has no IP") from missing
        values = self._places.values(words) if self._places else None
        if values is None:
            self._places, self._factors = learn(words, os.sysconf("SC_PAGESIZE"))
            values = self._places.values(words)
            assert values is not None, "what was just learnt can be read"
        assert self._places is not None
        return Reading(self._places.layout, list(map(mul, values, self._factors)))


def _words(file: HotFile) -> list[bytes]:
    words = file.read().split()
    if not words:
        raise SamplerFailed(str(file.path), "names no protocol")
    return words


def learn(words: Words, page_bytes: int) -> tuple[Places, list[int]]:
    """Where the values stand and what to multiply each by, in files of `TCP: inuse 4 orphan 0 ...`.

    `sockets: used 12` is the sum. `mem` counts pages and is reported a second time in bytes.
    """
    families: list[Family] = []
    names_at: list[int] = []
    values_at: list[int] = []
    factors: list[int] = []
    protocol = ""
    at = 0
    while at < len(words):
        if words[at].endswith(b":"):
            protocol = words[at][:-1].decode("ascii", "replace")
            if not _PROTOCOL.fullmatch(protocol):
                raise SamplerFailed("net/sockstat", f"wanted a protocol, got {shown(words[at])}")
            names_at.append(at)
            at += 1
            continue
        if not protocol or at + 1 == len(words):
            raise SamplerFailed(
                "net/sockstat", f"wanted a protocol, states and numbers, got {shown(words[at])}"
            )
        number(words[at + 1], "net/sockstat", f"{protocol} {words[at].decode('ascii', 'replace')}")
        names_at.append(at)
        for family, factor in _families(protocol, words[at], page_bytes):
            families.append(family)
            values_at.append(at + 1)
            factors.append(factor)
        at += 2
    if not families or len({family.name for family in families}) < len(families):
        raise SamplerFailed("net/sockstat", "names no protocol, or one twice")
    layout = Layout(families, [Series(family.name) for family in families])
    return Places(layout, words, names_at, values_at), factors


def _families(protocol: str, state: bytes, page_bytes: int) -> Sequence[tuple[Family, int]]:
    if protocol == "sockets":
        if state != b"used":
            return ()
        return [(Family("node_sockstat_sockets_used", MetricType.GAUGE, "Sockets of every kind in use."), 1)]
    if state not in _STATES:
        return ()
    name = f"node_sockstat_{protocol}_{state.decode()}"
    found = [(Family(name, MetricType.GAUGE, f"{protocol} sockets {_STATES[state]}."), 1)]
    if state == b"mem":
        found.append(
            (
                Family(f"{name}_bytes", MetricType.GAUGE, f"Bytes of buffers of {protocol} sockets."),
                page_bytes,
            )
        )
    return found
