"""Whether a host answers pings, how many of them, and how fast: echo requests over IPv4 or IPv6 without any privilege.

    [[check]]
    name = "gateway"
    kind = "icmp"
    target = "192.0.2.1"
    count = 5
    loss_warn = 20
    fail_after = "200ms"

Linux lets a group open datagram sockets for echoes (net.ipv4.ping_group_range, also for IPv6). The kernel gives each
socket an identifier of its own and hands it only answers to that; beyond, every request carries 16 random bytes of its
look, so that an answer is of this look or of none. When an answer came is told by the kernel, not by when this process
had time to look.

`warn_after` and `fail_after` judge the average round trip. Reasons: `no-answer`, `loss`, `slow`, `unreachable`,
`name-unknown`, `timeout`, `protocol`; UNKNOWN `not-permitted`, `no-descriptors`, `resolve-timeout`, `resolve-failed`,
`resolver-busy`.
"""

import asyncio
import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from watchbill.config import Duration, Wrong, option
from watchbill.config.convert import show_value
from watchbill_agent.checks.addresses import RESOLVER, Place
from watchbill_agent.checks.check import Failed, Outcome, Probe, Samples, Verdict
from watchbill_agent.checks.connection import failure, readable
from watchbill_agent.checks.probing import Findings, Form, NetOptions, Phases, bounded, with_samples

COUNT_MAX: Final = 100
EVERY_MIN: Final = Duration(0.01)
EVERY_DEFAULT: Final = Duration(0.2)
PAYLOAD_BYTES_MIN: Final = 16
PAYLOAD_BYTES_MAX: Final = 8_192
PAYLOAD_BYTES_DEFAULT: Final = 56
STRANGERS_MAX: Final = 1_000
"""Answers of one look that are to nothing we asked; beyond, nothing more is read."""
LAST_WAIT_S: Final = 2.0
"""For the last answer, when the look has more time than that; a round trip to the moon and back is longer."""
RANGE_FILE: Final = "net.ipv4.ping_group_range"

