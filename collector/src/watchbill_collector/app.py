"""The composition root: opens every part, wires them, runs them, closes them. Nobody else knows all.

The order of a start: store and registry, history (which reads back what a crash left), ingest, the ports (first
the agents', then HTTP), and last the rules, whose windows are refilled from history meanwhile. The order of a
stop: HTTP streams and queries, agents (what was accepted is committed and acknowledged), rules
(state saved), history, store.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from watchbill import __version__, daemon
from watchbill.clock import SteadyClock
from watchbill.config import Homes
from watchbill.errors import ConfigError, Permanent, Problem, StorageError
from watchbill.files import make_directory
from watchbill.identity import RefusalReason
from watchbill.leaving import DECOMMISSION
from watchbill.logs import fields
from watchbill.v1 import link_pb2 as pb
from watchbill_collector import memory
from watchbill_collector.config import CollectorConfig, load_config
from watchbill_collector.configured import (
    answered_names,
    bracketed,
    channel_faults,
    check_channels,
    check_rules,
    configured_texts,
    external_url,
    rule_sources,
    store_password,
)
from watchbill_collector.servicebook import Belonging, read_services
from watchbill_collector.services.completeness import recall
from watchbill_collector.services.departures import retire_decommissioned
from watchbill_collector.upkeep import Upkeep

if TYPE_CHECKING:
    from watchbill.leaving import Leaving
    from watchbill_collector.hosts import HostChange
    from watchbill_collector.rules import AlertChange
    from watchbill_collector.services.mqtt import MqttService

log = logging.getLogger("watchbill.collector")

DRAIN_S = 15.0
STALLED_S = 120.0
"""How long a part may make no progress before the outside watchdog is not pinged."""
TIDY_S = 60.0


# ---------------------------------------------------------------- running


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
    async with contextlib.AsyncExitStack() as stack:
        collector = _Collector(homes, config, house, stack)
        yield await collector.start()


class _Collector:
    """The parts of a running collector, opened in order, closed in reverse by the exit stack."""

    def __init__(
        self, homes: Homes, config: CollectorConfig, house: daemon.Daemon, stack: contextlib.AsyncExitStack
    ) -> None:
        self._homes = homes
        self._config = config
        self._house = house
        self._stack = stack
        self._clock = SteadyClock()
        self._loop = asyncio.get_running_loop()
        self._state = homes.var
        self._host_name = config.address or socket.gethostname()
        self._judging = False
        self._mqtt: MqttService | None = None
        self._loading_rules = asyncio.Lock()
        self._external_url = external_url(config, self._host_name)

    async def start(self) -> Ports:
        began_s = time.monotonic()
        memory.settle_malloc()
        make_directory(self._state)
        self._open_state()
        self._open_history()
        self._open_rules()
        self._open_backups()
        await self._open_channels()
        await self._open_dispatch()
        await self._auditing.began_signing()
        ports = await self._listen()
        await self._auditing.began(await asyncio.to_thread(configured_texts, self._homes, self._config))
        self._house.on_reload(self._audited_reload)
        self._spawn_loops()
        self._condition.not_ready = ""
        memory.settle_garbage()
        self._house.ready(f"http {ports.http}")
        took = {"seconds": round(time.monotonic() - began_s, 2)}
        log.info("ready", extra=fields(stream=ports.stream, enroll=ports.enroll, http=ports.http, **took))
        return ports

    # ------------------------------------------------------------ state

    def _open_state(self) -> None:
        from watchbill_collector.hosts import HostRegistry
        from watchbill_collector.init import default_names, open_pki
        from watchbill_collector.pki import Lifetimes
        from watchbill_collector.store import Store
        from watchbill_collector.users import Users

        config = self._config
        self._lifetimes = Lifetimes(
            agent_s=float(config.certificates.lifetime),
            expired_grace_s=float(config.certificates.expired_grace),
        )
        self._pki = open_pki(self._state, self._lifetimes)
        self._names = default_names(config.address, config.names)
        self._pki.server.refresh(self._names, self._clock.wall_ms())
        self._store = self._stack.enter_context(
            Store.open(self._state, config.site, config.store.url, store_password(config))
        )
        self._registry = HostRegistry(self._store, self._clock)
        self._users = Users(self._store, self._clock)
        self._open_audit()

    def _open_audit(self) -> None:
        from watchbill_collector.audit import Audit, Witnesses
        from watchbill_collector.services.auditing import AuditKeeper
        from watchbill_collector.services.scoping import RegistryBindings

        self._bindings = RegistryBindings(self._registry)
        self._audit = Audit(self._store, self._clock, self._pki.audit)
        self._witnesses = Witnesses(self._audit.hashes)
        self._auditing = AuditKeeper(self._store, self._clock, self._audit, self._witnesses, self._registry)
        self._stack.callback(self._auditing.sign)
        self._stack.callback(self._auditing.tidy, ending=True)
        self._users.subscribe(lambda: self._on_loop(self._bus.poke))
        self._services = read_services(self._homes.etc, self._config.channel_names)
        self._belonging = Belonging(lambda: self._services, self._bindings)

    def _open_history(self) -> None:
        from watchbill_collector.history import History, HistoryOptions
        from watchbill_collector.series import SeriesTable

        retention = self._config.retention
        self._table = SeriesTable()
        self._history = History.open(
            self._state / "history",
            self._table,
            self._clock,
            HistoryOptions(
                raw_ms=retention.raw.ms,
                minute_ms=retention.minute.ms,
                hour_ms=retention.hour.ms,
                size_bytes_max=retention.size,
            ),
        )
        self._stack.callback(self._history.close)
        self._historian = ThreadPoolExecutor(1, thread_name_prefix="history-merge")
        self._stack.callback(self._historian.shutdown, wait=True, cancel_futures=True)

    def _open_rules(self) -> None:
        from watchbill_collector.api.events import EventBus
        from watchbill_collector.head import Head
        from watchbill_collector.ingest.ingest import Ingest, IngestOptions
        from watchbill_collector.promql.engine import Engine, Options
        from watchbill_collector.promql.precedence import Precedence
        from watchbill_collector.rules import FileAlertState, Rulebook, RuleThread, Surroundings
        from watchbill_collector.services.alert_events import AlertEvents
        from watchbill_collector.services.registry import RegistryAdmission, StoreCritSink
        from watchbill_collector.services.witnessing import Witnessing

        config, clock = self._config, self._clock
        self._bus = EventBus(secrets.token_hex(8))
        self._alert_events = AlertEvents(self._bus, self._on_loop)
        self._precedence = Precedence()
        self._engine = Engine(Options(lookback_ms=config.query.lookback.ms))
        self._head = Head(self._table)
        crit = self._crit = StoreCritSink(self._store, clock)
        self._ingest = Ingest(
            self._table,
            self._history,
            RegistryAdmission(self._registry),
            clock,
            crit=crit,
            appended=self._head.append,
            options=IngestOptions(sessions_max=config.grpc.agents_max),
        )
        self._witnessing = Witnessing(self._store, self._auditing)
        self._ingest.audit_head = self._witnessing.head
        self._ingest.witness = self._witnessing.shown
        self._ingest.left = self._host_left
        self._ingest.restore([*self._history.marks(), *crit.marks()])
        self._stack.callback(self._registry.subscribe(self._host_changed))
        self._book = Rulebook(
            Surroundings(self._table, self._engine, {}, self._external_url),
            self._head,
            write=lambda ticks: self._on_loop(self._ingest.commits.add_own, ticks),
            on_change=self._alerts_changed,
            state=FileAlertState(self._state / "alerts.json"),
            past=self._history,
            monotonic=time.monotonic,
        )
        check_rules(self._homes, config)
        self._rules = RuleThread(
            self._book, self._head, clock, on_failure=self._failed, precedence=self._precedence
        )

    def _open_backups(self) -> None:
        from watchbill_collector.services.backups import Backups

        self._backups = Backups(
            self._store,
            self._clock,
            self._registry,
            self._belonging,
            self._table,
            through_ms=self._ingest.through_ms,
            emit=self._ingest.commits.add_own,
            publish=self._bus.publish,
        )
        self._ingest.read_event = self._backups.door.read
        self._crit.backups_told = self._backups.told

    async def _open_channels(self) -> None:
        from watchbill_collector.notifiers.channel import Surroundings
        from watchbill_collector.notifiers.channel_set import ChannelSet
        from watchbill_collector.notifiers.configured import build_all

        self._channel_surroundings = Surroundings(__version__, self._clock)
        made = await asyncio.to_thread(build_all, self._config.channel, self._channel_surroundings)
        self._channels = ChannelSet(made)
        self._stack.push_async_callback(self._channels.close)
        # A secret that is missing must not keep the collector from starting: the other channels work.
        for problem in await asyncio.to_thread(channel_faults, self._config):
            log.error("channel cannot send", extra=fields(problem=problem))

    async def _open_dispatch(self) -> None:
        from watchbill_collector.services.dispatching import Dispatching

        self._dispatching = Dispatching(
            self._store,
            self._clock,
            self._book,
            self._channels,
            self._belonging,
            self._external_url,
            self._stalled,
        )
        await self._dispatching.open(self._config)
        self._stack.push_async_callback(self._dispatching.close)

    def _stalled(self) -> list[str]:
        """Which of ingest, evaluation and outbox stand still: what withholds the ping of the watchdog."""
        stalled = self._house.progress.wedged()
        if self._ingest.commits.oldest_s() > STALLED_S:
            stalled.append("ingest")
        now_ms = self._clock.wall_ms()
        ran = [(run.evaluated_ms, run.group.interval_ms) for run in self._book.groups()]
        if not self._judging or any(now_ms - at_ms > 2 * every + STALLED_S * 1000 for at_ms, every in ran):
            stalled.append("evaluation")
        if self._dispatching.outbox.undurable:
            stalled.append("outbox")
        return stalled

    async def _load_channels(self, config: CollectorConfig) -> None:
        """Swap the channels as a whole; what is on its way goes out through the old ones."""
        from watchbill_collector.notifiers.configured import build_all

        self._channels.swap(await asyncio.to_thread(build_all, config.channel, self._channel_surroundings))

    async def _load_rules(self) -> None:
        """Swap the rules as a whole. In a thread: filling their windows from history takes seconds."""
        # One at a time: a reload during the start must not be undone by what the start had read before.
        async with self._loading_rules:
            sources = await asyncio.to_thread(rule_sources, self._homes, self._config)
            now_ms, interval_ms = self._clock.wall_ms(), self._config.rules.interval.ms
            problems = await asyncio.to_thread(self._book.reload, sources, now_ms, interval_ms)
        if problems:
            raise ConfigError(problems)
        intervals = [group.group.interval_ms for group in self._book.groups()]
        self._ingest.rules_read(self._book.metric_names(), min(intervals, default=0), 0)

    async def _begin_judging(self) -> None:
        """Queries are answered and agents heard already while the rules get ready."""
        await self._load_rules()
        await self._backups.begun()
        await asyncio.to_thread(self._book.resume, self._clock.wall_ms())
        self._dispatching.begin()
        self._rules.start()
        self._judging = True

    def _end_judging(self) -> None:
        if self._judging:
            self._rules.close()

    # ------------------------------------------------------------ ports

    async def _listen(self) -> Ports:
        stream = await self._listen_for_agents()
        enroll = await self._listen_for_hosts(stream)
        mqtt = await self._listen_at_the_broker(stream, enroll)
        http = await self._listen_for_people(stream, enroll, mqtt)
        return Ports(stream, enroll, http, mqtt)

    async def _listen_for_agents(self) -> int:
        import grpc

        from watchbill_collector.enrolment import Enrolment
        from watchbill_collector.enrolment.handlers import LiveRenewal
        from watchbill_collector.ingest.grpc_server import GrpcServer

        config = self._config
        endpoint = f"{bracketed(self._host_name)}:{config.grpc.enroll_listen.port}"
        self._enrolment = Enrolment.open(
            self._store,
            self._clock,
            self._registry,
            self._pki.authority,
            self._pki.keys,
            lifetimes=self._lifetimes,
            endpoint=endpoint,
        )
        live = LiveRenewal(self._enrolment.desk, self._enrolment.renewals, self._registry)

        renew = grpc.unary_unary_rpc_method_handler(
            live.renew,
            request_deserializer=pb.RenewRequest.FromString,
            response_serializer=pb.RenewReply.SerializeToString,
        )
        tell_time = grpc.unary_unary_rpc_method_handler(
            live.time,
            request_deserializer=pb.TimeRequest.FromString,
            response_serializer=pb.TimeReply.SerializeToString,
        )
        server = GrpcServer(
            self._ingest,
            self._pki.server.credentials(mutual=True),
            self._clock,
            site=config.site,
            sessions_max=config.grpc.agents_max,
            methods={"Renew": renew, "Time": tell_time},
        )
        self._ingest.start()
        self._stack.callback(self._end_judging)
        self._stack.push_async_callback(self._ingest.close)
        port = await server.start(str(config.grpc.listen))
        self._stack.push_async_callback(server.stop)
        # Sessions are told goodbye before the server takes their connections away.
        self._stack.push_async_callback(self._ingest.close)
        return port

    async def _listen_for_hosts(self, stream_port: int) -> int:
        from watchbill_collector.enrolment.handlers import EnrolmentServer, EnrolmentService

        config = self._config
        service = EnrolmentService(
            self._enrolment.desk,
            self._enrolment.renewals,
            config.site,
            f"{bracketed(self._host_name)}:{stream_port}",
        )
        server = EnrolmentServer(service, self._pki.server)
        try:
            await server.start(str(config.grpc.enroll_listen))
        except OSError as exc:
            raise Permanent(str(exc)) from exc
        self._stack.push_async_callback(server.stop)
        return server.port

    async def _listen_at_the_broker(self, stream_port: int, enroll_port: int) -> int:
        """Agents that come by MQTT; returns the embedded broker's port, 0 without one."""
        config = self._config
        if not config.mqtt.broker:
            return 0
        from watchbill_collector.services.mqtt import MqttService, Parts

        host = bracketed(self._host_name)
        self._mqtt = service = MqttService(
            Parts(
                config.mqtt,
                config.site,
                self._host_name,
                self._state,
                config.grpc.agents_max,
                self._pki,
                self._ingest,
                self._registry,
                self._enrolment,
                f"{host}:{stream_port}",
                f"{host}:{enroll_port}",
                self._clock,
            )
        )
        self._stack.push_async_callback(service.stop)
        # Sessions are told goodbye before the broker goes.
        self._stack.push_async_callback(self._ingest.close)
        await service.start(self._house)
        return config.mqtt.listen.port if service.embedded is not None else 0

    async def _listen_for_people(self, stream_port: int, enroll_port: int, mqtt_port: int) -> int:
        from watchbill_collector.api.application import create_application
        from watchbill_collector.api.counters import HttpCounters
        from watchbill_collector.api.house import House, HttpOptions, Services
        from watchbill_collector.api.page import load_page
        from watchbill_collector.api.pool import QueryPool
        from watchbill_collector.api.ports import CertificateStatus, PortStatus, at
        from watchbill_collector.api.server import HttpServer, TlsFiles
        from watchbill_collector.dispatch.metrics import DispatchMetrics
        from watchbill_collector.promql.querymemory import QueryMemory
        from watchbill_collector.rules import RuleMetrics
        from watchbill_collector.services.accounts import AccountsService
        from watchbill_collector.services.auditing import AuditMetrics
        from watchbill_collector.services.backup_answers import BackupAnswers
        from watchbill_collector.services.backups import BackupMetrics
        from watchbill_collector.services.channels import ChannelService
        from watchbill_collector.services.condition import CollectorMetrics, ConditionService, OwnSamples
        from watchbill_collector.services.doorkeeping import DoorService
        from watchbill_collector.services.fleet import FleetService
        from watchbill_collector.services.judging import JudgingService
        from watchbill_collector.services.people import ManagingService, PeopleService
        from watchbill_collector.services.queries import QueryService
        from watchbill_collector.services.served import ServedService
        from watchbill_collector.services.silencing import SilencingService
        from watchbill_collector.services.telling import AlertTelling
        from watchbill_collector.services.trials import TrialsService
        from watchbill_collector.services.userdesk import UserSocket

        config, http = self._config, self._config.http
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self._ingest.counters)
        registry.register(CollectorMetrics(self._history, self._table))
        registry.register(RuleMetrics(self._book, self._head))
        registry.register(
            DispatchMetrics(self._dispatching.dispatcher, self._dispatching.watchdog, self._clock)
        )
        if self._mqtt is not None:
            registry.register(self._mqtt)
        registry.register(BackupMetrics(self._backups))
        registry.register(AuditMetrics(self._auditing, self._audit, self._witnesses))
        accounts = AccountsService(self._history, self._registry)
        self._condition = ConditionService(
            self._clock,
            config.site,
            self._state,
            history=self._history,
            ingest=self._ingest,
            book=self._book,
            table=self._table,
        )
        self._condition.channels_failing = self._dispatching.failing
        self._condition.outbox_unwritten = lambda: self._dispatching.outbox.undurable
        tls = TlsFiles(http.certificate, http.key) if http.certificate and http.key else None
        parts = House(
            Services(
                query=QueryService(
                    self._engine,
                    self._history,
                    self._table,
                    self._registry.forgotten_names,
                    self._bindings,
                ),
                rules=(rules := JudgingService(self._book, self._belonging, self._dispatching.hush_of)),
                hosts=(
                    hosts := FleetService(
                        self._registry, self._ingest, accounts, self._ingest.delivered, self._lifetimes
                    )
                ),
                enrolments=DoorService(self._enrolment.tokens),
                gaps=accounts,
                users=PeopleService(self._users, self._clock.wall_ms),
                audit=self._auditing,
                people=ManagingService(self._users),
                bindings=self._bindings,
                status=self._condition,
                channels=ChannelService(self._channels, self._clock, self._external_url),
                services=ServedService(self._belonging, hosts, rules),
                silences=SilencingService(
                    self._dispatching.silences,
                    self._dispatching.dispatcher,
                    self._channels,
                    rules,
                    self._store,
                    self._clock,
                    lambda: self._dispatching.routing.windows,
                    self._bindings,
                ),
                telling=AlertTelling(
                    self._dispatching.dispatcher,
                    self._store,
                    self._clock,
                    lambda: self._dispatching.routing,
                ),
                backups=BackupAnswers(self._backups, self._store, self._clock),
                trials=TrialsService(self._engine, self._history, self._table, self._bindings, self._clock),
            ),
            HttpOptions(
                version=__version__,
                loopback=http.listen.loopback,
                tls=tls is not None,
                behind_proxy=http.behind_proxy,
                anonymous_read=http.anonymous_read,
                names=answered_names(config, self._names),
                page=load_page(),
            ),
            QueryPool(
                timeout_s=float(config.query.timeout),
                samples_max=config.query.samples_max,
                precedence=self._precedence,
                memory=QueryMemory(int(config.query.memory)),
            ),
            self._bus,
            HttpCounters(registry),
            asyncio.Event(),
        )
        desk = UserSocket(self._homes.run, self._users)
        await desk.start()
        self._stack.push_async_callback(desk.stop)
        server = HttpServer(create_application(parts), parts, http.listen.host, http.listen.port, tls)
        await server.start()
        self._stack.push_async_callback(server.stop)
        self._own = OwnSamples(registry, self._table, self._host_name)
        self._condition.certificates = (
            CertificateStatus("server", at(self._pki.server.not_after_ms)),
            CertificateStatus("authority", self._pki.authority.certificate.not_valid_after_utc),
        )
        self._condition.ports = (
            PortStatus("agents", f"{config.grpc.listen.host}:{stream_port}", tls=True),
            PortStatus("enrolment", f"{config.grpc.enroll_listen.host}:{enroll_port}", tls=True),
            PortStatus("http", f"{http.listen.host}:{server.port}", tls=tls is not None),
            *((PortStatus("mqtt", str(config.mqtt.listen), tls=True),) if mqtt_port else ()),
        )
        return server.port

    # ------------------------------------------------------------ loops

    def _spawn_loops(self) -> None:
        from watchbill_collector.services.witnessing import COMPARED_EVERY_S

        self._house.spawn("begin judging", self._begin_judging())
        now_ms = self._clock.wall_ms()
        self._house.spawn(
            "completeness", recall(self._history, self._table, self._registry, self._ingest, now_ms)
        )
        self._dispatching.spawn(self._house)
        self._backups.spawn(self._house)
        self._stack.push_async_callback(self._backups.close)
        upkeep = Upkeep(
            self._house, self._clock, self._history, self._historian, self._ingest, self._crit, self._own
        )
        upkeep.spawn()
        upkeep.every("tidy", TIDY_S, self._tidy)
        upkeep.every("witnesses", COMPARED_EVERY_S, self._witnessing.compare)

    async def _tidy(self) -> None:
        """Once a minute: certificates that end, tokens that ended, sessions whose certificate has expired; signing the
        audit.
        """
        if self._pki.server.refresh(self._names, self._clock.wall_ms()) and self._mqtt is not None:
            self._mqtt.certificate_renewed()
        for host in self._registry.hosts():
            if self._registry.standing(host.agent_id) is RefusalReason.EXPIRED and self._ingest.connected(
                host.agent_id
            ):
                self._ingest.revoke(host.agent_id)
        self._auditing.tidy()
        await asyncio.to_thread(self._auditing.sign)
        await retire_decommissioned(self._registry)
        with contextlib.suppress(StorageError):
            await self._enrolment.tidy()

    # ------------------------------------------------------------ what happens

    def _on_loop(self, call: Callable[..., object], *arguments: object) -> None:
        """From any thread; a loop that is closing takes nothing more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)

    def _failed(self, error: BaseException) -> None:
        """The rules' thread ended: without it this is no collector. The service manager starts it again."""
        log.critical("the rules' thread failed", exc_info=error)
        self._on_loop(self._house.spawn, "rules", _raise(error))

    def _host_left(self, agent_id: str, leaving: "Leaving") -> None:
        name = self._ingest.name_of(agent_id)
        self._bus.publish("host", {"host": name, "agent_id": agent_id, "change": "left"})
        if leaving.reason == DECOMMISSION:
            self._house.spawn("decommission", retire_decommissioned(self._registry))

    def _host_changed(self, change: "HostChange") -> None:
        self._on_loop(self._take_host_change, change)

    def _take_host_change(self, change: "HostChange") -> None:
        from watchbill_collector.hosts import ChangeKind

        agent_id = change.after.agent_id
        if change.kind is ChangeKind.REVOKED:
            self._ingest.revoke(agent_id)
            self._ingest.retire(agent_id)
        elif change.kind in (ChangeKind.RETIRED, ChangeKind.REPLACED):
            self._ingest.retire(agent_id)
        elif change.kind is ChangeKind.FORGOTTEN:
            self._ingest.forget(agent_id)
        elif change.kind is ChangeKind.RENAMED:
            self._ingest.renamed(agent_id)
        self._backups.host_changed(change)
        if self._mqtt is not None:
            self._mqtt.host_changed(change)
        self._bus.publish(
            "host", {"host": change.after.instance, "agent_id": agent_id, "change": change.kind.value}
        )

    def _alerts_changed(self, changes: "Sequence[AlertChange]") -> None:
        self._alert_events.changed(changes)
        self._dispatching.dispatcher.wake()

    async def _audited_reload(self) -> None:
        """A reload, and a row that says what it changed or why it was refused."""
        try:
            await self._reload()
            await self._auditing.reloaded(
                await asyncio.to_thread(configured_texts, self._homes, self._config)
            )
        except ConfigError as exc:
            await self._auditing.reload_refused(str(exc))
            raise

    async def _reload(self) -> None:
        """SIGHUP: rules are swapped or refused as a whole; what needs a restart is refused by name."""
        config = await asyncio.to_thread(load_config, self._homes)
        changed = [
            name
            for name in (
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
            if getattr(config, name) != getattr(self._config, name)
        ]
        if changed:
            wanted = "no change while it runs: restart the collector"
            file = str(self._homes.etc / "collector.toml")
            raise ConfigError([Problem(file, 0, name, "a new value", wanted) for name in changed])
        await asyncio.to_thread(check_rules, self._homes, config)
        services = await asyncio.to_thread(read_services, self._homes.etc, config.channel_names)
        await asyncio.to_thread(check_channels, config)
        await self._dispatching.configure(config, before_channels=True)
        await self._load_channels(config)
        self._config = config
        self._services = services
        self._backups.services_changed()
        await self._load_rules()
        await self._dispatching.configure(config)
        self._rules.wake()


async def _raise(error: BaseException) -> None:
    raise error
