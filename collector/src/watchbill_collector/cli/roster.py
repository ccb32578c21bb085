"""`watchbill roster`: who may approve. Signed away from the collector, carried by it, believed by hosts alone."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from watchbill_collector.cli.errors import FAILED, Misused
from watchbill_collector.cli.options import Session, talks
from watchbill_collector.cli.screen import ago, clean

HEAD = ("NAME", "MAY APPROVE", "KEY")
BEHIND_HEAD = ("HOST", "SERIAL", "WHY")


@click.group(invoke_without_command=True)
@talks
@click.pass_context
def roster(ctx: click.Context, session: Session) -> None:
    """Show who may approve; make keys, sign and publish a roster, see which hosts are behind."""
    if ctx.invoked_subcommand is None:
        _show(session, None)


@roster.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@talks
def show(session: Session, file: Path | None) -> None:
    """Who may approve, by the collector's newest roster or by FILE."""
    _show(session, file)


def _show(session: Session, file: Path | None) -> None:
    disabled: list[str] = []
    if file is None:
        answer = session.client.get("/roster")
        document, disabled = answer["roster"], answer["disabled"]
    else:
        from watchbill.actions.roster import glance
        from watchbill_collector.cli.roster_file import read_signed

        document = glance(read_signed(file)).document()
    if session.as_json:
        session.screen.json({"roster": document, "disabled": disabled})
        return
    if document is None:
        session.screen.line("There is no roster: nobody can approve what hosts protect.")
        session.screen.line("To begin: watchbill roster key --roster FILE, on a machine that is kept apart")
        return
    _print_roster(session, document)
    for name in disabled:
        session.screen.line(
            f"{clean(name)} is disabled on the collector and still on the roster: hosts count what he signs "
            "until they have a roster without him"
        )


def _print_roster(session: Session, document: dict[str, Any]) -> None:
    from watchbill.actions.roster import read_roster
    from watchbill.actions.signing import key_id
    from watchbill_collector.cli.roster_file import describe

    found = read_roster(document)
    ends = datetime.fromtimestamp(found.expires_ms / 1000, UTC)
    issued = datetime.fromtimestamp(found.issued_ms / 1000, UTC)
    session.screen.line(
        f"Roster {found.serial} of site {clean(found.site)}, signed {issued:%Y-%m-%d}, good until {ends:%Y-%m-%d}"
    )
    rows = [(clean(one.name), clean(describe(one), 400), key_id(one.key)) for one in found.people]
    session.screen.table(HEAD, rows)
    fault = found.fault(round(time.time() * 1000))
    if fault:
        session.screen.line(f"Nobody can approve by it: {fault}")


@roster.command()
@click.option("--name", help="Your name as the roster will have it; your user name without it.")
@click.option(
    "--roster", "signs", type=click.Path(path_type=Path), help="Make a key that signs rosters, in this file."
)
@talks
def key(session: Session, name: str | None, signs: Path | None) -> None:
    """Make the key that you approve with, or one that signs rosters. Nobody else ever has it."""
    import getpass

    from watchbill.actions.signing import key_id
    from watchbill_collector.cli import approval_key

    if signs is None:
        made = approval_key.create(name or getpass.getuser())
        line = f'name = "{made.name}"\nkey = "{made.public.hex()}"'
        place, next_ = approval_key.key_file(), "give these two lines to who signs the roster"
    else:
        made = approval_key.create(name or "roster", signs)
        line = f"ed25519 {made.public.hex()} {made.name}"
        place, next_ = signs, "put this line into /etc/watchbill/roster.pub of every host, as root"
    if session.as_json:
        session.screen.json(
            {"name": made.name, "key": made.public.hex(), "key_id": key_id(made.public), "file": str(place)}
        )
        return
    session.screen.line(line)
    session.note(f"the secret half is in {place}, which others may not read; {next_}")


