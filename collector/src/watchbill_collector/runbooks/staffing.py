"""Whether there are people enough: who may approve what on which host, and what is short when somebody leaves.

Pure, over the newest roster, the bound labels of hosts and what they said they allow. Hosts themselves count by the
roster alone; who is disabled here counts here no more, and on hosts until they have a roster without him.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from watchbill.actions.definition import Action
from watchbill.actions.roster import Person, Roster
from watchbill_collector.runbooks.fleet import Fleet, KnownHost
from watchbill_collector.runbooks.model import Act, Gate, Runbook
from watchbill_collector.runbooks.resolving import acts_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Something that asks for people of a role, how many, and how many there are for it without who leaves."""

    role: str
    needed: int
    left: int

    @property
    def short(self) -> bool:
        """Whether it can be agreed to no more."""
        return self.left < self.needed


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedOnHost(Asked):
    """A protected action of a host."""

    host: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedByRunbook(Asked):
    """What of a runbook is hardest to agree to: a gate, or an action on a host."""

    runbook: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Staff:
    """Who may approve now: people of the roster who were not let out."""

    people: tuple[Person, ...]

    def count(self, role: str, labels: Mapping[str, str] | None = None) -> int:
        """So many people of a role; with `labels`, on a host that has them."""
        return sum(role in one.roles and (labels is None or one.covers(labels)) for one in self.people)


def staff(roster: Roster | None, out: Iterable[str], now_ms: int) -> Staff:
    """`out`: who was disabled, in small letters."""
    if roster is None or roster.fault(now_ms):
        return Staff(people=())
    gone = frozenset(out)
    return Staff(
        people=tuple(
            one
            for one in roster.people
            if one.name.lower() not in gone and not (one.expires_ms and now_ms >= one.expires_ms)
        )
    )


def on_roster(roster: Roster | None, name: str) -> Person | None:
    """Somebody by the name of his user, which is the same in capitals and small letters."""
    people = roster.people if roster is not None else ()
    return next((one for one in people if one.name.lower() == name.lower()), None)


def still_on_roster(roster: Roster | None, disabled: frozenset[str]) -> tuple[str, ...]:
    """People whom hosts would still count although they are disabled here."""
    people = roster.people if roster is not None else ()
    return tuple(one.name for one in people if one.name.lower() in disabled)


def hosts_without(person: Person, rest: Staff, fleet: Fleet) -> list[AskedOnHost]:
    """The protected actions that somebody may approve, by host and name, and who is left for them."""
    return [
        AskedOnHost(
            host=host.name,
            action=action.name,
            role=action.needs.role,
            needed=action.needs.approvals,
            left=rest.count(action.needs.role, host.labels),
        )
        for _, host in sorted(fleet.hosts.items())
        for action in _approves(person, host)
    ]


def _approves(person: Person, host: KnownHost) -> Iterator[Action]:
    if not person.covers(host.labels):
        return
    for _, action in sorted((host.actions or {}).items()):
        if action.protected and action.needs.role in person.roles:
            yield action


def runbooks_without(
    person: Person, rest: Staff, fleet: Fleet, books: Mapping[str, Runbook]
) -> list[AskedByRunbook]:
    """The runbooks that ask for one of somebody's roles, each with what of it is hardest to agree to."""
    found = []
    for name, book in sorted(books.items()):
        asked = sorted(
            (one for one in _asks(name, book, rest, fleet) if one.role in person.roles),
            key=lambda one: (one.left - one.needed, one.where),
        )
        found += asked[:1]
    return found


def _asks(name: str, book: Runbook, rest: Staff, fleet: Fleet) -> Iterator[AskedByRunbook]:
    for step in book.walk():
        if isinstance(step.what, Gate):
            role, count = step.what.role, step.what.count
            yield AskedByRunbook(
                runbook=name, where=f"gate {step.id}", role=role, needed=count, left=rest.count(role)
            )
    for _, step_id, act in acts_of(book, drill=False):
        for host in _candidates(act, fleet):
            needs = (host.actions or {})[act.action].needs
            if needs.approvals:
                left = rest.count(needs.role, host.labels)
                where = f"{step_id}: {act.action} on {host.name}"
                yield AskedByRunbook(
                    runbook=name, where=where, role=needs.role, needed=needs.approvals, left=left
                )


def _candidates(act: Act, fleet: Fleet) -> Iterator[KnownHost]:
    """Hosts that an act may be about: a name that is only known in a run may be any host that allows the action."""
    allowing = list(fleet.allowing(act.action))
    if act.on.select:
        selected = {one.name for one in fleet.selected(act.on.select)}
        return (one for one in allowing if one.name in selected)
    if all(one.expression is None and isinstance(one.pieces[0], str) for one in act.on.hosts if one.pieces):
        named = {one.text for one in act.on.hosts}
        return (one for one in allowing if one.name in named)
    return iter(allowing)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleStaff:
    """A role: the people on the host where the fewest may approve, and the most that an action asks for."""

    people: int
    needed: int


def roles(found: Staff, hosts: Iterable[tuple[Mapping[str, str], Iterable[Action]]]) -> dict[str, RoleStaff]:
    """Every role that somebody has or something asks for. `hosts` are bound labels and actions."""
    people: dict[str, int] = {}
    needed: dict[str, int] = {}
    known: dict[tuple[str, frozenset[tuple[str, str]]], int] = {}
    for labels, actions in hosts:
        for action in actions:
            if not action.protected:
                continue
            role = action.needs.role
            place = (role, frozenset(labels.items()))
            if place not in known:
                # Many hosts have the same labels, and each has many actions.
                known[place] = found.count(role, labels)
            people[role] = min(people.get(role, known[place]), known[place])
            needed[role] = max(needed.get(role, 0), action.needs.approvals)
    for role in {role for one in found.people for role in one.roles} - people.keys():
        people[role] = found.count(role)
    return {role: RoleStaff(people=count, needed=needed.get(role, 0)) for role, count in people.items()}
