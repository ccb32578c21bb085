"""A real process with a real store and a real webhook, killed with SIGKILL at many moments: whatever was delivered as
firing gets its end, and what comes twice comes under one key.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from watchbill.clock import SystemClock
from watchbill_collector.dispatch.outbox import Outbox, StoreRows
from watchbill_collector.store import Store

CHILD = Path(__file__).with_name("dispatching_child.py")
KILLS = 9
DEADLINE_S = 60.0
GROUPS = ("Disk", "Cpu", "Net")
MOMENTS = ("at once", "on receipt", "after the answer", "some time")


@dataclass
class Peer:
    """A webhook's receiver. It takes everything; `trouble` decides what we hear of that."""

    rng: random.Random
    taken: list[dict[str, Any]] = field(default_factory=list)
    unheard: int = 0
    on_receipt: asyncio.Event = field(default_factory=asyncio.Event)
    after_answer: asyncio.Event = field(default_factory=asyncio.Event)
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].split()[0])
            body = json.loads(await reader.readexactly(length))
            assert f"idempotency-key: {body['watchbill']['key']}" in head
            self.taken.append(body)
            self.on_receipt.set()
            await self.answers.wait()
            if self.rng.random() < 0.15:  # The connection breaks after the yes.
                self.unheard += 1
                return
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
            await writer.drain()
            self.after_answer.set()
        except (OSError, asyncio.IncompleteReadError):
            return  # Killed.
        finally:
            writer.close()

    def firing(self) -> set[str]:
        """What the receiver believes fires."""
        found: set[str] = set()
        for body in self.taken:
            for alert in body["alerts"]:
                (found.add if alert["status"] == "firing" else found.discard)(alert["fingerprint"])
        return found

    def heard_of(self) -> set[str]:
        return {alert["labels"]["number"] for body in self.taken for alert in body["alerts"]}


class World:
    """The alerts, in a file that is replaced whole."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.path, self.rng = path, rng
        self.rows: list[dict[str, Any]] = []
        self.passed: set[str] = set()
        """What came and went before anybody was told: nobody need be told of it."""
        self.write()

    def write(self) -> None:
        other = self.path.with_suffix(".new")
        other.write_text(json.dumps(self.rows))
        other.replace(self.path)

    def goes_on(self, heard_of: set[str]) -> None:
        """Something fires, something ends."""
        now_ms = SystemClock().wall_ms()
        for row in self.rows:
            if not row["resolved_ms"] and self.rng.random() < 0.4:
                row["resolved_ms"] = now_ms
                self.passed |= {row["labels"]["number"]} - heard_of
        for _ in range(self.rng.randint(1, 3)):
            name = self.rng.choice(GROUPS)
            labels = {"alertname": name, "severity": "critical", "number": str(len(self.rows))}
            self.rows.append({"labels": labels, "fired_ms": now_ms, "resolved_ms": 0})
        self.write()

    def numbers(self) -> set[str]:
        return {row["labels"]["number"] for row in self.rows}

    def ends(self) -> None:
        now_ms = SystemClock().wall_ms()
        for row in self.rows:
            row["resolved_ms"] = row["resolved_ms"] or now_ms
        self.write()


Dispatching = Callable[[Path, World, int], AbstractAsyncContextManager[None]]


@pytest.fixture
async def dispatching() -> AsyncIterator[Dispatching]:
    """A child that works; killed at the end without a word."""
    pipe = asyncio.subprocess.PIPE
    parent = await asyncio.create_subprocess_exec(sys.executable, str(CHILD), stdin=pipe, stdout=pipe)
    assert parent.stdin is not None
    assert parent.stdout is not None

    async def heard() -> list[str]:
        assert parent.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            return (await parent.stdout.readline()).decode().split()

    @asynccontextmanager
    async def start(state: Path, world: World, port: int) -> AsyncIterator[None]:
        assert parent.stdin is not None
        order = json.dumps([str(state), str(world.path), f"http://127.0.0.1:{port}/"])
        parent.stdin.write(order.encode() + b"\n")
        word, pid = await heard()
        assert word == "ready"
        try:
            yield
        finally:
            os.kill(int(pid), signal.SIGKILL)
            assert await heard() == ["ended"]

    yield start
    parent.stdin.close()
    await parent.wait()


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass  # There was nothing to send: then it dies idle.


@pytest.mark.parametrize("life", range(2))
async def test_a_process_that_is_killed_again_and_again_loses_nothing(
    tmp_path: Path, life: int, dispatching: Dispatching
) -> None:
    seed = int(os.environ.get("WATCHBILL_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"WATCHBILL_TEST_SEED={seed}")
    rng = random.Random(seed + life)
    state = tmp_path / "state"
    Store.open(state, "main").close()
    world, peer = World(tmp_path / "alerts.json", rng), Peer(rng)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        for number in range(KILLS):
            moment = MOMENTS[number % len(MOMENTS)] if life else rng.choice(MOMENTS)
            world.goes_on(peer.heard_of())
            for event in (peer.on_receipt, peer.after_answer, peer.answers):
                event.clear()
            if moment != "on receipt":
                peer.answers.set()
            async with dispatching(state, world, port):
                if moment == "on receipt":
                    await wait_for(peer.on_receipt, 5)
                elif moment == "after the answer":
                    await wait_for(peer.after_answer, 5)
                elif moment == "some time":
                    # Any moment of planning, writing, sending: real time is what this is about.
                    await wait_for(asyncio.Event(), rng.uniform(0, 0.2))
            peer.answers.set()
        async with dispatching(state, world, port), asyncio.timeout(DEADLINE_S):
            while not peer.heard_of() >= world.numbers() - world.passed:  # noqa: ASYNC110 - As below.
                await asyncio.sleep(0.05)
            world.ends()
            while peer.firing() or not quiet(state):  # noqa: ASYNC110 - A process has no event for it.
                await asyncio.sleep(0.05)
    finally:
        server.close()
        await server.wait_closed()
    check(peer, world, kills=KILLS)
    shutil.rmtree(state)


def quiet(state: Path) -> bool:
    """Whether nothing waits and nobody is owed an end, as the store has it."""
    import sqlite3

    with sqlite3.connect(f"file:{state}/control.db?mode=ro", uri=True) as connection:
        (waiting,) = connection.execute("SELECT count(*) FROM notices WHERE outcome = 'queued'").fetchone()
        (threads,) = connection.execute("SELECT count(*) FROM notice_threads").fetchone()
    connection.close()
    return not waiting and not threads


def check(peer: Peer, world: World, kills: int) -> None:
    assert not peer.firing(), "every firing that was delivered got its end"
    assert peer.heard_of() >= world.numbers() - world.passed, "nothing is missing"
    by_key: dict[str, dict[str, Any]] = {}
    twice = 0
    newest: dict[str, int] = {}
    for body in peer.taken:
        key = body["watchbill"]["key"]
        if key in by_key:
            twice += 1
            assert body == by_key[key], f"one key, one content: {key}"
        by_key[key] = body
        group, _, number = key.rpartition("-")
        assert int(number) >= newest.get(group, 0), "an older notice never comes after a newer one"
        newest[group] = int(number)
    assert twice <= kills + peer.unheard, "only a kill or a lost answer makes one come twice"


def test_a_store_that_was_left_by_a_kill_is_read_whole(tmp_path: Path) -> None:
    with Store.open(tmp_path, "main") as store:
        outbox = Outbox(StoreRows(store))
        outbox.load()
        assert (outbox.threads, outbox.waiting, outbox.counters.unreadable) == ({}, {}, 0)
