"""`watchbill approve` and `watchbill deny`: a person's own word, signed with his own key.

What is signed is the digest of the manifest, computed here from the very bytes that are shown. What the collector says
beside them - a digest, a name, an argv - is not believed: a collector that shows one thing and sends another to a host
has no vote for the other thing.
"""

import base64
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from watchbill_collector.cli import approval_key
from watchbill_collector.cli.client import segment
from watchbill_collector.cli.errors import CommandFailed, Misused, Refused
from watchbill_collector.cli.options import Session, talks
from watchbill_collector.cli.runbook_text import (
    count_of,
    folded,
    next_lines,
    prose,
    sheet,
    step_words,
    times_words,
    width_of,
)
from watchbill_collector.cli.screen import Screen, clean, span

if TYPE_CHECKING:
    from watchbill.actions.grants import Manifest, ProtectedEffect

COMMENT_CHARACTERS_MAX: Final = 500
VALUE_MAX: Final = 1_024
DIGITS_SHOWN: Final = 16
ATTEMPTS_MAX: Final = 1_000
"""Of a bundle's step, as hosts know it."""


@dataclass(frozen=True, slots=True)
class _Gate:
    """What is voted on: the gate, its bytes, and what they say."""

    step: str
    content: bytes
    manifest: "Manifest"
    verified_on_host: bool


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("step", required=False)
@click.option("--comment", metavar="TEXT", default="", help="Kept beside your vote.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--login", is_flag=True, help="Vote by your login, unsigned: for gates that no host verifies.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="F",
    help="Without the collector: the step of a bundle.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="A", help="--bundle: where your vote is written."
)
@click.option(
    "--set", "values", multiple=True, metavar="NAME=VALUE", help="--bundle: what had to be found out."
)
@click.option("--run", "bundle_run", default="", metavar="ID", help="--bundle: the run that it goes on with.")
@click.option("--undo", is_flag=True, help="--bundle: the step's undo.")
@click.option(
    "--attempt",
    type=click.IntRange(1, ATTEMPTS_MAX),
    default=1,
    metavar="N",
    help="--bundle: one attempt more than was agreed to before.",
)
@talks
def approve(
    session: Session,
    run_id: str,
    step: str | None,
    comment: str,
    yes: bool,
    login: bool,
    bundle: Path | None,
    out: Path | None,
    values: tuple[str, ...],
    bundle_run: str,
    undo: bool,
    attempt: int,
) -> None:
    """Agree to what RUN wants to do at the gate STEP, with the key in ~/.config/watchbill/approval.key.

    When the collector is gone: `approve --bundle F STEP --out A` signs what a bundle's STEP does, and asks nobody.
    """
    if bundle is not None:
        from watchbill_collector.cli.bundles import approve_step

        if step is not None or login or out is None:
            raise Misused(
                "a bundle's step is signed into a file", "watchbill approve --bundle F STEP --out A"
            )
        kind = "undo" if undo else "do"
        approve_step(
            session, bundle, run_id, out, values, bundle_run, comment, attempt=attempt, kind=kind, yes=yes
        )
        return
    if out or values or bundle_run or undo or attempt > 1:
        raise Misused(
            "--out, --set, --run, --undo and --attempt go with --bundle", "watchbill approve RUN STEP"
        )
    _vote(session, run_id, step, comment, approve=True, yes=yes, login=login)


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("step", required=False)
@click.option("--comment", metavar="TEXT", default="", help="Why not; kept beside your vote.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--login", is_flag=True, help="Vote by your login, unsigned: for gates that no host verifies.")
@talks
def deny(session: Session, run_id: str, step: str | None, comment: str, yes: bool, login: bool) -> None:
    """Say no to what RUN wants to do at the gate STEP. One no is enough."""
    _vote(session, run_id, step, comment, approve=False, yes=yes, login=login)


