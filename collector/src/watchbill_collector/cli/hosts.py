"""`watchbill hosts` and its verbs, and `watchbill gaps`."""

import json
from typing import Any

import click

from watchbill_collector.cli.client import segment
from watchbill_collector.cli.options import Session, seconds, sure, talks
from watchbill_collector.cli.screen import ago, clean, clock, labels_text, number, span

HEAD = ("HOST", "STATE", "FOR", "SEEN", "AGENT", "EVERY", "SERIES", "SKEW", "GAPS", "CERTIFICATE")
NUMBERS = (2, 3, 5, 6, 7, 8, 9)
CHECK_HEAD = ("CHECK", "KIND", "APP", "STATE", "FOR", "WHY")


@click.group(invoke_without_command=True)
@click.option("--outdated", is_flag=True, help="Only hosts whose agent is older than the collector.")
@talks
@click.pass_context
def hosts(ctx: click.Context, session: Session, outdated: bool) -> None:
    """List hosts; show, rename, retire, revoke, approve or forget one."""
    if ctx.invoked_subcommand is None:
        _list(session, outdated)


@hosts.command("list")
@click.option("--outdated", is_flag=True, help="Only hosts whose agent is older than the collector.")
@talks
def list_hosts(session: Session, outdated: bool) -> None:
    """List hosts."""
    _list(session, outdated)


def _list(session: Session, outdated: bool) -> None:
    document = session.client.get("/hosts")
    if outdated:
        document["hosts"] = [host for host in document["hosts"] if host["outdated"]]
    if session.as_json:
        session.screen.json(document)
        return
    if not document["hosts"]:
        session.screen.line(
            "Every agent is up to date."
            if outdated
            else "No hosts yet. try: watchbill enroll create --name NAME"
        )
        return
    session.screen.table(HEAD, [_row(host) for host in document["hosts"]], NUMBERS)


def _row(host: dict[str, Any]) -> tuple[str, ...]:
    skew = host["clock_skew_s"]
    interval = host["interval_s"]
    return (
        host["name"],
        _standing(host),
        ago(host["since"]),
        ago(host["last_seen"]),
        (host["agent_version"] or "-") + (" (old)" if host["outdated"] else ""),
        span(interval) if interval and interval >= 1 else "-" if not interval else f"{interval:g}s",
        str(host["series"]),
        "-" if skew is None else f"{skew:+.1f}s",
        str(host["gaps"]["ranges"]),
        ago(host["certificate_expires"]),
    )


def _standing(host: dict[str, Any]) -> str:
    """The state, and why the host is not there."""
    absence, state = host.get("absence"), str(host["state"])
    if not absence:
        return state
    if absence["kind"] == "unexpected":
        words = "link lost" if state == "up" else "unexpected"
        return f"{state}: {words} since {clock(absence['since'])}"
    back_by = absence["back_by"]
    if absence["kind"] == "overdue":
        return f"{state}: {absence['reason']}, overdue since {clock(back_by)}"
    if absence["reason"] == "stop" and not back_by:
        return state
    return f"{state}: {absence['reason']}" + (f", back by {clock(back_by)}" if back_by else "")


@hosts.command()
@click.argument("name")
@click.option("--events", is_flag=True, help="What it told, newest first, instead.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="So many events.")
@talks
def show(session: Session, name: str, events: bool, limit: int) -> None:
    """One host, its alerts, applications, checks and newest gaps; or its events."""
    if events:
        _events(session, name, limit)
        return
    document = session.client.get(f"/hosts/{segment(name)}")
    if session.as_json:
        session.screen.json(document)
        return
    host, screen = document["host"], session.screen
    gaps = host["gaps"]
    for key, value in (
        ("host", clean(host["name"])),
        (
            "state",
            f"{screen.state(_standing(host))}{',' * bool(host.get('absence'))} for {ago(host['since'])}",
        ),
        ("seen", f"{ago(host['last_seen'])} ago" if host["last_seen"] else "never"),
        (
            "agent",
            f"{clean(host['agent_version'] or '-')}{' (outdated)' if host['outdated'] else ''}",
        ),
        ("agent id", clean(host["agent_id"])),
        ("site", clean(host["site"])),
        ("labels", clean(labels_text(host["labels"]), 400)),
        ("series", str(host["series"])),
        ("transport", clean(host["transport"] or "-")),
        ("clock", "-" if host["clock_skew_s"] is None else f"{host['clock_skew_s']:+.3f} s"),
        ("certificate", _certificate(host)),
        ("missing", _missing(gaps)),
    ):
        screen.line(f"{key:12} {value}")
    for alert in document["alerts"]:
        screen.line(
            f"{'alert':12} {screen.state(alert['state'])} {clean(alert['name'])} for {ago(alert['since'])}"
        )
    if host.get("apps"):
        screen.line()
        screen.table(("APP", "STATE", "FOR", "CHECKS"), [_app_row(app) for app in host["apps"]])
    if document.get("checks"):
        screen.line()
        screen.table(CHECK_HEAD, [_check_row(check) for check in document["checks"]])
    if document["gaps"]:
        screen.line()
        _gap_table(session, document["gaps"])


def _app_row(app: dict[str, Any]) -> tuple[str, ...]:
    return app["name"], app["state"], ago(app["since"]), ", ".join(app["checks"])


def _check_row(check: dict[str, Any]) -> tuple[str, ...]:
    return (
        check["name"],
        check["kind"] or "-",
        check["app"] + ("" if check["essential"] else " (not essential)") if check["app"] else "-",
        check["verdict"],
        ago(check["since"]),
        ": ".join(filter(None, (check["reason"], check["detail"]))) or "-",
    )


def _events(session: Session, name: str, limit: int) -> None:
    document = session.client.get(f"/hosts/{segment(name)}/events", {"limit": str(limit)})
    if session.as_json:
        session.screen.json(document)
        return
    if not document["events"]:
        session.screen.line("It has told nothing yet.")
        return
    session.screen.table(
        ("AT", "EVENT", "WHAT"),
        [
            (_short(event["at"]), event["kind"], _said(event["kind"], event["detail"]))
            for event in document["events"]
        ],
    )
    if document["more"]:
        session.screen.line(f"There are more. try: watchbill hosts show {clean(name)} --events --limit 1000")


def _said(kind: str, detail: dict[str, Any]) -> str:
    """What an event says, on one line."""
    if kind == "check.changed":
        before = f" (was {detail['from']})" if detail.get("from") else ""
        why = ": ".join(str(detail[key]) for key in ("reason", "detail") if detail.get(key))
        return f"{detail.get('check')} is {detail.get('to')}{before}" + (f": {why}" if why else "")
    return " ".join(f"{key}={_value(value)}" for key, value in detail.items() if value not in ("", None))


def _value(value: object) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value, ensure_ascii=False)


