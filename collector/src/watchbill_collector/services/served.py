"""The services, for the HTTP side: what the book says, with the hosts and the alerts of the moment."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from watchbill_collector.api.backup_report import BackupRpo
from watchbill_collector.api.ports import Alert, Host, HostsService, HostState, RulesService
from watchbill_collector.api.services import ServiceApp, ServiceHost, ServiceObjectives, ServiceStatus
from watchbill_collector.dispatch.values import Severity, severity_of
from watchbill_collector.scopes import INSTANCE, View
from watchbill_collector.servicebook import Belonging, Service, ServiceBook

GONE = frozenset({HostState.RETIRED, HostState.REVOKED, HostState.PENDING})
"""Hosts that serve nothing: no longer, or not yet."""
UNSURE = frozenset({HostState.UNKNOWN, HostState.NEVER})
"""States of which nobody can say whether the host serves."""
THERE = frozenset({HostState.UP, HostState.DOWN, HostState.UNKNOWN})
"""States of hosts whose applications count."""
APP_STATES = {"down": "major", "degraded": "minor", "unknown": "unknown", "healthy": "ok"}
"""What an application's state means for its service."""
STATES = ("critical", "major", "unknown", "minor", "ok")
"""The worst first."""


class ServedService:
    """`api.services.ServicesService` over the book, the hosts and the rules."""

    def __init__(
        self,
        belonging: Belonging,
        hosts: HostsService,
        rules: RulesService,
        rpo: Callable[[str, View], BackupRpo | None],
    ) -> None:
        self._belonging = belonging
        self._rpo = rpo
        self._hosts = hosts
        self._rules = rules

    async def services(self, view: View) -> Sequence[ServiceStatus]:
        """As they stand, as far as somebody sees them."""
        book = self._belonging.book()
        if not book.services:
            return ()
        seen = [each for each in await self._hosts.hosts() if view.host(each.name, each.labels)]
        hosts = _by_service(book, seen)
        apps = {
            each.name: apps_of(each, seen if each.hosts is None else hosts.get(each.name, []))
            for each in book.services
        }
        shown = [each for each in book.services if view.whole or each.name in hosts]
        firing: dict[str, dict[str, int]] = {}
        for alert in await self._seen(view):
            if alert.state == "firing":
                for service in self._belonging.touched(alert.labels):
                    counts = firing.setdefault(service.name, {})
                    severity = severity_of(alert.labels).value
                    counts[severity] = counts.get(severity, 0) + 1
        states = {
            each.name: state_of(each, hosts.get(each.name, []), firing.get(each.name, {}), apps[each.name])
            for each in shown
        }
        return [
            _status(
                each,
                book,
                states,
                hosts.get(each.name, []),
                firing.get(each.name, {}),
                self._rpo(each.name, view),
                apps[each.name],
            )
            for each in shown
        ]

    async def alerts_of(self, name: str, view: View) -> Sequence[Alert]:
        """What is pending or firing at one of them, of what somebody sees."""
        return [
            alert
            for alert in await self._seen(view)
            if any(service.name == name for service in self._belonging.touched(alert.labels))
        ]

    async def _seen(self, view: View) -> list[Alert]:
        bindings = self._belonging.bindings
        return [alert for alert in await self._rules.alerts() if view.covers(alert.labels, bindings)]


def apps_of(service: Service, hosts: Sequence[Host]) -> list[ServiceApp]:
    """The applications that belong to a service, of these hosts as far as they are there."""
    wanted = frozenset(service.checks)
    return [
        ServiceApp(host.name, app.name, app.state, app.since)
        for host in hosts
        if host.state in THERE
        for app in host.apps
        if (not wanted.isdisjoint(app.checks) if wanted else service.hosts and app.name == service.name)
    ]


def state_of(
    service: Service, hosts: Sequence[Host], firing: Mapping[str, int], apps: Sequence[ServiceApp] = ()
) -> str:
    """The worst of what is known of one service."""
    found = {severity for severity, count in firing.items() if count and severity != Severity.INFO.value}
    found |= {APP_STATES[app.state] for app in apps}
    down = [host for host in hosts if host.state is HostState.DOWN]
    if down:
        found.add("critical" if len(down) == len(hosts) else "major")
    if any(host.state in UNSURE for host in hosts) or (service.hosts is not None and not hosts):
        found.add("unknown")
    return next((state for state in STATES if state in found), "ok")


def _by_service(book: ServiceBook, hosts: Iterable[Host]) -> dict[str, list[Host]]:
    found: dict[str, list[Host]] = {}
    for host in hosts:
        if host.state not in GONE:
            for service in book.serving({**host.labels, INSTANCE: host.name}):
                found.setdefault(service.name, []).append(host)
    return found


def _status(
    service: Service,
    book: ServiceBook,
    states: Mapping[str, str],
    hosts: Sequence[Host],
    firing: Mapping[str, int],
    rpo: BackupRpo | None,
    apps: Sequence[ServiceApp],
) -> ServiceStatus:
    objectives = service.objectives
    return ServiceStatus(
        name=service.name,
        owner=service.owner,
        state=states[service.name],
        hosts=[ServiceHost(host.name, host.state.value) for host in hosts],
        hosts_up=sum(host.state is HostState.UP for host in hosts),
        hosts_down=sum(host.state is HostState.DOWN for host in hosts),
        firing={severity.value: firing.get(severity.value, 0) for severity in Severity},
        depends=[name for name in service.depends if name in states],
        failing_dependencies=[
            name for name in book.dependencies(service.name) if states.get(name) in ("critical", "major")
        ],
        dependants=[name for name in book.dependants(service.name) if name in states],
        selector="" if service.hosts is None else service.hosts.text,
        checks=service.checks,
        backups=service.backups,
        runbooks=service.runbooks,
        objectives=ServiceObjectives(
            None if objectives.availability is None else objectives.availability.fraction,
            None if objectives.rto is None else objectives.rto.ms / 1000,
            None if objectives.rpo is None else objectives.rpo.ms / 1000,
        ),
        channel=service.channel,
        rpo=rpo,
        apps=apps,
    )
