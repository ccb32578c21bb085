"""Ports that this host listens on: how many, and which ones are new.

What listens at the first reading, and within ten minutes of the host's start, is what there is; every port after that
is new once, however often its service is started anew. Ports of loopback addresses alone are counted and told only
with `loopback`, and UDP ports that the kernel chose for somebody who asks (clients of DNS and the like) never.
"""

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from watchbill_agent.hostpaths import read_text, unreadable
from watchbill_agent.samplers import (
    Family,
    Happening,
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

TABLE_BYTES_MAX = 4 * 1024 * 1024
"""Of one table. Listening sockets come first in those of TCP, where reading ends with them."""
KNOWN_MAX = 4_096
"""Ports remembered; when they are more, new ones are not known as such any more, which the sampler notices."""
EVENTS_MAX = 20
STARTING_MS = 600_000
"""How long a host is starting, counted from its boot: services that come up then are no news."""
PROCESSES_MAX = 5_000
"""Looked through for whose a new port is."""
READ_BYTES = 64 * 1024
EVENT = "security.port"
_TABLES = (("tcp", "net/tcp"), ("tcp", "net/tcp6"), ("udp", "net/udp"), ("udp", "net/udp6"))
_STATE = {"tcp": b"0A", "udp": b"07"}
_EPHEMERAL_DEFAULT = (32_768, 60_999)

_PORTS = Family("watchbill_security_listening_ports", MetricType.GAUGE, "Sockets that listen.")
_OPENED = Family("watchbill_security_ports_opened_total", MetricType.COUNTER, "Ports that were new.")
_LAYOUT = Layout(
    (_PORTS, _OPENED),
    [Series(family.name, labels(proto=proto)) for family in (_PORTS, _OPENED) for proto in ("tcp", "udp")],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`loopback`: ports that only this host can reach are new ones, too."""

    loopback: bool = False


@dataclass(frozen=True, slots=True)
class Port:
    """A socket that listens."""

    proto: str
    address: str
    port: int
    uid: int
    inode: int

    @property
    def key(self) -> tuple[str, str, int]:
        """The same for the next process that listens there."""
        return self.proto, self.address, self.port

    @property
    def local(self) -> bool:
        """Whether nobody else can reach it."""
        return self.address.startswith(("127.", "::ffff:127.")) or self.address == "::1"


class Listening(Sampler):
    """Reads /proc/net/tcp, tcp6, udp and udp6, and /proc/*/fd when a port is new."""

    name = "listening"
    default_on = True
    interval_s = 30.0
    options_type = Options

    def __init__(self, options: Options, host: HostPaths) -> None:
        self._loopback = options.loopback
        self._proc = host.proc
        self._boottime_ms = host.clock.boottime_ms
        self._known: set[tuple[str, str, int]] | None = None
        self._opened = {"tcp": 0, "udp": 0}

    def sample(self) -> Reading:
        """How many listen, and how many were new so far."""
        ports = self._ports()
        if self._known is None or self._boottime_ms() < STARTING_MS:
            self._known = {port.key for port in ports} | (self._known or set())
        else:
            self._meet([port for port in ports if port.key not in self._known])
        counts = [sum(1 for port in ports if port.proto == proto) for proto in ("tcp", "udp")]
        return Reading(_LAYOUT, [*map(float, counts), *map(float, self._opened.values())])

    def _ports(self) -> list[Port]:
        ports: list[Port] = []
        missing = 0
        for proto, name in _TABLES:
            try:
                ports += parse(proto, self._table(name, _STATE[proto]))
            except Missing:
                missing += 1
        if missing == len(_TABLES):
            raise NothingHere("net/tcp", "this kernel has no IP")
        first, last = self._ephemeral()
        return [port for port in ports if port.proto == "tcp" or not first <= port.port <= last]

    def _table(self, name: str, state: bytes) -> bytes:
        """The lines of this state, as far as they are together at the start."""
        path = self._proc / name
        parts: list[bytes] = []
        size = 0
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                while data := os.read(descriptor, READ_BYTES):
                    if not parts and b"local_address" not in data[:64]:
                        raise SamplerFailed(str(path), f"wanted a table of sockets, got {shown(data)}")
                    parts.append(data)
                    size += len(data)
                    if size > TABLE_BYTES_MAX:
                        break
                    if state == _STATE["tcp"] and _state_of(data.rpartition(b"\n")[0]) not in (b"", state):
                        break
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise unreadable(path, exc) from exc
        return b"".join(parts)

    def _ephemeral(self) -> tuple[int, int]:
        try:
            first, last = read_text(self._proc / "sys/net/ipv4/ip_local_port_range").split()
            return int(first), int(last)
        except (SamplerFailed, ValueError):
            return _EPHEMERAL_DEFAULT

    def _meet(self, ports: Sequence[Port]) -> None:
        assert self._known is not None
        if len(self._known) + len(ports) > KNOWN_MAX:
            self.notice = f"more than {KNOWN_MAX} ports were seen: new ones are not told any more"
            return
        fresh = [
            port for port in {port.key: port for port in ports}.values() if self._loopback or not port.local
        ]
        told = fresh[:EVENTS_MAX]
        for port in fresh:
            self._opened[port.proto] += 1
        self._known.update(port.key for port in ports)
        if told:
            owners = self._owners({port.inode for port in told if port.inode})
            self.happenings = tuple(_happening(port, owners.get(port.inode, "")) for port in told)

    def _owners(self, inodes: set[int]) -> dict[int, str]:
        """The names of the processes that hold these sockets, of those that this user may look into."""
        wanted = {f"socket:[{inode}]": inode for inode in inodes}
        owners: dict[int, str] = {}
        try:
            with os.scandir(self._proc) as entries:
                pids = [entry.name for entry in entries if entry.name.isdigit()][:PROCESSES_MAX]
        except OSError:
            return owners
        for pid in pids:
            for target in _targets(self._proc / pid / "fd"):
                if target in wanted and wanted[target] not in owners:
                    try:
                        owners[wanted[target]] = read_text(self._proc / pid / "comm")
                    except SamplerFailed:
                        continue
            if len(owners) == len(wanted):
                break
        return owners


def _targets(directory: os.PathLike[str]) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    yield os.readlink(entry.path)  # noqa: PTH115 - Thousands of them.
                except OSError:
                    continue
    except OSError:
        return


def _state_of(lines: bytes) -> bytes:
    """Of the last whole line."""
    words = lines.rpartition(b"\n")[2].split(None, 4)
    return words[3] if len(words) > 3 and words[0] != b"sl" else b""


def parse(proto: str, data: bytes) -> list[Port]:
    """The sockets of a table that listen. A line that the read cut off, or that is none, is left out."""
    ports = []
    for line in data.split(b"\n"):
        words = line.split(None, 10)
        if len(words) < 10 or words[3] != _STATE[proto]:
            continue
        try:
            address, port = words[1].split(b":")
            if proto == "udp" and words[2].rpartition(b":")[2].strip(b"0"):
                continue  # Connected to somebody: it hears nobody else.
            ports.append(Port(proto, address_of(address), int(port, 16), int(words[7]), int(words[9])))
        except ValueError:
            continue
    return ports


def address_of(text: bytes) -> str:
    """The kernel writes words of 32 bits in its own byte order. Raises ValueError for what is no address."""
    raw = bytes.fromhex(text.decode("ascii"))
    if len(raw) not in (4, 16):
        raise ValueError("wanted 4 or 16 bytes")
    words = struct.unpack(f"={len(raw) // 4}I", raw)
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, struct.pack(f">{len(words)}I", *words))


def _happening(port: Port, process: str) -> Happening:
    payload = {"proto": port.proto, "address": port.address, "port": port.port, "uid": port.uid}
    return Happening(EVENT, {**payload, **({"process": process} if process else {})})
