"""Enrolment tokens and what they were used for, as rows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from watchbill_collector.store.schema import ENROLMENT_USES, ENROLMENTS
from watchbill_collector.store.text import canonical_json


class EnrolmentKind(StrEnum):
    """NAME binds one host's name; MATCH takes hosts whose own name fits a pattern."""

    NAME = "name"
    MATCH = "match"


class EnrolmentState(StrEnum):
    """OPEN may be used while it lasts; DEAD had too many wrong secrets; WITHDRAWN was revoked by a person."""

    OPEN = "open"
    DEAD = "dead"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """A token, without its secret. `pattern` is the name, or the pattern names have to fit. The last two are bound to
    the hosts that it lets in; None: as collector.toml says.
    """

    enrolment_id: str
    site: str
    kind: EnrolmentKind
    pattern: str
    secret_sha256: bytes
    uses_max: int
    uses: int
    failures: int
    cidr: str
    labels: Mapping[str, str]
    ephemeral: bool
    approve: bool
    replace: bool
    state: EnrolmentState
    expires_ms: int
    created_ms: int
    created_by: str
    certificate_lifetime_ms: int | None = None
    expired_grace_ms: int | None = None


def all_enrolments(connection: sa.Connection, site: str) -> list[Enrolment]:
    """Every token that is remembered."""
    return [
        _enrolment(row)
        for row in connection.execute(sa.select(ENROLMENTS).where(ENROLMENTS.c.site == site)).mappings()
    ]


def add_enrolment(connection: sa.Connection, enrolment: Enrolment) -> None:
    """A new token."""
    connection.execute(ENROLMENTS.insert().values(**_values(enrolment)))


def put_enrolment(connection: sa.Connection, enrolment: Enrolment) -> None:
    """Replace the row of a token."""
    values = _values(enrolment)
    enrolment_id = values.pop("enrolment_id")
    connection.execute(ENROLMENTS.update().where(ENROLMENTS.c.enrolment_id == enrolment_id).values(**values))


def find_use(connection: sa.Connection, enrolment_id: str, key_sha256: bytes) -> str | None:
    """The agent this key became by this token, if it did."""
    table = ENROLMENT_USES.c
    query = sa.select(table.agent_id).where(
        table.enrolment_id == enrolment_id, table.key_sha256 == key_sha256
    )
    return connection.execute(query).scalar()


def add_use(
    connection: sa.Connection, site: str, enrolment_id: str, key_sha256: bytes, agent_id: str, at_ms: int
) -> None:
    """Count a use: this key became this agent."""
    connection.execute(
        ENROLMENT_USES.insert().values(
            enrolment_id=enrolment_id, key_sha256=key_sha256, site=site, agent_id=agent_id, at_ms=at_ms
        )
    )


def drop_enrolments(connection: sa.Connection, expired_before_ms: int) -> list[str]:
    """Forget tokens that ended long ago; their ids."""
    old = sa.select(ENROLMENTS.c.enrolment_id).where(ENROLMENTS.c.expires_ms < expired_before_ms)
    gone = [row[0] for row in connection.execute(old)]
    connection.execute(ENROLMENT_USES.delete().where(ENROLMENT_USES.c.enrolment_id.in_(old)))
    connection.execute(ENROLMENTS.delete().where(ENROLMENTS.c.expires_ms < expired_before_ms))
    return gone


def _enrolment(row: sa.RowMapping) -> Enrolment:
    found: dict[str, Any] = dict(row)
    found["kind"] = EnrolmentKind(found["kind"])
    found["state"] = EnrolmentState(found["state"])
    found["labels"] = json.loads(found["labels"])
    return Enrolment(**found)


def _values(enrolment: Enrolment) -> dict[str, object]:
    values: dict[str, object] = {name: getattr(enrolment, name) for name in Enrolment.__slots__}
    values["kind"] = enrolment.kind.value
    values["state"] = enrolment.state.value
    values["labels"] = canonical_json(enrolment.labels)
    return values
