"""Prometheus' API over the twins: shapes, parameters, errors, deadlines, cancellation."""

import asyncio
import gzip
import threading
from datetime import UTC, datetime

import pytest

from watchbill_collector.api.answers import ANSWER_BYTES_MAX
from watchbill_collector.api.ports import Alert, MetricMetadata, QueryAnswer, Rule, RuleGroup
from watchbill_collector.api.prometheus import exponent_text
from watchbill_collector.promql.errors import ExecutionFailed

THEN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


async def test_an_instant_query_has_prometheus_envelope(serve):
    served = await serve()
    answer = await served.query("up", time="1700000000.5")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "status": "success",
        "data": {
            "resultType": "vector",
            "result": [
                {
                    "metric": {"__name__": "up", "instance": "web1", "job": "node"},
                    "value": [1700000000.5, "1"],
                }
            ],
        },
    }


async def test_a_form_is_as_good_as_a_url(serve):
    served = await serve()
    fields = {"query": "up", "start": "2026-11-21T12:00:00Z", "end": "2026-11-21T12:01:00Z", "step": "30s"}
    by_url = await served.client.get("/api/v1/query_range", params=fields, headers=served.admin)
    by_form = await served.client.post("/api/v1/query_range", data=fields, headers=served.admin)
    assert by_url.status_code == by_form.status_code == 200
    assert by_url.json() == by_form.json()
    assert [at for at, _ in by_url.json()["data"]["result"][0]["values"]] == [
        1795262400,
        1795262430,
        1795262460,
    ]
    assert served.twins.query.asked[0] == ("range", "up", 1795262400000, 1795262460000, 30000, 0, None)


async def test_a_form_counts_before_the_url(serve):
    served = await serve()
    answer = await served.client.post(
        "/api/v1/query?query=nonsense", data={"query": "up"}, headers=served.admin
    )
    assert answer.status_code == 200


async def test_a_body_that_is_no_form_carries_no_parameters(serve):
    served = await serve()
    answer = await served.client.post("/api/v1/query", content=b'{"query": "up"}', headers=served.admin)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("path", "fields", "status", "kind", "said"),
    [
        ("query", {"query": "nonsense("}, 400, "bad_data", 'invalid parameter "query": parse error'),
        ("query", {}, 400, "bad_data", 'invalid parameter "query"'),
        (
            "query",
            {"query": "up", "time": "yesterday"},
            400,
            "bad_data",
            'cannot parse "yesterday" to a valid',
        ),
        ("query", {"query": "up", "timeout": "soon"}, 400, "bad_data", 'invalid parameter "timeout"'),
        ("query", {"query": "up", "limit": "-1"}, 400, "bad_data", "limit must be non-negative"),
        ("query", {"query": "up", "limit": "many"}, 400, "bad_data", 'invalid parameter "limit"'),
        (
            "query_range",
            {"query": "up", "start": "1", "end": "2"},
            400,
            "bad_data",
            'invalid parameter "step"',
        ),
        (
            "query_range",
            {"query": "up", "end": "2", "step": "1"},
            400,
            "bad_data",
            'invalid parameter "start"',
        ),
        (
            "query_range",
            {"query": "up", "start": "2", "end": "1", "step": "1"},
            400,
            "bad_data",
            "must not be before",
        ),
        (
            "query_range",
            {"query": "up", "start": "1", "end": "2", "step": "0"},
            400,
            "bad_data",
            "zero or negative",
        ),
        ("query_range", {"query": "up", "start": "1", "end": "2", "step": "-5s"}, 400, "bad_data", "step"),
        (
            "query_range",
            {"query": "up", "start": "0", "end": "11001", "step": "1"},
            400,
            "bad_data",
            "11,000 points",
        ),
        (
            "query_range",
            {"query": "up", "start": "0", "end": "1e300", "step": "1"},
            400,
            "bad_data",
            "cannot parse",
        ),
        (
            "query_range",
            {"query": "up", "start": "NaN", "end": "1", "step": "1"},
            400,
            "bad_data",
            "cannot parse",
        ),
        ("series", {}, 400, "bad_data", "no match[] parameter provided"),
        ("series", {"match[]": "{"}, 400, "bad_data", 'invalid parameter "match[]"'),
        ("labels", {"start": "2", "end": "1"}, 400, "bad_data", "end timestamp must not be before start"),
        ("metadata", {"limit": "some"}, 400, "bad_data", "limit must be a number"),
        ("rules", {"type": "poem"}, 400, "bad_data", "not supported value"),
        ("format_query", {}, 400, "bad_data", "parse error"),
        ("nothing", {}, 404, "not_found", "no such page"),
    ],
)
async def test_what_is_wrong_is_said_in_prometheus_words(serve, path, fields, status, kind, said):
    served = await serve()
    answer = await served.client.get(f"/api/v1/{path}", params=fields, headers=served.admin)
    document = answer.json()
    assert (answer.status_code, document["status"], document["errorType"]) == (status, "error", kind)
    assert said in document["error"]


