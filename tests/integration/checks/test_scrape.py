"""A page of metrics becomes series, relabelled and bounded; whatever else a server says fails with its reason."""

import asyncio
import gzip
import math
import socket
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from watchbill_agent.checks.check import Verdict
from watchbill_agent.reading import MetricType

from .asked import Authority, Handler, ask, check, descriptors, nothing_left, serving

NAME = "__name__"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
PAGE = """\
# HELP orders_total Orders.
# TYPE orders_total counter
orders_total{shop="berlin",instance="a"} 7
# TYPE took_seconds histogram
took_seconds_bucket{le="1"} 3
took_seconds_bucket{le="+Inf"} 4
took_seconds_sum 5.5
took_seconds_count 4
# TYPE said summary
said{quantile="0.5"} 1
said_sum 2
said_count 3
{"dotted.name","dotted.label"="x"} NaN
go_threads 9
"""


class Pages:
    """A server that answers whatever `said` is, and remembers what it was asked."""

    def __init__(self, body: str | bytes = PAGE, kind: str = TEXT, status: str = "200 OK") -> None:
        self.said = (body, kind, status)
        self.more = b""
        self.asked = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked = await reader.readuntil(b"\r\n\r\n")
        body, kind, status = self.said
        content = body if isinstance(body, bytes) else body.encode()
        kind = f"Content-Type: {kind}\r\n" if kind else ""
        head = f"HTTP/1.1 {status}\r\n{kind}Content-Length: {len(content)}\r\n"
        writer.write(head.encode() + self.more + b"\r\n" + content)
        await writer.drain()


async def scrape(handler: Handler, path: str = "/metrics", **options):
    before = descriptors()
    async with serving(handler) as port:
        outcome = await ask("scrape", url=f"http://127.0.0.1:{port}{path}", **options)
    await nothing_left(before)
    return outcome


def values(outcome):
    pairs = zip(outcome.samples.series, outcome.samples.values, strict=True)
    found = {one.name + "".join(f" {k}={v}" for k, v in one.labels): value for one, value in pairs}
    assert {one.name for one in outcome.samples.series} <= outcome.samples.families.keys()
    return found


async def test_a_page_becomes_series_with_their_types():
    pages = Pages()
    outcome = await scrape(pages)
    assert (outcome.verdict, outcome.detail) == (Verdict.OK, f"10 series in {len(PAGE)} bytes")
    found = values(outcome)
    assert found["orders_total exported_instance=a shop=berlin"] == 7
    assert found["took_seconds_bucket le=+Inf"] == 4
    assert found["said quantile=0.5"] == 1
    assert math.isnan(found["dotted_name dotted_label=x"])
    assert found["watchbill_scrape_samples"] == 10
    types = {name: family.type for name, family in outcome.samples.families.items()}
    assert types["orders_total"] is types["took_seconds_bucket"] is types["said_sum"] is MetricType.COUNTER
    assert types["said"] is MetricType.GAUGE
    assert types["go_threads"] is MetricType.UNTYPED
    assert outcome.samples.families["orders_total"].help == "Orders."
    assert b"accept: application/openmetrics-text;version=1.0.0," in pages.asked.lower()
    assert b"accept-encoding: gzip" in pages.asked.lower()


async def test_openmetrics_and_gzip_are_taken_as_they_are_offered():
    page = '# TYPE a counter\na_total 1 # {trace_id="x"} 1\n# TYPE b info\nb_info{v="1"} 1\n# EOF\n'
    pages = Pages(gzip.compress(page.encode()), "application/openmetrics-text; version=1.0.0; charset=utf-8")
    pages.more = b"Content-Encoding: gzip\r\n"
    found = values(await scrape(pages))
    assert (found["a_total"], found["b_info v=1"], found["watchbill_scrape_body_bytes"]) == (1, 1, len(page))
    pages.said = (PAGE, "", "200 OK")
    pages.more = b""
    assert values(await scrape(pages))["go_threads"] == 9


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"source_labels": ["__name__"], "regex": "go_.*", "action": "drop"}, {"a x=1 y=2", "b x=2"}),
        ({"source_labels": ["__name__", "x"], "regex": "a;1", "action": "keep"}, {"a x=1 y=2"}),
        ({"source_labels": ["x"], "regex": "", "action": "drop"}, {"a x=1 y=2", "b x=2"}),
        ({"regex": "x|y", "action": "labeldrop"}, {"a", "b", "go_threads"}),
        ({"regex": "__name__|x", "action": "labelkeep"}, {"a x=1", "b x=2", "go_threads"}),
        (
            {"source_labels": ["x"], "regex": "(.)", "target_label": "z", "replacement": "$1$$${1}-$9"},
            {"a x=1 y=2 z=1$1-", "b x=2 z=2$2-", "go_threads"},
        ),
        (
            {"source_labels": [NAME], "regex": "go_(?P<r>.*)", "target_label": NAME, "replacement": "my_${r}"},
            {"a x=1 y=2", "b x=2", "my_threads"},
        ),
        ({"target_label": "x", "replacement": ""}, {"a y=2", "b", "go_threads"}),
        ({"source_labels": ["x"], "regex": "(.*)", "target_label": "1$1"}, {"a x=1 y=2", "b x=2", "go_threads"}),
    ],
)  # fmt: skip
async def test_relabelling_is_prometheus_own(rule, kept):
    page = 'a{x="1",y="2"} 1\nb{x="2"} 2\ngo_threads 3\n'
    outcome = await scrape(Pages(page), metric_relabel_configs=[rule])
    found = values(outcome)
    assert {name for name in found if not name.startswith("watchbill_")} == kept
    assert found["watchbill_scrape_samples_dropped reason=relabel"] == 3 - len(kept)


