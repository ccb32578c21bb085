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
STATES = ("firing", "pending", "resolved")


@click.command()
@click.option("--all", "everything", is_flag=True, help="What resolved lately, too.")
@click.option("--exit-code", is_flag=True, help="End with Nagios' 0-3: OK, WARNING, CRITICAL, UNKNOWN.")
@talks
def alerts(session: Session, everything: bool, exit_code: bool) -> int:
    """What is pending or firing."""
    try:
        document = session.client.get("/alerts", {"resolved": "1"} if everything or session.as_json else None)
        status = session.client.get("/status")["status"] if exit_code else None
    except Misused:
        raise
    except CommandFailed as exc:
        if not exit_code:
            raise
        session.screen.line(f"UNKNOWN: {exc}")
        return UNKNOWN
    rows = sorted(document["alerts"], key=lambda alert: (STATES.index(alert["state"]), alert["since"]))
    resolved = [alert for alert in rows if alert["state"] == "resolved"]
    if not everything:
        rows = [alert for alert in rows if alert["state"] != "resolved"]
    document |= {"alerts": rows, "resolved": resolved}
    code, sentence = _nagios(rows, status) if status is not None else (OK, "")
    if session.as_json:
        session.screen.json(document)
        return code
    if exit_code:
        session.screen.line(sentence)
    if rows:
        _table(session, rows)
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


def _nagios(rows: list[dict[str, Any]], status: dict[str, Any]) -> tuple[int, str]:
    """The state and its sentence. Rules that do not run say nothing, so they never count as OK."""
    firing = [alert for alert in rows if alert["state"] == "firing"]
    code = max((SEVERITIES.get(alert["labels"].get("severity", ""), WARNING) for alert in firing), default=OK)
    names = ", ".join(sorted({clean(alert["name"]) for alert in firing}))
    if code == CRITICAL:
        return code, f"CRITICAL: {len(firing)} firing: {names}"
    if status["rules_failing"] or status["rules_late_s"] > RULES_LATE_S_MAX:
        return (
            UNKNOWN,
            f"UNKNOWN: {status['rules_failing']} rules fail, the last {status['rules_late_s']:.0f} s late",
        )
    if code == WARNING:
        return code, f"WARNING: {len(firing)} firing: {names}"
    return OK, f"OK: {len(firing)} firing, {sum(alert['state'] == 'pending' for alert in rows)} pending"
