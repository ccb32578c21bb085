"""The agent as a process: from its first sample to its goodbye, and what is done to it in between."""

import asyncio
import contextlib
import json
import signal
import stat

import pytest

from watchbill.protocol.frames import Stream

FAST = 'interval = "200ms"\n'
IN_MEMORY = '[spool]\nkind = "memory"\n'


async def test_samples_arrive_and_the_end_is_announced(tmp_path, collector, agents, enrol):
    enrol(tmp_path / "a", collector)
    agent = agents(tmp_path / "a", FAST + 'labels = { rack = "b12" }\njob = "test"\n')
    await collector.until(lambda c: len(c.records()) >= 5)
    assert await agent.stop() == 0
    hello = collector.hellos[0]
    assert (hello.instance, hello.job, dict(hello.labels)) == ("web01", "test", {"rack": "b12"})
    assert (hello.interval_ms, hello.ticks_per_message) == (200, 1)
    assert {"node_load1", "node_memory_MemTotal_bytes", "watchbill_agent_series"} <= collector.names()
    assert collector.heard[-1].bye.reason == "stop"
    assert [record.seq for record in collector.records()] == list(range(1, len(collector.records()) + 1))
    events = [record.event for record in collector.records(Stream.CRIT)]
    assert [event.kind for event in events] == ["agent.started", "agent.stopped"]
    started, stopped = (json.loads(event.payload) for event in events)
    assert started["run"] == stopped["run"] == hello.run_id.hex()
    assert (started["after"], stopped["reason"]) == ("nothing", "stop")
    assert "delivered=True" in agent.text()


async def test_several_ticks_travel_in_one_message_but_the_first_waits_for_none(
    tmp_path, collector, agents, enrol
):
    enrol(tmp_path / "a", collector)
    agents(tmp_path / "a", 'interval = "100ms"\nticks_per_message = 5\n')

    def ticks():
        # On a machine that is busy the agent itself may be late, and says so between them.
        read = [record for record in collector.records() if record.HasField("ticks")]
        return [1 + len(record.ticks.blocks[0].steps_ms) for record in read]

    await collector.until(lambda _: len(ticks()) >= 3)
    assert ticks()[:3] == [1, 5, 5]


async def test_a_reload_swaps_everything_at_once(tmp_path, collector, agents, enrol, status):
    enrol(tmp_path / "a", collector)
    agent = agents(tmp_path / "a", FAST)
    await collector.until(lambda c: "node_load1" in c.names())
    (tmp_path / "a/etc/agent.toml").write_text(
        'interval = "100ms"\nlabels = { rack = "new" }\n[samplers]\ndisable = ["loadavg"]\n'
    )
    agent.process.send_signal(signal.SIGHUP)
    await agent.until_log("configuration reloaded")
    await collector.until(lambda c: len(c.hellos) == 2)
    await collector.until(lambda c: any(v is None for _, name, _, v in c.samples() if name == "node_load1"))
    assert dict(collector.hellos[1].labels) == {"rack": "new"}
    assert collector.hellos[1].interval_ms == 100
    document = status(tmp_path / "a")
    assert document["sampling"]["interval_s"] == 0.1
    assert document["configuration"]["reload_error"] == ""
    assert not any(up.WhichOneof("message") == "bye" for up in collector.heard)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("interval = ", "agent.toml:1: got invalid value"),
        ('interval = "1s"\nintervall = 1\n', "did you mean interval"),
        ('interval = "1s"\n[samplers.filesystem]\nmount_points_exclude = "("\n', "no regular expression"),
        ('interval = "1s"\n[spool]\nbytes = "1MiB"\n', "needs a restart"),
        ('interval = "1s"\n[prometheus]\nlisten = "192.0.2.1:9100"\n', "192.0.2.1:9100 cannot be had"),
        ('interval = "1s"\nmqtt = "mqtt://b"\n', "TLS always"),
        (None, "got a directory, wanted a regular file"),
    ],
)
async def test_a_bad_file_is_refused_whole_and_the_agent_goes_on(
    tmp_path, collector, agents, enrol, status, cli, bad, said
):
    enrol(tmp_path / "a", collector)
    agent = agents(tmp_path / "a", FAST)
    await collector.until(lambda c: len(c.records()) >= 1)
    path = tmp_path / "a/etc/agent.toml"
    if bad is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_text(bad)
    agent.process.send_signal(signal.SIGHUP)
    await agent.until_log("reload refused, the old configuration stays")
    assert said in agent.text()
    before = len(collector.records())
    await collector.until(lambda c: len(c.records()) >= before + 3)
    document = status(tmp_path / "a")
    assert said in document["configuration"]["reload_error"]
    assert document["sampling"]["interval_s"] == 0.2
    assert "refused, the old configuration is in use" in cli(tmp_path / "a", "status").stdout


