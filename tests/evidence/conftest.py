"""A site whose collector signs its audit, with a run that people agreed to, over hosts in memory."""

import base64
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.runs.conftest import House, action, make_house, migrated, quick_path
from watchbill.actions.definition import Needs
from watchbill.actions.grants import Vote, sign_vote
from watchbill.actions.roster import Person, Roster, sign_roster
from watchbill.actions.signing import public_key
from watchbill_collector.api.backup_twin import BackupsTwin
from watchbill_collector.api.ports import Caller, Grant, Role
from watchbill_collector.api.runbook_twin import RunbooksTwin
from watchbill_collector.api.twins import BindingsTwin, HostsTwin
from watchbill_collector.audit import Audit
from watchbill_collector.pki.keys import AuditKey
from watchbill_collector.runbooks.run.rows import Voted
from watchbill_collector.services.evidence import Beside, Evidence
from watchbill_collector.services.run_twin import Ran
from watchbill_collector.store import runbooks
from watchbill_collector.store.schema import ROSTERS

__all__ = ["make_house", "migrated", "quick_path"]

SAFE, ANNA, BORIS = (bytes([n]) * 32 for n in (11, 12, 13))
AUDITOR = Caller("audra", (Grant(Role.AUDITOR),), user_id="u9")
PROMOTE = """
runbook: promote
about: promote the standby
objectives: {rto: 10m, rpo: 1m}
steps:
  - id: look
    do: db.look
    on: db1
  - id: consent
    approve: dba
    count: 2
  - id: act
    do: db.promote
    on: db1
    commit: true
    clock: stop
"""


@dataclass
class Site:
    """A house with its audit, and what makes evidence."""

    house: House
    key: AuditKey
    audit: Audit
    evidence: Evidence
    extra: dict[str, Any] = field(default_factory=dict)

    async def promote(self, drill: bool = False) -> str:
        """A run of the runbook that two people agree to; its id."""
        house = self.house
        run_id = await house.begin("promote", drill=drill)
        await house.settle()
        gate = house.run(run_id).step("consent").gate
        assert gate is not None
        for name, seed in (("anna", ANNA), ("boris", BORIS)):
            now_ms = house.clock.wall_ms()
            vote = Vote(
                manifest=gate.opened.digest,
                site="main",
                run=run_id,
                gate="consent",
                person=name,
                approve=True,
                signed_ms=now_ms,
                expires_ms=now_ms + 600_000,
            )
            signed = base64.b64encode(sign_vote(seed, vote)).decode()
            house.clock.advance(1)
            await house.add(
                run_id,
                Voted(step="consent", person=name, approve=True, digest=gate.opened.digest, signed=signed),
            )
        await house.settle()
        assert house.state(run_id) == "succeeded", house.summary(run_id).state_detail
        return run_id


@pytest.fixture
async def site(make_house: Callable[[], House]) -> Site:
    house = make_house()
    house.clock.advance(time.time() - house.clock.wall_ms() / 1000)  # The command asks by a clock of its own.
    await house.start()
    key = AuditKey.open(house.directory)
    audit = Audit(house.store, house.clock, key)
    audit.begin_signing()
    host = house.host("db1")
    host.allow(*action("db.look", "read", lambda _: Ran(output='{"role": "standby"}')))
    host.allow(*action("db.promote", "once", needs=Needs(2, "dba")))
    now_ms = house.clock.wall_ms()
    house.roster = host.roster = Roster(
        site="main",
        serial=4,
        issued_ms=now_ms,
        expires_ms=now_ms + 86_400_000,
        people=(
            Person(name="anna", key=public_key(ANNA), roles=("dba",)),
            Person(name="boris", key=public_key(BORIS), roles=("dba",)),
        ),
    )
    signed = sign_roster(SAFE, house.roster)
    row = {
        "serial": 4,
        "site": "main",
        "digest": hashlib.sha256(signed).hexdigest(),
        "author": "ada",
        "published_ms": now_ms,
        "signed": signed,
    }
    house.store.write_blocking(lambda c: c.execute(ROSTERS.insert().values(**row)))
    house.enrol()
    book = house.runbook(PROMOTE)
    accepted = runbooks.AcceptanceRow(digest=book.digest, name="promote", person="carl", at_ms=now_ms)
    house.store.write_blocking(lambda c: runbooks.accept(c, "main", accepted))
    backups = BackupsTwin(house.clock)
    books = RunbooksTwin(house.clock, BindingsTwin(HostsTwin(house.clock)))
    beside = Beside(house.clock, house.store, books, backups)
    return Site(house, key, audit, Evidence(house.store, house.clock, audit, key, beside))
