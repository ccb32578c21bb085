"""Hosts come in by the line that was printed, go as the operator says, and keep their certificates fresh.

Certificates of this collector live for a minute. What needs that minute to pass is prepared when the file
begins and looked at by its last tests.
"""

import base64
import contextlib
import json
import shutil
import socket
import ssl
import time

import pytest

pytestmark = pytest.mark.timeout(150)

USAGE, WAITING, REFUSED = 2, 4, 6
LIFETIME_S = 60


@pytest.fixture(scope="module")
def collector(shared_house):
    return shared_house.collector('[rules]\nstock = false\n[certificates]\nlifetime = "60s"\n')


@pytest.fixture(scope="module", autouse=True)
def early(shared_house, collector):
    """What has to grow old: a running agent, one that never ran, a token, and when they began."""
    renewing = shared_house.agent(collector, "renewing")
    shutil.copytree(renewing.state, shared_house.root / "before-renewal")
    sleeping = shared_house.enrolled(collector, "sleeping")
    token = collector.issue("late", ttl_s=60)["token"]
    return {"renewing": renewing, "sleeping": sleeping, "token": token, "since_s": time.monotonic()}


@pytest.fixture
def after_the_minute(early, until):
    """What the first certificate and the token were good for is over."""
    until(lambda: time.monotonic() - early["since_s"] > LIFETIME_S + 2, "a minute", LIFETIME_S + 10)
    return early


def load(collector, name):
    return collector.raw(f'node_load1{{instance="{name}"}}', 600)


def enroll(agent, token):
    return agent.command("enroll", "--token-file", "-", given=token)


def test_three_hosts_enrol_by_the_line_that_was_printed(shared_house, collector, until):
    names = ["web1", "web2", "web3"]
    arguments = [word for name in names for word in ("--name", name)]
    made = collector.cli("enroll", "create", *arguments, "--labels", "role=web,rack=b12")
    assert made.code == 0, made
    lines = made.out.splitlines()
    assert len(lines) == 3
    for name, line in zip(names, lines, strict=True):
        assert line.startswith("printf %s '")
        assert line.endswith("' | sudo watchbill-agent enroll --token-file -")
        agent = shared_house.home(name)
        # As it was pasted; this user has no sudo and needs none, because everything is his.
        pasted = line.replace("| sudo ", "| ")
        done = shared_house.run(["sh", "-c", pasted], extra={"WATCHBILL_HOME": str(agent.home)})
        assert done.code == 0, done
        assert f"this host is enrolled as {name} of site main" in done.out
        assert (agent.state / "identity.json").stat().st_mode & 0o777 == 0o600
        agent.start()
    for name in names:
        shared_house.until_up(collector, name)
    found = until(
        lambda: len(found := collector.query('up{role="web",rack="b12",job="node"} == 1')) == 3 and found,
        "all are up with the labels that were bound",
    )
    assert sorted(labels["instance"] for labels, _ in found) == names
    listed = {row["name"]: row for row in collector.cli("enroll", "list", "--json").json["enrolments"]}
    assert [listed[name]["state"] for name in names] == ["used"] * 3
    assert "token" not in listed["web1"]


def test_a_token_that_was_used_lets_no_second_host_in(shared_house, collector):
    token = collector.issue("once")["token"]
    first, second = shared_house.home("once"), shared_house.home("once2")
    assert enroll(first, token).code == 0
    again = enroll(first, token)
    assert (again.code, "enrolled already" in again.out) == (0, True)
    refused = enroll(second, token)
    assert (refused.code, refused.out) == (REFUSED, "")
    assert "the token was used by another host" in refused.err
    assert "watchbill enroll create" in refused.err
    assert not (second.state / "identity.json").exists()


def test_a_token_for_another_host_a_changed_one_and_a_revoked_one_open_nothing(shared_house, collector):
    other = shared_house.home("beta", 'interval = "1s"\ninstance = "beta"\n')
    issued = collector.issue("alpha")
    refused = enroll(other, issued["token"])
    assert refused.code == REFUSED
    assert "the token is for alpha, this host is configured as beta" in refused.err
    changed = issued["token"][:-6] + "AAAAAA"
    refused = enroll(other, changed)
    assert refused.code != 0
    assert "incomplete or was changed" in refused.err
    revoked = collector.cli("enroll", "revoke", issued["enrolment"]["id"])
    assert revoked.code == 0, revoked
    refused = enroll(shared_house.home("alpha"), issued["token"])
    assert refused.code == REFUSED
    assert "revoked by an administrator" in refused.err
    assert issued["token"] not in refused.err


