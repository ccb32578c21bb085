"""The command, as it is typed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DAY_MS = 86_400_000


def test_help_names_every_command(cli):
    done = cli(None, "--help")
    assert done.returncode == 0
    for name in (
        "run",
        "check-config",
        "enroll",
        "seal",
        "sample",
        "status",
        "doctor",
        "gaps",
        "spool",
        "act",
    ):
        assert f"\n    {name}" in done.stdout


def test_help_and_version_import_nothing_heavy():
    for option in ("--help", "--version"):
        script = (
            "import sys, watchbill_agent.cli as c\n"
            f"try: c.main(['{option}'])\n"
            "except SystemExit: pass\n"
            "heavy = {'asyncio', 'ssl', 'grpc', 'google.protobuf', 'msgspec', 'logging', 'tomllib', 'json'}\n"
            "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stderr.strip() == "[]"


def test_the_daemon_path_imports_no_library_that_the_house_forbids_there():
    script = (
        "import sys, watchbill_agent.app, watchbill_agent.transports.over_grpc\n"
        "bad = {'pydantic', 'click', 'numpy', 'cryptography', 'jinja2', 'aiomqtt', 'paho', 'psutil'}\n"
        "print(sorted(bad & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_grpc_is_not_imported_before_the_first_reading_has_been_taken():
    script = "import sys, watchbill_agent.app; print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_actions_are_checked_and_listed_with_the_digests_that_approvers_see(cli, tmp_path):
    files = tmp_path / "etc" / "actions.d"
    files.mkdir(parents=True)
    (files / "a.toml").write_text('[[action]]\nname = "look"\nargv = ["/bin/true"]\neffect = "read"\n')
    done = cli(None, "actions", "check", "--home", str(tmp_path))
    assert (done.returncode, "1 actions and 0 observations" in done.stdout) == (0, True), done
    done = cli(None, "actions", "list", "--digest", "--home", str(tmp_path))
    assert re.match(r"[0-9a-f]{64}  look  ", done.stdout), done
    (files / "b.toml").write_text('[[action]]\nname = "gone"\nargv = ["/bin/gone"]\neffect = "red"\n')
    done = cli(None, "actions", "check", "--home", str(tmp_path))
    assert done.returncode == 2
    assert 'b.toml:4: action[0].effect: got "red", wanted one of' in done.stdout


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["run", "--no-such"], ["enroll", "a", "--token-file", "b"], ["enroll"]]
)
def test_usage_errors_exit_with_2_and_say_what_to_do(cli, tmp_path, arguments):
    done = cli(tmp_path, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "--help" in done.stderr or "--token-file" in done.stderr


def test_check_config_prints_every_problem_or_ok(cli, tmp_path):
    assert cli(tmp_path, "check-config").stdout == "ok\n"
    (tmp_path / "etc/agent.d").mkdir(parents=True)
    (tmp_path / "etc/agent.toml").write_text('interval = 10\nmqtt = "mqtt://b:1883"\n')
    (first, second) = cli(tmp_path, "check-config").stderr.splitlines()
    assert first.startswith(f"{tmp_path}/etc/agent.toml:1: interval: got 10, wanted a duration with its unit")
    assert first.endswith(", at least 100ms, at most 1h")
    wanted = 'mqtt.url: got "mqtt://b:1883", wanted "mqtts://HOST:PORT": TLS always'
    assert second.startswith(f"{tmp_path}/etc/agent.toml:2: {wanted}")
    (tmp_path / "etc/agent.toml").write_text('profile = "edges"\n')
    (tmp_path / "etc/agent.d/10.toml").write_text(
        '[samplers]\nenable = ["cpuu"]\n'
        '[samplers.filesystem]\nmount_points_exclud = "x"\n'
        "[samplers.nothing]\n"
        "[samplers.netdev]\ndevice_exclude = '('\n"
        "[heartbeat]\nlisten = '127.0.0.1'\n"
        "[labels]\ninstance = 'x'\n'a.b' = 'y'\nempty = ''\n"
    )
    done = cli(tmp_path, "check-config")
    assert done.returncode == 2
    said = [line.removeprefix(f"{tmp_path}/etc/") for line in done.stderr.splitlines()]
    starts = [
        'agent.toml:1: profile: got "edges", wanted ',
        'agent.d/10.toml:2: samplers.enable: got "cpuu", wanted samplers that exist (did you mean cpu?)',
        "agent.d/10.toml:4: samplers.filesystem.mount_points_exclud: got an unknown key",
        "agent.d/10.toml:5: samplers.nothing: got an unknown sampler",
        'agent.d/10.toml:7: samplers.netdev.device_exclude: got "(", which is no regular expression',
        'agent.d/10.toml:9: heartbeat.listen: got "127.0.0.1", wanted an address with its port',
        'agent.d/10.toml:11: labels.instance: got "x", wanted no such label: set instance itself',
        'agent.d/10.toml:12: labels."a.b": got "a.b", wanted a label name',
        'agent.d/10.toml:13: labels.empty: got "", wanted 1 to 1024 bytes',
    ]
    assert len(said) == len(starts), said
    for start in starts:
        assert any(line.startswith(start) for line in said), (start, said)
    document = json.loads(cli(tmp_path, "check-config", "--json").stdout)
    assert document["ok"] is False
    assert len(document["problems"]) == len(said)


def test_the_printed_sample_is_a_configuration(cli, tmp_path):
    sample = cli(None, "check-config", "--print-sample").stdout
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/agent.toml").write_text(sample)
    assert cli(tmp_path, "check-config").stdout == "ok\n"
    assert "# [samplers.filesystem]" in sample
    reference = cli(None, "check-config", "--print-reference").stdout
    assert '| `job` | `"node"` |' in reference


def test_sample_needs_no_configuration_and_no_home(cli):
    done = cli(None, "sample", WATCHBILL_HOME="/nonexistent")
    assert done.returncode == 0
    assert "\nnode_load1 " in done.stdout
    one = cli(None, "sample", "--collector", "loadavg", "--collector", "uname")
    assert 'node_scrape_collector_success{collector="loadavg"} 1' in one.stdout
    assert "node_memory" not in one.stdout
    wrong = cli(None, "sample", "--collector", "nothing")
    assert wrong.returncode == 2
    assert "no sampler nothing; there are: bonding, conntrack, cpu, " in wrong.stderr


def test_sample_reads_the_trees_it_is_given(cli, tmp_path):
    (tmp_path / "loadavg").write_text("0.50 0.25 0.125 1/2 3\n")
    done = cli(None, "sample", "--procfs", str(tmp_path), "--collector", "loadavg")
    assert "\nnode_load1 0.5\n" in done.stdout
    (tmp_path / "loadavg").write_text("nonsense\n")
    done = cli(None, "sample", "--procfs", str(tmp_path), "--collector", "loadavg")
    assert done.returncode == 1
    assert "sampler loadavg:" in done.stderr


def test_output_to_a_closed_pipe_is_no_error():
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-m", "watchbill_agent", "sample"], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")


def test_status_and_gaps_without_an_agent_exit_with_5(cli, tmp_path):
    for name in ("status", "gaps"):
        done = cli(tmp_path, name)
        assert done.returncode == 5
        assert "no agent answers there" in done.stderr


async def test_seal_forgets_who_this_host_is_and_not_while_the_agent_runs(
    cli, tmp_path, collector, enrol, agents
):
    enrol(tmp_path / "a", collector)
    agent = agents(tmp_path / "a", 'interval = "1s"\n')
    await agent.until_log("watching")
    assert cli(tmp_path / "a", "seal").returncode == 6
    await agent.stop()
    done = cli(tmp_path / "a", "seal")
    assert (done.returncode, "the identity is gone" in done.stdout) == (0, True)
    assert sorted(path.name for path in (tmp_path / "a/var/agent").iterdir()) == ["agent.lock"]
    assert "has no identity" in cli(tmp_path / "a", "seal").stdout


def test_a_token_that_is_none_is_refused_without_a_traceback(cli, tmp_path):
    done = cli(tmp_path, "enroll", "--token-file", "-", stdin="not a token\n")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "token" in done.stderr
    missing = cli(tmp_path, "enroll", "--token-file", str(tmp_path / "none"))
    assert missing.returncode == 1
    assert "no such file" in missing.stderr


def findings(cli, home: Path) -> dict[str, dict[str, str]]:
    done = cli(home, "doctor", "--json")
    found = {one["check"]: one for one in json.loads(done.stdout)["findings"]}
    assert done.returncode == (1 if any(one["verdict"] == "failed" for one in found.values()) else 0)
    assert all(one["next"] for one in found.values() if one["verdict"] != "ok")
    return found


async def test_doctor_finds_nothing_wrong_with_a_healthy_host(cli, tmp_path, collector, enrol, agents):
    import asyncio

    enrol(tmp_path / "a", collector)
    agent = agents(tmp_path / "a", 'interval = "1s"\n')
    await agent.until_log("linked to the collector")
    found = await asyncio.to_thread(findings, cli, tmp_path / "a")
    verdicts = {name: one["verdict"] for name, one in found.items() if not name.startswith("sampler ")}
    assert verdicts == dict.fromkeys(verdicts, "ok")
    assert {
        "config",
        "state",
        "identity",
        "certificate",
        "procfs",
        "reach",
        "handshake",
        "agent",
    } <= found.keys()


async def test_doctor_names_why_a_host_with_a_good_certificate_is_not_let_in(cli, tmp_path, collector, enrol):
    import asyncio

    from watchbill.protocol.frames import End, EndReason

    enrol(tmp_path / "a", collector)
    collector.admission = End(EndReason.REVOKED, "this host is revoked")
    found = await asyncio.to_thread(findings, cli, tmp_path / "a")
    assert found["handshake"]["verdict"] == "ok"
    admission = found["admission"]
    assert (admission["verdict"], admission["text"]) == ("failed", "revoked: this host is revoked")
    assert "watchbill enroll create" in admission["next"]
    assert collector.hellos == [], "asking disturbs no session"


async def test_doctor_names_why_the_collector_is_not_reached(cli, tmp_path, collector, enrol):
    import asyncio

    from watchbill.identity import IdentityFile

    async def doctor(home: str) -> dict[str, dict[str, str]]:
        return await asyncio.to_thread(findings, cli, tmp_path / home)

    enrol(tmp_path / "expired", collector, life_ms=-DAY_MS)
    found = await doctor("expired")
    assert found["certificate"]["text"].startswith("expired ")
    assert found["handshake"]["text"].startswith("certificate-expired")

    (tmp_path / "second").mkdir()
    other = type(collector)(tmp_path / "second")
    enrol(tmp_path / "wrong", other)
    (tmp_path / "wrong/etc").mkdir(parents=True)
    (tmp_path / "wrong/etc/agent.toml").write_text(f'collector = "{collector.endpoint}"\n')
    found = await doctor("wrong")
    assert found["handshake"]["text"].startswith("wrong-ca")

    strange = enrol(tmp_path / "strange", other)
    import dataclasses

    IdentityFile(tmp_path / "strange/var/agent").save(
        dataclasses.replace(strange, trust_pem=collector.authority.pem, stream_endpoint=collector.endpoint)
    )
    found = await doctor("strange")
    assert found["handshake"]["text"].startswith("certificate-refused")

    enrol(tmp_path / "away", collector)
    (tmp_path / "away/etc").mkdir(parents=True)
    (tmp_path / "away/etc/agent.toml").write_text('collector = "does-not-exist.invalid:7443"\n')
    assert "no name that can be looked up" in (await doctor("away"))["reach"]["text"]
    await collector.stop()
    (tmp_path / "away/etc/agent.toml").write_text("")
    assert "refused" in (await doctor("away"))["reach"]["text"]


def test_doctor_without_anything_says_where_to_begin(cli, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/agent.toml").write_text("interval = 1\n")
    done = cli(tmp_path, "doctor")
    assert done.returncode == 1
    assert "failed   config" in done.stdout
    assert "next: watchbill-agent enroll --token-file FILE" in done.stdout
