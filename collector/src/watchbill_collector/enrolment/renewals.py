"""Renewal: the next certificate for a host that has one, valid or expired a while ago.

With a valid certificate it is asked for on the mutual TLS port. A host that was away for too long proves
on the enrolment port that it holds the key of its last certificate. Old and new certificates are valid
together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from watchbill.identity import IdentityRefused, RefusalReason, fingerprint
from watchbill_collector.enrolment.rulings import Granted, Office, Ruling
from watchbill_collector.hosts import Admission, Host
from watchbill_collector.lifetimes import DAY_S
from watchbill_collector.pki import SigningRequest, read_request
from watchbill_collector.pki.requests import signed_by
from watchbill_collector.store import hosts as host_rows
from watchbill_collector.store.text import harmless

RENEWALS_PER_LIFE_MAX: Final = 20
"""Certificates an agent may get within one lifetime; two would do."""
PROOF_KEYS_MAX: Final = 4
"""How many of an agent's last keys a renewal may be proved with."""
PROOF_WINDOW_S: Final = 300
"""How far a host's clock may be off when it proves an expired certificate: within this a proof could be
replayed, and would earn the thief a certificate for a key he does not have.
"""

KEPT_LONGER_S: Final = 7 * DAY_S
"""How long certificates are remembered with which nothing can be proved any more."""

Judge = Callable[[sa.Connection, Ruling], Granted]


@dataclass(frozen=True, slots=True)
class Renewal:
    """A host asking for its next certificate. `wall_ms` and `proof` only where it has no valid one."""

    agent_id: str
    csr: bytes
    wall_ms: int = 0
    proof: bytes = b""


