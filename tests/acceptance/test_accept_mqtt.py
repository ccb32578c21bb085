"""Hosts that come through a broker: the collector's own mosquitto, enrolment by it, and everything that breaks.

No host here ever speaks to the collector's gRPC ports.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real("mosquitto")

EDGE = 'interval = "1s"\n'


def embedded(house: Any, free_ports: Callable[[int], list[int]], more: str = "") -> Any:
    """A collector with a broker of its own."""
    collector = house.collector(launch=False)
    agents, hosts = free_ports(2)
    with open(collector.etc / "collector.toml", "a") as file:
        file.write(f'[mqtt]\nbroker = "embedded"\nlisten = "127.0.0.1:{agents}"\n')
        file.write(f'enroll_listen = "127.0.0.1:{hosts}"\n{more}')
    collector.ports |= {"mqtt": agents, "enroll-mqtt": hosts}
    collector.launch()
    return collector


@pytest.fixture(scope="module")
def site(shared_house: Any, free_ports: Any) -> Any:
    """One for most of the tests here."""
    return embedded(shared_house, free_ports)


@pytest.fixture(scope="module")
def brief(template: Path, house_type: Any, free_ports: Any) -> Iterator[Any]:
    """A collector whose certificates last a minute, with one host that stays and one that goes away at once. Begun
    before all tests here, so that the minute passes meanwhile.
    """
    house = house_type(template)
    collector = embedded(house, free_ports, '[certificates]\nlifetime = "1m"\n')
    stays, away = agent_of(collector, "stays"), agent_of(collector, "away")
    away.kill()
    yield collector, stays, away
    house.close()


def enrolled(collector: Any, name: str, toml: str = EDGE) -> Any:
    agent = collector.house.home(name, toml)
    done = agent.command("enroll", "--token-file", "-", given=collector.issue(name, mqtt=True)["token"])
    assert done.code == 0, done
    return agent


def agent_of(collector: Any, name: str, toml: str = EDGE) -> Any:
    agent = enrolled(collector, name, toml)
    agent.start()
    collector.house.until_up(collector, name)
    return agent


def broker_pid(collector: Any) -> int:
    """The broker's process; 0 while mosquitto has made its file and not yet written into it."""
    return int((collector.state / "broker" / "mosquitto.pid").read_text() or 0)


def identity(agent: Any) -> dict[str, Any]:
    return dict(json.loads((agent.home / "var" / "agent" / "identity.json").read_text()))


def test_a_host_is_enrolled_and_reports_through_the_broker_alone(site: Any, brief: Any, until: Any) -> None:
    done = site.cli("enroll", "create", "--name", "edge1", "--mqtt", "--json")
    assert done.code == 0, done
    token = done.json["issued"][0]["token"]
    agent = site.house.home("edge1", EDGE)
    done = agent.command("enroll", "--token-file", "-", given=token)
    assert done.code == 0, done
    assert "edge1" in done.out
    assert identity(agent)["mqtt_url"] == f"mqtts://127.0.0.1:{site.ports['mqtt']}"
    known = json.loads((agent.home / "etc" / "enrolled.json").read_text())
    assert (known["agent_id"], known["instance"]) == (identity(agent)["agent_id"], "edge1"), (
        "the runner's own copy"
    )
    agent.start()
    site.house.until_up(site, "edge1")
    hosts = site.cli("hosts", "--json").json["hosts"]
    assert {host["name"]: host["transport"] for host in hosts} == {"edge1": "mqtt"}
    until(lambda: site.value('count_over_time(node_load1{instance="edge1"}[1m])') or 0, "samples arrive")
    maps = Path(f"/proc/{agent.running.pid}/maps").read_text()
    assert "cygrpc" not in maps
    assert agent.command("enroll", "--token-file", "-", given=token).code == 0, "the same token again is fine"
    # The same token for another host is not.
    other = site.house.home("edge-other", EDGE).command("enroll", "--token-file", "-", given=token)
    assert other.code == 6
    assert "used" in other.err
    doctor = agent.command("doctor", "--json")
    assert {one["check"]: one["verdict"] for one in doctor.json["findings"]}["broker"] == "ok"
    agent.stop()
    until(lambda: site.host("edge1")["state"] == "stopped", "the goodbye")
    assert not site.losses("edge1")
    assert not site.refusals("edge1")