async def test_a_collector_that_comes_back_gets_everything_in_order(
    tmp_path, collector, agents, enrol, status
):
    enrol(tmp_path / "a", collector)
    agent = agents(tmp_path / "a", FAST)
    await collector.until(lambda c: len(c.records()) >= 3)
    await collector.stop()
    await agent.until_log("no link to the collector")
    document = status(tmp_path / "a")
    assert document["link"]["state"] == "away"
    await collector.start()
    await collector.until(lambda c: len(c.hellos) >= 2 and len(c.records()) >= 12)
    seqs = sorted({record.seq for record in collector.records()})
    assert seqs == list(range(1, len(seqs) + 1))
    await agent.stop()


async def test_a_stop_while_connecting_is_quick_and_the_next_run_knows_what_is_missing(
    tmp_path, collector, agents, enrol
):
    enrol(tmp_path / "a", collector)
    await collector.stop()
    agent = agents(tmp_path / "a", FAST + IN_MEMORY)
    await agent.until_log("watching")
    assert await agent.stop() == 0
    left = json.loads((tmp_path / "a/var/agent/last-run.json").read_text())
    assert left["retired"][1]["last"] >= 1
    await collector.start()
    agents(tmp_path / "a", FAST + IN_MEMORY)
    await collector.until(lambda c: len(c.records()) >= 2)
    hello = collector.hellos[0]
    assert [one.last_seq for one in hello.retired] == [one["last"] for one in left["retired"]]
    assert left["retired"][0]["last"] == 2, "its start and its stop, that nobody was told of"
    first = collector.records()[0]
    assert first.gap.reason == pb_reason("RESTART")
    assert first.gap.first_boottime_ms == left["last_boottime_ms"]
    assert first.gap.count == 0


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_what_waits_on_disk_when_the_agent_ends_is_delivered_by_the_next_whole(
    tmp_path, collector, agents, enrol, status, end
):
    enrol(tmp_path / "a", collector)
    await collector.stop()
    agent = agents(tmp_path / "a", FAST)
    await agent.until_log("watching")
    await asyncio.sleep(1)
    queue = status(tmp_path / "a")["queue"]
    agent.process.send_signal(end)
    await agent.ended()
    await collector.start()
    agents(tmp_path / "a", FAST)
    await collector.until(lambda c: len(c.records()) >= queue["records"] + 3)
    records = collector.records()
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    gaps = [record.gap for record in records if record.HasField("gap")]
    # On a machine that is busy the agent itself may be late, and says so.
    said = [gap.reason for gap in gaps if gap.reason != pb_reason("STALLED")]
    assert said == [pb_reason("RESTART")], "it says that nothing ran, and nothing is missing"
    assert not gaps[0].count
    assert not collector.hellos[0].retired
    assert queue["kind"] == "disk"


def pb_reason(name: str) -> int:
    from watchbill.v1 import link_pb2

    return link_pb2.GapReason.Value(f"GAP_REASON_{name}")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 2}', b"\xff", b'{"version": 1, "boot_id": 3}']
)
async def test_a_damaged_note_of_the_last_run_is_no_reason_not_to_start(
    tmp_path, collector, agents, enrol, content
):
    enrol(tmp_path / "a", collector)
    (tmp_path / "a/var/agent/last-run.json").write_bytes(content)
    agent = agents(tmp_path / "a", FAST)
    await collector.until(lambda c: len(c.records()) >= 1)
    assert "what the last run left cannot be used" in agent.text()


async def test_two_agents_in_one_home_the_second_is_refused(tmp_path, collector, agents, enrol):
    enrol(tmp_path / "a", collector)
    first = agents(tmp_path / "a", FAST)
    await collector.until(lambda c: len(c.records()) >= 1)
    second = agents(tmp_path / "a")
    assert await second.ended() == 6
    assert f"held by process {first.process.pid}" in second.text()
    assert first.process.poll() is None


async def test_a_host_that_is_not_enrolled_is_told_what_to_type(tmp_path, agents):
    agent = agents(tmp_path / "a", FAST)
    assert await agent.ended() == 2
    assert "watchbill-agent enroll --token-file FILE" in agent.text()
    assert "Traceback" not in agent.text()


async def test_a_status_directory_that_cannot_be_made_stops_the_start_with_its_reason(
    tmp_path, collector, agents, enrol
):
    enrol(tmp_path / "a", collector)
    (tmp_path / "a/run").write_text("in the way")
    agent = agents(tmp_path / "a", FAST)
    assert await agent.ended() == 1
    assert "could not be made: not a directory" in agent.text()
    assert "Traceback" not in agent.text()


async def test_the_status_socket_is_private_and_survives_nonsense(tmp_path, collector, agents, enrol, status):
    home = tmp_path / ("long" * 30)
    enrol(home, collector)
    agent = agents(home, FAST)
    await agent.until_log("watching")
    path = home / "run/agent/status.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
    import os

    directory = os.open(path.parent, os.O_PATH)
    try:
        address = f"/proc/self/fd/{directory}/status.sock"
        for question in (b"x" * 100_000, b"\n", b"\xff\xfe\n", b"drop tables\n", b""):
            reader, writer = await asyncio.open_unix_connection(address)
            with contextlib.suppress(OSError):
                writer.write(question)
                writer.write_eof()
                answer = await reader.read()
                assert not answer or b"wanted one of: backup-record, backups, checks, gaps" in answer
            writer.close()
    finally:
        os.close(directory)
    assert status(home)["version"]


