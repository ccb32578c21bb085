"""`watchbill enroll`: tokens that let hosts in."""

from pathlib import Path
from typing import Any

import click

from watchbill_collector.cli.client import segment
from watchbill_collector.cli.errors import Misused
from watchbill_collector.cli.options import Session, pairs, seconds, talks
from watchbill_collector.cli.said import shared
from watchbill_collector.cli.screen import ago, clean, labels_text, span

NAMES_MAX = 10_000
LIST_BYTES_MAX = 4 << 20


@click.group()
@shared
def enroll() -> None:
    """Make tokens that let hosts in; list or revoke them."""


@enroll.command()
@click.option("--name", "names", metavar="HOST", multiple=True, help="For the host of this name; repeatable.")
@click.option(
    "--from", "file", type=click.Path(path_type=Path), help="For every name in FILE, one a line; - for stdin."
)
@click.option("--match", metavar="PATTERN", help="For hosts whose names match, such as 'web-*'.")
@click.option("--uses", type=click.IntRange(1, 100_000), help="How many hosts may use the token of --match.")
@click.option("--ttl", metavar="DURATION", help="How long the token may be used, such as 15m or 30d.")
@click.option("--cidr", metavar="NETWORK", default="", help="From where, such as 10.0.0.0/8.")
@click.option("--labels", metavar="K=V", multiple=True, help="Labels bound to the identity; repeatable.")
@click.option("--ephemeral", is_flag=True, help="The host retires by itself when it stays away.")
@click.option("--approve", is_flag=True, help="An administrator has to let each host in.")
@click.option("--replace", is_flag=True, help="Continue the series of a host that had this name.")
@click.option(
    "--mqtt", is_flag=True, help="The host asks through the broker: it need not reach the collector."
)
@click.option(
    "--certificate-lifetime",
    metavar="DURATION",
    help="How long each certificate of the host lasts, such as 90d.",
)
@click.option(
    "--expired-grace",
    metavar="DURATION",
    help="How long after its end it may be renewed, such as 365d; 0: never.",
)
@talks
def create(
    session: Session,
    names: tuple[str, ...],
    file: Path | None,
    match: str | None,
    uses: int | None,
    ttl: str | None,
    cidr: str,
    labels: tuple[str, ...],
    ephemeral: bool,
    approve: bool,
    replace: bool,
    mqtt: bool,
    certificate_lifetime: str | None,
    expired_grace: str | None,
) -> None:
    """Make tokens, and print one line to paste on each host.

    \b
    watchbill enroll create --name web1
    watchbill enroll create --from hosts.txt --labels role=web
    watchbill enroll create --match 'web-*' --uses 50 --ttl 30d
    watchbill enroll create --name pump-7 --mqtt --certificate-lifetime 90d --expired-grace 365d
    """
    if sum((bool(names), file is not None, match is not None)) != 1:
        raise Misused("give one of --name, --from and --match", "watchbill enroll create --name web1")
    if uses is not None and match is None:
        raise Misused("--uses belongs to --match", "watchbill enroll create --match 'web-*' --uses 50")
    order: dict[str, Any] = {
        "cidr": cidr,
        "labels": pairs(labels),
        "ephemeral": ephemeral,
        "approve": approve,
        "replace": replace,
        "mqtt": mqtt,
    }
    if match is not None:
        order |= {"match": match, "uses": uses or 1}
    else:
        order["names"] = list(names) if file is None else _names(file)
    if ttl:
        order["ttl_s"] = seconds(ttl)
    if certificate_lifetime:
        order["certificate_lifetime_s"] = seconds(certificate_lifetime)
    if expired_grace:
        order["expired_grace_s"] = seconds(expired_grace)
    document = session.client.post("/enrolments", order)
    if session.as_json:
        session.screen.json(document)
        return
    for issued in document["issued"]:
        enrolment = issued["enrolment"]
        whom = enrolment["name"] or f"up to {enrolment['uses']} hosts named {enrolment['match']}"
        click.echo(
            f"# {clean(whom)}: paste this there, within {ago(enrolment['expires']).removeprefix('in ')}",
            err=True,
        )
        session.screen.line(issued["command"])
    if session.client.collector.source == "demo":
        # A demo listens on loopback: whoever pastes this does so on this machine, which has an agent already.
        click.echo(
            "# to try it on this machine, as another host: type `watchbill-agent enroll --home DIR --token-file -`"
            " behind the |, then `watchbill-agent run --home DIR`",
            err=True,
        )


def _names(file: Path) -> list[str]:
    import sys

    try:
        if str(file) == "-":
            text = sys.stdin.read(LIST_BYTES_MAX + 1)
        else:
            with open(file, encoding="utf-8") as opened:
                text = opened.read(LIST_BYTES_MAX + 1)
    except OSError as exc:
        raise Misused(f"{file}: {(exc.strerror or str(exc)).lower()}", "--from FILE") from exc
    except UnicodeDecodeError as exc:
        raise Misused(f"{file} is not UTF-8 at byte {exc.start}", "--from FILE") from exc
    names = [line.partition("#")[0].strip() for line in text.splitlines()]
    names = list(dict.fromkeys(name for name in names if name))
    if not names or len(names) > NAMES_MAX or len(text) > LIST_BYTES_MAX:
        raise Misused(f"{file} holds {len(names)} names, wanted 1 to {NAMES_MAX}, one a line", "--from FILE")
    return names


@enroll.command("list")
@talks
def list_enrolments(session: Session) -> None:
    """Tokens, without their secrets."""
    document = session.client.get("/enrolments")
    if session.as_json:
        session.screen.json(document)
        return
    if not document["enrolments"]:
        session.screen.line("No tokens. try: watchbill enroll create --name NAME")
        return
    session.screen.table(
        ("TOKEN", "STATE", "FOR", "USED", "EXPIRES", "FROM", "CERTIFICATES", "LABELS", "BY"),
        [
            (
                row["id"],
                row["state"],
                row["name"] or row["match"],
                f"{row['used']}/{row['uses']}",
                ago(row["expires"]),
                row["cidr"] or "anywhere",
                _lifetimes(row),
                labels_text(row["labels"]) if row["labels"] else "-",
                row["created_by"],
            )
            for row in document["enrolments"]
        ],
        (3, 4),
    )


def _lifetimes(row: dict[str, Any]) -> str:
    """What the token says of its hosts' certificates; `-`: what collector.toml says."""
    life_s, grace_s = row["certificate_lifetime_s"], row["expired_grace_s"]
    words = [] if life_s is None else [f"for {span(life_s)}"]
    if grace_s is not None:
        words.append(f"late by {span(grace_s)}" if grace_s else "never late")
    return ", ".join(words) or "-"


@enroll.command()
@click.argument("token")
@talks
def revoke(session: Session, token: str) -> None:
    """Make a token worthless; TOKEN is its id from `enroll list`."""
    document = session.client.delete(f"/enrolments/{segment(token)}")
    if session.as_json:
        session.screen.json(document)
        return
    session.screen.line(f"The token {clean(token)} lets nobody in any more.")
