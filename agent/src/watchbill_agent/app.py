"""The running agent: the only module that knows every part and puts them together.

    clock -> sampling (samplers, batch) -> spool -> sender -> transport -> collector

Order at the start: configuration, directories and lock, identity, the first reading (which starts the
children that probe mounts), and only then gRPC: its threads and a fork do not agree, and the first reading
then waits for nothing but the handshake. At a stop: no more sampling, what is collected goes to the spool,
the sender delivers it and says goodbye within the deadline, and the rest is written down for the next run.
"""

import asyncio
import contextlib
import logging
import os
import random
import socket
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from watchbill import __version__
from watchbill.clock import Clock, SystemClock
from watchbill.codec import encode_ticks, require_fast_protobuf
from watchbill.config import Address, Homes
from watchbill.daemon import Daemon, Stamp
from watchbill.errors import ConfigError, Problem, StorageError, UsageError
from watchbill.events import AGENT_STARTED, AGENT_STOPPED, SPOOL_FORKED
from watchbill.files import Lock, make_directory
from watchbill.identity import AgentIdentity, IdentityFile
from watchbill.limits import SPOOL_BYTES_DEFAULT
from watchbill.logs import RateLimit, fields
from watchbill.protocol import frames
from watchbill.protocol.client import Fork
from watchbill.protocol.frames import (
    RUN_ID_BYTES,
    VERIFY,
    GapReason,
    Request,
    RetiredSpool,
    Stream,
    VerifyBackup,
)
from watchbill_agent import exposition, lastrun
from watchbill_agent.actions.relay import Relay
from watchbill_agent.audit_heads import SAVE_EVERY_EDGE_S, SAVE_EVERY_S, AuditHeads
from watchbill_agent.backups.drop import ORDER
from watchbill_agent.backups.host import HostBackups
from watchbill_agent.backups.present import load_jobs
from watchbill_agent.batch import Message
from watchbill_agent.checks.host import HostChecks
from watchbill_agent.config import AgentConfig, load_config
from watchbill_agent.counted import counted
from watchbill_agent.departure import Departure
from watchbill_agent.events import Events
from watchbill_agent.metrics_page import MetricsPage
from watchbill_agent.question import SOCKET_NAME
from watchbill_agent.reading import Happening
from watchbill_agent.renew import Renewer
from watchbill_agent.report import gaps_document, status_document
from watchbill_agent.runner.boot import boot_id
from watchbill_agent.runner.frames import SOCKET_NAME as RUNNER_SOCKET
from watchbill_agent.sampling import Sampling, prepare
from watchbill_agent.scheduler import Slept
from watchbill_agent.selfstats import Facts, SelfStats, started_s
from watchbill_agent.sender import About, Sender
from watchbill_agent.served import Served
from watchbill_agent.spool import DiskSpool, Draft, Keeper, MemoryKeeper, MemorySpool, Sizes
from watchbill_agent.spool.format import sixteen
from watchbill_agent.status import StatusSocket
from watchbill_agent.true_time import TrueTime
from watchbill_agent.way import open_way

if TYPE_CHECKING:
    from watchbill_agent.backups.pings import Pings
    from watchbill_agent.budget import Budget

log = logging.getLogger(__name__)

LOCK_NAME = "agent.lock"
DRAIN_S = 10.0
UNKNOWN_MS = 0
"""When a run that was killed sampled last: only the collector knows."""
GOODBYE_SHARE = 0.8
"""Of the drain, for the sender; the rest is for closing."""
LAST_SYNC_SHARE = 0.15
LAST_EVENT_SHARE = 0.05

SPOOL_SILENT_S_MAX = 120.0
"""A disk that takes longer than this to sync hangs."""
LINK_LOOK_S = 5.0
LINK_SILENT_S_MAX = 60.0
"""A sender with a session that sends nothing for this long is wedged: a beat is due every 10 s."""
TURN_SILENT_S_MIN = 60.0


