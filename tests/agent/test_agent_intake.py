"""What applications hand to an agent arrives: statsd, pings, files of scripts; on the page and at the collector."""

import asyncio
import json
import re
import socket

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from watchbill.protocol.frames import Stream

WAIT_S = 30.0
CHECKS = """
[[check]]
name = "apps"
kind = "statsd"
app = "shop"
interval = "1s"
timeout = "1s"
listen = "127.0.0.1:{port}"

[[check]]
name = "reindex"
kind = "heartbeat"
every = "1h"
"""
AGENT = """
interval = "300ms"
[prometheus]
listen = "127.0.0.1:0"
textfile = "{files}"
[heartbeat]
listen = "127.0.0.1:0"
"""


async def ask(port, target, method="GET", body=b"", **headers):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"{method} {target} HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


async def page(port):
    """Everything on it, by name and labels; it is a right page every time."""
    _, text = await ask(port, "/metrics", Accept="application/openmetrics-text")
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


async def until(port, *names):
    """The page, as soon as all of these are on it."""
    for _ in range(round(WAIT_S / 0.1)):
        found = await page(port)
        if found.keys() >= set(names):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"{names} are not on the page")


async def test_what_applications_hand_over_is_on_the_page_and_at_the_collector(
    tmp_path, collector, agents, enrol
):
    home, files = tmp_path / "a", tmp_path / "files"
    files.mkdir()
    (files / "backup.prom").write_text("# TYPE backup_size_bytes gauge\nbackup_size_bytes 7\n")
    enrol(home, collector)
    (home / "etc/checks.d").mkdir(parents=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        statsd = probe.getsockname()
    (home / "etc/checks.d/apps.toml").write_text(CHECKS.format(port=statsd[1]))
    agent = agents(home, AGENT.format(files=files))
    await agent.until_log("pings are taken")
    metrics, pings = (
        int(re.search(rf"{said}.*?port=(\d+)", agent.text())[1])
        for said in ("metrics page is served", "pings are taken")
    )
    shown = {("check", "apps"), ("app", "shop")}
    orders = ("orders_total", tuple(sorted(shown | {("shop", "berlin")})))
    took = ("took_seconds_count", tuple(sorted(shown)))
    await until(metrics, ("watchbill_check_statsd_series", tuple(sorted(shown))))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"orders:3|c|#shop:berlin\ntook:20|ms", statsd)
    found = await until(metrics, orders, took, ("backup_size_bytes", ()))
    assert (found[orders], found[took]) == (3, 1)
    assert found["node_textfile_scrape_error", ()] == 0
    assert (await ask(pings, "/ping/reindex/start", "POST"))[0] == 200
    assert (await ask(pings, "/ping/reindex/0", "POST", b"done"))[0] == 200
    assert (await ask(pings, "/ping/stranger"))[0] == 404
    await until(metrics, ("watchbill_heartbeat_last_ping_timestamp_seconds", (("check", "reindex"),)))
    await collector.until(lambda c: {"orders_total", "backup_size_bytes"} <= c.names())
    await collector.until(
        lambda c: sum(_kind(one) == "heartbeat.ping" for one in c.records(Stream.CRIT)) == 2
    )
    events = [one.event for one in collector.records(Stream.CRIT) if _kind(one) == "heartbeat.ping"]
    first, second = (json.loads(event.payload) for event in events)
    assert first == {"check": "reindex", "what": "start", "text": ""}
    assert second == {"check": "reindex", "what": "success", "exit_code": 0, "text": "done"}
    assert await agent.stop() == 0


def _kind(record):
    return record.event.kind if record.WhichOneof("body") == "event" else ""
