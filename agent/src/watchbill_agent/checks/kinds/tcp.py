"""Whether a port takes connections, and, where that is wanted, says what it should: a conversation in lines.

    [[check]]
    name = "ssh"
    kind = "tcp"
    address = "db1.example:22"
    query_response = [{ expect = "^SSH-2.0-" }]

Each step of `query_response` waits for what it expects, then says what it sends, then begins TLS, as in
blackbox_exporter; a line that does not match is passed over. What is sent gets a newline unless it ends with one.

Reasons: those of `connection` and `trust`, `timeout`, `slow`, `name-unknown`, `answer-unexpected`, `answer-too-long`,
`protocol`; UNKNOWN `resolve-timeout`, `resolve-failed`, `resolver-busy`, `credential`, `tls-files`, `not-installed`.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from watchbill.config import Address, Wrong, option
from watchbill_agent.checks import regex, trust
from watchbill_agent.checks.addresses import RESOLVER
from watchbill_agent.checks.check import About, Failed, Outcome, Probe, Samples
from watchbill_agent.checks.connection import Connection
from watchbill_agent.checks.probing import Findings, Form, Phases, bounded, missing, with_samples
from watchbill_agent.checks.talk import Talk

STEPS_MAX: Final = 64
SEND_CHARACTERS_MAX: Final = 4_096

_PHASES: Final = ("resolve", "connect", "tls", "answer")
_FORM: Final = Form(
    ("watchbill_check_phase_seconds", "Duration of each phase.", *_PHASES),
    ("probe_dns_lookup_time_seconds", "How long finding the address took."),
    ("probe_ip_protocol", "Whether it was IPv4 or IPv6."),
    ("probe_failed_due_to_regex", "Whether a regular expression decided."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One turn of a conversation."""

    expect: str = option("", help="What a line of the answer matches.", example='"^220 "')
    send: str = option("", length_max=SEND_CHARACTERS_MAX, help="What to say then.", example='"QUIT"')
    starttls: bool = option(False, help="Whether TLS begins then.")

    def check(self) -> Iterator[Wrong]:
        """A step does something."""
        if not (self.expect or self.send or self.starttls):
            yield Wrong("", "an empty step", "expect, send or starttls")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(trust.TlsOptions):
    """Whom to ask, and what is wanted."""

    address: Address = option(help="Whom to ask.", example='"db1.example:22"')
    tls: bool = option(False, help="Whether TLS begins at once.")
    query_response: list[Step] = option([], length_max=STEPS_MAX, help="What is said, in turns.")

    def check(self) -> Iterator[Wrong]:
        """TLS begins once."""
        yield from trust.TlsOptions.check(self)
        begins = self.tls + sum(step.starttls for step in self.query_response)
        if begins > 1:
            yield Wrong("query_response", f"TLS that begins {begins} times", "once at most")


@dataclass(slots=True)
class _Found:
    phases: Phases = field(default_factory=lambda: Phases(*_PHASES))
    presented: trust.Presented | None = None
    protocol: int = 0
    regex_failed: bool = False


class Tcp(Probe):
    """Connects, and talks where that is wanted."""

    kind = "tcp"
    options_type = Options
    options: Options

    def __init__(self, options: Options, about: About) -> None:
        super().__init__(options, about)
        self._steps = tuple(
            (step, regex.compiled(step.expect, about.name, f"query_response[{number}].expect"))
            for number, step in enumerate(options.query_response)
        )

    async def look(self, within_s: float) -> Outcome:
        """Connect once."""
        found, findings = _Found(), Findings()
        try:
            await bounded(self._talk(found, within_s), within_s, found.phases)
        except Failed as exc:
            found.phases.end()
            found.regex_failed = exc.reason == "answer-unexpected"
            return with_samples(exc, self._samples(found))
        took_s = found.phases.end()
        if found.presented is not None:
            trust.judge_expiry(self.options, found.presented, time.time(), findings)
        findings.judge_duration(self.options, took_s)
        return findings.outcome(self._samples(found), f"connected in {found.phases.seconds['connect']:.4f} s")

    async def _talk(self, found: _Found, within_s: float) -> None:
        options, phases = self.options, found.phases
        if any(pattern is None for _, pattern in self._steps):
            raise missing("google-re2")
        until_s = asyncio.get_running_loop().time() + within_s
        phases.begin("resolve")
        places = await RESOLVER.places(options.address.host, options)
        phases.begin("connect")
        connection = await Connection.open(places, options.address.port, until_s)
        try:
            found.protocol = connection.place.protocol if connection.place is not None else 0
            if options.tls:
                await self._secure(connection, found)
            if self._steps:
                await self._converse(connection, found)
        finally:
            connection.close()

    async def _converse(self, connection: Connection, found: _Found) -> None:
        talk = Talk(connection)
        for step, pattern in self._steps:
            found.phases.begin("answer")
            if step.expect and pattern is not None:
                await talk.find(pattern)
            if step.send:
                said = step.send.encode()
                await talk.say(said if said.endswith(b"\n") else said + b"\n")
            if step.starttls:
                talk.nothing_left()
                await self._secure(connection, found)

    async def _secure(self, connection: Connection, found: _Found) -> None:
        host = self.options.address.host
        found.presented, failed = await trust.secure(connection, self.options, host, found.phases)
        if failed is not None:
            raise failed

    def _samples(self, found: _Found) -> Samples:
        seconds = found.phases.seconds
        samples = _FORM.fill(
            (*seconds.values(), seconds["resolve"], found.protocol, float(found.regex_failed))
        )
        if found.presented is not None:
            trust.tell(samples, self.options, found.presented)
        return samples
