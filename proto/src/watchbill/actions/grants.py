"""Approvals: a manifest says what would be done, people sign its digest, and the host that does it looks at both.

A `Manifest` is made when a gate opens: the run, the runbook's digest, the gate, who asked, until when, and every
protected effect behind the gate with host, action, its digest and its arguments. Any change makes another digest, and
so voids the votes. A host runs a protected command only when the manifest names exactly this effect on this host and
enough different people of the wanted role, none of them the one who asked, have said yes to it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from watchbill.actions import bounds
from watchbill.actions.canonical import canonical, read_canonical
from watchbill.actions.definition import Needs, Value
from watchbill.actions.order import Command
from watchbill.actions.roster import Person, Roster
from watchbill.actions.signing import Domain, SignatureRefused, open_signed, sign, unverified
from watchbill.errors import Refused, Unreadable

VOTE_BYTES_MAX: Final = 2 * 1024
MANIFEST_BYTES_MAX: Final = 192 * 1024
"""It travels with every command that it allows, together with votes and arguments."""


class ApprovalsMissing(Refused):
    """Not enough people have agreed to what would be run; the text says who was not counted, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedEffect:
    """One thing that would be done. `agent` is the host's identity, `host` its name for people."""

    step: str
    agent: str
    host: str
    action: str
    action_digest: str
    arguments: Mapping[str, Value]

    def document(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "step": self.step,
            "agent": self.agent,
            "host": self.host,
            "action": self.action,
            "action_digest": self.action_digest,
            "arguments": dict(self.arguments),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What people agree to. Times are UTC milliseconds of the collector; `requester` is who asked for the run."""

    site: str
    run: str
    runbook: str
    runbook_digest: str
    gate: str
    requester: str
    reason: str
    drill: bool
    opened_ms: int
    expires_ms: int
    effects: tuple[ProtectedEffect, ...]

    def content(self) -> bytes:
        """The canonical bytes that are voted on. Raises Unreadable when they are too many."""
        found = canonical(
            {
                "v": 1,
                "site": self.site,
                "run": self.run,
                "runbook": self.runbook,
                "runbook_digest": self.runbook_digest,
                "gate": self.gate,
                "requester": self.requester,
                "reason": self.reason,
                "drill": self.drill,
                "opened_ms": self.opened_ms,
                "expires_ms": self.expires_ms,
                "effects": [one.document() for one in self.effects],
            }
        )
        if len(found) > MANIFEST_BYTES_MAX or len(self.effects) > bounds.EFFECTS_MAX:
            raise Unreadable(
                f"{len(self.effects)} protected effects ({len(found)} bytes) behind the gate {self.gate}, wanted at "
                f"most {bounds.EFFECTS_MAX} and {MANIFEST_BYTES_MAX} bytes: part them by a second gate"
            )
        return found


def digest(content: bytes) -> str:
    """What is voted on: SHA-256 of a manifest, in hexadecimal."""
    return hashlib.sha256(b"watchbill/manifest/v1\0" + content).hexdigest()


def read_manifest(content: bytes) -> Manifest:
    """A manifest from its bytes. Raises Unreadable."""
    document = read_canonical(content, MANIFEST_BYTES_MAX)
    try:
        return Manifest(
            site=str(document["site"]),
            run=str(document["run"]),
            runbook=str(document["runbook"]),
            runbook_digest=str(document["runbook_digest"]),
            gate=str(document["gate"]),
            requester=str(document["requester"]),
            reason=str(document["reason"]),
            drill=document["drill"] is True,
            opened_ms=int(document["opened_ms"]),
            expires_ms=int(document["expires_ms"]),
            effects=tuple(
                ProtectedEffect(
                    step=str(one["step"]),
                    agent=str(one["agent"]),
                    host=str(one["host"]),
                    action=str(one["action"]),
                    action_digest=str(one["action_digest"]),
                    arguments=dict(one["arguments"]),
                )
                for one in document["effects"]
            ),
        )
    except (KeyError, ValueError, TypeError) as exc:
        raise Unreadable(f"a manifest: {exc!r}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What one person said of a manifest, by its digest. `signed_ms` is his own clock's."""

    manifest: str
    site: str
    run: str
    gate: str
    person: str
    approve: bool
    signed_ms: int
    expires_ms: int
    comment: str = ""


def sign_vote(seed: bytes, vote: Vote) -> bytes:
    """As it is handed in."""
    return sign(
        Domain.VOTE,
        seed,
        {
            "v": 1,
            "manifest": vote.manifest,
            "site": vote.site,
            "run": vote.run,
            "gate": vote.gate,
            "person": vote.person,
            "approve": vote.approve,
            "signed_ms": vote.signed_ms,
            "expires_ms": vote.expires_ms,
            "comment": vote.comment,
        },
    )


def open_vote(roster: Roster, signed: bytes) -> tuple[Vote, Person]:
    """A vote whose signature is that of the person it names. Raises SignatureRefused, Unreadable."""
    claimed = read_vote(unverified(signed, VOTE_BYTES_MAX))
    person = roster.person(claimed.person)
    if person is None:
        raise SignatureRefused(f"{claimed.person!a} is not on the roster")
    return read_vote(open_signed(Domain.VOTE, person.key, signed, VOTE_BYTES_MAX)), person


def read_vote(document: Mapping[str, Any]) -> Vote:
    """A vote from what was signed. Raises Unreadable."""
    try:
        return Vote(
            manifest=str(document["manifest"]),
            site=str(document["site"]),
            run=str(document["run"]),
            gate=str(document["gate"]),
            person=str(document["person"]),
            approve=document["approve"] is True,
            signed_ms=int(document["signed_ms"]),
            expires_ms=int(document["expires_ms"]),
            comment=str(document["comment"]),
        )
    except (KeyError, ValueError, TypeError) as exc:
        raise Unreadable(f"a vote: {exc!r}") from exc


def count_votes(
    roster: Roster, manifest: bytes, votes: Iterable[bytes], role: str, labels: Mapping[str, str], now_ms: int
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Who has agreed to a manifest and counts, and why each of the others does not. `labels` are those of the host that
    were bound at its enrolment.

    One denial that holds voids all: (nobody, why).
    """
    wanted, request = digest(manifest), read_manifest(manifest)
    agreed: set[str] = set()
    left_out: list[str] = []
    for signed in list(votes)[: bounds.VOTES_MAX]:
        try:
            vote, person = open_vote(roster, signed)
        except (SignatureRefused, Unreadable) as exc:
            left_out.append(str(exc))
            continue
        fault = _fault(vote, person, wanted, request, role, labels, now_ms)
        if fault:
            left_out.append(f"{person.name}: {fault}")
        elif not vote.approve:
            return frozenset(), (f"{person.name} said no",)
        else:
            agreed.add(person.name)
    return frozenset(agreed), tuple(left_out)


def _fault(
    vote: Vote,
    person: Person,
    wanted: str,
    request: Manifest,
    role: str,
    labels: Mapping[str, str],
    now_ms: int,
) -> str:
    """Why a vote with a good signature does not count, or ""."""
    if vote.manifest != wanted or (vote.site, vote.run, vote.gate) != (
        request.site,
        request.run,
        request.gate,
    ):
        return "agreed to something else"
    if now_ms >= min(vote.expires_ms, request.expires_ms):
        return "the agreement has ended"
    if person.expires_ms and now_ms >= person.expires_ms:
        return "may not approve any more"
    if role not in person.roles:
        return f"has the roles {', '.join(person.roles) or 'none'}, wanted {role}"
    if not person.covers(labels):
        return "this host is outside his scope"
    if vote.approve and person.name == request.requester:
        return "asked for it himself"
    return ""


def check_command(
    command: Command,
    agent: str,
    site: str,
    needs: Needs,
    roster: Roster,
    labels: Mapping[str, str],
    now_ms: int,
) -> frozenset[str]:
    """Who has agreed to a command, when that is enough for it to run on this host. Raises ApprovalsMissing.

    Called by the runner, which believes nothing but what the roster's keys and people's own keys have signed.
    """
    try:
        manifest = read_manifest(command.manifest)
    except Unreadable as exc:
        raise ApprovalsMissing(f"{needs.approvals} of {needs.role} have to agree: {exc}") from exc
    effect = ProtectedEffect(
        step=command.step,
        agent=agent,
        host=command.host,
        action=command.action,
        action_digest=command.action_digest,
        arguments=dict(command.arguments),
    )
    told = (manifest.site, manifest.run, manifest.runbook, manifest.runbook_digest)
    if told != (site, command.run, command.runbook, command.runbook_digest):
        raise ApprovalsMissing("what was agreed to is another run")
    if effect not in manifest.effects:
        raise ApprovalsMissing("what was agreed to does not name this step with these arguments on this host")
    agreed, left_out = count_votes(roster, command.manifest, command.votes, needs.role, labels, now_ms)
    if len(agreed) < needs.approvals:
        why = "; ".join(left_out)
        raise ApprovalsMissing(
            f"{len(agreed)} of {needs.approvals} of {needs.role} have agreed"
            + (f"; not counted: {why}" if why else "")
        )
    return agreed
