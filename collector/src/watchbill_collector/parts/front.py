"""The HTTP side: page, API, `/metrics`, and the socket of `user`, over the services of all other parts."""

import asyncio

from watchbill import __version__
from watchbill_collector.api.application import create_application
from watchbill_collector.api.counters import HttpCounters
from watchbill_collector.api.house import House, HttpOptions, Services
from watchbill_collector.api.page import load_page
from watchbill_collector.api.pool import QueryPool
from watchbill_collector.api.ports import at
from watchbill_collector.api.server import HttpServer, TlsFiles
from watchbill_collector.api.status_port import CertificateStatus, PortStatus
from watchbill_collector.configured import answered_names
from watchbill_collector.parts.backup_watch import BackupWatch
from watchbill_collector.parts.doors import Doors
from watchbill_collector.parts.ground import Ground, Part
from watchbill_collector.parts.intake import Intake
from watchbill_collector.parts.judging import Judging
from watchbill_collector.parts.notices import Notices
from watchbill_collector.parts.past import Past
from watchbill_collector.parts.runbooks import Runbooks
from watchbill_collector.parts.state import State
from watchbill_collector.promql.querymemory import QueryMemory
from watchbill_collector.runbookfiles import usable_runbooks
from watchbill_collector.services.accounts import AccountsService
from watchbill_collector.services.backup_answers import BackupAnswers
from watchbill_collector.services.bundles import Bundles
from watchbill_collector.services.channels import ChannelService
from watchbill_collector.services.condition import CollectorMetrics, ConditionService, OwnSamples
from watchbill_collector.services.doorkeeping import DoorService
from watchbill_collector.services.evidence import Beside, Evidence
from watchbill_collector.services.fleet import FleetService
from watchbill_collector.services.judging import JudgingService
from watchbill_collector.services.people import ManagingService, PeopleService
from watchbill_collector.services.queries import QueryService
from watchbill_collector.services.served import ServedService
from watchbill_collector.services.silencing import SilencingService
from watchbill_collector.services.staffing import Staffing
from watchbill_collector.services.telling import AlertTelling
from watchbill_collector.services.trials import TrialsService
from watchbill_collector.services.userdesk import UserSocket


