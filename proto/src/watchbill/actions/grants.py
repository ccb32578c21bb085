"""Approvals: a manifest says what would be done, people sign its digest, and the host that does it looks at both.

A `Manifest` is made when a gate opens: the run, the runbook's digest, the gate, who asked, until when, and every
protected effect behind the gate with host, action, its digest and its arguments. Any change makes another digest, and
so voids the votes. A host runs a protected command only when the manifest names exactly this effect on this host and
enough different people of the wanted role, none of them the one who asked, have said yes to it.

Each effect says how often it may begin (`times`). The host counts in its own ledger, by the agreement and the effect
(`Grant.id`): whoever has the collector's command key can send as many attempts as he likes, and begins no more of them.
What only looks is not counted. Manifests of before this was written (version 1) let each effect begin once.
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
VERSION: Final = 2
UNCOUNTED: Final = 0
"""The `times` of an effect that only looks: as often as it is wanted while the agreement lasts."""
ONCE_EACH: Final = 1
"""What a manifest of version 1 allows, which does not say."""


class ApprovalsMissing(Refused):
    """Not enough people have agreed to what would be run; the text says who was not counted, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedEffect:
    """One thing that would be done. `agent` is the host's identity, `host` its name for people; `times` is how often it
    may begin, UNCOUNTED where it only looks."""

    step: str
    agent: str
    host: str
    action: str
    action_digest: str
    arguments: Mapping[str, Value]
    times: int = ONCE_EACH

    def document(self, version: int = VERSION) -> dict[str, Any]:
        """For the manifest."""
        found = self._what()
        if version > 1:
            found["times"] = self.times
        return found

    @property
    def identity(self) -> bytes:
        """What would be done and where, apart from how often: the same for equal effects."""
        return canonical(self._what())

    def _what(self) -> dict[str, Any]:
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
    """What people agree to. Times are UTC milliseconds of the collector; `requester` is who asked for the run; `asked`
    tells apart the times that they are asked for one thing."""

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
    asked: int = 0
    version: int = VERSION

    def content(self) -> bytes:
        """The canonical bytes that are voted on. Raises Unreadable when they are too many."""
        again = {"asked": self.asked} if self.version > 1 else {}
        found = canonical(
            again
            | {
                "v": self.version,
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
                "effects": [one.document(self.version) for one in self.effects],
            }
        )
        if len(found) > MANIFEST_BYTES_MAX or len(self.effects) > bounds.EFFECTS_MAX:
            raise Unreadable(
                f"{len(self.effects)} protected effects ({len(found)} bytes) behind the gate {self.gate}, wanted at "
                f"most {bounds.EFFECTS_MAX} and {MANIFEST_BYTES_MAX} bytes: part them by a second gate"
            )
        return found

    def times(self, effect: ProtectedEffect) -> int | None:
        """How often an effect may begin by this, None when it is not named. What is named twice may begin as often as
        both say."""
        same = [one.times for one in self.effects if one.identity == effect.identity]
        return sum(same) if same else None


def digest(content: bytes) -> str:
    """What is voted on: SHA-256 of a manifest, in hexadecimal."""
    return hashlib.sha256(b"watchbill/manifest/v1\0" + content).hexdigest()


def read_manifest(content: bytes) -> Manifest:
    """A manifest from its bytes. Raises Unreadable."""
    document = read_canonical(content, MANIFEST_BYTES_MAX)
    try:
        version = int(document["v"])
        if not 1 <= version <= VERSION:
            raise ValueError(f"version {version}, wanted at most {VERSION}")
        return Manifest(
            version=version,
            asked=int(document["asked"]) if version > 1 else 0,
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
                    times=_times(one) if version > 1 else ONCE_EACH,
                )
                for one in document["effects"]
            ),
        )
    except (KeyError, ValueError, TypeError) as exc:
        raise Unreadable(f"a manifest: {exc!r}") from exc


def _times(found: Mapping[str, Any]) -> int:
    times = found["times"]
    if not isinstance(times, int) or isinstance(times, bool) or not UNCOUNTED <= times <= bounds.TIMES_MAX:
        raise ValueError(f"times got {times!a:.20}, wanted a whole number up to {bounds.TIMES_MAX}")
    return times


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What allows a command to begin. `id` names the agreement together with the effect: by it the host counts how
    often it began; `times` is how often it may. Times are UTC milliseconds of the collector."""

    id: str
    times: int
    approvers: frozenset[str]
    opened_ms: int
    expires_ms: int


def grant_id(manifest: bytes, effect: ProtectedEffect) -> str:
    """The name under which a host counts an effect of an agreement."""
    told = digest(manifest).encode("ascii") + b"\0" + effect.identity
    return hashlib.sha256(b"watchbill/grant/v1\0" + told).hexdigest()


def effect_of(command: Command, agent: str) -> ProtectedEffect:
    """What a command does, as manifests name it."""
    return ProtectedEffect(
        step=command.step,
        agent=agent,
        host=command.host,
        action=command.action,
        action_digest=command.action_digest,
        arguments=dict(command.arguments),
    )


def check_command(
    command: Command,
    agent: str,
    site: str,
    needs: Needs,
    roster: Roster,
    labels: Mapping[str, str],
    now_ms: int,
) -> Grant:
    """By what a command is allowed, when enough have agreed for it to run on this host. Raises ApprovalsMissing.

    Called by the runner, which believes nothing but what the roster's keys and people's own keys have signed. How often
    it has begun already is the runner's to know.
    """
    try:
        manifest = read_manifest(command.manifest)
    except Unreadable as exc:
        raise ApprovalsMissing(f"{needs.approvals} of {needs.role} have to agree: {exc}") from exc
    told = (manifest.site, manifest.run, manifest.runbook, manifest.runbook_digest)
    if told != (site, command.run, command.runbook, command.runbook_digest):
        raise ApprovalsMissing("what was agreed to is another run")
    if manifest.expires_ms - manifest.opened_ms > bounds.AGREED_DAYS_MAX * bounds.DAY_MS:
        raise ApprovalsMissing(f"it was agreed to for more than {bounds.AGREED_DAYS_MAX} days, as nothing is")
    effect = effect_of(command, agent)
    times = manifest.times(effect)
    if times is None:
        raise ApprovalsMissing("what was agreed to does not name this step with these arguments on this host")
    agreed, left_out = count_votes(roster, command.manifest, command.votes, needs.role, labels, now_ms)
    if len(agreed) < needs.approvals:
        why = "; ".join(left_out)
        raise ApprovalsMissing(
            f"{len(agreed)} of {needs.approvals} of {needs.role} have agreed"
            + (f"; not counted: {why}" if why else "")
        )
    return Grant(
        id=grant_id(command.manifest, effect),
        times=times,
        approvers=agreed,
        opened_ms=manifest.opened_ms,
        expires_ms=manifest.expires_ms,
    )
