"""The composition root: opens every part, wires them, runs them, closes them. Nobody else knows all.

The order of a start: store and registry, history (which reads back what a crash left), ingest, the ports (first
the agents', then HTTP), and last the rules, whose windows are refilled from history meanwhile. The order of a
stop: HTTP streams and queries, agents (what was accepted is committed and acknowledged), rules
(state saved), history, store.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from watchbill import __version__, daemon
from watchbill.clock import SystemClock
from watchbill.config import Homes
from watchbill.errors import ConfigError, Permanent, Problem, StorageError
from watchbill.files import FileMissing, UnreadableFile, make_directory, read_bounded
from watchbill.identity import RefusalReason
from watchbill.logs import fields
from watchbill.v1 import link_pb2 as pb
from watchbill_collector.config import CollectorConfig, load_config
from watchbill_collector.rules import Source, check, read, stock_sources

if TYPE_CHECKING:
    from watchbill_collector.hosts import HostChange
    from watchbill_collector.rules import AlertChange

log = logging.getLogger("watchbill.collector")

DRAIN_S = 15.0
GARBAGE_THRESHOLDS = (20_000, 20, 20)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""mallopt(3)."""
LARGE_BYTES = 1 << 20
OWN_SAMPLES_S = 15.0
"""How often the collector's own metrics go into its history."""
MERGE_S = 2.0
"""How often history is asked whether there is something to merge."""
RETAIN_S = 300.0
TIDY_S = 60.0
PASSWORD_BYTES_MAX = 4096
RULES_DIRECTORY = "rules.d"


# ---------------------------------------------------------------- configuration


def store_password(config: CollectorConfig) -> str:
    """The database password from its file, empty when none is configured. Raises ConfigError."""
    path = config.store.password_file
    if path is None:
        return ""
    try:
        return read_bounded(path, PASSWORD_BYTES_MAX).decode().strip()
    except (FileMissing, UnreadableFile, UnicodeDecodeError) as exc:
        raise ConfigError([Problem(str(path), 0, "", str(exc), "a readable file with the password")]) from exc


def rule_sources(homes: Homes, config: CollectorConfig) -> list[Source]:
    """The rule files to load: the stock pack and rules.d. Raises ConfigError for what cannot be read."""
    directory = homes.etc / RULES_DIRECTORY
    sources, problems = read([directory] if directory.exists() else [])
    if problems:
        raise ConfigError(problems)
    stock = stock_sources() if config.rules.stock else []
    off = {f"stock/{name}.yml" for name in config.rules.stock_off}
    return [*(source for source in stock if source.file not in off), *sources]


def check_rules(homes: Homes, config: CollectorConfig) -> None:
    """Judge every rule file of this configuration. Raises ConfigError with all problems."""
    problems = check(rule_sources(homes, config))
    if problems:
        raise ConfigError(problems)


