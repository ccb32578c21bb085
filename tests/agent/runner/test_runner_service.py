"""The socket: who may speak, what keeps nobody waiting, and the programs as they are started."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from watchbill.actions import outcomes
from watchbill.actions.canonical import canonical
from watchbill.clock import ManualClock
from watchbill_agent.runner import bounds, service
from watchbill_agent.runner.frames import LENGTH, read_event, read_frame, write_frame
from watchbill_agent.runner.service import Service

from .conftest import ENDS_S, READERS, Host

PROGRAM = Path(sys.executable).parent / "watchbill-runner"


class Peer:
    """Somebody who speaks to the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, **request: Any) -> dict[str, Any]:
        await write_frame(self.writer, request)
        answer = await read_frame(self.reader, ENDS_S)
        assert answer is not None, "it was closed"
        return answer

    async def closed(self) -> bool:
        async with asyncio.timeout(ENDS_S):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read(1) == b""
        return True


class House:
    """What the service asks of the daemon it runs in."""

    def __init__(self) -> None:
        self.stopped = False

    def ask_stop(self) -> None:
        self.stopped = True


@pytest.fixture
async def served(host: Host) -> AsyncIterator[tuple[Host, Service, Any]]:
    made = Service(host.homes, host.root)
    path = f"\0watchbill-{os.getpid()}-{time.monotonic_ns()}"
    server = await asyncio.start_unix_server(made._serve, path, limit=bounds.FRAME_BYTES_MAX)
    looking = asyncio.create_task(made._look_for_ever())
    peers: list[Peer] = []

    async def connect() -> Peer:
        peers.append(Peer(*await asyncio.open_unix_connection(path, limit=bounds.FRAME_BYTES_MAX)))
        return peers[-1]

    connect.path = path  # type: ignore[attr-defined]
    yield host, made, connect
    looking.cancel()
    server.close()
    await made.close()
    for peer in peers:
        peer.writer.close()


def encoded(signed: bytes) -> str:
    return base64.b64encode(signed).decode()


async def test_an_order_is_answered_its_end_waited_for_and_what_is_safe_forgotten(served: Any) -> None:
    host, _, connect = served
    host.action("svc", ["/bin/echo", "hello"], "once")
    peer = await connect()
    answer = await peer.ask(do="order", order=encoded(host.signed(host.command("svc"))))
    (accepted,) = [read_event(one) for one in answer["events"]]
    assert (accepted.kind, answer["running"]) == (outcomes.COMMAND_ACCEPTED, 1)
    assert (await peer.ask(do="confirm", ids=[accepted.id.hex()]))["waiting"] == 0
    answer = await peer.ask(do="events", wait_ms=int(ENDS_S * 1000))
    (finished,) = [read_event(one) for one in answer["events"]]
    assert READERS[finished.kind](finished.payload).output == "hello\n"
    assert (await peer.ask(do="confirm", ids=[finished.id.hex()])) == {"running": 0, "waiting": 0}
    answer = await peer.ask(do="events", wait_ms=1)
    assert answer == {"events": [], "more": False, "running": 0}
    assert (await peer.ask(do="status"))["counts"] == {"accepted": 1}


async def test_an_inventory_is_told_in_parts_of_one_version(served: Any) -> None:
    host, _, connect = served
    about = "x" * 400
    host.allow(
        "\n".join(
            f'[[action]]\nname = "a{n:03}"\nargv = ["/bin/true"]\neffect = "read"\nabout = "{about}"'
            for n in range(200)
        )
    )
    host.allow("nonsense", "b.toml")
    peer = await connect()
    first = await peer.ask(do="inventory", part=0)
    parts = [await peer.ask(do="inventory", part=n) for n in range(first["parts"])]
    read = [outcomes.read_inventory(base64.b64decode(part["payload"])) for part in parts]
    assert len(parts) > 1
    assert {one.version for one in read} == {first["version"]}
    assert [action.name for one in read for action in one.actions] == [f"a{n:03}" for n in range(200)]
    assert any("b.toml" in fault for fault in read[0].faults)
    assert all(len(base64.b64decode(part["payload"])) < 60_000 for part in parts)
    host.allow("", "b.toml")
    assert (await peer.ask(do="inventory", part=0))["version"] != first["version"]


