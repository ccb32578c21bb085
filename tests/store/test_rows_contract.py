"""Tokens, users, sessions and certificates as rows: the same on SQLite and PostgreSQL."""

import uuid
from dataclasses import replace

from watchbill.clock import ManualClock
from watchbill.leaving import Leaving
from watchbill_collector.enrolment.tokens import EnrolmentOrder, EnrolmentTokens
from watchbill_collector.hosts import HostRegistry
from watchbill_collector.store import Store
from watchbill_collector.store import enrolments as token_rows
from watchbill_collector.store import hosts as host_rows
from watchbill_collector.store.hosts import Certificate, Host, HostState
from watchbill_collector.users import Grant, Role, Users

AGENT = "c83d89b0-e8c7-4a9f-b76b-15dd26a9c425"


def _host() -> Host:
    return Host(
        agent_id=AGENT,
        site="main",
        instance="web01",
        state=HostState.ACTIVE,
        labels={"rack": "b12"},
        ephemeral=True,
        public_key=b"k",
        envelope_key=b"e",
        hostname="h",
        agent_version="0",
        address="::1",
        enrolled_ms=1,
        changed_ms=1,
    )


def _certificate(serial: str, key: bytes, end_ms: int) -> Certificate:
    return Certificate(
        serial=serial,
        agent_id=AGENT,
        public_key=key,
        key_sha256=key * 32,
        csr_sha256=b"c" * 32,
        how="enrol",
        issued_ms=end_ms - 10,
        not_before_ms=end_ms - 10,
        not_after_ms=end_ms,
        der=b"\x30\x00",
    )


async def test_users_tokens_and_sessions_live_through_a_restart(store: Store) -> None:
    clock = ManualClock()
    users = Users(store, clock)
    await users.add("root", [Grant(Role.ADMIN)], actor="test")
    ann = await users.add("Änn", [Grant(Role.ADMIN), Grant(Role.VIEWER, 'site=~"b.*"')], actor="test")
    token = await users.new_token(ann.user_id, actor="test")
    session = await users.log_in(await users.new_login(ann.user_id, actor="test"), "::1")
    again = Users(store, clock)
    assert again.users() == users.users()
    assert again.verify_bearer(token).grants == ann.grants
    assert again.verify_session(session.cookie).name == "Änn"
    await again.log_out(session.cookie)
    await again.disable(ann.user_id, actor="test")
    assert Users(store, clock).find("änn").disabled


async def test_enrolment_tokens_live_through_a_restart(store: Store) -> None:
    clock = ManualClock()
    hosts = HostRegistry(store, clock)

    def tokens() -> EnrolmentTokens:
        return EnrolmentTokens(store, clock, hosts, ca_sha256=bytes(32), endpoint="collector.example:7444")

    made = await tokens().create(
        EnrolmentOrder(match="web-*", uses=5, labels={"a": "ü<script>"}, cidr="10.0.0.0/8"), actor="ann"
    )
    await tokens().create(
        EnrolmentOrder(
            names=("x", "y"),
            approve=True,
            replace=True,
            ephemeral=True,
            certificate_lifetime_s=86_400.5,
            expired_grace_s=0,
        ),
        actor="ann",
    )
    views = {view.enrolment.enrolment_id: view for view in tokens().list()}
    assert views[made[0].view.enrolment.enrolment_id] == made[0].view
    assert len(views) == 3
    await tokens().withdraw(made[0].view.enrolment.enrolment_id, actor="ann")
    assert sorted(view.state for view in tokens().list()) == ["open", "open", "withdrawn"]
    clock.advance(40 * 86_400)
    assert await tokens().tidy() == 3
    assert tokens().list() == []


def test_certificates_keys_uses_and_presence_are_found_again(store: Store) -> None:
    store.write_blocking(lambda c: host_rows.add_host(c, _host()))
    store.write_blocking(lambda c: host_rows.add_certificate(c, "main", _certificate("1", b"a", 100)))
    store.write_blocking(lambda c: host_rows.add_certificate(c, "main", _certificate("2", b"b", 200)))
    there = host_rows.Presence
    store.write_blocking(lambda c: host_rows.put_present(c, "main", AGENT, there({"job": "node"}), 1))
    store.write_blocking(lambda c: host_rows.put_present(c, "main", AGENT, there({"job": "web"}), 2))
    assert [one.serial for one in store.read(lambda c: host_rows.certificates_of(c, AGENT, 9))] == ["2", "1"]
    assert store.read(lambda c: host_rows.owner_of_key(c, b"a" * 32)) == AGENT
    assert store.read(lambda c: host_rows.owner_of_key(c, b"z" * 32)) is None
    assert store.read(lambda c: host_rows.last_expiries(c, "main")) == {AGENT: 200}
    assert store.read(lambda c: host_rows.all_present(c, "main")) == {AGENT: there({"job": "web"})}
    assert store.write_blocking(lambda c: host_rows.drop_certificates(c, 150, 0)) == 1
    gone = there({"job": "web"}, Leaving("reboot", 3, 900_003))
    store.write_blocking(lambda c: host_rows.put_present(c, "main", AGENT, gone, 5))
    assert store.read(lambda c: host_rows.all_present(c, "main")) == {AGENT: gone}
    assert store.read(lambda c: token_rows.find_use(c, "none", b"a")) is None


def test_a_certificate_is_kept_as_long_as_its_own_host_may_renew_it(store: Store) -> None:
    patient = replace(_host(), expired_grace_ms=1_000, certificate_lifetime_ms=10)
    other = replace(_host(), agent_id=str(uuid.uuid4()), instance="web02")
    for host, serial in ((patient, "1"), (other, "2")):
        certificate = replace(_certificate(serial, serial.encode(), 100), agent_id=host.agent_id)
        store.write_blocking(lambda c, host=host: host_rows.add_host(c, host))
        store.write_blocking(lambda c, made=certificate: host_rows.add_certificate(c, "main", made))
    assert sorted(store.read(lambda c: host_rows.all_hosts(c, "main")), key=lambda one: one.instance) == [
        patient,
        other,
    ]

    def left() -> list[str]:
        return [
            one.serial
            for host in (patient, other)
            for one in store.read(lambda c, of=host.agent_id: host_rows.certificates_of(c, of, 9))
        ]

    assert store.write_blocking(lambda c: host_rows.drop_certificates(c, 99, 0)) == 0
    assert store.write_blocking(lambda c: host_rows.drop_certificates(c, 150, 60)) == 0
    assert store.write_blocking(lambda c: host_rows.drop_certificates(c, 161, 60)) == 1
    assert left() == ["1"]
    assert store.write_blocking(lambda c: host_rows.drop_certificates(c, 1_100, 60)) == 0
    assert store.write_blocking(lambda c: host_rows.drop_certificates(c, 1_101, 60)) == 1
    assert left() == []
