"""The certificate and TLS of a server, also behind STARTTLS: whether it is trusted, whose it is, until when it holds.

    [[check]]
    name = "mail-certificate"
    kind = "tls"
    address = "mail.example:587"
    starttls = "smtp"

One handshake is made and nothing is asked afterwards. Series are blackbox_exporter's `probe_ssl_*` and `probe_tls_*`,
told of what was presented also when it is not well.

Reasons: those of `connection` and `trust`, `timeout`, `slow`, `name-unknown`, `starttls-missing`, `protocol`,
`answer-too-long`; UNKNOWN `resolve-timeout`, `resolve-failed`, `resolver-busy`, `credential`, `tls-files`.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

from watchbill.config import Address, option
from watchbill_agent.checks import trust
from watchbill_agent.checks.addresses import RESOLVER
from watchbill_agent.checks.check import Failed, Outcome, Probe, Samples
from watchbill_agent.checks.connection import Connection
from watchbill_agent.checks.probing import Findings, Form, Phases, bounded, with_samples
from watchbill_agent.checks.starttls import Protocol, begin
from watchbill_agent.checks.talk import Talk

_PHASES: Final = ("resolve", "connect", "starttls", "tls")
_FORM: Final = Form(
    ("watchbill_check_phase_seconds", "Duration of each phase.", *_PHASES),
    ("probe_dns_lookup_time_seconds", "How long finding the address took."),
    ("probe_ip_protocol", "Whether it was IPv4 or IPv6."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(trust.TlsOptions):
    """Whom to ask."""

    address: Address = option(help="Whom to ask.", example='"mail.example:993"')
    starttls: Protocol = option("", help="The protocol in which TLS begins after a few words.")


@dataclass(slots=True)
class _Found:
    phases: Phases = field(default_factory=lambda: Phases(*_PHASES))
    presented: trust.Presented | None = None
    protocol: int = 0


class Tls(Probe):
    """Shakes hands."""

    kind = "tls"
    options_type = Options
    options: Options

    async def look(self, within_s: float) -> Outcome:
        """Shake hands once."""
        found, findings = _Found(), Findings()
        try:
            await bounded(self._shake(found, within_s), within_s, found.phases)
        except Failed as exc:
            found.phases.end()
            return with_samples(exc, self._samples(found))
        assert found.presented is not None, "there is something when nothing failed"
        took_s = found.phases.end()
        trust.judge_expiry(self.options, found.presented, time.time(), findings)
        findings.judge_duration(self.options, took_s)
        well = f"{found.presented.version}, the chain ends {trust.when(found.presented.ends_s)}"
        if self.options.insecure_skip_verify:
            well += "; it was NOT verified (insecure_skip_verify)"
        return findings.outcome(self._samples(found), well)

    async def _shake(self, found: _Found, within_s: float) -> None:
        options, phases = self.options, found.phases
        until_s = asyncio.get_running_loop().time() + within_s
        phases.begin("resolve")
        places = await RESOLVER.places(options.address.host, options)
        phases.begin("connect")
        connection = await Connection.open(places, options.address.port, until_s)
        try:
            found.protocol = connection.place.protocol if connection.place is not None else 0
            if options.starttls:
                phases.begin("starttls")
                await begin(Talk(connection), options.starttls)
            found.presented, failed = await trust.secure(connection, options, options.address.host, phases)
            if failed is not None:
                raise failed
        finally:
            connection.close()

    def _samples(self, found: _Found) -> Samples:
        seconds = found.phases.seconds
        samples = _FORM.fill((*seconds.values(), seconds["resolve"], found.protocol))
        if found.presented is not None:
            trust.tell(samples, self.options, found.presented)
        return samples