async def test_a_reading_is_run_by_name_alone_and_comes_whole(served: Any) -> None:
    host, made, connect = served
    (host.homes.etc / "observe.d" / "a.toml").write_text(
        '[[observe]]\nname = "big"\nargv = ["/usr/bin/head", "-c", "700000", "/dev/zero"]\n'
        '[[observe]]\nname = "more"\nargv = ["/usr/bin/head", "-c", "700000", "/dev/zero"]\noutput_max = "1KiB"\n'
        '[[observe]]\nname = "bad"\nargv = ["/bin/cat", "/nowhere"]\n'
    )
    peer = await connect()

    async def read(name: str) -> tuple[bytes, dict[str, Any]]:
        output, answer = b"", await peer.ask(do="observe", name=name)
        while "piece" in answer:
            output += base64.b64decode(answer["piece"])
            found = await read_frame(peer.reader, ENDS_S)
            assert found is not None
            answer = found
        return output, answer

    output, answer = await read("big")
    assert (output, answer["outcome"], answer["whole"]) == (bytes(700_000), "ok", True)
    output, answer = await read("more")
    assert (len(output), answer["whole"]) == (1024, False)
    output, answer = await read("bad")
    assert (output, answer["outcome"], answer["exit_code"]) == (b"", "failed", 1)
    assert "nowhere" in answer["errors"]
    _, answer = await read("cat /etc/shadow")
    assert "observe.d" in answer["error"]
    assert made._observing.going == 0


