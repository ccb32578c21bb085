"""From names to addresses, without ever holding up whoever else asks.

The system's resolver is the only one that knows all of nsswitch.conf, and it blocks: for 5 to 40 s when no name server
answers. So it runs in threads of its own, and:

1. an address needs no resolver, and a name of /etc/hosts is read there (where nsswitch.conf asks "files" first), so
   those are found while every thread hangs;
2. who asks for the same name at the same time shares one thread;
3. there are THREADS_MAX threads; who finds none waits in line until its own deadline, and is forgotten then;
4. threads are daemons: one that hangs delays no end of the process.

Measured: an address 1 us of CPU, a name of /etc/hosts 14 us, another name 250 us. dnspython's resolver takes 900 to
1,700 us and 11 MiB, and is blind to mdns, sssd and nsswitch.conf.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, NamedTuple

from watchbill.files import UnreadableFile, read_bounded
from watchbill_agent.checks.apart import Threads
from watchbill_agent.checks.check import Failed, Verdict
from watchbill_agent.checks.probing import NetOptions

THREADS_MAX: Final = 8
"""That resolve at the same time. The unit has 64 tasks in all."""
WAITING_MAX: Final = 1_000
"""Names in line; who comes then is told `resolver-busy`."""
ADDRESSES_MAX: Final = 4
"""Of one name that are tried."""
HOSTS_BYTES_MAX: Final = 1024 * 1024
LITERALS_MAX: Final = 2_048

HOSTS: Final = Path("/etc/hosts")
NSSWITCH: Final = Path("/etc/nsswitch.conf")

_UNKNOWN_NAMES: Final = frozenset({socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY})


class Place(NamedTuple):
    """An address to connect to: a family of sockets, and the address without its port."""

    family: int
    host: str
    scope: int = 0

    def at(self, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
        """As sockets take it."""
        return (self.host, port) if self.family == socket.AF_INET else (self.host, port, 0, self.scope)

    @property
    def protocol(self) -> int:
        """4 or 6."""
        return 4 if self.family == socket.AF_INET else 6


@dataclass(slots=True)
class Counts:
    """Since the start."""

    looked_up: int = 0
    refused: int = 0
    """Because too many were in line."""
    forgotten: int = 0
    """Whose deadline came before a thread had time for them."""


class _Job:
    __slots__ = ("abandoned", "answer", "host", "loop", "waiters")

    def __init__(self, host: str, loop: asyncio.AbstractEventLoop) -> None:
        self.host = host
        self.loop = loop
        self.answer: asyncio.Future[list[Place] | OSError] = loop.create_future()
        self.waiters = 0
        self.abandoned = False


Lookup = Callable[[str], list[Place]]


def system_lookup(host: str) -> list[Place]:
    """What the system says; blocks. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [
        Place(family, str(address[0]).partition("%")[0], int(address[3]) if len(address) == 4 else 0)
        for family, _, _, _, address in found
        if family in (socket.AF_INET, socket.AF_INET6)
    ]


class Resolver:
    """Finds addresses for one process."""

    def __init__(self, lookup: Lookup = system_lookup, hosts: "Hosts | None" = None) -> None:
        self._lookup = lookup
        self._hosts = hosts or Hosts()
        self._threads = Threads("resolver", THREADS_MAX)
        self._running: dict[tuple[asyncio.AbstractEventLoop, str], _Job] = {}
        self.counts = Counts()

    async def places(self, host: str, options: NetOptions) -> list[Place]:
        """Addresses of a name, at least one, the preferred first. Raises Failed."""
        return preferred(host, literal(host) or self._hosts.find(host) or await self._ask(host), options)

    async def _ask(self, host: str) -> list[Place]:
        loop = asyncio.get_running_loop()
        job = self._running.get((loop, host))
        if job is None:
            if len(self._running) >= WAITING_MAX:
                self.counts.refused += 1
                detail = f"{len(self._running)} names wait for the resolver"
                raise Failed("resolver-busy", detail, verdict=Verdict.UNKNOWN)
            job = self._running[loop, host] = _Job(host, loop)
            self.counts.looked_up += 1
            self._threads.begin(partial(self._work, job))
        job.waiters += 1
        try:
            answer = await asyncio.shield(job.answer)
        finally:
            job.waiters -= 1
            if not job.waiters and not job.answer.done():
                # A thread that has begun with it ends some time; the next who asks begins another.
                job.abandoned = True
                self._running.pop((loop, host), None)
        if isinstance(answer, OSError):
            raise _failed(host, answer)
        return answer

    def _work(self, job: _Job) -> None:
        """In a thread."""
        answer = self._answer(job)
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits.
            job.loop.call_soon_threadsafe(self._done, job, answer)

    def _answer(self, job: _Job) -> list[Place] | OSError:
        if job.abandoned:
            self.counts.forgotten += 1
            return []
        try:
            return list(dict.fromkeys(self._lookup(job.host)))
        except UnicodeError:
            return socket.gaierror(socket.EAI_NONAME, "no name that could exist")
        except OSError as exc:
            return exc

    def _done(self, job: _Job, answer: list[Place] | OSError) -> None:
        if self._running.get((job.loop, job.host)) is job:
            del self._running[job.loop, job.host]
        if not job.answer.done():
            job.answer.set_result(answer)


