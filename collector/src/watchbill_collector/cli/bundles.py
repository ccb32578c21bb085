"""Bundles at the operator's desk: written when there is a collector, voted on when there is none."""

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from watchbill_collector.cli import approval_key
from watchbill_collector.cli.approving import ask, gate_lines, key_name, signed_vote
from watchbill_collector.cli.bundle_text import paper
from watchbill_collector.cli.client import segment
from watchbill_collector.cli.errors import Misused, Refused
from watchbill_collector.cli.options import Session, assignments
from watchbill_collector.cli.screen import clean

if TYPE_CHECKING:
    from watchbill.actions.bundle import Bundle

COMMENT_CHARACTERS_MAX: Final = 500
READABLE: Final = 0o644


def export_bundle(session: Session, name: str, given: Mapping[str, str], run_id: str, out: Path) -> None:
    """Have the collector make a bundle; write it, and beside it the paper."""
    files = [out.with_name(f"{out.name}.{kind}") for kind in ("bundle", "md")]
    for file in files:
        if file.exists():
            raise Misused(f"{file} is there already, and is not replaced", "--out NAME")
    made = session.client.post(
        f"/runbooks/{segment(name)}/export", {"parameters": dict(given), "run": run_id}
    )
    try:
        signed = base64.b64decode(made["bundle"], validate=True)
    except binascii.Error as exc:
        raise Refused("the collector's bundle is no base64", "watchbill doctor") from exc
    bundle = _read(signed, "the collector's answer")
    _write(files[0], signed)
    _write(files[1], paper(bundle, hashlib.sha256(signed).hexdigest(), files[0].name).encode())
    if session.as_json:
        session.screen.json(
            {"id": bundle.id, "bundle": str(files[0]), "paper": str(files[1]), "sha256": made["sha256"]}
        )
        return
    for problem in bundle.problems:
        session.screen.line(f"note: {clean(problem, 400)}")
    session.screen.line(f"{files[0]} for `watchbill-agent act --bundle`, {files[1]} to print.")
    session.screen.line("Keep both where they are found without this collector.")


def approve_step(
    session: Session,
    file: Path,
    step: str,
    out: Path,
    values: tuple[str, ...],
    run_id: str,
    comment: str,
    *,
    attempt: int,
    kind: str,
    yes: bool,
) -> None:
    """Sign what a bundle's step does, as its host works it out itself."""
    from watchbill.actions.bundle import PURPOSES
    from watchbill.actions.definition import ArgumentRefused
    from watchbill.errors import Unreadable

    assert kind in PURPOSES, kind
    if len(comment) > COMMENT_CHARACTERS_MAX:
        raise Misused(f"--comment got {len(comment)} characters, wanted at most {COMMENT_CHARACTERS_MAX}")
    if out.exists():
        raise Misused(f"{out} is there already, and is not replaced", "--out A")
    bundle = _read(_content(file), str(file))
    key = approval_key.load()
    if key is None:
        raise Misused(f"{approval_key.key_file()} is not there", approval_key.MAKE_ONE)
    if key.name == bundle.requester:
        raise Refused(f"{clean(key.name)} had this bundle made: somebody else has to agree")
    found = bundle.of(step, kind)
    if not any(one.approvals for one in found):
        known = ", ".join(dict.fromkeys(one.step for one in bundle.steps if one.acts and one.approvals))
        raise Misused(
            f"{clean(step)} needs nobody's approval, or is no step of it"
            f"{': those that do are ' + clean(known, 400) if known else ''}"
        )
    try:
        manifest = bundle.manifest(step, kind, run_id, assignments(values), attempt)
        content = manifest.content()
    except (ArgumentRefused, Unreadable) as exc:
        raise Misused(clean(str(exc), 400)) from exc
    screen = session.screen
    if not session.as_json:
        for line in gate_lines(screen, manifest, content):
            screen.line(line)
        for one in found:
            screen.line(f"  on {clean(one.host)}: {clean(' '.join(one.argv), 400)}")
    ask(f"Agree as {clean(key.name)}, key {key_name(key.public)}?", yes)
    vote = signed_vote(key, manifest, content, comment, approve=True)
    _write(out, base64.b64encode(vote) + b"\n")
    if session.as_json:
        screen.json({"approval": str(out), "step": step, "run": manifest.run})
    else:
        screen.line(
            f"{out}: take it to the host. watchbill-agent act --bundle F {clean(step)} --approval {out}"
        )


def _content(file: Path) -> bytes:
    from watchbill.actions.canonical import DOCUMENT_BYTES_MAX

    with open(file, "rb") as found:
        return found.read(DOCUMENT_BYTES_MAX + 65)


def _read(signed: bytes, what: str) -> "Bundle":
    from watchbill.actions.bundle import glance
    from watchbill.errors import Unreadable

    try:
        return glance(signed)
    except Unreadable as exc:
        raise Misused(
            f"{what}: {clean(str(exc), 400)}; wanted what `watchbill runbooks export` wrote"
        ) from exc


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, READABLE)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