def as_nobody(path: str) -> bool:
    """Whether another user's connection is closed without an answer."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) == 0
    code = 1
    try:
        os.setresuid(65534, 65534, 65534)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.settimeout(ENDS_S)
            content = canonical({"do": "status"})
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(LENGTH.pack(len(content)) + content)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
            code = 0
    finally:
        os._exit(code)


async def test_another_user_gets_no_answer(served: Any) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    _, made, connect = served
    assert await asyncio.to_thread(as_nobody, connect.path)
    assert made.counts["strangers"] == 1


@pytest.mark.parametrize(
    "nonsense",
    [
        struct.pack(">I", 2**32 - 1) + b"{}",
        struct.pack(">I", bounds.FRAME_BYTES_MAX + 1),
        struct.pack(">I", 4) + b"null",
        struct.pack(">I", 15) + b'{"do": "status"',
        struct.pack(">I", 13) + b'{"do":"shell"}'[:13],
        LENGTH.pack(len(canonical({"do": "shell"}))) + canonical({"do": "shell"}),
        LENGTH.pack(len(canonical({"do": "order"}))) + canonical({"do": "order"}),
        LENGTH.pack(len(canonical({"do": "order", "order": "!"}))) + canonical({"do": "order", "order": "!"}),
        LENGTH.pack(len(canonical({"do": "confirm", "ids": ["00"]})))
        + canonical({"do": "confirm", "ids": ["00"]}),
        LENGTH.pack(len(canonical({"do": "events", "wait_ms": []})))
        + canonical({"do": "events", "wait_ms": []}),
        b"\x00\x00\x40\x00" + b"[" * 0x4000,
    ],
)
async def test_nonsense_ends_its_own_connection_and_no_other(served: Any, nonsense: bytes) -> None:
    _, made, connect = served
    good, bad = await connect(), await connect()
    bad.writer.write(nonsense)
    assert await bad.closed()
    assert made.counts["nonsense"] == 1
    assert (await good.ask(do="status"))["running"] == 0


async def test_whoever_is_slow_is_cut_off(served: Any, monkeypatch: Any) -> None:
    from watchbill_agent.runner import frames

    monkeypatch.setattr(frames, "FRAME_S", 0.05)
    monkeypatch.setattr(bounds, "IDLE_CONNECTION_S", 0.05)
    _, made, connect = served
    silent, half = await connect(), await connect()
    half.writer.write(b"\x00\x00")
    assert await silent.closed()
    assert await half.closed()
    assert made.counts["slow"] == 2


async def test_more_connections_than_may_be_are_closed(served: Any) -> None:
    _, made, connect = served
    kept = [await connect() for _ in range(bounds.CONNECTIONS_MAX)]
    for peer in kept:
        await peer.ask(do="status")
    assert await (await connect()).closed()
    assert made.counts["too_many"] == 1
    assert (await kept[0].ask(do="status"))["connections"]["taken"] == bounds.CONNECTIONS_MAX


async def test_a_runner_that_nobody_needs_ends_and_one_that_is_needed_does_not(host: Host) -> None:
    clock = ManualClock()
    made = Service(host.homes, host.root, clock)
    house: Any = House()
    clock.advance(bounds.IDLE_S - 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(made._end_when_idle(house), 0.05)
    clock.advance(1)
    made._open[True] = 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(made._end_when_idle(house), 0.05)
    made._open[True] = 0
    await asyncio.wait_for(made._end_when_idle(house), 1)
    assert house.stopped
    await made.close()


# ---------------------------------------------------------------- as programs


class Spoken:
    """The socket, spoken to without an event loop."""

    def __init__(self, path: Path) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(ENDS_S)
        try:
            self._connection.connect(str(path))
        except OSError:
            self._connection.close()
            raise

    def ask(self, **request: Any) -> Any:
        content = canonical(request)
        self._connection.sendall(LENGTH.pack(len(content)) + content)
        (length,) = LENGTH.unpack(self._read(4))
        return json.loads(self._read(length))

    def _read(self, length: int) -> bytes:
        found = b""
        while len(found) < length:
            piece = self._connection.recv(length - len(found))
            assert piece, "it was closed"
            found += piece
        return found

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def short_host() -> Iterator[Host]:
    """Whose socket has an address of less than 107 bytes."""
    with tempfile.TemporaryDirectory() as place:
        yield Host(Path(place))


def appears(path: Path, process: "subprocess.Popen[bytes]") -> Spoken:
    until_s = time.monotonic() + ENDS_S
    while time.monotonic() < until_s:
        assert process.poll() is None
        with contextlib.suppress(OSError):
            return Spoken(path)
        time.sleep(0.02)
    raise AssertionError("no socket")


def test_under_home_it_makes_its_own_socket_and_is_alone(short_host: Host) -> None:
    host = short_host
    argv = [str(PROGRAM), "--home", str(host.root)]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        spoken = appears(host.homes.run / "runner.sock", process)
        assert (host.homes.run / "runner.sock").stat().st_mode & 0o777 == 0o600
        assert (host.homes.run).stat().st_mode & 0o077 == 0
        second = subprocess.run(argv, capture_output=True, timeout=ENDS_S, check=False)
        assert (second.returncode, b"held by process" in second.stderr) == (6, True)
        assert spoken.ask(do="status")["running"] == 0
        spoken.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENDS_S) == 0
        assert not (host.homes.run / "runner.sock").exists()
    finally:
        process.kill()
        process.wait()


def test_systemd_hands_its_socket_over(short_host: Host) -> None:
    host = short_host
    path = host.root / "s"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(listening.fileno(), 3)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
            os.execve(PROGRAM, [str(PROGRAM), "--home", str(host.root)], environment)
        finally:
            os._exit(1)
    try:
        listening.close()
        spoken = Spoken(path)
        assert spoken.ask(do="status")["fault"] == ""
        spoken.close()
        assert not (host.homes.run / "runner.sock").exists()
    finally:
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    assert status == 0
    assert path.exists(), "the socket is systemd's"


def test_what_is_no_single_stream_is_not_taken_for_systemds(monkeypatch: Any) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert service.handed_over() is None, "meant for another process"
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    with pytest.raises(Exception, match="wanted one"):
        service.handed_over()


def test_check_says_what_it_stands_on_and_what_is_wrong(short_host: Host) -> None:
    argv = [str(PROGRAM), "--home", str(short_host.root), "--check"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=ENDS_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "db2 (agent-2) of main" in done.stdout
    assert "no protected action runs" in done.stdout
    short_host.allow("nonsense")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=ENDS_S, check=False)
    assert done.returncode == 1
    assert "a.toml:1" in done.stderr
