"""What a million samples cost the collector when they come through mosquitto, signed and verified.

Ours is the real collector with its own mosquitto, and hosts that run the product's batcher, spool, sender and MQTT
transport, each with TLS, a certificate and a key of its own. Beside it the same values as Telegraf sends them to a
broker today: JSON, a metric for each set of labels, through a mosquitto of its own over plain TCP, to a consumer in
Python that parses with orjson and keeps nothing: it verifies nobody, acknowledges nothing and stores nothing.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.agents import Agents, Plan
from benchmarks.collector import Collector, write_identities
from benchmarks.fleet import SERIES_PER_HOST, Fleet
from benchmarks.processes import LOAD_CPU, SERVER_CPU, Measured, free_ports, start
from benchmarks.report import Report

HOSTS = 200
WANTED_10 = 0.35
"""CPU seconds of the collector per million samples, ten ticks a message."""


def run(*, quick: bool) -> Report:
    """Ours at one and ten ticks a message, then JSON."""
    hosts, warm_s, measure_s = (40, 20.0, 30.0) if quick else (HOSTS, 30.0, 90.0)
    report = Report(f"mqtt: {hosts} hosts x {SERIES_PER_HOST} series at 1 s, through mosquitto")
    with tempfile.TemporaryDirectory(prefix="wb-mqtt-", dir="/tmp") as scratch:
        work = Path(scratch)
        json_cost, json_broker = _json(work / "json", hosts // 4, warm_s / 2, measure_s / 2, report)
        for ticks in (10, 1):
            ours, broker = _ours(work / f"ours{ticks}", hosts, ticks, warm_s, measure_s, report)
            what = f"{ticks} tick(s) a message"
            if ticks == 10:
                report.add(f"collector, {what}", ours, "CPU-s/M", WANTED_10, "wanted")
            report.add(f"collector, {what}", ours, "CPU-s/M", json_cost, "JSON, parsed alone")
            grpc, _ = _ours(work / f"grpc{ticks}", hosts, ticks, warm_s, measure_s / 2, report, mqtt=False)
            report.add(f"collector, {what}", ours, "CPU-s/M", grpc, "the same over gRPC")
            report.add(f"broker, {what}, TLS", broker, "CPU-s/M", json_broker, "JSON, without TLS")
    return report


def _ours(
    home: Path,
    hosts: int,
    ticks: int,
    warm_s: float,
    measure_s: float,
    report: Report,
    *,
    mqtt: bool = True,
) -> tuple[float, float]:
    """CPU seconds per million samples, of the collector and of its broker. Without `mqtt` hosts come over gRPC, and
    the broker idles.
    """
    home.mkdir()
    collector = Collector(home, None, mqtt=True)
    write_identities(home / "identities", collector.register(Fleet(hosts).names))
    process = collector.start()
    agents = None
    try:
        broker = _by_pid(int((collector.state / "broker" / "mosquitto.pid").read_text()))
        plan = Plan(
            str(home / "identities"), str(home / "sent.npy"), 1.0, ticks, mqtt_port=collector.mqtt_port * mqtt
        )
        agents = Agents(plan, home / "agents.log")
        agents.ask("play")
        time.sleep(warm_s)
        begun, carried, before = process.usage(), broker.usage(), collector.metrics()
        time.sleep(measure_s)
        ended, carried_then, after = process.usage(), broker.usage(), collector.metrics()
        name = "watchbill_collector_ingest_samples_total"
        millions = (after[name] - before[name]) / 1e6
        messages = "watchbill_collector_mqtt_received_total"
        facts = agents.ask("facts")
        report.notes.append(
            f"{ticks} tick(s), {'MQTT' if mqtt else 'gRPC'}: {millions:.2f} M samples, "
            f"{after[messages] - before[messages]:,.0f} MQTT messages; "
            f"{facts['refused']} refused, {facts['again']} sent again"
        )
        return ended.since(begun) / millions, carried_then.since(carried) / millions
    finally:
        if agents is not None:
            agents.close()
        collector.stop()


def _by_pid(pid: int) -> Measured:
    """A process that somebody else started and ends."""
    handle = subprocess.Popen.__new__(subprocess.Popen)
    handle.pid, handle.returncode = pid, 0  # type: ignore[attr-defined]
    return Measured(handle)


# ---------------------------------------------------------------- JSON, as people do it today


@contextmanager
def _plain_broker(work: Path) -> Iterator[tuple[int, Measured]]:
    work.mkdir()
    (port,) = free_ports(1)
    config = work / "mosquitto.conf"
    config.write_text(
        f"user root\npersistence false\nlistener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 20000\n"
    )
    broker = start(["/usr/sbin/mosquitto", "-c", str(config)], work / "broker.log", SERVER_CPU)
    time.sleep(0.5)
    try:
        yield port, broker
    finally:
        broker.stop()


def _json(work: Path, hosts: int, warm_s: float, measure_s: float, report: Report) -> tuple[float, float]:
    with _plain_broker(work) as (port, broker):
        module = [sys.executable, "-m", "benchmarks.mqtt"]
        consumer = start(
            [*module, "consume", str(port), str(work / "count")], work / "consumer.log", SERVER_CPU
        )
        time.sleep(1)
        publisher = start([*module, "publish", str(port), str(hosts)], work / "publisher.log", LOAD_CPU)
        try:
            time.sleep(warm_s)
            begun, carried, before = consumer.usage(), broker.usage(), _count(work / "count")
            time.sleep(measure_s)
            ended, carried_then, after = consumer.usage(), broker.usage(), _count(work / "count")
        finally:
            publisher.stop()
            consumer.stop()
    millions = (after[0] - before[0]) / 1e6
    report.notes.append(
        f"JSON: {millions:.2f} M samples, {(after[1] - before[1]) / (after[0] - before[0]):.0f} bytes each"
    )
    return ended.since(begun) / millions, carried_then.since(carried) / millions


def _count(path: Path) -> tuple[int, int]:
    samples, size = path.read_text().split()
    return int(samples), int(size)


def telegraf_json(fleet: Fleet, host: int, at_s: int) -> bytes:
    """One reading of a host as Telegraf's JSON: a metric for each family and set of labels."""
    grouped: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, float]] = {}
    for place, series in enumerate(fleet.series):
        family, _, field = series.name.removeprefix("node_").partition("_")
        grouped.setdefault((family, series.labels), {})[field or "value"] = float(fleet.values[host, place])
    metrics = [
        {
            "fields": fields,
            "name": family,
            "tags": {"host": fleet.names[host], **dict(labels)},
            "timestamp": at_s,
        }
        for (family, labels), fields in grouped.items()
    ]
    return json.dumps({"metrics": metrics}, separators=(",", ":")).encode()


