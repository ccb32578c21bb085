"""What a name server answers: the records, the code, the serial of a zone, whether it was authenticated, and how fast.

    [[check]]
    name = "zone"
    kind = "dns"
    servers = ["ns1.example", "192.0.2.53:5353"]
    query_name = "www.example"
    expect = ["192.0.2.10", "192.0.2.11"]
    expect_mode = "any"

The servers are asked one after the other until one answers, as a resolver does; none given: those of resolv.conf. Over
UDP a question is sent twice at most, and asked over TCP when the answer did not fit. dnspython makes and reads the
messages; sockets are ours, which saves 6 MiB and lets other answers than ours pass by.

Reasons: `rcode-unexpected`, `answer-unexpected`, `answer-too-long`, `not-authenticated`, `protocol`, `timeout`, `slow`,
those of `connection` and `trust`; UNKNOWN `resolve-timeout`, `resolve-failed`, `resolver-busy`, `no-servers`,
`not-installed`.
"""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from watchbill.config import Address, NotWanted, Wrong, option
from watchbill.config.convert import show_value
from watchbill.files import UnreadableFile, read_bounded
from watchbill_agent.checks import regex, trust
from watchbill_agent.checks.addresses import RESOLVER, Place, literal, stamp
from watchbill_agent.checks.check import About, Failed, Outcome, Probe, Samples, Verdict
from watchbill_agent.checks.connection import Connection, failure, readable
from watchbill_agent.checks.probing import Findings, Form, Phases, bounded, missing, shown, with_samples
from watchbill_agent.names import WrongOption

if TYPE_CHECKING:
    from dns.message import Message

SERVERS_MAX: Final = 8
EXPECTED_MAX: Final = 64
TRIES_MAX: Final = 2
"""Of a question over UDP to one server."""
STRANGERS_MAX: Final = 100
"""Answers to other questions that are passed over in one look."""
MESSAGE_BYTES_MAX: Final = 65_535
RECORDS_MAX: Final = 500
"""Of one answer, all sections together: reading one takes 0.1 ms, in which no other check goes on."""
PAYLOAD_BYTES: Final = 1_232
"""That we take over UDP: what goes through every network whole."""
RESOLV_CONF: Final = Path("/etc/resolv.conf")
RESOLV_CONF_BYTES_MAX: Final = 64 * 1024