async def test_what_is_too_much_is_left_out_and_counted_or_fails_whole():
    long = "x" * 1_025
    many = ",".join(f'l{number}="1"' for number in range(21))
    page = f'a{{l="{long}"}} 1\nb{{{many}}} 1\nc 1\nc 2\nd 1\n'
    found = values(await scrape(Pages(page)))
    assert found["watchbill_scrape_samples_dropped reason=limits"] == 2
    assert found["watchbill_scrape_samples_dropped reason=duplicate"] == 1
    assert (found["c"], found["d"]) == (1, 1)
    outcome = await scrape(Pages(page), sample_limit=1)
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "sample-limit")
    assert outcome.detail == "got 2 series, wanted at most sample_limit = 1"
    assert values(outcome)["watchbill_scrape_samples"] == 0


@pytest.mark.parametrize(
    ("pages", "options", "reason", "detail"),
    [
        (Pages("a 1\nb one\n"), {}, "bad-metrics", 'line 2: got "one", wanted a value, a number in column 3'),
        (Pages("a 1\n", "application/openmetrics-text"), {}, "bad-metrics", 'wanted "# EOF" as the last line'),
        (Pages(b"\xff\xfe\n"), {}, "bad-metrics", "line 1: got byte 0xff, wanted UTF-8"),
        (Pages("<html>", "text/html"), {}, "content-type", 'got "text/html", wanted text/plain or application'),
        (Pages("no", status="503 Service Unavailable"), {}, "status-unexpected", "got 503, wanted 200"),
        (Pages(PAGE), {"body_size_limit": "100B"}, "body-too-long", "more than 100 bytes"),
    ],
)  # fmt: skip
async def test_what_is_no_page_fails_with_its_reason(pages, options, reason, detail):
    outcome = await scrape(pages, **options)
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, reason)
    assert detail in outcome.detail


async def test_a_bomb_and_a_lie_about_compression_are_bounded():
    pages = Pages(gzip.compress(b"a 1\n" * 100_000))
    pages.more = b"Content-Encoding: gzip\r\n"
    assert (await scrape(pages, body_size_limit="100KiB")).reason == "body-too-long"
    pages.more = b"Content-Encoding: br\r\n"
    assert (await scrape(pages)).reason == "body-encoding"


async def test_a_page_that_changes_is_read_anew_and_one_that_does_not_keeps_its_series():
    pages = Pages("a 1\nb 2\n")
    async with serving(pages) as port:
        looking = check("scrape", url=f"http://127.0.0.1:{port}/")
        first = await looking.look(10)
        pages.said = ("a 3\nb 4\n", TEXT, "200 OK")
        second = await looking.look(10)
        assert second.samples.series[-1] is first.samples.series[-1]
        assert values(second)["b"] == 4
        pages.said = ("a 3\n", TEXT, "200 OK")
        assert "b" not in values(await looking.look(10))
        pages.said = ("a x\n", TEXT, "200 OK")
        assert (await looking.look(10)).reason == "bad-metrics"
        pages.said = ("a 5\n", TEXT, "200 OK")
        assert values(await looking.look(10))["a"] == 5


async def test_over_https_the_certificate_counts_and_secrets_come_from_files(tmp_path):
    authority = Authority(tmp_path)
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    token.chmod(0o600)
    pages = Pages()
    async with serving(pages, authority.issue(days=10).context()) as port:
        url = f"https://localhost:{port}/metrics"
        outcome = await ask("scrape", url=url, ca_file=str(authority.file), bearer_token_file=str(token))
        assert (outcome.verdict, outcome.reason) == (Verdict.WARNING, "tls-expires-soon")
        assert values(outcome)["go_threads"] == 9
        assert b"authorization: bearer s3cret" in pages.asked.lower()
        assert (await ask("scrape", url=url)).reason == "tls-untrusted"


async def test_a_server_that_never_answers_ends_the_look_in_time():
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    async with serving(silent) as port:
        outcome = await ask("scrape", 0.2, url=f"http://127.0.0.1:{port}/")
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "timeout")


@pytest.mark.real("prometheus-node-exporter")
async def test_node_exporters_own_page_is_read_in_both_formats():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        "prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error", stderr=-3
    )
    try:
        for _ in range(200):
            outcome = await ask("scrape", url=f"http://127.0.0.1:{port}/metrics")
            if outcome.reason != "refused":
                break
            await asyncio.sleep(0.02)
        assert outcome.verdict is Verdict.OK, outcome.detail
        text = await asyncio.to_thread(_fetched, f"http://127.0.0.1:{port}/metrics")
    finally:
        process.terminate()
        await process.wait()
    theirs = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    ours = {one.name for one in outcome.samples.series if not one.name.startswith("watchbill_")}
    assert ours == {name for name in theirs if not name.endswith("_created")} | {
        name for name in ours if name.endswith("_created")
    }


def _fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()