@dataclass(slots=True)
class Link:
    """What serves the way to the collector: when the configuration of it changes, another takes its place."""

    sender: Sender
    sending: "asyncio.Task[object]"
    renewer: Renewer
    renewing: "asyncio.Task[object]"

    def cancel(self) -> None:
        """End both tasks, without a goodbye."""
        self.sending.cancel()
        self.renewing.cancel()


class Agent:
    """One agent in one process."""

    def __init__(
        self,
        homes: Homes,
        config: AgentConfig,
        limit: RateLimit | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.homes = homes
        self.config = config
        self.clock = clock or SystemClock()
        self.started_s = started_s()
        self.boot_id = boot_id()
        self._run_id = os.urandom(RUN_ID_BYTES)
        self._limit = limit
        self._link: Link | None = None
        self.relay: Relay | None = None
        """To this host's runner; None where nobody could order anything."""
        self._relaying: asyncio.Task[object] | None = None
        self._telling: asyncio.Task[object] | None = None
        self.budget: Budget | None = None
        self._house: Daemon | None = None
        self._after = ""
        make_directory(homes.var)
        self._lock = Lock(homes.var / LOCK_NAME)
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> None:
        """Everything that may turn out to be unusable, before anything runs."""
        homes, config = self.homes, self.config
        self.identity = self._load_identity()
        self.backups = HostBackups(
            homes, self.clock, None if self.identity is None else self.identity.agent_id
        )
        host = "" if self.identity is None else self.identity.agent_id
        self.checks = HostChecks(homes, config, self.clock, host)
        self.served = Served(self._make_page, self._make_pings)
        self.heads = AuditHeads(homes.var, self.clock, SAVE_EVERY_EDGE_S if config.edge else SAVE_EVERY_S)
        not_before_ms = 0 if self.identity is None else self.identity.not_before_ms
        self.time = TrueTime(config.identity_home(homes), self.clock, not_before_ms, self._time_learned)
        last = lastrun.load(homes.var)
        self._after = lastrun.ended(last, self.boot_id)
        self.spool = self._open_spool(last)
        self.sampling = Sampling(
            prepare(config, self.clock), self.clock, phase_of(self.identity), self._deliver, self._on_slept
        )
        self.departure = Departure(self.clock, self.sampling.flush, lambda: self.sender)
        self.sampling.selfstats = SelfStats(self.facts, self.sampling.punctuality, self.started_s)

    def _open_spool(self, last: lastrun.LastRun | None) -> MemorySpool | DiskSpool:
        """The spool, with a notice of the time in which no agent ran."""
        config = self.config.spool
        retired = last.retired if last is not None else ()
        same_boot = last is not None and last.boot_id == self.boot_id
        ended_ms = last.last_boottime_ms if last is not None and same_boot else UNKNOWN_MS
        noted = same_boot
        spool: MemorySpool | DiskSpool
        # A host that is not enrolled sends nothing, and what it keeps could never be sent under its next name.
        if config.kind == "memory" or self.identity is None:
            spool = MemorySpool(config.bytes_max, retired)
        else:
            try:
                spool = self._disk_spool(self.identity, retired)
                noted = same_boot or spool.held_before
                ended_ms = ended_ms or spool.newest_ms
            except StorageError as exc:
                # A host whose disk is broken is one to be watched.
                log.error(
                    "the spool cannot be opened; what waits is kept in memory", extra=fields(reason=exc)
                )
                spool = MemorySpool(SPOOL_BYTES_DEFAULT, retired)
                spool.trouble = str(exc)
        if noted:
            spool.notice(GapReason.RESTART, ended_ms, self.clock.boottime_ms())
        return spool

    def _disk_spool(self, identity: AgentIdentity, retired: tuple[RetiredSpool, ...]) -> DiskSpool:
        config = self.config.spool
        return DiskSpool(
            self.config.spool_home(self.homes),
            sixteen(identity.agent_id),
            sizes=Sizes(config.bytes_max, config.crit_bytes),
            clock=self.clock,
            boot_id=sixteen(self.boot_id),
            retired=retired,
        )

    def _load_identity(self) -> AgentIdentity | None:
        identity = IdentityFile(self.config.identity_home(self.homes)).load()
        if identity is None and self.config.prometheus.listen is None:
            raise UsageError(
                f"this host is not enrolled ({self.homes.var} has no identity): "
                "watchbill-agent enroll --token-file FILE"
            )
        return identity

    # ------------------------------------------------------------ life

    async def run(self, house: Daemon) -> None:
        """The work of the daemon: until a stop was asked for and drained."""
        self._house = house
        answers = {"status": self.status, "gaps": self.gaps, "backups": self.looks, "checks": self.looked}
        orders = {"leaving": self.departure.told, ORDER: self.backups.told}
        socket_ = StatusSocket(self.homes.run / SOCKET_NAME, answers, orders)
        try:
            self.sampling.tick()
            await socket_.start()
            self._start_keeper(house)
            await self.backups.start(house, self.events, lambda: self.spool.state(Stream.CRIT).acked)
            self.checks.start(house, self.events, lambda: self.sampling.prepared.base_ms)
            self.sampling.checks = self.checks.running
            self.served = await self.served.opened(self.config)
            self._start_relay(house)
            self._start_link(house)
            # Should this process be killed, the next one must not take the end of an earlier run for its end.
            lastrun.save(self.homes.var, lastrun.LastRun(self.boot_id, UNKNOWN_MS, self.spool.retired))
            self._turns = house.progress.watch("sampling", self._turn_silent_s_max())
            loop = house.spawn("sampling", self._sample_for_ever(house, self._turns))
            house.spawn("link watch", self._watch_link(house))
            house.on_reload(self.reload)
            house.ready(self._summary())
            log.info("watching", extra=fields(series=self.sampling.batcher.series, version=__version__))
            await house.stopping.wait()
            loop.cancel()
            if self._relaying is not None:
                self._relaying.cancel()  # What the runner says waits there for the next agent.
            self.backups.stop()
            self.checks.stop()
            house.progress.forget("sampling")
            await self._drain(house)
        finally:
            await socket_.stop()
            await self.served.close()
            self.sampling.close()
            self.spool.close()
            self._lock.release()

    def _start_keeper(self, house: Daemon) -> None:
        self._keeper: Keeper | MemoryKeeper
        if isinstance(self.spool, DiskSpool):
            self._keeper = Keeper(self.spool, self.clock, self._wake)
            spool_stamp = house.progress.watch("spool", SPOOL_SILENT_S_MAX)
            house.spawn("spool", self._keeper.run(spool_stamp.made))
        else:
            self._keeper = MemoryKeeper(self.spool)
        self.events = Events(self._keeper, self.clock, self._wake)
        if self.identity is not None:
            # A task of its own: a disk that hangs must not hold up the start.
            said = {"version": __version__, "run": self._run_id.hex(), "boot": self.boot_id}
            house.spawn("start event", self.events.tell(AGENT_STARTED, {**said, "after": self._after}))

    def _turn_silent_s_max(self) -> float:
        return max(TURN_SILENT_S_MIN, 3 * self.sampling.wait_s_max)

    async def _sample_for_ever(self, house: Daemon, stamp: Stamp) -> None:
        while True:
            await self.sampling.turn()
            stamp.made()
            free = self._telling is None or self._telling.done()
            if self.identity is not None and free and (told := self.sampling.happenings.take()):
                # A task of its own: a disk that hangs must not hold up the samples.
                self._telling = house.spawn("sampled events", self._tell_all(told))

    async def _tell_all(self, happenings: Sequence[Happening]) -> None:
        for happening in happenings:
            await self.events.tell(happening.kind, happening.payload)

    async def _drain(self, house: Daemon) -> None:
        self.sampling.flush()
        if self._link is not None:
            self._link.renewing.cancel()
            farewell = self.departure.farewell()
            with contextlib.suppress(TimeoutError):  # It is in the spool all the same.
                async with asyncio.timeout(house.drain_s * LAST_EVENT_SHARE):
                    stopped = {"run": self._run_id.hex(), "reason": farewell.reason}
                    await self.events.tell(AGENT_STOPPED, stopped)
            everything = await self._link.sender.stop(
                farewell.reason, house.drain_s * GOODBYE_SHARE, farewell.back_within_ms
            )
            facts = self.spool.facts()
            log.info(
                "stopped", extra=fields(delivered=everything, records_left=0 if everything else facts.records)
            )
        if isinstance(self._keeper, Keeper):
            house.progress.forget("spool")
            await self._keeper.close(house.drain_s * LAST_SYNC_SHARE)
        await asyncio.to_thread(self.heads.save)
        await asyncio.to_thread(self.time.save)
        last_ms = self.sampling.batcher.boottime_ms()
        lastrun.save(self.homes.var, lastrun.LastRun(self.boot_id, last_ms, self.spool.farewell()))

    # ------------------------------------------------------------ the way of a sample

    def _deliver(self, message: Message) -> None:
        """A message becomes a record in the spool."""
        schemas = tuple({block.schema.schema_id: block.schema for block in message.blocks}.values())
        # What is on disk may be sent after a reboot, when the session's boot is another one.
        boot_id = self.boot_id if isinstance(self.spool, DiskSpool) else ""
        draft = Draft(
            encode_ticks(message.blocks, boot_id),
            message.samples,
            message.first_boottime_ms,
            message.last_boottime_ms,
            schemas,
        )
        self.spool.append(Stream.BULK, draft)
        self._wake()

    def _wake(self) -> None:
        if self._link is not None:
            self._link.sender.wake()

    def _on_slept(self, slept: Slept) -> None:
        seconds = (slept.to_ms - slept.from_ms) / 1000
        if not slept.suspended:
            log.warning("this process stood still and missed readings", extra=fields(seconds=seconds))
            self.spool.notice(GapReason.STALLED, slept.from_ms, slept.to_ms)
            return
        log.info("the machine was suspended", extra=fields(seconds=seconds))
        self.spool.notice(GapReason.SUSPENDED, slept.from_ms, slept.to_ms)
        if self._link is not None:
            self._link.sender.come_back()
        if self._link is not None and self._house is not None and not self._link.renewing.done():
            # Timers stood still while the certificate aged.
            self._link.renewing.cancel()
            self._link.renewing = self._start_renewing(self._house, self._link.renewer)

    # ------------------------------------------------------------ the link

    def _asked(self, request: Request) -> None:
        """The collector asks for something that `_about` says is taken here."""
        if isinstance(request, VerifyBackup):
            self.backups.asked(request)
        elif self.relay is not None:
            self.relay.take(request)

    def _start_relay(self, house: Daemon) -> None:
        if self.identity is None:
            return
        self.relay = Relay(
            self.homes.run.parent / "runner" / RUNNER_SOCKET,
            self.homes.etc,
            self.events,
            self.clock,
            lambda: self.spool.state(Stream.CRIT).acked,
        )
        self._relaying = house.spawn("runner", self.relay.run())

    def _start_link(self, house: Daemon) -> None:
        if self.identity is None:
            log.warning("not enrolled: only the metrics page is served")
            return
        require_fast_protobuf()
        transport, self.budget = open_way(self.config, self._current_identity, self.clock, self.time)
        jitter = random.Random()  # noqa: S311 - Waits are spread with it, nothing is kept secret.
        sender = Sender(
            transport,
            self.spool,
            self._about,
            self.clock,
            jitter,
            newest=self.sampling.batcher,
            flush=self.sampling.flush,
            heads=self.heads,
            budget=self.budget,
            sync=self._keeper.sync,
            forked=self._on_forked,
            asked=self._asked,
        )
        renewer = Renewer(
            self.config.identity_home(self.homes),
            self.time,
            self._renewed,
            proxy=self.config.proxy,
            stream_endpoint=str(self.config.collector or ""),
            now_ms=self._collector_ms,
            through=getattr(transport, "renew", None),
        )
        self._link = Link(
            sender,
            house.spawn("sender", sender.run()),
            renewer,
            self._start_renewing(house, renewer),
        )

    async def _on_forked(self, before: bytes, fork: Fork) -> None:
        held = {one.stream.name.lower(): one.last_seq for one in fork.retired}
        names = {"from": before.hex(), "to": self.spool.spool_id.hex()}
        await self.events.tell(SPOOL_FORKED, {**names, "held": held})

    def _start_renewing(self, house: Daemon, renewer: Renewer) -> "asyncio.Task[object]":
        return house.spawn("renewal", renewer.run(self._current_identity()))

    def _renewed(self, identity: AgentIdentity) -> None:
        """The session goes on; the next connection uses the new certificate."""
        self.identity = identity
        self.time.saw(identity.not_before_ms)
        log.info("certificate renewed", extra=fields(renewals=identity.renewals))

    def _time_learned(self) -> None:
        """What was due by a wrong clock may not be, and the other way round."""
        if self._link is not None and self._house is not None and not self._link.renewing.done():
            self._link.renewing.cancel()
            self._link.renewer.failures = 0
            self._link.renewing = self._start_renewing(self._house, self._link.renewer)

    def _collector_ms(self) -> int:
        """The time by the collector's clock as well as it is known."""
        time = None if self._link is None else self._link.sender.facts.collector_time
        return self.time.wall_ms() if time is None else round(time.ms(self.clock.monotonic_s()))

    def _current_identity(self) -> AgentIdentity:
        assert self.identity is not None, "there is no link without an identity"
        return self.identity

    def _about(self) -> About:
        identity = self._current_identity()
        return About(
            agent_version=__version__,
            run_id=self._run_id,
            boot_id=self.boot_id,
            instance=self.config.instance or identity.instance,
            job=self.config.job,
            labels=self.config.labels,
            interval_ms=self.config.interval_ms,
            ticks_per_message=self.config.ticks,
            beat_interval_ms=self.config.beat_interval_ms,
            keeps_messages=self.config.edge,
            takes=(VERIFY, frames.ORDER),
        )

    async def _watch_link(self, house: Daemon) -> None:
        """Progress of the sender, seen from outside, and the line in `systemctl status`."""
        silent_s = max(LINK_SILENT_S_MAX, 3 * self.config.beat_interval_ms / 1000)
        stamp = house.progress.watch("sender", silent_s)
        seen, said = (-1, -1), ""
        while True:
            facts = None if self._link is None else self._link.sender.facts
            now = (0, 0) if facts is None else (facts.messages_sent, facts.sessions)
            if facts is None or not facts.connected or now != seen:
                stamp.made()
            if facts is not None and facts.connected and facts.collector_time is not None:
                self.time.met(self._collector_ms())
                if self.time.save_due:
                    await asyncio.to_thread(self.time.save)
            if self.relay is not None and now[1] != seen[1]:
                self.relay.connected()
            seen = now
            summary = self._summary()
            if summary != said:
                house.notifier.status(summary)
                said = summary
            await asyncio.sleep(LINK_LOOK_S)

    def _summary(self) -> str:
        series = self.sampling.batcher.series
        if self._link is None:
            return f"{series} series; not enrolled"
        facts = self._link.sender.facts
        if facts.connected:
            return f"{series} series; linked as {facts.instance}"
        return f"{series} series; no link: {facts.reason}"

    # ------------------------------------------------------------ reload

    async def reload(self) -> None:
        """Read the files anew and swap everything, or raise and change nothing."""
        assert self._house is not None, "reloads come after the start"
        config = load_config(self.homes)
        jobs = await asyncio.to_thread(load_jobs, self.homes.etc)
        judged = await asyncio.to_thread(self.checks.judge)
        for key in ("kind", "dir", "bytes", "crit_bytes"):
            if (now := getattr(config.spool, key)) != getattr(self.config.spool, key):
                raise ConfigError(
                    [self._needs_restart(f"spool.{key}", "nothing" if now is None else str(now))]
                )
        prepared = prepare(config, self.clock, self.sampling.prepared)
        try:
            served = await self.served.opened(config)
        except BaseException:
            prepared.close_others(self.sampling.prepared)
            raise
        # From here on nothing fails.
        before, self.config = self.config, config
        await self.served.close(but=served)
        self.served = served
        self.sampling.adopt(prepared)
        self.backups.adopt(self._house, jobs)
        self.checks.adopt(judged)
        self.sampling.checks = self.checks.running
        self._turns.stale_after_s = self._turn_silent_s_max()
        if _link_key(before) != _link_key(config):
            self._restart_link(self._house)

    def _needs_restart(self, key: str, got: str) -> Problem:
        wanted = "the value in use; a change of it needs a restart"
        return Problem(str(self.homes.etc / "agent.toml"), 0, key, got, wanted)

    def _restart_link(self, house: Daemon) -> None:
        """Another sender on the same spool: the new Hello says what changed. No goodbye, nothing ends."""
        if self._link is not None:
            self._link.cancel()
        self._start_link(house)

    # ------------------------------------------------------------ what it says of itself

    def _make_page(self, address: Address) -> MetricsPage:
        return MetricsPage(address, self._render, self.clock)

    def _make_pings(self, address: Address) -> "Pings":
        return self.backups.pings(address, self.checks.beats())

    def _render(self, openmetrics: bool) -> bytes:
        page = exposition.render(self.sampling.read_anew(), openmetrics=openmetrics)
        return page.encode("utf-8", "replace")

    def status(self) -> dict[str, object]:
        """The document behind `watchbill-agent status`."""
        return status_document(self)

    def gaps(self) -> dict[str, object]:
        """The document behind `watchbill-agent gaps`."""
        return gaps_document(self.spool, self.clock)

    def looks(self) -> dict[str, object]:
        """The document behind `watchbill-agent backup list`."""
        return {"repositories": self.backups.seen()}

    def looked(self) -> dict[str, object]:
        """The document behind `watchbill-agent checks list`."""
        return {"checks": [standing.document() for standing in self.checks.standings()]}

    @property
    def house(self) -> Daemon | None:
        """The daemon it runs in."""
        return self._house

    @property
    def renewal_error(self) -> str:
        """Why the certificate could not be renewed at the last attempt; empty when it could."""
        error = None if self._link is None else self._link.renewer.last_error
        return "" if error is None else str(error)

    @property
    def sender(self) -> Sender | None:
        """The sender in use, None when this host is not enrolled."""
        return None if self._link is None else self._link.sender

    def facts(self) -> Facts:
        """Everything counted, for self-metrics."""
        return counted(self, 0 if self._limit is None else self._limit.suppressed_total)

    def clock_offset_s(self) -> float | None:
        """How far this host's wall clock is ahead of the collector's; None before the first session."""
        time = None if self._link is None else self._link.sender.facts.collector_time
        if time is None:
            return None
        return (self.clock.wall_ms() - time.ms(self.clock.monotonic_s())) / 1000


def _link_key(config: AgentConfig) -> tuple[object, ...]:
    """What the link or its Hello is made from."""
    return (
        config.collector,
        config.proxy,
        config.instance,
        config.job,
        config.labels,
        config.interval_ms,
        config.ticks,
        config.mqtt,
        config.edge,
    )


def phase_of(identity: AgentIdentity | None) -> float:
    """The host's own share of the interval, the same after a restart: agents must not all sample at once."""
    name = identity.agent_id if identity is not None else socket.gethostname()
    return zlib.crc32(name.encode("utf-8", "replace")) / 2**32
