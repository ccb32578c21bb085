"""What a piece of work decided: the answer, and everything that becomes true with it.

Shared by `desk` and `renewals`: certificates are issued here, and refusals counted and recorded. Somebody
who is refused all day must not fill the store, so rows of refusals are limited a minute and say how many
went unrecorded.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from watchbill.clock import Clock
from watchbill.identity import AgentUri, IdentityRefused, RefusalReason
from watchbill.limits import ENROL_FAILURES_PER_MINUTE_MAX
from watchbill_collector.enrolment.tokens import EnrolmentTokens
from watchbill_collector.hosts import HostChange, HostRegistry
from watchbill_collector.lifetimes import Lifetimes
from watchbill_collector.limiter import WINDOW_S, FailureLimiter
from watchbill_collector.pki import Authority, SigningRequest
from watchbill_collector.store import Store, events
from watchbill_collector.store import hosts as host_rows
from watchbill_collector.store.enrolments import Enrolment
from watchbill_collector.store.events import Event
from watchbill_collector.store.hosts import Certificate, Host

REFUSALS_RECORDED_PER_MINUTE_MAX: Final = 120


@dataclass(frozen=True, slots=True)
class Granted:
    """Yes: the certificate, DER."""

    host: Host
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not yet: an administrator has to compare `fingerprint` and approve."""

    host: Host
    fingerprint: str
    retry_after_s: float


@dataclass(slots=True)
class Ruling:
    """What a piece of work decided, to be committed and then made true in memory."""

    answer: Granted | Waiting | IdentityRefused
    changes: list[HostChange] = field(default_factory=list)
    tokens: list[Enrolment] = field(default_factory=list)
    valid_until_ms: dict[str, int] = field(default_factory=dict)
    target: str = ""


class Office:
    """What both desks need: the store, the authority, and the books about who was refused."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        authority: Authority,
        hosts: HostRegistry,
        tokens: EnrolmentTokens,
        lifetimes: Lifetimes,
    ) -> None:
        self.store = store
        self.clock = clock
        self.authority = authority
        self.hosts = hosts
        self.tokens = tokens
        self.lifetimes = lifetimes
        self.failures = FailureLimiter(clock, ENROL_FAILURES_PER_MINUTE_MAX)
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """(enrol, renew or recover; ok, pending or the reason of a refusal) -> how often, since the start."""
        self._recorded_since_s = clock.monotonic_s()
        self._recorded = 0
        self._suppressed = 0

    def lifetimes_of(self, host: Host) -> Lifetimes:
        """How long this host's certificates last, and may be renewed late."""
        return self.lifetimes.bound(host.certificate_lifetime_ms, host.expired_grace_ms)

    def check_rate(self, what: str, address: str) -> None:
        """Raises IdentityRefused while that address has failed too often; asked only about who is wrong."""
        left = self.failures.retry_after_s(address)
        if left is not None:
            message = f"too many failures from {address}: try again in {left:.0f} s"
            raise self.count(what, IdentityRefused(RefusalReason.RATE_LIMITED, message, left))

    def certify(
        self, connection: sa.Connection, host: Host, request: SigningRequest, how: str, ruling: Ruling
    ) -> bytes:
        """Issue a certificate and remember it, in the transaction of whatever it is issued for; DER."""
        now = self.clock.wall_ms()
        uri = AgentUri(host.site, host.agent_id)
        life_s = self.lifetimes_of(host).agent_s
        issued = self.authority.issue_agent(uri, request.public_key, now, life_s)
        certificate = Certificate(
            serial=issued.serial,
            agent_id=host.agent_id,
            public_key=request.public_key,
            key_sha256=request.key_sha256,
            csr_sha256=request.csr_sha256,
            how=how,
            issued_ms=now,
            not_before_ms=issued.not_before_ms,
            not_after_ms=issued.not_after_ms,
            der=issued.der,
        )
        host_rows.add_certificate(connection, host.site, certificate)
        ruling.valid_until_ms[host.agent_id] = issued.not_after_ms
        return issued.der

    def make_true(self, ruling: Ruling) -> None:
        """After the commit, in the writer's thread: memory follows."""
        self.tokens.keep(ruling.tokens)
        self.hosts.apply(ruling.changes, ruling.valid_until_ms)

    def answer(self, what: str, answer: Granted | Waiting | IdentityRefused) -> Granted | Waiting:
        """Count the outcome; raises it when it is a refusal."""
        if isinstance(answer, IdentityRefused):
            raise self.count(what, answer)
        self.outcomes[what, "ok" if isinstance(answer, Granted) else "pending"] += 1
        return answer

    def count(self, what: str, refused: IdentityRefused) -> IdentityRefused:
        """Count a refusal, to be raised."""
        self.outcomes[what, refused.reason.value] += 1
        return refused

    def may_record(self) -> bool:
        """Whether a refusal still gets a row: somebody who is refused all day must not fill the store."""
        now = self.clock.monotonic_s()
        if now - self._recorded_since_s >= WINDOW_S:
            self._recorded_since_s, self._recorded = now, 0
        if self._recorded < REFUSALS_RECORDED_PER_MINUTE_MAX:
            self._recorded += 1
            return True
        self._suppressed += 1
        return False

    def record_refusal(self, connection: sa.Connection, verb: str, ruling: Ruling, address: str) -> None:
        """A row for a refusal, unless there were too many in this minute."""
        assert isinstance(ruling.answer, IdentityRefused)
        if not self.may_record():
            return
        detail: dict[str, object] = {"message": str(ruling.answer)}
        if self._suppressed:
            detail["not_recorded_before"], self._suppressed = self._suppressed, 0
        event = Event(
            verb=verb,
            target=ruling.target,
            actor="host",
            source=address,
            outcome=ruling.answer.reason.value,
            detail=detail,
        )
        events.append(connection, self.store.site, self.clock, event)

    def record(
        self, connection: sa.Connection, verb: str, host: Host, address: str, detail: Mapping[str, object]
    ) -> None:
        """A row for what a host was given."""
        event = Event(
            verb=verb,
            target=host.instance,
            actor="host",
            source=address,
            detail={"agent_id": host.agent_id, **detail},
        )
        events.append(connection, self.store.site, self.clock, event)
