"""Many agents in one process: each with the product's own batcher, spool, sender and connection.

Run as `python -m benchmarks.agents CONFIG` beside the collector; `Agents` starts and asks it. Only sampling is
made up: the values come from `fleet.Fleet`, the same for the same seed, so that what the collector has can be
compared with what was sent. Every host samples at a phase of its own, as real ones do.
"""

import asyncio
import heapq
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fleet import Fleet, Matrix
from benchmarks.processes import LOAD_CPU

CONNECTING_MAX = 24
"""Connections being opened at once."""
RAMP_S = 15.0
"""Hosts take their first reading spread over this long, as when a collector comes back."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to play. `ticks` is how many readings each host takes; 0 means until it is told to stop."""

    identities: str
    sent: str
    interval_s: float
    ticks_per_message: int
    seed: int = 1
    ticks: int = 0
    backlog_s: int = 0
    """Readings of so many seconds lie in every spool already when it connects."""
    load: bool = True
    """Whether values move; else every host stays as it is, but for what `set` changes."""
    mqtt_port: int = 0
    """A broker of loopback to go through; 0: gRPC."""
    edge: bool = False
    step_s: float = 0.0
    """How much time passes for the values at each reading, when not the interval."""
    spool: str = ""
    """Where the spools lie on disk; empty: in memory."""


# ---------------------------------------------------------------- inside the process


