"""`watchbill backups verify`: has a host verify a backup now, says what it answers, and waits for what it finds."""

import time
from typing import Any, Final

from watchbill_collector.cli.backup_text import said
from watchbill_collector.cli.client import segment
from watchbill_collector.cli.errors import CommandFailed, Refused, Unreachable
from watchbill_collector.cli.options import Session
from watchbill_collector.cli.screen import clean, span

OK, FAILED = 0, 1
POLL_S_MIN: Final = 0.5
POLL_S_MAX: Final = 10.0
AWAY_S_MAX: Final = 300.0
"""How long a collector may not answer while somebody waits: one that is started anew is back by then."""
ENTRIES: Final = 50
"""Looked through for what was found: a verification that began is among the newest soon after its end."""


def verify(session: Session, job: str, level: str, *, wait: bool, within_s: float) -> int:
    """Ask, tell, wait; the exit code."""
    path = f"/backups/{segment(job)}"
    request = session.client.post(f"{path}/verify", {"level": level})
    found: dict[str, Any] | None = None
    if not session.as_json:
        _tell(session, request, wait=wait)
    if wait and request["answer"] != "refused":
        request, found = _awaited(session, path, request, within_s)
    if session.as_json:
        session.screen.json({"asked": request, "found": found})
    if request["answer"] == "refused":
        raise Refused(
            f"{clean(request['host'])} does not verify {clean(request['name'])}: {clean(request['why'], 400)} "
            f"({clean(request['reason'])})",
            f"watchbill backups show {clean(job)}",
        )
    return OK if found is None else _told(session, found)


def _tell(session: Session, request: dict[str, Any], *, wait: bool) -> None:
    host, name = clean(request["host"]), clean(request["name"])
    if request["answer"] == "refused":
        return
    copy = f" of its copy {clean(request['copy'])}" if request["copy"] else ""
    if request["answer"]:
        line = f"{host} verifies {name} now: {clean(request['level'])}{copy}."
    else:
        line = f"{host} was asked to verify {name} and has not answered yet."
    session.screen.line(line)
    if not wait:
        session.screen.line(f"What it finds: watchbill backups show {host}/{name}")


def _told(session: Session, entry: dict[str, Any]) -> int:
    proof = entry["verify"]
    good = entry["outcome"] == "ok" and proof is not None and proof["ok"]
    if not session.as_json:
        took = f" after {span(entry['duration_s'])}" if entry["duration_s"] is not None else ""
        word = ("It holds" if good else "It fails") if proof is not None else "Nothing was proved"
        session.screen.line(f"{word}{took}: {clean(said(entry), 800)}")
    return OK if good else FAILED


def _awaited(
    session: Session, path: str, request: dict[str, Any], within_s: float
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The request as it was answered, and what was found. Raises CommandFailed when the time is over."""
    until_s, heard_s, pause_s = time.monotonic() + within_s, time.monotonic(), POLL_S_MIN
    while True:
        try:
            history = session.client.get(path, {"limit": str(ENTRIES)})["history"]
            heard_s = time.monotonic()
        except Unreachable:
            if time.monotonic() - heard_s > AWAY_S_MAX:
                raise
            history = {"entries": [], "asked": []}
        request = next((one for one in history["asked"] if one["id"] == request["id"]), request)
        found = next((entry for entry in history["entries"] if entry["run_id"] == request["id"]), None)
        if found is not None or request["answer"] == "refused":
            return request, found
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            raise CommandFailed(
                f"{clean(request['host'])} has told nothing of what it found within {span(within_s)}",
                f"watchbill backups show {clean(request['host'])}/{clean(request['name'])}",
            )
        time.sleep(min(pause_s, left_s))
        pause_s = min(POLL_S_MAX, pause_s * 1.5)