class RenewalDesk:
    """Decides about renewals."""

    def __init__(self, office: Office) -> None:
        self._office = office

    async def renew(self, admitted: Admission, asked: Renewal, address: str) -> Granted:
        """The next certificate of an agent that came with a valid one. Raises IdentityRefused, Busy,
        StorageError.
        """

        def judge(connection: sa.Connection, ruling: Ruling) -> Granted:
            if asked.agent_id and asked.agent_id != admitted.host.agent_id:
                raise IdentityRefused(
                    RefusalReason.CERTIFICATE,
                    "the request names another host than the certificate it came with",
                )
            return self._next(connection, admitted.host.agent_id, read_request(asked.csr), "renew", ruling)

        return await self._renew("renew", asked.agent_id or admitted.host.agent_id, judge, address)

    async def recover(self, asked: Renewal, address: str) -> Granted:
        """The next certificate of an agent whose last one has expired, proved by its key. Raises as
        `renew`.
        """
        if self._office.hosts.get(asked.agent_id) is None:
            self._office.check_rate("recover", address)
        return await self._renew("recover", asked.agent_id, lambda c, r: self._proved(c, asked, r), address)

    def _proved(self, connection: sa.Connection, asked: Renewal, ruling: Ruling) -> Granted:
        request = read_request(asked.csr)
        message = renewal_message(asked.agent_id, request.csr_sha256, asked.wall_ms)
        last = host_rows.certificates_of(connection, asked.agent_id, PROOF_KEYS_MAX)
        proving = [one for one in last if signed_by(one.public_key, asked.proof, message)]
        if not proving:
            raise IdentityRefused(
                RefusalReason.UNKNOWN_AGENT, "no host here has the key that proves this renewal"
            )
        now = self._office.clock.wall_ms()
        off_s = (asked.wall_ms - now) / 1000
        if abs(off_s) > PROOF_WINDOW_S:
            raise IdentityRefused(
                RefusalReason.CLOCK_SUSPECT,
                f"the host's clock is {abs(off_s):.0f} s {'fast' if off_s > 0 else 'slow'}: "
                f"set it right to within {PROOF_WINDOW_S} s",
            )
        host = self._office.hosts.get(asked.agent_id)
        assert host is not None, "certificates are of hosts, and hosts are never deleted"
        self.check_grace(host, proving[0].not_after_ms)
        return self._next(connection, asked.agent_id, request, "recover", ruling)

    def check_grace(self, host: Host, not_after_ms: int) -> None:
        """Raises IdentityRefused when a certificate that ended then cannot be renewed any more."""
        grace_s = self._office.lifetimes_of(host).expired_grace_s
        if not grace_s:
            raise IdentityRefused(
                RefusalReason.TOO_LONG_EXPIRED,
                f"expired certificates of {host.instance} are not renewed: watchbill enroll create --replace",
            )
        if self._office.clock.wall_ms() >= not_after_ms + grace_s * 1000:
            raise IdentityRefused(
                RefusalReason.TOO_LONG_EXPIRED,
                f"the certificate ended more than {grace_s / DAY_S:g} days ago: watchbill enroll create --replace",
            )

    async def _renew(
        self,
        what: str,
        agent_id: str,
        judge: Judge,
        address: str,
    ) -> Granted:
        def work(connection: sa.Connection) -> Ruling:
            host = self._office.hosts.get(agent_id)
            target = host.instance if host else harmless(agent_id, 36)
            ruling = Ruling(IdentityRefused(RefusalReason.MALFORMED, ""), target=target)
            try:
                ruling.answer = judge(connection, ruling)
            except IdentityRefused as refused:
                ruling = Ruling(refused, target=target)
                self._office.failures.failed(address)
                self._office.record_refusal(connection, f"host.{what}", ruling, address)
            return ruling

        ruling = await self._office.store.write(work, self._office.make_true)
        answer = self._office.answer(what, ruling.answer)
        assert isinstance(answer, Granted)
        return answer

    def _next(
        self, connection: sa.Connection, agent_id: str, request: SigningRequest, how: str, ruling: Ruling
    ) -> Granted:
        host = self._office.hosts.get(agent_id)
        standing = self._office.hosts.standing(agent_id)
        if host is None or standing not in {None, RefusalReason.EXPIRED}:
            reason = standing or RefusalReason.UNKNOWN_AGENT
            raise IdentityRefused(reason, f"this host may not renew: it is {reason}")
        now = self._office.clock.wall_ms()
        last = host_rows.certificates_of(connection, agent_id, RENEWALS_PER_LIFE_MAX)
        if last and last[0].csr_sha256 == request.csr_sha256 and now < last[0].not_after_ms:
            return Granted(host, last[0].der)  # The same request again: its answer was lost.
        life_ms = round(self._office.lifetimes_of(host).agent_s * 1000)
        if len(last) == RENEWALS_PER_LIFE_MAX and last[-1].issued_ms > now - life_ms:
            wait_s = (last[-1].issued_ms + life_ms - now) / 1000
            raise IdentityRefused(
                RefusalReason.RATE_LIMITED,
                f"{host.instance} renews too often: again in {wait_s:.0f} s",
                wait_s,
            )
        owner = host_rows.owner_of_key(connection, request.key_sha256)
        if owner not in {None, agent_id}:
            raise IdentityRefused(RefusalReason.KEY_TAKEN, "this key belongs to another host")
        granted = Granted(host, self._office.certify(connection, host, request, how, ruling))
        if how == "recover":
            self._office.record(
                connection, "host.recover", host, host.address, {"key": fingerprint(request.public_key)}
            )
        return granted

    async def tidy(self) -> int:
        """Forget certificates with which nothing can be proved any more; how many. Called now and then."""
        now_ms, grace_ms = self._office.clock.wall_ms(), round(self._office.lifetimes.expired_grace_s * 1000)
        # A week more, so that who comes too late is told that, and not that nobody knows the key.
        before_ms = now_ms - KEPT_LONGER_S * 1000
        return await self._office.store.write(lambda c: host_rows.drop_certificates(c, before_ms, grace_ms))


def renewal_message(agent_id: str, csr_sha256: bytes, wall_ms: int) -> bytes:
    """What the enrolled key signs to renew an expired certificate; link.proto describes it."""
    return b"watchbill/renew/v1\0" + agent_id.encode() + b"\0" + csr_sha256 + wall_ms.to_bytes(8, signed=True)
