"""The whole collector is killed at every step of a delivery: nothing is missing, every delivered firing gets its end,
and what comes twice comes under the same key with the same content.
"""

import http.server
import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(280)

OURS = "/api/watchbill/v1"
CONFIG = """\
[rules]
stock = false
[[channel]]
name = "hook"
kind = "webhook"
url = "http://127.0.0.1:{port}/hook"
timeout = "30s"
[[route]]
name = "{route}"
channel = "hook"
group_by = ["alertname"]
wait = "0s"
interval = "1s"
"""
ENDS_IN_S = 8.0
STARTS = 4.0
"""Behind the last start, and so many times as long as one takes here: by then its alerts fire again, as those that they
were."""
NAMES = ("OnReceipt", "AfterAnswer", "BeforeAttempt", "Silenced", "Rerouted")


def rules(fires: Mapping[str, bool], until_s: float) -> str:
    """Alerts that fire or not; those that do end by themselves at a time, with their rule unchanged."""
    shown = "\n".join(
        f"      - alert: {name}\n        expr: vector(time()) < {until_s if fires[name] else 0:.0f}\n"
        "        labels: {severity: critical}"
        for name in fires
    )
    return f"groups:\n  - name: all\n    interval: 1s\n    rules:\n{shown}\n"


class Peer:
    """A receiver that answers, hangs on what it has taken, or is not there."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.hanging = threading.Event()
        self.go_on = threading.Event()
        self.hang = ""
        self.answered = threading.Event()
        peer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.headers["Idempotency-Key"] == body["watchbill"]["key"]
                peer.taken.append(body)
                if body["alerts"][0]["labels"]["alertname"] == peer.hang:
                    peer.hanging.set()
                    peer.go_on.wait(60)
                    return
                self.send_response(204)
                self.end_headers()
                self.wfile.flush()
                peer.answered.set()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, name: str) -> list[dict[str, Any]]:
        return [body for body in self.taken if body["alerts"][0]["labels"]["alertname"] == name]

    def statuses(self, name: str) -> list[str]:
        """Each message once, however often it came."""
        return list({body["watchbill"]["key"]: body["status"] for body in self.of(name)}.values())

    def close(self) -> None:
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def test_a_kill_at_any_step_of_a_delivery_loses_nothing(house: Any, peer: Peer, until: Any) -> None:
    fires = dict.fromkeys(NAMES, False)
    collector = house.collector(CONFIG.format(port=peer.port, route="first"), launch=False)
    file = collector.etc / "rules.d" / "all.yml"

    def change(*, reload: bool = True, until_s: float = 4e9, **changed: bool) -> None:
        fires.update(changed)
        file.write_text(rules(fires, until_s))
        if reload:
            collector.running.signal(signal.SIGHUP)

    def begun_again() -> None:
        collector.running.kill()
        collector.launch()

    def firing() -> set[str]:
        return {one["name"] for one in collector.get("/alerts")["alerts"]}

    # The peer has it, and has not answered.
    peer.hang = "OnReceipt"
    change(reload=False, OnReceipt=True)
    collector.launch()
    assert peer.hanging.wait(60)
    collector.running.kill()
    peer.hang = ""
    collector.launch()
    until(lambda: len(peer.of("OnReceipt")) == 2, "it comes again")
    assert peer.of("OnReceipt")[0] == peer.of("OnReceipt")[1], "the same key, the same content"
    # The peer has answered; the collector may or may not have written it down.
    peer.answered.clear()
    change(AfterAnswer=True)
    assert peer.answered.wait(60)
    begun_again()
    # It was queued, and nobody was there to take it; the store knows of a failed attempt.
    peer.server.shutdown()
    peer.server.server_close()
    change(BeforeAttempt=True)
    until(
        lambda: [one["queued"] for one in collector.get("/dispatch")["channels"]] == [1],
        "it waits for a peer that is not there",
    )
    collector.running.kill()
    again = http.server.ThreadingHTTPServer(("127.0.0.1", peer.port), peer.server.RequestHandlerClass)
    threading.Thread(target=again.serve_forever, daemon=True).start()
    peer.server = again
    change(reload=False, Silenced=True, Rerouted=True)
    began_s = time.monotonic()
    collector.launch()
    start_s = time.monotonic() - began_s
    until(lambda: all(peer.statuses(name) == ["firing"] for name in NAMES), "all five are told", 60)
    # Silenced and routed another way between the firing and its end, with a kill in between.
    order = {"matchers": 'alertname="Silenced"', "duration_s": 3600, "reason": "a test"}
    assert collector.ask("POST", f"{OURS}/silences", json.dumps(order).encode()).status == 201
    toml = collector.etc / "collector.toml"
    toml.write_text(toml.read_text().replace('name = "first"', 'name = "second"'))
    collector.running.signal(signal.SIGHUP)
    until(
        lambda: "Silenced" in firing() and "configuration" in json.dumps(collector.get("/audit")), "reloaded"
    )
    collector.running.kill()
    change(reload=False, until_s=time.time() + ENDS_IN_S + STARTS * start_s)
    collector.launch()
    until(lambda: all(peer.statuses(name)[-1] == "resolved" for name in NAMES), "every end is told", 220)
    for name in NAMES:
        told = peer.statuses(name)
        assert told[0] == "firing", name
        assert told.count("resolved") == 1, name
        by_key: dict[str, dict[str, Any]] = {}
        for body in peer.of(name):
            assert by_key.setdefault(body["watchbill"]["key"], body) == body, "one key, one content"
    twice = len(peer.taken) - len({body["watchbill"]["key"] for body in peer.taken})
    assert twice <= 2, "only the kill on receipt, and perhaps the one after the answer"
    assert collector.get("/audit/verify")["ok"]
