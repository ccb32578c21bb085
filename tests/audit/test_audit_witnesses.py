"""Verifying with witnesses: the real keeper over a real store and a real registry."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from watchbill.clock import ManualClock
from watchbill_collector.api.ports import NoSuch
from watchbill_collector.audit import Audit, Head, Witnesses
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.services.auditing import AuditKeeper
from watchbill_collector.store import Store
from watchbill_collector.store import hosts as host_rows
from watchbill_collector.store.hosts import Host, HostState

IDS = {"web1": "a" * 36, "web2": "b" * 36}


def host(name: str) -> Host:
    return Host(
        agent_id=IDS[name],
        site="main",
        instance=name,
        state=HostState.ACTIVE,
        labels={},
        ephemeral=False,
        public_key=b"k",
        envelope_key=b"e",
        hostname=name,
        agent_version="0",
        address="::1",
        enrolled_ms=1,
        changed_ms=1,
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path, "main") as made:
        for name in IDS:
            made.write_blocking(lambda c, name=name: host_rows.add_host(c, host(name)))
        yield made


@pytest.fixture
def keeper(store: Store) -> AuditKeeper:
    clock = ManualClock()
    audit = Audit(store, clock)
    for number in range(5):
        audit.record(None, "ops", "host.retire", str(number), "done")
    return AuditKeeper(store, clock, audit, Witnesses(audit.hashes), HostRegistry(store, clock))


def heads(store: Store) -> list[Head]:
    return [Head(row.seq, row.hash) for row in Audit(store, ManualClock()).after(0, 10)]


async def test_nobody_has_spoken_and_nobody_was_asked(keeper: AuditKeeper) -> None:
    verdict = await keeper.verify(None)
    assert (verdict.ok, verdict.witnesses) == (True, ())


async def test_who_is_asked_by_name_has_to_have_shown_a_head_that_the_chain_holds(
    keeper: AuditKeeper, store: Store
) -> None:
    keeper.heard(IDS["web1"], [heads(store)[3]])
    assert (await keeper.verify(None)).ok
    assert (await keeper.verify(["web1"])).ok
    verdict = await keeper.verify(["web1", "web2"])
    assert not verdict.ok
    assert [(one.host, one.verdict) for one in verdict.witnesses] == [("web1", "agrees"), ("web2", "silent")]
    with pytest.raises(NoSuch):
        await keeper.verify(["nobody"])


async def test_one_who_was_told_otherwise_is_a_failure_whether_asked_or_not(
    keeper: AuditKeeper, store: Store
) -> None:
    keeper.heard(IDS["web1"], heads(store))
    keeper.heard(IDS["web2"], [Head(3, bytes(32))])
    for asked in (None, ["web2"], ["web1", "web2"]):
        verdict = await keeper.verify(asked)
        assert not verdict.ok
        assert (verdict.witnesses[-1].host, verdict.witnesses[-1].disputed) == ("web2", 3)
    assert (await keeper.verify(["web1"])).ok
