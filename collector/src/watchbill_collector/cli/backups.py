"""`watchbill backups`: how every backup stands and why, who looked at it, and what has none."""

from typing import Any

import click

from watchbill_collector.cli.backup_report import report
from watchbill_collector.cli.backup_text import history_lines, list_row, show_lines
from watchbill_collector.cli.backup_verify import verify as asked
from watchbill_collector.cli.client import segment
from watchbill_collector.cli.errors import CommandFailed, Misused
from watchbill_collector.cli.options import Session, seconds, talks
from watchbill_collector.cli.screen import ago, clean, clock, span

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
"""Nagios' codes."""
CODES = {"UNKNOWN": UNKNOWN, "PARTIAL": WARNING, "LATE": WARNING, "RUNNING": OK, "NEW": OK, "OK": OK}
"""Word -> Nagios' state; what is not here is bad: CRITICAL, or WARNING where the job calls it mild."""
WORST_FIRST = (CRITICAL, UNKNOWN, WARNING, OK)
SENTENCES = {OK: "OK", WARNING: "WARNING", CRITICAL: "CRITICAL", UNKNOWN: "UNKNOWN"}
MILD = frozenset({"minor", "info"})
"""Severities of that."""
ASIDE = frozenset({"PAUSED", "RETIRED"})
"""Words of jobs for which nobody is called."""
PAGE = 5_000
"""Jobs asked for at once."""
NAMED_MAX = 10
HEAD = ("BACKUP", "HOST", "WORD", "FOR", "RESTORABLE TO", "PROVEN TO", "LAST RUN", "SIZE", "SERVICE", "WHY")


@click.group(invoke_without_command=True)
@click.option("--uncovered", is_flag=True, help="Hosts and services with neither a backup nor an exemption.")
@click.option("--word", "words", multiple=True, help="Only those of this word, such as STALE; repeat it.")
@click.option("--host", help="Only those of this host.")
@click.option("--service", help="Only those of this service.")
@click.option(
    "--limit", default=200, show_default=True, type=click.IntRange(1, 5_000), help="How many to show."
)
@click.option("--exit-code", is_flag=True, help="End with Nagios' 0-3: OK, WARNING, CRITICAL, UNKNOWN.")
@talks
@click.pass_context
def backups(
    ctx: click.Context,
    session: Session,
    uncovered: bool,
    words: tuple[str, ...],
    host: str | None,
    service: str | None,
    limit: int,
    exit_code: bool,
) -> int:
    """List backups, the worst first; show, review, verify or pause one."""
    if ctx.invoked_subcommand is not None:
        return OK
    fields: dict[str, Any] = {"word": list(words)} if words else {}
    fields |= {key: value for key, value in (("host", host), ("service", service)) if value}
    if uncovered and fields:
        raise Misused("--uncovered is not narrowed", "watchbill backups --uncovered")
    try:
        if uncovered:
            return _uncovered(session, exit_code)
        return _list(session, fields, limit, exit_code)
    except Misused:
        raise
    except CommandFailed as exc:
        if not exit_code:
            raise
        session.screen.line(f"UNKNOWN: {exc}")
        return UNKNOWN


def _list(session: Session, fields: dict[str, Any], limit: int, exit_code: bool) -> int:
    most = PAGE if session.as_json or exit_code else limit
    document = _asked(session, fields, most, everything=session.as_json)
    jobs = document["backups"]
    code, sentence = _nagios(document)
    if session.as_json:
        session.screen.json(document)
        return code if exit_code else OK
    if exit_code:
        session.screen.line(sentence)
    if jobs:
        session.screen.table(HEAD, [list_row(job) for job in jobs[:limit]], (3, 7))
        left = document["total"] - min(len(jobs), limit)
        if left > 0:
            session.screen.line(
                f"and {left} more: watchbill backups --limit {min(document['total'], 5_000)}, or --json for all"
            )
    elif not exit_code:
        narrowed = "No backup is like that." if fields else "No host has told of a backup yet."
        session.screen.line(f"{narrowed} try: watchbill backups --uncovered")
    return code if exit_code else OK