def test_a_broker_that_is_killed_costs_nothing(site: Any, until: Any) -> None:
    agent = agent_of(site, "edge2")
    for _ in range(2):
        pid = until(lambda: broker_pid(site), "the broker has said who it is")
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: broker_pid(site) not in {0, pid}, "the broker is started again")
        starts = site.metric("watchbill_collector_mqtt_broker_starts_total")
        until(lambda: site.host("edge2")["state"] == "up", "edge2 is up again")
        assert starts >= 2
        seen = time.time()
        until(
            lambda seen=seen: any(at > seen for at, _ in site.raw('node_load1{instance="edge2"}', 60)),
            "samples after the broker came back",
        )
    agent.stop()
    until(lambda: site.host("edge2")["state"] == "stopped", "the goodbye")
    assert not site.losses("edge2")
    values = site.raw('node_load1{instance="edge2"}', 120)
    steps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(values)]
    assert max(steps) < 1.9, "every second has its sample"


def test_a_revoked_host_is_out_at_the_broker_too(site: Any, until: Any) -> None:
    agent = agent_of(site, "edge3")
    assert site.cli("hosts", "revoke", "edge3", "--yes").code == 0
    until(lambda: site.host("edge3")["state"] == "revoked", "it is revoked")
    rules = site.state / "broker" / "agents.acl"
    until(lambda: identity(agent)["agent_id"] in rules.read_text(), "the broker's rules follow", 5)
    until(lambda: "no link to the collector (revoked)" in agent.said, "the host was told why")


def test_garbage_by_mosquitto_pub_changes_nothing_but_a_counter(site: Any, until: Any) -> None:
    agent = agent_of(site, "edge4")
    found = identity(agent)
    unix = site.state / "broker" / "broker.sock"
    topic = f"watchbill/1/main/{found['agent_id']}/up"
    argv = ["mosquitto_pub", "-V", "5", "--unix", str(unix), "-t", topic, "-m", "garbage"]
    assert subprocess.run(argv, check=False, timeout=20).returncode == 0
    until(lambda: site.refusals("edge4") == {"envelope_size": 1.0}, "it is counted")
    assert site.host("edge4")["state"] == "up"
    agent.stop()


