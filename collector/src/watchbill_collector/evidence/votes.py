"""What people signed, looked at again: manifests against their digests, votes against the rosters of that time."""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from watchbill.actions.grants import digest, open_vote, read_manifest
from watchbill.actions.roster import Roster, RosterRefused, glance, open_roster
from watchbill.actions.signing import SignatureRefused
from watchbill.errors import Unreadable


def read_rosters(
    found: Sequence[Mapping[str, Any]], keys: Mapping[str, bytes]
) -> tuple[list[Roster], list[str]]:
    """Rosters as they were published, the newest first, and what is wrong with them. `keys` are those of `roster.pub`;
    without any, nobody vouches for the rosters but who carried them."""
    rosters: list[Roster] = []
    faults: list[str] = []
    for one in found:
        try:
            signed = base64.b64decode(one["signed"], validate=True)
            roster = open_roster(keys, signed) if keys else glance(signed)
        except (binascii.Error, RosterRefused, Unreadable) as exc:
            faults.append(f"roster {one['serial']}: {exc}")
            continue
        if roster.serial != one["serial"]:
            faults.append(f"roster {one['serial']}: it says of itself that it is {roster.serial}")
        rosters.append(roster)
    return sorted(rosters, key=lambda roster: -roster.serial), faults


def gate_faults(
    gates: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any],
    site: str,
    rosters: Sequence[Roster],
) -> Iterator[str]:
    """Gates whose documents and votes are not what they seem."""
    for gate in gates:
        content = gate["manifest"].encode("utf-8", "surrogatepass")
        name = f"gate {gate['step']}"
        if digest(content) != gate["digest"]:
            yield f"{name}: what was voted on is not the document with the digest {gate['digest'][:16]}"
            continue
        try:
            manifest = read_manifest(content)
        except Unreadable as exc:
            yield f"{name}: {exc}"
            continue
        told = (manifest.site, manifest.run, manifest.runbook_digest, manifest.gate)
        if told != (site, run["id"], run["digest"], gate["step"]):
            yield f"{name}: what was voted on is another run's, or another text's"
        yield from _votes(gate, name, rosters)


def _votes(gate: Mapping[str, Any], name: str, rosters: Sequence[Roster]) -> Iterator[str]:
    signed_by: set[str] = set()
    unsigned: set[str] = set()
    for vote in gate["votes"]:
        if not vote["signed"]:
            if vote["approve"]:
                unsigned.add(vote["person"])
            continue
        fault = _vote_fault(vote, gate, rosters)
        if fault:
            yield f"{name}: the vote of {vote['person']}: {fault}"
        elif vote["approve"]:
            signed_by.add(vote["person"])
    if not gate["passed"]:
        return
    counted = signed_by if gate["verified_on_host"] else signed_by | unsigned
    people = set(gate["people"])
    if missing := sorted(people - counted):
        yield f"{name}: it passed by the word of {', '.join(missing)}, of whom there is no vote that holds"
    if len(people) < gate["count"]:
        yield f"{name}: it passed with {len(people)} of {gate['count']}"


def _vote_fault(vote: Mapping[str, Any], gate: Mapping[str, Any], rosters: Sequence[Roster]) -> str:
    try:
        signed = base64.b64decode(vote["signed"], validate=True)
    except binascii.Error:
        return "no base64"
    why = "there is no roster to look for its key in"
    for roster in rosters:
        try:
            opened, person = open_vote(roster, signed)
        except (SignatureRefused, Unreadable) as exc:
            why = str(exc)
            continue
        if (opened.manifest, opened.gate) != (gate["digest"], gate["step"]):
            return "it is to something else"
        if (opened.approve, person.name) != (vote["approve"], vote["person"]):
            return "it says something else than the journal"
        return ""
    return why