_PORTS: Final = {"udp": 53, "tcp": 53, "tls": 853}
_PHASES: Final = ("resolve", "connect", "request")
_FORM: Final = Form(
    ("probe_dns_duration_seconds", "Duration of each phase.", *_PHASES),
    ("probe_dns_lookup_time_seconds", "How long finding the server's address took."),
    ("probe_ip_protocol", "Whether it was IPv4 or IPv6."),
    ("probe_dns_answer_rrs", "Records in the answer."),
    ("probe_dns_authority_rrs", "Records of who is responsible."),
    ("probe_dns_additional_rrs", "Records beside."),
    ("probe_dns_query_succeeded", "Whether a server answered at all."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(trust.TlsOptions):
    """What to ask whom, and what is wanted."""

    servers: list[str] = option(
        [],
        length_max=SERVERS_MAX,
        help="Whom to ask; none: the servers of resolv.conf.",
        example='["192.0.2.53"]',
    )
    query_name: str = option(help="The name to ask for, whole.", length_max=253, example='"www.example"')
    query_type: str = option("A", help="The type of records; PTR also takes an address for its name.")
    query_class: str = option("IN", help="The class of records.")
    transport_protocol: Literal["udp", "tcp", "tls"] = option("udp", help="How to ask.")
    recursion_desired: bool = option(True, help="Whether the server should ask others.")
    valid_rcodes: list[str] = option(["NOERROR"], length_max=EXPECTED_MAX, help="Codes that are well.")
    answers_min: int = option(
        1, at_least=0, at_most=10_000, help="Records that an answer with NOERROR has at least."
    )
    expect: list[str] = option(
        [], length_max=EXPECTED_MAX, help="Records, as text.", example='["10 mail.example"]'
    )
    expect_mode: Literal["all", "any", "none", "exactly"] = option(
        "all", help="Whether all of those are wanted, any, none, or all and no others."
    )
    fail_if_matches_regexp: list[str] = option([], length_max=EXPECTED_MAX, help="What no record may match.")
    fail_if_not_matches_regexp: list[str] = option(
        [], length_max=EXPECTED_MAX, help="What some record must match."
    )
    authenticated: bool = option(False, help="Whether the server must say that DNSSEC holds (AD).")

    def check(self) -> Iterator[Wrong]:
        """Nothing is expected of nothing."""
        yield from trust.TlsOptions.check(self)
        if self.expect_mode != "all" and not self.expect:
            yield Wrong("expect", "nothing", f"the records that {self.expect_mode} is about")


@dataclass(frozen=True, slots=True)
class Server:
    """Whom to ask."""

    host: str
    port: int


@dataclass(slots=True)
class _Found:
    phases: Phases = field(default_factory=lambda: Phases(*_PHASES))
    presented: trust.Presented | None = None
    protocol: int = 0
    message: "Message | None" = None
    server: str = ""


class Dns(Probe):
    """Asks."""

    kind = "dns"
    options_type = Options
    options: Options

    def __init__(self, options: Options, about: About) -> None:
        super().__init__(options, about)
        port = _PORTS[options.transport_protocol]
        self._servers = tuple(
            _server(text, port, about.name, number) for number, text in enumerate(options.servers)
        )
        self._unwanted = regex.all_compiled(
            options.fail_if_matches_regexp, about.name, "fail_if_matches_regexp"
        )
        self._wanted = regex.all_compiled(
            options.fail_if_not_matches_regexp, about.name, "fail_if_not_matches_regexp"
        )
        self._question = _question(options, about.name)
        self._system = _System(about.rootfs / RESOLV_CONF.relative_to("/"), port)

    async def look(self, within_s: float) -> Outcome:
        """Ask once."""
        found = _Found()
        try:
            await bounded(self._ask(found, within_s), within_s, found.phases)
        except Failed as exc:
            found.phases.end()
            return with_samples(exc, self._samples(found))
        return self._judge(found)

    async def _ask(self, found: _Found, within_s: float) -> None:
        if self._question is None:
            raise missing("dnspython")
        if None in (*self._unwanted, *self._wanted):
            raise missing("google-re2")
        until_s = time.monotonic() + within_s
        servers = self._servers or self._system.servers()
        failed = Failed("no-servers", f"{RESOLV_CONF} names none", verdict=Verdict.UNKNOWN)
        for number, server in enumerate(servers):
            share_s = (until_s - time.monotonic()) / (len(servers) - number)
            last = number == len(servers) - 1
            try:
                async with asyncio.timeout(None if last else max(0.0, share_s)):
                    found.message = await self._ask_one(server, found, share_s)
            except TimeoutError:
                if last:
                    raise
                failed = Failed("timeout", f"{server.host}: no answer")
            except Failed as exc:
                failed = exc
            else:
                found.server = server.host
                return
        raise failed

    async def _ask_one(self, server: Server, found: _Found, share_s: float) -> "Message":
        assert self._question is not None, "looked after before asking"
        found.phases.begin("resolve")
        places = await RESOLVER.places(server.host, self.options)
        found.protocol = places[0].protocol
        number = os.urandom(2)
        wire = number + self._question.wire
        if self.options.transport_protocol == "udp":
            message = await self._by_udp(server, places[0], wire, found, share_s)
            if not message.flags & _flag("TC"):
                return message
        return await self._by_stream(server, places, wire, found, share_s)

    async def _by_udp(
        self, server: Server, place: Place, wire: bytes, found: _Found, share_s: float
    ) -> "Message":
        assert self._question is not None, "looked after before asking"
        found.phases.begin("connect")
        where = f"{place.host}:{server.port}"
        try:
            opened = socket.socket(
                place.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
        except OSError as exc:
            raise failure(exc, where) from exc
        strangers = 0
        with opened:
            try:
                opened.connect(place.at(server.port))
                found.phases.begin("request")
                for number in range(TRIES_MAX):
                    opened.send(wire)
                    last = number == TRIES_MAX - 1
                    try:
                        async with asyncio.timeout(None if last else share_s / (TRIES_MAX + 1)):
                            while strangers < STRANGERS_MAX:
                                await readable(opened)
                                said = opened.recv(MESSAGE_BYTES_MAX)
                                if message := self._question.answer(said, wire, where, passing=True):
                                    return message
                                strangers += 1
                    except TimeoutError:
                        if last:
                            raise
            except TimeoutError:
                raise
            except OSError as exc:
                raise failure(exc, where) from exc
        raise Failed("protocol", f"{where}: more than {STRANGERS_MAX} answers to other questions")

    async def _by_stream(
        self, server: Server, places: list[Place], wire: bytes, found: _Found, share_s: float
    ) -> "Message":
        assert self._question is not None, "looked after before asking"
        found.phases.begin("connect")
        connection = await Connection.open(places, server.port, asyncio.get_running_loop().time() + share_s)
        try:
            found.protocol = connection.place.protocol if connection.place is not None else 0
            if self.options.transport_protocol == "tls":
                found.presented, failed = await trust.secure(
                    connection, self.options, server.host, found.phases, phase="connect"
                )
                if failed is not None:
                    raise failed
            found.phases.begin("request")
            await connection.write(len(wire).to_bytes(2, "big") + wire)
            size = int.from_bytes(await _exactly(connection, 2), "big")
            message = self._question.answer(
                await _exactly(connection, size), wire, connection.where, passing=False
            )
            assert message is not None, "what is not passed over is an answer or has failed"
            return message
        finally:
            connection.close()

    # ------------------------------------------------------------ what was found

    def _judge(self, found: _Found) -> Outcome:
        import dns.rcode

        assert found.message is not None, "there is one when nothing failed"
        assert self._question is not None, "looked after before asking"
        options, message, findings = self.options, found.message, Findings()
        took_s = found.phases.end()
        code = dns.rcode.to_text(message.rcode())
        records = self._question.records(message)
        if code not in self._question.codes:
            wanted = ", ".join(sorted(self._question.codes))
            findings.fail("rcode-unexpected", f"{found.server}: got {code}, wanted {wanted}")
        elif code == "NOERROR" and len(records) < options.answers_min:
            got = f"{len(records)} {options.query_type} records"
            findings.fail(
                "answer-unexpected", f"{found.server}: got {got}, wanted {options.answers_min} or more"
            )
        if why := unexpected(records, options.expect, options.expect_mode):
            findings.fail("answer-unexpected", f"{found.server}: {why}")
        self._judge_by_patterns(records, findings)
        if options.authenticated and not message.flags & _flag("AD"):
            findings.fail("not-authenticated", f"{found.server}: the answer is not marked as authenticated")
        if found.presented is not None:
            trust.judge_expiry(options, found.presented, time.time(), findings)
        findings.judge_duration(options, took_s)
        well = f"{found.server}: {code}, {len(records)} records in {took_s * 1000:.3g} ms"
        return findings.outcome(self._samples(found), well)

    def _judge_by_patterns(self, records: list[str], findings: Findings) -> None:
        said = [record.encode() for record in records]
        for pattern in self._unwanted:
            assert pattern is not None, "looked after before asking"
            bad = next((one for one in said if pattern.found_in(one)), None)
            if bad is not None:
                findings.fail(
                    "answer-unexpected", f"got {shown(bad)}, wanted none like {shown(pattern.text)}"
                )
        for pattern in self._wanted:
            assert pattern is not None, "looked after before asking"
            if not any(pattern.found_in(one) for one in said):
                findings.fail(
                    "answer-unexpected", f"none of {len(said)} records is like {shown(pattern.text)}"
                )

    def _samples(self, found: _Found) -> Samples:
        message, seconds = found.message, found.phases.seconds
        counts = (0, 0, 0)
        if message is not None:
            answer, authority, additional = message.answer, message.authority, message.additional
            counts = (_count(answer), _count(authority), _count(additional))
        values = (*seconds.values(), seconds["resolve"], found.protocol, *counts, float(message is not None))
        samples = _FORM.fill(values)
        if message is not None and self.options.query_type.upper() == "SOA":
            for one in (*message.answer, *message.authority):
                serial = getattr(one[0], "serial", None)
                if serial is not None:
                    samples.gauge("probe_dns_serial", "The serial of the zone.", float(serial))
                    break
        if found.presented is not None:
            trust.tell(samples, self.options, found.presented)
        return samples


# ---------------------------------------------------------------- questions and answers


class _Question:
    """The question as it is sent, but for its number, and how its answers are read."""

    def __init__(self, query: "Message", codes: frozenset[str]) -> None:
        self._query = query
        self.wire = query.to_wire()[2:]
        self.codes = codes

    def answer(self, said: bytes, wire: bytes, where: str, *, passing: bool) -> "Message | None":
        """The answer; None for what is to be passed over. Raises Failed."""
        import dns.exception
        import dns.message

        if passing and said[:2] != wire[:2]:
            return None
        records = sum(int.from_bytes(said[at : at + 2], "big") for at in (4, 6, 8, 10))
        if records > RECORDS_MAX:
            raise Failed("answer-too-long", f"{where}: {records} records, wanted at most {RECORDS_MAX}")
        try:
            message = dns.message.from_wire(said, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError, LookupError, RecursionError) as exc:
            raise Failed(
                "protocol", f"{where}: {len(said)} bytes that are no message of DNS: {exc}"[:300]
            ) from exc
        self._query.id = int.from_bytes(wire[:2], "big")
        if not self._query.is_response(message):
            if passing:
                return None
            raise Failed("protocol", f"{where}: an answer to another question")
        return message

    def records(self, message: "Message") -> list[str]:
        """The records of the type that was asked for, as text."""
        wanted = self._query.question[0].rdtype
        return [
            record_text(one.to_text()) for rrset in message.answer if rrset.rdtype == wanted for one in rrset
        ]


def _question(options: Options, check: str) -> _Question | None:
    """Raises WrongOption; None without dnspython, of which a look says so."""
    try:
        import dns.exception
        import dns.flags
        import dns.message
        import dns.name
        import dns.rcode
        import dns.rdataclass
        import dns.rdatatype
        import dns.reversename
    except ImportError:
        return None
    try:
        kind = dns.rdatatype.from_text(options.query_type)
        if dns.rdatatype.is_metatype(kind) and kind != dns.rdatatype.ANY:
            raise ValueError
    except (dns.exception.DNSException, ValueError) as exc:
        raise WrongOption(
            check, "query_type", show_value(options.query_type), "a type such as A, MX or SOA"
        ) from exc
    try:
        of_class = dns.rdataclass.from_text(options.query_class)
    except (dns.exception.DNSException, ValueError) as exc:
        raise WrongOption(check, "query_class", show_value(options.query_class), "IN or CH") from exc
    codes = []
    for number, text in enumerate(options.valid_rcodes):
        try:
            codes.append(dns.rcode.to_text(dns.rcode.from_text(text)))
        except (dns.exception.DNSException, ValueError) as exc:
            wanted = "a code such as NOERROR or NXDOMAIN"
            raise WrongOption(check, f"valid_rcodes[{number}]", show_value(text), wanted) from exc
    try:
        if kind == dns.rdatatype.PTR and literal(options.query_name):
            name = dns.reversename.from_address(options.query_name)
        else:
            name = dns.name.from_text(options.query_name)
    except (dns.exception.DNSException, UnicodeError, ValueError) as exc:
        raise WrongOption(
            check, "query_name", show_value(options.query_name), "a name such as www.example"
        ) from exc
    flags = (dns.flags.RD if options.recursion_desired else 0) | (
        dns.flags.AD if options.authenticated else 0
    )
    query = dns.message.make_query(name, kind, of_class, use_edns=0, payload=PAYLOAD_BYTES, flags=flags)
    return _Question(query, frozenset(codes))


def record_text(said: str) -> str:
    """A record as people write it: no dot at the end of names, no quotes around a single text."""
    if said.startswith('"'):
        return said[1:-1].replace('" "', "")
    return said.removesuffix(".").lower()


def unexpected(records: list[str], expected: list[str], mode: str) -> str:
    """What is not as it is wanted, for people; empty when all is."""
    if not expected:
        return ""
    wanted = [record_text(one) if not one.startswith('"') else one[1:-1] for one in expected]
    got = set(records) | {record.lower() for record in records}
    there = [one for one in wanted if one in got or one.lower() in got]
    few = f"got {', '.join(shown(one) for one in records[:3])}{' ...' if len(records) > 3 else ''}"
    few = few if records else "got none"
    if mode == "none":
        return f"got {shown(there[0])}, wanted none such" if there else ""
    if mode == "any":
        return "" if there else f"{few}, wanted one of {len(wanted)}: {shown(wanted[0])} ..."
    absent = next((one for one in wanted if one not in there), None)
    if absent is not None:
        return f"{few}, wanted {shown(absent)}"
    if mode == "exactly" and len(records) > len(set(wanted)):
        return f"{few}, wanted {len(set(wanted))} records"
    return ""


def _server(text: str, port: int, check: str, number: int) -> Server:
    if literal(text):
        return Server(text, port)
    try:
        address = Address.from_config(text if ":" in text else f"{text}:{port}")
    except NotWanted as exc:
        wanted = 'a server such as "192.0.2.53", "ns1.example" or "[::1]:5353"'
        raise WrongOption(check, f"servers[{number}]", show_value(text), wanted) from exc
    return Server(address.host, address.port)


class _System:
    """The servers of resolv.conf, read anew when it changes."""

    def __init__(self, path: Path, port: int) -> None:
        self._path = path
        self._port = port
        self._stamp: object = self
        self._servers: tuple[Server, ...] = ()

    def servers(self) -> tuple[Server, ...]:
        """Whom this host asks."""
        now = stamp(self._path)
        if now != self._stamp:
            self._stamp, self._servers = now, tuple(self._read())
        return self._servers

    def _read(self) -> Iterator[Server]:
        try:
            text = read_bounded(self._path, RESOLV_CONF_BYTES_MAX).decode("utf-8", "replace")
        except UnreadableFile:
            return
        hosts = [
            words[1]
            for line in text.splitlines()
            if len(words := line.split()) > 1 and words[0] == "nameserver"
        ]
        yield from (Server(host, self._port) for host in hosts[:SERVERS_MAX] if literal(host))


async def _exactly(connection: Connection, count: int) -> bytes:
    heard = b""
    while len(heard) < count:
        piece = await connection.read(count - len(heard))
        if not piece:
            raise Failed("closed", f"{connection.where}: closed after {len(heard)} of {count} bytes")
        heard += piece
    return heard


def _flag(name: str) -> int:
    import dns.flags

    return int(dns.flags.Flag[name])


def _count(rrsets: list[Any]) -> int:
    return sum(len(one) for one in rrsets)