def _vote(
    session: Session, run_id: str, step: str | None, comment: str, *, approve: bool, yes: bool, login: bool
) -> None:
    if len(comment) > COMMENT_CHARACTERS_MAX:
        raise Misused(f"--comment got {len(comment)} characters, wanted at most {COMMENT_CHARACTERS_MAX}")
    run = session.client.get(f"/runs/{segment(run_id)}")
    gate = _gate(run, step)
    key = None if login else approval_key.load()
    if key is None and gate.verified_on_host:
        raise Misused(
            f"hosts look at this gate themselves and count signatures alone; {approval_key.key_file()} is not there",
            approval_key.MAKE_ONE,
        )
    if key is not None and approve and key.name == gate.manifest.requester:
        raise Refused(
            f"{clean(key.name)} asked for this run himself: somebody else has to agree",
            f"watchbill runs show {clean(run_id)}",
        )
    # With --json the one document goes to standard output: what is signed is shown beside it.
    screen = Screen(sys.stderr, False) if session.as_json else session.screen
    for line in gate_lines(screen, gate.manifest, gate.content):
        screen.line(line)
    as_whom = "by your login" if key is None else f"as {clean(key.name)}, key {key_name(key.public)}"
    ask(f"{'Agree' if approve else 'Say no'} {as_whom}?", yes)
    if key is None:
        order: dict[str, Any] = {"step": gate.step, "approve": approve, "comment": comment}
        after = session.client.post(f"/runs/{segment(run_id)}/approve", order)
    else:
        signed = signed_vote(key, gate.manifest, gate.content, comment, approve=approve)
        order = {"step": gate.step, "vote": base64.b64encode(signed).decode("ascii")}
        after = session.client.post(f"/runs/{segment(run_id)}/vote", order)
    _tell(session, after, gate.step)


def _gate(run: dict[str, Any], wanted: str | None) -> _Gate:
    """The open gate that is meant, and what is voted on. Raises CommandFailed."""
    from watchbill.actions.grants import digest, read_manifest
    from watchbill.errors import Unreadable

    run_id = clean(run["id"])
    gates = {
        step["id"]: step for step in run["steps"] if step["kind"] == "approve" and step["state"] == "waiting"
    }
    if wanted is None and len(gates) > 1:
        names = ", ".join(clean(name) for name in gates)
        raise Misused(f"{run_id} waits at {names}: at which?", f"watchbill approve {run_id} STEP")
    step = wanted if wanted is not None else next(iter(gates), "")
    if step not in gates:
        told = (
            f"the gate {clean(step)} of {run_id} is not open"
            if step
            else f"{run_id} waits for nobody's approval"
        )
        raise CommandFailed(f"{told}: the run is {clean(run['state'])}", f"watchbill runs show {run_id}")
    found = gates[step]
    content = found["manifest"].encode("utf-8", "surrogatepass")
    try:
        manifest = read_manifest(content)
    except Unreadable as exc:
        raise Refused(f"what the collector shows cannot be voted on: {clean(str(exc), 400)}") from exc
    if digest(content) != found["manifest_digest"] or (manifest.run, manifest.gate) != (run["id"], step):
        raise Refused(
            f"the collector shows one thing and asks for a vote on another (run {clean(manifest.run)}, gate "
            f"{clean(manifest.gate)}, digest {digest(content)[:DIGITS_SHOWN]}): nothing was signed",
            "watchbill doctor",
        )
    if _now_ms() >= manifest.expires_ms:
        raise Refused(f"the gate {clean(step)} ended {span((_now_ms() - manifest.expires_ms) / 1000)} ago")
    return _Gate(step, content, manifest, bool(found["verified_on_host"]))


