"""Software RAID: the disks of each array, whether it lacks any, and how far it has been put in order."""

import re
from collections.abc import Iterator, Sequence
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
    labels,
)
from watchbill_agent.words import shown

_BLOCKS = Family("node_md_blocks", MetricType.GAUGE, "Blocks of 1024 bytes that the array holds.")
_SYNCED = Family(
    "node_md_blocks_synced", MetricType.GAUGE, "Blocks that are in order: all, or those done so far."
)
_DISKS = Family(
    "node_md_disks", MetricType.GAUGE, "Disks that the array works with, that failed, that are spare."
)
_REQUIRED = Family("node_md_disks_required", MetricType.GAUGE, "Disks of a complete array.")
_STATE = Family("node_md_state", MetricType.GAUGE, "1 for the state that the array is in.")
_FAMILIES = (_BLOCKS, _SYNCED, _DISKS, _REQUIRED, _STATE)
_STATES = ("active", "check", "inactive", "recovering", "resync")
"""node_exporter's. An array that is reshaped, or broken, is in none of them."""
_STATE_OF = {
    b"recovery": "recovering",
    b"recover": "recovering",
    b"resync": "resync",
    b"check": "check",
    b"reshape": "reshape",
}
_WITHOUT_SPARES = (b"raid0", b"linear", b"faulty")
"""Personalities that have no redundancy and tell of no disks: each disk that is listed is needed."""
NUMBER_MAX = 2**64 - 1
"""The kernel's own bound of what it counts in blocks."""