class Hosts:
    """Names of /etc/hosts, read anew when the file changes; none where nsswitch.conf does not ask it first."""

    def __init__(self, hosts: Path = HOSTS, nsswitch: Path = NSSWITCH) -> None:
        self._files = (hosts, nsswitch)
        self._stamps: tuple[object, ...] = ()
        self._names: dict[str, list[Place]] = {}

    def find(self, name: str) -> list[Place]:
        """Addresses in the file's order; none where it has none."""
        stamps = tuple(stamp(path) for path in self._files)
        if stamps != self._stamps:
            self._stamps = stamps
            hosts, nsswitch = (_lines(path) for path in self._files)
            self._names = _hosts(hosts) if _asked_first(nsswitch) else {}
        return self._names.get(name.lower().removesuffix("."), [])


def stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when a file does; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _lines(path: Path) -> list[list[str]]:
    try:
        text = read_bounded(path, HOSTS_BYTES_MAX).decode("utf-8", "replace")
    except UnreadableFile:
        return []
    return [words for line in text.splitlines() if (words := line.partition("#")[0].split())]


def _hosts(lines: list[list[str]]) -> dict[str, list[Place]]:
    names: dict[str, list[Place]] = {}
    for address, *aliases in lines:
        for alias in aliases:
            places = names.setdefault(alias.lower().removesuffix("."), [])
            places += (one for one in literal(address) if one not in places)
    return names


def _asked_first(lines: list[list[str]]) -> bool:
    said = next((words for words in lines if words[0] == "hosts:"), ["hosts:", "files"])
    return len(said) > 1 and said[1] == "files"


@lru_cache(LITERALS_MAX)
def literal(host: str) -> tuple[Place, ...]:
    """An address written as such; nothing for a name."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return ()
    return tuple(
        Place(family, str(address[0]).partition("%")[0], int(address[3]) if len(address) == 4 else 0)
        for family, _, _, _, address in found
    )


def preferred(host: str, places: "list[Place] | tuple[Place, ...]", options: NetOptions) -> list[Place]:
    """In the order in which to try them. Raises Failed when the protocol that is wanted has none."""
    wanted = options.preferred_ip_protocol
    chosen = list(places)
    if wanted:
        number = 4 if wanted == "ip4" else 6
        chosen.sort(key=lambda place: place.protocol != number)
        if not options.ip_protocol_fallback:
            chosen = [place for place in chosen if place.protocol == number]
    if not chosen:
        raise Failed("name-unknown", f"{host} has no address{f' of {wanted}' if wanted else ''}")
    return chosen[:ADDRESSES_MAX]


def _failed(host: str, error: OSError) -> Failed:
    why = (error.strerror or str(error)).lower()
    if isinstance(error, socket.gaierror) and error.errno in _UNKNOWN_NAMES:
        return Failed("name-unknown", f"{host}: {why}")
    return Failed("resolve-failed", f"{host}: {why}", verdict=Verdict.UNKNOWN)


RESOLVER: Final = Resolver()
"""Of this process: its bound on threads holds for all checks together."""