def test_a_token_is_bound_to_its_network_its_pattern_and_its_uses(shared_house, collector):
    elsewhere = collector.issue("inside", cidr="10.0.0.0/8")["token"]
    refused = enroll(shared_house.home("inside"), elsewhere)
    assert refused.code == REFUSED
    assert "not be used from 127.0.0.1" in refused.err
    two = collector.issue("", names=[], match="pool-*", uses=2)["token"]
    wrong = enroll(shared_house.home("misfit", 'instance = "db-1"\n'), two)
    assert wrong.code == REFUSED
    assert "the token is for pool-*, this host is db-1" in wrong.err
    pool = [shared_house.home(f"pool-{n}", f'instance = "pool-{n}"\n') for n in range(3)]
    codes = [enroll(agent, two) for agent in pool]
    assert [done.code for done in codes] == [0, 0, REFUSED], codes
    assert "used 2 times" in codes[2].err


def test_a_name_that_is_taken_is_refused_without_replace(shared_house, collector):
    shared_house.enrolled(collector, "taken")
    refused = collector.cli("enroll", "create", "--name", "taken")
    assert (refused.code, refused.out) == (REFUSED, "")
    assert "taken: taken; with --replace" in refused.err


def test_an_order_that_cannot_be_is_wrong_usage(collector):
    for mistake in (
        ("--name", "a b"),
        ("--name", "x", "--ttl", "3x"),
        ("--name", "x", "--cidr", "10.0.0.0/99"),
        ("--name", "x", "--labels", "instance=y"),
        ("--match", "web-*", "--uses", "0"),
    ):
        done = collector.cli("enroll", "create", *mistake)
        assert (done.code, done.out) == (USAGE, ""), (mistake, done)
        assert done.err.startswith("watchbill: "), done


def test_a_host_that_needs_approval_waits_for_it(shared_house, collector):
    token = collector.issue("guest", approve=True)["token"]
    agent = shared_house.home("guest")
    waits = enroll(agent, token)
    assert waits.code == WAITING
    assert "waits for an administrator" in waits.out
    assert collector.host("guest")["state"] == "pending"
    assert collector.cli("hosts", "approve", "guest").code == 0
    assert enroll(agent, token).code == 0


def test_replace_continues_the_series_and_ends_the_former_agent(shared_house, collector, until):
    old = shared_house.agent(collector, "phoenix")
    until(lambda: len(load(collector, "phoenix")) >= 2, "samples of the former host")
    former = old.agent_id
    token = collector.issue("phoenix", replace=True)["token"]
    new = shared_house.home("phoenix-new")
    assert enroll(new, token).code == 0
    until(lambda: old.status()["link"]["state"] != "connected", "the former one is sent away", 5)
    old.stop()
    before = load(collector, "phoenix")
    new.start()
    until(lambda: len(load(collector, "phoenix")) > len(before) + 1, "the series goes on")
    hosts = [host for host in collector.get("/hosts")["hosts"] if host["name"] == "phoenix"]
    assert {host["agent_id"]: host["state"] for host in hosts} == {
        former: "retired",
        new.agent_id: "up",
    }


def test_revoking_ends_a_live_session_within_5_s_and_for_good(shared_house, collector, until):
    agent = shared_house.agent(collector, "outcast")
    done = collector.cli("hosts", "revoke", "outcast", "--reason", "stolen")
    assert done.code == 0, done
    until(lambda: "no link to the collector (revoked)" in agent.said, "the session ended", 5)
    assert collector.host("outcast")["state"] == "revoked"
    until(lambda: collector.query('{instance="outcast"}') == [], "its series ended")
    agent.stop()
    agent.start()
    until(lambda: agent.said.count("no link to the collector (revoked)") >= 2, "it is refused again")
    until(lambda: collector.refusals("outcast").get("revoked"), "which is counted under its name")
    assert collector.query('{instance="outcast"}') == []


