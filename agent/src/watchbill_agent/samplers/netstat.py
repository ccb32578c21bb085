"""Network protocols: what TCP, UDP, IP and ICMP counted, of both versions."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from watchbill_agent.names import NameFilter
from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    Missing,
    Reading,
    Sampler,
    SamplerFailed,
    Series,
)
from watchbill_agent.words import Places, Words, number, picker, shown

_FIELDS = (
    r"^(.*_(InErrors|InErrs)|Ip_Forwarding|Ip(6|Ext)_(InOctets|OutOctets)|Icmp6?_(InMsgs|OutMsgs)"
    r"|TcpExt_(Listen.*|Syncookies.*|TCPSynRetrans|TCPTimeouts|TCPOFOQueue|TCPRcvQDrop)"
    r"|Tcp_(ActiveOpens|InSegs|OutSegs|OutRsts|PassiveOpens|RetransSegs|CurrEstab)"
    r"|Udp6?_(InDatagrams|OutDatagrams|NoPorts|RcvbufErrors|SndbufErrors))$"
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`fields` is a regular expression over Protocol_Field: those to report."""

    fields: str = _FIELDS


class Netstat(Sampler):
    """Reads /proc/net/netstat, /proc/net/snmp, and /proc/net/snmp6 where there is IPv6."""

    name = "netstat"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, options: Options, host: HostPaths) -> None:
        self._filter = NameFilter.of("netstat", options, include="fields")
        self._paired = [(name, host.hot_proc(name, whole=True)) for name in ("net/netstat", "net/snmp")]
        self._named = host.hot_proc("net/snmp6", whole=True)
        self._pairs: list[list[Pair] | None] = [None, None]
        self._places: Places | None = None
        self._layout: Layout | None = None

    def sample(self) -> Reading:
        """One value for each wanted field."""
        values: list[int] = []
        for at, (name, file) in enumerate(self._paired):
            lines = file.read().split(b"\n")
            pairs = self._pairs[at]
            found = values_of(pairs, lines) if pairs is not None else None
            if found is None:
                pairs = self._pairs[at] = learn_pairs(name, lines, self._filter)
                self._layout = None
                found = values_of(pairs, lines)
                assert found is not None, "what was just learnt can be read"
            values += found
        values += self._sample_named()
        if self._layout is None:
            self._layout = self._make_layout()
        return Reading(self._layout, values)

    def _sample_named(self) -> list[int]:
        try:
            words: Words = self._named.read().split()
        except Missing:  # IPv6 is off.
            if self._places is not None:
                self._places = self._layout = None
            return []
        values = self._places.values(words) if self._places else None
        if values is None:
            self._places = learn_named(words, self._filter)
            self._layout = None
            values = self._places.values(words)
            assert values is not None, "what was just learnt can be read"
        return values

    def _make_layout(self) -> Layout:
        families = [family for pairs in self._pairs for pair in pairs or [] for family in pair.families]
        if self._places is not None:
            families += self._places.layout.families
        if len({family.name for family in families}) < len(families):
            raise SamplerFailed("net/netstat", "a field stands in two files")
        return Layout(families, [Series(family.name) for family in families])


@dataclass(frozen=True, slots=True)
class Pair:
    """Two lines of one protocol: line `at` has the names (`header`, compared whole), the next one the
    values."""

    at: int
    header: bytes
    count: int
    pick: Callable[[Words], tuple[bytes, ...]]
    families: tuple[Family, ...]


def learn_pairs(what: str, lines: Sequence[bytes], fields: NameFilter) -> list[Pair]:
    """The protocols with wanted fields, in a file of pairs of lines: `Tcp: A B` and under it `Tcp: 1 2`.

    `lines` ends with an empty one.
    """
    if len(lines) % 2 == 0:
        raise SamplerFailed(what, "wanted pairs of lines, got an odd number")
    pairs = []
    for at in range(0, len(lines) - 1, 2):
        names, values = lines[at].split(), lines[at + 1].split()
        if not names or not values or names[0] != values[0] or not names[0].endswith(b":"):
            raise SamplerFailed(what, f"wanted two lines of one protocol, got {shown(lines[at])}")
        if len(names) != len(values):
            raise SamplerFailed(
                what, f"{shown(names[0])} has {len(names) - 1} names and {len(values) - 1} values"
            )
        protocol = names[0][:-1].decode("ascii", "replace")
        found = {}
        for column in range(1, len(names)):
            field = f"{protocol}_{names[column].decode('ascii', 'replace')}"
            number(values[column], what, field)
            if fields.keeps(field):
                found[_family(field, what)] = column
        if found:
            pairs.append(Pair(at, lines[at], len(values), picker(list(found.values())), tuple(found)))
    return pairs


def values_of(pairs: Sequence[Pair], lines: Sequence[bytes]) -> list[int] | None:
    """The values of those protocols, or None when the file has changed its shape."""
    values: list[int] = []
    try:
        for pair in pairs:
            if lines[pair.at] != pair.header:
                return None
            words = lines[pair.at + 1].split()
            if len(words) != pair.count:
                return None
            values += map(int, pair.pick(words))
    except (IndexError, ValueError):
        return None
    return values


def learn_named(words: Words, fields: NameFilter) -> Places:
    """The places of wanted fields among names and values in turn: `Ip6InOctets 128`; the 6 ends the
    protocol."""
    if len(words) % 2:
        raise SamplerFailed("net/snmp6", f"{shown(words[-1])} has no value")
    families: dict[str, Family] = {}
    names_at: list[int] = []
    for at in range(0, len(words), 2):
        name = words[at].decode("ascii", "replace")
        number(words[at + 1], "net/snmp6", name)
        protocol, six, rest = name.partition("6")
        if not six:
            continue
        field = f"{protocol}6_{rest}"
        if fields.keeps(field) and field not in families:
            families[field] = _family(field, "net/snmp6")
            names_at.append(at)
    layout = Layout(families.values(), [Series(family.name) for family in families.values()])
    return Places(layout, words, names_at, [at + 1 for at in names_at])


def _family(field: str, what: str) -> Family:
    if not _NAME.fullmatch(field):
        raise SamplerFailed(what, f"wanted the name of a field, got {shown(field.encode())}")
    protocol, _, name = field.partition("_")
    return Family(f"node_netstat_{field}", MetricType.UNTYPED, f"{name} of {protocol}.")
