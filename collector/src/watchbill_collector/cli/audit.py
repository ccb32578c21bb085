"""`watchbill audit list|export|verify`."""

import sys
from pathlib import Path
from typing import Any

import click

from watchbill_collector.cli.errors import FAILED, OK, Misused
from watchbill_collector.cli.options import Session, seconds, talks
from watchbill_collector.cli.said import shared
from watchbill_collector.cli.screen import clean, moment

ROWS_AT_ONCE = 10_000
DETAIL_CHARACTERS_MAX = 160


@click.group()
@shared
def audit() -> None:
    """What was done, refused or failed; and whether anybody changed the record of it."""


@audit.command("list")
@click.option("--actor", default="", help="Who.")
@click.option("--action", default="", help="What, such as host.retire; host finds all that begin with it.")
@click.option("--target", default="", help="On what.")
@click.option("--outcome", type=click.Choice(["done", "refused", "failed"]), help="What became of it.")
@click.option("--request", default="", help="The number of the request, from its X-Request-Id.")
@click.option("--since", default="", help="A duration such as 2h, or a time as RFC 3339.")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, ROWS_AT_ONCE), help="How many."
)
@talks
def list_(
    session: Session,
    actor: str,
    action: str,
    target: str,
    outcome: str | None,
    request: str,
    since: str,
    limit: int,
) -> None:
    """The newest rows."""
    narrow = {
        "actor": actor,
        "action": action,
        "target": target,
        "outcome": outcome or "",
        "request": request,
        "since": _since(since),
        "limit": str(limit),
    }
    document = session.client.get("/audit", {name: value for name, value in narrow.items() if value})
    if session.as_json:
        session.screen.json(document)
        return
    rows = document["rows"]
    if not rows:
        session.screen.line("Nothing fits.")
        return
    session.screen.table(
        ("ROW", "TIME", "WHO", "FROM", "WHAT", "ON", "OUTCOME", "DETAIL"),
        [
            (
                str(row["seq"]),
                _time(row["time"]),
                row["actor"],
                row["source"] or "-",
                row["action"],
                row["target"],
                row["outcome"],
                _detail(row["detail"]),
            )
            for row in rows
        ],
        right=(0,),
    )
    if document["truncated"]:
        session.screen.line(
            f"There are more: --limit, or narrow it down. The oldest here is {rows[-1]['seq']}."
        )


@audit.command("export")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The file to write, - for stdout."
)
@talks
def export(session: Session, out: Path) -> None:
    """The whole chain as JSON lines, in its order, to be kept where nobody of here writes."""
    if str(out) == "-":
        _export(session, sys.stdout)
        return
    with open(out, "x", encoding="utf-8") as file:
        try:
            written = _export(session, file)
        except BaseException:
            out.unlink(missing_ok=True)  # Half a chain must not look like a whole one.
            raise
    if session.as_json:
        session.screen.json({"rows": written, "file": str(out)})
    else:
        session.screen.line(f"{written} rows in {out}")


def _export(session: Session, file: Any) -> int:
    import json

    after = written = 0
    while True:
        document = session.client.get("/audit/export", {"after": str(after), "limit": str(ROWS_AT_ONCE)})
        for row in document["rows"]:
            file.write(json.dumps(row, sort_keys=True) + "\n")
            after, written = row["seq"], written + 1
        if not document["truncated"]:
            return written


@audit.command("verify")
@click.option(
    "--witness", default="", metavar="HOST,...", help="Hosts whose word is wanted; all that spoke without it."
)
@talks
def verify(session: Session, witness: str) -> int:
    """Check the chain of hashes, its signatures, and what the hosts were told of it. Ends with 1 when something is
    wrong.

    The collector signs its rows: every hundredth at once, the others within a minute. Who could write to its database
    alone is found by that: rows that were changed, removed, put in, cut off or written anew are named.

    Every host keeps some of the heads that came with its acknowledgements, and shows them when it connects. A
    history that was rolled back, or written anew by somebody who had the collector's key too, does not contain them.
    Without any witness nobody can tell that, which is said, and ends with 0 when the chain is whole; hosts that
    --witness names have to have shown a head, else it ends with 1.
    """
    if witness and not witness.replace(",", "").strip():
        raise Misused("--witness names no host", "watchbill audit verify --witness web1,db2")
    verdict = session.client.get("/audit/verify", {"witness": witness} if witness else None)
    code = OK if verdict["ok"] else FAILED
    if session.as_json:
        session.screen.json(verdict)
        return code
    for finding in verdict["findings"]:
        session.screen.line(
            f"{session.screen.painted(finding['fault'], 'red')}: {clean(finding['detail'], 400)}"
        )
    if verdict["findings_left_out"]:
        session.screen.line(f"and {verdict['findings_left_out']} more")
    silent = [one["host"] for one in verdict["witnesses"] if one["verdict"] == "silent"]
    against = [one for one in verdict["witnesses"] if one["verdict"] == "disagrees"]
    agree = len(verdict["witnesses"]) - len(silent) - len(against)
    for one in against:
        session.screen.line(
            f"{session.screen.painted('disagrees', 'red')}: {clean(one['host'])} was told another row "
            f"{one['disputed']}: the history behind it is gone or was written anew"
        )
    if silent:
        shown = session.screen.painted("silent", "red") if witness else "silent"
        session.screen.line(f"{shown}: {clean(', '.join(silent), 400)}: no head of this audit was shown")
    if not agree and not against:
        session.screen.line(
            "no witness: whether somebody with the collector's own key wrote the history anew, nobody can say"
        )
    chain = "whole" if not verdict["findings"] else "broken"
    session.screen.line(
        f"{verdict['rows']} rows, {chain}; {verdict['checkpoints']} signed checkpoints, the newest under row "
        f"{verdict['signed_seq']}; {agree} of {len(verdict['witnesses'])} witnesses agree"
    )
    session.screen.line(f"head {verdict['seq']} {verdict['hash']}")
    if code:
        session.screen.line(
            "try: keep a copy of the store as it is now; an export kept elsewhere (watchbill audit export) says what "
            "the rows were"
        )
    return code


def _since(text: str) -> str:
    """A duration back from now, or a time as it is."""
    if not text:
        return ""
    if moment(text) is not None:
        return text
    import time

    try:
        return f"{time.time() - seconds(text):.3f}"
    except Misused as exc:
        raise Misused(f"--since: got {text[:60]!r}, wanted a duration or a time", "--since 2h") from exc


def _time(text: str) -> str:
    found = moment(text)
    return text if found is None else found.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _detail(detail: dict[str, Any]) -> str:
    shown = " ".join(f"{name}={value}" for name, value in detail.items() if value not in ("", [], {}, None))
    return clean(shown, DETAIL_CHARACTERS_MAX)
