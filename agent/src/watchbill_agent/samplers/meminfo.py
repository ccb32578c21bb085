"""Memory: every field of /proc/meminfo that node_exporter has, in bytes."""

import re
from dataclasses import dataclass
from operator import mul

from watchbill_agent.samplers import (
    Family,
    HostPaths,
    Layout,
    MetricType,
    Reading,
    Sampler,
    SamplerFailed,
    Series,
)
from watchbill_agent.words import Places, Words, number, shown

KIB = 1024

# Since 1.9 node_exporter reports a fixed list; before, whatever the kernel had.
_FIELD_NAMES = """
    Active Active_anon Active_file AnonHugePages AnonPages Bounce Buffers Cached CmaFree CmaTotal CommitLimit
    Committed_AS DirectMap1G DirectMap2M DirectMap4k Dirty HardwareCorrupted HugePages_Free HugePages_Rsvd
    HugePages_Surp HugePages_Total Hugepagesize Inactive Inactive_anon Inactive_file KernelStack Mapped
    MemAvailable MemFree MemTotal Mlocked NFS_Unstable PageTables Percpu SReclaimable SUnreclaim Shmem
    ShmemHugePages ShmemPmdMapped Slab SwapCached SwapFree SwapTotal Unevictable VmallocChunk VmallocTotal
    VmallocUsed Writeback WritebackTmp Zswap Zswapped
"""
_FIELDS = frozenset(_FIELD_NAMES.split())
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`all_fields` adds what newer kernels write and node_exporter 1.12 leaves out, such as KReclaimable."""

    all_fields: bool = False


class Meminfo(Sampler):
    """Reads /proc/meminfo."""

    name = "meminfo"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, options: Options, host: HostPaths) -> None:
        self._options = options
        self._file = host.hot_proc("meminfo", whole=True)
        self._places: Places | None = None
        self._units: list[int] = []

    def sample(self) -> Reading:
        """One value for each field."""
        words = self._file.read().split()
        values = self._places.values(words) if self._places else None
        if values is None:
            self._places, self._units = learn(words, self._options)
            values = self._places.values(words)
        assert self._places is not None
        assert values is not None, "what was just learnt can be read"
        return Reading(self._places.layout, list(map(mul, values, self._units)))


def learn(words: Words, options: Options) -> tuple[Places, list[int]]:
    """Where the values stand, and what each is counted in: 1024 bytes where the kernel says kB, else 1.

    The words are `Name:`, a number, and `kB` where it is an amount of memory.
    """
    units: list[int] = []
    families: dict[str, Family] = {}
    names_at: list[int] = []
    values_at: list[int] = []
    at = 0
    while at < len(words):
        field = field_name(words[at])
        if at + 1 == len(words):
            raise SamplerFailed("meminfo", f"{field} has no value")
        number(words[at + 1], "meminfo", field)
        unit = KIB if words[at + 2 : at + 3] == [b"kB"] else 1
        name = f"node_memory_{field}" + ("_bytes" if unit == KIB else "")
        if options.all_fields or field in _FIELDS:
            if name in families:
                raise SamplerFailed("meminfo", f"{field} stands there twice")
            families[name] = Family(name, MetricType.GAUGE, f"{field} of /proc/meminfo.")
            values_at.append(at + 1)
            units.append(unit)
        names_at.append(at)
        at += 3 if unit == KIB else 2
    if not {"node_memory_MemTotal_bytes", "node_memory_MemFree_bytes"} <= families.keys():
        raise SamplerFailed("meminfo", "has no MemTotal and MemFree")
    return Places(Layout(families.values(), map(Series, families)), words, names_at, values_at), units


def field_name(word: bytes) -> str:
    """`Active(anon):` as node_exporter spells it: Active_anon."""
    text = word.decode("ascii", "replace")
    name = text.removesuffix(":").replace("(", "_").replace(")", "")
    if not text.endswith(":") or not _NAME.fullmatch(name):
        raise SamplerFailed("meminfo", f"wanted the name of a field, got {shown(word)}")
    return name