class _Player:
    """All hosts of a plan."""

    def __init__(self, plan: Plan) -> None:
        import watchbill_agent  # noqa: F401 - Sets gRPC's environment before anything imports grpc.
        from benchmarks.collector import read_identities
        from watchbill.clock import SystemClock
        from watchbill_agent.reading import Family, Layout, MetricType
        from watchbill_agent.reading import Series as AgentSeries

        self.plan = plan
        self.clock = SystemClock()
        self.identities = read_identities(Path(plan.identities))
        self.fleet = Fleet(len(self.identities), plan.seed)
        kinds = {
            one.name: MetricType.COUNTER if one.counter else MetricType.GAUGE for one in self.fleet.series
        }
        self.layout = Layout(
            [Family(name, kind, "made up") for name, kind in kinds.items()],
            [AgentSeries(one.name, one.labels) for one in self.fleet.series],
        )
        self.senders: list[Any] = []
        self.spools: list[Any] = []
        self.batchers: list[Any] = []
        self.pending = [0] * len(self.identities)
        self.sent_ms: list[list[int]] = [[] for _ in self.identities]
        self.values: Matrix = self.fleet.values.copy()
        self.overlay: dict[tuple[int, int], float] = {}
        self.late_s = 0.0
        self.marks = [0] * len(self.identities)

    def connect_one(self, number: int) -> None:
        from watchbill_agent.batch import Batcher
        from watchbill_agent.sender import About, Sender, nothing_to_sync
        from watchbill_agent.spool import MemorySpool
        from watchbill_agent.transports.over_grpc import GrpcTransport

        identity = self.identities[number]
        about = About(
            "0",
            os.urandom(16),
            f"boot-{number}",
            interval_ms=round(self.plan.interval_s * 1000),
            ticks_per_message=self.plan.ticks_per_message,
            beat_interval_ms=round(self.plan.interval_s * 1000) if self.plan.edge else 0,
            keeps_messages=self.plan.edge,
        )
        spool: Any = MemorySpool(16 << 20, ())
        batcher, sync = Batcher(), nothing_to_sync
        if self.plan.spool:
            spool, sync = self._on_disk(number)
        transport: Any = GrpcTransport(lambda: identity, self.clock)
        if self.plan.mqtt_port:
            from watchbill_agent.transports.over_mqtt import MqttOptions, MqttTransport

            options = MqttOptions(host="127.0.0.1", port=self.plan.mqtt_port, compress=self.plan.edge)
            transport = MqttTransport(lambda: identity, lambda: options, self.clock)
        sender = Sender(
            transport,
            spool,
            lambda: about,
            self.clock,
            random.Random(number),
            newest=batcher,
            flush=lambda: self._deliver(number),
            sync=sync,
        )
        self.spools.append(spool)
        self.batchers.append(batcher)
        self.senders.append(sender)
        self._fill(number)
        task = asyncio.get_running_loop().create_task(sender.run(), name=f"sender {number}")
        self._tasks.append(task)

    def _on_disk(self, number: int) -> tuple[Any, Any]:
        """A spool on disk, and what makes it durable."""
        import uuid

        from watchbill_agent.spool import DiskSpool, Keeper

        agent_id = uuid.UUID(self.identities[number].agent_id).bytes
        spool = DiskSpool(Path(self.plan.spool) / str(number), agent_id, clock=self.clock)
        keeper = Keeper(spool, self.clock)
        self._tasks.append(asyncio.get_running_loop().create_task(keeper.run(), name=f"keeper {number}"))
        return spool, keeper.sync

    def _fill(self, number: int) -> None:
        """The backlog: one reading for each interval that went by."""
        from watchbill_agent.reading import Reading

        interval_ms = round(self.plan.interval_s * 1000)
        boottime_ms, wall_ms = self.clock.boottime_ms(), self.clock.wall_ms()
        values = self.values[number].tolist()
        for ago_ms in range(self.plan.backlog_s * 1000, 0, -interval_ms):
            reading = Reading(self.layout, values)
            self.batchers[number].add(interval_ms, [reading], boottime_ms - ago_ms, wall_ms - ago_ms)
            self._deliver(number)

    async def connect(self) -> None:
        """Open all connections, some at a time."""
        self._tasks: list[asyncio.Task[None]] = []
        for number in range(len(self.identities)):
            while self.connected() < number - CONNECTING_MAX:
                await asyncio.sleep(0.01)
            self.connect_one(number)
        while self.connected() < len(self.identities):
            await asyncio.sleep(0.01)

    def connected(self) -> int:
        return sum(sender.facts.connected for sender in self.senders)

    async def play(self) -> None:
        """Sample every host at its phase, interval after interval."""
        from watchbill_agent.reading import Reading

        interval_s, rng = self.plan.interval_s, random.Random(self.plan.seed)
        begin = time.monotonic() + 0.2
        spread_s = max(interval_s, RAMP_S)
        due = [(begin + rng.random() * spread_s, number, 0) for number in range(len(self.identities))]
        heapq.heapify(due)
        kept = 2 + int(spread_s / interval_s)
        rows: dict[int, Matrix] = {}
        while due:
            when, number, tick = heapq.heappop(due)
            delay = when - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            else:
                self.late_s = max(self.late_s, -delay)
                if number % 16 == 0:
                    await asyncio.sleep(0)
            if tick not in rows:
                # The tick-th reading of every host is the tick-th state of the fleet, whenever it is taken.
                step_s = self.plan.step_s or interval_s
                rows[tick] = self.fleet.advance(step_s).copy() if self.plan.load else self.values
                rows.pop(tick - kept, None)
            row = rows[tick][number]
            values = row.tolist()
            for (host, place), value in self.overlay.items():
                if host == number:
                    values[place] = value
            boottime_ms = self.clock.boottime_ms()
            self.batchers[number].add(
                round(interval_s * 1000), [Reading(self.layout, values)], boottime_ms, self.clock.wall_ms()
            )
            self.sent_ms[number].append(boottime_ms)
            self.pending[number] += 1
            if (
                self.pending[number] >= self.plan.ticks_per_message
                or tick == 0
                or tick + 1 == self.plan.ticks
            ):
                self._deliver(number)
            if tick + 1 < self.plan.ticks or self.plan.ticks == 0:
                heapq.heappush(due, (when + interval_s, number, tick + 1))

    def _deliver(self, number: int) -> None:
        from watchbill.codec import encode_ticks
        from watchbill.protocol.frames import Stream
        from watchbill_agent.spool import Draft

        self.pending[number] = 0
        for message in self.batchers[number].take():
            schemas = tuple({block.schema.schema_id: block.schema for block in message.blocks}.values())
            self.spools[number].append(
                Stream.BULK,
                Draft(
                    encode_ticks(message.blocks),
                    message.samples,
                    message.first_boottime_ms,
                    message.last_boottime_ms,
                    schemas,
                ),
            )
        self.senders[number].wake()

    def facts(self) -> dict[str, Any]:
        from watchbill.protocol.frames import Stream

        facts = [sender.facts for sender in self.senders]
        states = [spool.state(Stream.BULK) for spool in self.spools]
        return {
            "connected": sum(one.connected for one in facts),
            "ticks": sum(map(len, self.sent_ms)),
            "messages": sum(one.messages_sent for one in facts),
            "beats": sum(one.beats_sent for one in facts),
            "again": sum(one.records_sent_again for one in facts),
            "received": sum(one.messages_received for one in facts),
            "unacknowledged": sum(state.last_durable - state.acked for state in states),
            "behind": sum(state.acked < mark for state, mark in zip(states, self.marks, strict=False)),
            "refused": sum(sum(one.refused.values()) for one in facts),
            "reasons": sorted({one.reason for one in facts}),
            "late_s": self.late_s,
            "cpu_s": time.process_time(),
        }

    def mark(self) -> None:
        """Remember what every agent has now: until that is acknowledged, it counts as `behind`."""
        from watchbill.protocol.frames import Stream

        self.marks = [spool.state(Stream.BULK).last_durable for spool in self.spools]

    def write(self) -> None:
        """Leave word of when every reading was taken: boot time in ms, by host and tick."""
        most = max(map(len, self.sent_ms))
        times = np.zeros((len(self.sent_ms), most), np.int64)
        for number, row in enumerate(self.sent_ms):
            times[number, : len(row)] = row
        np.save(self.plan.sent, times)