async def test_the_engines_errors_have_their_status(serve):
    served = await serve()

    def fails(_):
        raise ExecutionFailed("found duplicate series for the match group")

    served.twins.query.answers["twice"] = fails
    answer = await served.query("twice")
    assert answer.status_code == 422
    assert answer.json() == {
        "status": "error",
        "errorType": "execution",
        "error": "found duplicate series for the match group",
    }


async def test_a_handlers_mistake_is_one_500_and_says_nothing_of_its_insides(serve, caplog):
    served = await serve()

    def breaks(_):
        raise KeyError("a secret of ours")

    served.twins.query.answers["broken"] = breaks
    answer = await served.query("broken")
    assert answer.status_code == 500
    assert answer.json()["errorType"] == "internal"
    assert "secret" not in answer.text
    assert "request failed" in caplog.text
    assert (await served.query("up")).status_code == 200


async def test_labels_series_values_and_metadata(serve):
    served = await serve()
    get = lambda path, **fields: served.client.get(f"/api/v1/{path}", params=fields, headers=served.admin)  # noqa: E731
    assert (await get("labels")).json()["data"] == ["__name__", "instance", "job"]
    assert (await get("label/instance/values")).json()["data"] == ["web1"]
    assert (await get("series", **{"match[]": "up"})).json()["data"] == served.twins.query.series_rows
    cut = (await get("labels", limit="2")).json()
    assert cut == {
        "status": "success",
        "data": ["__name__", "instance"],
        "warnings": ["results truncated due to limit"],
    }
    assert "warnings" not in (await get("labels", limit="3")).json()
    assert (await get("metadata")).json()["data"] == {
        "up": [{"type": "gauge", "help": "1 heard and fresh, 0 silent.", "unit": ""}]
    }
    served.twins.query.metadata_rows["x"] = (MetricMetadata("counter", "a"), MetricMetadata("gauge", "b"))
    limited = (await get("metadata", metric="x", limit_per_metric="1")).json()["data"]
    assert limited == {"x": [{"type": "counter", "help": "a", "unit": ""}]}
    assert (await get("metadata", limit="0")).json()["data"] == {}


async def test_an_odd_label_name_may_be_escaped(serve):
    served = await serve()
    served.twins.query.series_rows.append({"__name__": "up", "my.label": "v"})
    answer = await served.client.get("/api/v1/label/U__my_2e_label/values", headers=served.admin)
    assert answer.json()["data"] == ["v"]


