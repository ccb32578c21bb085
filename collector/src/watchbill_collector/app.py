"""The composition root: opens every part in its order, runs them, closes them in reverse. Nobody else knows all.

The order of a start: state (keys, store, registry), history (which reads back what a crash left), ingest, rules,
backups and notices, the ports (first the agents', then HTTP), and last the rules begin to judge, whose windows are
refilled from history meanwhile. The order of a stop: HTTP streams and queries, agents (what was accepted is committed
and acknowledged), rules (state saved), notices, history, store.

What a part is and how one is added says the package `parts`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from watchbill import daemon
from watchbill.config import Homes
from watchbill.errors import ConfigError, Problem
from watchbill.files import make_directory
from watchbill.logs import fields
from watchbill_collector import memory
from watchbill_collector.config import CollectorConfig, load_config
from watchbill_collector.configured import check_channels, check_rules, configured_texts
from watchbill_collector.servicebook import read_services

if TYPE_CHECKING:
    from watchbill_collector.parts.backup_watch import BackupWatch
    from watchbill_collector.parts.ground import Ground, Part
    from watchbill_collector.parts.judging import Judging
    from watchbill_collector.parts.notices import Notices
    from watchbill_collector.parts.runbooks import Runbooks
    from watchbill_collector.parts.state import State

log = logging.getLogger("watchbill.collector")

DRAIN_S = 15.0
NEEDS_RESTART = (
    "site",
    "address",
    "names",
    "grpc",
    "http",
    "store",
    "query",
    "certificates",
    "mqtt",
    "retention",
    "watchdog",
)
"""What of collector.toml a reload refuses to change."""

P = TypeVar("P", bound="Part")


def serve(homes: Homes, config: CollectorConfig) -> int:
    """Run the collector until it is stopped; returns the exit code."""
    import uvloop

    async def work(house: daemon.Daemon) -> None:
        async with running(homes, config, house):
            await house.stopping.wait()

    return daemon.run(work, drain_s=DRAIN_S, loop_factory=uvloop.new_event_loop)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the collector listens, after ports 0 have become real ones."""

    stream: int
    enroll: int
    http: int
    mqtt: int = 0


@contextlib.asynccontextmanager
async def running(homes: Homes, config: CollectorConfig, house: daemon.Daemon) -> AsyncIterator[Ports]:
    """Everything open and serving. Raises what a part raises that cannot be opened."""
    began_s = time.monotonic()
    memory.settle_malloc()
    # The parts bring grpc, the web server and the engine with them: loaded here, where signals are listened to.
    from watchbill_collector.parts.ground import Ground

    async with contextlib.AsyncExitStack() as stack:
        ports = await _Collector(Ground(homes, config, house, stack)).start()
        took_s = round(time.monotonic() - began_s, 2)
        log.info(
            "ready", extra=fields(stream=ports.stream, enroll=ports.enroll, http=ports.http, seconds=took_s)
        )
        yield ports


class _Collector:
    """The parts of a running collector, and what is done with several of them at once: a start, and a reload."""

    _state: "State"
    _judging: "Judging"
    _backup_watch: "BackupWatch"
    _notices: "Notices"
    _runbooks: "Runbooks"

    def __init__(self, ground: "Ground") -> None:
        self._ground = ground
        self._parts: list[Part] = []

    async def _opened(self, part: P) -> P:
        await part.open()
        self._parts.append(part)
        return part

    async def start(self) -> Ports:
        """Open the parts in this order, and let them begin."""
        from watchbill_collector.parts.backup_watch import BackupWatch
        from watchbill_collector.parts.doors import Doors
        from watchbill_collector.parts.front import Front
        from watchbill_collector.parts.host_changes import HostChanges
        from watchbill_collector.parts.intake import Intake
        from watchbill_collector.parts.judging import Judging
        from watchbill_collector.parts.notices import Notices
        from watchbill_collector.parts.past import Past
        from watchbill_collector.parts.runbooks import Runbooks
        from watchbill_collector.parts.state import State
        from watchbill_collector.parts.upkeep import Upkeep

        ground, opened = self._ground, self._opened
        make_directory(ground.directory)

        self._state = state = await opened(State(ground))
        past = await opened(Past(ground))
        changes = await opened(HostChanges(ground, state))
        intake = await opened(Intake(ground, state, past, changes))
        self._judging = judging = await opened(Judging(ground, past, intake))
        self._backup_watch = backups = await opened(BackupWatch(ground, state, past, changes, intake))
        self._notices = notices = await opened(Notices(ground, state, intake, judging))
        await state.auditing.began_signing()
        self._runbooks = runbooks = await opened(
            Runbooks(ground, state, past, changes, intake, judging, backups, notices)
        )
        doors = await opened(Doors(ground, state, changes, intake))
        front = await opened(Front(ground, state, past, intake, judging, backups, notices, runbooks, doors))
        await opened(Upkeep(ground, state, past, intake, doors, front))

        await state.auditing.began(await asyncio.to_thread(configured_texts, ground.homes, ground.config))
        ground.house.on_reload(self._audited_reload)
        ground.house.spawn("begin judging", self._begin_judging())
        for part in self._parts:
            part.begin()
        front.ready()
        memory.settle_garbage()
        ports = Ports(doors.stream_port, doors.enroll_port, front.port, doors.mqtt_port)
        ground.house.ready(f"http {ports.http}")
        return ports

    async def _begin_judging(self) -> None:
        """Queries are answered and agents heard already while the rules get ready."""
        judging = self._judging
        await judging.load()
        await self._backup_watch.backups.begun()
        await asyncio.to_thread(judging.book.resume, self._ground.clock.wall_ms())
        self._notices.dispatching.begin()
        judging.start()

    # ------------------------------------------------------------ reload

    async def _audited_reload(self) -> None:
        """A reload, and a row that says what it changed or why it was refused."""
        ground, auditing = self._ground, self._state.auditing
        try:
            await self._reload()
            await auditing.reloaded(await asyncio.to_thread(configured_texts, ground.homes, ground.config))
        except ConfigError as exc:
            await auditing.reload_refused(str(exc))
            raise

    async def _reload(self) -> None:
        """SIGHUP: judge all of it first, then swap part by part. What needs a restart is refused by name."""
        homes, dispatching = self._ground.homes, self._notices.dispatching
        config = await asyncio.to_thread(load_config, homes)
        changed = [
            name for name in NEEDS_RESTART if getattr(config, name) != getattr(self._ground.config, name)
        ]
        if changed:
            wanted = "no change while it runs: restart the collector"
            file = str(homes.etc / "collector.toml")
            raise ConfigError([Problem(file, 0, name, "a new value", wanted) for name in changed])
        await asyncio.to_thread(check_rules, homes, config)
        services = await asyncio.to_thread(read_services, homes.etc, config.channel_names)
        await asyncio.to_thread(check_channels, config)
        await dispatching.configure(config, before_channels=True)
        await self._notices.load_channels(config)
        self._ground.config = config
        self._state.services = services
        self._backup_watch.backups.services_changed()
        await self._runbooks.load()
        await self._judging.load()
        await dispatching.configure(config)
        self._judging.thread.wake()
