"""Which hosts and services have neither a backup nor an exemption. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from watchbill_collector.api.backup_list import RETIRED
from watchbill_collector.api.backup_port import BackupJob, Exemption
from watchbill_collector.api.ports import Host, HostState
from watchbill_collector.api.services import ServiceStatus

NOT_OURS: Final = frozenset({HostState.RETIRED, HostState.REVOKED, HostState.PENDING})
"""Hosts that are gone, or not let in yet: nobody expects a backup of them."""


@dataclass(frozen=True, slots=True)
class UncoveredHost:
    """A host without any backup job. `services` are what it serves, as far as the caller sees."""

    name: str
    state: str
    labels: Mapping[str, str]
    services: Sequence[str]


@dataclass(frozen=True, slots=True)
class UncoveredService:
    """A service without a backup. `missing` are the backups that its description names and no host has; empty: it
    names none, and no backup names it.
    """

    name: str
    owner: str
    hosts: Sequence[str]
    missing: Sequence[str]


@dataclass(frozen=True, slots=True)
class Uncovered:
    """What has neither a backup nor an exemption, and how much there is of each kind."""

    hosts: Sequence[UncoveredHost]
    services: Sequence[UncoveredService]
    hosts_total: int
    services_total: int
    exempt: int


def uncovered(
    hosts: Iterable[Host],
    services: Iterable[ServiceStatus],
    jobs: Iterable[BackupJob],
    exemptions: Iterable[Exemption],
) -> Uncovered:
    """Judge hosts and services by the jobs of all hosts; a job of a host that is gone covers nothing."""
    living = [job for job in jobs if job.word != RETIRED]
    backed_up = {job.agent_id for job in living}
    serving = {job.service for job in living if job.service}
    names = {job.name for job in living}
    exempt = {(one.kind, one.name) for one in exemptions}
    expected = [host for host in hosts if host.state not in NOT_OURS]
    described = list(services)
    served: dict[str, list[str]] = {}
    for service in described:
        for each in service.hosts:
            served.setdefault(each.name, []).append(service.name)
    bare_hosts = [
        UncoveredHost(host.name, host.state.value, host.labels, served.get(host.name, []))
        for host in expected
        if host.agent_id not in backed_up and ("host", host.name) not in exempt
    ]
    bare_services = []
    for service in described:
        missing = [name for name in service.backups if name not in names]
        covered = service.name in serving or (bool(service.backups) and not missing)
        if (missing or not covered) and ("service", service.name) not in exempt:
            bare_services.append(
                UncoveredService(service.name, service.owner, [host.name for host in service.hosts], missing)
            )
    return Uncovered(bare_hosts, bare_services, len(expected), len(described), len(exempt))