def gate_lines(screen: Screen, manifest: "Manifest", content: bytes) -> Iterator[str]:
    """What is agreed to, in full: every protected effect with host, action and arguments."""
    from watchbill.actions.grants import digest

    width = width_of(screen)
    left_s = (manifest.expires_ms - _now_ms()) / 1000
    yield from sheet(
        (
            (
                "run",
                f"{clean(manifest.run)} of {clean(manifest.runbook)}"
                + (", a drill" if manifest.drill else ""),
            ),
            ("site", clean(manifest.site)),
            ("gate", clean(manifest.gate)),
            ("asked by", clean(manifest.requester)),
            ("reason", clean(manifest.reason, 2_000)),
            ("holds", f"for {span(max(0.0, left_s))} at most"),
            ("runbook", clean(manifest.runbook_digest)),
            ("signed over", digest(content)),
        ),
        width,
    )
    yield ""
    if not manifest.effects:
        yield from prose(
            "No protected action stands behind this gate: the collector alone looks at it.", "", 0, width
        )
    else:
        hosts = list(dict.fromkeys(effect.host for effect in manifest.effects))
        yield f"{count_of(len(manifest.effects), 'protected action')} on {count_of(len(hosts), 'host')}:"
    for same in _alike(manifest.effects):
        effect = same[0]
        head = f"  {clean(effect.step)}: {clean(effect.action)} on"
        # Each host by its name and by its identity: the second is what it looks at itself.
        where = [
            f"{clean(one.host)} ({clean(one.agent)})" + ("," if one is not same[-1] else "") for one in same
        ]
        yield from folded(where, head, 6, width)
        for name, value in effect.arguments.items():
            yield from folded([f"{clean(name)} =", clean(json.dumps(value), VALUE_MAX)], " " * 6, 10, width)
        yield f"      action {clean(effect.action_digest)}"
        yield f"      may begin {times_words(effect.times)} on each host, which counts it"
    if manifest.effects:
        yield ""
        yield "What an action runs, its host says: watchbill-agent actions list --digest"
    yield ""


def _alike(effects: Sequence["ProtectedEffect"]) -> "list[list[ProtectedEffect]]":
    """Effects that differ by their hosts alone stand together."""
    found: dict[tuple[str, ...], list[ProtectedEffect]] = {}
    for one in effects:
        arguments = json.dumps(dict(one.arguments), sort_keys=True)
        key = (one.step, one.action, one.action_digest, arguments, str(one.times))
        found.setdefault(key, []).append(one)
    return list(found.values())


def ask(question: str, yes: bool) -> None:
    """A signature is a person's: without one at a terminal it has to be said by --yes. Raises Misused."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Misused("nobody is here to say yes; nothing was signed", "--yes, where a program has decided")
    if not click.confirm(question, default=False, err=True):
        raise Misused("nothing was signed")


def signed_vote(
    key: approval_key.ApprovalKey, manifest: "Manifest", content: bytes, comment: str, *, approve: bool
) -> bytes:
    """A vote to a manifest, by the digest of its bytes."""
    from watchbill.actions.grants import Vote, digest, sign_vote

    vote = Vote(
        manifest=digest(content),
        site=manifest.site,
        run=manifest.run,
        gate=manifest.gate,
        person=key.name,
        approve=approve,
        signed_ms=_now_ms(),
        expires_ms=manifest.expires_ms,
        comment=comment,
    )
    return sign_vote(key.seed, vote)


def _tell(session: Session, run: dict[str, Any], step: str) -> None:
    if session.as_json:
        session.screen.json(run)
        return
    screen = session.screen
    gate = next(one for one in run["steps"] if one["id"] == step)
    screen.line(f"Your vote counts: {clean(step_words(gate), 400)}.")
    for line in prose(
        run["state_detail"],
        f"The run is {screen.state(run['state'])}{':' if run['state_detail'] else ''}",
        6,
        width_of(screen),
    ):
        screen.line(line)
    if run["state"] != "waiting":
        for line in next_lines(run):
            screen.line(line)


def key_name(public: bytes) -> str:
    """A short name of a key."""
    from watchbill.actions.signing import key_id

    return key_id(public)


def _now_ms() -> int:
    return int(time.time() * 1000)
