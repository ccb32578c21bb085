"""How a backup is written down for people: one row, one sheet, its history."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from watchbill_collector.cli.screen import Screen, ago, clean, clock, moment, span

TEXT_MAX = 1_000
"""Characters of one line of an explanation."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: float | None) -> str:
    """Bytes in the unit that fits."""
    if count is None:
        return "-"
    value, unit = float(count), 0
    while abs(value) >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 or value >= 100 else f"{value:.1f} {_UNITS[unit]}"


def list_row(job: dict[str, Any]) -> tuple[str, ...]:
    """One job in the list."""
    return (
        job["name"],
        job["host"],
        job["word"],
        ago(job["since"]),
        _aged(job["point"]),
        _aged(job["verified_point"]),
        _run(job["last_run"]),
        size(job["size_bytes"]),
        job["service"] or "-",
        _why(job),
    )


def _aged(point: str | None) -> str:
    return "-" if moment(point) is None else f"{clock(point)} ({ago(point)})"


def _run(run: dict[str, Any] | None) -> str:
    if run is None:
        return "-"
    took = "" if run["duration_s"] is None else f" in {span(run['duration_s'])}"
    return f"{run['outcome']}{took}, {ago(run['at'])} ago"


def _why(job: dict[str, Any]) -> str:
    paused = job["paused"]
    return f"paused by {paused['by']}: {paused['reason']}" if paused else job["why"]


def show_lines(screen: Screen, document: dict[str, Any]) -> Iterator[str]:
    """The sheet of one job."""
    job, history = document["backup"], document["history"]
    definition, paused, reviewed = history["definition"], job["paused"], job["reviewed"]
    for key, value in (
        ("backup", clean(job["name"])),
        ("id", job["id"]),
        ("host", clean(job["host"])),
        ("service", clean(job["service"] or "-")),
        ("word", f"{screen.state(job['word'])}{_for(job['since'])}"),
        ("why", clean(job["why"] or "-", TEXT_MAX)),
        ("what to do", clean(job["advice"] or "-", TEXT_MAX)),
        ("severity", clean(job["severity"] or "-")),
        ("paused", f"until {clock(paused['until'])} by {_by(paused)}" if paused else "-"),
        ("reviewed", f"{clock(reviewed['at'])} by {_signed(reviewed)}" if reviewed else "-"),
        ("restorable to", _objective(job["point"], job["rpo_s"])),
        ("proven to", _aged(job["verified_point"])),
        ("rpo kept", rpo_kept(document["rpo"])),
        ("last run", clean(_run(job["last_run"]))),
        ("next run", _due(history["due"])),
        ("schedule", clean(_schedule(definition["schedule"]), 400)),
        ("tool", clean(job["tool"] or "-")),
        ("size", size(job["size_bytes"])),
        ("snapshots", "-" if job["snapshots"] is None else str(job["snapshots"])),
        ("copies", clean(_copies(definition["copies"]) or "-", TEXT_MAX)),
    ):
        yield f"{key:14} {value}"


def _for(since: str | None) -> str:
    return f" for {ago(since)}" if moment(since) is not None else ""


def _by(paused: dict[str, Any]) -> str:
    return f"{clean(paused['by'])}: {clean(paused['reason'], TEXT_MAX)}"


def _signed(reviewed: dict[str, Any]) -> str:
    return f"{clean(reviewed['by'])}: {clean(reviewed['note'], TEXT_MAX)}"


def _due(due: str | None) -> str:
    at = moment(due)
    return f"{clock(due)}, awaited since then" if at is not None and at <= datetime.now(UTC) else clock(due)


def _objective(point: str | None, rpo_s: float) -> str:
    wanted = f"; wanted within {span(rpo_s)}" if rpo_s else ""
    return ("-" if moment(point) is None else f"{clock(point)}, {ago(point)} ago") + wanted


def rpo_said(rpo: dict[str, Any]) -> tuple[str, str, str, str]:
    """An RPO, the share of the time in which it was kept, for how long it was not, and what is left of its budget."""
    over = f"{span(rpo['over_s'])} in {rpo['times']}" if rpo["times"] else "-"
    left = span(rpo["left_s"]) if rpo["left_s"] >= 0 else f"overspent by {span(-rpo['left_s'])}"
    return span(rpo["rpo_s"]), share(rpo["kept"]), over, left


def share(kept: float | None) -> str:
    """A share of the time. It is never rounded up to the whole: 100 % are 100 %."""
    if kept is None:
        return "-"
    return "100 %" if kept >= 1 else f"{min(kept * 100, 99.999):.3f}".rstrip("0").rstrip(".") + " %"


