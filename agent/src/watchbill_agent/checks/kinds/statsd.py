"""What applications count and time by themselves: listens for statsd and DogStatsD datagrams, over UDP and a unix
socket.

    kind = "statsd"
    listen = "127.0.0.1:8125"

Counters end with `_total`; timers become histograms in seconds, `h` and `d` histograms of what they say; gauges with a
sign are moved by it; sets say how many distinct values an interval had. Names and tags are made valid with underscores,
a tag without a value is "true". Events, and service checks whose status changed, go into the host's timeline.

Reasons: `lost` (the kernel had no room for datagrams), `series-max`, `garbage` (more than 1 % of lines), each a
WARNING; `listen` (UNKNOWN: the address or socket cannot be had). Nothing is lost silently: the kernel's own count of
datagrams that found no room is a series.
"""

import contextlib
import errno
import os
import select
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchbill.config import Address, ByteSize, Duration, Wrong, option
from watchbill.config.convert import show_value
from watchbill_agent.checks.check import About, Happening, Listener, Outcome, Samples, Verdict
from watchbill_agent.checks.statsd_series import DROPPED, Intake, Rules
from watchbill_agent.checks.statsd_text import Event, ServiceCheck

EVENT: Final = "statsd.event"
SERVICE_CHECK: Final = "statsd.service_check"
LISTEN_DEFAULT: Final = Address("127.0.0.1", 8125)
SERIES_MAX_DEFAULT: Final = 2_000
SERIES_MAX_MOST: Final = 9_000
PREFIX_CHARACTERS_MAX: Final = 40
BUCKETS_MAX: Final = 40
TIMER_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
HISTOGRAM_BUCKETS: Final = (0.01, 0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0)
DATAGRAM_BYTES_MAX: Final = 65_536
BATCH_MAX: Final = 512
"""Datagrams taken before they are looked at."""
BATCH_SMALL: Final = 16
PAUSE_S: Final = 0.010
"""After fewer than that: those that come meanwhile share one wake-up. At 1,000 datagrams a second that is most of what
they cost. A small one takes 768 bytes of the kernel's buffer, so 100,000 a second fill 0.8 MB meanwhile."""
PAUSE_BUFFER_BYTES_MIN: Final = 2 << 20
PAUSE_SMALL_S: Final = 0.002
"""The same with a smaller buffer."""
GARBAGE_SHARE_MAX: Final = 0.01
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("9I")
_DROPS: Final = 8
_U32: Final = 1 << 32


def _ascending(values: list[float]) -> str | None:
    right = values and sorted(set(values)) == values and all(abs(value) < 1e300 for value in values)
    return None if right else "numbers that grow, at least one"


