"""`watchbill backups report`: what backups did over a time, one row a job, for people, programs and spreadsheets."""

import csv
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from watchbill_collector.cli.backup_text import rpo_said, share
from watchbill_collector.cli.errors import Misused
from watchbill_collector.cli.evidence import fetch
from watchbill_collector.cli.options import Session, seconds, talks
from watchbill_collector.cli.screen import ago, clean, clock

PAGE: Final = 100
"""Rows asked for at once: each has its job's records read."""
HEAD: Final = (
    "BACKUP",
    "HOST",
    "WORD",
    "OK",
    "PARTIAL",
    "FAILED",
    "PROVEN",
    "RESTORED",
    "RPO",
    "KEPT",
    "OVER",
    "LEFT",
    "REVIEWED BY",
)
COLUMNS: Final = (
    "host", "name", "id", "service", "tool", "word", "digest", "digests", "since", "until",
    "runs_ok", "runs_partial", "runs_failed", "runs_unknown", "runs_unended", "last_ok",
    "looks", "looks_unread", "proofs_ok", "proofs_failed", "last_proof",
    "restores_ok", "restores_failed", "last_restore", "words",
    "rpo_s", "rpo_objective", "rpo_since", "rpo_until", "rpo_kept", "rpo_over_s", "rpo_times", "rpo_worst_s",
    "rpo_budget_s", "rpo_left_s", "rpo_unknown_s", "reviewed_by", "reviews", "truncated",
)  # fmt: skip
"""Of the CSV: names stay, new ones come at the end."""
_RPO: Final = {
    "rpo_s": "rpo_s", "rpo_objective": "objective", "rpo_since": "since", "rpo_until": "until", "rpo_kept": "kept",
    "rpo_over_s": "over_s", "rpo_times": "times", "rpo_worst_s": "worst_s", "rpo_budget_s": "budget_s",
    "rpo_left_s": "left_s", "rpo_unknown_s": "unknown_s",
}  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for a formula where text begins with it."""
_PER_CENT: Final = 100.0


@click.command()
@click.option(
    "--since", default="30d", show_default=True, metavar="DURATION", help="How far back, 400d at most."
)
@click.option(
    "--objective",
    default=99.9,
    show_default=True,
    metavar="PERCENT",
    help="In how much of the time the RPO is to be kept.",
)
@click.option("--host", help="Only those of this host.")
@click.option("--service", help="Only those of this service.")
@click.option("--csv", "as_csv", is_flag=True, help="For spreadsheets: one line a job.")
@click.option(
    "--signed",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="An archive that the collector signs; `evidence verify` checks it. One is never replaced.",
)
@talks
def report(
    session: Session,
    since: str,
    objective: float,
    host: str | None,
    service: str | None,
    as_csv: bool,
    signed: Path | None,
) -> None:
    """Evidence over a time, one row a job: runs, proofs, restores, how the RPO was kept, who reviewed it."""
    if as_csv and session.as_json:
        raise Misused("--csv and --json are two forms of the same", "watchbill backups report --csv")
    if not 0 < objective < _PER_CENT:
        raise Misused(f"got {objective:g} %, wanted more than 0 and less than 100", "--objective 99.9")
    began = datetime.now(UTC) - timedelta(seconds=seconds(since))
    fields = {"since": began.isoformat(), "objective": f"{objective / _PER_CENT:.9g}", "limit": str(PAGE)}
    fields |= {key: value for key, value in (("host", host), ("service", service)) if value}
    if signed is not None:
        if as_csv:
            raise Misused("--csv and --signed are two forms of the same", "watchbill backups report --csv")
        fetch(session, "/backups/evidence", {key: fields[key] for key in fields if key != "limit"}, signed)
        return
    document = _whole(session, fields)
    if session.as_json:
        session.screen.json(document)
    elif as_csv:
        for line in as_lines(document):
            session.screen.line(line)
    else:
        _table(session, document)


def _whole(session: Session, fields: dict[str, str]) -> dict[str, Any]:
    """All rows, over the time of the first page."""
    whole: dict[str, Any] = session.client.get("/backups/report", fields)
    fields = fields | {"since": whole["since"], "until": whole["until"]}
    while whole["truncated"]:
        page = session.client.get("/backups/report", fields | {"offset": str(len(whole["rows"]))})
        if not page["rows"]:
            break  # Some are gone meanwhile.
        whole["rows"] += page["rows"]
        whole["truncated"] = page["truncated"]
    return whole


def as_lines(document: dict[str, Any]) -> list[str]:
    """The report as CSV; no cell holds an end of line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in document["rows"]:
        flat = {**row, "since": document["since"], "until": document["until"]}
        flat |= {name: (row["rpo"] or {}).get(key) for name, key in _RPO.items()}
        flat["digests"] = " ".join(row["digests"])
        flat["words"] = " ".join(f"{word}:{count}" for word, count in row["words"].items())
        flat["reviewed_by"] = ", ".join(dict.fromkeys(one["by"] for one in row["reviews"]))
        flat["reviews"] = " | ".join(
            f"{one['at']} {one['by']} ({one['word']}): {one['note']}" for one in row["reviews"]
        )
        writer.writerow([_cell(flat[name]) for name in COLUMNS])
    return out.getvalue().splitlines()


def _cell(value: Any) -> Any:
    """Numbers as they are; text so that no spreadsheet runs it and no terminal obeys it."""
    if not isinstance(value, str):
        return value
    text = clean(value, 10_000)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _table(session: Session, document: dict[str, Any]) -> None:
    screen, rows = session.screen, document["rows"]
    screen.line(
        f"{clock(document['since'])} to {clock(document['until'])}; the RPO is to be kept in "
        f"{share(document['objective'])} of the time."
    )
    if not rows:
        screen.line("No backup is like that. try: watchbill backups")
        return
    screen.table(HEAD, [_row(row) for row in rows], (3, 4, 5))


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    rpo = row["rpo"]
    kept = ("-", "-", "-", "-") if rpo is None else rpo_said(rpo)
    return (
        row["name"],
        row["host"],
        row["word"],
        str(row["runs_ok"]),
        str(row["runs_partial"]),
        str(row["runs_failed"] + row["runs_unended"]),
        _proofs(row["proofs_ok"], row["proofs_failed"], row["last_proof"]),
        _proofs(row["restores_ok"], row["restores_failed"], row["last_restore"]),
        *kept,
        ", ".join(dict.fromkeys(one["by"] for one in row["reviews"])) or "-",
    )


def _proofs(good: int, bad: int, last: str | None) -> str:
    if not good and not bad:
        return "-"
    failed = f", {bad} failed" if bad else ""
    return f"{good}{failed}" + (f", {ago(last)} ago" if last else "")