def _asked(session: Session, fields: dict[str, Any], limit: int, *, everything: bool) -> dict[str, Any]:
    """The jobs: so many for people, all of them for programs."""
    whole: dict[str, Any] = session.client.get("/backups", {**fields, "limit": str(limit)})
    while everything and len(whole["backups"]) < whole["total"]:
        offset = str(len(whole["backups"]))
        page = session.client.get("/backups", {**fields, "limit": str(limit), "offset": offset})
        if not page["backups"]:
            break  # Some are gone meanwhile.
        whole["backups"] += page["backups"]
        whole["truncated"] = page["truncated"]
    return whole


def _nagios(document: dict[str, Any]) -> tuple[int, str]:
    """The state of the worst, and its sentence. What is paused or retired calls nobody.

    The worst come first, so that one page says enough; what stands behind thousands of them is in the counts.
    """
    found: dict[int, list[str]] = {}
    for job in document["backups"]:
        if job["word"] not in ASIDE:
            found.setdefault(_code(job), []).append(f"{clean(job['host'])}/{clean(job['name'])}")
    words: dict[str, int] = document["words"]
    for word in words:
        if word in CODES:
            found.setdefault(CODES[word], [])
    code = next((code for code in WORST_FIRST if code in found), OK)
    counts = ", ".join(f"{count} {word}" for word, count in words.items()) or "no backups"
    if code == OK:
        return code, f"OK: {counts}"
    names, more = found[code][:NAMED_MAX], len(found[code]) - NAMED_MAX
    behind = " and more" if document["truncated"] else f" and {more} more"
    listed = f": {', '.join(names)}{behind if more > 0 else ''}" if names else ""
    return code, f"{SENTENCES[code]}: {counts}{listed}"


def _code(job: dict[str, Any]) -> int:
    return CODES.get(job["word"], WARNING if job["severity"] in MILD else CRITICAL)


def _uncovered(session: Session, exit_code: bool) -> int:
    document = session.client.get("/backups/uncovered")
    hosts, services, screen = document["hosts"], document["services"], session.screen
    code = WARNING if exit_code and (hosts or services) else OK
    if session.as_json:
        screen.json(document)
        return code
    said = f"{len(hosts)} of {document['hosts_total']} hosts and {len(services)} of "
    said += f"{document['services_total']} services have neither a backup nor an exemption"
    screen.line(f"{SENTENCES[code]}: {said}" if exit_code else f"{said}.")
    if services:
        rows = [
            (
                one["name"],
                one["owner"] or "-",
                ", ".join(one["hosts"]) or "-",
                f"no host has {', '.join(one['missing'])}" if one["missing"] else "no backup names it",
            )
            for one in services
        ]
        screen.table(("SERVICE", "OWNER", "HOSTS", "BECAUSE"), rows)
    if hosts:
        bare = [(one["name"], one["state"], ", ".join(one["services"]) or "-") for one in hosts]
        screen.table(("HOST", "STATE", "SERVES"), bare)
    if hosts or services:
        screen.line(
            "If that is meant: watchbill backups exempt host NAME --owner WHO --reason TEXT --for 180d"
        )
    return code


# ---------------------------------------------------------------- one of them


@backups.command()
@click.argument("job")
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 1_000), help="How many entries."
)
@talks
def show(session: Session, job: str, limit: int) -> None:
    """One backup: why it stands as it does, what to do, its last runs, what happened."""
    count = limit if not session.as_json else max(limit, 100)
    document = session.client.get(f"/backups/{_path(job)}", {"limit": str(count)})
    if session.as_json:
        session.screen.json(document)
        return
    for line in show_lines(session.screen, document):
        session.screen.line(line)
    history_lines(session.screen, document, limit)


@backups.command()
@click.argument("job")
@click.option("--note", metavar="TEXT", help="What you found; it is kept with your name.")
@talks
def review(session: Session, job: str, note: str | None) -> None:
    """Sign that somebody looked at backup JOB, and what was found."""
    if not note or not note.strip():
        raise Misused("what did you find? a review has a note", "watchbill backups review JOB --note TEXT")
    made = session.client.post(f"/backups/{_path(job)}/review", {"note": note})
    if session.as_json:
        session.screen.json(made)
        return
    session.screen.line(
        f"Signed by {clean(made['by'])}: {clean(job)} was {made['word']}. {clean(made['note'], 400)}"
    )