def check_rule_files(paths: Sequence[Path]) -> Iterator[str]:
    """Judge some rule files; a line for each that is right. Raises ConfigError with all problems of all."""
    sources, problems = read(paths)
    problems += check(sources)
    if problems:
        raise ConfigError(problems)
    for source in sources:
        yield f"{source.file}: ok"


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
        self._clock = SystemClock()
        self._loop = asyncio.get_running_loop()
        self._state = homes.var
        self._host_name = config.address or socket.gethostname()
        self._judging = False

    async def start(self) -> Ports:
        began_s = time.monotonic()
        _settle_malloc()
        make_directory(self._state)
        self._open_state()
        self._open_history()
        self._open_rules()
        ports = await self._listen()
        self._house.on_reload(self._reload)
        self._spawn_loops()
        self._condition.not_ready = ""
        _settle_garbage()
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
            agent_s=config.certificates.lifetime, expired_grace_s=config.certificates.expired_grace
        )
        self._pki = open_pki(self._state, self._lifetimes)
        self._names = default_names(config.address, config.names)
        self._pki.server.refresh(self._names, self._clock.wall_ms())
        self._store = self._stack.enter_context(
            Store.open(self._state, config.site, config.store.url, store_password(config))
        )
        self._registry = HostRegistry(self._store, self._clock)
        self._users = Users(self._store, self._clock)

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
        from watchbill_collector.rules import FileAlertState, Rulebook, RuleThread, Surroundings
        from watchbill_collector.services.registry import RegistryAdmission, StoreCritSink

        config, clock = self._config, self._clock
        self._bus = EventBus(secrets.token_hex(8))
        self._engine = Engine(Options(lookback_ms=config.query.lookback.ms))
        self._head = Head(self._table)
        crit = StoreCritSink(self._store, clock)
        self._ingest = Ingest(
            self._table,
            self._history,
            RegistryAdmission(self._registry),
            clock,
            crit=crit,
            appended=self._head.append,
            options=IngestOptions(sessions_max=config.grpc.agents_max),
        )
        self._ingest.restore([*self._history.marks(), *crit.marks()])
        self._stack.callback(self._registry.subscribe(self._host_changed))
        self._book = Rulebook(
            Surroundings(
                self._table, self._engine, {}, f"http://{self._host_name}:{config.http.listen.port}"
            ),
            self._head,
            write=lambda ticks: self._on_loop(self._ingest.commits.add_own, ticks),
            on_change=self._alert_changed,
            state=FileAlertState(self._state / "alerts.json"),
            past=self._history,
            monotonic=time.monotonic,
        )
        check_rules(self._homes, config)
        self._rules = RuleThread(self._book, self._head, clock, on_failure=self._failed)

    async def _load_rules(self) -> None:
        """Swap the rules as a whole. In a thread: filling their windows from history takes seconds."""
        sources = await asyncio.to_thread(rule_sources, self._homes, self._config)
        problems = await asyncio.to_thread(self._book.reload, sources, self._clock.wall_ms())
        if problems:
            raise ConfigError(problems)
        intervals = [group.group.interval_ms for group in self._book.groups()]
        self._ingest.rules_read(self._book.metric_names(), min(intervals, default=0), 0)

    async def _begin_judging(self) -> None:
        """Queries are answered and agents heard already while the rules get ready."""
        await self._load_rules()
        await asyncio.to_thread(self._book.resume, self._clock.wall_ms())
        self._rules.start()
        self._judging = True

    def _end_judging(self) -> None:
        if self._judging:
            self._rules.close()

    # ------------------------------------------------------------ ports

    async def _listen(self) -> Ports:
        stream = await self._listen_for_agents()
        enroll = await self._listen_for_hosts(stream)
        http = await self._listen_for_people(stream, enroll)
        return Ports(stream, enroll, http)

    async def _listen_for_agents(self) -> int:
        import grpc

        from watchbill_collector.enrolment import Enrolment
        from watchbill_collector.enrolment.handlers import LiveRenewal
        from watchbill_collector.ingest.grpc_server import GrpcServer

        config = self._config
        endpoint = f"{_bracketed(self._host_name)}:{config.grpc.enroll_listen.port}"
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
        server = GrpcServer(
            self._ingest,
            self._pki.server.credentials(mutual=True),
            self._clock,
            site=config.site,
            sessions_max=config.grpc.agents_max,
            methods={"Renew": renew},
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
            f"{_bracketed(self._host_name)}:{stream_port}",
        )
        server = EnrolmentServer(service, self._pki.server)
        try:
            await server.start(str(config.grpc.enroll_listen))
        except OSError as exc:
            raise Permanent(str(exc)) from exc
        self._stack.push_async_callback(server.stop)
        return server.port

    async def _listen_for_people(self, stream_port: int, enroll_port: int) -> int:
        from watchbill_collector.api.application import create_application
        from watchbill_collector.api.counters import HttpCounters
        from watchbill_collector.api.house import House, HttpOptions, Services
        from watchbill_collector.api.page import load_page
        from watchbill_collector.api.pool import QueryPool
        from watchbill_collector.api.ports import CertificateStatus, PortStatus, at
        from watchbill_collector.api.server import HttpServer, TlsFiles
        from watchbill_collector.rules import RuleMetrics
        from watchbill_collector.services.accounts import AccountsService
        from watchbill_collector.services.condition import CollectorMetrics, ConditionService, OwnSamples
        from watchbill_collector.services.doorkeeping import DoorService
        from watchbill_collector.services.fleet import FleetService
        from watchbill_collector.services.judging import JudgingService
        from watchbill_collector.services.people import PeopleService
        from watchbill_collector.services.queries import QueryService

        config, http = self._config, self._config.http
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self._ingest.counters)
        registry.register(CollectorMetrics(self._history, self._table))
        registry.register(RuleMetrics(self._book, self._head))
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
        tls = TlsFiles(http.certificate, http.key) if http.certificate and http.key else None
        parts = House(
            Services(
                query=QueryService(self._engine, self._history, self._table),
                rules=JudgingService(self._book),
                hosts=FleetService(self._registry, self._ingest, accounts, self._delivered),
                enrolments=DoorService(self._enrolment.tokens),
                gaps=accounts,
                users=PeopleService(self._users, self._clock.wall_ms),
                status=self._condition,
            ),
            HttpOptions(
                version=__version__,
                loopback=http.listen.loopback,
                tls=tls is not None,
                behind_proxy=http.behind_proxy,
                anonymous_read=http.anonymous_read,
                names=tuple(self._names),
                page=load_page(),
            ),
            QueryPool(timeout_s=float(config.query.timeout), samples_max=config.query.samples_max),
            self._bus,
            HttpCounters(registry),
            asyncio.Event(),
        )
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
        )
        return server.port

    # ------------------------------------------------------------ loops

    def _spawn_loops(self) -> None:
        self._house.spawn("begin judging", self._begin_judging())
        for name, seconds, work in (
            ("own metrics", OWN_SAMPLES_S, self._sample_own),
            ("merge", MERGE_S, self._merge),
            ("retain", RETAIN_S, self._retain),
            ("tidy", TIDY_S, self._tidy),
        ):
            self._house.spawn(name, self._every(name, seconds, work))

    async def _every(self, name: str, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        stamp = self._house.progress.watch(name, max(60.0, 20 * seconds))
        while True:
            await asyncio.sleep(seconds)
            await work()
            stamp.made()

    async def _sample_own(self) -> None:
        self._ingest.commits.add_own([self._own.tick(self._clock.wall_ms())])

    async def _merge(self) -> None:
        try:
            more = True
            while more and not self._house.stopping.is_set():
                more = await self._loop.run_in_executor(
                    self._historian, self._history.merge, self._clock.wall_ms()
                )
        except StorageError as exc:
            log.error("history could not be merged", extra=fields(why=exc))

    async def _retain(self) -> None:
        try:
            gone = await self._loop.run_in_executor(
                self._historian, self._history.retain, self._clock.wall_ms()
            )
        except StorageError as exc:
            log.error("history could not be tidied", extra=fields(why=exc))
            return
        for name in gone:
            log.info("history removed", extra=fields(file=name))

    async def _tidy(self) -> None:
        """Once a minute: certificates that end, tokens that ended, sessions whose certificate has expired, and
        memory that is free inside the process and could be free outside."""
        _give_memory_back()
        self._pki.server.refresh(self._names, self._clock.wall_ms())
        for host in self._registry.hosts():
            if self._registry.standing(host.agent_id) is RefusalReason.EXPIRED and self._ingest.connected(
                host.agent_id
            ):
                self._ingest.revoke(host.agent_id)
        with contextlib.suppress(StorageError):
            await self._enrolment.tidy()

    # ------------------------------------------------------------ what happens

    def _delivered(self, agent_id: str) -> bool:
        return any(mark.agent_id == agent_id for mark in self._history.marks())

    def _on_loop(self, call: Callable[..., object], *arguments: object) -> None:
        """From any thread; a loop that is closing takes nothing more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)

    def _failed(self, error: BaseException) -> None:
        """The rules' thread ended: without it this is no collector. The service manager starts it again."""
        log.critical("the rules' thread failed", exc_info=error)
        self._on_loop(self._house.spawn, "rules", _raise(error))

    def _host_changed(self, change: "HostChange") -> None:
        self._on_loop(self._take_host_change, change)

    def _take_host_change(self, change: "HostChange") -> None:
        from watchbill_collector.hosts import ChangeKind

        agent_id = change.after.agent_id
        if change.kind is ChangeKind.REVOKED:
            self._ingest.revoke(agent_id)
            self._ingest.retire(agent_id)
        elif change.kind in (ChangeKind.RETIRED, ChangeKind.FORGOTTEN, ChangeKind.REPLACED):
            self._ingest.retire(agent_id)
        elif change.kind is ChangeKind.RENAMED:
            self._ingest.renamed(agent_id)
        self._bus.publish(
            "host", {"host": change.after.instance, "agent_id": agent_id, "change": change.kind.value}
        )

    def _alert_changed(self, change: "AlertChange") -> None:
        document = {
            "alert": change.alert.rule,
            "state": change.alert.state.value,
            "labels": dict(change.alert.labels),
            "at_ms": change.at_ms,
        }
        self._on_loop(self._bus.publish, "alert", document)

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
                "retention",
            )
            if getattr(config, name) != getattr(self._config, name)
        ]
        if changed:
            wanted = "no change while it runs: restart the collector"
            file = str(self._homes.etc / "collector.toml")
            raise ConfigError([Problem(file, 0, name, "a new value", wanted) for name in changed])
        await asyncio.to_thread(check_rules, self._homes, config)
        self._config = config
        await self._load_rules()
        self._rules.wake()


def _settle_malloc() -> None:
    """Large arrays, which live for milliseconds, go back to the system, instead of leaving holes that are then
    filled with what lives long: glibc raises its own limit to 32 MB otherwise. Does nothing elsewhere."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, LARGE_BYTES)


def _settle_garbage() -> None:
    """What was made until now stays: the collector of garbage need not look at it again, and seldom at the rest.

    With a thousand agents a full collection took 170 ms, and the small ones 3 % of all CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def _give_memory_back() -> None:
    """glibc keeps what lies between two pieces in use. Readings come and go in pieces of a few kilobytes between
    what connections hold for long: with a thousand agents at 1 s this was 100 to 300 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


async def _raise(error: BaseException) -> None:
    raise error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