def rpo_kept(rpo: dict[str, Any] | None) -> str:
    """How an RPO was kept, in a line."""
    if rpo is None:
        return "-"
    if rpo["kept"] is None:
        return "nothing is known of the last 30 days"
    _, kept, over, left = rpo_said(rpo)
    days = moment(rpo["until"]), moment(rpo["since"])
    known = span((days[0] - days[1]).total_seconds()) if days[0] and days[1] else "30d"
    missed = (
        f", beyond it for {over} stretches" if rpo["times"] > 1 else f", beyond it for {span(rpo['over_s'])}"
    )
    return (
        f"{kept} of {known}{missed if rpo['times'] else ''}; budget at {share(rpo['objective'])}: "
        f"{left}{' left' if rpo['left_s'] >= 0 else ''}"
    )


def _schedule(schedule: dict[str, Any]) -> str:
    if schedule["every_s"]:
        return f"every {span(schedule['every_s'])}"
    line = schedule["cron"] or schedule["calendar"]
    return f"{line} ({schedule['zone']})" if line else "none: its age alone counts"


def _copies(copies: list[dict[str, Any]]) -> str:
    told = []
    for copy in copies:
        kind = (copy["location"], copy["media"], "immutable" if copy["immutable"] else "")
        about = ", ".join(part for part in kind if part)
        told.append(f"{copy['name']} ({about})" if about else copy["name"])
    return ", ".join(told)


def history_lines(screen: Screen, document: dict[str, Any], limit: int) -> None:
    """Its facets, its last runs and what happened, as tables."""
    job, history = document["backup"], document["history"]
    if job["facets"]:
        screen.line()
        screen.table(
            ("FACET", "LEVEL", "REASON", "IN WORDS"),
            [(one["name"], one["level"], one["reason"] or "-", one["text"]) for one in job["facets"]],
        )
    if document["runs"]:
        screen.line()
        screen.table(
            ("RUN", "OUTCOME", "TOOK", "READ", "STORED", "FILES", "CODE", "WHAT WAS SAID"),
            [_run_row(run) for run in document["runs"][:limit]],
            (2, 3, 4, 5, 6),
        )
    happened = timeline(history)[:limit]
    if happened:
        screen.line()
        screen.table(("WHEN", "WHAT", "HOW", "WHAT WAS SAID"), happened)
        if history["truncated"]:
            screen.line(f"and older ones: watchbill backups show {job['id']} --limit 1000")


def _run_row(run: dict[str, Any]) -> tuple[str, ...]:
    ended = run["exit_code"] if run["signal"] is None else f"signal {run['signal']}"
    stored = run["bytes_added"] if run["bytes_stored"] is None else run["bytes_stored"]
    return (
        clock(run["started"] or run["at"]),
        run["outcome"],
        "-" if run["duration_s"] is None else span(run["duration_s"]),
        size(run["bytes_source"]),
        size(stored),
        "-" if run["files"] is None else str(run["files"]),
        "-" if ended is None else str(ended),
        said(run),
    )


def said(entry: dict[str, Any]) -> str:
    """What a run or an observation says of itself in one line."""
    parts = [entry["reason"], *entry["errors"][:1]]
    proof = entry["verify"]
    if proof is not None:
        share = "" if proof["fraction"] >= 1 else f" of {proof['fraction'] * 100:.3g} %"
        found = "holds" if proof["ok"] else f"fails, {proof['bad']} bad"
        parts.append(f"{proof['level']}{share} {found}")
    if entry["snapshots"] is not None:
        parts.append("1 snapshot" if entry["snapshots"] == 1 else f"{entry['snapshots']} snapshots")
    if entry["copy"]:
        parts.append(f"copy {entry['copy']}")
    return "; ".join(part for part in parts if part) or "-"


def timeline(history: dict[str, Any]) -> list[tuple[str, ...]]:
    """Everything that happened, the newest first: time, what, how, what was said."""
    rows = [(one["at"], one["kind"], one["outcome"], said(one)) for one in history["entries"]]
    rows += [
        (one["at"], "word", f"{one['before'] or '-'} -> {one['after']}", one["why"])
        for one in history["changes"]
    ]
    rows += [(one["at"], "review", one["word"], f"{one['by']}: {one['note']}") for one in history["reviews"]]
    rows += [
        (one["at"], "asked", one["answer"] or "-", f"{one['by']}: verify{_answer(one)}")
        for one in history["asked"]
    ]
    rows.sort(key=lambda row: datetime.fromisoformat(row[0]), reverse=True)
    return [(clock(at), *rest) for at, *rest in rows]


def _answer(request: dict[str, Any]) -> str:
    """What was to be verified, and what the host says to that."""
    level = f" {request['level']}" if request["level"] else ""
    return level + (f"; {request['reason']}: {request['why']}" if request["reason"] else "")