async def test_missing_kernel_files_stop_nothing(tmp_path, collector, agents, enrol, status):
    enrol(tmp_path / "a", collector)
    (tmp_path / "empty").mkdir()
    trees = f'procfs = "{tmp_path}/empty"\nsysfs = "{tmp_path}/none"\nrootfs = "{tmp_path}/empty"\n'
    agents(tmp_path / "a", FAST + trees)
    await collector.until(lambda c: len(c.records()) >= 2)
    successes = {
        labels["collector"]: value
        for _, name, labels, value in collector.samples()
        if name == "node_scrape_collector_success"
    }
    assert successes["meminfo"] == 0
    assert successes["uname"] == 1
    states = {one["name"]: one["state"] for one in status(tmp_path / "a")["sampling"]["samplers"]}
    assert states["meminfo"] in ("absent", "failing")


async def test_the_metrics_page_is_served_as_node_exporter_serves_it(tmp_path, agents):
    agent = agents(tmp_path / "a", FAST + '[prometheus]\nlisten = "127.0.0.1:0"\n')
    await agent.until_log("watching")
    port = int(agent.text().partition("metrics page is served")[2].partition("port=")[2].split()[0])
    answers = {}
    for request in (b"GET /metrics HTTP/1.1", b"HEAD /metrics HTTP/1.1", b"POST /metrics HTTP/1.1",
                    b"GET /nothing HTTP/1.0", b"nonsense"):  # fmt: skip
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request + b"\r\nHost: x\r\n\r\n")
        answers[request] = await reader.read()
        writer.close()
    full = answers[b"GET /metrics HTTP/1.1"]
    assert full.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n")
    assert b"\nnode_load1 " in full
    assert b"\nwatchbill_agent_build_info{" in full
    assert answers[b"HEAD /metrics HTTP/1.1"].endswith(b"\r\n\r\n")
    assert answers[b"POST /metrics HTTP/1.1"].startswith(b"HTTP/1.1 405 ")
    assert answers[b"GET /nothing HTTP/1.0"].startswith(b"HTTP/1.1 404 ")
    assert answers[b"nonsense"].startswith(b"HTTP/1.1 400 ")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /" + b"x" * 20_000)
    assert await reader.read() == b""
    writer.close()
    assert agent.process.poll() is None


async def test_the_service_manager_hears_of_every_step(tmp_path, collector, agents, enrol):
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        enrol(tmp_path / "a", collector)
        agent = agents(tmp_path / "a", FAST, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="300000")
        heard: list[str] = []
        loop = asyncio.get_running_loop()

        async def until(text: str) -> None:
            async with asyncio.timeout(30):
                while not any(text in message for message in heard):
                    heard.append((await loop.sock_recv(manager, 4096)).decode())

        await until("READY=1")
        await until("WATCHDOG=1")
        await until("linked as web01")
        agent.process.send_signal(signal.SIGHUP)
        await until("RELOADING=1\nMONOTONIC_USEC=")
        agent.process.terminate()
        await until("STOPPING=1")
        assert await agent.ended() == 0


@pytest.fixture
async def proxy():
    """A forward proxy that knows CONNECT; `asked` has the first line of every request."""

    async def pipe(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        line = head.split(b"\r\n")[0].decode()
        server.asked.append(line)
        host, _, port = line.split()[1].rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))

    class Proxy:
        def __init__(self) -> None:
            self.asked: list[str] = []

    server = Proxy()
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield server
    listening.close()


NOWHERE = {
    "https_proxy": "http://127.0.0.1:1",
    "http_proxy": "http://127.0.0.1:1",
    "grpc_proxy": "http://127.0.0.1:1",
}


async def test_a_proxy_is_used_when_the_file_says_so(tmp_path, collector, agents, enrol, proxy):
    enrol(tmp_path / "a", collector)
    agents(tmp_path / "a", FAST + f'proxy = "{proxy.url}"\n', **NOWHERE)
    await collector.until(lambda c: len(c.records()) >= 2)
    assert proxy.asked == [f"CONNECT {collector.endpoint} HTTP/1.1"]


async def test_the_environments_proxy_is_used_only_when_asked_for(tmp_path, collector, agents, enrol, proxy):
    enrol(tmp_path / "a", collector)
    first = agents(tmp_path / "a", FAST, **NOWHERE)
    await collector.until(lambda c: len(c.records()) >= 2)
    await first.stop()
    heard = len(collector.records())
    agents(tmp_path / "a", FAST + 'proxy = "env"\n', https_proxy=proxy.url, no_proxy="")
    await collector.until(lambda c: len(c.records()) >= heard + 2)
    assert proxy.asked == [f"CONNECT {collector.endpoint} HTTP/1.1"]