def _prefix(value: str) -> str | None:
    plain = value.isascii() and value.replace("_", "a").isalnum() and not value[:1].isdigit()
    return (
        None
        if not value or (plain and len(value) <= PREFIX_CHARACTERS_MAX)
        else (f"up to {PREFIX_CHARACTERS_MAX} letters, digits and _, no digit first")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where to listen, and how much of what is said to keep."""

    listen: Address | None = option(
        None,
        help="UDP address; without it and without a socket 127.0.0.1:8125. Anybody who reaches it can say anything.",
        example='"127.0.0.1:8125"',
    )
    socket: Path | None = option(
        None, help="A unix datagram socket, where senders are pushed back instead of lost."
    )
    socket_mode: str = option(
        "0666",
        help="Who may write to it.",
        check=lambda value: (
            None
            if len(value) == 4 and value[0] == "0" and set(value) <= set("01234567")
            else '"0666", "0660" or another octal mode'
        ),
    )
    prefix: str = option("", check=_prefix, help="What all names begin with.", example='"shop_"')
    series_max: int = option(
        SERIES_MAX_DEFAULT,
        help="Numbers emitted at most; a timer is one for each of its buckets and two more.",
        at_least=1,
        at_most=SERIES_MAX_MOST,
    )
    expire: Duration = option(
        Duration(300),
        help="When a gauge or set ends of which nobody spoke; counters and histograms only when room is needed.",
        at_least=Duration(1),
        at_most=Duration(86_400),
    )
    timer_buckets: list[float] = option(
        list(TIMER_BUCKETS),
        help="Upper bounds of timers, in seconds.",
        length_max=BUCKETS_MAX,
        check=_ascending,
    )
    histogram_buckets: list[float] = option(
        list(HISTOGRAM_BUCKETS),
        help="Upper bounds of histograms and distributions, in what they say.",
        length_max=BUCKETS_MAX,
        check=_ascending,
    )
    containers: bool = option(False, help="Whether |c: becomes the label container_id.")
    events_per_minute: int = option(
        60, help="Events and changed service checks that go into the timeline.", at_least=0, at_most=600
    )
    receive_buffer: ByteSize = option(
        ByteSize(8 << 20),
        help="What the kernel is asked to hold; it gives as much as net.core.rmem_max, or root, allows.",
        at_least=ByteSize(64 << 10),
        at_most=ByteSize(256 << 20),
    )

    def check(self) -> Iterator[Wrong]:
        """A path as long as the kernel takes."""
        if self.socket is not None and not (
            self.socket.is_absolute() and len(os.fsencode(self.socket)) <= 107
        ):
            yield Wrong("socket", show_value(str(self.socket)), "an absolute path of at most 107 bytes")


@dataclass(slots=True)
class _Door:
    """One socket, and how often the kernel found no room in it."""

    sock: socket.socket
    drops: int = 0

    def more_drops(self) -> int:
        """Since the last time asked. The kernel counts to 2**32 and begins anew."""
        with contextlib.suppress(OSError, struct.error):
            info = self.sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
            now: int = _MEMINFO.unpack(info)[_DROPS]
            more = (now - self.drops) % _U32
            self.drops = now
            return more
        return 0

    @property
    def buffer_bytes(self) -> int:
        """What the kernel gave."""
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


class Statsd(Listener):
    """Listens, and reports all series every interval."""

    kind = "statsd"
    options_type = Options
    interval_s = 10.0
    timeout_s = 10.0
    retries = 0
    many = True

    def __init__(self, options: Options, about: About) -> None:
        super().__init__(options, about)
        self._options = options
        rules = Rules(
            prefix=options.prefix,
            series_max=options.series_max,
            expire_s=float(options.expire),
            timer_buckets=tuple(options.timer_buckets),
            histogram_buckets=tuple(options.histogram_buckets),
            containers=options.containers,
            events_per_minute=options.events_per_minute,
        )
        self._intake = Intake(rules, time.monotonic, time.time)
        self._doors: list[_Door] = []
        self._pause_s = PAUSE_SMALL_S
        self._datagrams = 0
        self._lost = 0
        self._refused_before = 0
        self._before = (0, 0, 0)
        """Lines, lines dropped and datagrams lost at the last report."""

    @property
    def port(self) -> int:
        """The UDP port it listens on; 0 for none."""
        for door in self._doors:
            if door.sock.family != socket.AF_UNIX:
                return int(door.sock.getsockname()[1])
        return 0

    # ------------------------------------------------------------ listening

    def run(self, report: Callable[[Outcome], None]) -> None:
        """Listen for ever. What cannot be listened to is reported as such, and tried again at the next interval."""
        try:
            while True:
                due_s = time.monotonic() + self.about.interval_s
                try:
                    if not self._doors:
                        self.open()
                except OSError as exc:
                    report(self._unheard(exc))
                    time.sleep(self.about.interval_s)
                    continue
                report(self.outcome())
                self.listen(due_s)
        finally:
            self.shut()

    def open(self) -> None:
        """Listen from now on. Raises OSError, with the place in it."""
        options = self._options
        try:
            if options.listen is not None or options.socket is None:
                self._doors.append(_Door(self._udp(options.listen or LISTEN_DEFAULT)))
            if options.socket is not None:
                self._doors.append(_Door(self._unix(options.socket)))
        except OSError:
            self.shut()
            raise
        least = min(door.buffer_bytes for door in self._doors)
        self._pause_s = PAUSE_S if least >= PAUSE_BUFFER_BYTES_MIN else PAUSE_SMALL_S

    def shut(self) -> None:
        """Listen no more."""
        for door in self._doors:
            door.sock.close()
            if door.sock.family == socket.AF_UNIX and self._options.socket is not None:
                self._options.socket.unlink(missing_ok=True)
        self._doors.clear()

    def listen(self, until_s: float) -> None:
        """Take what comes until then, by the monotonic clock."""
        poll = select.poll()
        sockets = {door.sock.fileno(): door.sock for door in self._doors}
        for descriptor in sockets:
            poll.register(descriptor, select.POLLIN)
        while (left_s := until_s - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(max(1.0, left_s * 1000)):
                self._take(sockets[descriptor].recv)

    def _take(self, receive: Callable[[int], bytes]) -> None:
        """A batch: what is there, and no more than BATCH_MAX."""
        taken: list[bytes] = []
        put = taken.append
        try:
            for _ in range(BATCH_MAX):
                put(receive(DATAGRAM_BYTES_MAX))
        except BlockingIOError:
            pass  # That was all.
        self._datagrams += len(taken)
        self._intake.feed(taken)
        if len(taken) < BATCH_SMALL:
            time.sleep(self._pause_s)

    def _udp(self, address: Address) -> socket.socket:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )[0]
        return self._bound(socket.socket(family, kind, protocol), place)

    def _unix(self, path: Path) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise FileExistsError(errno.EEXIST, "there is a file, and it is no socket", str(path))
            if _answers(path):
                raise OSError(errno.EADDRINUSE, "somebody else listens there", str(path))
            path.unlink()  # Of a process that was killed.
        made = self._bound(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), str(path))
        path.chmod(int(self._options.socket_mode, 8))
        return made

    def _bound(self, made: socket.socket, place: object) -> socket.socket:
        try:
            made.setblocking(False)
            size = int(self._options.receive_buffer)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
            with contextlib.suppress(PermissionError):
                made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
            made.bind(place)  # type: ignore[arg-type]  # As getaddrinfo gave it, or a path.
        except BaseException:
            made.close()
            raise
        return made

    # ------------------------------------------------------------ reporting

    def _unheard(self, exc: OSError) -> Outcome:
        options = self._options
        places = [str(place) for place in (options.listen, options.socket) if place is not None]
        where = " and ".join(places) or str(LISTEN_DEFAULT)
        why = (exc.strerror or str(exc)).lower()
        return Outcome(Verdict.UNKNOWN, "listen", f"{where}: {why}", self._samples())

    def outcome(self) -> Outcome:
        """How it stands, with every number."""
        self._lost += sum(door.more_drops() for door in self._doors)
        samples = self._samples()
        dropped = self._intake.dropped
        now = (self._intake.lines, sum(dropped.values()), self._lost)
        lines, bad, lost = (new - old for new, old in zip(now, self._before, strict=True))
        self._before = now
        detail = f"not taken: {bad} of {lines} lines, such as {self._intake.example}" if bad else ""
        happenings = self._happenings()
        if lost:
            said = f"{lost} datagrams found no room in {self._doors[0].buffer_bytes} bytes; raise net.core.rmem_max"
            return Outcome(Verdict.WARNING, "lost", said, samples, happenings)
        if dropped["series-max"] > self._refused_before:
            self._refused_before = dropped["series-max"]
            wanted = f"got more than series_max = {self._options.series_max}; {detail}"
            return Outcome(Verdict.WARNING, "series-max", wanted, samples, happenings)
        if bad > lines * GARBAGE_SHARE_MAX:
            return Outcome(Verdict.WARNING, "garbage", detail, samples, happenings)
        return Outcome(Verdict.OK, "", detail, samples, happenings)

    def _samples(self) -> Samples:
        samples, intake = Samples(), self._intake
        own = "watchbill_check_statsd"
        samples.counter(f"{own}_datagrams_total", "Datagrams taken.", float(self._datagrams))
        samples.counter(f"{own}_lines_total", "Lines in them.", float(intake.lines))
        for reason in DROPPED:
            samples.counter(
                f"{own}_dropped_total",
                "Lines and values that were not taken.",
                float(intake.dropped[reason]),
                reason=reason,
            )
        samples.counter(f"{own}_lost_total", "Datagrams that the kernel had no room for.", float(self._lost))
        samples.counter(f"{own}_events_total", "Events said.", float(intake.events_seen))
        samples.counter(
            f"{own}_service_checks_total", "Service checks said.", float(intake.service_checks_seen)
        )
        samples.counter(f"{own}_expired_total", "Series that ended.", float(intake.expired))
        samples.gauge(f"{own}_series", "Numbers emitted for clients.", float(intake.emitted))
        size = float(sum(door.buffer_bytes for door in self._doors))
        samples.gauge(
            f"{own}_receive_buffer_bytes", "What the kernel holds until it is taken, at most.", size
        )
        intake.report(samples)
        return samples

    def _happenings(self) -> tuple[Happening, ...]:
        intake = self._intake
        told = [Happening(EVENT, _event(one)) for one in intake.events]
        told += [Happening(SERVICE_CHECK, _service_check(one)) for one in intake.service_checks]
        intake.events.clear()
        intake.service_checks.clear()
        return tuple(told)


def _answers(path: Path) -> bool:
    """Whether somebody has this socket open."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


def _event(said: Event) -> dict[str, object]:
    at = {} if said.at_s is None else {"at_s": said.at_s}
    return {"title": said.title, "text": said.text, **said.words, **at, "tags": dict(said.tags)}


def _service_check(said: ServiceCheck) -> dict[str, object]:
    words = {
        "service": said.name,
        "status": Verdict(said.status).word,
        "message": said.message,
        "host": said.host,
    }
    return {**{name: value for name, value in words.items() if value}, "tags": dict(said.tags)}
