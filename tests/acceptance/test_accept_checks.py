"""An application whose server is stopped: seen by its host, told as one alert, shown as down; and the end of it."""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.timeout(240), pytest.mark.real("nginx")]

NGINX_CONF = """\
daemon off;
master_process off;
pid {home}/pid;
error_log {home}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log {home}/access.log;
  client_body_temp_path {home}/1; proxy_temp_path {home}/2; fastcgi_temp_path {home}/3;
  uwsgi_temp_path {home}/4; scgi_temp_path {home}/5;
  server {{ listen 127.0.0.1:{port}; location / {{ default_type text/plain; return 200 "well"; }} }}
}}
"""
CHECKS = """\
[[check]]
name = "port"
kind = "tcp"
address = "127.0.0.1:{port}"
interval = "1s"
timeout = "1s"
retries = 0
app = "shop"

[[check]]
name = "front"
kind = "http"
url = "http://127.0.0.1:{port}/"
interval = "1s"
timeout = "1s"
retries = 0
app = "shop"
behind = ["port"]
"""


class Nginx:
    """A real server that can be stopped and started."""

    def __init__(self, home: Path, port: int) -> None:
        home.mkdir()
        self.port = port
        self.config = home / "nginx.conf"
        self.config.write_text(NGINX_CONF.format(home=home, port=port))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["/usr/sbin/nginx", "-c", str(self.config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
            self.process = None


@pytest.fixture
def nginx(house: Any, free_ports: Any) -> Iterator[Nginx]:
    (port,) = free_ports(1)
    server = Nginx(house.root / "nginx", port)
    server.start()
    yield server
    server.stop()


def test_a_server_that_is_stopped_is_one_alert_and_an_application_that_is_down(
    house: Any, until: Any, nginx: Any
) -> None:
    collector = house.collector('[rules]\ninterval = "1s"\nstock = false\n', launch=False)
    stock = collector.command("rules", "stock", "checks")
    assert stock.code == 0, stock
    (collector.home / "etc" / "rules.d" / "checks.yml").write_text(re.sub(r"for: \w+", "for: 1s", stock.out))
    collector.launch()
    agent = house.enrolled(collector, "web1")
    (agent.home / "etc" / "checks.d").mkdir()
    (agent.home / "etc" / "checks.d" / "shop.toml").write_text(CHECKS.format(port=nginx.port))
    agent.start()
    house.until_up(collector, "web1")

    def app() -> Any:
        return next((app for app in collector.host("web1")["apps"] if app["name"] == "shop"), None)

    def state() -> str:
        return "" if (one := app()) is None else str(one["state"])

    def failing() -> set[str]:
        return {
            alert["labels"]["check"]
            for alert in collector.alerts("CheckFailing")
            if alert["state"] == "firing"
        }

    until(lambda: state() == "healthy", "the application is healthy")
    until(lambda: collector.value('probe_success{check="front"}') == 1, "its readings are there, too")
    assert collector.value('probe_http_status_code{check="front",app="shop",instance="web1"}') == 200
    nginx.stop()
    until(lambda: collector.value('probe_success{check="front"}') == 0, "its host sees it")
    until(lambda: state() == "down", "the application is down")
    until(lambda: failing() == {"port"}, "the cause is told")
    shown = collector.cli("hosts", "show", "web1")
    assert re.search(r"shop\s+down", shown.out), shown
    assert "refused" in shown.out, shown
    nginx.start()
    until(lambda: state() == "healthy", "it is healthy again")
    until(lambda: failing() == set(), "the alert has ended")
    told = [
        event for event in collector.get("/hosts/web1/events")["events"] if event["kind"] == "check.changed"
    ]
    assert {(event["detail"]["check"], event["detail"]["to"]) for event in told} >= {
        ("port", "critical"),
        ("front", "critical"),
        ("port", "ok"),
        ("front", "ok"),
    }