class Front(Part):
    """See the module. It answers that it is not ready until `ready` was called."""

    port = 0
    """Where it listens, once it is open."""

    def __init__(
        self,
        ground: Ground,
        state: State,
        past: Past,
        intake: Intake,
        judging: Judging,
        backup_watch: BackupWatch,
        notices: Notices,
        runbooks: Runbooks,
        doors: Doors,
    ) -> None:
        self._ground = ground
        self._state = state
        self._past = past
        self._intake = intake
        self._judging = judging
        self._backup_watch = backup_watch
        self._notices = notices
        self._runbooks = runbooks
        self._doors = doors
        http = ground.config.http
        self._tls = TlsFiles(http.certificate, http.key) if http.certificate and http.key else None
        ground.metrics.register(CollectorMetrics(past.history, past.table))
        self.own = OwnSamples(ground.metrics, past.table, ground.host_name)
        self._condition = self._made_condition()

    async def open(self) -> None:
        """Listen: on the socket of `user`, then on HTTP."""
        ground, http = self._ground, self._ground.config.http
        staffing = Staffing(self._state.store, ground.clock, lambda: usable_runbooks(ground.homes.etc))
        desk = UserSocket(ground.homes.run, self._state.users, staffing)
        await desk.start()
        ground.stack.push_async_callback(desk.stop)
        house = House(
            self._services(),
            self._options(),
            self._query_pool(),
            ground.bus,
            HttpCounters(ground.metrics),
            asyncio.Event(),
        )
        server = HttpServer(create_application(house), house, http.listen.host, http.listen.port, self._tls)
        await server.start()
        ground.stack.push_async_callback(server.stop)
        self.port = server.port
        self._tell_condition()

    def ready(self) -> None:
        """Everything is open: say so to who asks."""
        self._condition.not_ready = ""

    def _services(self) -> Services:
        """What handlers ask: a service for each port of the API."""
        ground, state, past, notices = self._ground, self._state, self._past, self._notices
        engine, book, ingest = self._judging.engine, self._judging.book, self._intake.ingest
        dispatching, clock, bindings = notices.dispatching, ground.clock, state.bindings
        accounts = AccountsService(past.history, state.registry)
        backups = BackupAnswers(self._backup_watch.backups, state.store, clock, ingest)
        runbooks = self._runbooks.house.desk
        rules = JudgingService(book, state.belonging, dispatching.hush_of)
        hosts = FleetService(
            state.registry, ingest, accounts, ingest.delivered, state.lifetimes, self._intake.health
        )
        return Services(
            query=QueryService(engine, past.history, past.table, state.registry.forgotten_names, bindings),
            rules=rules,
            hosts=hosts,
            enrolments=DoorService(self._doors.enrolment.tokens),
            gaps=accounts,
            health=self._intake.health,
            users=PeopleService(state.users, clock.wall_ms),
            audit=state.auditing,
            people=ManagingService(state.users),
            bindings=bindings,
            status=self._condition,
            channels=ChannelService(notices.channels, clock, ground.external_url),
            services=ServedService(state.belonging, hosts, rules, self._backup_watch.backups.budgets.of),
            silences=SilencingService(
                dispatching.silences,
                dispatching.dispatcher,
                notices.channels,
                rules,
                state.store,
                clock,
                lambda: dispatching.routing.windows,
                bindings,
            ),
            telling=AlertTelling(dispatching.dispatcher, state.store, clock, lambda: dispatching.routing),
            backups=backups,
            runbooks=runbooks,
            drills=self._runbooks.watch.drills,
            roster=self._runbooks.roster,
            bundles=Bundles(
                state.store,
                clock,
                state.audit,
                runbooks,
                bytes(state.pki.keys.command),
                self._runbooks.house.fleet.fleet,
                lambda: self._runbooks.house.orders.epoch,
            ),
            evidence=Evidence(
                state.store,
                clock,
                state.audit,
                state.pki.audit,
                Beside(clock, state.store, runbooks, backups),
            ),
            trials=TrialsService(engine, past.history, past.table, bindings, clock),
        )

    def _options(self) -> HttpOptions:
        config, http = self._ground.config, self._ground.config.http
        return HttpOptions(
            version=__version__,
            loopback=http.listen.loopback,
            tls=self._tls is not None,
            behind_proxy=http.behind_proxy,
            anonymous_read=http.anonymous_read,
            names=answered_names(config, self._state.names),
            page=load_page(),
        )

    def _query_pool(self) -> QueryPool:
        query = self._ground.config.query
        return QueryPool(
            timeout_s=float(query.timeout),
            samples_max=query.samples_max,
            precedence=self._judging.precedence,
            memory=QueryMemory(int(query.memory)),
        )

    def _made_condition(self) -> ConditionService:
        dispatching = self._notices.dispatching
        condition = ConditionService(
            self._ground.clock,
            self._ground.config.site,
            self._ground.directory,
            history=self._past.history,
            ingest=self._intake.ingest,
            book=self._judging.book,
            table=self._past.table,
        )
        condition.channels_failing = dispatching.failing
        condition.outbox_unwritten = lambda: dispatching.outbox.undurable
        condition.roster_disabled = self._runbooks.roster.still_there
        return condition

    def _tell_condition(self) -> None:
        """What is served, now that the ports are known."""
        config, doors, pki = self._ground.config, self._doors, self._state.pki
        grpc, http, mqtt = config.grpc, config.http, config.mqtt
        self._condition.certificates = (
            CertificateStatus("server", at(pki.server.not_after_ms)),
            CertificateStatus("authority", pki.authority.certificate.not_valid_after_utc),
        )
        self._condition.ports = (
            PortStatus("agents", f"{grpc.listen.host}:{doors.stream_port}", tls=True),
            PortStatus("enrolment", f"{grpc.enroll_listen.host}:{doors.enroll_port}", tls=True),
            PortStatus("http", f"{http.listen.host}:{self.port}", tls=self._tls is not None),
            *((PortStatus("mqtt", str(mqtt.listen), tls=True),) if doors.mqtt_port else ()),
        )
