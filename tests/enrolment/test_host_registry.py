"""The registry of hosts: what it answers, what it remembers, whom it tells."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from watchbill.clock import ManualClock, SystemClock
from watchbill.errors import Refused, StorageError, UsageError
from watchbill.identity import AgentIdentity, IdentityFile, IdentityRefused, RefusalReason
from watchbill.leaving import Leaving
from watchbill_agent.enroll import EnrolRequest
from watchbill_agent.enroll_child import enrol
from watchbill_collector.hosts import ChangeKind, HostChange, HostRegistry
from watchbill_collector.services.departures import retire_decommissioned

Ask = Callable[..., EnrolRequest]


async def _agent(site: Any, ask: Ask, place: Path, name: str = "web01", **order: Any) -> AgentIdentity:
    token = await site.token(names=(name,), **order)
    await asyncio.to_thread(enrol, ask(token, place, name), site.clock)
    identity = IdentityFile(place).load()
    assert identity is not None
    return identity


async def test_a_restart_forgets_nothing(site: Any, ask: Ask, tmp_path: Path) -> None:
    one = await _agent(site, ask, tmp_path / "a", labels={"rack": "b12"})
    two = await _agent(site, ask, tmp_path / "b", "web02")
    await site.hosts.revoke(two.agent_id, actor="ann", reason="stolen")
    site.hosts.seen(one.agent_id, {"instance": "web01", "job": "node"})
    before = site.hosts.hosts()
    await site.stop()
    await site.start()
    assert site.hosts.hosts() == before
    assert site.hosts.admit(one.chain_pem).host.labels == {"rack": "b12"}
    assert site.hosts.standing(two.agent_id) is RefusalReason.REVOKED
    assert [(host.agent_id, there.labels["job"]) for host, there in site.hosts.expected()] == [
        (one.agent_id, "node")
    ]
    site.hosts.left(one.agent_id, Leaving("reboot", 5, 905_000))
    assert site.hosts.expected() == []
    await site.stop()
    await site.start()
    assert site.hosts.leaving(one.agent_id) == Leaving("reboot", 5, 905_000)
    [(host, labels, leaving)] = site.hosts.promised()
    assert (host.agent_id, labels["job"], leaving.back_by_ms) == (one.agent_id, "node", 905_000)
    site.hosts.seen(one.agent_id, {"instance": "web01", "job": "node"})
    assert (site.hosts.leaving(one.agent_id), site.hosts.promised()) == (None, [])


async def test_only_a_host_that_comes_and_goes_counts_as_decommissioned(
    site: Any, ask: Ask, tmp_path: Path
) -> None:
    stays = await _agent(site, ask, tmp_path / "a")
    goes = await _agent(site, ask, tmp_path / "b", "web02", ephemeral=True)
    for one in (stays, goes):
        site.hosts.seen(one.agent_id, {"instance": "x"})
        site.hosts.left(one.agent_id, Leaving("decommission", 5))
    assert await retire_decommissioned(site.hosts) == 1
    assert await retire_decommissioned(site.hosts) == 0
    assert site.hosts.standing(stays.agent_id) is None
    assert site.hosts.standing(goes.agent_id) is RefusalReason.RETIRED
    [event] = [one for one in site.events() if one.verb == "host.retired"]
    assert (event.actor, event.target) == ("host:web02", "web02")
    assert '"reason":"decommission"' in event.detail


async def test_a_rename_takes_effect_at_once_and_is_told(site: Any, ask: Ask, tmp_path: Path) -> None:
    one = await _agent(site, ask, tmp_path / "a")
    await _agent(site, ask, tmp_path / "b", "web02")
    told: list[HostChange] = []
    end = site.hosts.subscribe(told.append)
    with pytest.raises(UsageError, match="taken"):
        await site.hosts.rename(one.agent_id, "WEB02", actor="ann")
    for wrong in ("", "a b", "<script>", "x" * 254, "a\n", "ü", "../../etc"):
        with pytest.raises(UsageError, match="wanted letters"):
            await site.hosts.rename(one.agent_id, wrong, actor="ann")
    await site.hosts.rename(one.agent_id, "Web01", actor="ann")
    await site.hosts.rename(one.agent_id, "db01", actor="ann", source="192.0.2.1")
    assert site.hosts.live("web01") is None
    assert site.hosts.admit(one.chain_pem).host.instance == "db01"
    assert [(one.kind, one.before.instance, one.after.instance) for one in told if one.before] == [
        (ChangeKind.RENAMED, "web01", "Web01"),
        (ChangeKind.RENAMED, "Web01", "db01"),
    ]
    end()
    await site.hosts.rename(one.agent_id, "db02", actor="ann")
    assert len(told) == 2
    newest = site.events()[1]
    assert (newest.verb, newest.target, newest.actor, newest.source) == (
        "host.renamed",
        "db01",
        "ann",
        "192.0.2.1",
    )


async def test_a_host_goes_from_live_to_retired_or_revoked_to_forgotten_and_never_back(
    site: Any, ask: Ask, tmp_path: Path
) -> None:
    one = await _agent(site, ask, tmp_path / "a")
    hosts: HostRegistry = site.hosts
    with pytest.raises(UsageError, match="retire web01 first"):
        await hosts.forget(one.agent_id, actor="ann")
    with pytest.raises(UsageError, match="not waiting"):
        await hosts.approve(one.agent_id, actor="ann")
    await hosts.retire(one.agent_id, actor="ann", reason="sold")
    with pytest.raises(UsageError, match="already retired"):
        await hosts.retire(one.agent_id, actor="ann")
    with pytest.raises(UsageError, match="only a live host"):
        await hosts.rename(one.agent_id, "x", actor="ann")
    with pytest.raises(IdentityRefused) as caught:
        hosts.admit(one.chain_pem)
    assert caught.value.reason is RefusalReason.RETIRED
    again = await _agent(site, ask, tmp_path / "b")
    assert again.agent_id != one.agent_id
    assert hosts.find("web01").agent_id == again.agent_id
    assert hosts.find(one.agent_id[:8]).agent_id == one.agent_id
    await hosts.revoke(one.agent_id, actor="ann")
    await hosts.forget(one.agent_id, actor="ann")
    assert [host.agent_id for host in hosts.hosts()] == [again.agent_id]
    assert hosts.standing(one.agent_id) is RefusalReason.REVOKED
    for change in (hosts.forget, hosts.revoke, hosts.retire, hosts.approve):
        with pytest.raises(UsageError):
            await change(one.agent_id, actor="ann")
    with pytest.raises(UsageError, match="no host"):
        hosts.find(one.agent_id)
    with pytest.raises(UsageError, match="no host"):
        hosts.find("nobody")
    with pytest.raises(UsageError, match="no host"):
        await hosts.revoke("nobody", actor="ann")


async def test_the_key_of_a_host_that_was_shut_out_cannot_come_back_under_another_token(
    site: Any, ask: Ask, tmp_path: Path
) -> None:
    one = await _agent(site, ask, tmp_path / "a")
    await site.hosts.revoke(one.agent_id, actor="ann")
    import hashlib

    import nacl.signing

    from watchbill.identity import parse_token
    from watchbill_agent import identity_keys
    from watchbill_collector.enrolment.desk import Application

    token = parse_token(await site.token(names=("web02",)))
    csr = identity_keys.signing_request(identity_keys.read_key(one.key_pem))
    seed = nacl.signing.SigningKey(one.envelope_seed)
    message = b"watchbill/enroll/v1\0" + token.token_id.encode() + b"\0" + hashlib.sha256(csr).digest()
    asked = Application(
        token_id=token.token_id,
        token_secret=token.secret,
        csr=csr,
        envelope_key=bytes(seed.verify_key),
        envelope_proof=seed.sign(message).signature,
        hostname="web02",
        instance="",
        agent_version="0",
    )
    with pytest.raises(IdentityRefused) as caught:
        await site.enrolment.desk.enrol(asked, "192.0.2.1")
    assert caught.value.reason is RefusalReason.KEY_TAKEN


async def test_a_session_goes_on_as_long_as_some_certificate_of_its_host_is_good(
    make_site: Any, ask: Ask, tmp_path: Path
) -> None:
    clock = ManualClock(SystemClock().wall_ms())
    site = await make_site(clock)
    one = await _agent(site, ask, tmp_path)
    assert site.hosts.standing(one.agent_id) is None
    clock.advance(6.9 * 86_400)
    assert site.hosts.standing(one.agent_id) is None
    clock.advance(0.2 * 86_400)
    assert site.hosts.standing(one.agent_id) is RefusalReason.EXPIRED
    with pytest.raises(IdentityRefused, match="expired"):
        site.hosts.admit(one.chain_pem)


async def test_a_subscriber_that_fails_does_not_keep_others_from_hearing(
    site: Any, ask: Ask, tmp_path: Path
) -> None:
    one = await _agent(site, ask, tmp_path)
    told: list[HostChange] = []

    def deaf(_: HostChange) -> None:
        raise RuntimeError("deaf")

    site.hosts.subscribe(deaf)
    site.hosts.subscribe(told.append)
    with pytest.raises(ExceptionGroup):
        await site.hosts.revoke(one.agent_id, actor="ann")
    assert len(told) == 1
    assert site.hosts.standing(one.agent_id) is RefusalReason.REVOKED


async def test_what_the_store_refuses_changes_nothing_in_memory(site: Any, ask: Ask, tmp_path: Path) -> None:
    one = await _agent(site, ask, tmp_path / "a")
    token = await site.token(names=("web02",))

    def use_up_the_reserve(connection: Any) -> None:
        free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
        size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
        connection.exec_driver_sql("CREATE TABLE filler (bytes BLOB)")
        connection.exec_driver_sql("INSERT INTO filler VALUES (zeroblob(?))", (free * size,))

    site.store.write_blocking(use_up_the_reserve)
    pages = site.store.write_blocking(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar_one())
    site.store.write_blocking(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar_one())
    # SQLite says "database or disk is full" from here on, as soon as it needs another page.

    async def until_it_is_full() -> None:
        for _ in range(200):
            await site.hosts.rename(one.agent_id, "web01", actor="a" * 100)

    with pytest.raises(StorageError, match="full"):
        await until_it_is_full()
    from watchbill.errors import Unreachable

    with pytest.raises(Unreachable, match="cannot write"):
        await asyncio.to_thread(enrol, ask(token, tmp_path / "b", "web02", patience_s=0.0), site.clock)
    assert site.hosts.live("web02") is None
    assert site.hosts.admit(one.chain_pem).host.instance == "web01"
    site.store.write_blocking(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1000000").scalar_one())
    await asyncio.to_thread(enrol, ask(token, tmp_path / "b", "web02"), site.clock)
    assert site.hosts.live("web02") is not None


async def test_orders_that_contradict_themselves_are_refused(site: Any) -> None:
    for order, said in (
        ({}, "exactly one"),
        ({"names": ("a",), "match": "b"}, "exactly one"),
        ({"names": ("a",), "uses": 2}, "used once"),
        ({"names": ("a", "A")}, "twice"),
        ({"names": ("a b",)}, "wanted letters"),
        ({"match": "x" * 300}, "--match"),
        ({"match": "a", "uses": 0}, "--uses"),
        ({"match": "a", "uses": 10**9}, "--uses"),
        ({"match": "a", "ttl_s": 1}, "--ttl"),
        ({"match": "a", "ttl_s": float("nan")}, "--ttl"),
        ({"match": "a", "cidr": "300.0.0.0/8"}, "--cidr"),
        ({"match": "a", "cidr": "10.0.0.1/8"}, "--cidr"),
        ({"match": "a", "labels": {"instance": "x"}}, "--labels"),
        ({"match": "a", "labels": {"__name__": "x"}}, "--labels"),
        ({"match": "a", "labels": {"a-b": "x"}}, "--labels"),
        ({"match": "a", "labels": {"a": ""}}, "--labels"),
        ({"match": "a", "labels": {"a": "x" * 1025}}, "--labels"),
        ({"match": "a", "labels": {"a": "\ud800"}}, "--labels"),
        ({"match": "a", "labels": {f"l{n}": "x" for n in range(31)}}, "--labels"),
        ({"match": "a", "labels": {"": "x"}}, "--labels"),
    ):
        with pytest.raises(UsageError, match=said):
            await site.token(**order)
    assert site.enrolment.tokens.list() == []


async def test_many_names_make_a_token_each_and_a_taken_one_makes_none(
    site: Any, ask: Ask, tmp_path: Path
) -> None:
    from watchbill_collector.enrolment import EnrolmentOrder

    issued = await site.enrolment.tokens.create(
        EnrolmentOrder(names=tuple(f"web{n:04}" for n in range(500))), actor="ann"
    )
    assert len({one.token for one in issued}) == 500
    await _agent(site, ask, tmp_path, "db01")
    with pytest.raises(Refused, match="taken: db01"):
        await site.token(names=("db00", "db01"))
    assert len(site.enrolment.tokens.list()) == 501


async def test_ended_tokens_and_certificates_are_forgotten_in_time(
    make_site: Any, ask: Ask, tmp_path: Path
) -> None:
    clock = ManualClock(SystemClock().wall_ms())
    site = await make_site(clock)
    one = await _agent(site, ask, tmp_path)
    clock.advance(31 * 86_400)
    await site.enrolment.tidy()
    assert site.enrolment.tokens.list() == []
    assert site.hosts.get(one.agent_id) is not None
    clock.advance(20 * 86_400)
    await site.enrolment.tidy()
    from watchbill_collector.store.schema import CERTIFICATES

    assert site.store.read(lambda c: c.execute(CERTIFICATES.select()).all()) == []