_TOKEN_BYTES: Final = 14
_ECHO: Final = {socket.AF_INET: 8, socket.AF_INET6: 128}
_ECHO_REPLY: Final = {socket.AF_INET: 0, socket.AF_INET6: 129}
_HOP_LIMIT: Final = {(socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)}
_IP_RECVTTL: Final = 12
_SO_TIMESTAMPNS: Final = 35
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_PMTUDISC_DO: Final = 2
_TIMESPEC: Final = struct.Struct("@qq")
_UNREACHABLE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED, errno.EHOSTDOWN})
_PHASES: Final = ("resolve", "setup", "rtt")
_FORM: Final = Form(
    ("probe_icmp_duration_seconds", "Duration of each phase; rtt is the average round trip.", *_PHASES),
    ("probe_dns_lookup_time_seconds", "How long finding the address took."),
    ("probe_ip_protocol", "Whether it was IPv4 or IPv6."),
    ("watchbill_check_icmp_sent", "Echo requests of the last look."),
    ("watchbill_check_icmp_received", "Answers to them."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(NetOptions):
    """Whom to ask, and how often."""

    target: str = option(help="Whom to ask: a name or an address.", length_max=253, example='"192.0.2.1"')
    count: int = option(3, at_least=1, at_most=COUNT_MAX, help="How many requests.")
    every: Duration = option(
        EVERY_DEFAULT, at_least=EVERY_MIN, at_most=Duration(10), help="The time between them."
    )
    payload_size: int = option(
        PAYLOAD_BYTES_DEFAULT, at_least=PAYLOAD_BYTES_MIN, at_most=PAYLOAD_BYTES_MAX, help="Bytes in each."
    )
    ttl: int = option(64, at_least=1, at_most=255, help="The hop limit of the requests.")
    dont_fragment: bool = option(False, help="Whether a request that is too large on its way fails.")
    loss_warn: float = option(1.0, at_least=0, at_most=100, help="Percent lost, from which it is a warning.")
    loss_fail: float = option(100.0, at_least=0, at_most=100, help="Percent lost, from which it has failed.")

    def check(self) -> Iterator[Wrong]:
        """A warning comes first."""
        yield from NetOptions.check(self)
        if not self.target or any(c.isspace() for c in self.target):
            yield Wrong("target", show_value(self.target), "a name or an address")
        if self.loss_warn > self.loss_fail:
            yield Wrong("loss_warn", f"{self.loss_warn:g}", f"at most loss_fail, {self.loss_fail:g}")
        elif self.loss_fail == 0:
            yield Wrong("loss_fail", "0", "more than 0: nothing lost is no failure")


@dataclass(slots=True)
class _Found:
    phases: Phases = field(default_factory=lambda: Phases("resolve", "setup", "rtt"))
    protocol: int = 0
    sent: dict[int, tuple[float, int]] = field(default_factory=dict)
    """When each was sent: monotonic seconds, and wall time in ns."""
    trips_s: dict[int, float] = field(default_factory=dict)
    hops: int = 0
    unreachable: str = ""

    @property
    def average_s(self) -> float:
        """The average round trip; 0 if there is none."""
        return sum(self.trips_s.values()) / len(self.trips_s) if self.trips_s else 0.0

    @property
    def lost(self) -> float:
        """The part without an answer."""
        return 1 - len(self.trips_s) / len(self.sent)


class Icmp(Probe):
    """Pings."""

    kind = "icmp"
    options_type = Options
    options: Options

    async def look(self, within_s: float) -> Outcome:
        """Ask `count` times."""
        found = _Found()
        try:
            await bounded(self._ping(found, within_s), within_s, found.phases)
        except Failed as exc:
            found.phases.end()
            return with_samples(exc, self._samples(found))
        found.phases.end()
        return self._judge(found)

    async def _ping(self, found: _Found, within_s: float) -> None:
        until_s = time.monotonic() + within_s * 0.9
        found.phases.begin("resolve")
        place = (await RESOLVER.places(self.options.target, self.options))[0]
        found.protocol = place.protocol
        found.phases.begin("setup")
        with self._opened(place) as opened:
            found.phases.begin("rtt")
            await _Pinging(opened, place.family, self.options, found, until_s).run()

    @contextlib.contextmanager
    def _opened(self, place: Place) -> Iterator[socket.socket]:
        options, six = self.options, place.family == socket.AF_INET6
        protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
        try:
            opened = socket.socket(
                place.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol
            )
        except PermissionError as exc:
            detail = f"set {RANGE_FILE} so that it has this process's group ({os.getegid()}), as systemd does by itself"
            raise Failed("not-permitted", detail, verdict=Verdict.UNKNOWN) from exc
        except OSError as exc:
            raise failure(exc, place.host) from exc
        with opened:
            try:
                opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
                if six:
                    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
                    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, options.ttl)
                else:
                    opened.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
                    opened.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, options.ttl)
                if options.dont_fragment:
                    level, name = (
                        (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)
                        if six
                        else (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
                    )
                    opened.setsockopt(level, name, _PMTUDISC_DO)
                opened.connect(place.at(0))
            except OSError as exc:
                raise failure(exc, place.host) from exc
            yield opened

    def _judge(self, found: _Found) -> Outcome:
        options, findings = self.options, Findings()
        percent = found.lost * 100
        if not found.trips_s:
            reason, why = (
                ("unreachable", found.unreachable) if found.unreachable else ("no-answer", "no answer")
            )
            findings.fail(reason, f"{options.target}: {why} to {len(found.sent)} requests")
        elif percent >= options.loss_fail:
            findings.fail("loss", f"lost {percent:.0f} %, wanted less than {options.loss_fail:g} %")
        elif percent and percent >= options.loss_warn:
            findings.add(
                Verdict.WARNING, "loss", f"lost {percent:.0f} %, wanted less than {options.loss_warn:g} %"
            )
        if found.trips_s:
            findings.judge_duration(options, found.average_s)
        well = f"{len(found.trips_s)} of {len(found.sent)} in {found.average_s * 1000:.3g} ms on average"
        return findings.outcome(self._samples(found), well)

    def _samples(self, found: _Found) -> Samples:
        seconds = found.phases.seconds
        samples = _FORM.fill(
            (
                seconds["resolve"],
                seconds["setup"],
                found.average_s,
                seconds["resolve"],
                found.protocol,
                len(found.sent),
                len(found.trips_s),
            )
        )
        if found.sent:
            samples.gauge("watchbill_check_icmp_loss_ratio", "The part that was not answered.", found.lost)
        if found.trips_s:
            name, help_ = "watchbill_check_icmp_rtt_seconds", "The shortest and the longest round trip."
            samples.gauge(name, help_, min(found.trips_s.values()), of="min")
            samples.gauge(name, help_, max(found.trips_s.values()), of="max")
            samples.gauge("probe_icmp_reply_hop_limit", "The hop limit of the last answer.", found.hops)
        return samples


class _Pinging:
    """The requests of one look and their answers."""

    def __init__(
        self, opened: socket.socket, family: int, options: Options, found: _Found, until_s: float
    ) -> None:
        self._socket = opened
        self._family = family
        self._options = options
        self._found = found
        self._until_s = until_s
        self._token = os.urandom(_TOKEN_BYTES)
        self._fill = bytes(options.payload_size - PAYLOAD_BYTES_MIN)
        self._strangers = 0

    async def run(self) -> None:
        """Send them all, and wait for what comes until then and a while after."""
        for number in range(self._options.count):
            self._send(number)
            last = number == self._options.count - 1
            if not last and time.monotonic() + self._options.every > self._until_s:
                break  # What there is time for.
            pause_s = max(LAST_WAIT_S, self._options.every) if last else self._options.every
            await self._hear(min(self._until_s, time.monotonic() + pause_s), all_of=last)

    def _send(self, number: int) -> None:
        payload = self._token + number.to_bytes(2, "big") + self._fill
        # The kernel fills in the checksum and the identifier.
        packet = struct.pack("!BBHHH", _ECHO[socket.AddressFamily(self._family)], 0, 0, 0, number) + payload
        self._found.sent[number] = (time.monotonic(), time.time_ns())
        try:
            self._socket.send(packet)
        except BlockingIOError:
            pass  # Lost, like any other.
        except OSError as exc:
            self._errored(exc)

    async def _hear(self, until_s: float, *, all_of: bool) -> None:
        try:
            async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
                while not (all_of and len(self._found.trips_s) == len(self._found.sent)):
                    await readable(self._socket)
                    self._take_all()
        except TimeoutError:
            pass

    def _take_all(self) -> None:
        while self._strangers < STRANGERS_MAX:
            try:
                packet, ancillary, _, _ = self._socket.recvmsg(PAYLOAD_BYTES_MAX + 64, 256)
            except BlockingIOError:
                return
            except OSError as exc:
                self._errored(exc)
                return
            self._take(packet, ancillary)
        raise Failed(
            "protocol", f"{self._options.target}: more than {STRANGERS_MAX} answers to nothing that was asked"
        )

    def _take(self, packet: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        now_s = time.monotonic()
        payload = packet[8:]
        number = int.from_bytes(payload[_TOKEN_BYTES : _TOKEN_BYTES + 2], "big")
        ours = payload[:_TOKEN_BYTES] == self._token and number in self._found.sent
        if (
            not ours
            or packet[0] != _ECHO_REPLY[socket.AddressFamily(self._family)]
            or number in self._found.trips_s
        ):
            self._strangers += 1
            return
        sent_s, sent_ns = self._found.sent[number]
        trip_s = now_s - sent_s
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(data) >= _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack_from(data)
                by_kernel_s = (seconds * 10**9 + nanoseconds - sent_ns) / 1e9
                # Unless the clock was set in between.
                trip_s = by_kernel_s if 0 <= by_kernel_s <= trip_s else trip_s
            elif (level, kind) in _HOP_LIMIT and len(data) >= 4:
                self._found.hops = int.from_bytes(data[:4], "little")
        self._found.trips_s[number] = trip_s

    def _errored(self, error: OSError) -> None:
        """What routers say of a request."""
        if error.errno == errno.EMSGSIZE:
            raise Failed(
                "unreachable", f"{self._options.target}: too large for its way, and not to be fragmented"
            )
        if error.errno in (errno.EACCES, errno.EPERM):
            detail = f"{self._options.target}: a packet filter or a route of this host forbids it"
            raise Failed("not-permitted", detail, verdict=Verdict.UNKNOWN) from error
        if error.errno not in _UNREACHABLE:
            raise failure(error, self._options.target) from error
        self._found.unreachable = (error.strerror or "").lower()
