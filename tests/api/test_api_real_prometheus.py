"""The real promtool against our API, and our refusals beside a real Prometheus' own."""

import asyncio
import shutil
import socket
import subprocess

import httpx2
import pytest


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.real("promtool")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["instant", "URL", "up"], 'up{instance="web1", job="node"} => 1 @['),
        (["instant", "--time=1700000000", "URL", "up"], "=> 1 @[1700000000]"),
        (["range", "--start=1700000000", "--end=1700000060", "--step=30s", "URL", "up"], "1 @[1700000060]"),
        (["labels", "URL", "instance"], "web1"),
        (["series", "--match=up", "URL"], '{__name__="up", instance="web1", job="node"}'),
    ],
)
async def test_promtool_asks_and_is_answered(serve, arguments, said):
    served = await serve(anonymous_read=True)
    argv = [shutil.which("promtool"), "query", *(served.url if one == "URL" else one for one in arguments)]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


@pytest.mark.real("promtool")
async def test_promtool_repeats_our_refusal(serve):
    served = await serve(anonymous_read=True)
    argv = [shutil.which("promtool"), "query", "instant", served.url, "sum("]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert 'bad_data: invalid parameter "query": parse error' in done.stderr


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """A real Prometheus without targets; its address."""
    home = tmp_path_factory.mktemp("prometheus")
    (home / "prometheus.yml").write_text("global: {}\n")
    port = free_port()
    argv = [
        "prometheus",
        f"--config.file={home}/prometheus.yml",
        f"--storage.tsdb.path={home}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with open(home / "log", "wb") as log, subprocess.Popen(argv, stdout=log, stderr=log, cwd=home) as process:
        try:
            with httpx2.Client(trust_env=False) as client:
                _until_ready(client, f"http://127.0.0.1:{port}/-/ready", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _until_ready(client, url, process):
    for _ in range(600):
        assert process.poll() is None, "prometheus ended by itself"
        try:
            if client.get(url, timeout=1).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("prometheus did not become ready")


ASKED = [
    ("query", {"query": "nonsense("}),
    ("query", {}),
    ("query", {"query": "1+1", "time": "yesterday"}),
    ("query", {"query": "1+1", "timeout": "soon"}),
    ("query", {"query": "1+1", "time": "5"}),
    ("query", {"query": "1+1", "time": "2026-11-21T12:00:00Z"}),
    ("query", {"query": "1+1", "time": "2026-11-21T12:00:00"}),
    ("query_range", {"query": "up", "start": "1", "end": "2"}),
    ("query_range", {"query": "up", "end": "2", "step": "1"}),
    ("query_range", {"query": "up", "start": "2", "end": "1", "step": "1"}),
    ("query_range", {"query": "up", "start": "1", "end": "2", "step": "0"}),
    ("query_range", {"query": "up", "start": "1", "end": "2", "step": "-1"}),
    ("query_range", {"query": "up", "start": "1", "end": "2", "step": "1m1h"}),
    ("query_range", {"query": "up", "start": "0", "end": "11001", "step": "1"}),
    ("query_range", {"query": "nonsense(", "start": "0", "end": "10", "step": "1"}),
    ("series", {}),
    ("series", {"match[]": "{"}),
    ("labels", {"match[]": "{"}),
    ("label/instance/values", {"match[]": "{"}),
    ("labels", {"start": "x"}),
    ("metadata", {"limit": "some"}),
    ("metadata", {"metric": "unheard_of"}),
    ("rules", {"type": "poem"}),
    ("rules", {}),
    ("alerts", {}),
    ("format_query", {"query": "1+1"}),
    ("query_exemplars", {"query": "up", "start": "1", "end": "2"}),
    ("status/buildinfo", {}),
]


@pytest.mark.real("prometheus")
async def test_statuses_and_error_types_are_those_of_a_real_prometheus(serve, prometheus):
    served = await serve(anonymous_read=True)
    differing = []
    async with httpx2.AsyncClient(trust_env=False) as client:
        for path, fields in ASKED:
            theirs = await client.get(f"{prometheus}/api/v1/{path}", params=fields)
            ours = await client.get(f"{served.url}/api/v1/{path}", params=fields)
            seen = [
                (
                    answer.status_code,
                    answer.json()["status"],
                    answer.json().get("errorType"),
                    _shape(answer.json()),
                )
                for answer in (theirs, ours)
            ]
            if seen[0] != seen[1]:
                differing.append((path, fields, *seen, theirs.text[:200], ours.text[:200]))
    assert differing == []


def _shape(document):
    """The kind of an answer's data, and its keys where it is an object."""
    data = document.get("data")
    if not isinstance(data, dict):
        return type(data).__name__
    return sorted(data) if "version" not in data else "buildinfo"


@pytest.mark.real("prometheus")
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (path, fields)
        for path, fields in ASKED
        if path == "query_range" and "nonsense(" not in fields["query"]
    ],
)
async def test_a_range_is_refused_in_the_same_words(serve, prometheus, path, fields):
    served = await serve(anonymous_read=True)
    async with httpx2.AsyncClient(trust_env=False) as client:
        theirs = (await client.get(f"{prometheus}/api/v1/{path}", params=fields)).json()["error"]
        ours = (await client.get(f"{served.url}/api/v1/{path}", params=fields)).json()["error"]
    assert ours == theirs