@backups.command()
@click.argument("job")
@click.option("--for", "duration", metavar="DURATION", help="How long, such as 2d.")
@click.option("--reason", metavar="TEXT", help="Why; others read it.")
@talks
def pause(session: Session, job: str, duration: str | None, reason: str | None) -> None:
    """Do not judge backup JOB for a while: it tells nobody that it is late or old."""
    example = "watchbill backups pause JOB --for 2d --reason TEXT"
    if not duration:
        raise Misused("for how long? a pause ends by itself", example)
    if not reason or not reason.strip():
        raise Misused("why? a pause has a reason", example)
    duration_s = seconds(duration)
    made = session.client.post(f"/backups/{_path(job)}/pause", {"duration_s": duration_s, "reason": reason})
    if session.as_json:
        session.screen.json(made)
        return
    session.screen.line(f"{clean(made['name'])} of {clean(made['host'])} is paused for {span(duration_s)}.")
    session.screen.line(f"To end it early: watchbill backups resume {made['id']}")


@backups.command()
@click.argument("job")
@talks
def resume(session: Session, job: str) -> None:
    """Judge backup JOB again now."""
    made = session.client.delete(f"/backups/{_path(job)}/pause")
    if session.as_json:
        session.screen.json(made)
        return
    screen = session.screen
    screen.line(
        f"{clean(made['name'])} of {clean(made['host'])} is judged again: {screen.state(made['word'])}"
    )


@backups.command()
@click.argument("job")
@click.option(
    "--level",
    type=click.Choice(["structure", "data", "restore"]),
    help="What to prove; else what is due first.",
)
@click.option("--host", help="The host whose job it is, where several have one of that name.")
@click.option("--wait", is_flag=True, help="Until it is done; end with 0 if the proof holds, else 1.")
@click.option(
    "--within",
    "within",
    metavar="DURATION",
    default="7h",
    show_default=True,
    help="With --wait: how long at most.",
)
@talks
def verify(session: Session, job: str, level: str | None, host: str | None, wait: bool, within: str) -> int:
    """Have backup JOB verified by its host now, as far as the host's own backups.d declares it."""
    name = f"{host}/{job}" if host else job
    return asked(session, name, level or "", wait=wait, within_s=seconds(within))


# ---------------------------------------------------------------- exemptions


@backups.command()
@talks
def exemptions(session: Session) -> None:
    """Hosts and services that need no backup, until when, and who says so."""
    document = session.client.get("/backups/exemptions")
    if session.as_json:
        session.screen.json(document)
        return
    if not document["exemptions"]:
        session.screen.line("No exemptions.")
        return
    session.screen.table(
        ("ID", "KIND", "NAME", "ENDS", "OWNER", "BY", "REASON"),
        [
            (one["id"], one["kind"], one["name"], ago(one["expires"]), one["owner"], one["by"], one["reason"])
            for one in document["exemptions"]
        ],
        (3,),
    )


@backups.command()
@click.argument("kind", type=click.Choice(["host", "service"]))
@click.argument("name")
@click.option("--owner", metavar="WHO", help="Who answers for it.")
@click.option("--reason", metavar="TEXT", help="Why it needs none; others read it.")
@click.option("--for", "duration", metavar="DURATION", help="How long, such as 180d.")
@talks
def exempt(
    session: Session, kind: str, name: str, owner: str | None, reason: str | None, duration: str | None
) -> None:
    """Say that a host or a service needs no backup, for a while."""
    example = f"watchbill backups exempt {kind} NAME --owner WHO --reason TEXT --for 180d"
    if not owner or not reason or not duration:
        raise Misused("an exemption has an owner, a reason and an end", example)
    order = {
        "kind": kind,
        "name": name,
        "owner": owner,
        "reason": reason,
        "duration_s": seconds(duration),
    }
    made = session.client.post("/backups/exemptions", order)
    if session.as_json:
        session.screen.json(made)
        return
    session.screen.line(
        f"Exemption {made['id']}: the {made['kind']} {clean(made['name'])} needs no backup "
        f"until {clock(made['expires'])}."
    )
    session.screen.line(f"To end it early: watchbill backups unexempt {made['id']}")


@backups.command()
@click.argument("exemption_id", metavar="ID")
@talks
def unexempt(session: Session, exemption_id: str) -> None:
    """End exemption ID now."""
    ended = session.client.delete(f"/backups/exemptions/{segment(exemption_id)}")
    if session.as_json:
        session.screen.json(ended)
        return
    session.screen.line(f"The {ended['kind']} {clean(ended['name'])} needs a backup again.")


backups.add_command(report)


def _path(job: str) -> str:
    """A job as the path has it: an id, a name, or HOST/JOB."""
    return segment(job)
