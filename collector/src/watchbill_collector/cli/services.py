"""`watchbill services`."""

from typing import Any

import click

from watchbill_collector.cli.backup_text import rpo_kept, rpo_said
from watchbill_collector.cli.client import segment
from watchbill_collector.cli.options import Session, talks
from watchbill_collector.cli.screen import ago, clean, span

SEVERITIES = ("critical", "major", "minor", "info")


@click.command()
@click.argument("name", required=False)
@talks
def services(session: Session, name: str | None) -> None:
    """Services with their owners, hosts, alerts and dependencies; NAME alone, with its alerts."""
    if name is not None:
        _show(session, session.client.get(f"/services/{segment(name)}"))
        return
    document = session.client.get("/services")
    if session.as_json:
        session.screen.json(document)
        return
    if not document["services"]:
        session.screen.line("No service is described. try: services.d/NAME.toml beside collector.toml")
        return
    session.screen.table(
        ("SERVICE", "STATE", "UP", "FIRING", "RPO KEPT", "LEFT", "OWNER", "DEPENDS", "BECAUSE OF"),
        [_row(service) for service in document["services"]],
        (2,),
    )


def _row(service: dict[str, Any]) -> tuple[str, ...]:
    rpo = service["rpo"]
    _, kept, _, left = ("-", "-", "-", "-") if rpo is None or rpo["kept"] is None else rpo_said(rpo)
    return (
        service["name"],
        service["state"],
        f"{service['hosts_up']}/{len(service['hosts'])}",
        _firing(service),
        kept,
        left,
        service["owner"] or "-",
        ", ".join(service["depends"]) or "-",
        ", ".join(service["failing_dependencies"]) or "-",
    )


def _firing(service: dict[str, Any]) -> str:
    counts = [(severity, service["firing"].get(severity, 0)) for severity in SEVERITIES]
    return ", ".join(f"{count} {severity}" for severity, count in counts if count) or "-"


def _show(session: Session, document: dict[str, Any]) -> None:
    if session.as_json:
        session.screen.json(document)
        return
    service, screen = document["service"], session.screen
    objectives = service["objectives"]
    for key, value in (
        ("service", clean(service["name"])),
        ("state", screen.state(service["state"])),
        ("owner", clean(service["owner"] or "-")),
        (
            "hosts",
            clean(", ".join(f"{host['name']} ({host['state']})" for host in service["hosts"]) or "-", 1_000),
        ),
        ("apps", clean(", ".join(_app(app) for app in service.get("apps", ())) or "-", 1_000)),
        ("selector", clean(service["selector"] or "-", 400)),
        ("firing", _firing(service)),
        ("depends", clean(", ".join(service["depends"]) or "-", 400)),
        ("failing", clean(", ".join(service["failing_dependencies"]) or "-", 400)),
        ("needed by", clean(", ".join(service["dependants"]) or "-", 400)),
        ("checks", clean(", ".join(service["checks"]) or "-", 400)),
        ("backups", clean(", ".join(service["backups"]) or "-", 400)),
        ("runbooks", clean(", ".join(service["runbooks"]) or "-", 400)),
        ("promised", _promised(objectives)),
        ("RPO kept", rpo_kept(service["rpo"])),
        ("channel", clean(service["channel"] or "-")),
    ):
        screen.line(f"{key:12} {value}")
    for alert in document["alerts"]:
        host = alert["labels"].get("instance", "")
        told = (
            f"{screen.state(alert['state'])} {clean(alert['name'])} {clean(host)} for {ago(alert['since'])}"
        )
        screen.line(f"{'alert':12} {told}")


def _app(app: dict[str, Any]) -> str:
    since = f" for {ago(app['since'])}" if app["since"] else ""
    return f"{app['name']} on {app['host']} ({app['state']}{since})"


def _promised(objectives: dict[str, Any]) -> str:
    parts = []
    if objectives["availability"] is not None:
        parts.append(f"there {objectives['availability'] * 100:g} % of the time")
    if objectives["rto_s"] is not None:
        parts.append(f"back within {span(objectives['rto_s'])}")
    if objectives["rpo_s"] is not None:
        parts.append(f"at most {span(objectives['rpo_s'])} of data lost")
    return ", ".join(parts) or "-"
