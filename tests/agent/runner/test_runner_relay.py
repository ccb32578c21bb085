"""Orders to the runner and events away from it: once, whatever breaks in between."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from watchbill.actions import outcomes
from watchbill.actions.order import Refusal, RosterCopy
from watchbill.clock import SystemClock
from watchbill.errors import Refused
from watchbill.protocol.frames import RunnerOrder, Stream
from watchbill.v1 import link_pb2 as pb
from watchbill_agent.actions.door import NoRunner, runner_socket
from watchbill_agent.actions.relay import WAITING_MAX, Relay
from watchbill_agent.events import Events
from watchbill_agent.runner import bounds
from watchbill_agent.runner.service import Service, own_socket
from watchbill_agent.spool import DiskSpool, Keeper, MemoryKeeper, MemorySpool, SimulatedFilesystem, Sizes

from .conftest import ENDS_S, READERS, Host, Nobody

READ: dict[str, Callable[[bytes], Any]] = {**READERS, outcomes.ACTIONS_INVENTORY: outcomes.read_inventory}


class Agent:
    """What an agent has of its own: a spool, and the relay."""

    def __init__(self, host: Host, spool: DiskSpool | MemorySpool) -> None:
        self.spool = spool
        self.acked = 0
        self.keeper = Keeper(spool, SystemClock()) if isinstance(spool, DiskSpool) else MemoryKeeper(spool)
        events = Events(self.keeper, SystemClock())
        socket = runner_socket(host.homes.run.parent / "agent")
        self.relay = Relay(socket, host.homes.etc, events, SystemClock(), lambda: self.acked)
        self.task = asyncio.create_task(self.relay.run())

    def events(self) -> list[pb.Event]:
        found = []
        seq = 0
        while (record := self.spool.held_after(Stream.CRIT, seq)) is not None:
            seq += 1
            found.append(pb.Record.FromString(record.content).event)
        return found

    def said(self, kind: str) -> list[Any]:
        return [READ[event.kind](event.payload) for event in self.events() if event.kind == kind]

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        if isinstance(self.keeper, Keeper):
            await self.keeper.close(5)


def on_disk() -> DiskSpool:
    sizes = Sizes(4 << 20, 1 << 20)
    return DiskSpool(Path("/spool"), b"a" * 16, sizes=sizes, filesystem=SimulatedFilesystem())


@asynccontextmanager
async def serving(host: Host, **options: Any) -> AsyncIterator[Service]:
    made = Service(host.homes, host.root, **options)
    listening = own_socket(host.homes.run / "runner.sock", host.root)
    server = await asyncio.start_unix_server(made._serve, sock=listening, limit=bounds.FRAME_BYTES_MAX)
    looking = asyncio.create_task(made._look_for_ever())
    try:
        yield made
    finally:
        looking.cancel()
        server.close()
        await made.close()
        (host.homes.run / "runner.sock").unlink()


@pytest.fixture
async def agents(host: Host) -> AsyncIterator[Callable[..., Agent]]:
    made: list[Agent] = []

    def make(spool: DiskSpool | MemorySpool | None = None) -> Agent:
        made.append(Agent(host, spool or on_disk()))
        return made[-1]

    yield make
    for agent in made:
        await agent.close()


async def until(look: Callable[[], Any]) -> Any:
    until_s = time.monotonic() + ENDS_S
    while True:
        if found := look():
            return found
        assert time.monotonic() < until_s
        await asyncio.sleep(0.01)


def order(host: Host, command: Any, ttl_ms: int = 60_000) -> RunnerOrder:
    return RunnerOrder(host.signed(command), ttl_ms)


async def test_an_order_is_run_and_its_events_are_kept_and_forgotten_by_the_runner(
    host: Host, agents: Any
) -> None:
    host.action("svc", ["/bin/echo", "hello"], "once")
    async with serving(host) as service:
        agent = agents()
        agent.relay.take(order(host, host.command("svc")))
        (finished,) = await until(lambda: agent.said(outcomes.COMMAND_FINISHED))
        assert finished.output == "hello\n"
        assert len(agent.said(outcomes.COMMAND_ACCEPTED)) == 1
        await until(lambda: not service.runner.waiting())
        (inventory,) = await until(lambda: agent.said(outcomes.ACTIONS_INVENTORY))
        assert (inventory.runner, [action.name for action in inventory.actions]) == (True, ["svc"])


async def test_without_a_runner_an_order_is_refused_and_stays_so(
    host: Host, agents: Any, monkeypatch: Any
) -> None:
    from watchbill_agent.actions import relay

    host.action("svc", ["/bin/true"], "once")
    agent = agents()
    command = host.command("svc")
    agent.relay.take(order(host, command))
    (refused,) = await until(lambda: agent.said(outcomes.COMMAND_REFUSED))
    assert (refused.reason, refused.key, refused.run) == (Refusal.RUNNER, host.key(command), "r1")
    await until(lambda: [one.runner for one in agent.said(outcomes.ACTIONS_INVENTORY)] == [False])
    monkeypatch.setattr(relay, "FILES_LOOK_S", 0.05)
    async with serving(host) as service:
        agent.relay.connected()
        await until(lambda: [one.runner for one in agent.said(outcomes.ACTIONS_INVENTORY)] == [False, True])
        agent.relay.take(order(host, command))
        await until(lambda: len(agent.said(outcomes.COMMAND_REFUSED)) == 2)
        agent.relay.take(order(host, host.command("svc", attempt=2)))
        await until(lambda: service.runner.counts["accepted"] == 1)
    with pytest.raises(NoRunner):
        await agent.relay.observe("x")


async def test_a_host_that_allows_nothing_and_has_no_runner_says_nothing(host: Host, agents: Any) -> None:
    for path in (
        host.homes.etc / "enrolled.json",
        host.homes.etc / "actions.d",
        host.homes.etc / "observe.d",
    ):
        path.unlink() if path.is_file() else path.rmdir()
    agent = agents()
    agent.relay.connected()
    await asyncio.sleep(0.1)
    assert agent.events() == []


async def test_a_new_agent_adopts_what_the_runner_still_has(host: Host, agents: Any) -> None:
    host.action("svc", ["/bin/echo", "hello"], "once")
    async with serving(host) as service:
        service.runner.order(host.signed(host.command("svc")))
        await until(lambda: len(service.runner.waiting()) == 2)
        agent = agents()
        await until(lambda: agent.said(outcomes.COMMAND_FINISHED))
        await until(lambda: not service.runner.waiting())


async def test_what_is_not_safe_is_not_confirmed_and_not_kept_twice(host: Host, agents: Any) -> None:
    host.action("svc", ["/bin/echo", "hello"], "once")
    async with serving(host) as service:
        agent = agents(MemorySpool())
        agent.relay.take(order(host, host.command("svc")))
        await until(lambda: agent.said(outcomes.COMMAND_FINISHED))
        await asyncio.sleep(1.2)
        assert len(service.runner.waiting()) == 2
        assert len(agent.said(outcomes.COMMAND_FINISHED)) == len(agent.said(outcomes.COMMAND_ACCEPTED)) == 1
        agent.acked = 1_000
        await until(lambda: not service.runner.waiting())


async def test_a_runner_that_dies_with_an_order_gets_it_again_and_runs_it_once(
    host: Host, agents: Any
) -> None:
    counter = host.root / "counter"
    tool = host.script("tool", f"import time; open({str(counter)!r}, 'a').write('ran '); time.sleep(0.5)")
    host.action("svc", [str(tool)], "once")
    async with serving(host) as service:
        agent = agents()
        await until(lambda: agent.said(outcomes.ACTIONS_INVENTORY))
        real = service.runner.order

        def dies(signed: bytes) -> Any:
            real(signed)
            for writer in service._peers.values():
                writer.transport.abort()
            raise ConnectionResetError

        service.runner.order = dies  # type: ignore[method-assign]
        agent.relay.take(order(host, host.command("svc")))
        await until(lambda: service.runner.running)
    async with serving(host):
        (finished,) = await until(lambda: agent.said(outcomes.COMMAND_FINISHED))
        assert finished.outcome is outcomes.Outcome.OK
        assert counter.read_text() == "ran "


async def test_an_inventory_is_told_when_it_changed_and_not_else(
    host: Host, agents: Any, monkeypatch: Any
) -> None:
    from watchbill_agent.actions import relay

    monkeypatch.setattr(relay, "FILES_LOOK_S", 0.05)
    host.action("svc", ["/bin/true"], "once")
    async with serving(host):
        agent = agents()

        def inventories() -> list[Any]:
            return agent.said(outcomes.ACTIONS_INVENTORY)

        await until(inventories)
        agent.relay.connected()
        await asyncio.sleep(0.3)
        assert len(inventories()) == 1, "a new session within the hour is not told again"
        host.action("more", ["/bin/true"], "once")
        await until(lambda: len(inventories()) == 2)
        (host.homes.etc / "actions.d" / "more.toml").unlink()
        await until(lambda: len(inventories()) == 3)
        names = [event.event_id for event in agent.events() if event.kind == outcomes.ACTIONS_INVENTORY]
        assert len(set(names)) == 3, "the first one came back, and is news"
        host.install_roster_key()
        await until(lambda: len(inventories()) == 4)
        monkeypatch.setattr(relay, "FILES_LOOK_S", 600.0)
        await asyncio.sleep(0.1)
        agent.relay.take(order(host, RosterCopy(host.roster(7))))
        await until(lambda: inventories()[-1].roster_serial == 7)


async def test_more_orders_than_wait_are_dropped_and_late_ones_given_up(host: Host, agents: Any) -> None:
    async with serving(host, starts=Nobody()) as service:
        agent = agents()
        for _ in range(WAITING_MAX + 3):
            agent.relay.take(RunnerOrder(b"x", 60_000))
        assert agent.relay.counts.dropped == 3
        await until(lambda: agent.relay.counts.handed_over == WAITING_MAX)
        assert service.runner.counts["signature"] == WAITING_MAX
        agent.relay.take(RunnerOrder(b"x", 0))
        await until(lambda: agent.relay.counts.dropped == 4)


async def test_a_reading_comes_through_the_relay(host: Host, agents: Any) -> None:
    (host.homes.etc / "observe.d" / "a.toml").write_text(
        '[[observe]]\nname = "who"\nargv = ["/usr/bin/id", "-u"]\n'
    )
    async with serving(host):
        agent = agents()
        reading = await agent.relay.observe("who")
        assert (reading.output, reading.outcome) == (b"%d\n" % os.geteuid(), "ok")
        with pytest.raises(Refused, match=r"observe\.d"):
            await agent.relay.observe("else")