_ARRAY = re.compile(rb"(\S+) : (active|inactive|broken)((?: .*)?)")
_PERSONALITIES = b"Personalities :"
_END = b"unused devices:"
_MEMBER = re.compile(rb"\S+\[\d+\]((?:\([A-Z]\))*)")
_SIZE = re.compile(rb"\s+(\d+) blocks\b")
_COUNTS = re.compile(rb"\[(\d+)/(\d+)\] \[\S*\]")
_SYNC = re.compile(
    rb"\s*(?:\[[=>.]*\]\s+)?(recovery|recover|resync|reshape|check)\s*="
    rb"(?:\s*[\d.]+%\s+\((\d+)/\d+\)|(?:DELAYED|PENDING|REMOTE)\b)"
)
_SYNC_BEGUN = re.compile(rb"\s*(?:\[[=>.]*\]\s+)?(?:recovery|recover|resync|reshape|check)\s*=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Nothing to set."""


@dataclass(frozen=True, slots=True)
class Array:
    """One array of the file. `state` is one of node_exporter's, or `reshape` or `broken`."""

    name: str
    state: str
    blocks: int
    synced: int
    active: int
    required: int
    failed: int
    spare: int

    def values(self) -> Iterator[int]:
        """In the order of `_series`."""
        yield from (self.blocks, self.synced, self.active, self.failed, self.spare, self.required)
        yield from (int(state == self.state) for state in _STATES)


class Mdadm(Sampler):
    """Reads /proc/mdstat, which is there while the kernel's driver of RAID is loaded."""

    name = "mdadm"
    default_on = True
    interval_s = None
    options_type = Options

    def __init__(self, _options: Options, host: HostPaths) -> None:
        self._file = host.hot_proc("mdstat")
        self._data = b""
        self._names: Sequence[str] = ()
        self._reading = Reading(Layout((), ()), [])

    def sample(self) -> Reading:
        """Eleven values for each array. The file is as it was at most ticks, and then not parsed again."""
        try:
            data = self._file.read()
        except Missing as exc:
            raise NothingHere("mdstat", "the kernel's RAID driver is not loaded") from exc
        if data != self._data:
            arrays = parse(data)
            names = [array.name for array in arrays]
            layout = self._reading.layout if names == self._names else _layout(names)
            self._reading = Reading(layout, [value for array in arrays for value in array.values()])
            self._names, self._data = names, data
        return self._reading


def _layout(names: Sequence[str]) -> Layout:
    return Layout(_FAMILIES if names else (), [series for name in names for series in _series(name)])


def _series(name: str) -> Iterator[Series]:
    for family in (_BLOCKS, _SYNCED):
        yield Series(family.name, labels(device=name))
    for state in ("active", "failed", "spare"):
        yield Series(_DISKS.name, labels(device=name, state=state))
    yield Series(_REQUIRED.name, labels(device=name))
    for state in _STATES:
        yield Series(_STATE.name, labels(device=name, state=state))


def parse(data: bytes) -> list[Array]:
    """The arrays of the file: a line for each, those that tell more of it behind it, indented.

    The last line is always about unused devices, so that a file which was cut shows.
    """
    lines = [line for line in data.split(b"\n") if line.strip()]
    if not lines or not lines[0].startswith(_PERSONALITIES):
        raise SamplerFailed("mdstat", f"wanted a line of personalities, got {shown(data)}")
    if not data.endswith(b"\n") or not lines[-1].startswith(_END):
        raise SamplerFailed(
            "mdstat", f"is truncated: wanted {_END.decode()} at its end, got {shown(lines[-1])}"
        )
    sections: list[list[bytes]] = []
    for line in lines[1:-1]:
        if line[:1].isspace():
            if not sections:
                raise SamplerFailed("mdstat", f"wanted an array, got {shown(line)}")
            sections[-1].append(line)
        else:
            sections.append([line])
    arrays = [_array(head, rest) for head, *rest in sections]
    if len({array.name for array in arrays}) < len(arrays):
        raise SamplerFailed("mdstat", "names one array twice")
    return arrays


def _array(head: bytes, rest: Sequence[bytes]) -> Array:
    match = _ARRAY.fullmatch(head)
    if not match:
        raise SamplerFailed("mdstat", f"wanted an array and its state, got {shown(head)}")
    name, state = _name(match[1]), match[2].decode()
    words = match[3].split()
    flags = [member[1] for member in map(_MEMBER.fullmatch, words) if member]
    sized = _SIZE.match(rest[0]) if rest else None
    if flags and not sized:
        raise SamplerFailed("mdstat", f"{name}: wanted its blocks, got {shown(rest[0] if rest else head)}")
    blocks = _number(name, sized[1]) if sized else 0  # An array without any disk yet tells of none.
    required, active = _disks(name, state, words, rest, len(flags))
    synced = blocks
    for line in rest[1:]:
        if sync := _SYNC.match(line):
            state = _STATE_OF[sync[1]]
            synced = _number(name, sync[2]) if sync[2] else 0
        elif _SYNC_BEGUN.match(line):
            raise SamplerFailed("mdstat", f"{name}: wanted how much is synced, got {shown(line.strip())}")
    return Array(
        name=name,
        state=state,
        blocks=blocks,
        synced=synced,
        active=active,
        required=required,
        failed=sum(b"(F)" in flag for flag in flags),
        spare=sum(b"(S)" in flag for flag in flags),
    )


def _disks(
    name: str, state: str, words: Sequence[bytes], rest: Sequence[bytes], members: int
) -> tuple[int, int]:
    """How many disks the array requires, and how many of them work. One that does not run, such as a container,
    says neither."""
    if state == "inactive":
        return 0, 0
    if any(word in _WITHOUT_SPARES for word in words[:2]):
        return members, members
    counts = _COUNTS.search(rest[0]) if rest else None
    if not counts:
        raise SamplerFailed(
            "mdstat", f"{name}: wanted [disks/working] [U_], got {shown(rest[0] if rest else b'')}"
        )
    return _number(name, counts[1]), _number(name, counts[2])


def _name(word: bytes) -> str:
    try:
        return word.decode()
    except UnicodeDecodeError:
        raise SamplerFailed("mdstat", f"wanted an array's name, got {shown(word)}") from None


def _number(name: str, digits: bytes) -> int:
    if len(digits) > len(str(NUMBER_MAX)) or (value := int(digits)) > NUMBER_MAX:
        raise SamplerFailed("mdstat", f"{name}: wanted a number of at most 64 bits, got {shown(digits)}")
    return value