async def _serve(plan: Plan) -> None:
    player = _Player(plan)
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    await player.connect()
    print(json.dumps(player.facts()), flush=True)
    playing: asyncio.Task[None] | None = None
    while line := await lines.readline():
        command = json.loads(line)
        if command["do"] == "play":
            playing = loop.create_task(player.play())
        elif command["do"] == "set":
            player.overlay[command["host"], command["place"]] = command["value"]
        elif command["do"] == "mark":
            player.mark()
        elif command["do"] == "finish" and playing is not None:
            if plan.ticks:
                await playing
            playing.cancel()
            # A goodbye gets everything acknowledged at once.
            await asyncio.gather(*(sender.stop("the benchmark ends", 60.0) for sender in player.senders))
            player.write()
        if playing is not None and playing.done() and not playing.cancelled():
            playing.result()
        print(json.dumps(player.facts()), flush=True)


def main() -> None:
    """The process: plays until its standard input ends."""
    import uvloop

    uvloop.run(_serve(Plan(**json.loads(sys.argv[1]))))
    os._exit(0)


# ---------------------------------------------------------------- outside


class Agents:
    """The process that plays the hosts, seen from the benchmark."""

    def __init__(self, plan: Plan, log: Path, cpu: int | None = LOAD_CPU) -> None:
        self.plan = plan
        pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [*pinned, sys.executable, "-m", "benchmarks.agents", json.dumps(asdict(plan))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=Path(__file__).parent.parent,
            )
        self.log = log
        self.connected = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the agents ended: {self.log.read_text(errors='replace')[-2000:]}")
        facts: dict[str, Any] = json.loads(line)
        return facts

    def ask(self, do: str, **more: float) -> dict[str, Any]:
        """`play`, `set` (host, place, value), `mark`, `facts`, or `finish`; what stands afterwards."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process, without a goodbye unless `finish` said it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


if __name__ == "__main__":
    main()
