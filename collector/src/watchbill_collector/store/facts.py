"""Single values that the collector remembers from one run to the next, by name."""

import sqlalchemy as sa

from watchbill_collector.store.schema import FACTS


def get(connection: sa.Connection, name: str) -> str | None:
    """A value, if there is one."""
    return connection.execute(sa.select(FACTS.c.value).where(FACTS.c.name == name)).scalar()


def put(connection: sa.Connection, site: str, name: str, value: str) -> None:
    """Remember a value, in place of the one before."""
    connection.execute(FACTS.delete().where(FACTS.c.name == name))
    connection.execute(FACTS.insert().values(name=name, site=site, value=value))
