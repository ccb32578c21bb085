"""What is reported of a backup arrives once, whoever was down; a job that ages past its RPO is told."""

import gzip
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(240)

AHEAD_S = 2 * 3600
OFF_DATE = """
import sys, time
ahead_s = int(sys.argv.pop(1))
def set_ahead(real, second):
    return lambda: real() + ahead_s * second
time.time_ns, time.time = set_ahead(time.time_ns, 10**9), set_ahead(time.time, 1)
from {module} import main
sys.exit(main())
"""
"""The date of a machine that others use cannot be set: the daemons run in an interpreter that reads a later one."""
CONFIG = """\
[rules]
interval = "1s"
[[channel]]
name = "hook"
kind = "webhook"
url = "http://127.0.0.1:%d/hook"
[[route]]
match = 'severity="critical"'
channels = ["hook"]
"""
JOB = """\
[[backup]]
name = "nightly"
tool = "wrap"
rpo = "1h"
"""


def start_ahead(house: Any, daemon: Any, module: str) -> None:
    argv = [sys.executable, "-c", OFF_DATE.format(module=module), str(AHEAD_S)]
    house.start(daemon, [*argv, "run", "--home", str(daemon.home)])


def words(collector: Any) -> list[str]:
    return [job["word"] for job in collector.get("/backups")["backups"]]


def report(agent: Any, outcome: str, *more: str) -> None:
    done = agent.command("backup", "report", "nightly", "--outcome", outcome, *more)
    assert done.code == 0, done.err


def entries(collector: Any) -> list[dict[str, Any]]:
    """What the collector has of the job; nothing while it does not know it."""
    if not collector.get("/backups")["backups"]:
        return []
    return list(collector.get("/backups/nightly")["history"]["entries"])


RESTIC = """\
[[backup]]
name = "nightly"
tool = "restic"
[backup.restic]
repository = "PLACE/repository"
password_file = "PLACE/password"
"""


@pytest.mark.real("restic")
def test_what_is_wrapped_or_reported_while_the_collector_or_the_agent_is_down_arrives_once(
    house: Any, until: Any, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("x")
    restic = (
        "restic",
        "-r",
        f"{tmp_path}/repository",
        "--password-file",
        f"{tmp_path}/password",
        "--no-cache",
    )
    subprocess.run((*restic, "init"), check=True, capture_output=True, timeout=60)
    collector = house.collector("[rules]\nstock = false\n")
    agent = house.agent(collector, "web1")
    (agent.etc / "backups.d").mkdir(exist_ok=True)
    (agent.etc / "backups.d" / "nightly.toml").write_text(RESTIC.replace("PLACE", str(tmp_path)))
    collector.kill()
    wrap = (sys.executable, "-m", "watchbill_agent", "backup", "wrap", "nightly", "--")
    backup = (*restic, "backup", "--json", str(tmp_path / "password"))
    env = {**os.environ, "WATCHBILL_HOME": str(agent.home)}
    subprocess.run((*wrap, *backup), check=True, capture_output=True, timeout=60, env=env)
    agent.kill()
    report(agent, "failed", "--run", "second", "--error", "disk full")
    agent.start()
    collector.launch()

    def runs() -> list[tuple[str, bool]]:
        done = collector.cli("backups", "show", "nightly", "--json")
        return (
            [(one["outcome"], bool(one["snapshot_id"])) for one in done.json["runs"]]
            if done.code == 0
            else []
        )

    until(lambda: len(runs()) >= 2, "both are there")
    assert runs() == [("failed", False), ("ok", True)], "each once, the newest first"
    found = entries(collector)
    (job,) = collector.get("/backups")["backups"]
    assert (job["host"], job["name"], job["word"]) == ("web1", "nightly", "FAILED")
    collector.kill()
    collector.launch()
    again = until(lambda: entries(collector), "they are read back")
    assert [one["id"] for one in again if one["kind"] == "run"] == [
        one["id"] for one in found if one["kind"] == "run"
    ]
    until(lambda: words(collector) == ["FAILED"], "and judged the same")


@pytest.fixture
def hook() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """A web server that keeps the alerts it is told."""
    told: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1], told
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_job_that_ages_past_its_rpo_is_stale_and_the_webhook_is_told(
    house: Any, until: Any, hook: tuple[int, list[dict[str, Any]]]
) -> None:
    port, told = hook
    collector = house.collector(CONFIG % port)
    agent = house.agent(collector, "web1")
    (agent.etc / "backups.d").mkdir(exist_ok=True)
    (agent.etc / "backups.d" / "nightly.toml").write_text(JOB)
    agent.stop()
    agent.start()
    report(agent, "ok")
    until(lambda: words(collector) == ["OK"], "it is good")
    said = 'watchbill_backup_word{backup="nightly",instance="web1",word="OK"}'
    until(lambda: collector.value(said) == 1, "it is said as a series")
    agent.stop()
    collector.stop()
    start_ahead(house, collector, "watchbill_collector.daemon")
    until(collector.ready, "it is ready")
    start_ahead(house, agent, "watchbill_agent.cli")
    until(lambda: words(collector) == ["STALE"], "it is stale", 60)
    until(lambda: told, "the webhook is told", 60)
    labels = told[0]["labels"]
    assert (labels["alertname"], labels["instance"], labels["backup"]) == ("BackupStale", "web1", "nightly")
    assert labels["severity"] == "critical"


DUMPS = """\
[[backup]]
name = "dumps"
tool = "files"
verify = { structure = "7d", data = "30d" }
[backup.files]
paths = ["PLACE/*.gz"]
settle = "0s"
"""


def test_an_operator_has_a_host_verify_and_is_told_what_it_finds(
    house: Any, until: Any, tmp_path: Path
) -> None:
    dump = tmp_path / "shop.gz"
    dump.write_bytes(gzip.compress(os.urandom(50_000)))
    collector = house.collector("[rules]\nstock = false\n")
    agent = house.enrolled(collector, "web1")
    (agent.etc / "backups.d").mkdir(exist_ok=True)
    (agent.etc / "backups.d" / "dumps.toml").write_text(DUMPS.replace("PLACE", str(tmp_path)))
    agent.start()
    until(lambda: words(collector), "the job is known", 60)
    done = collector.cli("backups", "verify", "dumps", "--level", "data", "--wait", "--within", "60s")
    assert done.code == 0, done.err
    assert "web1 verifies dumps now: data." in done.out
    assert "It holds" in done.out
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 0xFF
    dump.write_bytes(content)
    done = collector.cli(
        "backups", "verify", "web1/dumps", "--level", "data", "--wait", "--within", "60s", "--json"
    )
    assert done.code == 1, done.err
    assert (done.json["found"]["reason"], done.json["found"]["verify"]["ok"]) == ("file-bad", False)
    done = collector.cli("backups", "verify", "dumps", "--level", "restore")
    assert (done.code, "(not-declared)" in done.err) == (6, True), done.err
    asked = collector.get("/backups/dumps")["history"]["asked"]
    assert [one["answer"] for one in asked] == ["refused", "begun", "begun"]
    agent.stop()
    done = collector.cli("backups", "verify", "dumps")
    assert (done.code, "not connected" in done.err) == (5, True), done.err
    rows = collector.ask("GET", "/api/watchbill/v1/audit?limit=100").json["rows"]
    assert [row["action"] for row in rows].count("backup.verify") == 3
