"""`watchbill evidence`: a run, or a time, as one signed archive; and whether an archive holds."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from watchbill_collector.cli.client import segment
from watchbill_collector.cli.errors import FAILED, OK, CommandFailed, Misused
from watchbill_collector.cli.options import Session, seconds, talks
from watchbill_collector.cli.screen import Screen, clean, span

if TYPE_CHECKING:
    from watchbill_collector.evidence.verify import Verdict

KEY_FILE_BYTES_MAX: Final = 16 * 1024
DETAIL_MAX: Final = 400
_KEY: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HOW: Final = "watchbill evidence RUN | --since 30d | verify FILE"


@click.command()
@click.argument("what", nargs=-1, metavar="[RUN | verify FILE]")
@click.option("--since", metavar="DURATION", help="Everything of that time, instead of one RUN.")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write; one is never replaced.")
@click.option("--key", metavar="HEX|FILE", help="verify: the collector's audit key, as it is known to you.")
@click.option(
    "--roster-pub",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="verify: roster.pub of the hosts, to check the rosters' own signatures.",
)
@talks
def evidence(
    session: Session,
    what: tuple[str, ...],
    since: str | None,
    out: Path | None,
    key: str | None,
    roster_pub: Path | None,
) -> int:
    """RUN, or all that happened since, as one signed archive: text, journal, votes, timings, audit, controls.

    `evidence verify FILE` checks every digest, chain and signature in an archive, and names what does not hold. With
    --key it asks no collector; without it the collector says which key is its own. Ends with 1 when anything is wrong.
    """
    match what:
        case ("verify", file):
            if since or out:
                raise Misused("--since and --out make an archive, verify reads one", _HOW)
            return _verify(session, Path(file), key, roster_pub)
        case (run_id,) if not since and run_id != "verify":
            _refuse_keys(key, roster_pub)
            path, name = f"/runs/{segment(run_id)}/evidence", f"evidence-{run_id}.zip"
            fetch(session, path, {}, out or Path(name))
        case () if since:
            _refuse_keys(key, roster_pub)
            fetch(session, "/evidence", {"since": _began(since)}, out or Path("evidence.zip"))
        case _:
            raise Misused("wanted one run, or --since, or verify and a file", _HOW)
    return OK


def _refuse_keys(key: str | None, roster_pub: Path | None) -> None:
    if key or roster_pub:
        raise Misused("--key and --roster-pub are for verify", _HOW)


def _began(since: str) -> str:
    import time

    return f"{time.time() - seconds(since):.3f}"


def fetch(session: Session, path: str, fields: dict[str, str], out: Path) -> None:
    """An archive into a file that was not there."""
    if out.exists():
        raise Misused(f"{out} is there already, and an archive is never replaced", "--out FILE")
    content = session.client.download(path, fields)
    with open(out, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if session.as_json:
        session.screen.json({"file": str(out), "bytes": len(content)})
    else:
        session.screen.line(
            f"{len(content)} bytes in {out}. It is checked by: watchbill evidence verify {out}"
        )


# ---------------------------------------------------------------- checking


def _verify(session: Session, path: Path, key: str | None, roster_pub: Path | None) -> int:
    from watchbill.actions.roster import read_public_file
    from watchbill.errors import Unreadable
    from watchbill_collector.evidence.archive import ARCHIVE_BYTES_MAX
    from watchbill_collector.evidence.verify import verify

    content = _read(path, ARCHIVE_BYTES_MAX)
    try:
        rosters = (
            read_public_file(_read(roster_pub, KEY_FILE_BYTES_MAX), str(roster_pub)) if roster_pub else {}
        )
    except Unreadable as exc:
        raise Misused(str(exc)) from exc
    trusted = bytes.fromhex(_given(key)) if key else bytes.fromhex(session.client.get("/evidence/key")["key"])
    try:
        verdict = verify(content, (trusted,), rosters)
    except Unreadable as exc:
        raise CommandFailed(f"{path}: {clean(str(exc), DETAIL_MAX)}") from exc
    if session.as_json:
        session.screen.json(_document(verdict))
    else:
        _tell(session.screen, path, verdict)
    return OK if verdict.ok else FAILED


def _read(path: Path, bytes_max: int) -> bytes:
    with open(path, "rb") as file:
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise Misused(f"{path} has more than {bytes_max} bytes")
    return content


def _given(key: str) -> str:
    """The key as it is typed, or from a file that holds nothing else."""
    text = key
    if not _KEY.fullmatch(text) and Path(text).is_file():
        text = _read(Path(text), KEY_FILE_BYTES_MAX).decode("ascii", "replace").strip()
    if not _KEY.fullmatch(text):
        raise Misused(
            f"--key got {key[:80]!a}, wanted 64 hexadecimal digits, or a file that holds them",
            "--key 7d5f...",
        )
    return text


def _document(verdict: "Verdict") -> dict[str, Any]:
    return {
        "ok": verdict.ok,
        "about": dict(verdict.about),
        "key": verdict.key,
        "files": verdict.files,
        "findings": [{"file": one.file, "detail": one.detail} for one in verdict.findings],
        "findings_left_out": verdict.left_out,
        "notes": verdict.notes,
    }


def _tell(screen: Screen, path: Path, verdict: "Verdict") -> None:
    for one in verdict.findings:
        screen.line(f"{screen.painted(clean(one.file), 'red')}: {clean(one.detail, DETAIL_MAX)}")
    if verdict.left_out:
        screen.line(f"and {verdict.left_out} more")
    for note in dict.fromkeys(verdict.notes):
        screen.line(f"note: {clean(note, DETAIL_MAX)}")
    about = verdict.about
    what = f"run {about['run']}" if "run" in about else _period(about)
    if about.get("kind") == "backups":
        what = f"backups over {what}"
    word = "everything in it holds" if verdict.ok else "it does not hold"
    screen.line(
        f"{clean(str(path))}: {clean(what)} of the site {clean(str(about.get('site', '?')))}, "
        f"{verdict.files} documents: {word}"
    )


def _period(about: Any) -> str:
    since, until = about.get("since_ms"), about.get("until_ms")
    if not isinstance(since, int) or not isinstance(until, int):
        return "something"
    return f"{span((until - since) / 1000)}"