async def test_rules_and_alerts_have_prometheus_shapes(serve):
    served = await serve()
    alert = Alert("High", "firing", THEN, THEN, 12.5, {"alertname": "High"}, {"summary": "<b>x</b>"})
    rules = (
        Rule("alerting", "High", "up > 1", {}, "ok", "", 0.01, THEN, "firing", 60.0, 0.0, {}, (alert,)),
        Rule("recording", "job:up", "sum(up)", {}, "err", "it broke", 0.0, None),
    )
    served.twins.rules.rule_groups.append(RuleGroup("g", "/etc/rules.yml", 15.0, rules, 0.02, THEN))
    served.twins.rules.active.append(alert)
    shown = {
        "labels": {"alertname": "High"},
        "annotations": {"summary": "<b>x</b>"},
        "state": "firing",
        "activeAt": "2026-11-21T12:00:00Z",
        "value": "1.25e+01",
    }
    get = lambda path: served.client.get(f"/api/v1/{path}", headers=served.admin)  # noqa: E731
    assert (await get("alerts")).json()["data"] == {"alerts": [shown]}
    (group,) = (await get("rules")).json()["data"]["groups"]
    assert {key: group[key] for key in ("name", "file", "interval", "limit", "evaluationTime")} == {
        "name": "g",
        "file": "/etc/rules.yml",
        "interval": 15.0,
        "limit": 0,
        "evaluationTime": 0.02,
    }
    alerting, recording = group["rules"]
    assert (alerting["type"], alerting["state"], alerting["alerts"]) == ("alerting", "firing", [shown])
    assert recording["lastError"] == "it broke"
    assert recording["lastEvaluation"] == "0001-01-01T00:00:00Z"
    only = (await get("rules?type=record&exclude_alerts=true")).json()["data"]["groups"][0]["rules"]
    assert [rule["name"] for rule in only] == ["job:up"]
    assert (await get("rules?rule_name[]=nobody")).json()["data"]["groups"] == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0e+00"),
        (12.5, "1.25e+01"),
        (-1.0, "-1e+00"),
        (1e-7, "1e-07"),
        (0.1 + 0.2, "3.0000000000000004e-01"),
        (1e300, "1e+300"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_alert_values_are_written_as_go_writes_them(value, text):
    assert exponent_text(value) == text


async def test_buildinfo_looks_like_a_recent_prometheus_without_features(serve):
    served = await serve()
    data = (await served.client.get("/api/v1/status/buildinfo", headers=served.admin)).json()["data"]
    assert data["features"] == {}
    assert int(data["version"].split(".")[0]) >= 3
    assert data["revision"] == "watchbill 0.1.0"


async def test_stats_come_when_asked_for(serve):
    served = await serve()
    assert "stats" not in (await served.query("up")).json()["data"]
    assert "timings" in (await served.query("up", stats="all")).json()["data"]["stats"]


async def test_large_answers_are_compressed_when_asked_for(serve):
    served = await serve()
    large = b'[{"metric":{"x":"%s"},"value":[1,"1"]}]' % (b"a" * 300_000)
    served.twins.query.answers["large"] = lambda _: QueryAnswer("vector", large)
    target = b"/api/v1/query?query=large"
    head = (
        b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer token-of-admin\r\nConnection: close\r\n"
    )
    plain = await served.raw(head % target + b"\r\n")
    packed = await served.raw(head % target + b"Accept-Encoding: gzip\r\n\r\n")
    declined = await served.raw(head % target + b"Accept-Encoding: gzip;q=0, identity\r\n\r\n")
    assert b"content-encoding: gzip" in packed.lower()
    assert b"content-encoding" not in plain.lower() + declined.lower()
    assert gzip.decompress(packed.partition(b"\r\n\r\n")[2]) == plain.partition(b"\r\n\r\n")[2]
    assert len(packed) < len(plain) / 50


async def test_an_answer_beyond_the_bound_is_refused_in_words(serve):
    served = await serve()
    served.twins.query.answers["huge"] = lambda _: QueryAnswer("vector", b"0" * (ANSWER_BYTES_MAX + 1))
    answer = await served.query("huge")
    assert answer.status_code == 422
    assert "ask for fewer series" in answer.json()["error"]


async def test_a_query_ends_at_its_timeout_even_if_it_forgets_to_look(serve):
    served = await serve()
    release = threading.Event()
    served.twins.query.answers["deaf"] = lambda _: release.wait(20) and QueryAnswer("vector", b"[]")
    try:
        answer = await served.query("deaf", timeout="50ms")
        assert answer.status_code == 503
        assert answer.json()["errorType"] == "timeout"
        assert "timed out in expression evaluation" in answer.json()["error"]
    finally:
        release.set()


async def test_a_query_that_looks_is_told_that_its_time_is_up(serve):
    served = await serve(timeout_s=0.5)
    seen = threading.Event()

    def looks(budget):
        try:
            while True:
                budget.check()
        finally:
            seen.set()

    served.twins.query.answers["looks"] = looks
    answer = await served.query("looks", timeout="1h")
    assert (answer.status_code, answer.json()["errorType"]) == (503, "timeout")
    assert await asyncio.to_thread(seen.wait, 10)


async def test_a_client_that_goes_away_ends_its_query(serve):
    served = await serve()
    begun, ended = threading.Event(), threading.Event()

    def endless(budget):
        begun.set()
        try:
            while True:
                budget.check()
        finally:
            ended.set()

    served.twins.query.answers["endless"] = endless
    _, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    writer.write(b"GET /api/v1/query?query=endless HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    writer.write(b"Authorization: Bearer token-of-admin\r\n\r\n")
    assert await asyncio.to_thread(begun.wait, 10)
    writer.transport.abort()
    assert await asyncio.to_thread(ended.wait, 10)
    await served.until(lambda: served.house.pool.places == 0)
    assert served.house.pool.cancelled == 1


async def test_a_storm_of_queries_is_refused_beyond_the_queue_and_leaves_the_rest_alone(serve):
    served = await serve()
    release = threading.Event()
    served.twins.query.answers["slow"] = lambda _: release.wait(20) and QueryAnswer("vector", b"[]")
    places = served.house.pool._places_max
    waiting = [asyncio.create_task(served.query("slow")) for _ in range(places + 40)]
    try:
        done = []
        while len(done) < 40:
            pending = [task for task in waiting if not task.done()]
            await asyncio.wait(pending, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            done = [task for task in waiting if task.done()]
        assert {task.result().status_code for task in done} == {503}
        assert all(task.result().json()["errorType"] == "unavailable" for task in done)
        assert all("retry-after" in task.result().headers for task in done)
        # What is no query is not held up by two hundred of them.
        assert (await served.client.get("/api/watchbill/v1/hosts", headers=served.admin)).status_code == 200
        assert (await served.client.get("/healthz")).status_code == 200
    finally:
        release.set()
    answers = await asyncio.gather(*waiting)
    assert sum(answer.status_code == 200 for answer in answers) == places


async def test_what_waits_in_the_queue_times_out_there(serve):
    served = await serve()
    release = threading.Event()
    served.twins.query.answers["slow"] = lambda _: release.wait(20) and QueryAnswer("vector", b"[]")
    holding = [asyncio.create_task(served.query("slow")) for _ in range(2)]
    try:
        await served.until(lambda: served.house.pool.places == 2)
        answer = await served.query("up", timeout="50ms")
        assert answer.status_code == 503
        assert answer.json()["error"] == "query timed out in query queue"
        assert served.house.pool.places == 2
    finally:
        release.set()
    await asyncio.gather(*holding)