def publish(port: int, hosts: int) -> None:
    """Every host's reading, every second."""
    import paho.mqtt.client as paho

    fleet = Fleet(hosts)
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    at_s = time.monotonic()
    while True:
        fleet.advance(1.0)
        for host in range(hosts):
            client.publish(f"telegraf/{host}", telegraf_json(fleet, host, int(time.time())), 1)
        at_s += 1
        time.sleep(max(0.0, at_s - time.monotonic()))


def consume(port: int, count: Path) -> None:
    """Parse everything, keep nothing but counts."""
    import orjson
    import paho.mqtt.client as paho

    seen = [0, 0]

    def received(_: object, __: object, message: paho.MQTTMessage) -> None:
        document = orjson.loads(message.payload)
        seen[0] += sum(len(metric["fields"]) for metric in document["metrics"])
        seen[1] += len(message.payload)

    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = received
    client.connect("127.0.0.1", port)
    client.subscribe("telegraf/#", 1)
    next_s = 0.0
    while True:
        client.loop(0.2)
        if time.monotonic() > next_s:
            next_s = time.monotonic() + 0.5
            count.write_text(f"{seen[0]} {seen[1]}")


if __name__ == "__main__":
    if sys.argv[1] == "publish":
        publish(int(sys.argv[2]), int(sys.argv[3]))
    else:
        consume(int(sys.argv[2]), Path(sys.argv[3]))
