"""Who gets a certificate.

Every decision is one piece of work for the store's writer: it reads the token, counts the use, makes the
host and its certificate, and commits, in one transaction; only then is the certificate given away. Two
requests cannot use one token at the same moment, and a request whose answer was lost is answered the same
way again: the token remembers which key it let in.

Refusals: whoever knows a token's secret is told the reason; who does not is told only that it opens
nothing. Five wrong secrets kill a token. Every refusal is counted by reason; a row is written for each, up
to a limit a minute.
"""

import uuid
from dataclasses import dataclass, field, replace
from typing import Final

import sqlalchemy as sa

from watchbill.errors import UsageError
from watchbill.identity import IdentityRefused, RefusalReason, fingerprint
from watchbill_collector.credentials import same_hash, secret_hash
from watchbill_collector.enrolment.rulings import Granted, Office, Ruling, Waiting
from watchbill_collector.enrolment.tokens import FAILURES_MAX, fits, from_there
from watchbill_collector.hosts import HOSTS_MAX, ChangeKind, HostChange, check_instance
from watchbill_collector.pki import SigningKeys, SigningRequest, read_request
from watchbill_collector.pki.keys import signature_is_right
from watchbill_collector.pki.timesigner import TimeSigner, ToldTime
from watchbill_collector.store import enrolments as token_rows
from watchbill_collector.store import hosts as host_rows
from watchbill_collector.store.enrolments import Enrolment, EnrolmentKind, EnrolmentState
from watchbill_collector.store.hosts import Host, HostState
from watchbill_collector.store.text import harmless

PENDING_RETRY_S: Final = 10.0
PENDING_MAX: Final = 1_000
"""Hosts waiting for approval; the next is refused."""
CERTIFICATES_LOOKED_AT: Final = 4
SECRET_BYTES_MAX: Final = 64
HOSTNAME_MAX: Final = 253
VERSION_MAX: Final = 64
_NO_HASH: Final = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """A host asking to be enrolled. `instance` is the name it was configured to have, empty for none."""

    token_id: str
    token_secret: bytes = field(repr=False)
    csr: bytes
    envelope_key: bytes
    envelope_proof: bytes
    hostname: str
    instance: str
    agent_version: str


