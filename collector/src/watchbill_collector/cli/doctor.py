"""`watchbill doctor`: how the collector does, as its operator sees it from here."""

import time
from typing import Any

import click

from watchbill import __version__
from watchbill_collector.cli.errors import FAILED, OK
from watchbill_collector.cli.options import Session, talks
from watchbill_collector.cli.screen import clean, moment, span

SKEW_S_MAX = 5.0


@click.command()
@talks
def doctor(session: Session) -> int:
    """How the collector does, and what to do about what is wrong. Ends with 1 when something fails."""
    begun_s = time.time()
    document = session.client.get("/status")
    took_s = time.time() - begun_s
    findings = [*_from_here(session, document["status"], begun_s, took_s), *document["findings"]]
    code = FAILED if any(finding["state"] == "fail" for finding in findings) else OK
    if session.as_json:
        session.screen.json({"status": document["status"], "findings": findings})
        return code
    for finding in findings:
        session.screen.line(
            f"{session.screen.state(finding['state'])}{' ' * (6 - len(finding['state']))}"
            f"{clean(finding['check']):12} {clean(finding['what'], 300)}"
        )
        if finding["fix"]:
            session.screen.line(f"      try: {clean(finding['fix'], 300)}")
    return code


def _from_here(
    session: Session, status: dict[str, Any], begun_s: float, took_s: float
) -> list[dict[str, str]]:
    """What only the operator's side can see."""
    collector = session.client.collector
    found = [
        _finding("reach", "ok", f"{collector.url} answered in {took_s * 1000:.0f} ms ({collector.source})"),
    ]
    if status["version"] == __version__:
        found.append(_finding("version", "ok", f"collector {status['version']}, up for {_up(status)}"))
    else:
        found.append(
            _finding(
                "version",
                "warn",
                f"the collector is {status['version']}, this command {__version__}",
                "upgrade the older one",
            )
        )
    theirs = moment(status["now"])
    skew_s = theirs.timestamp() - (begun_s + took_s / 2) if theirs else 0.0
    if abs(skew_s) > SKEW_S_MAX:
        found.append(
            _finding(
                "clock", "warn", f"the collector's clock is {skew_s:+.0f} s off ours", "timedatectl status"
            )
        )
    return found


def _up(status: dict[str, Any]) -> str:
    started, now = moment(status["started"]), moment(status["now"])
    return span((now - started).total_seconds()) if started and now else "-"


def _finding(check: str, state: str, what: str, fix: str = "") -> dict[str, str]:
    return {"check": check, "state": state, "what": what, "fix": fix}
