"""`/api/watchbill/v1/services`: what the hosts serve, who owns it, and how it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from starlette.responses import Response

from watchbill_collector.api.alert_list import ALERTS_DEFAULT, Wanted, listed
from watchbill_collector.api.answers import json_answer
from watchbill_collector.api.backup_report import BackupRpo
from watchbill_collector.api.ports import Alert, NoSuch
from watchbill_collector.api.routes import Call, Need, Parameter, Route, Within
from watchbill_collector.scopes import View

BASE = "/api/watchbill/v1"
NAME_CHARACTERS_MAX = 1_024


@dataclass(frozen=True, slots=True)
class ServiceHost:
    """A host that serves it, and how that stands."""

    name: str
    state: str


@dataclass(frozen=True, slots=True)
class ServiceApp:
    """An application of a host that belongs to it, and how that stands: healthy, degraded, down or unknown."""

    host: str
    name: str
    state: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class ServiceObjectives:
    """What has been promised; None where nothing was."""

    availability: float | None = None
    rto_s: float | None = None
    rpo_s: float | None = None


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service.

    `state` is the worst of what is known: critical (an alert of that severity fires, or all hosts are down), major
    (likewise, or one is, or an application is), unknown (a host's state is, or an application's, or there is no host),
    minor (likewise, or an application is degraded), ok. `apps` are those that its `checks` belong to; without `checks`
    those of its own name on its hosts. `firing` counts its alerts by
    severity. `depends` is what the file says; `failing_dependencies` are those, and theirs, that are critical or
    major; `dependants` all that need it. `rpo` is how the RPO that it promises was kept over the last 30 days by all
    its backups; None where none is promised, nothing backs it up, or a host of these is not the caller's to see.
    """

    name: str
    owner: str
    state: str
    hosts: Sequence[ServiceHost]
    hosts_up: int
    hosts_down: int
    firing: Mapping[str, int]
    depends: Sequence[str]
    failing_dependencies: Sequence[str]
    dependants: Sequence[str]
    selector: str = ""
    checks: Sequence[str] = ()
    backups: Sequence[str] = ()
    runbooks: Sequence[str] = ()
    objectives: ServiceObjectives = field(default_factory=ServiceObjectives)
    channel: str = ""
    rpo: BackupRpo | None = None
    apps: Sequence[ServiceApp] = ()


class ServicesService(Protocol):
    """The services as they stand."""

    async def services(self, view: View) -> Sequence[ServiceStatus]:
        """In the order of their files, as somebody sees them: with the hosts and alerts that are his to see, and none
        that has no such host.
        """

    async def alerts_of(self, name: str, view: View) -> Sequence[Alert]:
        """What is pending or firing at one of them, of what somebody sees."""


class NoServices:
    """The twin: no service is known."""

    async def services(self, view: View) -> Sequence[ServiceStatus]:  # noqa: ARG002 - The protocol's.
        """None."""
        return ()

    async def alerts_of(self, name: str, view: View) -> Sequence[Alert]:  # noqa: ARG002 - The protocol's.
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class ServiceList:
    """Every service."""

    services: Sequence[ServiceStatus]


@dataclass(frozen=True, slots=True)
class ServiceDetail:
    """One service, and its worst alerts: `GET alerts` tells all."""

    service: ServiceStatus
    alerts: Sequence[Alert]


async def _services(call: Call) -> Response:
    return json_answer(ServiceList(await call.house.services.services.services(call.view)))


async def _service(call: Call) -> Response:
    name: str = call.request.path_params["name"]
    served = call.house.services.services
    found = next((each for each in await served.services(call.view) if each.name == name), None)
    if found is None:
        shown = "".join(letter if letter.isprintable() else "?" for letter in name[:NAME_CHARACTERS_MAX])
        raise NoSuch(f"no service is called {shown!r}: watchbill services lists them")
    alerts = listed(await served.alerts_of(name, call.view), Wanted(), limit=ALERTS_DEFAULT).alerts
    return json_answer(ServiceDetail(found, alerts))


SERVICE_ROUTES: tuple[Route, ...] = (
    Route(
        ("GET",),
        f"{BASE}/services",
        Need.READ,
        _services,
        "Services with their owners, hosts, alerts and dependencies.",
        gives=ServiceList,
        within=Within.FILTERED,
    ),
    Route(
        ("GET",),
        f"{BASE}/services/{{name}}",
        Need.READ,
        _service,
        "One service and its alerts.",
        (Parameter("name", "The service's name.", required=True),),
        gives=ServiceDetail,
        within=Within.OBJECT,
    ),
)