class EnrolmentDesk:
    """Decides about enrolments and renewals. All methods but the asking are for an event loop."""

    def __init__(self, office: Office, keys: SigningKeys) -> None:
        self._office = office
        self._time = TimeSigner(office.store.site, office.clock, office.authority, keys)
        self.envelope_key = bytes(keys.envelope.verify_key)
        self.command_key = bytes(keys.command.verify_key)

    @property
    def trust_bundle(self) -> list[bytes]:
        """The authorities agents are to believe, DER."""
        return [self._office.authority.der]

    def tell_time(self, nonce: bytes) -> ToldTime:
        """The collector's time, signed, for whoever asks. Raises IdentityRefused."""
        try:
            told = self._time.tell(nonce)
        except IdentityRefused as refused:
            raise self._office.count("time", refused) from None
        self._office.outcomes["time", "ok"] += 1
        return told

    # ------------------------------------------------------------ enrolment

    async def enrol(self, asked: Application, address: str) -> Granted | Waiting:
        """Enrol a host. Raises IdentityRefused, Busy, StorageError."""
        self._check_form(asked, address)
        token = self._office.tokens.get(asked.token_id)
        right = same_hash(secret_hash(asked.token_secret), token.secret_sha256 if token else _NO_HASH)
        if token is None or not right:
            raise await self._wrong_secret(token, address)
        ruling = await self._office.store.write(
            lambda c: self._rule(c, asked, address), self._office.make_true
        )
        return self._office.answer("enrol", ruling.answer)

    def _check_form(self, asked: Application, address: str) -> None:
        fits_bounds = (
            len(asked.token_id) <= 12
            and len(asked.token_secret) <= SECRET_BYTES_MAX
            and len(asked.envelope_key) == 32
            and len(asked.envelope_proof) == 64
            and len(asked.hostname) <= HOSTNAME_MAX
            and len(asked.instance) <= HOSTNAME_MAX
            and len(asked.agent_version) <= VERSION_MAX
        )
        if not fits_bounds:
            self._office.failures.failed(address)
            raise self._office.count(
                "enrol",
                IdentityRefused(RefusalReason.MALFORMED, "the enrolment request has not the form it should"),
            )

    async def _wrong_secret(self, token: Enrolment | None, address: str) -> IdentityRefused:
        self._office.check_rate("enrol", address)
        self._office.failures.failed(address)
        refused = IdentityRefused(
            RefusalReason.UNKNOWN_TOKEN, "the token opens nothing: it was never made here, or it was changed"
        )

        def work(connection: sa.Connection) -> Ruling:
            ruling = Ruling(refused, target=token.pattern if token else "?")
            if token is not None:
                self._count_failure(connection, ruling, token.enrolment_id)
            self._office.record_refusal(connection, "host.enrol", ruling, address)
            return ruling

        if token is not None or self._office.may_record():
            await self._office.store.write(work, self._office.make_true)
        return self._office.count("enrol", refused)

    def _count_failure(self, connection: sa.Connection, ruling: Ruling, enrolment_id: str) -> None:
        """One more failure of a token; the fifth kills it."""
        token = self._office.tokens.get(enrolment_id)
        if token is None or token.state is not EnrolmentState.OPEN:
            return
        failures = token.failures + 1
        state = EnrolmentState.DEAD if failures >= FAILURES_MAX else token.state
        counted = replace(token, failures=failures, state=state)
        token_rows.put_enrolment(connection, counted)
        ruling.tokens.append(counted)

    def _rule(self, connection: sa.Connection, asked: Application, address: str) -> Ruling:
        """In the writer's thread: the secret is right; everything else is judged here, and made."""
        token = self._office.tokens.get(asked.token_id)
        assert token is not None, "tokens are forgotten long after they expire, and only in this thread"
        ruling = Ruling(IdentityRefused(RefusalReason.MALFORMED, ""), target=token.pattern)
        try:
            self._decide(connection, asked, address, token, ruling)
        except IdentityRefused as refused:
            ruling = Ruling(refused, target=ruling.target)
            if refused.reason is RefusalReason.ADDRESS:
                self._count_failure(connection, ruling, token.enrolment_id)
            self._office.failures.failed(address)
            self._office.record_refusal(connection, "host.enrol", ruling, address)
        return ruling

    def _decide(
        self,
        connection: sa.Connection,
        asked: Application,
        address: str,
        token: Enrolment,
        ruling: Ruling,
    ) -> None:
        _check_usable(token)
        if not from_there(token, address):
            raise IdentityRefused(
                RefusalReason.ADDRESS, f"the token may not be used from {address}, only from {token.cidr}"
            )
        request = read_request(asked.csr)
        message = b"watchbill/enroll/v1\0" + token.enrolment_id.encode() + b"\0" + request.csr_sha256
        if not signature_is_right(asked.envelope_key, asked.envelope_proof, message):
            raise IdentityRefused(RefusalReason.KEY, "the envelope key is not proved")
        agent_id = token_rows.find_use(connection, token.enrolment_id, request.key_sha256)
        if agent_id is not None:
            ruling.target, ruling.answer = self._again(connection, asked, request, agent_id, ruling)
            return
        self._check_open(token)
        self._make(connection, asked, address, token, request, ruling)

    def _check_open(self, token: Enrolment) -> None:
        if token.uses >= token.uses_max:
            what = "by another host" if token.uses_max == 1 else f"{token.uses_max} times"
            raise IdentityRefused(
                RefusalReason.USED_UP, f"the token was used {what}; make another: watchbill enroll create"
            )
        if self._office.tokens.expired(token):
            raise IdentityRefused(
                RefusalReason.EXPIRED, "the token has expired; make another: watchbill enroll create"
            )

    def _again(
        self,
        connection: sa.Connection,
        asked: Application,
        request: SigningRequest,
        agent_id: str,
        ruling: Ruling,
    ) -> tuple[str, Granted | Waiting]:
        """The same key with the same token: its first answer was lost, or it waits for approval."""
        host = self._office.hosts.get(agent_id)
        assert host is not None, "a use names a host, and hosts are never deleted"
        if host.envelope_key != asked.envelope_key:
            raise IdentityRefused(RefusalReason.KEY, "this host enrolled with another envelope key")
        if host.state is HostState.PENDING:
            return host.instance, Waiting(host, fingerprint(request.public_key), PENDING_RETRY_S)
        if host.state is HostState.RETIRED:
            raise IdentityRefused(RefusalReason.RETIRED, f"{host.instance} was retired; make another token")
        if host.state is not HostState.ACTIVE:
            raise IdentityRefused(
                RefusalReason.DENIED, f"{host.instance} was not let in: an administrator said no"
            )
        now = self._office.clock.wall_ms()
        for one in host_rows.certificates_of(connection, agent_id, CERTIFICATES_LOOKED_AT):
            if one.key_sha256 == request.key_sha256 and now < one.not_after_ms:
                return host.instance, Granted(host, one.der)
        if host_rows.certificates_of(connection, agent_id, 1):
            raise IdentityRefused(
                RefusalReason.EXPIRED, "what this token was exchanged for has expired; make another token"
            )
        return host.instance, Granted(host, self._office.certify(connection, host, request, "enrol", ruling))

    def _make(
        self,
        connection: sa.Connection,
        asked: Application,
        address: str,
        token: Enrolment,
        request: SigningRequest,
        ruling: Ruling,
    ) -> None:
        name = ruling.target = _name(token, asked)
        owner = host_rows.owner_of_key(connection, request.key_sha256) or self._waiting_with(request)
        if owner is not None:
            raise IdentityRefused(
                RefusalReason.KEY_TAKEN,
                "this key belongs to a host already; on a copied machine: watchbill-agent seal, then enroll",
            )
        self._check_room(token)
        before = self._office.hosts.live(name)
        if before is not None and not token.replace:
            raise IdentityRefused(
                RefusalReason.NAME_TAKEN,
                f"a host is called {before.instance} already; to take its place: "
                f"watchbill enroll create --name {before.instance} --replace",
            )
        now = self._office.clock.wall_ms()
        host = Host(
            agent_id=str(uuid.uuid4()),
            site=self._office.store.site,
            instance=before.instance if before else name,
            state=HostState.PENDING if token.approve else HostState.ACTIVE,
            labels=dict(token.labels) or (before.labels if before else {}),
            ephemeral=token.ephemeral,
            public_key=request.public_key,
            envelope_key=asked.envelope_key,
            hostname=harmless(asked.hostname, HOSTNAME_MAX),
            agent_version=harmless(asked.agent_version, VERSION_MAX),
            address=address,
            enrolled_ms=now,
            changed_ms=now,
            certificate_lifetime_ms=token.certificate_lifetime_ms,
            expired_grace_ms=token.expired_grace_ms,
        )
        lifetimes = self._office.lifetimes_of(host)
        if before is not None:
            retired = replace(
                before, state=HostState.RETIRED, changed_ms=now, reason=f"replaced by {host.agent_id}"
            )
            host_rows.put_host(connection, retired)
            ruling.changes.append(HostChange(ChangeKind.REPLACED, before, retired, host))
        host_rows.add_host(connection, host)
        ruling.changes.append(HostChange(ChangeKind.ENROLLED, None, host))
        used = replace(token, uses=token.uses + 1)
        token_rows.put_enrolment(connection, used)
        token_rows.add_use(
            connection, self._office.store.site, token.enrolment_id, request.key_sha256, host.agent_id, now
        )
        ruling.tokens.append(used)
        if host.state is HostState.PENDING:
            ruling.answer = Waiting(host, fingerprint(request.public_key), PENDING_RETRY_S)
        else:
            ruling.answer = Granted(host, self._office.certify(connection, host, request, "enrol", ruling))
        self._office.record(
            connection,
            "host.enrol",
            host,
            address,
            {
                "enrolment_id": token.enrolment_id,
                "hostname": host.hostname,
                "fingerprint": fingerprint(request.public_key),
                "pending": host.state is HostState.PENDING,
                "replaced": before.agent_id if before else "",
                "certificate_lifetime_s": lifetimes.agent_s,
                "expired_grace_s": lifetimes.expired_grace_s,
            },
        )

    def _check_room(self, token: Enrolment) -> None:
        waiting = (
            sum(host.state is HostState.PENDING for host in self._office.hosts.hosts())
            if token.approve
            else 0
        )
        if self._office.hosts.live_count() >= HOSTS_MAX or waiting >= PENDING_MAX:
            raise IdentityRefused(
                RefusalReason.LIMIT, "the collector takes no more hosts: too many are there already"
            )

    def _waiting_with(self, request: SigningRequest) -> str | None:
        """A host of that key which has no certificate yet."""
        for host in self._office.hosts.hosts():
            if host.state is HostState.PENDING and host.public_key == request.public_key:
                return host.agent_id
        return None


def _check_usable(token: Enrolment) -> None:
    if token.state is EnrolmentState.DEAD:
        raise IdentityRefused(
            RefusalReason.DEAD, f"the token is dead after {FAILURES_MAX} wrong attempts; make another"
        )
    if token.state is EnrolmentState.WITHDRAWN:
        raise IdentityRefused(RefusalReason.WITHDRAWN, "the token was revoked by an administrator")


def _name(token: Enrolment, asked: Application) -> str:
    """The name this host gets. Raises IdentityRefused when the token is not for it."""
    own = asked.instance or asked.hostname
    if token.kind is EnrolmentKind.NAME:
        # The machine's own host name need not be the one the operator gives it; one it was configured to have
        # must.
        if asked.instance and not fits(token, asked.instance):
            raise IdentityRefused(
                RefusalReason.OTHER_HOST,
                f"the token is for {token.pattern}, this host is configured as {asked.instance}",
            )
        return token.pattern
    try:
        check_instance(own)
    except UsageError as exc:
        raise IdentityRefused(RefusalReason.OTHER_HOST, str(exc)) from exc
    if not fits(token, own):
        raise IdentityRefused(
            RefusalReason.OTHER_HOST, f"the token is for {token.pattern}, this host is {own}"
        )
    return own
