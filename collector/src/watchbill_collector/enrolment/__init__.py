"""How a host becomes an agent, and stays one: tokens, enrolment, renewal.

`tokens` keeps what administrators hand out, `desk` and `renewals` decide about every request, `handlers`
serves gRPC: `Enroll`, and `Renew` of expired certificates, on 7444, and `LiveRenewal` for the mutual TLS
port beside the streams.
"""

from dataclasses import dataclass

from watchbill.clock import Clock
from watchbill_collector.enrolment.desk import EnrolmentDesk
from watchbill_collector.enrolment.renewals import RenewalDesk
from watchbill_collector.enrolment.rulings import Office
from watchbill_collector.enrolment.tokens import EnrolmentOrder, EnrolmentTokens, IssuedToken, TokenView
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.pki import Authority, Lifetimes, SigningKeys
from watchbill_collector.store import Store

__all__ = ["Enrolment", "EnrolmentDesk", "EnrolmentOrder", "EnrolmentTokens", "IssuedToken", "TokenView"]


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The parts, put together. `office.outcomes` counts what became of every request."""

    office: Office
    tokens: EnrolmentTokens
    desk: EnrolmentDesk
    renewals: RenewalDesk

    @classmethod
    def open(
        cls,
        store: Store,
        clock: Clock,
        hosts: HostRegistry,
        authority: Authority,
        keys: SigningKeys,
        *,
        lifetimes: Lifetimes,
        endpoint: str,
    ) -> "Enrolment":
        """`endpoint` is host:port of the enrolment port as hosts reach it."""
        tokens = EnrolmentTokens(store, clock, hosts, ca_sha256=authority.spki_sha256, endpoint=endpoint)
        office = Office(store, clock, authority, hosts, tokens, lifetimes)
        return cls(office, tokens, EnrolmentDesk(office, keys), RenewalDesk(office))

    async def tidy(self) -> None:
        """Forget tokens and certificates that are worth nothing any more; called now and then."""
        await self.tokens.tidy()
        await self.renewals.tidy()