@hosts.command()
@click.argument("name")
@click.argument("to")
@talks
def rename(session: Session, name: str, to: str) -> None:
    """Give host NAME the name TO: new series begin under it, the old ones end."""
    _changed(
        session, session.client.post(f"/hosts/{segment(name)}/rename", {"to": to}), f"{name} is now {to}"
    )


@hosts.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@talks
def retire(session: Session, name: str, yes: bool) -> None:
    """A host is gone for good: its series end, its certificate is worth nothing, its history stays."""
    sure(f"Retire {clean(name)}? Its certificate will be worth nothing.", yes)
    _changed(session, session.client.post(f"/hosts/{segment(name)}/retire"), f"{name} is retired")


@hosts.command()
@click.argument("name")
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@talks
def revoke(session: Session, name: str, reason: str, yes: bool) -> None:
    """Make a host's certificate worthless now; its live session ends."""
    sure(f"Revoke {clean(name)}? It will need a new token to come back.", yes)
    document = session.client.post(f"/hosts/{segment(name)}/revoke", {"reason": reason})
    _changed(session, document, f"{name} is revoked")


@hosts.command()
@click.argument("name")
@talks
def approve(session: Session, name: str) -> None:
    """Let in a host that waits for an administrator."""
    _changed(session, session.client.post(f"/hosts/{segment(name)}/approve"), f"{name} may come in")


@hosts.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@talks
def forget(session: Session, name: str, yes: bool) -> None:
    """Remove a retired or revoked host from the lists."""
    sure(f"Forget {clean(name)}?", yes)
    _changed(session, session.client.delete(f"/hosts/{segment(name)}"), f"{name} is forgotten")


def _changed(session: Session, document: Any, sentence: str) -> None:
    if session.as_json:
        session.screen.json(document)
    else:
        session.screen.line(clean(sentence, 600) + ".")


@click.command()
@click.argument("host", required=False)
@click.option("--since", metavar="DURATION", help="Recorded within the last 1h, 7d, ...")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1_000, show_default=True)
@talks
def gaps(session: Session, host: str | None, since: str | None, limit: int) -> None:
    """Which data are known to be missing, and why; of HOST alone when it is given."""
    fields = {"limit": str(limit)}
    if host:
        fields["host"] = host
    if since:
        import time

        fields["since"] = f"{time.time() - seconds(since):.3f}"
    document = session.client.get("/gaps", fields)
    if session.as_json:
        session.screen.json(document)
        return
    if not document["gaps"]:
        session.screen.line("Nothing is known to be missing.")
        return
    _gap_table(session, document["gaps"])
    if document["truncated"]:
        session.screen.line(
            f"There are more than {limit}. try: watchbill gaps --limit {min(limit * 10, 100_000)}"
        )


def _gap_table(session: Session, rows: list[dict[str, Any]]) -> None:
    session.screen.table(
        ("HOST", "STREAM", "RECORDS", "SAMPLES", "FROM", "TO", "FOR", "REASON", "RECORDED"),
        [
            (
                gap["host"],
                gap["stream"],
                "unknown" if gap["reason"] == "tail_unknown" else number(gap["count"]),
                "unknown" if gap["samples"] is None else number(gap["samples"]),
                _short(gap["first"]),
                _short(gap["last"]),
                "-" if gap.get("duration_s") is None else span(gap["duration_s"]),
                gap["reason"],
                f"{ago(gap['recorded'])} ago",
            )
            for gap in rows
        ],
        (2, 3, 6),
    )


def _certificate(host: dict[str, Any]) -> str:
    """When it ends, and what the next is like."""
    words = [f"until {clean(host['certificate_expires'])}" if host["certificate_expires"] else "-"]
    life_s, grace_s = host.get("certificate_lifetime_s"), host.get("expired_grace_s")
    if life_s is not None:
        words.append(f"the next for {span(life_s)}")
    if grace_s is not None:
        words.append(f"may be renewed {span(grace_s)} late" if grace_s else "never renewed late")
    return "; ".join(words)


def _missing(gaps: dict[str, Any]) -> str:
    words = f"{gaps['samples']} samples in {gaps['ranges']} ranges"
    return f"at least {words}, unknown in {gaps['unknown']} of them" if gaps["unknown"] else words


def _short(text: str | None) -> str:
    return text[:19].replace("T", " ") if text else "-"
