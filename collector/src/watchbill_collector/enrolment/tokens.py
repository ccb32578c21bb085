"""Enrolment tokens: made by an administrator, shown once, kept as a hash, used up by hosts.

Three forms: one host's name; many names, a token each; a pattern that up to n hosts' own names may fit.
What the token binds (name, labels) the host cannot choose.
"""

import fnmatch
import ipaddress
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import sqlalchemy as sa

from watchbill.clock import Clock
from watchbill.errors import Refused, UsageError
from watchbill.identity import TOKEN_SECRET_BYTES, EnrolmentToken, parse_endpoint
from watchbill.limits import LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX
from watchbill_collector.credentials import new_id, secret_hash
from watchbill_collector.hosts import HostRegistry, check_instance
from watchbill_collector.lifetimes import (
    CERTIFICATE_LIFETIME_S_MAX,
    CERTIFICATE_LIFETIME_S_MIN,
    DAY_S,
    EXPIRED_GRACE_S_MAX,
)
from watchbill_collector.store import Store, events
from watchbill_collector.store import enrolments as rows
from watchbill_collector.store.enrolments import Enrolment, EnrolmentKind, EnrolmentState
from watchbill_collector.store.events import Event
from watchbill_collector.store.text import harmless

TTL_DEFAULT_S: Final = 3_600.0
TTL_MIN_S: Final = 60.0
TTL_MAX_S: Final = 90 * 86_400.0
USES_MAX: Final = 10_000
TOKENS_PER_ORDER_MAX: Final = 10_000
TOKENS_MAX: Final = 50_000
"""Tokens remembered; ended ones go after KEPT_S."""
KEPT_S: Final = 30 * 86_400.0
PATTERN_MAX: Final = 253
FAILURES_MAX: Final = 5
RESERVED_LABELS: Final = frozenset({"instance", "le", "quantile"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentOrder:
    """What an administrator asks for: `names` (a single-use token each) or `match` with `uses`.

    `cidr` limits where from; `labels` are bound to the identity; `ephemeral` hosts vanish when they end; with
    `approve` a person has to look at each; `replace` lets a host take a name that is taken, and its series;
    with `mqtt` the host asks through the broker. How long the hosts' certificates last, and for how long after their
    end they may be renewed, is None where collector.toml says it.
    """

    names: tuple[str, ...] = ()
    match: str = ""
    uses: int = 1
    ttl_s: float = TTL_DEFAULT_S
    cidr: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ephemeral: bool = False
    approve: bool = False
    replace: bool = False
    mqtt: bool = False
    certificate_lifetime_s: float | None = None
    expired_grace_s: float | None = None


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token as lists show it. `state` is open, used, expired, dead or withdrawn."""

    enrolment: Enrolment
    state: str


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token, the only time its text is seen, and the line to paste on the host."""

    view: TokenView
    token: str = field(repr=False)
    command: str = field(repr=False)


class EnrolmentTokens:
    """Every token of the site, in memory, written through to the store.

    `ca_sha256` and `endpoint` (host:port of 7444 as hosts reach it) go into the tokens' text.
    """

    def __init__(
        self, store: Store, clock: Clock, hosts: HostRegistry, *, ca_sha256: bytes, endpoint: str
    ) -> None:
        parse_endpoint(endpoint)
        self._store = store
        self._clock = clock
        self._hosts = hosts
        self._ca_sha256 = ca_sha256
        self._endpoint = endpoint
        self.mqtt_door = ""
        """Where hosts ask through a broker, as `watchbill.door` has it; empty: nowhere."""
        found = store.read(lambda c: rows.all_enrolments(c, store.site))
        self._tokens = {one.enrolment_id: one for one in found}

    # ------------------------------------------------------------ asking

    def get(self, enrolment_id: str) -> Enrolment | None:
        """The token of that id."""
        return self._tokens.get(enrolment_id)

    def state(self, one: Enrolment) -> str:
        """What a person would call its state now."""
        if one.state is not EnrolmentState.OPEN:
            return one.state.value
        if one.uses >= one.uses_max:
            return "used"
        return "expired" if self.expired(one) else "open"

    def expired(self, one: Enrolment) -> bool:
        """Whether its time is over; a clock that was set back does not bring it back to before it was
        made.
        """
        return not one.created_ms - 60_000 <= self._clock.wall_ms() < one.expires_ms

    def list(self) -> list[TokenView]:
        """All of them, newest first."""
        newest = sorted(self._tokens.values(), key=lambda one: (one.created_ms, one.pattern), reverse=True)
        return [TokenView(one, self.state(one)) for one in newest]

    # ------------------------------------------------------------ making and withdrawing

    async def create(self, order: EnrolmentOrder, *, actor: str, source: str = "") -> Sequence[IssuedToken]:
        """Make the tokens of an order, all or none. Raises UsageError saying what is wrong with it, Refused
        where a name is taken.
        """
        check_order(order)
        if order.mqtt and not self.mqtt_door:
            raise UsageError("--mqtt: this collector takes no agents by MQTT: set broker in [mqtt]")
        if order.mqtt and order.cidr:
            raise UsageError("--cidr: a broker does not say where a host is; leave it out with --mqtt")
        made: list[tuple[Enrolment, bytes]] = []

        def work(connection: sa.Connection) -> None:
            # Judged here, in the writer's thread, where no name can be taken between asking and making.
            self._check_names(order)
            made[:] = [self._new(order, pattern, actor) for pattern in order.names or (order.match,)]
            for enrolment, _ in made:
                rows.add_enrolment(connection, enrolment)
                self._record(connection, "enrolment.create", enrolment, actor, source)

        await self._store.write(work, lambda _: self.keep([one for one, _ in made]))
        endpoint = self.mqtt_door if order.mqtt else self._endpoint
        return [self._issued(enrolment, secret, endpoint) for enrolment, secret in made]

    async def withdraw(self, enrolment_id: str, *, actor: str, source: str = "") -> TokenView:
        """Make a token worthless; hosts it let in stay. Raises UsageError when there is none."""

        def work(connection: sa.Connection) -> Enrolment:
            found = self._tokens.get(enrolment_id)
            if found is None:
                raise UsageError(f"there is no enrolment {harmless(enrolment_id)!r}: watchbill enroll list")
            ended = replace(found, state=EnrolmentState.WITHDRAWN)
            rows.put_enrolment(connection, ended)
            self._record(connection, "enrolment.withdraw", ended, actor, source)
            return ended

        ended = await self._store.write(work, lambda one: self.keep([one]))
        return TokenView(ended, self.state(ended))

    async def tidy(self) -> int:
        """Forget tokens that ended long ago; how many. Called now and then."""
        before = self._clock.wall_ms() - round(KEPT_S * 1000)

        def then(gone: list[str]) -> None:
            for enrolment_id in gone:
                self._tokens.pop(enrolment_id, None)

        gone = await self._store.write(lambda c: rows.drop_enrolments(c, before), then)
        return len(gone)

    def keep(self, changed: Sequence[Enrolment]) -> None:
        """Take over rows that were committed; called in the writer's thread alone."""
        for one in changed:
            self._tokens[one.enrolment_id] = one

    def _check_names(self, order: EnrolmentOrder) -> None:
        if len(self._tokens) + max(1, len(order.names)) > TOKENS_MAX:
            raise Refused(f"there are too many enrolments (at most {TOKENS_MAX}): revoke some")
        taken = [name for name in order.names if self._hosts.live(name) is not None]
        if taken and not order.replace:
            raise Refused(
                f"taken: {', '.join(taken[:5])}{' ...' if len(taken) > 5 else ''}; "
                "with --replace the new host takes the name and continues its series"
            )

    def _new(self, order: EnrolmentOrder, pattern: str, actor: str) -> tuple[Enrolment, bytes]:
        secret = secrets.token_bytes(TOKEN_SECRET_BYTES)
        now = self._clock.wall_ms()
        enrolment = Enrolment(
            enrolment_id=new_id(),
            site=self._store.site,
            kind=EnrolmentKind.NAME if order.names else EnrolmentKind.MATCH,
            pattern=pattern,
            secret_sha256=secret_hash(secret),
            uses_max=1 if order.names else order.uses,
            uses=0,
            failures=0,
            cidr=order.cidr,
            labels=dict(order.labels),
            ephemeral=order.ephemeral,
            approve=order.approve,
            replace=order.replace,
            state=EnrolmentState.OPEN,
            expires_ms=now + round(order.ttl_s * 1000),
            created_ms=now,
            created_by=harmless(actor, 128),
            certificate_lifetime_ms=_ms(order.certificate_lifetime_s),
            expired_grace_ms=_ms(order.expired_grace_s),
        )
        return enrolment, secret

    def _issued(self, enrolment: Enrolment, secret: bytes, endpoint: str) -> IssuedToken:
        text = EnrolmentToken(enrolment.enrolment_id, secret, self._ca_sha256, endpoint).encode()
        # printf is the shell's own: the token is in no process's arguments.
        command = f"printf %s '{text}' | sudo watchbill-agent enroll --token-file -"
        return IssuedToken(TokenView(enrolment, self.state(enrolment)), text, command)

    def _record(self, connection: sa.Connection, verb: str, one: Enrolment, actor: str, source: str) -> None:
        detail = {
            "enrolment_id": one.enrolment_id,
            "uses": one.uses_max,
            "labels": dict(one.labels),
            "cidr": one.cidr,
            "approve": one.approve,
            "replace": one.replace,
            "expires_ms": one.expires_ms,
            "certificate_lifetime_s": _s(one.certificate_lifetime_ms),
            "expired_grace_s": _s(one.expired_grace_ms),
        }
        event = Event(verb=verb, target=one.pattern, actor=actor, source=source, detail=detail)
        events.append(connection, self._store.site, self._clock, event)


# ---------------------------------------------------------------- judging an order


def check_order(order: EnrolmentOrder) -> None:
    """Raises UsageError for an order that contradicts itself or asks for what cannot be."""
    if bool(order.names) == bool(order.match):
        raise UsageError("wanted exactly one of --name, --from and --match")
    if order.names and order.uses != 1:
        raise UsageError("--uses goes with --match; a token for one name is used once")
    if len(order.names) > TOKENS_PER_ORDER_MAX:
        raise UsageError(f"got {len(order.names)} names, wanted at most {TOKENS_PER_ORDER_MAX} at once")
    for name in order.names:
        check_instance(name)
    lower = [name.lower() for name in order.names]
    doubled = (
        sorted({name for name in lower if lower.count(name) > 1}) if len(set(lower)) < len(lower) else []
    )
    if doubled:
        raise UsageError(f"twice in the list: {', '.join(doubled[:5])}")
    if len(order.match) > PATTERN_MAX or not order.match.isprintable():
        raise UsageError(f"--match: got a pattern that no name fits, wanted at most {PATTERN_MAX} characters")
    if not 1 <= order.uses <= USES_MAX:
        raise UsageError(f"--uses: got {order.uses}, wanted 1 to {USES_MAX}")
    if not TTL_MIN_S <= order.ttl_s <= TTL_MAX_S:
        raise UsageError(f"--ttl: got {order.ttl_s:.0f} s, wanted 1 minute to 90 days")
    _check_lifetimes(order)
    if order.cidr:
        try:
            ipaddress.ip_network(order.cidr)
        except ValueError as exc:
            raise UsageError(f"--cidr: got {harmless(order.cidr, 60)!r}, wanted a network: {exc}") from exc
    check_labels(order.labels)


def _check_lifetimes(order: EnrolmentOrder) -> None:
    life_s, grace_s = order.certificate_lifetime_s, order.expired_grace_s
    if life_s is not None and not CERTIFICATE_LIFETIME_S_MIN <= life_s <= CERTIFICATE_LIFETIME_S_MAX:
        raise UsageError(
            f"--certificate-lifetime: got {life_s:.0f} s, "
            f"wanted {CERTIFICATE_LIFETIME_S_MIN // 60} minutes to {CERTIFICATE_LIFETIME_S_MAX // DAY_S} days"
        )
    if grace_s is not None and not 0 <= grace_s <= EXPIRED_GRACE_S_MAX:
        raise UsageError(
            f"--expired-grace: got {grace_s:.0f} s, wanted 0 to {EXPIRED_GRACE_S_MAX // DAY_S} days; "
            "0: expired certificates are not renewed"
        )


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _s(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def check_labels(labels: Mapping[str, str]) -> None:
    """Labels that can be bound to a host. Raises UsageError."""
    if len(labels) > LABELS_MAX - 2:  # Room for instance and job.
        raise UsageError(f"--labels: got {len(labels)}, wanted at most {LABELS_MAX - 2}")
    for name, value in labels.items():
        plain = name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()
        if not plain or name.startswith("__") or len(name) > LABEL_NAME_BYTES_MAX or name in RESERVED_LABELS:
            raise UsageError(f"--labels: {harmless(name, 60)!r} cannot be the name of a host's label")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            size = 0
        if not 0 < size <= LABEL_VALUE_BYTES_MAX:
            raise UsageError(f"--labels: {name}: wanted 1 to {LABEL_VALUE_BYTES_MAX} bytes of UTF-8")


def fits(enrolment: Enrolment, name: str) -> bool:
    """Whether a host of that name may use the token."""
    if enrolment.kind is EnrolmentKind.NAME:
        return enrolment.pattern.lower() == name.lower()
    return fnmatch.fnmatchcase(name.lower(), enrolment.pattern.lower())


def from_there(enrolment: Enrolment, address: str) -> bool:
    """Whether it may be used from that address."""
    if not enrolment.cidr:
        return True
    try:
        where = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(where, ipaddress.IPv6Address) and where.ipv4_mapped is not None:
        where = where.ipv4_mapped
    return where in ipaddress.ip_network(enrolment.cidr)
