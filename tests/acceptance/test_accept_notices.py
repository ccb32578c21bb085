"""From real load to a real mail: the firing arrives, and the end too, though the collector was killed between."""

import http.server
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.timeout(330), pytest.mark.real("aiosmtpd")]

RULES = """\
groups:
  - name: acceptance
    interval: 1s
    rules:
      - alert: NiceCpuIsBusy
        expr: sum by (instance) (rate(node_cpu_seconds_total{mode="nice"}[6s])) > 0.02
        labels: {severity: critical}
        annotations: {summary: "nice work on {{ $labels.instance }}"}
"""
CONFIG = """\
[rules]
stock = false
[[channel]]
name = "hook"
kind = "webhook"
url = "http://127.0.0.1:%d/hook"
[[channel]]
name = "mail"
kind = "email"
to = ["ops@example.org"]
from = "watchbill@example.org"
server = "127.0.0.1:%d"
[[route]]
match = 'severity="critical"'
channels = ["hook", "mail"]
"""
TOML = 'interval = "1s"\nprocfs = "%s"\n'
MAIL_SERVER = Path(__file__).parent.parent / "notifiers" / "mail_server.py"


class Hook:
    """A web server that keeps what it is given."""

    def __init__(self) -> None:
        kept: list[tuple[str, dict[str, Any]]] = []
        self.kept = kept

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kept.append((self.headers["Idempotency-Key"], json.loads(body)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def statuses(self) -> list[str]:
        return [body["status"] for _, body in self.kept]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.close()


@pytest.fixture
def mail(tmp_path: Path) -> Iterator[tuple[int, Callable[[], list[str]]]]:
    directory = tmp_path / "mail"
    directory.mkdir()
    process = subprocess.Popen(
        ["/usr/bin/python3", str(MAIL_SERVER), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())

    def subjects() -> list[str]:
        files = sorted(directory.glob("*.eml"), key=lambda file: int(file.stem))
        texts = [file.read_text() for file in files]
        return [line for text in texts for line in text.splitlines() if line.startswith("Subject:")]

    yield port, subjects
    process.kill()
    process.communicate()


def test_load_is_told_and_its_end_too_after_a_kill(
    house: Any, hook: Hook, mail: Any, load: Any, until: Any
) -> None:
    port, subjects = mail
    collector = house.collector(CONFIG % (hook.port, port), launch=False)
    (collector.etc / "rules.d" / "busy.yml").write_text(RULES)
    collector.launch()
    house.agent(collector, "web1", TOML % load.procfs)
    load.begin()
    until(lambda: hook.statuses() == ["firing"], "the webhook is told")
    until(lambda: len(subjects()) == 1, "the mail is there")
    key, body = hook.kept[0]
    assert body["alerts"][0]["labels"]["instance"] == "web1"
    assert key
    until(
        lambda: (
            {one["outcome"] for one in collector.ask("GET", "/api/watchbill/v1/dispatch").json["notices"]}
            == {"delivered"}
        ),
        "both are written down as delivered",
    )
    os.kill(collector.running.pid, signal.SIGKILL)
    collector.running.kill()
    load.end()
    collector.launch()
    until(lambda: hook.statuses() == ["firing", "resolved"], "the webhook is told the end", 200)
    until(lambda: len(subjects()) == 2, "the mail of the end is there")
    assert len({key for key, _ in hook.kept}) == 2, "nothing came twice"
    channels = collector.ask("GET", "/api/watchbill/v1/dispatch").json["channels"]
    assert [(one["name"], one["ok"], one["queued"]) for one in channels] == [
        ("hook", True, 0),
        ("mail", True, 0),
    ]


def test_a_silence_is_made_seen_and_ended_by_the_command(
    house: Any, hook: Hook, load: Any, until: Any
) -> None:
    collector = house.collector(CONFIG.replace('"hook", "mail"', '"hook"') % (hook.port, 25), launch=False)
    (collector.etc / "rules.d" / "busy.yml").write_text(RULES)
    collector.launch()
    refused = collector.cli("silences", "add", 'alertname="NiceCpuIsBusy"', "--for", "1h")
    assert refused.code == 2
    assert "why?" in refused.err
    made = collector.cli(
        "silences", "add", 'alertname="NiceCpuIsBusy"', "--for", "1h", "--reason", "a test", "--json"
    )
    assert made.code == 0, made
    silence = made.json["silence"]
    assert silence["state"] == "active"
    house.agent(collector, "web1", TOML % load.procfs)
    load.begin()

    def alerts() -> Any:
        return collector.cli("alerts", "--json").json["alerts"]

    until(lambda: [one["silences"] for one in alerts()] == [[silence["id"]]], "it is seen as silenced")
    assert hook.kept == []
    collector.running.kill()
    collector.launch()
    assert [one["id"] for one in collector.cli("silences", "--json").json["silences"]] == [silence["id"]]
    until(lambda: [one["silences"] for one in alerts()] == [[silence["id"]]], "it survives a kill", 200)
    assert hook.kept == []
    assert collector.cli("silences", "expire", silence["id"]).code == 0
    again = collector.cli("silences", "expire", silence["id"])
    assert again.code == 6
    assert "has ended already" in again.err
    until(lambda: hook.statuses() == ["firing"], "it still fires, so people are told now", 60)
