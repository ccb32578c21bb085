"""The page that Prometheus scrapes: in the format that it asks for, compressed if it likes, whole in itself."""

import asyncio
import gzip
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_plain

from watchbill.clock import ManualClock
from watchbill.config import Address
from watchbill_agent.checks.check import Samples
from watchbill_agent.exposition import CONTENT_TYPE, CONTENT_TYPE_OPENMETRICS, render
from watchbill_agent.metrics_page import MetricsPage, wants_gzip, wants_openmetrics
from watchbill_agent.reading import Family, Layout, MetricType, Reading
from watchbill_agent.samplers import HostPaths, build, run_all

ELSEWHERE = ("node_systemd_",)
"""Families that the agent does not sample yet."""
HARDWARE = {
    "node_bonding_active",
    "node_bonding_slaves",
    "node_disk_io_time_seconds_total",
    "node_disk_io_time_weighted_seconds_total",
    "node_md_disks",
    "node_md_disks_required",
}
"""What a machine without disks, arrays or bonds lacks."""
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def reading() -> Reading:
    """Of every sort, histograms and summaries in pieces and mixed up, as checks hand them over."""
    found = Samples()
    found.gauge("load", 'With "quotes".', 1.5)
    found.counter("orders_total", "Orders.", 7.0, shop="a\nb")
    found.counter("odd_counter", "Without an ending.", 3.0)
    found.counter("took_seconds_total", "Seconds.", 3.0)
    found.gauge("took_seconds", "The same, as a gauge.", 4.0)
    for shop in ("a", "b"):
        found.histogram("query_seconds", "Queries.", (0.1, 1), (1, 3, 4), 2.5, shop=shop)
    for shop in ("a", "b"):
        for quantile in ("0.5", "1"):
            found.gauge("said", "Said.", 1.0, shop=shop, quantile=quantile)
    for name in ("said_sum", "said_count"):
        for shop in ("a", "b"):
            found.counter(name, "Said.", 2.0, shop=shop)
    found.put(Family("strange", MetricType.UNTYPED, "Anything."), 1.0)
    found.counter("lone_bucket", "No histogram.", 1.0)
    return Reading(Layout(found.families.values(), found.series), found.values)


def samples(families):
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in families
        for one in family.samples
    }


def test_both_formats_say_the_same_and_are_read_by_the_client_library():
    text, openmetrics = render([reading()]), render([reading()], openmetrics=True)
    plain, opened = list(read_plain(text)), list(read_open(openmetrics))
    assert {f.name: f.type for f in plain}["query_seconds"] == "histogram"
    assert {f.name: f.type for f in plain}["said"] == "summary"
    types = {f.name: f.type for f in opened}
    assert types == {
        "load": "gauge",
        "orders": "counter",
        "odd_counter": "unknown",
        "took_seconds": "gauge",
        "took_seconds_total": "unknown",  # The name without its ending is taken.
        "query_seconds": "histogram",
        "said": "summary",
        "strange": "unknown",
        "lone_bucket": "unknown",
    }
    assert {f.name: f.unit for f in opened}["query_seconds"] == "seconds"
    assert openmetrics.endswith("# EOF\n")
    assert 'query_seconds_bucket{le="1.0",shop="a"} 3' in openmetrics

    def loose(found):  # The library's reader of the old format gives every counter its ending.
        return {
            (name.removesuffix("_total"), tuple((k, v.removesuffix(".0")) for k, v in labels), value)
            for (name, labels), value in found.items()
        }

    assert loose(samples(plain)) == loose(samples(opened))
    assert len(samples(plain)) == len(reading().values)


@pytest.mark.real("promtool")
def test_promtool_finds_on_the_page_what_node_exporters_own_names_earn_and_no_more():
    host = HostPaths()
    samplers = build(host)
    try:
        page = render([*run_all(samplers), reading()])
    finally:
        for sampler in samplers:
            sampler.close()
        host.close()
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page.encode(), capture_output=True, check=False
    )
    said = {line for line in (done.stdout + done.stderr).decode().splitlines() if line.strip()}
    ours = {line for line in said if not line.startswith(("node_memory_", "node_netstat_"))}
    names = {line.split()[0] for line in ours}
    assert names <= {"odd_counter", "lone_bucket"}, ours  # What this test put there.
    assert all("camelCase" in line for line in said - ours)


def test_an_openmetrics_page_of_this_host_is_read_by_the_client_library():
    host = HostPaths()
    samplers = build(host)
    try:
        found = run_all(samplers)
    finally:
        for sampler in samplers:
            sampler.close()
        host.close()
    names = {family.name for family in read_open(render(found, openmetrics=True))}
    assert {"node_cpu_seconds", "node_load1", "node_memory_MemAvailable_bytes", "node_uname_info"} <= names


def test_the_names_that_node_exporters_rules_ask_for_are_on_the_page():
    rules = Path(__file__).parents[1] / "rules/test_node_mixin_rules.py"
    wanted = set(re.findall(r"node_[a-zA-Z0-9_]+_[a-zA-Z0-9_]+", rules.read_text()))
    known = {name for name in wanted if name.startswith(ELSEWHERE)}
    host = HostPaths()
    samplers = build(host)
    try:
        names = {one.name for reading in run_all(samplers) for one in reading.layout.series}
    finally:
        for sampler in samplers:
            sampler.close()
        host.close()
    asked = {name for name in wanted - known if f"{name}{{" in rules.read_text() or name in names}
    assert {"node_cpu_seconds_total", "node_textfile_scrape_error", "node_vmstat_pgmajfault"} <= asked
    assert asked - names <= HARDWARE


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        (PROMETHEUS, True),
        ("application/openmetrics-text; version=1.0.0; q=0.2, text/plain; q=0.5", False),
        ("application/openmetrics-text; version=2.0.0, text/plain; q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False),
        (";;,=,q=," * 1_000, False),
    ],
)
def test_openmetrics_is_for_who_asks_for_it(accept, wanted):
    assert wants_openmetrics(accept) is wanted


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("gzip", True),
        ("br, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("*", True),
        ("identity", False),
    ],
)
def test_a_page_is_compressed_for_who_reads_that(accept, wanted):
    assert wants_gzip(accept) is wanted


async def test_the_page_is_served_in_either_format_compressed_or_not():
    made = []

    def make(openmetrics: bool) -> bytes:
        made.append(openmetrics)
        return render([reading()] * 1, openmetrics=openmetrics).encode() + b"# padding\n" * 100 * (
            not openmetrics
        )

    page = MetricsPage(Address("127.0.0.1", 0), make, ManualClock())
    await page.start()

    async def ask(method="GET", **headers):
        reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        writer.write(f"{method} /metrics HTTP/1.1\r\n{lines}\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return head.decode(), body

    try:
        head, body = await ask(accept=PROMETHEUS)
        assert f"Content-Type: {CONTENT_TYPE_OPENMETRICS}\r\n" in head
        assert body.endswith(b"# EOF\n")
        head, plain = await ask()
        assert f"Content-Type: {CONTENT_TYPE}\r\n" in head
        assert "Content-Encoding" not in head
        head, body = await ask(accept_encoding="gzip")
        assert "\r\nContent-Encoding: gzip\r\n" in head
        assert "\r\nVary: Accept, Accept-Encoding\r\n" in head
        assert gzip.decompress(body) == plain
        head, body = await ask("HEAD", accept_encoding="gzip")
        assert "Content-Encoding: gzip" in head
        assert body == b""
        assert made == [True, False]  # Read once a second, however often it is asked for.
    finally:
        await page.stop()
