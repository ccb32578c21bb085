"""What every handler may use: the services behind the API, its options, and the HTTP side's own parts."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from watchbill_collector.api.audit_port import AuditService
from watchbill_collector.api.backup_port import BackupsService
from watchbill_collector.api.backup_twin import NoBackups
from watchbill_collector.api.bundle_port import BundleService, NoBundles
from watchbill_collector.api.channel_port import ChannelsService
from watchbill_collector.api.counters import HttpCounters
from watchbill_collector.api.drill_port import DrillsService, NoDrills
from watchbill_collector.api.events import EventBus
from watchbill_collector.api.evidence_port import EvidenceService, NoEvidence
from watchbill_collector.api.health import HealthService, HealthTwin
from watchbill_collector.api.page import PageFile
from watchbill_collector.api.people_port import PeopleService
from watchbill_collector.api.pool import QueryPool
from watchbill_collector.api.ports import (
    EnrolmentService,
    GapsService,
    HostsService,
    QueryService,
    RulesService,
    UsersService,
)
from watchbill_collector.api.roster_port import NoRoster, RosterService
from watchbill_collector.api.runbook_port import RunbookService
from watchbill_collector.api.runbook_twin import NoRunbooks
from watchbill_collector.api.services import NoServices, ServicesService
from watchbill_collector.api.silences import NoSilences, SilencesService
from watchbill_collector.api.status_port import StatusService
from watchbill_collector.api.told_port import NoTelling, TellingService
from watchbill_collector.api.trial_orders import NoTrials, TrialsService
from watchbill_collector.scopes import Bindings


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The rest of the collector, as `ports.py` has it."""

    query: QueryService
    rules: RulesService
    hosts: HostsService
    enrolments: EnrolmentService
    gaps: GapsService
    users: UsersService
    status: StatusService
    channels: ChannelsService
    audit: AuditService
    people: PeopleService
    bindings: Bindings
    health: HealthService = field(default_factory=HealthTwin)
    services: ServicesService = field(default_factory=NoServices)
    trials: TrialsService = field(default_factory=NoTrials)
    silences: SilencesService = field(default_factory=NoSilences)
    telling: TellingService = field(default_factory=NoTelling)
    backups: BackupsService = field(default_factory=NoBackups)
    runbooks: RunbookService = field(default_factory=NoRunbooks)
    drills: DrillsService = field(default_factory=NoDrills)
    roster: RosterService = field(default_factory=NoRoster)
    evidence: EvidenceService = field(default_factory=NoEvidence)
    bundles: BundleService = field(default_factory=NoBundles)


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How the API is offered.

    `loopback`: it listens on loopback alone, so only loopback names are taken as `Host`, against DNS
    rebinding; `names` are further names it answers to. `tls`: it serves TLS itself. `behind_proxy`: a proxy
    in front does.
    """

    version: str
    loopback: bool = True
    tls: bool = False
    behind_proxy: bool = False
    anonymous_read: bool = False
    names: tuple[str, ...] = ()
    page: Mapping[str, PageFile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class House:
    """Everything a handler may use. `stopping` is set before the server stops: streams end at once."""

    services: Services
    options: HttpOptions
    pool: QueryPool
    bus: EventBus
    counters: HttpCounters
    stopping: asyncio.Event