def test_rename_retire_and_forget_do_what_they_say(shared_house, collector, until):
    agent = shared_house.agent(collector, "before")
    until(lambda: load(collector, "before"), "samples under the first name")
    assert collector.cli("hosts", "rename", "before", "after").code == 0
    until(lambda: load(collector, "after"), "samples under the second name")
    until(lambda: collector.query('{instance="before"}') == [], "the old series ended")
    assert load(collector, "before"), "their history stays"
    shared_house.until_up(collector, "after")
    taken = collector.cli("hosts", "rename", "after", "renewing")
    assert taken.code == REFUSED
    assert "taken" in taken.err
    early = collector.cli("hosts", "forget", "after")
    assert early.code == REFUSED
    assert "retire" in early.err
    assert collector.cli("hosts", "retire", "after").code == 0
    until(lambda: collector.query('{instance="after"}') == [], "its series ended")
    until(lambda: agent.status()["link"]["state"] != "connected", "its session ended")
    assert collector.host("after")["state"] == "retired"
    assert collector.cli("hosts", "forget", "after").code == 0
    assert collector.host("after") == {}
    assert load(collector, "after"), "history stays"
    unknown = collector.cli("hosts", "retire", "nobody")
    assert unknown.code == 1
    assert "watchbill hosts" in unknown.err


def test_of_two_agents_with_one_identity_the_newer_is_refused_and_both_are_seen(
    shared_house, collector, until
):
    original = shared_house.agent(collector, "twin")
    copy = shared_house.home("twin-copy")
    shutil.copytree(original.state, copy.state)
    copy.start()
    until(lambda: "duplicate-identity" in copy.said, "the copy is told")
    until(lambda: collector.refusals("twin").get("duplicate_identity"), "the collector counts it")
    assert "twin connects twice at once" in collector.said
    assert original.status()["link"]["state"] == "connected"
    link = copy.status()["link"]
    assert link["reason"] == "duplicate-identity", link
    doctor = copy.command("doctor")
    assert "duplicate-identity" in doctor.out
    assert collector.host("twin")["state"] == "up"
    count = len(load(collector, "twin"))
    until(lambda: len(load(collector, "twin")) > count + 1, "the original goes on")


def test_the_agents_log_and_the_collectors_show_no_secret(shared_house, collector):
    secrets = [collector.token_file.read_text().strip()]
    for home in shared_house.root.iterdir():
        identity = home / "var" / "agent" / "identity.json"
        if identity.exists():
            secrets.append(json.loads(identity.read_bytes())["envelope_seed"])
    for log in shared_house.root.glob("*/log"):
        text = log.read_text()
        assert not any(secret in text for secret in secrets), log
        assert "PRIVATE KEY" not in text


# ---------------------------------------------------------------- what needed the minute


def test_a_certificate_is_renewed_and_the_session_and_history_go_on(collector, after_the_minute, until):
    agent = after_the_minute["renewing"]

    def renewals():
        return json.loads((agent.state / "identity.json").read_bytes())["renewals"]

    assert renewals() >= 1
    link = agent.status()["link"]
    assert (link["state"], link["sessions"]) == ("connected", 1), "one session all the time"
    newest = load(collector, "renewing")[-1][0]
    until(lambda: load(collector, "renewing")[-1][0] > newest + 1, "samples go on coming")
    assert collector.losses("renewing") == []
    expires = collector.host("renewing")["certificate_expires"]
    assert expires > collector.get("/status")["status"]["now"]


def test_an_expired_certificate_is_renewed_by_its_key_when_the_host_comes_back(
    shared_house, collector, after_the_minute, until
):
    agent = after_the_minute["sleeping"]
    assert "expired" in agent.command("doctor").out
    agent.start()
    shared_house.until_up(collector, "sleeping")
    assert "certificate renewed" in agent.said


def test_an_expired_certificate_that_somebody_kept_opens_nothing(
    shared_house, collector, after_the_minute, until
):
    identity = json.loads((shared_house.root / "before-renewal" / "identity.json").read_bytes())
    chain = shared_house.root / "expired.pem"
    chain.write_bytes(base64.b64decode(identity["chain_pem"]) + base64.b64decode(identity["key_pem"]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(chain)
    heard = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", collector.ports["stream"]), 10) as plain,
        context.wrap_socket(plain) as secured,
    ):
        secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        heard = secured.recv(9)
    assert heard == b""


def test_a_token_whose_time_is_over_opens_nothing(shared_house, after_the_minute):
    refused = enroll(shared_house.home("late"), after_the_minute["token"])
    assert refused.code == REFUSED
    assert "expired" in refused.err