def test_who_has_no_certificate_or_anothers_topic_is_refused_by_the_broker(site: Any) -> None:
    pki = site.state / "pki" / "ca.pem"
    base = ["mosquitto_pub", "-V", "5", "-h", "127.0.0.1", "--cafile", str(pki), "-m", "x", "-q", "1"]
    topic = "watchbill/1/main/6f1b2a34-0000-4000-8000-000000000001/up"
    for port, more in ((site.ports["mqtt"], []), (site.ports["enroll-mqtt"], ["-i", "f" * 32])):
        done = subprocess.run(
            [*base, "-p", str(port), "-t", topic, *more],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        said = done.stderr.lower()
        assert done.returncode != 0 or "not authorized" in said, done
    # Asking under one's own name is allowed, and what is no question is counted.
    before = site.metric("watchbill_collector_mqtt_questions_unreadable_total")
    ask = f"watchbill/1/main/enroll/{'f' * 32}/ask"
    done = subprocess.run(
        [*base, "-p", str(site.ports["enroll-mqtt"]), "-t", ask, "-i", "f" * 32],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 0, done
    assert site.metric("watchbill_collector_mqtt_questions_unreadable_total") == before + 1


def test_a_collector_that_is_killed_takes_its_broker_along(house: Any, free_ports: Any, until: Any) -> None:
    collector = embedded(house, free_ports)
    pid = until(lambda: broker_pid(collector), "the broker has said who it is")
    os.kill(collector.running.pid, signal.SIGKILL)
    collector.running.popen.wait()
    until(lambda: not Path(f"/proc/{pid}").exists(), "the broker ended")
    before = len(collector.said)
    collector.launch()
    second = until(lambda: broker_pid(collector), "the next broker has said who it is")
    assert collector.stop() == 0
    assert not Path(f"/proc/{second}").exists()
    assert not re.search("WARNING|ERROR", collector.said[before:]), "an end in order is nothing to warn of"


@pytest.fixture
def foreign(house: Any, free_ports: Any) -> Iterator[tuple[Path, int]]:
    """Somebody else's broker: an authority of its own, passwords, rules for two."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    from watchbill_collector.pki import Authority
    from watchbill_collector.pki.authority import private_pem

    home = house.root / "b"
    home.mkdir()
    now_ms = round(time.time() * 1000)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = Authority.create(home, "broker", now_ms)
    leaf = authority.issue_server(["127.0.0.1"], key.public_key(), now_ms, 86_400)
    (home / "server.pem").write_bytes(private_pem(key) + leaf.public_bytes(Encoding.PEM))
    for user in ("watchbill", "pump"):
        (home / user).write_text(f"{user}'s secret\n")
        argv = ["mosquitto_passwd", "-b", *(["-c"] if user == "watchbill" else []), str(home / "passwords")]
        subprocess.run([*argv, user, f"{user}'s secret"], check=True, timeout=20)
    (home / "passwords").chmod(0o644)
    (home / "rules").write_text("user watchbill\ntopic readwrite wb/#\nuser pump\ntopic readwrite wb/#\n")
    (port,) = free_ports(1)
    (home / "conf").write_text(
        f"user {'root' if os.geteuid() == 0 else 'nobody'}\nlistener {port} 127.0.0.1\nallow_anonymous false\n"
        f"cafile {home}/ca.pem\ncertfile {home}/server.pem\nkeyfile {home}/server.pem\n"
        f"password_file {home}/passwords\nacl_file {home}/rules\n"
    )
    process = subprocess.Popen(["/usr/sbin/mosquitto", "-c", str(home / "conf")], stderr=subprocess.DEVNULL)
    yield home, port
    process.kill()
    process.wait()


def test_a_broker_of_somebody_else_with_passwords_is_enough(
    house: Any, foreign: tuple[Path, int], until: Any
) -> None:
    home, port = foreign
    url = f"mqtts://127.0.0.1:{port}"
    collector = house.collector(launch=False)
    with open(collector.etc / "collector.toml", "a") as file:
        file.write(
            f'[mqtt]\nbroker = "{url}"\nca = "{home}/ca.pem"\nuser = "watchbill"\n'
            f'password_file = "{home}/watchbill"\ntopic_prefix = "wb/7"\n'
        )
    collector.launch()
    until(lambda: collector.metric("watchbill_collector_mqtt_connected") == 1, "it is connected")
    token = collector.issue("pump-7", mqtt=True)["token"]
    toml = (
        f'profile = "edge"\ninterval = "1s"\nticks_per_message = 2\nidentity_dir = "{home}/id"\n'
        f'[mqtt]\nca = "{home}/ca.pem"\n'
        f'user = "pump"\npassword_file = "{home}/pump"\n'
    )
    agent = house.home("pump-7", toml)
    (home / "pump").write_text("wrong\n")
    refused = agent.command("enroll", "--token-file", "-", given=token)
    assert refused.code == 6
    assert "not authorized" in refused.err
    assert "wrong" not in refused.err
    (home / "pump").write_text("pump's secret\n")
    done = agent.command("enroll", "--token-file", "-", given=token)
    assert done.code == 0, done
    assert (home / "id" / "identity.json").exists()
    agent.start()
    house.until_up(collector, "pump-7")
    assert collector.host("pump-7")["transport"] == "mqtt"
    status = agent.command("status", "--json").json["link"]
    assert status["transport"] == "mqtt"
    assert status["collector"] == f"{url}/wb/7"
    assert status["budget"]["spent_bytes"] > 0
    agent.stop()
    until(lambda: collector.host("pump-7")["state"] == "stopped", "the goodbye")
    assert not collector.losses("pump-7")
    assert collector.stop() == 0


def test_a_configuration_that_cannot_be_is_named(house: Any) -> None:
    collector = house.collector(launch=False)
    (collector.etc / "collector.toml").write_text(
        '[mqtt]\nbroker = "mqtt://user:hunter2@broker"\nuser = "x"\n[rules]\ninterval = "x"\n'
    )
    done = collector.command("check-config")
    assert done.code == 2
    for words in ("mqtt.broker", "mqtt.password_file", "rules.interval"):
        assert words in done.err
    assert "hunter2" not in done.err
    agent = house.home("edge1", 'mqtt = "mqtt://broker"\n')
    done = agent.command("check-config")
    assert done.code == 2
    assert 'agent.toml:1: mqtt.url: got "mqtt://broker", wanted "mqtts://HOST:PORT"' in done.err


def test_certificates_are_renewed_over_the_broker(brief: Any, until: Any) -> None:
    collector, stays, away = brief
    until(lambda: identity(stays)["renewals"] >= 1, "a renewal over the session", 60)
    # The broker's TLS does not let in whose certificate has expired; its door does.
    end_s = identity(away)["not_after_ms"] / 1000
    while time.time() < end_s + 2:
        time.sleep(0.5)
    away.start()
    until(lambda: identity(away)["renewals"] == 1, "a renewal at the door", 60)
    until(lambda: collector.host("away")["state"] == "up", "it is up again", 90)
