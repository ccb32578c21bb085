"""Hosts and their certificates, as rows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa

from watchbill.leaving import Leaving
from watchbill_collector.store.schema import CERTIFICATES, HOSTS, PRESENCE
from watchbill_collector.store.text import canonical_json


class HostState(StrEnum):
    """PENDING waits for an administrator; ACTIVE may connect; RETIRED was taken out of service; REVOKED
    may never come back; FORGOTTEN is what is left of either when it is no longer listed: an id that is not
    used again.
    """

    PENDING = "pending"
    ACTIVE = "active"
    RETIRED = "retired"
    REVOKED = "revoked"
    FORGOTTEN = "forgotten"


LIVE: Final = frozenset({HostState.PENDING, HostState.ACTIVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One enrolled host. The key is `agent_id`; `instance` is a label, unique among live hosts of the
    site.

    `labels` were bound at enrolment and win over what the host says; `public_key` is the
    SubjectPublicKeyInfo it enrolled with. Times in UTC ms. How long its certificates last and may be renewed late is
    None where collector.toml says it.
    """

    agent_id: str
    site: str
    instance: str
    state: HostState
    labels: Mapping[str, str]
    ephemeral: bool
    public_key: bytes
    envelope_key: bytes
    hostname: str
    agent_version: str
    address: str
    enrolled_ms: int
    changed_ms: int
    reason: str = ""
    certificate_lifetime_ms: int | None = None
    expired_grace_ms: int | None = None

    @property
    def live(self) -> bool:
        """True while its name is taken."""
        return self.state in LIVE

    @property
    def job(self) -> str | None:
        """The `job` label, if one was bound."""
        return self.labels.get("job")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate issued to an agent; `how` is enrol, renew or recover."""

    serial: str
    agent_id: str
    public_key: bytes
    key_sha256: bytes
    csr_sha256: bytes
    how: str
    issued_ms: int
    not_before_ms: int
    not_after_ms: int
    der: bytes


def all_hosts(connection: sa.Connection, site: str) -> list[Host]:
    """Every host, forgotten ones too."""
    return [_host(row) for row in connection.execute(sa.select(HOSTS).where(HOSTS.c.site == site)).mappings()]


def last_expiries(connection: sa.Connection, site: str) -> dict[str, int]:
    """agent_id -> when its last certificate ends."""
    table = CERTIFICATES.c
    query = sa.select(table.agent_id, sa.func.max(table.not_after_ms)).where(table.site == site)
    return {row[0]: row[1] for row in connection.execute(query.group_by(table.agent_id))}


def add_host(connection: sa.Connection, host: Host) -> None:
    """A new row."""
    connection.execute(HOSTS.insert().values(**_values(host)))


def put_host(connection: sa.Connection, host: Host) -> None:
    """Replace the row of `host.agent_id`."""
    values = _values(host)
    agent_id = values.pop("agent_id")
    connection.execute(HOSTS.update().where(HOSTS.c.agent_id == agent_id).values(**values))


def add_certificate(connection: sa.Connection, site: str, certificate: Certificate) -> None:
    """Remember what was issued; before the agent gets it."""
    values = {name: getattr(certificate, name) for name in Certificate.__slots__}
    connection.execute(CERTIFICATES.insert().values(site=site, **values))


def certificates_of(connection: sa.Connection, agent_id: str, limit: int) -> list[Certificate]:
    """The newest certificates of an agent, newest first."""
    table = CERTIFICATES.c
    query = (
        sa.select(*(table[name] for name in Certificate.__slots__))
        .where(table.agent_id == agent_id)
        .order_by(table.issued_ms.desc(), table.not_after_ms.desc())
        .limit(limit)
    )
    return [Certificate(**row) for row in connection.execute(query).mappings()]


def owner_of_key(connection: sa.Connection, key_sha256: bytes) -> str | None:
    """Which agent was ever issued a certificate for this key, while we remember it."""
    query = sa.select(CERTIFICATES.c.agent_id).where(CERTIFICATES.c.key_sha256 == key_sha256).limit(1)
    return connection.execute(query).scalar()


def drop_certificates(connection: sa.Connection, now_ms: int, grace_ms: int) -> int:
    """Forget certificates that ended longer ago than their host's grace, `grace_ms` where it has none of its own; how
    many.
    """
    own = sa.select(HOSTS.c.expired_grace_ms).where(HOSTS.c.agent_id == CERTIFICATES.c.agent_id)
    grace = sa.func.coalesce(own.correlate(CERTIFICATES).scalar_subquery(), grace_ms)
    ended = CERTIFICATES.c.not_after_ms < now_ms
    return connection.execute(
        CERTIFICATES.delete().where(ended, CERTIFICATES.c.not_after_ms < now_ms - grace)
    ).rowcount


@dataclass(frozen=True, slots=True)
class Presence:
    """A host that came. `labels` are those of its series; `leaving` is how it said goodbye, None while it has not;
    `beat_interval_ms` is how seldom it beats, 0 where that is not known."""

    labels: Mapping[str, str]
    leaving: Leaving | None = None
    beat_interval_ms: int = 0


def all_present(connection: sa.Connection, site: str) -> dict[str, Presence]:
    """agent_id -> how it is there, of every host that ever came."""
    table = PRESENCE.c
    query = sa.select(
        table.agent_id,
        table.labels,
        table.since_ms,
        table.left_reason,
        table.back_by_ms,
        table.beat_interval_ms,
    )
    return {
        row.agent_id: Presence(
            json.loads(row.labels),
            Leaving(row.left_reason, row.since_ms, row.back_by_ms) if row.left_reason else None,
            row.beat_interval_ms,
        )
        for row in connection.execute(query.where(table.site == site))
    }


def put_present(connection: sa.Connection, site: str, agent_id: str, presence: Presence, now_ms: int) -> None:
    """Remember how a host is there, since now."""
    leaving = presence.leaving
    values = {
        "agent_id": agent_id,
        "site": site,
        "labels": canonical_json(presence.labels),
        "since_ms": now_ms if leaving is None else leaving.left_ms,
        "left_reason": "" if leaving is None else leaving.reason,
        "back_by_ms": 0 if leaving is None else leaving.back_by_ms,
        "beat_interval_ms": presence.beat_interval_ms,
    }
    connection.execute(PRESENCE.delete().where(PRESENCE.c.agent_id == agent_id))
    connection.execute(PRESENCE.insert().values(**values))


def _host(row: sa.RowMapping) -> Host:
    found: dict[str, Any] = dict(row)
    del found["instance_key"]
    found["state"] = HostState(found["state"])
    found["labels"] = json.loads(found["labels"])
    return Host(**found)


def _values(host: Host) -> dict[str, object]:
    values: dict[str, object] = {name: getattr(host, name) for name in Host.__slots__}
    values["state"] = host.state.value
    values["labels"] = canonical_json(host.labels)
    values["instance_key"] = host.instance.lower()
    return values
