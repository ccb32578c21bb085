"""`watchbill alerts`."""

from typing import Any

import click

from watchbill_collector.cli.errors import CommandFailed, Misused
from watchbill_collector.cli.options import Session, talks
from watchbill_collector.cli.screen import ago, clean, number

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
"""Nagios' codes."""

SEVERITIES = {"critical": CRITICAL, "page": CRITICAL, "major": CRITICAL, "info": OK, "none": OK}
"""Severity of a firing alert -> Nagios' state; what is not here (minor, warning, none given) is WARNING."""

RULES_LATE_S_MAX = 120.0
PAGE = 5_000
"""Alerts asked for at once."""
STATES = ("firing", "pending", "resolved")


@click.command()
@click.option("--all", "everything", is_flag=True, help="What resolved lately, too.")
@click.option(
    "--limit", default=200, show_default=True, type=click.IntRange(1, 5_000), help="How many to show."
)
@click.option("--exit-code", is_flag=True, help="End with Nagios' 0-3: OK, WARNING, CRITICAL, UNKNOWN.")
@talks
def alerts(session: Session, everything: bool, limit: int, exit_code: bool) -> int:
    """What is pending or firing, the worst first."""
    try:
        document = _asked(session, everything or session.as_json, limit)
        status = session.client.get("/status")["status"] if exit_code else None
    except Misused:
        raise
    except CommandFailed as exc:
        if not exit_code:
            raise
        session.screen.line(f"UNKNOWN: {exc}")
        return UNKNOWN
    rows = sorted(document["alerts"], key=lambda alert: (STATES.index(alert["state"]), alert["since"]))
    left = document["total"] - len(rows)
    resolved = [alert for alert in rows if alert["state"] == "resolved"]
    if not everything:
        rows = [alert for alert in rows if alert["state"] != "resolved"]
    document |= {"alerts": rows, "resolved": resolved}
    code, sentence = _nagios(document["crowds"], status) if status is not None else (OK, "")
    if session.as_json:
        session.screen.json(document)
        return code
    if exit_code:
        session.screen.line(sentence)
    if rows:
        _table(session, rows)
        if left > 0:
            session.screen.line(
                f"and {left} more: watchbill alerts --limit {min(document['total'], 5_000)}, or --json for all"
            )
    elif not exit_code:
        session.screen.line("Nothing is pending or firing.")
    return code


def _table(session: Session, rows: list[dict[str, Any]]) -> None:
    session.screen.table(
        ("ALERT", "STATE", "FOR", "HOST", "SERVICE", "SEVERITY", "VALUE", "SUMMARY"),
        [
            (
                alert["name"],
                alert["state"],
                ago(alert["since"]),
                alert["labels"].get("instance", "-"),
                alert.get("service") or "-",
                alert["labels"].get("severity", "-"),
                "-" if alert["value"] is None else number(alert["value"]),
                alert["annotations"].get("summary", ""),
            )
            for alert in rows
        ],
        (2, 6),
    )


def _asked(session: Session, ended: bool, limit: int) -> dict[str, Any]:
    """The alerts: so many for people, all of them for programs."""
    fields = {"resolved": "1"} if ended else {}
    whole: dict[str, Any] = session.client.get(
        "/alerts", {**fields, "limit": str(PAGE if session.as_json else limit)}
    )
    while session.as_json and len(whole["alerts"]) < whole["total"]:
        page = session.client.get(
            "/alerts", {**fields, "limit": str(PAGE), "offset": str(len(whole["alerts"]))}
        )
        if not page["alerts"]:
            break  # Some have ended meanwhile.
        whole["alerts"] += page["alerts"]
    return whole


def _nagios(crowds: list[dict[str, Any]], status: dict[str, Any]) -> tuple[int, str]:
    """The state and its sentence. Rules that do not run say nothing, so they never count as OK."""
    firing = [crowd for crowd in crowds if crowd["state"] == "firing"]
    count = sum(crowd["count"] for crowd in firing)
    code = max((SEVERITIES.get(crowd["severity"], WARNING) for crowd in firing), default=OK)
    names = ", ".join(sorted({clean(crowd["name"]) for crowd in firing}))
    if code == CRITICAL:
        return code, f"CRITICAL: {count} firing: {names}"
    if status["rules_failing"] or status["rules_late_s"] > RULES_LATE_S_MAX:
        return (
            UNKNOWN,
            f"UNKNOWN: {status['rules_failing']} rules fail, the last {status['rules_late_s']:.0f} s late",
        )
    if code == WARNING:
        return code, f"WARNING: {count} firing: {names}"
    pending = sum(crowd["count"] for crowd in crowds if crowd["state"] == "pending")
    return OK, f"OK: {count} firing, {pending} pending"
