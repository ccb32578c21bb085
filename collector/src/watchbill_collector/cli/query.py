"""`watchbill query` and `watchbill top`."""

import time
from typing import Any

import click

from watchbill_collector.cli.errors import CommandFailed, Misused
from watchbill_collector.cli.options import Session, seconds, talks
from watchbill_collector.cli.screen import clean, labels_text, moment, number, sparkline

STEPS_WANTED = 240
"""Points of a range when no step is given."""

LINES_MAX = 1_000


@click.command()
@click.argument("expression", metavar="EXPR")
@click.option(
    "--range", "range_", metavar="DURATION", help="Over the last 1h, 7d, ... instead of at one moment."
)
@click.option("--step", metavar="DURATION", help="Distance of the points of a range.")
@click.option("--time", "at", metavar="TIME", help="RFC 3339 or unix seconds, instead of now.")
@click.option("--timeout", metavar="DURATION", help="Give up after this long.")
@talks
def query(
    session: Session,
    expression: str,
    range_: str | None,
    step: str | None,
    at: str | None,
    timeout: str | None,
) -> None:
    """Evaluate a PromQL expression.

    \b
    watchbill query up
    watchbill query 'rate(node_cpu_seconds_total{mode="idle"}[1m])' --range 1h --step 15s
    """
    fields = {"query": expression}
    if timeout:
        fields["timeout"] = f"{seconds(timeout):.3f}"
    if range_ is None:
        if step is not None:
            raise Misused("--step belongs to a range", "watchbill query EXPR --range 1h --step 15s")
        if at is not None:
            fields["time"] = at
        document = session.client.prometheus("/query", fields)
    else:
        span_s = seconds(range_)
        step_s = seconds(step) if step else max(1.0, round(span_s / STEPS_WANTED))
        if span_s <= 0 or step_s <= 0:
            raise Misused("--range and --step have to be more than nothing", "--range 1h --step 15s")
        end_s = _unix_s(at)
        fields |= {"start": f"{end_s - span_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:.3f}"}
        document = session.client.prometheus("/query_range", fields)
    if session.as_json:
        session.screen.json(document)
        return
    _print(session, document)


def _unix_s(at: str | None) -> float:
    if at is None:
        return time.time()
    try:
        return float(at)
    except ValueError:
        pass
    then = moment(at)
    if then is None or then.tzinfo is None:
        raise Misused(
            f"got the time {at[:60]!r}, wanted RFC 3339 or unix seconds", "--time 2026-01-31T12:00:00Z"
        )
    return then.timestamp()


def _print(session: Session, document: dict[str, Any]) -> None:
    data, screen = document["data"], session.screen
    rows = data["result"]
    match data["resultType"]:
        case "scalar" | "string":
            screen.line(clean(str(rows[1]), 10_000))
        case "vector":
            screen.table(
                ("SERIES", "VALUE"),
                [(labels_text(row["metric"]), number(float(row["value"][1]))) for row in rows[:LINES_MAX]],
                (1,),
            )
        case "matrix":
            screen.table(
                ("SERIES", "POINTS", "MIN", "MEAN", "MAX", "LAST", ""),
                [_range_row(row) for row in rows[:LINES_MAX]],
                (1, 2, 3, 4, 5),
            )
    if data["resultType"] in ("vector", "matrix"):
        if not rows:
            screen.line("no series")
        elif len(rows) > LINES_MAX:
            screen.line(f"and {len(rows) - LINES_MAX} more series: --json prints them all")
    for note in [*document.get("warnings", []), *document.get("infos", [])]:
        click.echo(f"note: {clean(note, 500)}", err=True)


def _range_row(row: dict[str, Any]) -> tuple[str, ...]:
    values = [float(value) for _, value in row["values"]]
    known = [value for value in values if value == value]
    if not known:
        return (labels_text(row["metric"]), str(len(values)), "NaN", "NaN", "NaN", "NaN", "")
    return (
        labels_text(row["metric"]),
        str(len(values)),
        number(min(known)),
        number(sum(known) / len(known)),
        number(max(known)),
        number(values[-1]),
        sparkline(values),
    )


ON_DISK = '{fstype!~"tmpfs|squashfs|iso9660|ramfs"}'
"""As the page has it: what is in memory, or is full by its nature, says nothing of a disk."""
TOP: dict[str, tuple[str, str]] = {
    "cpu": ("CPU %", '100 * (1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[2m])))'),
    "mem": ("MEM %", "100 * (1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes)"),
    "load": ("LOAD1", "node_load1"),
    "disk": (
        "DISK %",
        f"100 * max by (instance) (1 - node_filesystem_avail_bytes{ON_DISK} / node_filesystem_size_bytes)",
    ),
}
"""Column title and expression."""


@click.command()
@click.option("--sort", type=click.Choice(list(TOP)), default="cpu", show_default=True)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@talks
def top(session: Session, sort: str, limit: int) -> None:
    """Hosts by CPU, memory, load or the fullest disk."""
    found: dict[str, dict[str, float]] = {}
    for key, (_, expression) in TOP.items():
        data = session.client.prometheus("/query", {"query": expression})["data"]
        if data["resultType"] != "vector":
            raise CommandFailed(f"{expression} gave no vector", "watchbill doctor")
        for row in data["result"]:
            host = row["metric"].get("instance", "-")
            found.setdefault(host, {})[key] = float(row["value"][1])
    order = sorted(found, key=lambda host: (-found[host].get(sort, float("-inf")), host))[:limit]
    if session.as_json:
        session.screen.json(
            {"hosts": [{"host": host} | {key: found[host].get(key) for key in TOP} for host in order]}
        )
        return
    if not order:
        session.screen.line("No host has sent two readings yet. try: watchbill hosts")
        return
    rows = [
        (host, *(f"{found[host][key]:.1f}" if key in found[host] else "-" for key in TOP)) for host in order
    ]
    session.screen.table(("HOST", *(title for title, _ in TOP.values())), rows, (1, 2, 3, 4))