@roster.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--key", "key_path", required=True, type=click.Path(path_type=Path), help="The offline roster key."
)
@click.option(
    "--previous", type=click.Path(path_type=Path), help="The signed roster before: what changes is shown."
)
@click.option("--serial", type=click.IntRange(1), help="One more than the previous one's, without it.")
@click.option(
    "--days",
    default=None,
    type=click.IntRange(1),
    help="How long it is good; hosts believe none for longer than 90.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where the signed roster goes; FILE with .signed, without it.",
)
@talks
def sign(
    session: Session,
    file: Path,
    key_path: Path,
    previous: Path | None,
    serial: int | None,
    days: int | None,
    out: Path | None,
) -> None:
    """Sign the roster in FILE. Needs no collector: do it where the roster's key is kept."""
    from watchbill.actions.roster import glance, sign_roster
    from watchbill.errors import ConfigError, Unreadable
    from watchbill.files import write_atomic
    from watchbill_collector.cli import approval_key
    from watchbill_collector.cli.roster_file import (
        DAYS_DEFAULT,
        armoured,
        differences,
        read_file,
        read_signed,
        roster_of,
    )

    if days is not None and days > DAYS_DEFAULT:
        raise Misused(f"got {days} days, wanted at most {DAYS_DEFAULT}: hosts believe no roster for longer")
    try:
        said = read_file(file)
    except ConfigError as exc:
        raise Misused(str(exc)) from exc
    held = approval_key.load(key_path)
    if held is None:
        raise Misused(f"there is no key in {key_path}", f"watchbill roster key --roster {key_path}")
    before = glance(read_signed(previous)) if previous else None
    if before and serial is not None and serial <= before.serial:
        raise Misused(f"got the serial {serial}, wanted more than the previous roster's {before.serial}")
    number = serial or (before.serial + 1 if before else 1)
    made = roster_of(said, number, round(time.time() * 1000), days or DAYS_DEFAULT)
    try:
        signed = sign_roster(held.seed, made)
    except Unreadable as exc:
        raise Misused(f"{file}: {exc}") from exc
    place = out or file.with_name(file.name + ".signed")
    write_atomic(place, armoured(signed).encode(), 0o644)
    if session.as_json:
        session.screen.json(
            {"roster": made.document(), "file": str(place), "changes": differences(before, made)}
        )
        return
    for line in differences(before, made) or ["nobody changes"]:
        session.screen.line(clean(line, 400))
    session.screen.line(f"Roster {number} is signed: {place}")
    session.screen.line(f"To hand it to the hosts: watchbill roster publish {place}")


@roster.command()
@click.argument("file", type=click.Path(path_type=Path))
@talks
def publish(session: Session, file: Path) -> None:
    """Hand the signed roster in FILE to the collector, which brings it to every host."""
    import base64

    from watchbill_collector.cli.roster_file import read_signed

    signed = base64.b64encode(read_signed(file)).decode("ascii")
    document = session.client.post("/roster", {"signed": signed})
    if session.as_json:
        session.screen.json(document)
        return
    told = document["sent"]
    session.screen.line(
        f"Roster {document['roster']['serial']} is published; {told} hosts that are connected have it sent."
    )
    session.screen.line("Which hosts have it: watchbill roster behind")


@roster.command()
@talks
@click.pass_context
def behind(ctx: click.Context, session: Session) -> None:
    """Hosts that have an older roster, or none; exit code 1 when there is one."""
    document = session.client.get("/roster/behind")
    hosts = document["hosts"]
    if session.as_json:
        session.screen.json(document)
    elif not hosts:
        session.screen.line("Every host that has a runner has the newest roster.")
    else:
        session.screen.table(
            BEHIND_HEAD,
            [
                (
                    clean(one["name"]),
                    str(one["serial"] or "none"),
                    f"{clean(one['why'], 400)}, told {ago(one['told'])}",
                )
                for one in hosts
            ],
        )
    ctx.exit(FAILED if hosts else 0)
